"""The two networks of BigGAN, and their building blocks.

    norm        (1 + gain(y)) (x - mean) / deviation + bias(y), y: a chunk of z and the class
    attention   x + gamma o(softmax(theta(x)^T phi(x)) g(x))
    generator   residual blocks that double the size
    critic      residual blocks that halve the size

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
from limner.nn.upsampling import upsample_conv

TRUNCATIONS = (0.25, 0.5, 1.0, 1.5, 2.0, 4.0)
"""The t for which norms keep statistics; beyond 4, N(0, 1) has a mass of 6e-5."""
_EPS = 1e-4  # of the norms, as in the released models


def normalise_layer(layer: nn.Module) -> nn.Module:
    """Initialise a layer with orthogonal weights, and keep its largest singular value at 1."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    nn.init.orthogonal_(weight)
    return spectral_norm(layer, eps=1e-12)


class ConditionalNorm(nn.Module):
    """Conditional batch norm: (1 + gain(y)) (x - mean) / deviation + bias(y).

    Args:
        channels: channels of x.
        dim: dimension of y; 0 for a gain and bias that do not depend on y.

    Attributes:
        means, variances: statistics of pictures at each of `TRUNCATIONS`.
    """

    means: Tensor
    variances: Tensor

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, eps=_EPS, affine=dim == 0)
        self.gain = normalise_layer(nn.Linear(dim, channels, bias=False)) if dim else None
        self.bias = normalise_layer(nn.Linear(dim, channels, bias=False)) if dim else None
        self.register_buffer("means", torch.zeros(len(TRUNCATIONS), channels))
        self.register_buffer("variances", torch.ones(len(TRUNCATIONS), channels))

    def forward(
        self, x: Float[Tensor, "b c h w"], y: Float[Tensor, "b dim"], t: float | None
    ) -> Float[Tensor, "b c h w"]:
        """Return x, normalised by the batch, or by the statistics of a truncation."""
        if t is None:
            h = self.norm(x)
        else:
            h = F.batch_norm(x, *self.at(t), self.norm.weight, self.norm.bias, eps=_EPS)
        if self.gain is None or self.bias is None:
            return h
        return (1 + self.gain(y))[:, :, None, None] * h + self.bias(y)[:, :, None, None]

    def keep(self, i: int) -> None:
        """Store the current statistics for truncation i."""
        assert self.norm.running_mean is not None and self.norm.running_var is not None
        self.means[i], self.variances[i] = self.norm.running_mean, self.norm.running_var

    def at(self, t: float) -> tuple[Float[Tensor, "c"], Float[Tensor, "c"]]:
        """Return the mean and variance for a truncation, interpolated between stored ones."""
        t = min(max(t, TRUNCATIONS[0]), TRUNCATIONS[-1])
        j = next(i for i, truncation in enumerate(TRUNCATIONS) if i and t <= truncation)
        share = (t - TRUNCATIONS[j - 1]) / (TRUNCATIONS[j] - TRUNCATIONS[j - 1])
        return (
            torch.lerp(self.means[j - 1], self.means[j], share),
            torch.lerp(self.variances[j - 1], self.variances[j], share),
        )


class SelfAttention(nn.Module):
    """x + gamma o(softmax(theta(x)^T phi(x)) g(x)), where phi and g have half the size.

    gamma is initialised as 0.

    Args:
        channels: channels of x.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        eighth, half = max(1, channels // 8), max(1, channels // 2)
        self.theta = normalise_layer(nn.Conv2d(channels, eighth, 1, bias=False))
        self.phi = normalise_layer(nn.Conv2d(channels, eighth, 1, bias=False))
        self.g = normalise_layer(nn.Conv2d(channels, half, 1, bias=False))
        self.o = normalise_layer(nn.Conv2d(half, channels, 1, bias=False))
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return x plus what each position attends to."""
        q = _rows(self.theta(x))
        k, v = (_rows(F.max_pool2d(layer(x), 2)) for layer in (self.phi, self.g))
        weights = (q @ k.transpose(1, 2)).softmax(-1)  # b h*w h*w/4
        values = (weights @ v).unflatten(1, x.shape[2:]).movedim(-1, 1)
        return x + self.gamma * self.o(values)


