"""Euler's method along the probability flow."""

from dataclasses import dataclass

from limner.contract.noise import Noise
from limner.maths.denoisers import Conditional
from limner.maths.samplers.sampler import Sampler, State, Time, sampler
from limner.maths.samplers.steps import euler_step, levels_at, predicted_noise


@sampler("euler")
@dataclass(frozen=True)
class Euler(Sampler):
    """x_s = x_t + (alpha_s - alpha_t) x_hat + (sigma_s - sigma_t) eps_hat, the probability flow's
    first-order step.

    On flow matching's line this is x_t + (s - t) v; in sigma it is EDM's Euler step; it equals DDIM
    with eta = 0.
    """

    def step(self, D: Conditional, at: State, t: Time, s: Time, noise: Noise) -> State:
        """Take one step."""
        levels_t, levels_s = levels_at(D, t), levels_at(D, s)
        x, x_hat = at.x, D(at.x, t).x_hat
        eps_hat = predicted_noise(x, levels_t, x_hat)
        return State(euler_step(x, levels_t, levels_s, x_hat, eps_hat), x_hat)
