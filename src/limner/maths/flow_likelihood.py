"""The likelihood of a continuous flow: the instantaneous change of variables.

Along dx/dt = v(x, t), from the picture at t = 0 to noise at t = 1,

    log p(x(0)) = log N(x(1); 0, I) + integral_0^1 div v(x(t), t) dt,   div v = tr dv/dx.

The divergence is exact, with D backward passes, or an estimate with one: Hutchinson's
e^T (dv/dx) e; its mean over random signs e is the trace. One e is used for the whole path, so that
the integrand is smooth and the estimate of log p is unbiased.

References:
    Chen, Rubanova, Bettencourt, Duvenaud (2018). Neural ordinary differential equations.
    arXiv:1806.07366, theorem 1. Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud (2018). FFJORD.
    arXiv:1810.01367.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from limner.contract.image import Images, ImageSpec
from limner.contract.likelihood import Likelihood
from limner.contract.noise import Noise
from limner.maths.dequantisation import Uniform
from limner.maths.ode import Solution, rms, solve
from limner.maths.transforms import log_normal

Divergence = Literal["exact", "hutchinson"]
_MAX_EXACT_DIMENSIONS = 32  # numbers in a picture up to which the divergence is exact by default
Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""v(x, t, rows): the velocity of some pictures, "r c h w", with the row numbers `rows`, each at its
own time."""


def solve_flow(
    v: Velocity,
    x: Images,
    start: float,
    end: float,
    *,
    noise: Noise | None,
    tolerance: float,
) -> tuple[Images, Float[Tensor, "b"], Solution]:
    """Return where pictures arrive, the integral of div v along their paths, and the solution.

    Args:
        v: the velocity.
        x: pictures, or any numbers of their shape, at the start.
        start, end: the start and end time, in either order.
        noise: streams for the signs of Hutchinson's estimate; None for the exact divergence.
        tolerance: the error of a step, for each number on its own scale and for the nats of each
            number.
    """
    (n, *shape), D = x.shape, x[0].numel()
    signs = None if noise is None else (2 * noise.integers(2, *shape) - 1).to(x.dtype)

    def slope(t: Tensor, state: Tensor, rows: Tensor) -> Tensor:
        with torch.enable_grad():
            y = state[:, :-1].reshape(-1, *shape).detach().requires_grad_()
            velocity = v(y, t, rows)
            div = divergence(velocity, y) if signs is None else hutchinson(velocity, y, signs[rows])
        return torch.cat([velocity.detach().flatten(1), div[:, None] / D], 1)

    def worst(error: Tensor) -> Tensor:
        return torch.maximum(rms(error[:, :-1]), error[:, -1].abs())

    state = torch.cat([x.flatten(1), x.new_zeros(n, 1)], 1)
    solution = solve(slope, state, start, end, rtol=tolerance, atol=tolerance, norm=worst)
    return solution.x[:, :-1].view_as(x), D * solution.x[:, -1], solution


def log_density(
    v: Velocity, x: Images, *, noise: Noise | None, tolerance: float
) -> tuple[Float[Tensor, "b"], Solution]:
    """Return log p(x) in nats, and the solution at t = 1; arguments as for `solve_flow`."""
    z, log_det, solution = solve_flow(v, x, 0.0, 1.0, noise=noise, tolerance=tolerance)
    return log_normal(z) + log_det, solution


def discrete_log_prob(
    density: Callable[[Images, Noise | None], Float[Tensor, "b"]],
    x: Images,
    spec: ImageSpec,
    *,
    noise: Noise,
    divergence: Divergence | None = None,
) -> Likelihood:
    """Return log P of pictures of levels under a density of numbers, with uniform dequantisation.

    Args:
        density: a function that returns log p of numbers around [-1, 1], given streams for
            Hutchinson's signs or None.
        x: pictures on the grid of the levels.
        spec: the specification of the pictures.
        noise: random streams.
        divergence: exact, with a backward pass for each number of a picture, or Hutchinson's
            estimate; by default exact for the smallest pictures.
    """
    y, log_bins = Uniform(spec.levels)(x, noise=noise)
    scale = spec.levels / (spec.levels - 1)  # the outer bins reach beyond the levels at -1 and 1
    is_exact = _is_exact(spec, divergence)
    nats = density(scale * (2 * y - 1), None if is_exact else noise)
    nats = nats + spec.dimensions * math.log(2 * scale) + log_bins
    return Likelihood(nats, "lower" if is_exact else "estimate")


def discrete_protocol(spec: ImageSpec, divergence: Divergence | None = None) -> str:
    """Return what reports show next to `discrete_log_prob`."""
    kind = "exact" if _is_exact(spec, divergence) else "Hutchinson's"
    return f"uniform dequantisation, one draw; {kind} divergence"


def _is_exact(spec: ImageSpec, divergence: Divergence | None) -> bool:
    return divergence == "exact" or (
        divergence is None and spec.dimensions <= _MAX_EXACT_DIMENSIONS
    )


def divergence(v: Float[Tensor, "b *n"], x: Float[Tensor, "b *n"]) -> Float[Tensor, "b"]:
    """Return tr dv/dx of each row, exactly, with as many backward passes as a row has numbers.

    Args:
        v: values computed from x; row i from row i only.
        x: the input; it requires a gradient.
    """
    total = x.new_zeros(len(x))
    for i, out in enumerate(v.flatten(1).sum(0)):
        (g,) = torch.autograd.grad(out, x, retain_graph=True)
        total = total + g.flatten(1)[:, i]
    return total


def hutchinson(
    v: Float[Tensor, "b *n"], x: Float[Tensor, "b *n"], e: Float[Tensor, "b *n"]
) -> Float[Tensor, "b"]:
    """Return e^T (dv/dx) e of each row; its mean over random signs e is the trace.

    Hutchinson (1990). A stochastic estimator of the trace of the influence matrix. Communications
    in Statistics.
    """
    (g,) = torch.autograd.grad(v, x, e.to(v.dtype))
    return (g * e).flatten(1).sum(1)
