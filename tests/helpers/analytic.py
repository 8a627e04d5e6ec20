"""Data whose optimal denoiser is known in closed form, and functions that run a sampler on it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from limner.contract.image import Condition
from limner.contract.noise import Noise
from limner.maths.denoisers import Conditional, Denoiser, Estimate, per_image
from limner.maths.samplers.sampler import Sampler, State
from limner.maths.schedules import Schedule

NOTHING = Condition()


class Plain(ABC):
    """A denoiser that returns no variances."""

    @abstractmethod
    def expected(self, x_t: Tensor, t: Tensor, c: Condition) -> Tensor:
        """Return E[x | x_t]."""

    def __call__(self, x_t: Tensor, t: Tensor, c: Condition) -> Estimate:
        return Estimate(self.expected(x_t, t, c))


@dataclass(frozen=True)
class Gaussian(Plain):
    """The optimal denoiser where all numbers of a picture are independent, N(mean, variance)."""

    schedule: Schedule
    mean: float = 0.7
    variance: float = 2.5

    def expected(self, x_t: Tensor, t: Tensor, c: Condition) -> Tensor:
        """Return E[x | x_t] = mean + gain (x_t - alpha mean).

        gain = alpha variance / (alpha^2 variance + sigma^2)
        """
        alpha, sigma = (per_image(level, x_t) for level in self.schedule(t))
        gain = alpha * self.variance / (alpha**2 * self.variance + sigma**2)
        return self.mean + gain * (x_t - alpha * self.mean)

    def marginal(self, t: Tensor) -> tuple[float, float]:
        """Return the mean and standard deviation of x_t."""
        alpha, sigma = map(float, self.schedule(t))
        return alpha * self.mean, math.sqrt(alpha**2 * self.variance + sigma**2)

    def exact_flow(self, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Return the exact probability flow from t to s: (x - mean) / deviation stays constant."""
        (mean_t, deviation_t), (mean_s, deviation_s) = self.marginal(t), self.marginal(s)
        return mean_s + deviation_s / deviation_t * (x_t - mean_t)


@dataclass(frozen=True)
class Constant(Plain):
    """A denoiser that predicts the same picture for every input."""

    schedule: Schedule
    value: Tensor

    def expected(self, x_t: Tensor, t: Tensor, c: Condition) -> Tensor:
        return self.value.expand_as(x_t)


@dataclass(frozen=True)
class TwoClasses(Plain):
    """Class y in {0, 1} is N(-+mean, variance) in every number; label -1 requests the mixture."""

    schedule: Schedule
    mean: float = 0.8
    variance: float = 0.3

    def expected(self, x_t: Tensor, t: Tensor, c: Condition) -> Tensor:
        alpha, sigma = (per_image(level, x_t) for level in self.schedule(t))
        total = alpha**2 * self.variance + sigma**2
        evidence = alpha * self.mean * x_t / total
        balance = evidence.sum((1, 2, 3), keepdim=True).tanh()  # p(1) - p(0)
        label = c.label.view(-1, 1, 1, 1)
        mean = self.mean * torch.where(label < 0, balance, 2 * label - 1)
        return mean + alpha * self.variance / total * (x_t - alpha * mean)


class Peer(Noise):
    """Normal numbers from torch's own generator, as another implementation draws them."""

    def __init__(self, n: int, seed: int = 0) -> None:
        super().__init__(torch.zeros(n, dtype=torch.int64))
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(len(self), *shape, generator=self.generator, dtype=dtype)


class Fixed(Noise):
    """Noise that returns one fixed number for every normal one."""

    def __init__(self, n: int, value: float) -> None:
        super().__init__(torch.zeros(n, dtype=torch.int64))
        self.value = value

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.full((len(self), *shape), self.value, dtype=dtype)


def time(t: float) -> Tensor:
    return torch.tensor(t, dtype=torch.float64)


def pictures(*values: float) -> Tensor:
    """Return one picture of one pixel for each number, in float64."""
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1)


def one_step(
    sampler: Sampler, D: Denoiser, x: Tensor, t: Tensor, s: Tensor, noise: Noise | None = None
) -> State:
    """Return the state after one step from x, without a condition."""
    noise = Noise.sampling(0, len(x)) if noise is None else noise
    return sampler.step(Conditional(D, NOTHING), State(x, x), t, s, noise)


def trajectory(
    sampler: Sampler,
    D: Denoiser,
    x: Tensor,
    times: Tensor | Sequence[float],
    noise: Noise | None = None,
) -> list[Tensor]:
    """Return every x that a sampler visits, except the first one."""
    times = torch.as_tensor(times, dtype=torch.float64)
    noise = Noise.sampling(0, len(x)) if noise is None else noise
    sampler, state, visited = sampler.for_steps(len(times) - 1), State(x, x), []
    for t, s in pairwise(times):
        state = sampler.step(Conditional(D, NOTHING), state, t, s, noise)
        visited.append(state.x)
    return visited
