"""DDIM, from deterministic to ancestral sampling."""

import math
from dataclasses import dataclass

from limner.contract.noise import Noise
from limner.contract.options import Share
from limner.maths.denoisers import Conditional
from limner.maths.samplers.sampler import Sampler, State, Time, sampler
from limner.maths.samplers.steps import add_noise, levels_at, posterior_variance


@sampler("ddim")
@dataclass(frozen=True)
class DDIM(Sampler):
    """x_s = alpha_s x_hat + sqrt(sigma_s^2 - std^2) eps_hat + std z, where std is eta times the
    ancestral deviation.

    Song, Meng, Ermon (2020), arXiv:2010.02502, equations 12 and 16.

    Args:
        eta: how much new noise each step adds: 0 is deterministic, 1 adds the noise of ancestral
            sampling (DDPM).
    """

    eta: Share = 0.0

    def step(self, D: Conditional, at: State, t: Time, s: Time, noise: Noise) -> State:
        """Take one step."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = levels_at(D, t), levels_at(D, s)
        x, x_hat = at.x, D(at.x, t).x_hat
        variance = self.eta**2 * posterior_variance(alpha_t, sigma_t, alpha_s, sigma_s)
        direction = math.sqrt(max(sigma_s**2 - variance, 0.0)) / sigma_t
        mean = direction * x + (alpha_s - direction * alpha_t) * x_hat
        return State(add_noise(mean, math.sqrt(variance), noise), x_hat)
