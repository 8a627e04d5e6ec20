"""EDM: unit variance of inputs and targets, the noise in training, the deviation of the data."""

import math

import pytest
import torch
from analytic import NOTHING, Constant, Fixed, Gaussian, Peer, one_step, pictures, time, trajectory
from diffusers import EDMEulerScheduler
from toy import SPEC, batches, colours_are_right, one_thread, trained

from limner.contract.image import Batch, Condition, ImageSpec
from limner.contract.noise import Noise
from limner.diffusion.edm import EDM
from limner.maths.denoisers import edm, target_weights
from limner.maths.samplers.heun import Heun
from limner.maths.schedules import VarianceExploding

EXPLODING = VarianceExploding()
SIGMAS = torch.logspace(-3, 2, 21, dtype=torch.float64)
every_deviation = pytest.mark.parametrize("sigma_data", [0.3, 0.5, 1.7])


def coefficients(sigma_data):
    levels = VarianceExploding()(SIGMAS)
    k = edm(sigma_data)(*levels)
    return k, *target_weights(*levels, k)


@every_deviation
def test_the_coefficients_equal_table_1(sigma_data):
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
    """D = c_skip x_t, as of a new network, is E[x | x_t] of N(0, sigma_data^2)."""
    model = EDM(ImageSpec(1, 4, 4), channels=(4,), sigma_data=0.3)
    for sigma in SIGMAS:
        x_t = torch.randn(3, 1, 4, 4) * float(sigma)
        skip = float(0.09 / (0.09 + sigma**2))
        x_hat = model(x_t, sigma, Condition()).x_hat.detach()
        torch.testing.assert_close(x_hat, skip * x_t, rtol=1e-6, atol=0)
    n = 2000
    x = 0.3 * Noise.sampling(3, n).normal(1, 4, 4)
    (turn,) = model.turns(Batch(x, Condition()), 0, Noise.keyed(0, 0, torch.arange(n)))
    assert float(turn.loss.detach()) == pytest.approx(1, abs=3 * math.sqrt(2 / x.numel()))


def test_training_noise_is_log_normal():
    model, n = EDM(ImageSpec(1, 4, 4), channels=(4,)), 20_000
    logs = model.draw_times(Noise.keyed(0, 0, torch.arange(n))).log()
    assert float(logs.mean()) == pytest.approx(-1.2, abs=3 * 1.2 / math.sqrt(n))
    assert float(logs.std()) == pytest.approx(1.2, abs=3 * 1.2 / math.sqrt(2 * n))


def test_the_deviation_of_the_data_is_measured_unless_given():
    x = torch.cat([batches(i * 32, 32).x for i in range(16)])

    def source():
        return (batches(i * 32, 32) for i in range(100))

    model = EDM(SPEC, channels=(4,))
    model.prepare(source())
    assert float(model.sigma_data) == pytest.approx(float(x.double().std()), rel=1e-9)
    fixed = EDM(SPEC, channels=(4,), sigma_data=0.7)
    fixed.prepare(source())
    assert float(fixed.sigma_data) == 0.7
    assert "sigma_data" in model.state_dict()


@pytest.mark.parametrize("low", [0.0, 3.0])
def test_a_churned_step_is_algorithm_2(low):
    """Outside [S_tmin, S_tmax] it is a step of algorithm 1 without noise."""
    D, x, t, s, z = Gaussian(EXPLODING, 0.1, 0.25), pictures(1.5, -0.4), 2.0, 1.2, 0.7
    t_hat = t * (1 + 3.0 / 10) if low < t else t
    x_ = x + math.sqrt(t_hat**2 - t**2) * 1.1 * z
    d = (x_ - D.expected(x_, time(t_hat), NOTHING)) / t_hat
    end = x_ + (s - t_hat) * d
    d_ = (end - D.expected(end, time(s), NOTHING)) / s
    sampler = Heun(3.0, churn_interval=(low, 4.0), churn_noise=1.1)
    step = one_step(sampler.for_steps(10), D, x, time(t), time(s), Fixed(2, z))
    torch.testing.assert_close(step.x, x_ + (s - t_hat) * (d + d_) / 2, rtol=0, atol=1e-12)


def test_an_edit_churns_like_the_last_steps_of_a_full_walk():
    """gamma depends on the number of steps of the full walk, not on those that the edit takes."""
    model, sigmas = EDM(SPEC, channels=(4,)).eval(), []
    model.network.register_forward_pre_hook(
        lambda _, args: sigmas.append(float((args[1][0] * 4 / 1000).exp()))
    )
    model.sample(1, steps=18, churn=4.0)
    full, sigmas[:] = sigmas[:], []
    list(model.edit(torch.zeros(1, *SPEC.shape), strength=0.5, steps=18, churn=4.0))
    assert len(full) == 35 and len(sigmas) == 17
    assert sigmas == pytest.approx(full[-17:], rel=1e-12)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_churn_equals_that_of_diffusers():
    """With a constant denoiser, Heun's step equals Euler's."""
    peer = EDMEulerScheduler()
    peer.set_timesteps(18)
    peer.sigmas = peer.sigmas.double()
    x_hat = torch.full((2, 1, 2, 2), 0.3, dtype=torch.float64)
    x, generator = 80 * torch.randn(x_hat.shape).double(), torch.Generator().manual_seed(0)
    sampler = Heun(5.0, churn_interval=(0.05, 50.0), churn_noise=1.003)
    ours = trajectory(sampler, Constant(EXPLODING, x_hat), x, peer.sigmas, Peer(2))
    for k, actual in zip(peer.timesteps, ours, strict=True):
        peer.scale_model_input(x, k)
        x = peer.step(
            x_hat, k, x, s_churn=5.0, s_tmin=0.05, s_tmax=50.0, s_noise=1.003,
            generator=generator, pred_original_sample=x_hat,
        ).prev_sample  # fmt: skip
        torch.testing.assert_close(actual, x, rtol=1e-6, atol=2e-5)  # x starts near 80 in float32


def test_a_tiny_one_learns_the_colour_of_each_class():
    with one_thread():
        torch.manual_seed(0)
        model = trained(EDM(SPEC, channels=(16,)))
        assert colours_are_right(model)
        assert colours_are_right(model, churn=10.0, scale=1.5)
        assert colours_are_right(model, sampler="dpm++", steps=20)
