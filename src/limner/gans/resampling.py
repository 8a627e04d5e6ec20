"""Halving and doubling of pictures without aliasing, with the filter [1, 3, 3, 1].

    blurred      y = f * x                       3 pixels smaller than x with its border
    doubled      y = 4 f * (x, zeros between)    the factor 4 makes up for the zeros
    halved       y = (f * x), every other one    the scaled adjoint: halved = doubled^T / 4

f = [1, 3, 3, 1] outer [1, 3, 3, 1] / 64 keeps the mean, and pixels outside of the picture are 0.
These are depthwise convolutions, so they can be differentiated any number of times.

Karras, Laine, Aila (2018). A style-based generator architecture for generative adversarial
networks. arXiv:1812.04948, section 2.1. Zhang (2019). Making convolutional networks
shift-invariant again. arXiv:1904.11486.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_TAPS = (1.0, 3.0, 3.0, 1.0)


def _filter(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "c 1 4 4"]:
    """Return f for each channel of x; its sum is 1."""
    taps = torch.tensor(_TAPS, dtype=x.dtype, device=x.device) / sum(_TAPS)
    return (taps[:, None] * taps).expand(x.shape[1], 1, 4, 4)


def blur(x: Float[Tensor, "b c h w"], border: int) -> Float[Tensor, "b c hh ww"]:
    """Return f * x, for x with a border of zeros: h + 2 border - 3 pixels high."""
    return F.conv2d(x, _filter(x), padding=border, groups=x.shape[1])


def upsample(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 2*h 2*w"]:
    """Return x twice as high and wide."""
    return F.conv_transpose2d(x, 4 * _filter(x), stride=2, padding=1, groups=x.shape[1])


def downsample(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h//2 w//2"]:
    """Return x half as high and wide; h and w must be even."""
    return F.conv2d(x, _filter(x), stride=2, padding=1, groups=x.shape[1])
