"""A whole new sampler in one file: copy it to src/limner/maths/samplers/<sampler>.py and change it.

Ralston (1962). Runge-Kutta methods with minimum error bounds. Mathematics of Computation 16.
For diffusion: Karras, Aittala, Aila, Laine (2022), arXiv:2206.00364, in the appendix.

A second estimate is taken at r, at a share a of the way from t to s:

    x_r = x_t + (alpha_r - alpha_t) x_hat + (sigma_r - sigma_t) eps_hat
    x_s = the same step to s, with (1 - 1 / 2a) (x_hat, eps_hat) + 1 / 2a (x_hat_r, eps_hat_r)

    python -m limner.testing examples/new_sampler.py     # checks the contract: seconds
"""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from limner.contract.noise import Noise
from limner.maths.denoisers import Conditional
from limner.maths.samplers.sampler import Sampler, State, Time, sampler
from limner.maths.samplers.steps import euler_step, levels_at, predicted_noise


# To register is to be an option of all models that denoise: sampler.sampler=ralston
@sampler("ralston")
@dataclass(frozen=True)
class Ralston(Sampler):
    """A second estimate on the way to the end of each step: second order, two evaluations.

    Args:
        place: where the second estimate is taken, as a share of the step: 1/2 is the midpoint
            method, 2/3 (the default) Ralston's, which has the smallest error.
    """

    place: Annotated[float, Field(gt=0, lt=1)] = 2 / 3  # fields are options: sampler.place=0.5

    def step(self, D: Conditional, at: State, t: Time, s: Time, noise: Noise) -> State:
        """Take one step; a sampler that adds noise draws it from `noise`."""
        r = t + self.place * (s - t)
        levels_t, levels_r, levels_s = (levels_at(D, time) for time in (t, r, s))
        x_hat = D(at.x, t).x_hat  # the estimate of the finished picture
        eps_hat = predicted_noise(at.x, levels_t, x_hat)
        x_r = euler_step(at.x, levels_t, levels_r, x_hat, eps_hat)
        x_hat_r = D(x_r, r).x_hat
        eps_hat_r = predicted_noise(x_r, levels_r, x_hat_r)
        w = 1 / (2 * self.place)
        mean_x, mean_eps = (1 - w) * x_hat + w * x_hat_r, (1 - w) * eps_hat + w * eps_hat_r
        return State(euler_step(at.x, levels_t, levels_s, mean_x, mean_eps), x_hat_r)
