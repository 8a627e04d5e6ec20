"""The likelihood of a continuous flow: the instantaneous change of variables.

Along dx/dt = v(x, t), from the picture at t = 0 to noise at t = 1,

    log p(x(0)) = log N(x(1); 0, I) + integral_0^1 div v(x(t), t) dt,   div v = tr dv/dx.

The divergence is exact, by D backward passes, or an estimate by one, Hutchinson's e^T (dv/dx) e,
whose mean over random signs e is the trace; one e serves the whole way, so that the integrand is
smooth and the estimate of log p is unbiased.

References:
    Chen, Rubanova, Bettencourt, Duvenaud (2018). Neural ordinary differential equations.
    arXiv:1806.07366, theorem 1. Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud (2018). FFJORD.
    arXiv:1810.01367.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from limner.image import Images
from limner.noise import Noise
from limner.ode import Solution, rms, solve

Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""v(x, t, rows): of some pictures, "r c h w", whose numbers are `rows`, each at its own time."""


def log_density(
    v: Velocity, x: Images, *, noise: Noise | None, tolerance: float
) -> tuple[Float[Tensor, "b"], Solution]:
    """log p(x) in nats, and where the pictures have arrived at t = 1.

    Args:
        v: the velocity.
        x: pictures, or any numbers of their shape, at t = 0.
        noise: streams for the signs of Hutchinson's estimate; None for the exact divergence.
        tolerance: the error of a step, for each number on its own scale and for the nats of each.
    """
    (n, *shape), D = x.shape, x[0].numel()
    signs = None if noise is None else (2 * noise.integers(2, *shape) - 1).to(x.dtype)

    def slope(t: Tensor, state: Tensor, rows: Tensor) -> Tensor:
        with torch.enable_grad():
            at = state[:, :-1].reshape(-1, *shape).detach().requires_grad_()
            velocity = v(at, t, rows)
            div = (
                divergence(velocity, at) if signs is None else hutchinson(velocity, at, signs[rows])
            )
        return torch.cat([velocity.detach().flatten(1), div[:, None] / D], 1)

    def worst(error: Tensor) -> Tensor:
        return torch.maximum(rms(error[:, :-1]), error[:, -1].abs())

    state = torch.cat([x.flatten(1), x.new_zeros(n, 1)], 1)
    found = solve(slope, state, 0.0, 1.0, rtol=tolerance, atol=tolerance, norm=worst)
    z, gained = found.x[:, :-1], D * found.x[:, -1]
    log_noise = -0.5 * (z.square().sum(1) + D * math.log(2 * math.pi))
    return log_noise + gained, found


def divergence(v: Float[Tensor, "b *n"], x: Float[Tensor, "b *n"]) -> Float[Tensor, "b"]:
    """tr dv/dx of each row, exactly, by as many backward passes as a row has numbers.

    Args:
        v: computed from x; row i from row i alone.
        x: requires its gradient.
    """
    total = x.new_zeros(len(x))
    for i, out in enumerate(v.flatten(1).sum(0)):
        (g,) = torch.autograd.grad(out, x, retain_graph=True)
        total = total + g.flatten(1)[:, i]
    return total


def hutchinson(
    v: Float[Tensor, "b *n"], x: Float[Tensor, "b *n"], e: Float[Tensor, "b *n"]
) -> Float[Tensor, "b"]:
    """e^T (dv/dx) e of each row, whose mean over random signs e is the trace.

    Hutchinson (1990). A stochastic estimator of the trace of the influence matrix. Communications
    in Statistics.
    """
    (g,) = torch.autograd.grad(v, x, e.to(v.dtype))
    return (g * e).flatten(1).sum(1)
