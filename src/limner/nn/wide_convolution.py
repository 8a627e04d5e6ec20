"""A convolution that autocast leaves alone."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class WideConv2d(nn.Conv2d):
    """A convolution in the dtype of its weights under autocast, too.

    It is the last one before a law of pixels, whose means bfloat16 would round by up to half a grey
    level: 0.204 in place of 0.158 bits/dim at a scale of e^-7. It is also for strides over a map
    that may be one cell wide: there, on a CPU, torch leaves some of the kernel's gradient in
    bfloat16 unset.
    """

    def forward(self, input: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o hh ww"]:
        """The same as `Conv2d`."""
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.to(self.weight.dtype))
