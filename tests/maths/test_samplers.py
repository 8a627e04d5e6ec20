"""Samplers against Gaussian algebra, exact flows, and diffusers' schedulers step by step."""

import math
from itertools import pairwise

import pytest
import torch
from analytic import NOTHING, Constant, Fixed, Gaussian, Peer, one_step, pictures, time, trajectory
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

from limner.contract.errors import LimnerError
from limner.contract.noise import Noise
from limner.maths.denoisers import Conditional, Estimate
from limner.maths.samplers.ancestral import Ancestral
from limner.maths.samplers.ddim import DDIM
from limner.maths.samplers.dpm_solver import DPMSolver
from limner.maths.samplers.euler import Euler
from limner.maths.samplers.heun import Heun
from limner.maths.samplers.sampler import SAMPLERS, State
from limner.maths.samplers.unipc import UniPC
from limner.maths.schedules import (
    DiscreteSchedule,
    LinearPath,
    VarianceExploding,
    cosine_betas,
    linear_betas,
    zero_terminal,
)

PRESERVING = DiscreteSchedule(linear_betas())
COSINE = DiscreteSchedule(cosine_betas())
TERMINAL = DiscreteSchedule(zero_terminal(linear_betas()))
LINE = LinearPath()
EXPLODING = VarianceExploding()
SCHEDULES = {
    "linear": PRESERVING,
    "cosine": COSINE,
    "terminal": TERMINAL,
    "line": LINE,
    "exploding": EXPLODING,
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def errors(sampler, D, x, times_of, until=0.0, steps=(16, 32, 64, 128)) -> list[float]:
    """Return the error at the end of the exact flow for each number of steps."""
    result = []
    for n in steps:
        times = times_of(n)
        end = trajectory(sampler, D, x, times)[-1]
        exact = D.exact_flow(x, times[0], times[-1])
        assert float(times[-1]) == until
        result.append(float((end - exact).abs().max()))
    return result


def ratios(values: list[float]) -> list[float]:
    return [first / second for first, second in pairwise(values)]


@every_schedule
@pytest.mark.parametrize(
    ("t", "s"), [(1.0, 0.93), (0.7, 0.4), (0.5, 0.499), (0.2, 0.001), (0.3, 0.0)]
)
def test_ancestral_draws_from_the_posterior_of_the_joint_gaussian(schedule, t, s):
    """The joint law is N((alpha_s x, alpha_t x), [[v, a v], [a v, sigma_t^2]]), v = sigma_s^2."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (map(float, schedule(time(each))) for each in (t, s))
    a, v = alpha_t / alpha_s, sigma_s**2
    x, x_t = 0.3, torch.tensor([-1.3, 0.1, 2.0], dtype=torch.float64).view(3, 1, 1, 1)
    mean = alpha_s * x + a * v / sigma_t**2 * (x_t - alpha_t * x)
    variance = v - (a * v) ** 2 / sigma_t**2
    D = Constant(schedule, pictures(x))
    for z in (0.0, 1.0, -2.0):
        step = one_step(Ancestral(), D, x_t, time(t), time(s), Fixed(3, z))
        expected = mean + z * math.sqrt(max(variance, 0.0))
        torch.testing.assert_close(step.x, expected, rtol=0, atol=1e-9)
        assert torch.equal(step.sketch, D.value.expand_as(x_t))


@pytest.mark.parametrize("v", [0.0, 0.4])
def test_a_given_variance_replaces_the_denoisers_own(v):
    class OwnVariance(Constant):
        def __call__(self, x_t, t, c):
            return Estimate(super().__call__(x_t, t, c).x_hat, torch.ones_like(x_t))

    x_t, value = pictures(-1.3, 0.1, 2.0), pictures(0.3)
    steps = [
        one_step(sampler, D(COSINE, value), x_t, time(0.7), time(0.4), Fixed(3, 1.0)).x
        for sampler, D in (
            (Ancestral(v), OwnVariance),
            (Ancestral(v), Constant),
            (Ancestral(), OwnVariance),
            (Ancestral(1.0), Constant),
        )
    ]
    torch.testing.assert_close(steps[0], steps[1])
    torch.testing.assert_close(steps[2], steps[3])


@every_schedule
@pytest.mark.parametrize("steps", [1000, 37])
def test_ddim_with_eta_1_is_ancestral_sampling(schedule, steps):
    D = Gaussian(schedule, 0.2, 0.4)
    x = schedule.prior_deviation * torch.randn(3, 2, 2, 2, dtype=torch.float64)
    times = schedule.times(steps)
    ancestral, ddim = (
        trajectory(sampler, D, x, times, Noise.sampling(4, 3))
        for sampler in (Ancestral(), DDIM(1.0))
    )
    scale = schedule.prior_deviation
    torch.testing.assert_close(torch.stack(ddim), torch.stack(ancestral), rtol=0, atol=1e-9 * scale)


@every_schedule
def test_deterministic_samplers_draw_no_noise(schedule):
    D = Gaussian(schedule)
    x = schedule.prior_deviation * torch.randn(2, 1, 2, 2, dtype=torch.float64)
    for sampler in (DDIM(0.0), Euler(), Heun(), DPMSolver(), DPMSolver(3), UniPC(), UniPC(3)):
        noises = [Noise.sampling(seed, 2) for seed in (0, 1)]
        ends = [trajectory(sampler, D, x, schedule.times(6), noise)[-1] for noise in noises]
        assert torch.equal(*ends)
        assert [noise.draws for noise in noises] == [0, 0]


@every_schedule
def test_euler_is_ddim_without_noise(schedule):
    """Both steps are x_t + (alpha_s - alpha_t) x_hat + (sigma_s - sigma_t) eps_hat."""
    D = Gaussian(schedule)
    x = schedule.prior_deviation * torch.randn(3, 1, 2, 2, dtype=torch.float64)
    times = schedule.times(25)
    euler, ddim = (
        torch.stack(trajectory(sampler, D, x, times)) for sampler in (Euler(), DDIM(0.0))
    )
    torch.testing.assert_close(euler, ddim, rtol=1e-10, atol=1e-10)


def test_euler_on_the_line_moves_along_the_velocity():
    """x_s = x_t + (s - t) v with v = (x_t - x_hat) / t, which is (1 - s) x_hat + s eps_hat."""
    D = Gaussian(LINE)
    x, t, s = pictures(1.3, -0.4), time(0.7), time(0.45)
    x_hat = D.expected(x, t, NOTHING)
    velocity = (x - x_hat) / t
    end = one_step(Euler(), D, x, t, s).x
    torch.testing.assert_close(end, x + (s - t) * velocity, rtol=0, atol=1e-14)
    eps_hat = (x - (1 - t) * x_hat) / t
    torch.testing.assert_close(end, (1 - s) * x_hat + s * eps_hat, rtol=0, atol=1e-14)


def velocity_on_the_line(x: float, u: float, mean: float, variance: float) -> float:
    """v* = mu + (u l - (1 - u)) / (u^2 l + (1 - u)^2) (x - u mu), u from 0 (noise) to 1 (data)."""
    slope = (u * variance - (1 - u)) / (u**2 * variance + (1 - u) ** 2)
    return mean + slope * (x - u * mean)


def heun_in_velocities(x: float, n: int, stop: int) -> float:
    for i in range(stop):
        u, h = i / n, 1 / n
        first = velocity_on_the_line(x, u, 0.7, 2.5)
        second = velocity_on_the_line(x + h * first, u + h, 0.7, 2.5)
        x += h * (first + second) / 2
    return x


NUMBERS = (8, 16, 32, 64)


def test_euler_on_the_line_is_of_first_order():
    result = errors(Euler(), Gaussian(LINE), pictures(1.3), LINE.times, steps=NUMBERS)
    assert result == pytest.approx([3.25e-1, 1.69e-1, 8.61e-2, 4.35e-2], rel=2e-3)
    assert ratios(result) == pytest.approx([2, 2, 2], rel=0.04)


def test_heun_on_the_line_is_heun_in_time_except_for_its_last_step():
    """Its last step, to sigma = 0, is Euler's; with only Heun's, errors are `expected`."""
    exact = 0.7 + math.sqrt(2.5) * 1.3
    expected = [1.18e-2, 2.55e-3, 5.82e-4, 1.39e-4]
    for n, error in zip(NUMBERS, expected):
        assert abs(heun_in_velocities(1.3, n, n) - exact) == pytest.approx(error, rel=5e-3)
        ours = trajectory(Heun(), Gaussian(LINE), pictures(1.3), LINE.times(n))
        assert float(ours[-2]) == pytest.approx(heun_in_velocities(1.3, n, n - 1), abs=1e-12)
    result = errors(Heun(), Gaussian(LINE), pictures(1.3), LINE.times, steps=NUMBERS)
    assert result == pytest.approx([1.911e-2, 4.255e-3, 9.963e-4, 2.406e-4], rel=2e-3)
    assert ratios(result)[-1] == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("sampler", [Heun(), DPMSolver()], ids=["heun", "dpm++"])
def test_second_order_on_a_variance_preserving_schedule(sampler):
    """From t = 1 to 1/4, without the last step of lower order."""
    D = Gaussian(DiscreteSchedule(linear_betas(1024)))

    def times(n):
        return torch.linspace(1, 0.25, n + 1, dtype=torch.float64)

    result = errors(sampler, D, pictures(1.3, -2.0), times, 0.25, (32, 64, 128, 256))
    assert ratios(result)[-1] == pytest.approx(4, rel=0.05)
    assert result[-1] < 1e-4


@pytest.mark.parametrize("sampler", [Heun(), DPMSolver()], ids=["heun", "dpm++"])
def test_second_order_on_edms_times(sampler):
    """From sigma = 80 to 0 at the paper's times, on Gaussian pictures."""
    result = errors(
        sampler,
        Gaussian(EXPLODING, 0.1, 0.25),
        pictures(104.0, -40.0),
        EXPLODING.times,
        steps=(32, 64, 128, 256),
    )
    assert ratios(result)[-1] == pytest.approx(4, rel=0.06)
    assert result[-1] < 1e-3


@pytest.mark.parametrize(
    ("sampler", "order"),
    [(DPMSolver(3), 3), (UniPC(1), 2), (UniPC(2), 3)],
    ids=["dpm++ 3M", "unipc 1", "unipc 2"],
)
def test_higher_order_in_log_snr(sampler, order):
    """Error times n^order tends to a constant; the corrector adds one order to the predictor's.

    Times are uniform in lambda, from -1 to 2 on the line. The error of the first two steps is left
    out, since they have too few previous predictions for that order.
    """

    def times(n):
        return 1 / (1 + torch.linspace(-1, 2, n + 1, dtype=torch.float64).exp())

    D = Gaussian(LINE)
    x, result = pictures(1.3, -2.0), []
    for n in (40, 80, 160):
        grid = times(n)
        state = State(x, x)
        for i, (t, s) in enumerate(pairwise(grid)):
            x_t = D.exact_flow(x, grid[0], t) if i < 3 else state.x
            state = sampler.step(
                Conditional(D, NOTHING), state._replace(x=x_t), t, s, Noise.sampling(0, 2)
            )
        result.append(float((state.x - D.exact_flow(x, grid[0], grid[-1])).abs().max()))
    assert ratios(result)[-1] == pytest.approx(2**order, rel=0.2)


def moments(sampler, D, times, m: float, v: float) -> tuple[float, float]:
    """Return the exact final mean and variance: each step is affine in x and in a normal z."""

    def after(x: float, z: float, t, s) -> float:
        return float(
            one_step(sampler.for_steps(len(times) - 1), D, pictures(x), t, s, Fixed(1, z)).x
        )

    for t, s in pairwise(times):
        offset = after(0.0, 0.0, t, s)
        gain, deviation = after(1.0, 0.0, t, s) - offset, after(0.0, 1.0, t, s) - offset
        m, v = gain * m + offset, gain**2 * v + deviation**2
    return m, v


@pytest.mark.parametrize("schedule", [DiscreteSchedule(linear_betas(20)), LINE], ids=["vp", "line"])
def test_the_variance_of_ancestral_samples_follows_its_linear_recursion(schedule):
    """x_s = keep x_t + pull x_hat + std z with the paper's coefficients and x_hat affine in x_t."""
    mean, variance, n = 0.3, 0.25, 30_000
    times = schedule.times(20)
    m, v = 0.0, 1.0
    for t, s in pairwise(times):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (map(float, schedule(each)) for each in (t, s))
        # This is beta / sigma_t^2 if variance-preserving.
        share = 1 - (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2
        keep, pull = alpha_t / alpha_s * (sigma_s / sigma_t) ** 2, alpha_s * share
        gain = alpha_t * variance / (alpha_t**2 * variance + sigma_t**2)
        m = (keep + pull * gain) * m + pull * (1 - gain * alpha_t) * mean
        v = (keep + pull * gain) ** 2 * v + share * sigma_s**2
    D = Gaussian(schedule, mean, variance)
    assert moments(Ancestral(), D, times, 0.0, 1.0) == pytest.approx((m, v), rel=1e-9)
    x = Noise.sampling(1, n).normal(1, 1, 1, dtype=torch.float64)
    end = trajectory(Ancestral(), D, x, times, Noise.sampling(100_000, n))[-1]
    assert float(end.mean()) == pytest.approx(m, abs=3 * math.sqrt(v / n))
    assert float(end.var()) == pytest.approx(v, abs=3 * v * math.sqrt(2 / n))
    # x_hat lacks the spread of the data, so 20 steps lose some variance; more steps would not.
    assert m == pytest.approx(mean, abs=0.02)
    assert 0.5 * variance < v < variance


def test_churn_keeps_the_distribution():
    """Added noise is removed again; the error of the variance is only the steps' h^2."""
    mean, variance = 0.1, 0.25
    D = Gaussian(EXPLODING, mean, variance)
    ends = [moments(Heun(20.0), D, EXPLODING.times(n), 0.0, 80.0**2) for n in (64, 128, 256)]
    assert [m for m, _ in ends] == pytest.approx([mean] * 3, abs=1e-6)
    excess = [v - variance for _, v in ends]
    assert excess[0] < 0.01
    assert ratios(excess) == pytest.approx([4, 4], rel=0.05)


def test_churn_draws_new_noise_at_every_step():
    mean, variance, n = 0.1, 0.25, 20_000
    D, times = Gaussian(EXPLODING, mean, variance), EXPLODING.times(24)
    x = 80 * Noise.sampling(1, n).normal(1, 1, 1, dtype=torch.float64)
    noise = Noise.sampling(100_000, n)
    end = trajectory(Heun(20.0), D, x, times, noise)[-1]
    assert noise.draws == 24
    m, v = moments(Heun(20.0), D, times, 0.0, 80.0**2)
    assert float(end.mean()) == pytest.approx(m, abs=3 * math.sqrt(v / n))
    assert float(end.var()) == pytest.approx(v, abs=3 * v * math.sqrt(2 / n))
    calm = trajectory(Heun(), D, x, times)[-1]
    assert abs(float(torch.corrcoef(torch.stack([end, calm]).flatten(1))[0, 1])) < 0.1


def test_churn_is_for_models_whose_time_is_sigma():
    with pytest.raises(LimnerError, match="churn is for models whose time is sigma"):
        trajectory(Heun(churn=1.0), Gaussian(PRESERVING), pictures(1.0), PRESERVING.times(4))


def test_a_sampler_takes_only_its_own_options():
    assert SAMPLERS.make("ddim", eta=0.3, churn=None) == DDIM(0.3)
    assert SAMPLERS.make("heun", eta=None, churn=2.0) == Heun(2.0)
    assert SAMPLERS.make("heun", churn_interval=(0.1, 9.0)) == Heun(churn_interval=(0.1, 9.0))
    assert SAMPLERS.make("ddim", eta=None) == DDIM()
    with pytest.raises(LimnerError, match="ddim has no option churn; it belongs to heun"):
        SAMPLERS.make("ddim", churn=1.0)
    with pytest.raises(LimnerError, match=r"dpm\+\+ has no option eta; it belongs to ddim"):
        SAMPLERS.make("dpm++", eta=0.5)


# The following tests compare with diffusers. Its tables are float32 unless replaced. Some of its
# steps round the state to float32; the tolerance is that of float32 there.

BETAS = {"linear": linear_betas(), "cosine": cosine_betas()}
every_betas = pytest.mark.parametrize("name", BETAS)
with_old_arrays = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def in_float64(peer, betas):
    """Give the peer tables in float64; return it."""
    peer.betas, peer.alphas = betas, 1 - betas
    peer.alphas_cumprod = torch.cumprod(peer.alphas, 0)
    peer.one = peer.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    return peer


def times_of(peer, T=1000):
    """Return the peer's steps k = 0 .. T - 1 as times (k + 1) / T, followed by 0."""
    k = torch.as_tensor(peer.timesteps).double()
    return torch.cat([(k + 1) / T, k.new_zeros(1)])


@every_betas
@pytest.mark.parametrize(("steps", "variance"), [(1000, None), (50, 0.0), (1000, 1.0), (50, 1.0)])
def test_ancestral_equals_diffusers_ddpm(name, steps, variance):
    schedule = DiscreteSchedule(BETAS[name])
    D = Gaussian(schedule, 0.2, 0.4)
    kind = "fixed_large" if variance else "fixed_small"
    peer = DDPMScheduler(clip_sample=False, variance_type=kind, prediction_type="sample")
    peer = in_float64(peer, BETAS[name])
    peer.set_timesteps(steps)
    x = torch.randn(2, 1, 2, 2, dtype=torch.float64)
    ours = trajectory(Ancestral(variance), D, x, times_of(peer), Peer(2))
    generator = torch.Generator().manual_seed(0)
    for k, actual in zip(peer.timesteps, ours, strict=True):
        x_hat = D.expected(x, time((int(k) + 1) / 1000), NOTHING)
        x = peer.step(x_hat, k, x, generator=generator).prev_sample
        torch.testing.assert_close(actual, x, rtol=0, atol=1e-10)


@every_betas
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_equals_diffusers_ddim(name, eta):
    schedule = DiscreteSchedule(BETAS[name])
    D = Gaussian(schedule, 0.2, 0.4)
    peer = DDIMScheduler(clip_sample=False, set_alpha_to_one=True, timestep_spacing="leading")
    peer = in_float64(peer, BETAS[name])
    peer.set_timesteps(50)
    x = torch.randn(2, 1, 2, 2, dtype=torch.float64)
    ours = trajectory(DDIM(eta), D, x, times_of(peer), Peer(2))
    generator = torch.Generator().manual_seed(0)
    for k, actual in zip(peer.timesteps, ours, strict=True):
        t = time((int(k) + 1) / 1000)
        alpha, sigma = schedule(t)
        eps_hat = (x - alpha * D.expected(x, t, NOTHING)) / sigma
        x = peer.step(eps_hat, k, x, eta=eta, generator=generator).prev_sample
        torch.testing.assert_close(actual, x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("steps", [4, 20])
def test_euler_on_the_line_equals_diffusers_flow_matching(steps):
    peer = FlowMatchEulerDiscreteScheduler(shift=1.0)
    peer.set_timesteps(steps)
    peer.sigmas = peer.sigmas.double()
    D = Gaussian(LINE, 0.2, 0.4)
    x = torch.randn(2, 1, 2, 2, dtype=torch.float64)
    ours = trajectory(Euler(), D, x, peer.sigmas)
    for i, (k, actual) in enumerate(zip(peer.timesteps, ours, strict=True)):
        velocity = (x - D.expected(x, peer.sigmas[i], NOTHING)) / peer.sigmas[i]
        x = peer.step(velocity, k, x).prev_sample
        torch.testing.assert_close(actual, x, rtol=0, atol=1e-6)


@with_old_arrays
def test_heun_equals_diffusers_heun_if_time_is_sigma():
    peer = HeunDiscreteScheduler(prediction_type="sample")
    peer.set_timesteps(20)
    peer.sigmas = peer.sigmas.double()
    times = torch.cat([peer.sigmas[:1], peer.sigmas[1::2]])
    D = Gaussian(EXPLODING, 0.2, 0.4)
    x = times[0] * torch.randn(2, 1, 2, 2, dtype=torch.float64)
    ours = trajectory(Heun(), D, x, times)
    for i, k in enumerate(peer.timesteps):
        sigma = times[(i + 1) // 2]
        x = peer.step(D.expected(x, sigma, NOTHING), k, x).prev_sample
        if i % 2 or i == len(peer.timesteps) - 1:
            torch.testing.assert_close(ours[i // 2], x, rtol=0, atol=1e-10)


def test_euler_equals_diffusers_edm_euler():
    peer = EDMEulerScheduler()
    peer.set_timesteps(18)
    peer.sigmas = peer.sigmas.double()
    D = Gaussian(EXPLODING, 0.2, 0.4)
    x = 80 * torch.randn(2, 1, 2, 2, dtype=torch.float64)
    ours = trajectory(Euler(), D, x, peer.sigmas)
    for i, (k, actual) in enumerate(zip(peer.timesteps, ours, strict=True)):
        peer.scale_model_input(x, k)
        x_hat = D.expected(x, peer.sigmas[i], NOTHING)
        x = peer.step(x_hat, k, x, pred_original_sample=x_hat).prev_sample.double()
        torch.testing.assert_close(actual, x, rtol=1e-6, atol=2e-5)  # x starts near 80 in float32


@pytest.mark.parametrize("steps", [5, 25])
def test_dpm_solver_equals_diffusers_at_edms_times(steps):
    peer = EDMDPMSolverMultistepScheduler(solver_order=2)
    peer.set_timesteps(steps)
    peer.sigmas = peer.sigmas.double()
    D = Gaussian(EXPLODING, 0.2, 0.4)
    x = 80 * torch.randn(2, 1, 2, 2, dtype=torch.float64)
    ours = trajectory(DPMSolver(), D, x, peer.sigmas)
    for i, (k, actual) in enumerate(zip(peer.timesteps, ours, strict=True)):
        sigma = peer.sigmas[i]
        total = sigma**2 + 0.25
        F = (D.expected(x, sigma, NOTHING) - 0.25 / total * x) / (sigma * 0.5 / total.sqrt())
        x = peer.step(F, k, x).prev_sample
        torch.testing.assert_close(actual, x, rtol=0, atol=1e-10)


class WholeBend(DPMSolverMultistepScheduler):
    """diffusers' steps of order 3 without its factor 1/2 of the second derivative."""

    def multistep_dpm_solver_third_order_update(self, model_output_list, *args, sample, **options):
        x = super().multistep_dpm_solver_third_order_update(
            model_output_list, *args, sample=sample, **options
        )
        i, (a, b, c) = self.step_index, reversed(model_output_list)
        lambdas = -self.sigmas[i - 2 : i + 2].log()
        last, before, h = lambdas.diff()
        bend = ((a - b) / before - (b - c) / last) / (before + last)  # half of x_hat''
        alpha = 1 / (1 + self.sigmas[i + 1] ** 2).sqrt()
        return x + alpha * (h**2 / 2 - h - torch.expm1(-h)) * bend


@with_old_arrays
@every_betas
@pytest.mark.parametrize(("steps", "order"), [(10, 2), (40, 2), (40, 3)])
def test_dpm_solver_equals_diffusers_on_variance_preserving_schedules(name, steps, order):
    schedule = DiscreteSchedule(BETAS[name])
    D = Gaussian(schedule, 0.2, 0.4)
    peer = in_float64(WholeBend(prediction_type="sample", solver_order=order), BETAS[name])
    peer.set_timesteps(steps)
    times = times_of(peer)
    alpha, sigma = schedule(times)
    peer.sigmas = sigma / alpha
    x = torch.randn(2, 1, 2, 2, dtype=torch.float64)
    ours = trajectory(DPMSolver(order), D, x, times)
    for i, (k, actual) in enumerate(zip(peer.timesteps, ours, strict=True)):
        x = peer.step(D.expected(x, times[i], NOTHING), k, x).prev_sample
        torch.testing.assert_close(actual, x, rtol=0, atol=3e-6)


@with_old_arrays
@every_betas
@pytest.mark.parametrize(("steps", "order"), [(10, 1), (10, 2), (40, 2), (40, 3)])
def test_unipc_equals_diffusers(name, steps, order):
    """The last steps are excluded, since diffusers lowers their order one by one."""
    schedule = DiscreteSchedule(BETAS[name])
    D = Gaussian(schedule, 0.2, 0.4)
    peer = UniPCMultistepScheduler(prediction_type="sample", solver_order=order)
    peer = in_float64(peer, BETAS[name])
    peer.set_timesteps(steps)
    times = times_of(peer)
    alpha, sigma = schedule(times)
    peer.sigmas = sigma / alpha
    x = torch.randn(2, 1, 2, 2, dtype=torch.float64)
    ours = trajectory(UniPC(order), D, x, times)
    for i, (k, actual) in enumerate(zip(peer.timesteps, ours, strict=True)):
        x = peer.step(D.expected(x, times[i], NOTHING), k, x).prev_sample
        if i < steps - order + 1 or order < 3:
            torch.testing.assert_close(actual, x, rtol=0, atol=3e-6)
