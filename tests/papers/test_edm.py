"""EDM: unit inputs, unit targets, unit weights; its noise and its data's deviation."""

import math

import pytest
import torch
from toy import SPEC, batches, colours_are_right, one_thread, trained

from limner.denoising import edm, target_weights
from limner.diffusion.edm import EDM
from limner.image import Batch, Condition, ImageSpec
from limner.noise import Noise
from limner.schedules import VarianceExploding

SIGMAS = torch.logspace(-3, 2, 21, dtype=torch.float64)
every_deviation = pytest.mark.parametrize("sigma_data", [0.3, 0.5, 1.7])


def coefficients(sigma_data):
    levels = VarianceExploding()(SIGMAS)
    k = edm(sigma_data)(*levels)
    return k, *target_weights(*levels, k)


@every_deviation
def test_the_coefficients_are_those_of_table_1(sigma_data):
    k, _, _ = coefficients(sigma_data)
    total = SIGMAS**2 + sigma_data**2
    torch.testing.assert_close(k.skip, sigma_data**2 / total, rtol=1e-12, atol=0)
    torch.testing.assert_close(k.out, SIGMAS * sigma_data / total.sqrt(), rtol=1e-12, atol=0)
    torch.testing.assert_close(k.inn, 1 / total.sqrt(), rtol=1e-12, atol=0)
    label = VarianceExploding().label(SIGMAS)
    torch.testing.assert_close(label, 1000 * SIGMAS.log() / 4, rtol=1e-12, atol=1e-12)


@every_deviation
def test_input_target_and_weight_are_1_at_every_noise_level(sigma_data):
    """Var(c_in x_t) = 1, Var(target of F) = 1, lambda(sigma) c_out^2 = 1 (appendix B.6)."""
    k, a, b = coefficients(sigma_data)
    one = torch.ones_like(SIGMAS)
    torch.testing.assert_close(k.inn**2 * (sigma_data**2 + SIGMAS**2), one, rtol=1e-12, atol=0)
    torch.testing.assert_close(a**2 * sigma_data**2 + b**2, one, rtol=1e-9, atol=0)
    weight = (SIGMAS**2 + sigma_data**2) / (SIGMAS * sigma_data) ** 2
    torch.testing.assert_close(weight * k.out**2, one, rtol=1e-12, atol=0)


def test_on_gaussian_data_the_best_F_is_0():
    """D = c_skip x_t is E[x | x_t] of N(0, sigma_data^2), and that is what a new network does."""
    model = EDM(ImageSpec(1, 4, 4), channels=(4,), sigma_data=0.3)
    for sigma in SIGMAS:
        x_t = torch.randn(3, 1, 4, 4) * float(sigma)
        skip = float(0.09 / (0.09 + sigma**2))
        found = model(x_t, sigma, Condition()).detach()
        torch.testing.assert_close(found, skip * x_t, rtol=1e-6, atol=0)
    n = 2000
    x = 0.3 * Noise.sampling(3, n).normal(1, 4, 4)
    (turn,) = model.turns(Batch(x, Condition()), 0, Noise.keyed(0, 0, torch.arange(n)))
    assert float(turn.loss.detach()) == pytest.approx(1, abs=3 * math.sqrt(2 / x.numel()))


def test_training_noise_is_log_normal():
    model, n = EDM(ImageSpec(1, 4, 4), channels=(4,)), 20_000
    logs = model.draw_times(Noise.keyed(0, 0, torch.arange(n))).log()
    assert float(logs.mean()) == pytest.approx(-1.2, abs=3 * 1.2 / math.sqrt(n))
    assert float(logs.std()) == pytest.approx(1.2, abs=3 * 1.2 / math.sqrt(2 * n))


def test_the_datas_deviation_is_measured_unless_it_is_given():
    x = torch.cat([batches(i * 32, 32).x for i in range(16)])

    def source():
        return (batches(i * 32, 32) for i in range(100))

    model = EDM(SPEC, channels=(4,))
    model.prepare(source())
    assert float(model.sigma_data) == pytest.approx(float(x.double().std()), rel=1e-9)
    given = EDM(SPEC, channels=(4,), sigma_data=0.7)
    given.prepare(source())
    assert float(given.sigma_data) == 0.7
    assert "sigma_data" in model.state_dict()


def test_a_tiny_one_learns_the_colour_of_each_class():
    with one_thread():
        torch.manual_seed(0)
        model = trained(EDM(SPEC, channels=(16,)))
        assert colours_are_right(model)
        assert colours_are_right(model, churn=10.0, scale=1.5)
        assert colours_are_right(model, sampler="dpm++", steps=20)
