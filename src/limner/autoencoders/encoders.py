"""Encoders and decoders: from a picture to a vector, and from a vector to a picture's numbers.

Perceptrons, as in the papers on digits, or residual convolutions. Both are told by a vector what
the picture is of, and both take pictures of any size: a side is halved upwards on the way down, and
what is too much is cut off on the way up.
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
from limner.maths.pixel_laws import Bernoulli, DiscretisedLogisticMixture, Gaussian, PixelLaw
from limner.nn.norm import NormSiLU
from limner.nn.residual import ResidualBlock
from limner.nn.wide_convolution import StridedConv2d, WideConv2d

CONDITION = 64
"""The length of the vector that labels and captions become."""
_CENTRED_BY = 32  # batches


def pixel_law(
    spec: ImageSpec, name: Literal["bernoulli", "logistic", "gaussian"] | None, components: int
) -> PixelLaw:
    """A decoder's law of each pixel.

    Args:
        spec: what the pictures are.
        name: which; None for Bernoulli where there are two levels, else logistic.
        components: of the mixture that the logistic one is.

    Raises:
        LimnerError: Bernoulli, and more levels than two.
    """
    if name == "bernoulli" and spec.levels != 2:
        raise LimnerError(
            f"model.pixels=bernoulli is a law of 2 levels, and these data have {spec.levels}; "
            "give data.binarise=dynamic, or model.pixels=logistic"
        )
    if name == "gaussian":
        return Gaussian(spec.channels, spec.levels)
    if name == "bernoulli" or (name is None and spec.levels == 2):
        return Bernoulli(spec.channels)
    return DiscretisedLogisticMixture(spec.channels, spec.levels, components)


class Coders(NamedTuple):
    """A picture's way to a vector and back.

    Args:
        encoder: (x, vector) -> numbers; "b c h w", "b v" or None -> "b size".
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
    """An encoder and a decoder of one kind.

    Args:
        spec: what the pictures are.
        size: how many numbers the encoder gives.
        latent: how many the decoder takes.
        theta: how many the decoder gives for each pixel.
        channels: of each resolution, finest first; each halves height and width.
        blocks: residual blocks at each resolution.
        hidden: widths of perceptrons in place of convolutions, from the picture to the code; none
            make both linear.
        vector: the length of what both are told; 0 for nothing.
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
    """Let an encoder of perceptrons know the mean picture; one of convolutions needs none."""
    if isinstance(encoder, PerceptronEncoder):
        means = [batch.x.mean(0) for batch in itertools.islice(batches, _CENTRED_BY)]
        encoder.centre.copy_(torch.stack(means).mean(0))


def halvings(height: int, width: int, times: int) -> list[tuple[int, int]]:
    """A picture's size, and what is left of it after each halving, rounded up.

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

    The first weights are those of Glorot, Bengio (2010), as in the code of Burda, Grosse,
    Salakhutdinov (2015).

    Args:
        sizes: of the vectors, the input's first.
        vector: the length of what the first layer is told besides.
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
        """The last layer's numbers."""
        first, *others = self.layers
        h = first(x) if self.condition_bias is None else first(x) + self.condition_bias(vector)
        for layer in others:
            h = layer(h.tanh())
        return h


class PerceptronEncoder(nn.Module):
    """A picture's numbers in a row, less their mean over the data, through a perceptron.

    Where hundreds of pixels are the same in all pictures, as MNIST's margins are, their weights
    would else be as many copies of the bias, which one step of Adam moves all in one direction.
    """

    centre: Float[Tensor, "c h w"]

    def __init__(self, spec: ImageSpec, hidden: tuple[int, ...], size: int, vector: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(spec.shape))
        self.perceptron = Perceptron((spec.dimensions, *hidden, size), vector)

    def forward(
        self, x: Images, vector: Float[Tensor, "b v"] | None = None
    ) -> Float[Tensor, "b size"]:
        """Numbers of each picture."""
        return self.perceptron((x - self.centre).permute(0, 2, 3, 1).flatten(1), vector)


class PerceptronDecoder(nn.Module):
    """A vector through a perceptron to the numbers of all pixels."""

    def __init__(
        self, spec: ImageSpec, latent: int, hidden: tuple[int, ...], theta: int, vector: int
    ) -> None:
        super().__init__()
        self.shape = spec.height, spec.width, theta
        self.perceptron = Perceptron((latent, *hidden, spec.height * spec.width * theta), vector)

    def forward(
        self, z: Float[Tensor, "b d"], vector: Float[Tensor, "b v"] | None = None
    ) -> Float[Tensor, "b h w p"]:
        """theta of each pixel."""
        return self.perceptron(z, vector).view(-1, *self.shape)


class ConvolutionalEncoder(nn.Module):
    """At each resolution a strided convolution and residual blocks; a linear layer at the end."""

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
        """Numbers of each picture."""
        told, h = _activate(vector), x
        for downsample, blocks in zip(self.downsample, self.blocks):
            h = downsample(h)
            for block in blocks.children():
                h = block(h, told)
        return self.linear_out(self.norm(h).permute(0, 2, 3, 1).flatten(1))


class ConvolutionalDecoder(nn.Module):
    """The encoder's way back: a linear layer, then residual blocks and a doubling at each
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
        finest = max(8, channels[0] // 2)  # full resolution is dear, and only smoothed there
        for ins, outs in itertools.pairwise((*channels[::-1], finest)):
            self.blocks.append(_blocks(blocks, ins, vector))
            self.upsample.append(nn.Conv2d(ins, 4 * outs, 1))
        self.norm = NormSiLU(finest)
        self.conv_out = WideConv2d(finest, theta, 3, padding=1)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(
        self, z: Float[Tensor, "b d"], vector: Float[Tensor, "b v"] | None = None
    ) -> Float[Tensor, "b h w p"]:
        """theta of each pixel."""
        told = _activate(vector)
        h = self.linear_in(z).view(len(z), *self.sizes[0], -1).permute(0, 3, 1, 2)
        for blocks, upsample, (height, width) in zip(self.blocks, self.upsample, self.sizes[1:]):
            for block in blocks.children():
                h = block(h, told)
            h = F.pixel_shuffle(upsample(h), 2)[:, :, :height, :width]
        return self.conv_out(self.norm(h)).permute(0, 2, 3, 1)


def _blocks(count: int, channels: int, vector: int) -> nn.ModuleList:
    return nn.ModuleList(ResidualBlock(channels, channels, vector or None) for _ in range(count))


def _activate(vector: Float[Tensor, "b v"] | None) -> Float[Tensor, "b v"] | None:
    return None if vector is None else F.silu(vector)
