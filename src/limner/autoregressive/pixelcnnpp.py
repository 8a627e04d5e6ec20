"""PixelCNN++: mixtures of logistics for whole pixels, in a network with downsampling.

Salimans, Karpathy, Chen, Kingma (2017). PixelCNN++: improving the PixelCNN with discretized
logistic mixture likelihood and other modifications. arXiv:1701.05517.

    section 2.1     the discretised logistic mixture, see `limner.maths.pixel_distributions`
    section 2.2     all channels of a pixel at once, so that no feature belongs to one of them
    section 2.3     strided and transposed convolutions, for a large receptive field
    section 2.4     skip connections from the way down to the way up
    section 2.5     dropout on the residual path

As in Gated PixelCNN there are two streams: one of the rows above, and one of the row up to the
pixel, which also takes features of the first. Kept from the paper's code: kernels of 2 x 3 and
2 x 2, an ELU of both x and -x, gates, weight normalisation, and an initialisation from data:
features of the first batch have mean 0 and deviation 1 (0.1 where they are added to others).
Different: pictures of any size, and any number of sizes inside the network.
"""

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from limner.autoregressive.autoregressive_model import AutoregressiveModel
from limner.autoregressive.causal_convolution import (
    CausalConv2d,
    RowConv2d,
    Walk,
    shift_down,
    shift_right,
)
from limner.contract.image import Batch, ImageSpec
from limner.contract.noise import Noise
from limner.contract.options import Count, Rate, Share
from limner.contract.registry import Paper, register
from limner.maths.pixel_distributions import DiscretisedLogisticMixture

_RESIDUAL_DEVIATION = 0.1  # initial deviation of features that are added to a residual stream
_MIN_DEVIATION = 1e-4  # features with a smaller one are not rescaled


def both_elu(x: Float[Tensor, "*at f"]) -> Float[Tensor, "*at g"]:
    """Return the ELU of x and of -x, as twice as many features."""
    return F.elu(torch.cat([x, -x], -1))


Links = dict[tuple[int, int], Tensor]
"""Links from the stream of rows to the other stream, by the number of each size and layer."""


def _conv(rows: bool, ins: int, outs: int, stride: int = 1) -> RowConv2d | CausalConv2d:
    """Return a convolution of 2 x 3 for the stream of rows, of 2 x 2 for the other."""
    if rows:
        return RowConv2d(ins, outs, rows=2, reach=1, stride=stride)
    return CausalConv2d(ins, outs, rows=2, left=1, stride=stride)


class Residual(nn.Module):
    """A gated residual block: x + a sigmoid(b), where two convolutions of x compute a and b.

    Args:
        rows: whether it belongs to the stream of rows, which sends links to the other stream.
        number: number of the size, and of the layer.
        f, vector, dropout: see `PixelStream`.
        skip: whether it takes a skip connection from the way down.
    """

    def __init__(
        self, rows: bool, number: tuple[int, int], f: int, skip: bool, vector: int, dropout: float
    ) -> None:
        super().__init__()
        self.number = number
        self.first, self.second = _conv(rows, 2 * f, f), _conv(rows, 2 * f, 2 * f)
        self.skip = CausalConv2d(2 * f, f) if skip else None
        self.link = CausalConv2d(2 * f, f) if rows else None
        self.condition_bias = nn.Linear(vector, 2 * f, bias=False) if vector else None
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "*at f"],
        skip: Tensor | None,
        link: Tensor | None,
        vector: Tensor | None,
        walk: Walk | None,
    ) -> tuple[Float[Tensor, "*at f"], Tensor | None]:
        """Return the features and, in the stream of rows, the link to the other stream."""
        h = self.first(both_elu(x), walk)
        if self.skip is not None and skip is not None:
            h = h + self.skip(both_elu(skip), walk)
        if self.link is None:
            assert link is not None
            h = h + (link if walk is None else link[:, walk.column])
        h = self.second(self.dropout(both_elu(h)), walk)
        if self.condition_bias is not None:
            h = h + self.condition_bias(vector)
        a, b = h.chunk(2, -1)
        x = x + a * b.sigmoid()
        return x, None if self.link is None else self.link(both_elu(x), walk)


class GrowRows(nn.Module):
    """A transposed 2 x 3 convolution with stride 2, which doubles the rows."""

    def __init__(self, f: int) -> None:
        super().__init__()
        self.weight = nn.Parameter((2 * torch.rand(f, f, 2, 3) - 1) / (2 * f) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(f))

    def forward(
        self, small: Tensor | None, like: Float[Tensor, "*at f"], walk: Walk | None
    ) -> Float[Tensor, "*at f"]:
        """Return features of the size of `like`; with a walk, of its row. `small` is then passed
        at every other row only."""
        if walk is None:
            assert small is not None
            return self._grow(small, self.weight, like.shape[2])[:, : like.shape[1]]
        if small is not None:
            walk.memory[self] = small[:, None]
        half = self.weight[:, :, walk.row % 2, None]
        return self._grow(walk.memory[self], half, walk.width)[:, 0]

    def _grow(self, x: Tensor, weight: Tensor, width: int) -> Tensor:
        x, stride = x.permute(0, 3, 1, 2), (weight.shape[2], 2)
        x = F.conv_transpose2d(x, weight, self.bias, stride)
        return x.permute(0, 2, 3, 1)[:, :, 1 : 1 + width]


