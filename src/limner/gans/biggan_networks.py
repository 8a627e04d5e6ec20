"""The two networks of BigGAN, and the parts that they are made of.

    norm        (1 + gain(y)) (x - mean) / deviation + bias(y), y being a chunk of z and the class
    attention   x + gamma o(softmax(theta(x)^T phi(x)) g(x))
    generator   residual blocks that double; critic: residual blocks that halve

Brock, Donahue, Simonyan (2018). Large scale GAN training for high fidelity natural image synthesis.
arXiv:1809.11096, appendix B.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from limner.contract.image import Condition, Images, ImageSpec
from limner.gans.adversarial_model import by_pixel
from limner.gans.dcgan import halvings
from limner.nn.condition import Conditioner
from limner.nn.doubling import upsample_conv

TRUNCATIONS = (0.25, 0.5, 1.0, 1.5, 2.0, 4.0)
"""Those t for which norms have statistics; beyond 4, N(0, 1) has a mass of 6e-5."""
_EPS = 1e-4  # of the norms, as in the released models


def normalise_layer(layer: nn.Module) -> nn.Module:
    """A layer with orthogonal first weights, whose largest singular value is kept at 1."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    nn.init.orthogonal_(weight)
    return spectral_norm(layer, eps=1e-12)


class ConditionalNorm(nn.Module):
    """(1 + gain(y)) (x - mean) / deviation + bias(y).

    Args:
        channels: of x.
        told: numbers of y; 0 for constants in place of gain and bias.

    Attributes:
        means, variances: statistics of pictures at each of `TRUNCATIONS`.
    """

    means: Tensor
    variances: Tensor

    def __init__(self, channels: int, told: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, eps=_EPS, affine=told == 0)
        self.gain = normalise_layer(nn.Linear(told, channels, bias=False)) if told else None
        self.bias = normalise_layer(nn.Linear(told, channels, bias=False)) if told else None
        self.register_buffer("means", torch.zeros(len(TRUNCATIONS), channels))
        self.register_buffer("variances", torch.ones(len(TRUNCATIONS), channels))

    def forward(
        self, x: Float[Tensor, "b c h w"], y: Float[Tensor, "b told"], t: float | None
    ) -> Float[Tensor, "b c h w"]:
        """x, normalised by the batch, or by the statistics of a truncation."""
        if t is None:
            h = self.norm(x)
        else:
            h = F.batch_norm(x, *self.at(t), self.norm.weight, self.norm.bias, eps=_EPS)
        if self.gain is None or self.bias is None:
            return h
        return (1 + self.gain(y))[:, :, None, None] * h + self.bias(y)[:, :, None, None]

    def keep(self, i: int) -> None:
        """Store the present statistics for truncation i."""
        assert self.norm.running_mean is not None and self.norm.running_var is not None
        self.means[i], self.variances[i] = self.norm.running_mean, self.norm.running_var

    def at(self, t: float) -> tuple[Float[Tensor, "c"], Float[Tensor, "c"]]:
        """The mean and variance for a truncation, linear between those that are known."""
        t = min(max(t, TRUNCATIONS[0]), TRUNCATIONS[-1])
        j = next(i for i, known in enumerate(TRUNCATIONS) if i and t <= known)
        share = (t - TRUNCATIONS[j - 1]) / (TRUNCATIONS[j] - TRUNCATIONS[j - 1])
        return (
            torch.lerp(self.means[j - 1], self.means[j], share),
            torch.lerp(self.variances[j - 1], self.variances[j], share),
        )


