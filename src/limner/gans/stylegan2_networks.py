"""The three networks of StyleGAN2: mapping, synthesis and critic.

    mapping     w = f(z / |z| sqrt(d), c)       eight layers with a hundredth of the learning rate
    synthesis   a constant, doubled repeatedly; every convolution is modulated by w, and each size
                adds its picture to the doubled picture of the size before (skips)
    critic      convolutions with residuals; near the end, the deviation within groups of pictures

Karras, Laine, Aittala, Hellsten, Lehtinen, Aila (2019). Analyzing and improving the image quality
of StyleGAN. arXiv:1912.04958, section 2 and figure 7.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limner.contract.errors import LimnerError
from limner.contract.image import Condition, Images, ImageSpec
from limner.contract.noise import Noise
from limner.gans.adversarial_model import by_pixel
from limner.gans.modulation import Conv, EqualisedLinear, ModulatedConv, activate
from limner.gans.resampling import downsample, upsample
from limner.nn.condition import Conditioner

Styles = Float[Tensor, "b layers d"]
"""A w for each layer of the synthesis network, from coarse to fine."""
_MAPPING_RATE = 0.01
_GROUP_SIZE = 4  # pictures in a group


def halvings(spec: ImageSpec) -> int:
    """Return how often a picture is halved until its shorter side has 4 to 7 pixels.

    Raises:
        LimnerError: a side cannot be halved this number of times.
    """
    k = int(math.log2(min(spec.height, spec.width) / 4)) if min(spec.shape[1:]) >= 4 else 0
    if min(spec.height, spec.width) < 4 or spec.height % 2**k or spec.width % 2**k:
        size = max(4, round(min(spec.height, spec.width) / 2**k)) * 2**k
        raise LimnerError(
            f"this model repeatedly doubles a picture of 4 to 7 pixels, which never gives "
            f"{spec.height} x {spec.width}; type data.size={size}"
        )
    return k


def normalise(x: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
    """Return x / sqrt(mean of x^2), which has length sqrt(d)."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class Mapping(nn.Module):
    """The mapping network w = f(z, c).

    Args:
        spec: specification of the images.
        latent: dimension of z.
        style: dimension of w.
        depth: number of layers.
    """

    def __init__(self, spec: ImageSpec, latent: int, style: int, depth: int) -> None:
        super().__init__()
        self.conditioner = Conditioner(spec, latent)
        extra = latent if spec.labels or spec.text else 0
        widths = [latent + extra, *[style] * depth]
        self.layers = nn.ModuleList(
            EqualisedLinear(n, m, _MAPPING_RATE) for n, m in pairwise(widths)
        )

    def forward(self, z: Float[Tensor, "b latent"], c: Condition) -> Float[Tensor, "b style"]:
        """Return the style of each z."""
        return self.style_of(z, self.conditioner(c, len(z)).vector)

    def style_of(
        self, z: Float[Tensor, "b latent"], vector: Float[Tensor, "b latent"] | None
    ) -> Float[Tensor, "b style"]:
        """Return the style of each z, given the condition's vector; None without a condition."""
        w = normalise(z)
        if vector is not None:
            w = torch.cat([w, normalise(vector)], dim=1)
        for layer in self.layers:
            w = activate(layer(w))
        return w


class Layer(nn.Module):
    """A modulated convolution, noise, a bias, and the activation.

    Args:
        conv: the convolution.
        out: its output channels.
    """

    def __init__(self, conv: ModulatedConv, out: int) -> None:
        super().__init__()
        self.conv = conv
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(out, 1, 1))

    def forward(
        self, x: Float[Tensor, "b c h w"], w: Float[Tensor, "b style"], noise: Noise | None
    ) -> Float[Tensor, "b out hh ww"]:
        """Return the features; with `noise` None, the noise is replaced by its mean, 0."""
        h = self.conv(x, w)
        if noise is not None:
            h = h + self.noise_strength * noise.normal(1, *h.shape[2:]).to(h)
        return activate(h + self.bias)


