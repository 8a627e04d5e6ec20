"""Drifting: its field for known pictures, and its equilibrium."""

import math

import pytest
import torch

from limner import Condition, ImageSpec, Noise, build
from limner.contract.errors import LimnerError
from limner.contract.image import Batch
from limner.gans.drifting import TAUS, Drifting, drift, field
from limner.testing.cases import toy_data

SPEC = ImageSpec(1, 8, 8, labels=("a", "b"))


def test_the_field_is_a_sum_over_all_pairs():
    """Algorithm 2 written out: the sum over y+ and y- of A(x, y+) A(x, y-) (y+ - y-)."""
    torch.manual_seed(0)
    x, real, fake = (torch.randn(n, 3).double() for n in (4, 5, 6))
    y = torch.cat([real, fake])
    k = (-(x[:, None] - y[None]).norm(dim=2) / 0.7).exp()
    A = (k / k.sum(1, keepdim=True) * k / k.sum(0, keepdim=True)).sqrt()
    expected = torch.zeros_like(x)
    for i in range(4):
        for j in range(5):
            for m in range(6):
                expected[i] += A[i, j] * A[i, 5 + m] * (real[j] - fake[m])
    torch.testing.assert_close(field(x, real, fake, 0.7), expected)


def test_the_field_is_0_for_equal_sets_and_antisymmetric():
    torch.manual_seed(0)
    x, real, fake = (torch.randn(n, 3).double() for n in (4, 5, 5))
    assert float(field(x, real, real[torch.randperm(5)], 0.5).abs().max()) < 1e-12
    torch.testing.assert_close(field(x, real, fake, 0.5), -field(x, fake, real, 0.5))
    assert float(field(x, real, fake, 0.5).abs().max()) > 1e-3


def test_samples_converge_to_both_of_two_points():
    """All samples start together, and half go to each point."""
    real = torch.tensor([[-1.0], [1.0]]).repeat(16, 1)
    x = 0.1 + 0.3 * torch.randn(32, 1, generator=torch.Generator().manual_seed(0))
    same_class = torch.ones(32, 64, dtype=torch.bool)
    first = drift(x, real, same_class).size
    for i in range(150):
        result = drift(x, real, same_class)
        x = x + 0.1 * 0.98**i * result.shift / result.unit
    assert float((x.abs() - 1).abs().mean()) < 0.1
    assert int((x > 0).sum()) == pytest.approx(16, abs=3)
    assert float(drift(x, real, same_class).size) < float(first) / 10


def test_a_sample_is_attracted_only_by_its_own_class():
    x, real = torch.zeros(2, 1), torch.tensor([[1.0], [-1.0]])
    label = torch.tensor([0, 1])
    result = drift(x, real, torch.eye(2, dtype=torch.bool).repeat(1, 2))
    assert torch.equal(result.shift, torch.zeros(2, 1)), "without repulsion there are no pairs"
    four, same_class = torch.zeros(4, 1), (label.repeat(2)[:, None] == label.repeat(3)[None])
    shift = drift(four, real, same_class).shift
    assert torch.equal(shift.sign().flatten(), torch.tensor([1.0, -1.0, 1.0, -1.0]))
    assert 0.9 < float(shift.square().mean()) < len(TAUS) ** 2, "each field must have mean square 1"


def test_the_field_is_computed_in_full_precision_under_autocast():
    torch.manual_seed(0)
    x, real = torch.randn(8, 12), torch.randn(16, 12)
    same_class = torch.ones(8, 24, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        result = drift(x, real, same_class)
    assert all(map(torch.equal, result, drift(x, real, same_class)))


def test_the_loss_is_the_mean_square_of_the_shift():
    model = Drifting(SPEC, latent=4, channels=4)
    batch, n = toy_data(SPEC, 0, 12), 6
    (turn,) = model.turns(batch, 0, Noise.keyed(0, 0, range(12)))
    x = model.paint(Noise.keyed(0, 0, range(n)), batch.c.rows(slice(0, n))).detach()
    label = batch.c.label
    assert label is not None
    same_class = label[:n, None] == torch.cat([label, label[:n]])
    pairs = zip(model.features(x), model.features(batch.x))
    shifts = [drift(phi, real, same_class).shift.square().mean() for phi, real in pairs]
    assert float(turn.loss.detach()) == pytest.approx(float(torch.stack(shifts).mean()), rel=1e-3)


def test_a_generator_learns_the_pictures_of_each_class():
    """Class 0 is dark and class 1 light, each with many shades."""
    torch.manual_seed(0)
    model = Drifting(SPEC, latent=4, channels=8, positives=1)
    adam = torch.optim.AdamW(model.generator.parameters(), lr=1e-2, betas=(0.9, 0.95))
    label, streams = torch.arange(32) % 2, range(32)
    c = Condition(label=label)
    for step in range(80):
        shade = 1.2 * label - 0.6 + 0.4 * Noise.keyed(5, step, streams).normal()
        x = shade.clamp(-1, 1).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
        (turn,) = model.turns(Batch(x, c), step, Noise.keyed(0, step, streams))
        adam.zero_grad()
        turn.loss.backward()
        adam.step()
        assert math.isfinite(float(turn.loss.detach()))
    means = model.paint(Noise.keyed(1, 0, streams), c).detach().mean((1, 2, 3))
    dark, light = means[label == 0], means[label == 1]
    assert float(light.mean() - dark.mean()) > 0.6
    assert min(float(dark.std()), float(light.std())) > 0.1, "a class collapsed to one shade"


def test_a_judge_adds_its_features_and_other_models_are_refused():
    judge = build("lenet", SPEC, channels=(4, 8), hidden=16).eval()
    model = Drifting(SPEC, judge, latent=4, channels=4)
    features = model.features(torch.rand(2, 1, 8, 8))
    assert [part.shape[1] for part in features] == [64, 16, 4, 16]
    assert not any(p is q for p in model.players()["generator"].parameters()
                   for q in judge.parameters())  # fmt: skip
    with pytest.raises(LimnerError, match="gan models see no features; give a judge"):
        Drifting(SPEC, build("gan", SPEC, latent=4, channels=4))
    with pytest.raises(LimnerError, match=r"other channels; give data\.channels"):
        Drifting(ImageSpec(3, 8, 8), judge)
