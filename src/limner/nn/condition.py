"""Conversion of a `Condition` to vectors, tokens and planes that a network can use."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from limner.contract.image import Condition, ImageSpec
from limner.nn.text import TextEncoder

_WORD_SIZE = 192  # size of the word table's rows; a wider transformer would cost as much as a U-Net


class Signal(NamedTuple):
    """A condition as a network uses it; absent parts are None.

    Args:
        vector: a vector for FiLM, conditional norms, gated biases, mapping networks; "b d".
        tokens: tokens for cross-attention; "b l d".
        mask: whether each token is not padding; or, as numbers, the logarithm of its weight; "b l".
        planes: planes for concatenation with the picture; "b k h w".
    """

    vector: Float[Tensor, "b d"] | None = None
    tokens: Float[Tensor, "b l d"] | None = None
    mask: Bool[Tensor, "b l"] | Float[Tensor, "b l"] | None = None
    planes: Float[Tensor, "b k h w"] | None = None


class Conditioner(nn.Module):
    """Converts a `Condition` to a `Signal`: a label to a vector, text to a vector and tokens, an
    image to planes.

    The vectors of label and text are added. A learned vector stands for a missing label (-1) or
    text (all padding); a row without its image has zero planes and a presence plane of zeros.

    Args:
        spec: the specification of the data.
        dim: the length of the vector; tokens have the same length, but not more than words have.

    Attributes:
        token_dim: the length of each token; None if there are none.
        planes: the number of planes.
    """

    def __init__(self, spec: ImageSpec, dim: int) -> None:
        super().__init__()
        self.size = spec.height, spec.width
        self.label = nn.Embedding(len(spec.labels) + 1, dim) if spec.labels else None
        self.token_dim = min(dim, _WORD_SIZE) if spec.text else None
        self.text = None
        if spec.text and self.token_dim:
            self.text = TextEncoder(spec.text, self.token_dim, dim)
        self.planes = spec.hint.channels + 1 if spec.hint else 0

    def forward(self, c: Condition, n: int) -> Signal:
        """Return the signal for n pictures; a part that c does not have is null for every row."""
        vector = tokens = mask = planes = None
        if self.label is not None:
            index = self.label.weight.new_zeros(n, dtype=torch.long)
            vector = self.label(index if c.label is None else c.label + 1)
        if self.text is not None:
            padding = self.text.positions.new_zeros(n, 1, dtype=torch.long)
            tokens, mask, text_vector = self.text(padding if c.text is None else c.text, c.weight)
            if c.weight is not None:
                mask = c.weight.log().masked_fill(~mask, float("-inf"))
            vector = text_vector if vector is None else vector + text_vector
        if self.planes:
            planes = self._planes(c, n)
        return Signal(vector, tokens, mask, planes)

    def _planes(self, c: Condition, n: int) -> Float[Tensor, "b k h w"]:
        if c.image is None:
            weight = next(self.parameters(), torch.empty(0))
            return torch.zeros(n, self.planes, *self.size, device=weight.device)
        image = c.image
        if image.shape[-2:] != self.size:
            image = F.interpolate(image, self.size, mode="bilinear", antialias=True)
        present = image.new_ones(n, 1, 1, 1)
        if c.present is not None:
            present = c.present.to(image.dtype).view(n, 1, 1, 1)
        return torch.cat([image * present, present.expand(n, 1, *self.size)], dim=1)
