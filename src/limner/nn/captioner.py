"""A captioner: the likelihood of a caption, given the picture."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from limner.contract.image import Images, ImageSpec, TextSpec
from limner.contract.text import word_table
from limner.nn.embed import sinusoidal
from limner.nn.norm import NormSiLU
from limner.nn.residual import ResidualBlock
from limner.nn.wide_convolution import StridedConv2d

_HEAD_SIZE = 24  # the size of an attention head, or more if it does not divide the width
_MAX_PERIOD = 100.0  # the longest period of a sinusoid, in places or words
_STEM_STRIDE = 4  # stride of the first convolution, in pixels


class Captioner(nn.Module):
    """A convolutional network encodes the picture; a transformer predicts its caption word by word.

        log p(c | x) = sum_i log softmax(E out(h_i) / sqrt(d))[c_i],
        h_i = decoder(c_1 ... c_i-1, look(x))

    E has the projected vectors, of length d, of the bundled word table, which is not trained, and
    of an end token. Only tokens given to `learn_tokens` are predicted; others are only input.
    Vinyals et al. (2015), arXiv:1411.4555; the decoder of Vaswani et al. (2017), arXiv:1706.03762,
    with its input's vectors at its output (Press, Wolf (2017), arXiv:1608.05859).

    Args:
        spec: the specification of the pictures.
        text: how captions become tokens.
        channels: the channels of the network at a quarter, an eighth, ... of the sides.
        blocks: residual blocks at each of these sizes.
        words: the length of a token's vector.
        layers: the number of layers of the decoder.
    """

    table: Tensor
    scale: Tensor
    known: Tensor

    def __init__(
        self,
        spec: ImageSpec,
        text: TextSpec,
        channels: tuple[int, ...],
        blocks: tuple[int, ...],
        words: int,
        layers: int,
    ) -> None:
        super().__init__()
        table, scale = word_table(text)
        self.register_buffer("table", table, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("known", torch.zeros(len(table), dtype=torch.bool))
        parts: list[nn.Module] = []
        kernel, stride, height, width = 2 * _STEM_STRIDE - 1, _STEM_STRIDE, spec.height, spec.width
        for channels_in, out, count in zip((spec.channels, *channels), channels, blocks):
            parts.append(StridedConv2d(channels_in, out, kernel, stride, kernel // 2))
            parts += [ResidualBlock(out, out) for _ in range(count)] or [NormSiLU(out)]
            height, width = (-(-side // stride) for side in (height, width))
            kernel, stride = 3, 2
        self.network = nn.Sequential(*parts, NormSiLU(channels[-1]))
        self.look_at = nn.Linear(channels[-1], words)
        self.look_norm = nn.LayerNorm(words)
        self.places = nn.Parameter(_places(height, width, words))
        self.project = nn.Linear(table.shape[1], words)
        self.first, self.end = (nn.Parameter(torch.zeros(words)) for _ in range(2))
        steps = torch.arange(text.length + 1).float()
        self.positions = nn.Parameter(sinusoidal(steps, words + words % 2, _MAX_PERIOD)[:, :words])
        self.layers = nn.ModuleList(_Layer(words) for _ in range(layers))
        self.norm = nn.LayerNorm(words)
        self.out = nn.Linear(words, words)

    def learn_tokens(self, text: Int[Tensor, "b l"]) -> None:
        """Predict the tokens of these captions from now on, too."""
        self.known[text] = True
        self.known[0] = False  # padding

    def forward(
        self, x: Images, text: Int[Tensor, "b l"], weight: Float[Tensor, "b l"] | None = None
    ) -> Float[Tensor, "b"]:
        """Return log p(caption | picture), in nats.

        Args:
            x: the pictures.
            text: the tokens.
            weight: the weight of each token; 1 unless given.
        """
        tokens = self.known.nonzero()[:, 0]
        number = (self.known.cumsum(0) * self.known)[text]  # among the known, from 1; 0 is the end
        memory = self._picture_features(x)
        words = torch.cat([self.first.expand(len(text), 1, -1), self._words(text)], 1)
        h = words + self.positions[: words.shape[1]]
        for layer in self.layers:
            h = layer(h, memory)
        vectors = torch.cat([self.end[None], self._words(tokens)])
        logits = (self.out(self.norm(h)) @ vectors.T).float() * vectors.shape[1] ** -0.5
        lengths = (text != 0).sum(1, keepdim=True)
        index = torch.arange(words.shape[1], device=text.device)
        counts = F.pad(number > 0, (0, 1)) | (index == lengths)
        nats = F.cross_entropy(logits.transpose(1, 2), F.pad(number, (0, 1)), reduction="none")
        counts = counts if weight is None else counts * F.pad(weight, (0, 1), value=1.0)
        return -(nats * counts).sum(1)

    def _picture_features(self, x: Images) -> Float[Tensor, "b places d"]:
        """Return the features of each place of the pictures."""
        return self.look_norm(self.look_at(self.network(x).flatten(2).mT)) + self.places

    def _words(self, text: Int[Tensor, "*n"]) -> Float[Tensor, "*n d"]:
        """Return the projected vectors of tokens."""
        return self.project(self.table[text].to(self.scale.dtype) * self.scale[text][..., None])


def _places(height: int, width: int, dim: int) -> Float[Tensor, "places d"]:
    """Return sinusoids of the row, then of the column, of each place.

    Without them, the network learns positions last of all.
    """
    half = (dim + 3) // 4 * 2
    rows, columns = (
        sinusoidal(torch.arange(side).float(), half, _MAX_PERIOD) for side in (height, width)
    )
    table = torch.cat([rows.repeat_interleave(width, 0), columns.repeat(height, 1)], 1)
    return table[:, :dim]


class _Layer(nn.Module):
    """Attention to the words before, attention to the picture, and a perceptron; each has a norm
    before it and is added to its input. It is the identity at first."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.heads = next(n for n in range(max(1, dim // _HEAD_SIZE), 0, -1) if dim % n == 0)
        self.norm_1, self.norm_2, self.norm_3 = (nn.LayerNorm(dim) for _ in range(3))
        self.query_1, self.query_2 = (nn.Linear(dim, dim) for _ in range(2))
        self.key_value_1, self.key_value_2 = (nn.Linear(dim, 2 * dim) for _ in range(2))
        self.out_1, self.out_2 = (nn.Linear(dim, dim) for _ in range(2))
        self.fc_1, self.fc_2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        for layer in (self.out_1, self.out_2, self.fc_2):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, h: Float[Tensor, "b l d"], memory: Float[Tensor, "b places d"]
    ) -> Float[Tensor, "b l d"]:
        """Return the vectors after attention to the words before and to the picture."""
        q = self.norm_1(h)
        h = h + self.out_1(self._attend(self.query_1(q), self.key_value_1(q), causal=True))
        q = self.norm_2(h)
        h = h + self.out_2(self._attend(self.query_2(q), self.key_value_2(memory), causal=False))
        return h + self.fc_2(F.gelu(self.fc_1(self.norm_3(h))))

    def _attend(
        self, query: Float[Tensor, "b l d"], key_value: Float[Tensor, "b m e"], causal: bool
    ) -> Float[Tensor, "b l d"]:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (query, *key_value.chunk(2, -1))
        )
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2)
