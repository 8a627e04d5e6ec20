"""Gated PixelCNN: two stacks of gated convolutions without a blind spot.

van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves, Kavukcuoglu (2016). Conditional image
generation with PixelCNN decoders. arXiv:1606.05328, section 2, equations 2 and 3, figure 2.

    vertical stack      convolutions of the rows above, right of the pixel as well as left
    horizontal stack    convolutions along the row, up to the pixel; each layer also takes features
                        of the vertical stack
    both                y = tanh(W_f * x + V_f h) sigmoid(W_g * x + V_g h)                  (3)

where h is a vector of the label, the caption, or both. Kept: a first layer of 7 x 7 with mask A,
then layers of 3 x 3; residual connections in the horizontal stack only; two 1 x 1 convolutions, and
a softmax over the levels. The picture is shifted down by a row before the vertical stack, so that
none of its layers needs a mask.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limner.autoregressive.autoregressive_model import AutoregressiveModel
from limner.autoregressive.causal_convolution import (
    CausalConv2d,
    Mask,
    RowConv2d,
    Walk,
    shift_down,
)
from limner.contract.image import ImageSpec
from limner.contract.options import Count, Share
from limner.contract.registry import Paper, register
from limner.maths.pixel_distributions import softmax_distribution


def gate(x: Float[Tensor, "*at g"]) -> Float[Tensor, "*at f"]:
    """Return the first half's tanh times the second half's sigmoid (equation 2)."""
    f, g = x.chunk(2, -1)
    return f.tanh() * g.sigmoid()


class Vertical(nn.Module):
    """A layer of the vertical stack, on rows that are shifted down.

    Args:
        ins, outs: input and output features.
        vector: length of the condition's vector; 0 without one.
        rows, reach: size of the kernel, see `RowConv2d`.
    """

    def __init__(self, ins: int, outs: int, vector: int, rows: int, reach: int) -> None:
        super().__init__()
        self.conv = RowConv2d(ins, 2 * outs, rows, reach)
        self.link = nn.Linear(2 * outs, 2 * outs, bias=False)
        self.condition_bias = nn.Linear(vector, 4 * outs, bias=False) if vector else None

    def forward(
        self, v: Float[Tensor, "*at i"], vector: Tensor | None, walk: Walk | None
    ) -> tuple[Float[Tensor, "*at o"], Float[Tensor, "*at g"]]:
        """Return the features, and the link to the horizontal stack, with the condition's bias."""
        h = self.conv(v, walk)
        link = self.link(h)
        if self.condition_bias is not None:
            vertical, horizontal = self.condition_bias(vector).chunk(2, -1)
            h, link = h + vertical, link + horizontal
        return gate(h), link


class Horizontal(nn.Module):
    """A layer of the horizontal stack.

    Args:
        ins, outs: input and output features.
        channels: channels of the picture.
        reach: number of columns of the kernel to the left of the pixel.
        mask: "A" for the first layer, which has no residual connection.
    """

    def __init__(self, ins: int, outs: int, channels: int, reach: int, mask: Mask = "B") -> None:
        super().__init__()
        self.conv = CausalConv2d(ins, 2 * outs, left=reach, mask=mask, channels=channels, parts=2)
        self.conv_out = CausalConv2d(outs, outs, channels=channels)
        self.residual = mask == "B"

    def forward(
        self, h: Float[Tensor, "*at i"], link: Float[Tensor, "*to g"], walk: Walk | None
    ) -> Float[Tensor, "*to o"]:
        """Return the features."""
        new = self.conv_out(gate(self.conv(h, walk) + link), walk)
        return h + new if self.residual else new


class Network(nn.Module):
    """The network that returns theta of every pixel.

    Args:
        channels: channels of the picture.
        size: dimension of theta.
        features, layers, top: see `GatedPixelCNN`.
        vector: length of the condition's vector; 0 without one.
    """

    def __init__(
        self, channels: int, size: int, features: int, layers: int, top: int, vector: int
    ) -> None:
        super().__init__()
        f, C = features, channels
        vertical = [Vertical(f, f, vector, rows=2, reach=1) for _ in range(layers)]
        horizontal = [Horizontal(f, f, C, reach=1) for _ in range(layers)]
        self.down = nn.ModuleList([Vertical(C, f, vector, rows=3, reach=3), *vertical])
        self.horizontal = nn.ModuleList([Horizontal(C, f, C, reach=3, mask="A"), *horizontal])
        self.top = CausalConv2d(f, top, channels=C)
        self.conv_out = CausalConv2d(top, size, channels=C)

    def forward(
        self, x: Float[Tensor, "b h w c"], vector: Tensor | None, walk: Walk | None = None
    ) -> Float[Tensor, "..."]:
        """Return theta of all pixels, or of the walk's front."""
        if walk is None:
            links = self.links(shift_down(x), vector, None)
        else:
            row_vector = None if vector is None else vector[:, None]
            row = walk.each_row(self, lambda: self.links(walk.row_above(x), row_vector, walk))
            links = [link[:, walk.column] for link in row]
        h = x
        for layer, link in zip(self.horizontal, links):
            h = layer(h, link, walk)
        return self.conv_out(F.relu(self.top(F.relu(h), walk)), walk)

    def links(
        self, v: Float[Tensor, "*at i"], vector: Tensor | None, walk: Walk | None
    ) -> list[Float[Tensor, "*at g"]]:
        """Return the link from the vertical stack to each layer of the horizontal one."""
        links: list[Tensor] = []
        for layer in self.down:
            v, link = layer(v, vector, walk)
            links.append(link)
        return links


@register(
    "gated-pixelcnn",
    family="autoregressive",
    paper=Paper(
        "Conditional image generation with PixelCNN decoders",
        "van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves, Kavukcuoglu",
        2016,
        "1606.05328",
    ),
    tiny={"features": 8, "layers": 1, "top": 12},
    train={"lr": 1e-3, "clip": 1.0},
)
class GatedPixelCNN(AutoregressiveModel):
    """Gated PixelCNN: exact likelihood with gated convolutions without a blind spot.

    Args:
        spec: specification of the images.
        features: features of each stack.
        layers: number of layers after the first one.
        top: features of the last hidden layer.
        condition_dropout: probability of hiding the condition in training.
    """

    def __init__(
        self,
        spec: ImageSpec,
        features: Count = 32,
        layers: Count = 10,
        top: Count = 64,
        condition_dropout: Share = 0.1,
    ) -> None:
        super().__init__(spec, features, condition_dropout)
        self.law = softmax_distribution(spec)
        size = self.law.size
        self.network = Network(spec.channels, size, features, layers, top, self.vector_size)
