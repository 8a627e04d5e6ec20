"""Paths between codes: the straight line, and the great circle.

In many dimensions a standard normal code is about sqrt(d) away from 0. The middle of the straight
line between two codes is only sqrt(d / 2) away, where no picture has its code. The path along the
sphere stays where the codes of pictures are.

References:
    White (2016). Sampling generative networks. arXiv:1609.04468.
    Shoemake (1985). Animating rotation with quaternion curves. SIGGRAPH.
"""

import torch
from jaxtyping import Float
from torch import Tensor

_MIN_SINE = 1e-4  # the path is a straight line if the sine of the angle is below this


def lerp(
    a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], t: Float[Tensor, "t"]
) -> Float[Tensor, "n t d"]:
    """Return (1 - t) a + t b: the straight line."""
    return torch.lerp(a[:, None], b[:, None], t[:, None])


def slerp(
    a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], t: Float[Tensor, "t"]
) -> Float[Tensor, "n t d"]:
    """Return sin((1 - t) w) / sin(w) a + sin(t w) / sin(w) b, where w is the angle between a and b.

    It goes from a (t = 0) to b (t = 1) along the great circle. Where a and b have the same or
    opposite directions, the circle is not determined, and it is the straight line.
    """
    cosine = torch.cosine_similarity(a, b).clamp(-1, 1)
    w = cosine.acos()[:, None, None]
    sine, t_ = w.sin(), t[:, None]
    arc = (((1 - t_) * w).sin() * a[:, None] + (t_ * w).sin() * b[:, None]) / sine
    return torch.where(sine > _MIN_SINE, arc, lerp(a, b, t))
