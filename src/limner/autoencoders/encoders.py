"""Encoders from pictures to vectors, and decoders from vectors to parameters of pixels.

They are MLPs, as in the papers on digits, or residual convolutional networks. Both kinds can be
conditioned on a vector, and both take pictures of any size: the encoder rounds up when it halves a
side, and the decoder crops after it doubles one.
"""

import itertools
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Images, ImageSpec
from limner.maths.pixel_distributions import (
    Bernoulli,
    DiscretisedLogisticMixture,
    Gaussian,
    PixelDistribution,
)
from limner.nn.norm import NormSiLU
from limner.nn.residual import ResidualBlock
from limner.nn.wide_convolution import StridedConv2d, WideConv2d

CONDITION_SIZE = 64
"""The length of the vector that encodes labels and captions."""
_MEAN_BATCHES = 32  # for the mean picture


def pixel_distribution(
    spec: ImageSpec, name: Literal["bernoulli", "logistic", "gaussian"] | None, components: int
) -> PixelDistribution:
    """Return a decoder's distribution of each pixel.

    Args:
        spec: specification of the images.
        name: name of the distribution; None for Bernoulli if there are two levels, else logistic.
        components: number of components of the logistic mixture.

    Raises:
        LimnerError: Bernoulli with more than two levels.
    """
    if name == "bernoulli" and spec.levels != 2:
        raise LimnerError(
            f"model.pixels=bernoulli needs data of 2 levels, and these have {spec.levels}; "
            "give data.binarise=dynamic, or model.pixels=logistic"
        )
    if name == "gaussian":
        return Gaussian(spec.channels, spec.levels)
    if name == "bernoulli" or (name is None and spec.levels == 2):
        return Bernoulli(spec.channels)
    return DiscretisedLogisticMixture(spec.channels, spec.levels, components)


class Coders(NamedTuple):
    """An encoder and its decoder.

    Args:
        encoder: (x, vector) -> outputs; "b c h w", "b v" or None -> "b size".
        decoder: (z, vector) -> theta; "b d", "b v" or None -> "b h w p".
    """

    encoder: nn.Module
    decoder: nn.Module


def coders(
    spec: ImageSpec,
    size: int,
    latent: int,
    theta: int,
    *,
    channels: tuple[int, ...],
    blocks: int,
    hidden: tuple[int, ...] | None,
    vector: int,
) -> Coders:
    """Build an encoder and a decoder of the same kind.

    Args:
        spec: specification of the images.
        size: number of outputs of the encoder.
        latent: number of inputs of the decoder.
        theta: number of outputs of the decoder for each pixel.
        channels: channels per resolution, finest first; each resolution halves height and width.
        blocks: residual blocks at each resolution.
        hidden: widths of the hidden layers of MLPs that replace the convolutions, from the picture
            to the code; an empty tuple makes both linear.
        vector: length of the condition's vector; 0 without a condition.
    """
    if hidden is not None:
        return Coders(
            PerceptronEncoder(spec, hidden, size, vector),
            PerceptronDecoder(spec, latent, hidden[::-1], theta, vector),
        )
    return Coders(
        ConvolutionalEncoder(spec, channels, blocks, size, vector),
        ConvolutionalDecoder(spec, latent, channels, blocks, theta, vector),
    )


def centre(encoder: nn.Module, batches: Iterator[Batch]) -> None:
    """Set the mean picture of an MLP encoder; a convolutional encoder has none."""
    if isinstance(encoder, PerceptronEncoder):
        means = [batch.x.mean(0) for batch in itertools.islice(batches, _MEAN_BATCHES)]
        encoder.centre.copy_(torch.stack(means).mean(0))


