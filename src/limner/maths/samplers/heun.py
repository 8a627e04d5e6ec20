"""Heun's method along the probability flow, with EDM's churn."""

import math
from dataclasses import dataclass, replace

from limner.contract.errors import LimnerError
from limner.contract.image import Images
from limner.contract.noise import Noise
from limner.contract.options import NonNegative
from limner.maths.denoisers import Conditional
from limner.maths.samplers.sampler import Sampler, State, Time, sampler
from limner.maths.samplers.steps import (
    add_noise,
    check_interval,
    euler_step,
    levels_at,
    predicted_noise,
)


@sampler("heun")
@dataclass(frozen=True)
class Heun(Sampler):
    """Euler's step, then again with the mean of both ends' x_hat and eps_hat: second order.

    The rule is trapezoidal in alpha and sigma, dx = x_hat d(alpha) + eps_hat d(sigma), so it is
    EDM's algorithm 1 when alpha = 1 and Heun's method in t on flow matching's line. A step costs
    two evaluations; the last one, to the clean picture, is Euler's and costs one. With churn
    (algorithm 2), noise is added before a step where sigma is in the interval: it raises sigma by
    the factor 1 + gamma, gamma = min(churn / steps, sqrt(2) - 1). Churn needs alpha = 1. Karras,
    Aittala, Aila, Laine (2022), arXiv:2206.00364.

    Args:
        churn: how much new noise all steps together add (S_churn).
        churn_interval: range of noise (sigma) in which churn acts, all by default (S_tmin, S_tmax).
        churn_noise: factor on the deviation of churn's noise; 1 by default (S_noise).
    """

    churn: NonNegative = 0.0
    churn_interval: tuple[float, float] = (0.0, math.inf)
    churn_noise: NonNegative = 1.0

    def __post_init__(self) -> None:
        check_interval("churn_interval", self.churn_interval)

    def for_steps(self, steps: int) -> "Sampler":
        """Return the sampler with the churn of one of the steps from pure noise; an edit takes only
        the last ones."""
        return replace(self, churn=self.churn / steps)

    def step(self, D: Conditional, at: State, t: Time, s: Time, noise: Noise) -> State:
        """Take one step."""
        x = at.x
        if self.churn:
            x, t = self._churn(D, x, t, noise)
        levels_t, levels_s = levels_at(D, t), levels_at(D, s)
        x_hat = D(x, t).x_hat
        eps_hat = predicted_noise(x, levels_t, x_hat)
        x_s = euler_step(x, levels_t, levels_s, x_hat, eps_hat)
        if levels_s[1] == 0:
            return State(x_s, x_hat)
        x_hat_s = D(x_s, s).x_hat
        eps_hat_s = predicted_noise(x_s, levels_s, x_hat_s)
        mean_x, mean_eps = (x_hat + x_hat_s) / 2, (eps_hat + eps_hat_s) / 2
        return State(euler_step(x, levels_t, levels_s, mean_x, mean_eps), x_hat_s)

    def _churn(self, D: Conditional, x: Images, t: Time, noise: Noise) -> tuple[Images, Time]:
        """Return x at the higher noise level t (1 + gamma), if sigma is in the interval."""
        alpha, sigma = levels_at(D, t)
        if alpha != 1 or sigma != float(t):
            raise LimnerError("churn is for models whose time is sigma (edm); leave it out")
        if not self.churn_interval[0] <= sigma <= self.churn_interval[1]:
            return x, t
        higher = t * (1 + min(self.churn, math.sqrt(2) - 1))
        added = self.churn_noise * math.sqrt(float(higher) ** 2 - sigma**2)
        return add_noise(x, added, noise), higher
