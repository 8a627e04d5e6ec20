"""Averages against closed forms, diffusers' EMAModel, and the explicit weighted mean."""

import math

import pytest
import torch
from diffusers.training_utils import EMAModel
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from limner.contract.errors import LimnerError
from limner.training import averages

NAMES = st.sampled_from(["constant", "warmup", "power"])


def averaged(values: list[float], name: str, ema: float, start: float = 0.0) -> float:
    """Return the average after it followed a weight through these values."""
    average, beta = torch.tensor([start], dtype=torch.float64), averages.average_beta(name, ema)
    for t, value in enumerate(values):
        averages.lerp_([average], [torch.tensor([value], dtype=torch.float64)], beta(t))
    return average.item()


@given(NAMES, st.floats(0.01, 0.28), st.floats(-5, 5), st.integers(1, 50))
def test_the_average_of_a_constant_is_the_constant(name, ema, value, n):
    assert averaged([value] * n, name, ema, start=value) == pytest.approx(value)


@given(st.floats(0, 0.999), st.integers(1, 100))
def test_an_average_goes_from_0_to_1_with_its_formula(beta, n):
    assert averaged([1.0] * n, "constant", beta) == pytest.approx(1 - beta**n)


def test_the_warm_up_equals_diffusers():
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(5))
    theirs = EMAModel([weight], decay=0.9, use_ema_warmup=True, power=2 / 3)
    ours, beta = torch.zeros(5), averages.average_beta("warmup", 0.9)
    for t in range(60):
        weight.data = torch.randn(5)
        theirs.step([weight])
        averages.lerp_([ours], [weight.data], beta(t))
        assert theirs.cur_decay_value == pytest.approx(beta(t))
        torch.testing.assert_close(ours, theirs.shadow_params[0], atol=1e-6, rtol=1e-5)
    assert beta(59) == 0.9


@pytest.mark.parametrize("sigma_rel, exponent_there", [(0.05, 16.97), (0.10, 6.94)])
def test_power_function_averages(sigma_rel, exponent_there):
    """The paper's two widths with their exponents, and weights i^g+1 - (i-1)^g+1 written out."""
    exponent = averages.gamma(sigma_rel)
    assert exponent == pytest.approx(exponent_there, abs=0.01)
    width = math.sqrt((exponent + 1) / ((exponent + 2) ** 2 * (exponent + 3)))
    assert width == pytest.approx(sigma_rel)
    values = torch.randn(200, dtype=torch.float64).tolist()
    shares = [((i + 1) / 200) ** (exponent + 1) - (i / 200) ** (exponent + 1) for i in range(200)]
    expected = sum(share * value for share, value in zip(shares, values))
    assert averaged(values, "power", sigma_rel, start=99.0) == pytest.approx(expected)
    # The standard deviation of the profile over time is sigma_rel times the training's length.
    mean = sum(share * i for i, share in enumerate(shares))
    spread = math.sqrt(sum(share * (i - mean) ** 2 for i, share in enumerate(shares)))
    assert spread / 200 == pytest.approx(sigma_rel, rel=0.03)


def test_averages_out_of_range_are_refused():
    with pytest.raises(LimnerError, match=r"train\.ema=1"):
        averages.average_beta("constant", 1.0)
    for width in (0.0, 0.3):
        with pytest.raises(LimnerError, match=r"above 0 and below 0\.289"):
            averages.average_beta("power", width)
    assert averages.average_beta("constant", 0.0)(5) == 0