class GrowPixels(nn.Module):
    """A transposed 2 x 2 convolution with stride 2, which makes four pixels of each."""

    def __init__(self, f: int) -> None:
        super().__init__()
        self.weight = nn.Parameter((2 * torch.rand(f, f, 2, 2) - 1) / f**0.5)
        self.bias = nn.Parameter(torch.zeros(f))

    def forward(
        self, small: Tensor | None, like: Float[Tensor, "*at f"], walk: Walk | None
    ) -> Float[Tensor, "*at f"]:
        """Return features of the size of `like`; with a walk, of its pixel. `small` is then passed
        at every other pixel of every other row only."""
        if walk is None:
            assert small is not None
            x = F.conv_transpose2d(small.permute(0, 3, 1, 2), self.weight, self.bias, stride=2)
            return x.permute(0, 2, 3, 1)[:, : like.shape[1], : like.shape[2]]
        if self not in walk.memory:
            row = like.new_zeros(len(like), (walk.width + 1) // 2, like.shape[1])
            walk.memory[self] = row, self.weight.permute(2, 3, 0, 1).contiguous()
        row, weight = walk.memory[self]
        if small is not None:
            row[:, walk.column // 2] = small
        corner = weight[walk.row % 2, walk.column % 2]
        return torch.addmm(self.bias, row[:, walk.column // 2], corner)


class PixelStream(nn.Module):
    """One of the two streams, at one size; it contains the stream of the next smaller size.

    Args:
        rows: whether it is the stream of the rows above.
        f: number of features.
        blocks: residual blocks on the way down.
        sizes: number of sizes, this one and all smaller ones.
        vector: length of the condition's vector; 0 without one.
        dropout: see `PixelCNNpp`.
        depth: number of times that the picture was halved.
    """

    def __init__(
        self,
        rows: bool,
        f: int,
        blocks: int,
        sizes: int,
        vector: int,
        dropout: float,
        depth: int = 0,
    ) -> None:
        super().__init__()
        self.rows, self.inner = rows, None
        n_up = blocks + 1 if sizes > 1 else blocks  # at the smallest, the last skip is the input
        layers = [
            Residual(rows, (depth, i), f, i >= blocks, vector, dropout)
            for i in range(blocks + n_up)
        ]
        self.down, self.up = nn.ModuleList(layers[:blocks]), nn.ModuleList(layers[blocks:])
        if sizes > 1:
            self.inner = PixelStream(rows, f, blocks, sizes - 1, vector, dropout, depth + 1)
            self.downsample = _conv(rows, f, f, stride=2)
            self.upsample = GrowRows(f) if rows else GrowPixels(f)

    def forward(
        self,
        x: Float[Tensor, "*at f"],
        links: Links,
        vector: Tensor | None,
        walk: Walk | None,
    ) -> Float[Tensor, "*at f"]:
        """Return the features; the stream of rows writes `links`, the other one reads them."""
        skips = [x]
        for layer in self.down:
            skips.append(_apply(layer, skips[-1], None, links, vector, walk))
        if self.inner is None:
            x = skips.pop()
        else:
            small, smaller = self.downsample(skips[-1], walk), None
            if walk is None:
                smaller = self.inner(small, links, vector, None)
            elif walk.row % 2 == 0 and (self.rows or walk.column % 2 == 0):
                smaller = self.inner(small, links, vector, walk.at_half_size())
            x = self.upsample(smaller, x, walk)
        for layer, skip in zip(self.up, reversed(skips)):
            x = _apply(layer, x, skip, links, vector, walk)
        return x


def _apply(
    layer: Any,
    x: Tensor,
    skip: Tensor | None,
    links: Links,
    vector: Tensor | None,
    walk: Walk | None,
) -> Float[Tensor, "*at f"]:
    """Return a layer's features; the link of its number is read or written."""
    x, link = layer(x, skip, links.get(layer.number), vector, walk)
    if link is not None:
        links[layer.number] = link
    return x


class Network(nn.Module):
    """The network that returns theta of every pixel.

    Args:
        channels: channels of the picture.
        size: dimension of theta.
        f, blocks, sizes, vector, dropout: see `PixelStream`.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        f: int,
        blocks: int,
        sizes: int,
        vector: int,
        dropout: float,
    ) -> None:
        super().__init__()
        channels_in = channels + 1  # the last one is 1 inside the picture, 0 outside
        self.conv_rows = RowConv2d(channels_in, f, rows=2, reach=1)
        self.conv_above = RowConv2d(channels_in, f, rows=1, reach=1)
        self.conv_left = CausalConv2d(channels_in, f, rows=2)
        self.stream_down = PixelStream(True, f, blocks, sizes, vector, dropout)
        self.stream_right = PixelStream(False, f, blocks, sizes, vector, dropout)
        self.conv_out = CausalConv2d(f, size)

    def forward(
        self, x: Float[Tensor, "b h w c"], vector: Tensor | None, walk: Walk | None = None
    ) -> Float[Tensor, "..."]:
        """Return theta of all pixels, or of the walk's pixel."""
        if walk is None:
            padded = F.pad(x, (0, 1), value=1.0)
            links: Links = {}
            above = self.above(shift_down(padded), links, vector, None)
            left = shift_right(padded)
        else:
            links = walk.memory.setdefault(self.stream_down, {})
            row = F.pad(walk.row_above(x), (0, 1), value=float(walk.row > 0))
            row_vector = None if vector is None else vector[:, None]
            above = walk.each_row(self, lambda: self.above(row, links, row_vector, walk))
            above = above[:, walk.column]
            left = F.pad(walk.pixel_before(x), (0, 1), value=float(walk.column > 0))
        features = self.stream_right(above + self.conv_left(left, walk), links, vector, walk)
        with torch.autocast(features.device.type, enabled=False):  # the means need precision
            return self.conv_out(F.elu(features.to(x.dtype)), walk)

    def above(
        self, x: Float[Tensor, "*at c"], links: Links, vector: Tensor | None, walk: Walk | None
    ) -> Float[Tensor, "*at f"]:
        """Run the stream of rows; return the features that the other stream starts from."""
        self.stream_down(self.conv_rows(x, walk), links, vector, walk)
        return self.conv_above(x, walk)


@register(
    "pixelcnnpp",
    family="autoregressive",
    paper=Paper(
        "PixelCNN++: improving the PixelCNN with discretized logistic mixture likelihood and other "
        "modifications",
        "Salimans, Karpathy, Chen, Kingma",
        2017,
        "1701.05517",
    ),
    tiny={"features": 4, "blocks": 1, "sizes": 2, "components": 2, "dropout": 0.1},
    train={"lr": 1e-3, "clip": 1.0},
)
class PixelCNNpp(AutoregressiveModel):
    """PixelCNN++: exact likelihood of whole pixels by mixtures of logistics.

    Args:
        spec: specification of the images.
        features: features of each stream.
        blocks: residual blocks at each size on the way down.
        sizes: number of sizes of the picture in the network, each half the one before.
        components: number of components of the mixture.
        dropout: probability of dropping a feature in training; the paper uses 0.5 with 160
            features.
        condition_dropout: probability of hiding the condition in training.
    """

    whole_pixels = True

    def __init__(
        self,
        spec: ImageSpec,
        features: Count = 32,
        blocks: Count = 2,
        sizes: Annotated[int, Field(ge=1, le=6)] = 3,
        components: Count = 10,
        dropout: Rate = 0.0,
        condition_dropout: Share = 0.1,
    ) -> None:
        super().__init__(spec, 2 * features, condition_dropout)
        self.law = DiscretisedLogisticMixture(spec.channels, spec.levels, components)
        size, vector = self.law.size, self.vector_size
        self.network = Network(spec.channels, size, features, blocks, sizes, vector, dropout)
        for layer in self._layers():
            transposed = isinstance(layer, GrowRows | GrowPixels)
            parametrizations.weight_norm(layer, dim=1 if transposed else 0)

    def prepare(self, batches: Iterator[Batch]) -> None:
        """Initialise weights so that features of the first batch have mean 0 and deviation 1."""
        blocks = [module for module in self.network.modules() if isinstance(module, Residual)]
        added = {id(block.second) for block in blocks}
        hooks = [
            layer.register_forward_hook(
                partial(_standardise, _RESIDUAL_DEVIATION if id(layer) in added else 1)
            )
            for layer in self._layers()
        ]
        batch = next(batches)
        next(self.turns(batch, 0, Noise.sampling(0, len(batch.x))))
        for hook in hooks:
            hook.remove()

    def _layers(self) -> list[nn.Module]:
        kinds = RowConv2d | CausalConv2d | GrowRows | GrowPixels
        return [module for module in self.network.modules() if isinstance(module, kinds)]


def _standardise(deviation: float, layer: Any, _: Any, out: Tensor) -> Tensor:
    """Rescale a layer's weights so that its output has mean 0 and a given deviation.

    Salimans, Kingma (2016). Weight normalization. arXiv:1602.07868, section 3.
    """
    std, mean = torch.std_mean(out.flatten(0, -2), 0)
    scale = torch.where(std > _MIN_DEVIATION, deviation / std, 1.0)
    length = layer.parametrizations.weight.original0
    length.mul_(scale.view_as(length))
    layer.bias.copy_((layer.bias - mean) * scale)
    return (out - mean) * scale
