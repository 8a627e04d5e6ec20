"""Transforms with a precomputed inverse, for programs that cannot invert a matrix."""

import copy
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limner.maths.transforms import (
    NO_SIGNAL,
    InvertibleConv,
    Numbers,
    Signal,
    Transform,
    Transformed,
)


class FixedConv(Transform):
    """z = W x at every pixel, with a precomputed inverse.

    Args:
        learnt: the convolution that it is equal to.
    """

    W: Tensor
    back: Tensor
    log_c: Tensor

    def __init__(self, learnt: InvertibleConv) -> None:
        super().__init__()
        with torch.no_grad():
            W = learnt.W
            self.register_buffer("W", W)
            self.register_buffer("back", torch.linalg.inv(W.double()).to(W.dtype))
            self.register_buffer("log_c", learnt.log_s.sum())

    def forward(self, x: Numbers, s: Signal = NO_SIGNAL) -> Transformed:
        """Return the same as the learnt convolution."""
        z = F.conv2d(x, self.W[:, :, None, None])
        return z, (self.log_c * x[0, 0].numel()).expand(len(x))

    def inverse(self, z: Numbers, s: Signal = NO_SIGNAL) -> Numbers:
        """Return W^-1 z."""
        return F.conv2d(z, self.back[:, :, None, None])


_M = TypeVar("_M", bound=nn.Module)


def without_inversions(model: _M) -> _M:
    """Return a model that inverts no matrix: a copy if it has to be changed, itself otherwise."""
    if not any(isinstance(module, InvertibleConv) for module in model.modules()):
        return model
    fixed = copy.deepcopy(model)
    for module in [*fixed.modules()]:
        for name, child in [*module.named_children()]:
            if isinstance(child, InvertibleConv):
                setattr(module, name, FixedConv(child))
    return fixed
