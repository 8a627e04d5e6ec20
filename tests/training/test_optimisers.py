"""Schedules and averages against closed forms, diffusers' EMAModel, the explicit weighted mean."""

import math

import pytest
import torch
from diffusers.training_utils import EMAModel
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from limner.contract.errors import LimnerError
from limner.training import optimisers

NAMES = st.sampled_from(["constant", "warmup", "power"])


def averaged(values: list[float], name: str, ema: float, start: float = 0.0) -> float:
    """The average after it followed a weight through these values."""
    average, beta = torch.tensor([start], dtype=torch.float64), optimisers.average_beta(name, ema)
    for t, value in enumerate(values):
        optimisers.lerp_([average], [torch.tensor([value], dtype=torch.float64)], beta(t))
    return average.item()


@given(NAMES, st.floats(0.01, 0.28), st.floats(-5, 5), st.integers(1, 50))
def test_the_average_of_a_constant_is_the_constant(name, ema, value, n):
    assert averaged([value] * n, name, ema, start=value) == pytest.approx(value)


@given(st.floats(0, 0.999), st.integers(1, 100))
def test_from_zero_to_one_after_n_updates(beta, n):
    assert averaged([1.0] * n, "constant", beta) == pytest.approx(1 - beta**n)


def test_the_warm_up_is_diffusers():
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(5))
    theirs = EMAModel([weight], decay=0.9, use_ema_warmup=True, power=2 / 3)
    ours, beta = torch.zeros(5), optimisers.average_beta("warmup", 0.9)
    for t in range(60):
        weight.data = torch.randn(5)
        theirs.step([weight])
        optimisers.lerp_([ours], [weight.data], beta(t))
        assert theirs.cur_decay_value == pytest.approx(beta(t))
        torch.testing.assert_close(ours, theirs.shadow_params[0], atol=1e-6, rtol=1e-5)
    assert beta(59) == 0.9


@pytest.mark.parametrize("sigma_rel, gamma", [(0.05, 16.97), (0.10, 6.94)])
def test_power_function_averages(sigma_rel, gamma):
    """The paper's two widths and their exponents, and the weights i^g+1 - (i-1)^g+1 written out."""
    exponent = optimisers._gamma(sigma_rel)
    assert exponent == pytest.approx(gamma, abs=0.01)
    width = math.sqrt((exponent + 1) / ((exponent + 2) ** 2 * (exponent + 3)))
    assert width == pytest.approx(sigma_rel)
    values = torch.randn(200, dtype=torch.float64).tolist()
    shares = [((i + 1) / 200) ** (exponent + 1) - (i / 200) ** (exponent + 1) for i in range(200)]
    explicit = sum(share * value for share, value in zip(shares, values))
    assert averaged(values, "power", sigma_rel, start=99.0) == pytest.approx(explicit)
    # the standard deviation of the profile over time is sigma_rel of the training's length
    mean = sum(share * i for i, share in enumerate(shares))
    spread = math.sqrt(sum(share * (i - mean) ** 2 for i, share in enumerate(shares)))
    assert spread / 200 == pytest.approx(sigma_rel, rel=0.03)


def test_averages_out_of_range():
    with pytest.raises(LimnerError, match=r"train\.ema=1"):
        optimisers.average_beta("constant", 1.0)
    with pytest.raises(LimnerError, match=r"above 0 and below 0\.289"):
        optimisers.average_beta("power", 0.3)
    assert optimisers.average_beta("constant", 0.0)(5) == 0


def test_schedules():
    rates = [optimisers.rate(step, 100, schedule="cosine", warmup=10) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[50] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert [optimisers.rate(step, 9, warmup=4) for step in (0, 1, 3, 8)] == [0.25, 0.5, 1, 1]
    line = [optimisers.rate(step, 200, schedule="linear") for step in (0, 99, 100, 101, 150, 199)]
    assert line == pytest.approx([1, 1, 1, 0.99, 0.5, 0.01])


@pytest.mark.parametrize("name", ["adamw", "adam", "rmsprop"])
def test_optimisers_go_downhill_and_adam_is_its_paper(name):
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    opt = optimisers.optimizer(name, [weight], lr=0.1, betas=(0.5, 0.9), weight_decay=0.0)
    weight.square().sum().backward()
    opt.step()
    # the first step is lr sign(gradient) for Adam, lr sign / sqrt(1 - beta_2) for RMSProp
    length = 0.1 / math.sqrt(1 - 0.9) if name == "rmsprop" else 0.1
    expected = torch.tensor([1.0 - length, -2.0 + length])
    torch.testing.assert_close(weight.detach(), expected, atol=1e-4, rtol=0)


def test_decoupled_weight_decay():
    weight = nn.Parameter(torch.ones(1))
    opt = optimisers.optimizer("adamw", [weight], lr=0.1, betas=(0.9, 0.999), weight_decay=0.5)
    weight.grad = torch.zeros(1)
    opt.step()
    assert weight.item() == pytest.approx(1 - 0.1 * 0.5)
