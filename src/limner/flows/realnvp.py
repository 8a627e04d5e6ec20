"""RealNVP: real-valued non-volume-preserving transformations.

Dinh, Sohl-Dickstein, Bengio (2016). Density estimation using Real NVP. arXiv:1605.08803.

At each scale: three couplings with checkerboard masks, a squeeze of 2 x 2 blocks into channels,
three couplings with channel masks, and half of the channels are split off; at the last scale, four
couplings with checkerboard masks: section 3.6.

Kept: affine coupling with masks, residual networks for s and t, the multi-scale architecture, a
logit of the input (section 4.1). Different: instead of batch norm, the flow has Glow's activation
norm. It is also initialised from data, but treats a picture in the same way alone and in a batch,
and is inverted exactly. The networks have group norm. s is bounded by a constant, not by a learned
number. Labels and captions scale and shift the networks' features.
"""

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from limner.contract.image import ImageSpec
from limner.contract.options import Count, Share
from limner.contract.registry import Paper, register
from limner.flows.normalizing import (
    Dequantised,
    NormalizingFlow,
    Shape,
    check_scales,
    half_shape,
    halving,
    zero_layer,
)
from limner.maths.couplings import Affine
from limner.maths.transforms import (
    ActNorm,
    Chain,
    Coupling,
    Inverse,
    MaskedCoupling,
    Permutation,
    Split,
    Transform,
    checkerboard,
)
from limner.nn.condition import Signal
from limner.nn.norm import NormSiLU
from limner.nn.residual import ResidualBlock


class Network(nn.Module):
    """A residual network with a zero-initialised output, for s and t.

    Args:
        channels: input channels.
        features: features of the residual blocks.
        blocks: number of residual blocks.
        out: output channels.
        vector: length of the signal's vector; 0 without one.
    """

    def __init__(self, channels: int, features: int, blocks: int, out: int, vector: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(channels, features, 3, padding=1)
        self.blocks = nn.ModuleList(
            ResidualBlock(features, features, vector or None) for _ in range(blocks)
        )
        self.norm = NormSiLU(features)
        self.conv_out = zero_layer(nn.Conv2d(features, out, 1))
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, x: Float[Tensor, "b c h w"], s: Signal) -> Float[Tensor, "b o h w"]:
        """Return theta of a coupling."""
        h = self.conv_in(x)
        for block in self.blocks:
            h = block(h, s.vector)
        return self.conv_out(self.norm(h))


class Layers:
    """A builder of couplings, each followed by an activation norm.

    Args:
        features, blocks, vector: see `Network`.
    """

    def __init__(self, features: int, blocks: int, vector: int) -> None:
        self.features, self.blocks, self.vector = features, blocks, vector
        self.f = Affine()

    def checkerboards(self, shape: Shape, n: int) -> list[Transform]:
        """Return n couplings with alternating checkerboard masks: figure 3, left."""
        c, h, w = shape
        return [
            layer
            for i in range(n)
            for layer in (
                MaskedCoupling(self._network(c, c), self.f, checkerboard(h, w, i % 2 == 1)),
                ActNorm(c),
            )
        ]

    def channels(self, shape: Shape, n: int) -> list[Transform]:
        """Return n couplings of alternating halves of the channels, given the other half: figure
        3, right."""
        c, half = shape[0], shape[0] // 2
        reverse = range(c - 1, -1, -1)
        return [
            layer
            for _ in range(n)
            for layer in (
                Coupling(self._network(half, c - half), self.f),
                ActNorm(c),
                Permutation(reverse),
            )
        ]

    def scales(self, shape: Shape, L: int) -> Chain:
        """Return the multi-scale flow: equations 13 to 16."""
        if L == 1:  # one pixel has no checkerboard
            layers = self.channels if shape[1:] == (1, 1) else self.checkerboards
            return Chain(*layers(shape, 4))
        squeeze, (c, h, w) = halving(shape), half_shape(shape)
        return Chain(
            *self.checkerboards(shape, 3),
            squeeze,
            *self.channels((c, h, w), 3),
            Split(self.scales((c // 2, h, w), L - 1)),
            Inverse(squeeze),
        )

    def _network(self, channels: int, mapped: int) -> Network:
        out = self.f.size * mapped
        return Network(channels, self.features, self.blocks, out, self.vector)


@register(
    "realnvp",
    family="flows",
    paper=Paper(
        "Density estimation using Real NVP",
        "Dinh, Sohl-Dickstein, Bengio",
        2016,
        "1605.08803",
    ),
    tiny={"features": 8, "blocks": 1, "dequantisation": "variational"},
    train={"lr": 1e-3, "clip": 10.0},
)
class RealNVP(NormalizingFlow):
    """RealNVP: couplings with checkerboard and channel masks, at several scales.

    Args:
        spec: specification of the images.
        L: number of scales.
        features: features of the residual networks.
        blocks: number of blocks of each residual network.
        alpha: alpha of the logit that is applied to the input; None leaves it out.
        dequantisation: distribution of the noise that is added to the levels.
        condition_dropout: probability of hiding the condition in training.
    """

    def __init__(
        self,
        spec: ImageSpec,
        L: Count = 2,
        features: Count = 32,
        blocks: Count = 4,
        alpha: Annotated[float, Field(gt=0, lt=0.5)] | None = 0.05,
        dequantisation: Dequantised = "uniform",
        condition_dropout: Share = 0.1,
    ) -> None:
        check_scales(spec.shape, L)
        super().__init__(spec, L, alpha, dequantisation, features, condition_dropout)
        self.flow = Layers(features, blocks, self.vector_size).scales(spec.shape, L)