class Synthesis(nn.Module):
    """The synthesis network: maps styles to a picture, with a block for each size.

    Args:
        spec: specification of the images.
        style: dimension of w.
        widths: channels at each size, smallest first.

    Attributes:
        layer_count: number of styles that it takes. Block i = 0, 1, ... has the layers 2 i - 1, if
            i > 0, and 2 i, and makes its picture with style 2 i + 1, which the next block's first
            layer also uses.
    """

    def __init__(self, spec: ImageSpec, style: int, widths: Sequence[int]) -> None:
        super().__init__()
        k = len(widths) - 1
        self.constant = nn.Parameter(torch.randn(widths[0], spec.height >> k, spec.width >> k))
        self.up_layers = nn.ModuleList(
            Layer(ModulatedConv(n, m, 3, style, doubling=True), m) for n, m in pairwise(widths)
        )
        self.layers = nn.ModuleList(Layer(ModulatedConv(n, n, 3, style), n) for n in widths)
        self.to_picture = nn.ModuleList(
            ModulatedConv(n, spec.channels, 1, style, demodulate=False) for n in widths
        )
        self.offset = nn.Parameter(torch.zeros(len(widths), spec.channels, 1, 1))
        self.layer_count = 2 * len(widths)

    def forward(self, w: Styles, noise: Noise | None) -> Images:
        """Return the picture, not limited to [-1, 1]."""
        return deque(self.sizes(w, noise), maxlen=1).pop()

    def sizes(self, w: Styles, noise: Noise | None) -> Iterator[Images]:
        """Yield the picture at each size, smallest first."""
        x = by_pixel(self.constant.expand(len(w), -1, -1, -1))
        picture = None
        for i, layer in enumerate(self.layers):
            if i:
                x = self.up_layers[i - 1](x, w[:, 2 * i - 1], noise)
            x = layer(x, w[:, 2 * i], noise)
            layer_picture = self.to_picture[i](x, w[:, 2 * i + 1]) + self.offset[i]
            picture = layer_picture if picture is None else upsample(picture) + layer_picture
            yield picture


class CriticBlock(nn.Module):
    """A residual block that halves x: (two convolutions + a linear skip connection) / sqrt(2).

    Args:
        channels, out: input and output channels.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.first = Conv(channels, channels, 3)
        self.second = Conv(channels, out, 3, halving=True)
        self.skip = Conv(channels, out, 1, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b out h//2 w//2"]:
        """Return features half as high and wide."""
        h = activate(self.second(activate(self.first(x))))
        return (h + self.skip(downsample(x))) / math.sqrt(2)


class Critic(nn.Module):
    """Critic: maps pictures and their condition to scores, s = (u + v(c)) . h(x) / sqrt(d).

    The condition's part is a projection (Miyato, Koyama, 2018, arXiv:1802.05637).

    Args:
        spec: specification of the images.
        widths: channels at each size, largest first.
    """

    def __init__(self, spec: ImageSpec, widths: Sequence[int]) -> None:
        super().__init__()
        last = widths[-1]
        self.from_picture = Conv(spec.channels, widths[0], 1)
        self.blocks = nn.ModuleList(CriticBlock(n, m) for n, m in pairwise(widths))
        self.conv = Conv(last + 1, last, 3)
        pixels = (spec.height >> len(self.blocks)) * (spec.width >> len(self.blocks))
        self.features = EqualisedLinear(last * pixels, last)
        self.score = EqualisedLinear(last, 1)
        self.conditioner = Conditioner(spec, last)

    def forward(self, x: Images, c: Condition, batches: int = 1) -> Float[Tensor, "b"]:
        """Return a score for each picture; higher means more real.

        Args:
            x: pictures.
            c: their condition.
            batches: number of batches that x consists of, one after the other; a picture is
                compared with others of its own batch only.
        """
        h = activate(self.from_picture(by_pixel(x)))
        for block in self.blocks:
            h = block(h)
        deviations = torch.cat([deviation(batch) for batch in h.chunk(batches)])
        h = activate(self.conv(torch.cat([h, deviations], dim=1)))
        h = activate(self.features(h.flatten(1)))
        score = self.score(h)[:, 0]
        vector = self.conditioner(c, len(x)).vector
        if vector is not None:
            score = score + (vector * h).sum(1) / math.sqrt(h.shape[1])
        return score


def deviation(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 h w"]:
    """Return a map of how much the pictures of a group differ: the mean over channels and pixels
    of the standard deviation over the group, repeated at each pixel.

    Groups have four pictures, or the next smaller number that divides b; pictures i, i + b / 4, ...
    form a group.
    Karras, Aila, Laine, Lehtinen (2017), arXiv:1710.10196, section 3.
    """
    b, _, h, w = x.shape
    size = next(n for n in range(_GROUP_SIZE, 0, -1) if b % n == 0)
    groups = x.unflatten(0, (size, b // size))
    centred = groups - groups.mean(0)
    deviations = (centred.square().mean(0) + 1e-8).sqrt().mean((1, 2, 3))
    return by_pixel(deviations.repeat(size).to(x)[:, None, None, None].expand(b, 1, h, w))
