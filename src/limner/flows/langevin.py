"""Inpainting with a density of pictures: a Metropolis-adjusted Langevin chain.

Some of the values y in (0, 1) are kept; the others are updated as h = logit(y),

    h' = h + e^2 / 2 grad log p(h) + e xi,   xi ~ N(0, I).

A Metropolis-Hastings test accepts or rejects each step, which leaves the distribution given the
kept values invariant (Roberts, Tweedie (1996). Exponential convergence of Langevin distributions
and their discrete approximations. Bernoulli 2). Dinh, Krueger, Bengio (2014), arXiv:1410.8516,
section 5.2, inpaint in this way without the test. In the first half of the chain, e is tuned for
each picture so that 0.574 of the steps are accepted.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limner.contract.noise import Noise

_ACCEPTANCE_RATE, _TUNING_RATE, _FIRST_STEP = 0.574, 0.1, 0.1
_MIN_EDGE_DISTANCE = 1e-5  # least distance of y from 0 and 1


def langevin(
    log_density: Callable[[Tensor], Float[Tensor, "b"]],
    y: Float[Tensor, "b c h w"],
    mask: Float[Tensor, "b 1 h w"],
    noise: Noise,
    steps: int,
) -> Iterator[Float[Tensor, "b c h w"]]:
    """Yield y after each step.

    Args:
        log_density: log p(y) of each row.
        y: initial values, in (0, 1).
        mask: 1 where values are drawn, 0 where they are kept.
        noise: b random streams.
        steps: number of steps.
    """

    def evaluate(h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            h = h.detach().requires_grad_()
            picture = torch.where(mask > 0, h.sigmoid(), y)
            volume = (mask * (F.logsigmoid(h) + F.logsigmoid(-h))).flatten(1).sum(1)
            value = log_density(picture) + volume
            (slope,) = torch.autograd.grad(value.sum(), h)
        return picture.detach(), value.detach(), mask * slope

    def drift(slope: Tensor, e: Tensor) -> Tensor:
        return (e**2 / 2).view(-1, 1, 1, 1) * slope

    h = y.clamp(_MIN_EDGE_DISTANCE, 1 - _MIN_EDGE_DISTANCE).logit()
    e = torch.full((len(y),), _FIRST_STEP, dtype=y.dtype, device=y.device)
    picture, value, slope = evaluate(h)
    for step in range(steps):
        xi = mask * noise.normal(*y.shape[1:], dtype=y.dtype)
        proposal = h + drift(slope, e) + e.view(-1, 1, 1, 1) * xi
        proposal_picture, proposal_value, proposal_slope = evaluate(proposal)
        reverse = (h - proposal - drift(proposal_slope, e)) / e.view(-1, 1, 1, 1)
        ratio = proposal_value - value + (xi.square() - reverse.square()).flatten(1).sum(1) / 2
        accepted = noise.uniform(dtype=torch.float64).log() < ratio.double()
        rows = accepted.view(-1, 1, 1, 1)
        h, slope = torch.where(rows, proposal, h), torch.where(rows, proposal_slope, slope)
        picture = torch.where(rows, proposal_picture, picture)
        value = torch.where(accepted, proposal_value, value)
        if step < steps // 2:
            chance = ratio.clamp(max=0).exp().nan_to_num(0)
            e = e * (_TUNING_RATE * (chance - _ACCEPTANCE_RATE)).exp()
        yield picture