def _rows(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h*w c"]:
    """Return x with a row for each pixel."""
    return x.movedim(1, -1).flatten(1, 2)


def downsample_conv(
    conv: nn.Module, x: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b out h//2 w//2"]:
    """Return a 3 x 3 convolution, average-pooled over 2 x 2 pixels.

    Both together are one 4 x 4 convolution, with 4/9 of the operations.
    """
    assert isinstance(conv, nn.Conv2d)
    kernel = F.avg_pool2d(conv.weight, 2, stride=1, padding=1)
    return F.conv2d(x, kernel, conv.bias, stride=2, padding=1)


class GeneratorBlock(nn.Module):
    """Norm, ReLU, doubling, convolution, norm, ReLU, convolution; and a linear skip connection.

    Args:
        channels, out: input and output channels.
        dim: dimension of the norms' condition.
    """

    def __init__(self, channels: int, out: int, dim: int) -> None:
        super().__init__()
        self.norm = nn.ModuleList([ConditionalNorm(channels, dim), ConditionalNorm(out, dim)])
        self.conv = nn.ModuleList(
            [
                normalise_layer(nn.Conv2d(channels, out, 3, padding=1)),
                normalise_layer(nn.Conv2d(out, out, 3, padding=1)),
            ]
        )
        self.skip = normalise_layer(nn.Conv2d(channels, out, 1))

    def forward(
        self, x: Float[Tensor, "b c h w"], y: Float[Tensor, "b dim"], t: float | None
    ) -> Float[Tensor, "b out 2*h 2*w"]:
        """Return features twice as high and wide."""
        h = upsample_conv(self.conv[0], self.norm[0](x, y, t).relu())
        h = self.norm[1](h, y, t).relu()
        return self.conv[1](h) + F.interpolate(self.skip(x), scale_factor=2.0)


class Generator(nn.Module):
    """Generator: maps z and a condition to a picture.

    Args:
        spec: specification of the images.
        latent: dimension of z.
        embedding: dimension of the condition's embedding, which all blocks share.
        channels: channels after the last block; doubled with each halving.
        attention: number of halvings of the size at which self-attention is applied.
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
        dim = chunk + (embedding if spec.labels or spec.text else 0)
        widths = [channels * 2**i for i in reversed(range(k + 1))]
        self.first = normalise_layer(
            nn.Linear(self.chunks[0], widths[0] * math.prod(self.smallest))
        )
        self.blocks = nn.ModuleList(GeneratorBlock(n, m, dim) for n, m in pairwise(widths))
        self.attends_after = max(k - 1 - attention, 0)
        self.attention = SelfAttention(widths[self.attends_after + 1])
        self.norm = ConditionalNorm(channels, 0)
        self.last = normalise_layer(nn.Conv2d(channels, spec.channels, 3, padding=1))

    def forward(self, z: Float[Tensor, "b latent"], c: Condition, t: float | None) -> Images:
        """Return pictures in [-1, 1].

        Args:
            z: normal numbers, truncated or not.
            c: condition of each picture.
            t: the truncation whose statistics the norms use; None for the batch's own.
        """
        first, *chunks = z.split(self.chunks, dim=1)
        vector = self.conditioner(c, len(z)).vector
        x = by_pixel(self.first(first).unflatten(1, (-1, *self.smallest)))
        for i, (block, chunk) in enumerate(zip(self.blocks, chunks)):
            x = block(x, chunk if vector is None else torch.cat([chunk, vector], dim=1), t)
            if i == self.attends_after:
                x = self.attention(x)
        x = self.last(self.norm(x, z, t).relu()).tanh()
        top, left = ((length - size) // 2 for length, size in zip(x.shape[-2:], self.size))
        return x[..., top : top + self.size[0], left : left + self.size[1]]


class CriticBlock(nn.Module):
    """ReLU, convolution, ReLU, convolution, halving; and a linear skip connection.

    Args:
        channels, out: input and output channels.
        first: whether x is a picture, to which no ReLU is applied.
        halving: whether the block halves the size.
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
        """Return features as high and wide as x, or half as much."""
        h = self.conv[0](x if self.first else x.relu()).relu()
        if self.halving:
            h, x = downsample_conv(self.conv[1], h), F.avg_pool2d(x, 2)
        else:
            h = self.conv[1](h)
        return h + (x if self.skip is None else self.skip(x))


class Critic(nn.Module):
    """Critic: maps pictures and their condition to scores.

    Args:
        spec: specification of the images.
        channels: channels of the first block; doubled with each halving.
        attention: number of halvings of the size at which self-attention is applied.
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
        """Return a score for each picture; higher means more real."""
        h = by_pixel(x)
        for i, block in enumerate(self.blocks):
            h = block(h)
            if i == self.attends_after:
                h = self.attention(h)
        h = h.relu().sum((2, 3))
        score = self.score(h)[:, 0]
        vector = self.conditioner(c, len(x)).vector
        return score if vector is None else score + (vector * h).sum(1)
