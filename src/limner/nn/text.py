"""Text encoder: a small transformer on a frozen word table."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from limner.contract.image import TextSpec
from limner.contract.text import Tokenizer, word_table
from limner.nn.attention import Attention
from limner.nn.embed import sinusoidal


class Encoded(NamedTuple):
    """The output of the text encoder.

    Args:
        tokens: one vector for each token; zero for padding.
        mask: whether each token is not padding.
        vector: the vector of the whole text; a learned one if there is no text.
    """

    tokens: Float[Tensor, "b l d"]
    mask: Bool[Tensor, "b l"]
    vector: Float[Tensor, "b p"]


class TextEncoder(nn.Module):
    """Tokens -> word vectors (frozen) -> a projection, plus learned positions, which start as
    sinusoids -> transformer layers.

    The word table gives a meaning to words that no caption had. The layers, which start as the
    identity, learn the meaning of word order. The table is not part of the state; the specification
    has its SHA-256 instead. The state records the tokens seen in training, see `unseen_words`.

    Args:
        spec: how captions become tokens.
        dim: the length of each token's vector.
        pooled: the length of the text's vector.
        layers: the number of transformer layers.

    Raises:
        LimnerError: the specification is not that of the bundled word table.
    """

    table: Tensor
    scale: Tensor
    seen: Tensor

    def __init__(self, spec: TextSpec, dim: int, pooled: int, layers: int = 2) -> None:
        super().__init__()
        table, scale = word_table(spec)
        self.register_buffer("table", table, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("seen", torch.zeros(len(table), dtype=torch.bool))
        self.project = nn.Linear(table.shape[1], dim)
        self.positions = nn.Parameter(
            sinusoidal(torch.arange(spec.length).float(), dim + dim % 2, 100.0)[:, :dim]
        )
        self.layers = nn.ModuleList(_Layer(dim, f"text{i}.self") for i in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.pool = nn.Linear(dim, pooled)
        self.null = nn.Parameter(torch.zeros(pooled))

    def forward(
        self, text: Int[Tensor, "b l"], weight: Float[Tensor, "b l"] | None = None
    ) -> Encoded:
        """Return the vectors of a text; more padding, up to the specification's length, changes
        nothing.

        Args:
            text: the tokens.
            weight: the weight of each token in the text's vector; 1 unless given.
        """
        if self.training:
            self.seen[text] = True
        mask = text != 0
        has_text = mask.any(1, keepdim=True)
        key_mask = mask | ~has_text  # a row of padding attends to itself; its result is not used
        x = self.project(self.table[text].to(self.scale.dtype) * self.scale[text][..., None])
        x = x + self.positions[: text.shape[1]]
        for layer in self.layers:
            x = layer(x, key_mask)
        tokens = self.norm(x) * mask[..., None]
        if weight is None:
            mean = tokens.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        else:
            weights = (weight * mask).to(tokens)[..., None]
            mean = (tokens * weights).sum(1) / weights.sum(1).clamp(min=1e-6)
        vector = torch.where(has_text, self.pool(mean), self.null)
        return Encoded(tokens, mask, vector)


def unseen_words(model: nn.Module, spec: TextSpec, text: str) -> list[str]:
    """Return the words of a text, as written, that no caption had in the training of a model.

    Punctuation is not a word. A word that the tokenizer cuts into pieces counts as seen if each
    piece was seen. A model that was never trained, or whose file is older than this list, has no
    record, and no word is returned.
    """
    encoders = [encoder for encoder in model.modules() if isinstance(encoder, TextEncoder)]
    if not encoders:
        return []
    seen = torch.stack([encoder.seen for encoder in encoders]).any(0)
    if not seen.any():
        return []
    tokenizer = Tokenizer(spec)
    tokens = tokenizer.read(text).tokens
    words = [(word, i) for word, i in tokenizer.places(text) if any(map(str.isalnum, word))]
    return [word for word, positions in words if not all(seen[tokens[i]] for i in positions)]


class _Layer(nn.Module):
    """Self-attention, then a perceptron on each token; each has a norm before it, and is added to
    its input.

    Vaswani et al. (2017), arXiv:1706.03762, with the norm first as in Xiong et al. (2020),
    arXiv:2002.04745.
    """

    def __init__(self, dim: int, site: str) -> None:
        super().__init__()
        self.attention = Attention(dim, site=site)
        self.norm = nn.LayerNorm(dim)
        self.fc_1 = nn.Linear(dim, 4 * dim)
        self.fc_2 = nn.Linear(4 * dim, dim)
        nn.init.zeros_(self.fc_2.weight)
        nn.init.zeros_(self.fc_2.bias)

    def forward(
        self, x: Float[Tensor, "b l d"], mask: Bool[Tensor, "b l"]
    ) -> Float[Tensor, "b l d"]:
        """Return the tokens after attention to those where the mask is true."""
        row = self.attention(x.transpose(1, 2)[..., None], mask=mask)  # a picture one pixel wide
        x = row[..., 0].transpose(1, 2)
        return x + self.fc_2(F.gelu(self.fc_1(self.norm(x))))
