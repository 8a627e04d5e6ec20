"""DPM-Solver++, a multistep method."""

import math
from dataclasses import dataclass
from itertools import pairwise

from limner.contract.noise import Noise
from limner.maths.denoisers import Conditional
from limner.maths.samplers.multistep import Order, newest_views
from limner.maths.samplers.sampler import Sampler, State, Time, sampler
from limner.maths.samplers.steps import levels_at, log_ratio


@sampler("dpm++")
@dataclass(frozen=True)
class DPMSolver(Sampler):
    """DPM-Solver++ (2M, 3M): a multistep method, one evaluation a step.

    `memory` of the state has the last outputs x_hat. Let lambda = ln(alpha / sigma),
    h = lambda_s - lambda_t, and x_hat' and x_hat'' the first two derivatives in lambda of a
    parabola (order 3) or line (order 2) through the last x_hat. Then
    x_s = sigma_s / sigma_t x_t + alpha_s ((1 - e^-h) x_hat + (h + e^-h - 1) x_hat'
    + (h^2 / 2 - h - e^-h + 1) x_hat''), where order 2 approximates the second factor by
    h (1 - e^-h) / 2. The first step and the last (where h is infinite) are of first order. In 3M,
    diffusers has half of the term of x_hat'', and so is of second order.
    Lu, Zhou, Bao, Chen, Li, Zhu (2022), arXiv:2211.01095, algorithm 2 and appendix.

    Args:
        order: number of estimates of the picture that each step combines; 2 by default.
    """

    order: Order = 2

    def step(self, D: Conditional, at: State, t: Time, s: Time, noise: Noise) -> State:
        """Take one step."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = levels_at(D, t), levels_at(D, s)
        x, x_hat = at.x, D(at.x, t).x_hat
        views = newest_views(at.memory, x_hat, log_ratio(alpha_t, sigma_t), self.order)
        h = log_ratio(alpha_s, sigma_s) - views[0].at
        to_x = alpha_s - sigma_s * alpha_t / sigma_t  # alpha_s (1 - e^-h)
        x = sigma_s / sigma_t * x + to_x * x_hat
        if math.isfinite(h) and len(views) > 1:
            slopes = [(a.x_hat - b.x_hat) / (a.at - b.at) for a, b in pairwise(views)]
            if len(views) == 2:
                x = x + to_x * h / 2 * slopes[0]
            else:
                curvature = (slopes[0] - slopes[1]) / (views[0].at - views[2].at)
                slope = slopes[0] + curvature * (views[0].at - views[1].at)
                lost = -math.expm1(-h)
                x = x + alpha_s * ((h - lost) * slope + (h * h - 2 * h + 2 * lost) * curvature)
        return State(x, x_hat, views)