def halvings(height: int, width: int, times: int) -> list[tuple[int, int]]:
    """Return a picture's size, and its size after each halving, rounded up.

    >>> halvings(28, 28, 3)
    [(28, 28), (14, 14), (7, 7), (4, 4)]
    """
    sizes = [(height, width)]
    for _ in range(times):
        height, width = -(-height // 2), -(-width // 2)
        sizes.append((height, width))
    return sizes


class Perceptron(nn.Module):
    """Linear layers with tanh between them.

    Weights are initialised as in Glorot, Bengio (2010), following the code of Burda, Grosse,
    Salakhutdinov (2015).

    Args:
        sizes: widths of all layers, the input first.
        vector: length of the condition's vector, which the first layer also takes; 0 without one.
    """

    def __init__(self, sizes: tuple[int, ...], vector: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.condition_bias = nn.Linear(vector, sizes[1], bias=False) if vector else None
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, x: Float[Tensor, "b i"], vector: Float[Tensor, "b v"] | None
    ) -> Float[Tensor, "b o"]:
        """Return the last layer's outputs."""
        first, *others = self.layers
        h = first(x) if self.condition_bias is None else first(x) + self.condition_bias(vector)
        for layer in others:
            h = layer(h.tanh())
        return h


class PerceptronEncoder(nn.Module):
    """An MLP on a picture's values in a row, with their mean over the data subtracted.

    Without the subtraction, hundreds of pixels that are the same in all pictures, such as MNIST's
    margins, would act like as many copies of the bias, and one step of Adam would move all of their
    weights in the same direction.
    """

    centre: Float[Tensor, "c h w"]

    def __init__(self, spec: ImageSpec, hidden: tuple[int, ...], size: int, vector: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(spec.shape))
        self.perceptron = Perceptron((spec.dimensions, *hidden, size), vector)

    def forward(
        self, x: Images, vector: Float[Tensor, "b v"] | None = None
    ) -> Float[Tensor, "b size"]:
        """Return the outputs for each picture."""
        return self.perceptron((x - self.centre).permute(0, 2, 3, 1).flatten(1), vector)


class PerceptronDecoder(nn.Module):
    """An MLP from a vector to theta of all pixels."""

    def __init__(
        self, spec: ImageSpec, latent: int, hidden: tuple[int, ...], theta: int, vector: int
    ) -> None:
        super().__init__()
        self.shape = spec.height, spec.width, theta
        self.perceptron = Perceptron((latent, *hidden, spec.height * spec.width * theta), vector)

    def forward(
        self, z: Float[Tensor, "b d"], vector: Float[Tensor, "b v"] | None = None
    ) -> Float[Tensor, "b h w p"]:
        """Return theta of each pixel."""
        return self.perceptron(z, vector).view(-1, *self.shape)


class ConvolutionalEncoder(nn.Module):
    """A strided convolution and residual blocks at each resolution, then a linear layer."""

    def __init__(
        self, spec: ImageSpec, channels: tuple[int, ...], blocks: int, size: int, vector: int
    ) -> None:
        super().__init__()
        height, width = halvings(spec.height, spec.width, len(channels))[-1]
        self.downsample, self.blocks = nn.ModuleList(), nn.ModuleList()
        for ins, outs in itertools.pairwise((spec.channels, *channels)):
            self.downsample.append(StridedConv2d(ins, outs, 3, stride=2, padding=1))
            self.blocks.append(_blocks(blocks, outs, vector))
        self.norm = NormSiLU(channels[-1])
        self.linear_out = nn.Linear(height * width * channels[-1], size)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(
        self, x: Images, vector: Float[Tensor, "b v"] | None = None
    ) -> Float[Tensor, "b size"]:
        """Return the outputs for each picture."""
        vector, h = _activate(vector), x
        for downsample, blocks in zip(self.downsample, self.blocks):
            h = downsample(h)
            for block in blocks.children():
                h = block(h, vector)
        return self.linear_out(self.norm(h).permute(0, 2, 3, 1).flatten(1))


class ConvolutionalDecoder(nn.Module):
    """The reverse of the encoder: a linear layer, then residual blocks and a doubling at each
    resolution."""

    def __init__(
        self,
        spec: ImageSpec,
        latent: int,
        channels: tuple[int, ...],
        blocks: int,
        theta: int,
        vector: int,
    ) -> None:
        super().__init__()
        self.sizes = halvings(spec.height, spec.width, len(channels))[::-1]
        height, width = self.sizes[0]
        self.linear_in = nn.Linear(latent, height * width * channels[-1])
        self.blocks, self.upsample = nn.ModuleList(), nn.ModuleList()
        finest = max(8, channels[0] // 2)  # few: full resolution is costly, and only smooths
        for ins, outs in itertools.pairwise((*channels[::-1], finest)):
            self.blocks.append(_blocks(blocks, ins, vector))
            self.upsample.append(nn.Conv2d(ins, 4 * outs, 1))
        self.norm = NormSiLU(finest)
        self.conv_out = WideConv2d(finest, theta, 3, padding=1)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(
        self, z: Float[Tensor, "b d"], vector: Float[Tensor, "b v"] | None = None
    ) -> Float[Tensor, "b h w p"]:
        """Return theta of each pixel."""
        vector = _activate(vector)
        h = self.linear_in(z).view(len(z), *self.sizes[0], -1).permute(0, 3, 1, 2)
        for blocks, upsample, (height, width) in zip(self.blocks, self.upsample, self.sizes[1:]):
            for block in blocks.children():
                h = block(h, vector)
            h = F.pixel_shuffle(upsample(h), 2)[:, :, :height, :width]
        return self.conv_out(self.norm(h)).permute(0, 2, 3, 1)


def _blocks(count: int, channels: int, vector: int) -> nn.ModuleList:
    return nn.ModuleList(ResidualBlock(channels, channels, vector or None) for _ in range(count))


def _activate(vector: Float[Tensor, "b v"] | None) -> Float[Tensor, "b v"] | None:
    return None if vector is None else F.silu(vector)
