"""From a `Condition` to vectors, tokens and planes that a network can use."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from limner.contract.image import Condition, ImageSpec
from limner.nn.text import TextEncoder

_WORD = 192  # a row of the word table; a wider transformer would cost what a U-Net does


class Signal(NamedTuple):
    """A condition in a network's terms; absent parts are None.

    Args:
        vector: for FiLM, conditional norms, gated biases, mapping networks; "b d".
        tokens: for cross-attention; "b l d".
        mask: which tokens are not padding; or, as numbers, the logarithm of how much each counts;
            "b l".
        planes: for concatenation with the picture; "b k h w".
    """

    vector: Float[Tensor, "b d"] | None = None
    tokens: Float[Tensor, "b l d"] | None = None
    mask: Bool[Tensor, "b l"] | Float[Tensor, "b l"] | None = None
    planes: Float[Tensor, "b k h w"] | None = None


class Conditioner(nn.Module):
    """A `Condition` as a `Signal`: labels make a vector, text a vector and tokens, images planes.

    The vectors of label and text add up. A row without a label (-1) or text (all padding) has a
    learned vector of its own; a row without its image gets zero planes and a presence plane that
    says so.

    Args:
        spec: what the data are.
        dim: the length of the vector; tokens are as long, but not longer than words are.

    Attributes:
        token_dim: the length of each token; None when there are none.
        planes: how many there are.
    """

    def __init__(self, spec: ImageSpec, dim: int) -> None:
        super().__init__()
        self.size = spec.height, spec.width
        self.label = nn.Embedding(len(spec.labels) + 1, dim) if spec.labels else None
        self.token_dim = min(dim, _WORD) if spec.text else None
        self.text = None
        if spec.text and self.token_dim:
            self.text = TextEncoder(spec.text, self.token_dim, dim)
        self.planes = spec.hint.channels + 1 if spec.hint else 0

    def forward(self, c: Condition, n: int) -> Signal:
        """The signal for n pictures; a part that c lacks altogether is null for every row."""
        vector = tokens = mask = planes = None
        if self.label is not None:
            index = self.label.weight.new_zeros(n, dtype=torch.long)
            vector = self.label(index if c.label is None else c.label + 1)
        if self.text is not None:
            padding = self.text.positions.new_zeros(n, 1, dtype=torch.long)
            tokens, mask, said = self.text(padding if c.text is None else c.text, c.weight)
            if c.weight is not None:
                mask = c.weight.log().masked_fill(~mask, float("-inf"))
            vector = said if vector is None else vector + said
        if self.planes:
            planes = self._planes(c, n)
        return Signal(vector, tokens, mask, planes)

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