class SelfAttention(nn.Module):
    """x + gamma o(softmax(theta(x)^T phi(x)) g(x)), phi and g of half the size; x at first.

    Args:
        channels: of x.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        few, half = max(1, channels // 8), max(1, channels // 2)
        self.theta = normalise_layer(nn.Conv2d(channels, few, 1, bias=False))
        self.phi = normalise_layer(nn.Conv2d(channels, few, 1, bias=False))
        self.g = normalise_layer(nn.Conv2d(channels, half, 1, bias=False))
        self.o = normalise_layer(nn.Conv2d(half, channels, 1, bias=False))
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """What each place gathers is added to it."""
        q = _rows(self.theta(x))
        k, v = (_rows(F.max_pool2d(layer(x), 2)) for layer in (self.phi, self.g))
        weights = (q @ k.transpose(1, 2)).softmax(-1)  # b h*w h*w/4
        gathered = (weights @ v).unflatten(1, x.shape[2:]).movedim(-1, 1)
        return x + self.gamma * self.o(gathered)


def _rows(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h*w c"]:
    """A row for each pixel."""
    return x.movedim(1, -1).flatten(1, 2)


def downsample_conv(
    conv: nn.Module, x: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b out h//2 w//2"]:
    """The means over 2 x 2 pixels of a convolution by 3 x 3.

    Both together are one convolution by 4 x 4, with 4/9 of the operations.
    """
    assert isinstance(conv, nn.Conv2d)
    kernel = F.avg_pool2d(conv.weight, 2, stride=1, padding=1)
    return F.conv2d(x, kernel, conv.bias, stride=2, padding=1)


class GeneratorBlock(nn.Module):
    """Norm, ReLU, doubled, convolution, norm, ReLU, convolution; and a linear way past them.

    Args:
        channels, out: that go in, and that come out.
        told: numbers that the norms are told.
    """

    def __init__(self, channels: int, out: int, told: int) -> None:
        super().__init__()
        self.norm = nn.ModuleList([ConditionalNorm(channels, told), ConditionalNorm(out, told)])
        self.conv = nn.ModuleList(
            [
                normalise_layer(nn.Conv2d(channels, out, 3, padding=1)),
                normalise_layer(nn.Conv2d(out, out, 3, padding=1)),
            ]
        )
        self.skip = normalise_layer(nn.Conv2d(channels, out, 1))

    def forward(
        self, x: Float[Tensor, "b c h w"], y: Float[Tensor, "b told"], t: float | None
    ) -> Float[Tensor, "b out 2*h 2*w"]:
        """Twice as high and wide."""
        h = upsample_conv(self.conv[0], self.norm[0](x, y, t).relu())
        h = self.norm[1](h, y, t).relu()
        return self.conv[1](h) + F.interpolate(self.skip(x), scale_factor=2.0)


class Generator(nn.Module):
    """z and what to paint, to a picture.

    Args:
        spec: what the pictures are.
        latent: numbers of z.
        embedding: numbers of what is asked for, shared by all blocks.
        channels: after the last block; twice as many with each halving.
        attention: how often the size that attends to itself is halved.
    """

    def __init__(
        self, spec: ImageSpec, latent: int, embedding: int, channels: int, attention: int
    ) -> None:
        super().__init__()
        k = halvings(spec)
        self.size = spec.height, spec.width
        self.smallest = math.ceil(spec.height / 2**k), math.ceil(spec.width / 2**k)
        self.conditioner = Conditioner(spec, embedding)
        chunk = latent // (k + 1)
        self.chunks = [latent - k * chunk, *[chunk] * k]
        told = chunk + (embedding if spec.labels or spec.text else 0)
        widths = [channels * 2**i for i in reversed(range(k + 1))]
        self.first = normalise_layer(
            nn.Linear(self.chunks[0], widths[0] * math.prod(self.smallest))
        )
        self.blocks = nn.ModuleList(GeneratorBlock(n, m, told) for n, m in pairwise(widths))
        self.attends_after = max(k - 1 - attention, 0)
        self.attention = SelfAttention(widths[self.attends_after + 1])
        self.norm = ConditionalNorm(channels, 0)
        self.last = normalise_layer(nn.Conv2d(channels, spec.channels, 3, padding=1))

    def forward(self, z: Float[Tensor, "b latent"], c: Condition, t: float | None) -> Images:
        """Pictures in [-1, 1].

        Args:
            z: normal numbers, truncated or not.
            c: what to paint.
            t: the truncation whose statistics the norms use; None for the batch's own.
        """
        first, *rest = z.split(self.chunks, dim=1)
        asked = self.conditioner(c, len(z)).vector
        x = by_pixel(self.first(first).unflatten(1, (-1, *self.smallest)))
        for i, (block, chunk) in enumerate(zip(self.blocks, rest)):
            x = block(x, chunk if asked is None else torch.cat([chunk, asked], dim=1), t)
            if i == self.attends_after:
                x = self.attention(x)
        x = self.last(self.norm(x, z, t).relu()).tanh()
        top, left = ((made - kept) // 2 for made, kept in zip(x.shape[-2:], self.size))
        return x[..., top : top + self.size[0], left : left + self.size[1]]


class CriticBlock(nn.Module):
    """ReLU, convolution, ReLU, convolution, halved; and a linear way past them.

    Args:
        channels, out: that go in, and that come out.
        first: whether x is a picture, which is not rectified.
        halving: whether it halves.
    """

    def __init__(self, channels: int, out: int, *, first: bool, halving: bool) -> None:
        super().__init__()
        self.conv = nn.ModuleList(
            [
                normalise_layer(nn.Conv2d(channels, out, 3, padding=1)),
                normalise_layer(nn.Conv2d(out, out, 3, padding=1)),
            ]
        )
        self.skip = (
            normalise_layer(nn.Conv2d(channels, out, 1)) if channels != out or halving else None
        )
        self.first, self.halving = first, halving

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b out hh ww"]:
        """As high and wide as x, or half as much."""
        h = self.conv[0](x if self.first else x.relu()).relu()
        if self.halving:
            h, x = downsample_conv(self.conv[1], h), F.avg_pool2d(x, 2)
        else:
            h = self.conv[1](h)
        return h + (x if self.skip is None else self.skip(x))


class Critic(nn.Module):
    """Pictures and what they are said to be of, to scores.

    Args:
        spec: what the pictures are.
        channels: of the first block; twice as many with each halving.
        attention: how often the size that attends to itself is halved.
    """

    def __init__(self, spec: ImageSpec, channels: int, attention: int) -> None:
        super().__init__()
        k = halvings(spec)
        widths = [spec.channels, *(channels * 2**i for i in range(k))]
        blocks = [
            CriticBlock(n, m, first=i == 0, halving=True)
            for i, (n, m) in enumerate(pairwise(widths))
        ]
        self.blocks = nn.ModuleList(
            [*blocks, CriticBlock(widths[-1], widths[-1], first=False, halving=False)]
        )
        self.attends_after = min(max(attention, 1), k) - 1
        self.attention = SelfAttention(widths[self.attends_after + 1])
        self.score = normalise_layer(nn.Linear(widths[-1], 1))
        self.conditioner = Conditioner(spec, widths[-1])
        if self.conditioner.label is not None:
            normalise_layer(self.conditioner.label)

    def forward(self, x: Images, c: Condition) -> Float[Tensor, "b"]:
        """A score for each picture; the higher, the more it looks real."""
        h = by_pixel(x)
        for i, block in enumerate(self.blocks):
            h = block(h)
            if i == self.attends_after:
                h = self.attention(h)
        h = h.relu().sum((2, 3))
        score = self.score(h)[:, 0]
        said = self.conditioner(c, len(x)).vector
        return score if said is None else score + (said * h).sum(1)
