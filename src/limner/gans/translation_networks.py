"""Networks that translate pictures, and critics with a score for each patch.

The generator halves the picture twice, changes it in residual blocks, and doubles it twice
(Johnson, Alahi, Fei-Fei, 2016, arXiv:1603.08155). Inside the network, padding reflects the features
and norms are instance norms. So a picture's translation does not depend on other pictures, and is
the same in training and in evaluation.

The critic has a score for each patch. With n strided convolutions of 4 x 4, the receptive field is

    r = 1 -> 4 -> 7 -> 2 r + 2, n times:   16, 34, 70 pixels for n = 1, 2, 3

(Isola, Zhu, Zhou, Efros, 2016, arXiv:1611.07004). 70 pixels are a quarter of the papers' pictures,
but would cover all of a small one, so a critic of small pictures has patches of about half a side.

Transposed convolutions with a stride of 2 compute even and odd pixels with different weights, which
causes checkerboard artifacts. `Resize` repeats each pixel, and convolves with a stride of 1 (Odena,
Dumoulin, Olah, 2016. Deconvolution and checkerboard artifacts. doi:10.23915/distill.00003).

Smooth strides have no checkerboard artifacts either (Zhang, 2019. Making convolutional networks
shift-invariant again. arXiv:1904.11486): they halve with a convolution of stride 1 and `halve`, and
double with bilinear interpolation and such a convolution. They cost about twice as much.
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

_DEVIATION = 0.02  # of initial weights
_SLOPE = 0.2
_COARSEST_STRIDE = 4  # side of the generator's coarsest pixel
_MAX_LAYERS = 3

Upsampling = Literal["transposed", "resize"]
"""How a generator doubles the size: as in the papers, or without checkerboard artifacts."""


def patch(layers: int) -> int:
    """Return the side of a score's receptive field, in pixels, for a number of strided layers."""
    side = 7
    for _ in range(layers):
        side = 2 * side + 2
    return side


def critic_layers(side: int) -> int:
    """Return a critic's default number of strided layers: 3, or fewer if a patch is over 55 %.

    >>> [critic_layers(side) for side in (16, 32, 64, 128, 256)]
    [1, 1, 2, 3, 3]
    """
    fitting = [n for n in range(1, _MAX_LAYERS + 1) if patch(n) <= 0.55 * side]
    return max(fitting, default=1)


def initialise(layer: nn.Module) -> None:
    """Initialise weights from N(0, 0.02^2), and biases as 0."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(layer.weight, 0.0, _DEVIATION)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def reflect(x: Float[Tensor, "b c h w"], margin: int) -> Float[Tensor, "b c hh ww"]:
    """Pad a picture with its mirror image."""
    return F.pad(x, (margin,) * 4, mode="reflect")


def halve(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c hh ww"]:
    """Halve a picture, padded by reflection, with the filter [1, 2, 1] / 4 in each direction."""
    return F.avg_pool2d(F.avg_pool2d(reflect(x, 1), 2, 1), 2)


class Resize(nn.Conv2d):
    """An upsampling layer: nearest-neighbour doubling, then a 3 x 3 convolution.

    Args:
        channels_in: input channels.
        channels_out: output channels.
        bias: whether the convolution has a bias.
    """

    def __init__(self, channels_in: int, channels_out: int, bias: bool = True) -> None:
        super().__init__(
            channels_in, channels_out, 3, padding=1, bias=bias, padding_mode="replicate"
        )

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k hh ww"]:
        """Return features of twice the size."""
        return super().forward(F.interpolate(input, scale_factor=2.0, mode="nearest"))


class SmoothResize(nn.Conv2d):
    """An upsampling layer: bilinear doubling, then a 3 x 3 convolution.

    Args:
        channels_in: input channels.
        channels_out: output channels.
        bias: whether the convolution has a bias.
    """

    def __init__(self, channels_in: int, channels_out: int, bias: bool = True) -> None:
        super().__init__(channels_in, channels_out, 3, padding=1, bias=bias)

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k hh ww"]:
        """Return features of twice the size."""
        return super().forward(F.interpolate(input, scale_factor=2.0, mode="bilinear"))


def doubling(upsampling: Upsampling, kernel: int) -> Callable[..., nn.Module]:
    """Return a constructor of upsampling layers, given the channels and whether there is a bias.

    Args:
        upsampling: kind of upsampling.
        kernel: side of a transposed convolution's kernel, 3 or 4.
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
        """Return features of the same shape."""
        h = instance_norm(self.conv_1(reflect(x, 1)), 0.0)
        return x + instance_norm(self.conv_2(reflect(h, 1)))


class ResidualGenerator(nn.Module):
    """Generator between two domains of pictures: c7s1-k, d2k, d4k, R4k ..., u2k, uk, c7s1.

    Args:
        channels_in: channels of the source domain's pictures.
        channels_out: channels of the target domain's pictures.
        channels: k, the channels of the layers next to the pictures.
        blocks: number of residual blocks.
        upsampling: kind of upsampling, unless `smooth`.
        smooth: whether strides are smooth.
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
        self.conv_in = nn.Conv2d(channels_in, k, 7, bias=False)  # norms cancel a bias
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
        """Return pictures in [-1, 1], of the same size."""
        *_, h = self.features(x)
        return self.decode(h)[..., : x.shape[-2], : x.shape[-1]]

    def decode(self, h: Float[Tensor, "b k hh ww"]) -> Images:
        """Apply the second half: from the last block's features to pictures 4 times as large."""
        for up in self.up:
            h = instance_norm(up(h), 0.0)
        return self.conv_out(reflect(h, 3)).tanh()

    def features(self, x: Images) -> Iterator[Float[Tensor, "b c h w"]]:
        """Yield the first half's features: pixels, each halving before its norm, each block."""
        height, width = x.shape[-2:]
        x = by_pixel(
            F.pad(x, (0, -width % _COARSEST_STRIDE, 0, -height % _COARSEST_STRIDE), mode="reflect")
        )
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
    """Critic with a score for each patch of a picture; higher means more real.

    Args:
        channels_in: input channels.
        channels: channels of the first layer; doubled with each layer, up to 8 times as many.
        layers: number of strided layers; see `patch`.
        smooth: whether strides are smooth; patches are then 18, 40 or 84 pixels wide.
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
        """Return the scores."""
        *_, scores = self.features(x)
        return scores

    def features(self, x: Images) -> Iterator[Float[Tensor, "b c h w"]]:
        """Yield the output of each layer; the last one is the scores."""
        h = self._stride(F.leaky_relu(self.conv_in(by_pixel(x)), _SLOPE))
        yield h
        for i, conv in enumerate(self.convs, 1):
            h = instance_norm(conv(h), _SLOPE)
            h = self._stride(h) if i < self.layers else h
            yield h
        yield self.conv_out(h)

    def _stride(self, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c hh ww"]:
        """Halve features after a convolution if strides are smooth."""
        return halve(h) if self.smooth else h
