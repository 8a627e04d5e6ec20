"""The schedule and sampler of the paper on classifier-free guidance, against its formulas."""

import math

import pytest
import torch
from analytic import Constant, Fixed, one_step, pictures, time
from torch import nn
from toy import SPEC, colours_are_right, one_thread, trained

from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec
from limner.contract.noise import Noise
from limner.diffusion.classifier_free import ClassifierFree
from limner.maths.samplers.ancestral import Ancestral
from limner.maths.schedules import LogSNR

SCHEDULE = LogSNR()


def test_the_log_snr_has_its_range_and_hyperbolic_secant_distribution():
    """P(l) on [least, greatest] is sech(l / 2) / (2 pi), section 2."""
    ends = SCHEDULE.log_snr(torch.tensor([0.0, 1.0]).double())
    assert ends.tolist() == pytest.approx([20.0, -20.0], abs=1e-6)
    narrow = ClassifierFree(ImageSpec(1, 4, 4), channels=(4,), least=-3.0, greatest=5.0).schedule
    assert narrow.log_snr(torch.tensor([0.0, 1.0]).double()).tolist() == pytest.approx([5.0, -3.0])
    model = ClassifierFree(ImageSpec(1, 4, 4), channels=(4,))
    l_drawn = SCHEDULE.log_snr(model.draw_times(Noise.keyed(0, 0, torch.arange(40_000))))
    edges = torch.linspace(-6, 6, 13).double()
    counts = torch.histogram(l_drawn, edges).hist
    cumulative = 2 / math.pi * (edges / 2).exp().atan()
    expected = 40_000 * cumulative.diff()
    chi = ((counts - expected) ** 2 / expected).sum()
    assert float(chi) < 32.9, "above the 0.999 quantile of chi-squared with 12 degrees of freedom"


@pytest.mark.parametrize("v", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("t", "s"), [(0.9, 0.8), (0.5, 0.4), (0.2, 0.01)])
def test_a_step_has_the_mean_and_variance_of_equations_3_and_4(v, t, s):
    """mu~ = e^(l-l') (a'/a) z + (1 - e^(l-l')) a' x~; var (1 - e^(l-l')) sigma'^2 or sigma^2."""
    l_t, l_s = (float(SCHEDULE.log_snr(time(value))) for value in (t, s))
    ratio = math.exp(l_t - l_s)
    alpha, alpha_ = (math.sqrt(1 / (1 + math.exp(-value))) for value in (l_t, l_s))
    sigma, sigma_ = (math.sqrt(1 / (1 + math.exp(value))) for value in (l_t, l_s))
    x, z = 0.3, pictures(-1.2, 0.4)
    mean = ratio * alpha_ / alpha * z + (1 - ratio) * alpha_ * x
    variance = ((1 - ratio) * sigma_**2) ** (1 - v) * ((1 - ratio) * sigma**2) ** v
    D = Constant(SCHEDULE, pictures(x))
    for eps in (0.0, 1.0):
        step = one_step(Ancestral(v), D, z, time(t), time(s), Fixed(2, eps))
        torch.testing.assert_close(step.x, mean + eps * math.sqrt(variance), rtol=1e-9, atol=1e-9)


def test_the_last_step_returns_the_predicted_picture():
    D = Constant(SCHEDULE, pictures(0.3))
    step = one_step(Ancestral(0.3), D, pictures(0.9), time(0.1), time(0.0), Fixed(1, 1.0))
    torch.testing.assert_close(step.x, pictures(0.3))


def test_a_reversed_range_is_refused():
    with pytest.raises(LimnerError, match=r"model\.least=20 must be below model\.greatest=-20"):
        ClassifierFree(ImageSpec(1, 4, 4), channels=(4,), least=20.0, greatest=-20.0)


def test_the_default_variance_is_the_models():
    model = ClassifierFree(ImageSpec(1, 4, 4), channels=(4,), variance=0.6)
    default = model.sample(2, steps=5)
    torch.testing.assert_close(default, model.sample(2, steps=5, variance=0.6), rtol=0, atol=1e-5)
    assert not torch.equal(default, model.sample(2, steps=5, variance=0.0))


class GaussianNoise(nn.Module):
    """The expected noise if each number is N(0.2, 0.3): sigma (z - 0.2 alpha) / Var z."""

    def forward(self, z, label, c):
        alpha, sigma = ((sign * label / 50).sigmoid().sqrt().view(-1, 1, 1, 1) for sign in (-1, 1))
        return sigma * (z - 0.2 * alpha) / (0.3 * alpha**2 + sigma**2)


def test_the_likelihood_of_gaussian_pictures():
    model = ClassifierFree(ImageSpec(1, 1, 2), channels=(4,), patch=1)
    model.network = GaussianNoise()
    x = torch.tensor([-201, -5, 77, 3, 111, 255], dtype=torch.float64).view(3, 1, 1, 2) / 255
    expected = torch.distributions.Normal(0.2, 0.3**0.5).log_prob(x) + math.log(2 / 255)
    nats, kind, _ = model.log_prob(x, noise=Noise.sampling(0, 3))
    assert kind == "lower" and "exact divergence" in model.likelihood_protocol()
    torch.testing.assert_close(nats, expected.sum((1, 2, 3)), rtol=0, atol=0.05)


def test_a_tiny_one_learns_the_colour_of_each_class():
    with one_thread():
        torch.manual_seed(0)
        model = trained(ClassifierFree(SPEC, channels=(16,), prediction="v"))
        assert colours_are_right(model, steps=40)
