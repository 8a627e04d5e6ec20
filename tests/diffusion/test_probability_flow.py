"""Likelihoods along the probability flow, with flows known in closed form."""

import math
from dataclasses import dataclass

import pytest
import torch
from analytic import NOTHING, Gaussian, Plain
from toy import SPEC

from limner.contract.image import Condition, ImageSpec
from limner.contract.noise import Noise
from limner.diffusion.ddpm import DDPM
from limner.diffusion.edm import EDM
from limner.diffusion.flow_matching import FlowMatching
from limner.diffusion.probability_flow import log_density, log_prob
from limner.maths.schedules import (
    DiscreteSchedule,
    LinearPath,
    LogSNR,
    Schedule,
    VarianceExploding,
    cosine_betas,
    linear_betas,
    zero_terminal,
)

SCHEDULES = {
    "linear": DiscreteSchedule(linear_betas()),
    "cosine": DiscreteSchedule(cosine_betas()),
    "terminal": DiscreteSchedule(zero_terminal(linear_betas())),
    "line": LinearPath(),
    "log-snr": LogSNR(),
    "exploding": VarianceExploding(),
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


@every_schedule
def test_time_of_is_the_inverse_of_the_noise_level(schedule):
    low, high = schedule.ends.log().tolist()
    t = torch.linspace(low, high, 50, dtype=torch.float64).exp()
    alpha, sigma = schedule(t)
    torch.testing.assert_close(schedule.time_of(sigma / alpha), t, rtol=1e-9, atol=0)


@every_schedule
@pytest.mark.parametrize("exact", [True, False])
def test_gaussian_pictures_have_the_density_of_their_affine_flow(schedule, exact):
    """x_T = alpha mu + d (y - mu), where d is the final deviation divided by the first one.
    Hutchinson's estimate is exact for a diagonal Jacobian."""
    D = Gaussian(schedule, 0.3, 0.2)
    y = 0.3 + 0.6 * torch.randn(4, 2, 2, 1, dtype=torch.float64)
    alpha, sigma = schedule(schedule.ends)
    first = (0.2 + float(sigma[0] / alpha[0]) ** 2) ** 0.5
    mean, deviation = D.marginal(schedule.ends[1])
    stretched = deviation / first
    prior = torch.distributions.Normal(0.0, schedule.prior_deviation)
    expected = (prior.log_prob(mean + stretched * (y - 0.3)) + math.log(stretched)).sum((1, 2, 3))
    noise = None if exact else Noise.sampling(0, 4)
    log_p = log_density(D, y, NOTHING, noise=noise, tolerance=1e-8)
    torch.testing.assert_close(log_p, expected, rtol=0, atol=1e-5)
    near = torch.distributions.Normal(0.3, 0.2**0.5).log_prob(y).sum((1, 2, 3))
    torch.testing.assert_close(log_p, near, rtol=0, atol=0.05)  # the density of the data


@dataclass(frozen=True)
class Correlated(Plain):
    """The optimal denoiser if pictures of four numbers are N(mean, U diag(variances) U^T)."""

    schedule: Schedule
    mean = 0.3
    variances = torch.tensor([0.02, 0.1, 0.3, 1.1], dtype=torch.float64)
    U = torch.linalg.qr(torch.arange(16.0).view(4, 4).square().sin().double()).Q

    def expected(self, x_t, t, c):
        alpha, sigma = (level.view(-1, 1) for level in self.schedule(t))
        gain = alpha * self.variances / (alpha**2 * self.variances + sigma**2)
        coordinates = (x_t.flatten(1) - alpha * self.mean) @ self.U
        return (self.mean + (gain * coordinates) @ self.U.T).view_as(x_t)

    def log_density(self, y):
        """Return the log density; along each axis, the flow scales with the deviation."""
        alpha, sigma = self.schedule(self.schedule.ends)
        first, last = (self.variances + s**2 for s in (sigma / alpha).tolist())
        stretched = alpha[1] * (last / first).sqrt()
        coordinates = stretched * ((y.flatten(1) - self.mean) @ self.U)
        x = alpha[1] * self.mean + coordinates @ self.U.T
        prior = torch.distributions.Normal(0.0, self.schedule.prior_deviation)
        return prior.log_prob(x).sum(1) + stretched.log().sum()


@pytest.mark.parametrize("name", ["line", "exploding"])
def test_correlated_numbers_have_the_density_of_their_linear_flow(name):
    D = Correlated(SCHEDULES[name])
    assert float((D.U.abs() > 0.1).double().mean()) > 0.8, "every axis must mix all pixels"
    y = 0.3 + 0.6 * torch.randn(3, 1, 2, 2, dtype=torch.float64)
    log_p = log_density(D, y, NOTHING, noise=None, tolerance=3e-9)
    torch.testing.assert_close(log_p, D.log_density(y), rtol=0, atol=1e-6)


def test_the_estimate_for_correlated_numbers_is_unbiased():
    n, D = 400, Correlated(SCHEDULES["line"])
    y = torch.tensor([0.5, -0.2, 0.3, 0.9]).double().view(1, 1, 2, 2).expand(n, 1, 2, 2)
    log_p = log_density(D, y, NOTHING, noise=Noise.sampling(0, n), tolerance=1e-5)
    error = float(log_p.std()) / math.sqrt(n)
    assert float(log_p.mean()) == pytest.approx(float(D.log_density(y)[0]), abs=3 * error)
    assert 0 < error < 0.2


@pytest.mark.parametrize("model", [DDPM, EDM])
def test_likelihoods_do_not_depend_on_the_batch(model):
    spec = ImageSpec(1, 2, 2, labels=("one", "two"))
    one = model(spec, channels=(4,)).double().eval()
    x = torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2).double()
    x = ((x + 1) * 127.5).round() / 127.5 - 1
    c = Condition(label=torch.tensor([0, 1, -1]))
    likelihood = log_prob(one, x, c, noise=Noise.sampling(0, 3), tolerance=1e-2)
    assert likelihood.kind == "lower" and likelihood.nats.isfinite().all()
    single = log_prob(one, x[1:2], c.rows(slice(1, 2)), noise=Noise.sampling(1, 1), tolerance=1e-2)
    torch.testing.assert_close(single.nats, likelihood.nats[1:2], rtol=1e-9, atol=1e-6)
    if model is DDPM:
        flow = one.log_prob(x, c, noise=Noise.sampling(0, 3), way="flow")
        torch.testing.assert_close(flow.nats, likelihood.nats, rtol=0, atol=0.3)
    else:
        assert "exact divergence" in one.likelihood_protocol()
    assert log_prob(
        model(SPEC, channels=(4,)), torch.ones(1, *SPEC.shape), Condition(),
        noise=Noise.sampling(0, 1), tolerance=0.1,
    ).kind == "estimate"  # fmt: skip


def test_it_agrees_with_the_likelihood_of_flow_matching():
    """Both methods use one network, but start at slightly different times."""
    model = FlowMatching(ImageSpec(1, 2, 2), channels=(4,)).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    x = ((torch.rand(3, 1, 2, 2).double() * 255).round() / 127.5) - 1
    noise = [Noise.sampling(0, 3) for _ in range(2)]
    in_time = model.log_prob(x, noise=noise[0], tolerance=1e-4).nats
    in_noise = log_prob(model, x, Condition(), noise=noise[1], tolerance=1e-4).nats
    torch.testing.assert_close(in_noise, in_time, rtol=0, atol=0.05)
