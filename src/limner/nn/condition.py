"""From what a picture should be of to what a network can use: once, for every family."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from limner.image import Condition, ImageSpec


class Signal(NamedTuple):
    """A condition in a network's terms; absent parts are None.

    Args:
        vector: for FiLM, conditional norms, gated biases, mapping networks; "b d".
        tokens: for cross-attention; "b l d".
        mask: which tokens are no padding; "b l".
        planes: for concatenation with the picture; "b k h w".
    """

    vector: Float[Tensor, "b d"] | None = None
    tokens: Float[Tensor, "b l d"] | None = None
    mask: Bool[Tensor, "b l"] | None = None
    planes: Float[Tensor, "b k h w"] | None = None


class Conditioner(nn.Module):
    """A `Condition` as a `Signal`, according to what the data have: labels a vector, an image planes.

    A row without a label (-1) has a learned vector of its own; a row without its image gets zero planes and a
    presence plane that says so.

    Args:
        spec: what the data are.
        dim: the length of the vector.
    """

    def __init__(self, spec: ImageSpec, dim: int) -> None:
        super().__init__()
        self.size = spec.height, spec.width
        self.label = nn.Embedding(len(spec.labels) + 1, dim) if spec.labels else None
        self.planes = spec.hint.channels + 1 if spec.hint else 0

    def forward(self, c: Condition, n: int) -> Signal:
        """The signal for n pictures; a part that c lacks altogether is null for every row."""
        vector = planes = None
        if self.label is not None:
            index = self.label.weight.new_zeros(n, dtype=torch.long)
            vector = self.label(index if c.label is None else c.label + 1)
        if self.planes:
            planes = self._planes(c, n)
        return Signal(vector=vector, planes=planes)

    def _planes(self, c: Condition, n: int) -> Float[Tensor, "b k h w"]:
        if c.image is None:
            like = next(self.parameters(), torch.empty(0))
            return torch.zeros(n, self.planes, *self.size, device=like.device)
        image = c.image
        if image.shape[-2:] != self.size:
            image = F.interpolate(image, self.size, mode="bilinear", antialias=True)
        present = image.new_ones(n, 1, 1, 1)
        if c.present is not None:
            present = c.present.to(image.dtype).view(n, 1, 1, 1)
        return torch.cat([image * present, present.expand(n, 1, *self.size)], dim=1)
