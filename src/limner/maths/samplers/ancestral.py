"""Ancestral sampling, DDPM's reverse process."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from limner.contract.image import Condition, Images
from limner.contract.noise import Noise
from limner.contract.options import Share
from limner.maths.denoisers import Conditional
from limner.maths.samplers.sampler import Sampler, State, Time, sampler
from limner.maths.samplers.steps import (
    Deviation,
    add_noise,
    levels_at,
    posterior_variance,
    step_variance,
)


@sampler("ancestral")
@dataclass(frozen=True)
class Ancestral(Sampler):
    """DDPM's reverse process: a Gaussian step with the mean of q(x_s | x_t, x = x_hat).

    mean = alpha_{t|s} sigma_s^2 / sigma_t^2 x_t + alpha_s sigma_{t|s}^2 / sigma_t^2 x_hat;
    its variance is small^(1 - v) large^v, between the smallest valid one, that of
    q(x_s | x_t, x), and the largest, sigma_{t|s}^2. `variance` is v: 0 is the papers' "fixed
    small", 1 "fixed large"; by default it is the denoiser's, or 0 if that has none. The step to
    the clean picture is its mean.
    Ho, Jain, Abbeel (2020), arXiv:2006.11239, equations 6-7 and algorithm 2; Nichol, Dhariwal
    (2021), arXiv:2102.09672, equation 15; Ho, Salimans (2022), arXiv:2207.12598, algorithm 2.

    Args:
        variance: how much noise each step adds, from 0, the posterior variance, to 1, the largest
            variance; the model's own by default.
    """

    variance: Share | None = None

    def step(self, D: Conditional, at: State, t: Time, s: Time, noise: Noise) -> State:
        """Take one step."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = levels_at(D, t), levels_at(D, s)
        x, (x_hat, v) = at.x, D(at.x, t)
        if self.variance is not None:
            v = self.variance
        large = step_variance(alpha_t, sigma_t, alpha_s, sigma_s)
        small = posterior_variance(alpha_t, sigma_t, alpha_s, sigma_s)
        keep = alpha_t / alpha_s * (sigma_s / sigma_t) ** 2
        mean = keep * x + alpha_s * large / sigma_t**2 * x_hat
        if small == 0:
            return State(mean, x_hat)
        deviation = math.sqrt(small) * (large / small) ** (0.5 * (0.0 if v is None else v))
        mean = mean + self.shift(D, x, t, deviation)
        return State(add_noise(mean, deviation, noise), x_hat)

    def shift(
        self, D: Conditional, x: Images, t: Time, deviation: float | Deviation
    ) -> float | Images:
        """Return what guidance adds to the mean of a step from x_t: nothing here."""
        return 0.0


@dataclass(frozen=True)
class GuidedAncestral(Ancestral):
    """The mean of each step is moved by scale Sigma g, where g is a gradient at x_t.

    Dhariwal, Nichol (2021), arXiv:2105.05233, algorithm 1, with g = grad log p(y | x_t).

    Args:
        gradient: g(x_t, t, c).
        scale: the guidance scale, s of the paper.
    """

    gradient: Callable[[Images, Time, Condition], Images] | None = None
    scale: float = 1.0

    def shift(
        self, D: Conditional, x: Images, t: Time, deviation: float | Deviation
    ) -> float | Images:
        """Return scale Sigma g."""
        assert self.gradient is not None
        return self.scale * deviation**2 * self.gradient(x, t, D.c)
