"""Networks that turn pictures into pictures, and critics that judge them patch by patch.

The generator halves the picture twice, changes it in residual blocks, and doubles it twice
(Johnson, Alahi, Fei-Fei, 2016, arXiv:1603.08155). All padding is by reflection inside and all norms
are of single pictures, so that a picture's translation depends on no other, and is the same in
training and afterwards.

The critic has a score for each patch. With n strided convolutions of 4 x 4 a score sees

    r = 1 -> 4 -> 7 -> 2 r + 2, n times:   16, 34, 70 pixels for n = 1, 2, 3

(Isola, Zhu, Zhou, Efros, 2016, arXiv:1611.07004). 70 pixels are a quarter of the papers' pictures;
in small ones they would be everything, so a critic sees about half of them there.

Transposed convolutions with a stride of 2 paint even and odd pixels by different weights, which
shows as a chequered grain. `Resize` repeats each pixel, and convolves with a stride of 1 (Odena,
Dumoulin, Olah, 2016. Deconvolution and checkerboard artifacts. doi:10.23915/distill.00003).

Smooth strides have no grain either (Zhang, 2019. Making convolutional networks shift-invariant
again. arXiv:1904.11486): a convolution with a stride of 1, then `halve`, and to double, bilinear
interpolation, then such a convolution. They cost about twice as much.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limner.contract.image import Images
from limner.gans.adversarial_model import by_pixel
from limner.nn.convolution import InnerConv3x3
from limner.nn.norm import instance_norm

_DEVIATION = 0.02  # of first weights
_SLOPE = 0.2
_STEP = 4  # the generator's coarsest pixel
_MOST_LAYERS = 3

Upsampling = Literal["transposed", "resize"]
"""How a generator doubles the size: as the papers do, or without a chequered grain."""


def patch(layers: int) -> int:
    """How many pixels each way a critic with so many strided layers sees for one score."""
    seen = 7
    for _ in range(layers):
        seen = 2 * seen + 2
    return seen


def critic_layers(side: int) -> int:
    """How many strided layers a critic has by default: 3, or fewer where that is over 55 %.

    >>> [critic_layers(side) for side in (16, 32, 64, 128, 256)]
    [1, 1, 2, 3, 3]
    """
    fitting = [n for n in range(1, _MOST_LAYERS + 1) if patch(n) <= 0.55 * side]
    return max(fitting, default=1)


def initialise(layer: nn.Module) -> None:
    """Weights from N(0, 0.02^2), no bias."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(layer.weight, 0.0, _DEVIATION)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def reflect(x: Float[Tensor, "b c h w"], margin: int) -> Float[Tensor, "b c hh ww"]:
    """The picture with its mirror image around it."""
    return F.pad(x, (margin,) * 4, mode="reflect")


