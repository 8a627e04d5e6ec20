"""Fourier features: what tells close levels apart, for networks whose loss is a likelihood."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


def fourier_features(
    x: Float[Tensor, "b c h w"], levels: int, count: int
) -> Float[Tensor, "b d h w"]:
    """sin and cos of pi (levels - 1) x / 2^j for j = 0 .. count - 1.

    The finest repeat with each level, and each further pair half as often. Kingma et al.
    (2021), arXiv:2107.00630, appendix C, where j is 0 and 1. Whole periods are taken off first, for
    sines that are exact near 0 alone, as those of graphics cards.
    """
    periods = torch.cat([(levels - 1) / 2 ** (j + 1) * x for j in range(count)], dim=1)
    angles = 2 * math.pi * (periods - periods.round())
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class FourierFeatures(nn.Module):
    """A picture and its features f, each as strong as the time tells: (1 + A v) [x, f(x)].

    Features whose period is too short for the noise are noise themselves. Weighed by the time, they
    can be turned down, and the others share the channels of the first convolution.

    Args:
        channels: of the picture.
        levels, count: see `fourier_features`.
        vector: the length of v, which tells the time.
    """

    def __init__(self, channels: int, levels: int, count: int, vector: int) -> None:
        super().__init__()
        self.levels, self.count = levels, count
        self.out_channels = channels * (1 + 2 * count)
        self.gain = nn.Linear(vector, self.out_channels)
        nn.init.zeros_(self.gain.weight)
        nn.init.zeros_(self.gain.bias)

    def forward(
        self, x: Float[Tensor, "b c h w"], vector: Float[Tensor, "b v"]
    ) -> Float[Tensor, "b d h w"]:
        """The planes that a network sees instead of x."""
        planes = torch.cat([x, fourier_features(x, self.levels, self.count)], dim=1)
        return (1 + self.gain(vector).to(x))[..., None, None] * planes
