"""UniPC, a multistep predictor and corrector."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from limner.contract.image import Images
from limner.contract.noise import Noise
from limner.maths.denoisers import Conditional
from limner.maths.samplers.multistep import Order, View, newest_views
from limner.maths.samplers.sampler import Sampler, State, Time, sampler
from limner.maths.samplers.steps import levels_at, log_ratio


@sampler("unipc")
@dataclass(frozen=True)
class UniPC(Sampler):
    """UniPC: a multistep predictor, and a corrector that costs nothing.

    x_hat at the predicted x_s, which the next step needs anyway, first corrects x_s, and then
    predicts from it. With h = lambda_s - lambda_t, B = e^-h - 1 and r_i = (lambda_i - lambda_t) / h
    for the earlier x_hat (the predictor) and the one at s, r = 1 (the corrector),
    x_s = sigma_s / sigma_t x_t - alpha_s B (x_hat + sum_i a_i (x_hat_i - x_hat) / r_i),
    where a solves sum_i r_i^(k-1) a_i = b_k, so that polynomials of the order's degree are exact.
    Zhao, Bai, Rao, Zhou, Lu (2023), arXiv:2302.04867, algorithms 5 and 6, B_2(h).

    Args:
        order: number of estimates of the picture that each step combines; 2 by default.
    """

    order: Order = 2

    def step(self, D: Conditional, at: State, t: Time, s: Time, noise: Noise) -> State:
        """Take one step."""
        levels_t, levels_s = levels_at(D, t), levels_at(D, s)
        x, x_hat = at.x, D(at.x, t).x_hat
        views: list[View] = list(at.memory[0]) if at.memory else []
        last: _Last | None = at.memory[1] if at.memory else None
        view_t = View(x_hat, log_ratio(*levels_t))
        if last is not None and math.isfinite(views[0].at):
            x = _combine_views(last.x, last.levels, levels_t, tuple(views[: last.order]), view_t)
        newest = newest_views(tuple(views), x_hat, view_t.at, self.order)
        order = len(newest) if math.isfinite(log_ratio(*levels_s)) else 1
        predicted = _combine_views(x, levels_t, levels_s, newest[:order], None)
        return State(predicted, x_hat, (newest, _Last(x, levels_t, order)))


class _Last(NamedTuple):
    """The start of the step before, and its number of views."""

    x: Images
    levels: tuple[float, float]
    order: int


def _combine_views(
    x: Images,
    levels_t: tuple[float, float],
    levels_s: tuple[float, float],
    views: tuple[View, ...],
    new_view: View | None,
) -> Images:
    """Return UniPC's x_s from views at and before t; for the corrector also from the view at
    x_s."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = levels_t, levels_s
    to_x = alpha_s - sigma_s * alpha_t / sigma_t
    others = [*views[1:], *([new_view] if new_view else [])]
    estimate = views[0].x_hat
    if others:
        h = log_ratio(*levels_s) - views[0].at
        r = torch.tensor([(view.at - views[0].at) / h for view in others], dtype=torch.float64)
        weights = _weights(r, h) if len(r) > 1 else [0.5]
        for a, r_i, view in zip(weights, r.tolist(), others, strict=True):
            estimate = estimate + a / r_i * (view.x_hat - views[0].x_hat)
    return sigma_s / sigma_t * x + to_x * estimate


def _weights(r: Float64[Tensor, "p"], h: float) -> list[float]:
    """Return a with sum_i r_i^(k-1) a_i = b_k = k! phi_{k+1}(-h) (-h) / (e^-h - 1)."""
    phi, factorial, b = math.expm1(-h) / -h - 1, 1, []
    for k in range(1, len(r) + 1):
        b.append(phi * factorial / math.expm1(-h))
        factorial *= k + 1
        phi = phi / -h - 1 / factorial
    powers = torch.arange(len(r), dtype=torch.float64)
    return torch.linalg.solve(r[None] ** powers[:, None], r.new_tensor(b)).tolist()