def halve(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c hh ww"]:
    """Half the size, by the filter [1, 2, 1] / 4 each way, of the picture and its mirror image."""
    return F.avg_pool2d(F.avg_pool2d(reflect(x, 1), 2, 1), 2)


class Resize(nn.Conv2d):
    """Twice the size: each pixel four times, then a convolution of 3 x 3.

    Args:
        channels_in: of what it sees.
        channels_out: of what it makes.
        bias: whether there is one.
    """

    def __init__(self, channels_in: int, channels_out: int, bias: bool = True) -> None:
        super().__init__(
            channels_in, channels_out, 3, padding=1, bias=bias, padding_mode="replicate"
        )

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k hh ww"]:
        """Features of twice the size."""
        return super().forward(F.interpolate(input, scale_factor=2.0, mode="nearest"))


class SmoothResize(nn.Conv2d):
    """Twice the size: bilinear interpolation, then a convolution of 3 x 3.

    Args:
        channels_in: of what it sees.
        channels_out: of what it makes.
        bias: whether there is one.
    """

    def __init__(self, channels_in: int, channels_out: int, bias: bool = True) -> None:
        super().__init__(channels_in, channels_out, 3, padding=1, bias=bias)

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k hh ww"]:
        """Features of twice the size."""
        return super().forward(F.interpolate(input, scale_factor=2.0, mode="bilinear"))


def doubling(upsampling: Upsampling, kernel: int) -> Callable[..., nn.Module]:
    """What makes a layer that doubles the size, of channels in and out, with a bias or without.

    Args:
        upsampling: how.
        kernel: of a transposed convolution, 3 or 4.
    """
    if upsampling == "resize":
        return Resize
    return partial(
        nn.ConvTranspose2d, kernel_size=kernel, stride=2, padding=1, output_padding=kernel % 2
    )


class ResidualBlock(nn.Module):
    """x + norm(conv(relu(norm(conv(x)))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_1 = InnerConv3x3(channels, channels)
        self.conv_2 = InnerConv3x3(channels, channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Features, changed a little."""
        h = instance_norm(self.conv_1(reflect(x, 1)), 0.0)
        return x + instance_norm(self.conv_2(reflect(h, 1)))


class ResidualGenerator(nn.Module):
    """A picture of one domain to a picture of another; c7s1-k, d2k, d4k, R4k ..., u2k, uk, c7s1.

    Args:
        channels_in: of the pictures of one domain.
        channels_out: of the other's.
        channels: k, of the layers next to the pictures.
        blocks: residual blocks.
        upsampling: how it doubles, unless its strides are smooth.
        smooth: whether they are.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        channels: int,
        blocks: int,
        upsampling: Upsampling = "transposed",
        smooth: bool = False,
    ) -> None:
        super().__init__()
        k, self.smooth = channels, smooth
        self.conv_in = nn.Conv2d(channels_in, k, 7, bias=False)  # norms take every bias away
        self.down = nn.ModuleList(
            nn.Conv2d(a, 2 * a, 3, stride=1 if smooth else 2, padding=1, bias=False)
            for a in (k, 2 * k)
        )
        self.blocks = nn.ModuleList(ResidualBlock(4 * k) for _ in range(blocks))
        double = SmoothResize if smooth else doubling(upsampling, 3)
        self.up = nn.ModuleList(double(2 * a, a, bias=False) for a in (2 * k, k))
        self.conv_out = nn.Conv2d(k, channels_out, 7)
        self.apply(initialise)

    def forward(self, x: Float[Tensor, "b k h w"]) -> Images:
        """Pictures in [-1, 1], of the same size."""
        *_, h = self.features(x)
        return self.decode(h)[..., : x.shape[-2], : x.shape[-1]]

    def decode(self, h: Float[Tensor, "b k hh ww"]) -> Images:
        """The second half: from the last block's features to pictures of four times the size."""
        for up in self.up:
            h = instance_norm(up(h), 0.0)
        return self.conv_out(reflect(h, 3)).tanh()

    def features(self, x: Images) -> Iterator[Float[Tensor, "b c h w"]]:
        """What the first half sees: the pixels, each halving before its norm, each block."""
        height, width = x.shape[-2:]
        x = by_pixel(F.pad(x, (0, -width % _STEP, 0, -height % _STEP), mode="reflect"))
        yield x
        h = instance_norm(self.conv_in(reflect(x, 3)), 0.0)
        for down in self.down:
            h = down(h)
            yield h
            h = instance_norm(h, 0.0)
            h = halve(h) if self.smooth else h
        for block in self.blocks:
            h = block(h)
            yield h


class PatchCritic(nn.Module):
    """A picture to a score for each patch of it: the higher, the more it looks real.

    Args:
        channels_in: of what it sees.
        channels: of the first layer; twice as many with each layer, at most eight times.
        layers: strided ones; see `patch`.
        smooth: whether their strides are; a score then sees 18, 40 or 84 pixels.
    """

    def __init__(self, channels_in: int, channels: int, layers: int, smooth: bool = False) -> None:
        super().__init__()
        self.layers, self.smooth = layers, smooth
        stride = 1 if smooth else 2
        widths = [channels * min(2**i, 8) for i in range(layers + 1)]
        self.conv_in = nn.Conv2d(channels_in, widths[0], 4, stride=stride, padding=1)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 4, stride=stride if i < layers else 1, padding=1, bias=False)
            for i, (a, b) in enumerate(pairwise(widths), 1)
        )
        self.conv_out = nn.Conv2d(widths[-1], 1, 4, padding=1)
        self.apply(initialise)

    def forward(self, x: Images) -> Float[Tensor, "b 1 hh ww"]:
        """Scores."""
        *_, scores = self.features(x)
        return scores

    def features(self, x: Images) -> Iterator[Float[Tensor, "b c h w"]]:
        """What each layer makes of pictures; the last are the scores."""
        h = self._stride(F.leaky_relu(self.conv_in(by_pixel(x)), _SLOPE))
        yield h
        for i, conv in enumerate(self.convs, 1):
            h = instance_norm(conv(h), _SLOPE)
            h = self._stride(h) if i < self.layers else h
            yield h
        yield self.conv_out(h)

    def _stride(self, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c hh ww"]:
        """What smooth strides do after their convolution."""
        return halve(h) if self.smooth else h
