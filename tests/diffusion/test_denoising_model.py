"""Logged errors of a denoiser in training, and their weights."""

from typing import Any

import pytest
import torch

from limner.contract.image import ImageSpec
from limner.contract.noise import Noise
from limner.contract.registry import build
from limner.diffusion.ddpm import DDPM
from limner.diffusion.denoising_model import errors_by_time
from limner.maths.denoisers import Prediction
from limner.testing.cases import toy_data

SPEC = ImageSpec(1, 4, 4)
TINY: dict[str, Any] = {"channels": (4,), "attention": 0, "T": 50}


def test_errors_are_logged_by_quarters_of_time():
    error = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 1, 2, 2)
    t = torch.tensor([0.7, 0.1, 0.8, 0.2, 0.3, 0.9, 0.4, 0.6])
    errors = errors_by_time(error, t)
    assert {k: float(v) for k, v in errors.items()} == {
        "error_1_of_4": (1 + 3) / 2,
        "error_2_of_4": (4 + 6) / 2,
        "error_3_of_4": (7 + 0) / 2,
        "error_4_of_4": (2 + 5) / 2,
    }
    assert errors_by_time(error[:3], t[:3]) == {}
    model = build("flow-matching", SPEC, channels=(4,), attention=0)
    (turn,) = model.turns(toy_data(SPEC, 0, 8), 0, Noise.keyed(0, 0, range(8)))
    mean = torch.stack(list(turn.logs.values())).mean()
    torch.testing.assert_close(mean, turn.loss.detach())


@pytest.mark.parametrize("prediction", ["epsilon", "x", "v"])
def test_min_snr_limits_the_weight_for_every_prediction(prediction: Prediction):
    """The loss is E min(SNR, 5) |x_hat - x|^2 for all three predictions."""
    model = DDPM(SPEC, prediction=prediction, min_snr=5.0, **TINY).double()
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    batch = toy_data(SPEC, 0, 16)
    batch = batch._replace(x=batch.x.double())
    (turn,) = model.turns(batch, 0, Noise.keyed(0, 0, range(16)))
    e = model.example(batch, Noise.keyed(0, 0, range(16)))
    x_hat = model.combine(model.output(e.x_t, e.t, e.c), e.x_t, e.t)
    alpha, sigma = model.schedule(e.t)
    weight = (alpha / sigma).square().clamp(max=5).view(-1, 1, 1, 1)
    assert 0 < int((weight == 5).sum()) < 16
    expected = (weight * (x_hat - batch.x).square()).mean()
    torch.testing.assert_close(turn.loss, expected, rtol=1e-4, atol=1e-6)
