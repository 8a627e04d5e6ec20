"""The library computes the same whatever defaults of torch a program has set."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch

from limner.contract.checkpoint import load, save_model
from limner.contract.image import Condition, ImageSpec
from limner.contract.likelihood import LikelihoodModel
from limner.contract.model import GenerativeModel
from limner.contract.noise import Noise
from limner.contract.registry import build
from limner.contract.torch_defaults import usual_defaults

CATS_AND_DOGS = ImageSpec(1, 8, 8, labels=("cat", "dog"))


@contextmanager
def default_dtype(dtype: torch.dtype = torch.float64) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def meta() -> torch.device:
    return torch.device("meta")


@pytest.mark.parametrize("mode", [torch.inference_mode, default_dtype, meta])
@pytest.mark.parametrize("name", ["classifier", "edm", "gan"])
def test_a_file_is_loaded_and_paints_alike_under_any_defaults(
    tmp_path: Path, name: str, mode: Callable[[], AbstractContextManager[object]]
) -> None:
    options = {"base": build("ddpm", CATS_AND_DOGS, channels=(4, 8)).description()}
    options = options if name == "classifier" else {}
    save_model(build(name, CATS_AND_DOGS, **options), tmp_path)
    before = load(tmp_path)
    assert isinstance(before, GenerativeModel)
    steps = {"steps": 2} if "steps" in before.sampler_options({}) else {}
    expected = before.sample(2, Condition([0, 1]), **steps)
    with mode():
        model = load(tmp_path)
        assert isinstance(model, GenerativeModel)
        assert model.dtype == torch.float32 and model.device.type == "cpu"
        actual = model.sample(2, Condition(torch.tensor([0, 1], device="cpu")), **steps)
    assert torch.equal(actual, expected)


def test_a_likelihood_that_needs_gradients_is_computed_in_inference_mode() -> None:
    model = build("flow-matching", CATS_AND_DOGS, channels=(4, 8)).eval()
    assert isinstance(model, LikelihoodModel)
    x = torch.zeros(2, 1, 8, 8)
    expected = model.log_prob(x, Condition([0, 1]), noise=Noise.sampling(0, 2)).nats
    with torch.inference_mode():
        actual = model.log_prob(x + 0, Condition([0, 1]), noise=Noise.sampling(0, 2)).nats
    assert torch.equal(actual, expected) and not actual.requires_grad


def test_the_defaults_of_the_program_come_back() -> None:
    with default_dtype(), meta(), torch.inference_mode():
        with usual_defaults():
            x = torch.zeros(1)
            assert (x.dtype, x.device.type, x.is_inference()) == (torch.float32, "cpu", False)
            assert not torch.is_grad_enabled()
        x = torch.zeros(1)
        assert (x.dtype, x.device.type, x.is_inference()) == (torch.float64, "meta", True)
    assert torch.is_grad_enabled()
