"""Embeddings of numbers, such as time."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


def sinusoidal(
    number: Float[Tensor, "b"], dim: int, max_period: float = 10_000.0
) -> Float[Tensor, "b dim"]:
    """Return cos and sin of the number at dim / 2 frequencies, geometric from 1 down to 1 /
    max_period.

    Vaswani et al. (2017), arXiv:1706.03762, section 3.5, as used for time by DDPM.
    """
    half = dim // 2
    exponent = torch.arange(half, dtype=torch.float64, device=number.device) / half
    angles = number.double()[:, None] * max_period**-exponent
    return torch.cat([angles.cos(), angles.sin()], dim=1).float()


class NumberEmbedding(nn.Module):
    """A number -> its sinusoids -> a two-layer perceptron.

    Args:
        dim: the length of the vector.
        features: the number of sinusoids, which is even; at most 128 unless given.
    """

    def __init__(self, dim: int, features: int | None = None) -> None:
        super().__init__()
        self.features = features or 2 * math.ceil(min(dim, 128) / 2)
        self.perceptron = nn.Sequential(
            nn.Linear(self.features, dim), nn.SiLU(), nn.Linear(dim, dim)
        )

    def forward(self, number: Float[Tensor, "b"]) -> Float[Tensor, "b dim"]:
        """Return a vector for each number."""
        features = sinusoidal(number, self.features)
        return self.perceptron(features.to(next(self.parameters()).dtype))
