"""Ordinary differential equations, dx/dt = f(t, x), with an adaptive step size for each row.

The embedded pair of Dormand and Prince: a step of order 5, and one of order 4 from the same six
evaluations; their difference is the error, which sets the length of the next step. Rows are
independent of each other, and a row that has arrived is not evaluated any more.

References:
    Dormand, Prince (1980). A family of embedded Runge-Kutta formulae. Journal of Computational and
    Applied Mathematics. Hairer, Norsett, Wanner (1993). Solving ordinary differential equations I,
    sections II.4 and II.5.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limner.contract.errors import LimnerError

State = Float[Tensor, "b d"]
Slope = Callable[[Tensor, Tensor, Tensor], Tensor]
"""f(t, x, rows): the slope of some rows, with the numbers `rows`, each at its own time."""

_A = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),  # also the step of order 5
)
_C = (0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1)
_ERROR_WEIGHTS = (  # the step of order 5 minus that of order 4
    71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40,
)  # fmt: skip
# Each step is longer than the one before by a factor within these limits.
_SAFETY_FACTOR, _MIN_FACTOR, _MAX_FACTOR = 0.9, 0.2, 10.0


class Solution(NamedTuple):
    """The rows at the end time.

    Args:
        x: each row at the end time, "b d".
        evaluations: the number of evaluations of f for each row, int64 "b".
    """

    x: State
    evaluations: Int[Tensor, "b"]


def rms(error: State) -> Float[Tensor, "b"]:
    """Return the root mean square of each row."""
    return error.square().mean(1).sqrt()


@torch.no_grad()
def solve(
    f: Slope,
    x: State,
    start: float,
    end: float,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    norm: Callable[[Tensor], Tensor] = rms,
    max_steps: int = 10_000,
) -> Solution:
    """Solve dx/dt = f from one time to another.

    Args:
        f: the slope, called as f(t, x, rows) with t "r" in float64, x "r d" and the numbers of
            these rows, "r".
        x: the rows at the start time.
        start, end: the start and end time, in either order.
        rtol, atol: a step's error is at most atol + rtol |x| in the norm.
        norm: the norm of an error relative to this bound, for each row.
        max_steps: the largest number of steps that a row may try.

    Raises:
        LimnerError: a row has not arrived after this number of steps, or is not finite.
    """
    sign = 1.0 if end >= start else -1.0
    x_end, counts = x.clone(), torch.ones(len(x), dtype=torch.long, device=x.device)
    rows = torch.arange(len(x), device=x.device)
    t = torch.full((len(x),), start, dtype=torch.float64, device=x.device)
    k = f(t, x, rows)
    h = _first_step(x, k, rtol, atol, norm).clamp_(max=abs(end - start))
    for _ in range(max_steps):
        h = torch.minimum(h, sign * (end - t))
        ks, new = [k], x
        for a, c in zip(_A[1:], _C[1:], strict=True):
            new = x + (sign * h)[:, None].to(x) * _weighted_sum(ks, a)
            ks.append(f(t + sign * c * h, new, rows))
        bound = atol + rtol * torch.maximum(x.abs(), new.abs())
        error = norm(h[:, None].to(x) * _weighted_sum(ks, _ERROR_WEIGHTS) / bound).double()
        if not error.isfinite().all():
            raise LimnerError("the differential equation is not finite; is the model trained?")
        counts[rows] += 6
        accepted = error <= 1
        t = torch.where(accepted, torch.where(sign * (end - t) <= h, end, t + sign * h), t)
        x, k = (torch.where(accepted[:, None], b, a) for a, b in ((x, new), (k, ks[-1])))
        factor = (_SAFETY_FACTOR * error.clamp(min=1e-10) ** -0.2).clamp(_MIN_FACTOR, _MAX_FACTOR)
        h = h * factor  # below 0.9 where the step was refused
        done = t == end
        x_end[rows[done]] = x[done]
        if done.all():
            return Solution(x_end, counts)
        t, x, k, h, rows = (tensor[~done] for tensor in (t, x, k, h, rows))
    raise LimnerError(f"no solution in {max_steps} steps; give a larger tolerance")


def _weighted_sum(ks: list[Tensor], weights: tuple[float, ...]) -> Tensor:
    """Return sum_i w_i k_i."""
    total = torch.zeros_like(ks[0])
    for k, w in zip(ks, weights, strict=True):
        if w:
            total.add_(k, alpha=w)
    return total


def _first_step(
    x: State, k: State, rtol: float, atol: float, norm: Callable[[Tensor], Tensor]
) -> Float[Tensor, "b"]:
    """Return a first step that changes x by a hundredth of itself: Hairer et al., section II.4."""
    bound = atol + rtol * x.abs()
    size, slope = norm(x / bound), norm(k / bound)
    return (0.01 * size / slope.clamp(min=1e-10)).clamp(min=1e-6).double()
