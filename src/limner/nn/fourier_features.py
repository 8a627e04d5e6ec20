"""Fourier features, which separate close levels, for networks trained with a likelihood."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


def fourier_features(
    x: Float[Tensor, "b c h w"], levels: int, count: int
) -> Float[Tensor, "b d h w"]:
    """Return sin and cos of pi (levels - 1) x / 2^j for j = 0 .. count - 1.

    The finest pair repeats with each level, each further pair half as often. Kingma et al. (2021),
    arXiv:2107.00630, appendix C, where j is 0 and 1. Whole periods are subtracted first, because
    some sines, such as those of graphics cards, are exact only near 0.
    """
    periods = torch.cat([(levels - 1) / 2 ** (j + 1) * x for j in range(count)], dim=1)
    angles = 2 * math.pi * (periods - periods.round())
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class FourierFeatures(nn.Module):
    """A picture and its features f, scaled by the time: (1 + A v) [x, f(x)].

    Features whose period is too short for the noise are noise themselves. Scaled by the time, they
    can be suppressed, and the others use the channels of the first convolution.

    Args:
        channels: the channels of the picture.
        levels, count: see `fourier_features`.
        vector: the length of v, which encodes the time.
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
        """Return the planes that a network gets in place of x."""
        planes = torch.cat([x, fourier_features(x, self.levels, self.count)], dim=1)
        return (1 + self.gain(vector).to(x))[..., None, None] * planes
