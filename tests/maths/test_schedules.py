"""Schedules: the Markov chain behind them, and diffusers' tables."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from diffusers.schedulers.scheduling_ddpm import betas_for_alpha_bar
from diffusers.training_utils import compute_snr
from hypothesis import given
from hypothesis import strategies as st

from limner.contract.errors import LimnerError
from limner.maths.schedules import (
    DiscreteSchedule,
    LinearPath,
    LogSNR,
    VarianceExploding,
    cosine_betas,
    linear_betas,
    log_snr_betas,
    sigmoid_betas,
    zero_terminal,
)

BETAS = {
    "linear": linear_betas,
    "cosine": cosine_betas,
    "sigmoid": sigmoid_betas,
    "log-snr": log_snr_betas,
}
SCHEDULES = {
    "linear": DiscreteSchedule(linear_betas()),
    "cosine": DiscreteSchedule(cosine_betas()),
    "sigmoid": DiscreteSchedule(sigmoid_betas()),
    "short": DiscreteSchedule(linear_betas(20)),
    "steps of log-snr": DiscreteSchedule(log_snr_betas()),
    "log-snr": LogSNR(),
    "line": LinearPath(),
    "shifted line": LinearPath(3.0),
    "exploding": VarianceExploding(),
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


@pytest.mark.parametrize("betas", BETAS.values(), ids=BETAS)
@pytest.mark.parametrize("T", [7, 1000])
def test_T_one_step_kernels_compose_to_the_closed_form(betas, T):
    """x_k = sqrt(1 - beta) x_{k-1} + sqrt(beta) z, repeated k times, is alpha x + sigma eps."""
    schedule = DiscreteSchedule(betas(T))
    picture, variance = 1.0, 0.0
    for k, beta in enumerate(betas(T).tolist(), start=1):
        picture, variance = math.sqrt(1 - beta) * picture, (1 - beta) * variance + beta
        alpha, sigma = schedule(torch.tensor(k / T, dtype=torch.float64))
        assert float(alpha) == pytest.approx(picture, rel=1e-11)
        assert float(sigma) == pytest.approx(math.sqrt(variance), rel=1e-11)


@every_schedule
def test_the_signal_to_noise_ratio_falls_along_the_path(schedule):
    t = torch.linspace(0, 1, 3001, dtype=torch.float64)[1:] * schedule.prior_deviation
    alpha, sigma = schedule(t)
    assert (alpha.diff() <= 0).all()
    assert (sigma.diff() > 0).all()
    assert ((alpha / sigma).diff() < 0).all()
    assert (schedule.label(t).diff() > 0).all()


@given(st.floats(0, 1), st.sampled_from(["linear", "cosine", "short"]))
def test_variance_is_preserved_between_steps(t, name):
    alpha, sigma = SCHEDULES[name](torch.tensor(t, dtype=torch.float64))
    assert float(alpha**2 + sigma**2) == pytest.approx(1, abs=1e-14)


@every_schedule
@pytest.mark.parametrize("steps", [1, 2, 7, 20, 60])
def test_a_sampler_visits_falling_times_from_noise_to_picture(schedule, steps):
    times = schedule.times(steps)
    assert len(times) == steps + 1
    assert times.dtype == torch.float64
    assert (times.diff() < 0).all()
    alpha, sigma = schedule(times)
    assert float(times[0]) == pytest.approx(schedule.prior_deviation)
    assert float(alpha[-1]) == 1
    assert float(sigma[-1]) == 0


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_shifted_times_equal_diffusers(shift):
    times = torch.linspace(1, 0, 8, dtype=torch.float64)
    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(sigmas=times[:-1].tolist())
    torch.testing.assert_close(LinearPath(shift).times(7).float(), theirs.sigmas)


def test_a_given_shift_replaces_that_of_the_path():
    torch.testing.assert_close(LinearPath(3.0).times(7, shift=6.0), LinearPath(6.0).times(7))
    times = LinearPath(3.0).times(7, shift=6.0)
    torch.testing.assert_close(
        times[3], torch.tensor(6 * 4 / 7 / (1 + 5 * 4 / 7), dtype=torch.float64)
    )


@pytest.mark.parametrize("schedule", [SCHEDULES["linear"], VarianceExploding()])
def test_a_shift_needs_a_straight_path(schedule):
    with pytest.raises(LimnerError, match="shift is for straight paths"):
        schedule.times(18, shift=2.0)
    with pytest.raises(LimnerError, match="spacing is for models with discrete steps"):
        LinearPath().times(18, "trailing", 2.0)


def test_a_discrete_schedule_visits_only_its_own_steps():
    schedule = SCHEDULES["short"]
    assert (schedule.times(20) * 20).tolist() == pytest.approx(list(range(20, -1, -1)))
    assert (schedule.times(7) * 20).tolist() == pytest.approx([20, 17, 14, 11, 9, 6, 3, 0])


def test_the_final_alpha_bar_of_linear_betas():
    """alpha-bar_T = 4.036e-5, so the prior term of a pixel at 1 or -1 is 2.911e-5 bits."""
    alpha, sigma = SCHEDULES["linear"](torch.tensor(1.0, dtype=torch.float64))
    assert float(alpha**2) == pytest.approx(4.036e-5, rel=1e-3)
    bits = 0.5 * (alpha**2 + sigma**2 - 1 - 2 * sigma.log()) / math.log(2)
    assert float(bits) == pytest.approx(2.911e-5, rel=1e-3)


def test_betas_end_at_about_the_same_noise_for_any_number_of_steps():
    expected = SCHEDULES["linear"](torch.ones((), dtype=torch.float64))[0].log()
    for T in (100, 300, 4000):
        assert float(linear_betas(T).sum()) == pytest.approx(float(linear_betas().sum()), rel=0.01)
        short = DiscreteSchedule(linear_betas(T))(torch.ones((), dtype=torch.float64))[0].log()
        assert float(short) == pytest.approx(float(expected), rel=0.15)


@pytest.mark.parametrize("betas", [linear_betas, cosine_betas, sigmoid_betas])
@pytest.mark.parametrize("T", [1, 2, 3])
def test_the_last_of_few_steps_leaves_almost_only_noise(betas, T):
    alpha, _ = DiscreteSchedule(betas(T))(torch.ones((), dtype=torch.float64))
    assert float(alpha) < 0.04


@pytest.mark.parametrize("T", [10, 1000])
def test_cosine_betas_equal_diffusers(T):
    theirs = betas_for_alpha_bar(T, alpha_transform_type="cosine")
    torch.testing.assert_close(cosine_betas(T).float(), theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("T", [10, 1000])
def test_sigmoid_betas_equal_the_closed_form(T):
    """gamma(t) of the paper's code with sigmoid written out, up to the limit of beta."""

    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    def gamma(t):
        return (sigmoid(3) - sigmoid(6 * t - 3)) / (sigmoid(3) - sigmoid(-3))

    betas = sigmoid_betas(T).tolist()
    expected = [min(1 - gamma((k + 1) / T) / gamma(k / T), 0.999) for k in range(T)]
    assert betas == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("T", [2, 10, 1000])
