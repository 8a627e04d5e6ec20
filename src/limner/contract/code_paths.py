"""Paths between codes: the straight line, and the great circle.

In many dimensions a standard normal code is about sqrt(d) away from 0, so that the middle of the
straight line between two of them, sqrt(d / 2) away, is the code of no picture; the path along the
sphere stays where codes are.

References:
    White (2016). Sampling generative networks. arXiv:1609.04468.
    Shoemake (1985). Animating rotation with quaternion curves. SIGGRAPH.
"""

import torch
from jaxtyping import Float
from torch import Tensor

_PARALLEL = 1e-4  # the sine of an angle below which a great circle is a line


def lerp(
    a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], t: Float[Tensor, "t"]
) -> Float[Tensor, "n t d"]:
    """(1 - t) a + t b: the straight line."""
    return torch.lerp(a[:, None], b[:, None], t[:, None])


def slerp(
    a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], t: Float[Tensor, "t"]
) -> Float[Tensor, "n t d"]:
    """sin((1 - t) w) / sin(w) a + sin(t w) / sin(w) b, w being the angle between a and b.

    It goes from a, t = 0, to b, t = 1, along the great circle, and is the straight line where the
    circle is not determined: a and b have one direction, or opposite ones.
    """
    cosine = torch.cosine_similarity(a, b).clamp(-1, 1)
    w = cosine.acos()[:, None, None]
    sine, t_ = w.sin(), t[:, None]
    bent = (((1 - t_) * w).sin() * a[:, None] + (t_ * w).sin() * b[:, None]) / sine
    return torch.where(sine > _PARALLEL, bent, lerp(a, b, t))
