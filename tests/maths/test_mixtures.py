"""Samplers on mixtures: components keep their weights, a memoriser returns training pictures."""

import math
from dataclasses import dataclass

import pytest
import torch
from analytic import Plain, trajectory
from scipy import stats
from torch import Tensor

from limner.contract.image import Condition, to_uint8
from limner.contract.noise import Noise
from limner.evaluate.metrics.memorisation import memorisation
from limner.maths.denoisers import per_image
from limner.maths.samplers.ancestral import Ancestral
from limner.maths.samplers.ddim import DDIM
from limner.maths.samplers.dpm_solver import DPMSolver
from limner.maths.samplers.euler import Euler
from limner.maths.samplers.heun import Heun
from limner.maths.schedules import (
    DiscreteSchedule,
    LinearPath,
    Schedule,
    VarianceExploding,
    cosine_betas,
)

PATHS = {
    "line": LinearPath(),
    "preserving": DiscreteSchedule(cosine_betas()),
    "exploding": VarianceExploding(),
}
every_path = pytest.mark.parametrize("schedule", PATHS.values(), ids=PATHS)


@dataclass(frozen=True)
class Mixture(Plain):
    """The optimal denoiser of sum_k w_k N(mean_k, variance I): means with posterior weights.

    With variance 0 it is the optimal denoiser of a training set: a softmax over its pictures.
    """

    schedule: Schedule
    means: Tensor
    weights: Tensor
    variance: float = 0.0

    def posterior(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return p(k | x_t) with shape "b k"."""
        alpha, sigma = (level.double() for level in self.schedule(t))
        total = alpha**2 * self.variance + sigma**2
        gaps = (x_t.flatten(1)[:, None] - alpha * self.means.flatten(1)).square().sum(-1)
        return (self.weights.log() - gaps / (2 * total)).softmax(-1)

    def expected(self, x_t: Tensor, t: Tensor, c: Condition) -> Tensor:
        alpha, sigma = (per_image(level, x_t) for level in self.schedule(t))
        gain = alpha * self.variance / (alpha**2 * self.variance + sigma**2)
        p = self.posterior(x_t, t)
        mean = torch.einsum("bk,kchw->bchw", p, self.means)
        return mean + gain * (x_t - alpha * mean)


def initial_noise(schedule: Schedule, n: int, shape: tuple[int, ...]) -> tuple[Tensor, Noise]:
    noise = Noise.sampling(0, n)
    return schedule.prior_deviation * noise.normal(*shape, dtype=torch.float64), noise


def test_the_optimal_denoiser_equals_quadrature():
    """E[x | x_t] of a mixture in one dimension equals the ratio of two integrals over x."""
    means = torch.tensor([-0.7, 0.1, 0.9], dtype=torch.float64)
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    D = Mixture(LinearPath(), means.view(-1, 1, 1, 1), weights, variance=0.02)
    x = torch.linspace(-3, 3, 60_001, dtype=torch.float64)
    density = (weights * torch.exp(-((x[:, None] - means) ** 2) / 0.04)).sum(-1)
    for t in (0.1, 0.5, 0.9):
        for x_t in (-1.0, 0.0, 0.4):
            likelihood = torch.exp(-((x_t - (1 - t) * x) ** 2) / (2 * t**2))
            expected = (x * density * likelihood).sum() / (density * likelihood).sum()
            x_hat = D.expected(
                torch.full((1, 1, 1, 1), x_t, dtype=torch.float64),
                torch.tensor(t, dtype=torch.float64),
                Condition(),
            )
            assert float(x_hat) == pytest.approx(float(expected), abs=1e-9)


@every_path
@pytest.mark.parametrize(
    ("sampler", "steps"),
    [(Ancestral(), 200), (DDIM(), 200), (Euler(), 200), (Heun(), 100), (DPMSolver(), 100)],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else "",
)
def test_components_keep_their_weights(sampler, steps: int, schedule: Schedule):
    """A chi-squared test of the components of 2,000 samples."""
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    corners = torch.tensor([[-1, -1], [-1, 1], [1, -1], [1, 1]], dtype=torch.float64)
    D = Mixture(schedule, 0.8 * corners.view(4, 2, 1, 1), weights, variance=0.01)
    x, noise = initial_noise(schedule, 2000, (2, 1, 1))
    end = trajectory(sampler, D, x, schedule.times(steps), noise)[-1]
    nearest = torch.cdist(end.flatten(1), D.means.flatten(1)).argmin(1)
    counts = torch.bincount(nearest, minlength=4)
    assert stats.chisquare(counts.numpy(), (2000 * weights).numpy()).pvalue > 1e-3
    spread = (end - D.means[nearest]).std()
    assert float(spread) == pytest.approx(math.sqrt(D.variance), rel=0.15)


@every_path
@pytest.mark.parametrize(
    "sampler", [Ancestral(), DDIM(), Heun(), DPMSolver()], ids=lambda s: type(s).__name__
)
def test_the_exact_denoiser_of_a_training_set_returns_its_pictures(sampler, schedule: Schedule):
    """A network with the lowest loss on a finite set of pictures can only return them."""
    pictures = torch.rand(8, 3, 6, 6, dtype=torch.float64) * 2 - 1
    D = Mixture(schedule, pictures, torch.full((8,), 1 / 8, dtype=torch.float64))
    x, noise = initial_noise(schedule, 64, (3, 6, 6))
    end = trajectory(sampler, D, x, schedule.times(60), noise)[-1].clamp(-1, 1)
    held_out = torch.rand(64, 3, 6, 6) * 2 - 1
    sampled, new = (
        memorisation(to_uint8(images.float()), to_uint8(pictures.float()), shift=1)
        for images in (end, held_out)
    )
    assert sampled.share_of_copies >= 0.98, "the metric must report copies"
    assert len(sampled.nearest.unique()) == 8, "all training pictures must be returned"
    assert new.share_of_copies == 0, "new pictures must not count as copies"
    assert sampled.share_authentic <= 0.02 and new.share_authentic > 0.2