def test_log_snr_betas_lower_log_snr_equally_at_each_step(T):
    schedule = DiscreteSchedule(log_snr_betas(T))
    alpha, sigma = schedule((torch.arange(T, dtype=torch.float64) + 1) / T)
    ratio = 2 * (alpha / sigma).log()
    torch.testing.assert_close(ratio, torch.linspace(13.3, -5, T).double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("betas", BETAS.values(), ids=BETAS)
@pytest.mark.parametrize("T", [2, 1000])
def test_zero_terminal_betas_equal_diffusers(betas, T):
    ours = zero_terminal(betas(T))
    torch.testing.assert_close(ours, rescale_zero_terminal_snr(betas(T)), rtol=1e-12, atol=1e-15)
    assert float(ours[0]) == pytest.approx(float(betas(T)[0]), rel=1e-11)
    schedule = DiscreteSchedule(ours)
    alpha, sigma = schedule(torch.tensor([1.0, 1 - 1e-4 / T, 1 - 1 / T], dtype=torch.float64))
    assert alpha[:2].tolist() == [0, 0] and sigma[:2].tolist() == [1, 1]
    assert float(alpha[2] ** 2) == pytest.approx(float((1 - ours[:-1]).prod()), rel=1e-9)
    assert schedule.ends.tolist() == [1 / T, (T - 1) / T]


@pytest.mark.parametrize("steps", [1, 19, 20, 21, 50])
def test_more_steps_than_the_schedule_has_start_at_pure_noise_once(steps):
    schedule = DiscreteSchedule(zero_terminal(linear_betas(20)))
    times = schedule.times(steps)
    alpha, _ = schedule(times)
    assert len(times) == steps + 1 and (times.diff() < 0).all()
    assert times[0] == 1 and times[-1] == 0 and (alpha == 0).sum() == 1


def test_schedules_with_two_ends_need_at_least_two_steps():
    with pytest.raises(LimnerError, match="give T=2 or more"):
        zero_terminal(linear_betas(1))
    with pytest.raises(LimnerError, match="give T=2 or more"):
        log_snr_betas(1)


@pytest.mark.parametrize(
    ("spacing", "theirs"),
    [("leading", "leading"), ("trailing", "trailing"), ("uniform", "linspace")],
)
@pytest.mark.parametrize("steps", [10, 15, 50, 1000])
def test_spacings_equal_diffusers(spacing, theirs, steps):
    """diffusers counts steps from 0 and rounds halves differently."""
    peer = DDIMScheduler(timestep_spacing=theirs)
    peer.set_timesteps(steps)
    ours = 1000 * SCHEDULES["linear"].times(steps, spacing)
    difference = ours[:-1].round().long() - 1 - torch.as_tensor(peer.timesteps)
    assert difference.abs().max() <= (spacing != "leading" and 1000 % steps > 0)


def test_a_quadratic_spacing_visits_each_square_once():
    schedule = SCHEDULES["linear"]
    k = (1000 * schedule.times(11, "quadratic")).round().long().tolist()
    assert k == [1 + round(999 * (i / 10) ** 2) for i in range(10, -1, -1)] + [0]
    many = schedule.times(900, "quadratic")
    assert (many.diff() < 0).all() and float(many[0]) == 1


def test_a_spacing_needs_a_schedule_with_enough_discrete_steps():
    with pytest.raises(LimnerError, match="there are only 20"):
        SCHEDULES["short"].times(21, "leading")
    with pytest.raises(LimnerError, match="spacing is for models with discrete steps"):
        VarianceExploding().times(18, "leading")


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_signal_to_noise_ratio_equals_diffusers(name):
    schedule = SCHEDULES[name]
    k = torch.arange(1000)

    class Tables:
        alphas_cumprod = torch.cumprod(1 - BETAS[name](), 0)

    alpha, sigma = schedule((k + 1).double() / 1000)
    torch.testing.assert_close(
        ((alpha / sigma) ** 2).float(), compute_snr(Tables, k), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("steps", [2, 18, 50])
def test_the_times_of_edm_equal_the_papers_and_diffusers(steps):
    times = VarianceExploding(0.002, 80, 7).times(steps)
    for i in range(steps):
        share = i / (steps - 1)
        root = 80 ** (1 / 7) + share * (0.002 ** (1 / 7) - 80 ** (1 / 7))
        assert float(times[i]) == pytest.approx(root**7, rel=1e-12)
    peer = EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, rho=7.0)
    peer.set_timesteps(steps)
    torch.testing.assert_close(times.float(), peer.sigmas, rtol=1e-5, atol=0)
    ours = VarianceExploding().label(times[:-1]) / 1000
    torch.testing.assert_close(ours.float(), peer.timesteps, rtol=1e-5, atol=1e-6)
