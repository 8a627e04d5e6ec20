"""Drawing a part of a picture given the rest, with a density of pictures: Langevin's chain.

Of numbers y in (0, 1), some of which are kept, the others go on as h = logit(y),

    h' = h + e^2 / 2 grad log p(h) + e xi,   xi ~ N(0, I),

each step being taken or not by Metropolis and Hastings, so that the law given what is kept stays as
it is (Roberts, Tweedie (1996). Exponential convergence of Langevin distributions and their discrete
approximations. Bernoulli 2). Dinh, Krueger, Bengio (2014), arXiv:1410.8516, section 5.2, fill parts
of pictures so, without the test. In the first half e is fitted to each picture, for 0.574 of the
steps to be taken.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limner.contract.noise import Noise

_TAKEN, _FITTING, _FIRST = 0.574, 0.1, 0.1
_EDGE = 1e-5  # of numbers in (0, 1)


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
        y: where to begin, in (0, 1).
        mask: 1 for what is drawn, 0 for what is kept.
        noise: b random streams.
        steps: how many.
    """

    def look(h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            h = h.detach().requires_grad_()
            now = torch.where(mask > 0, h.sigmoid(), y)
            volume = (mask * (F.logsigmoid(h) + F.logsigmoid(-h))).flatten(1).sum(1)
            value = log_density(now) + volume
            (slope,) = torch.autograd.grad(value.sum(), h)
        return now.detach(), value.detach(), mask * slope

    def drift(slope: Tensor, e: Tensor) -> Tensor:
        return (e**2 / 2).view(-1, 1, 1, 1) * slope

    h = y.clamp(_EDGE, 1 - _EDGE).logit()
    e = torch.full((len(y),), _FIRST, dtype=y.dtype, device=y.device)
    now, value, slope = look(h)
    for step in range(steps):
        xi = mask * noise.normal(*y.shape[1:], dtype=y.dtype)
        other = h + drift(slope, e) + e.view(-1, 1, 1, 1) * xi
        there, gain, back = look(other)
        way_back = (h - other - drift(back, e)) / e.view(-1, 1, 1, 1)
        ratio = gain - value + (xi.square() - way_back.square()).flatten(1).sum(1) / 2
        taken = noise.uniform(dtype=torch.float64).log() < ratio.double()
        rows = taken.view(-1, 1, 1, 1)
        h, slope = torch.where(rows, other, h), torch.where(rows, back, slope)
        now, value = torch.where(rows, there, now), torch.where(taken, gain, value)
        if step < steps // 2:
            chance = ratio.clamp(max=0).exp().nan_to_num(0)
            e = e * (_FITTING * (chance - _TAKEN)).exp()
        yield now
