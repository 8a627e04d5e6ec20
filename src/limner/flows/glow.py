"""Glow: a flow with invertible 1 x 1 convolutions.

Kingma, Dhariwal (2018). Glow: generative flow with invertible 1x1 convolutions. arXiv:1807.03039.

At each of L scales, 2 x 2 blocks of pixels become channels, K steps follow (activation norm,
invertible 1 x 1 convolution, coupling), and half of the channels are split off: figure 2.

Kept: data-dependent activation norm, 1 x 1 convolutions in LU form, three-layer coupling networks
with a zero-initialised output, affine and additive coupling, the learned prior of the channels that
are split off, sampling at a temperature. Different: the log-scale of an affine coupling is bounded
on both sides (the paper's sigmoid makes sampling overflow); labels and captions shift the features
of every coupling network, instead of only the prior of the last scale; spline couplings, and a
logit of the input, are options.
"""

from typing import Annotated, Literal

from pydantic import Field

from limner.contract.image import ImageSpec
from limner.contract.options import Count, Share
from limner.contract.registry import Paper, register
from limner.flows.normalizing import (
    CouplingNetwork,
    Dequantised,
    NormalizingFlow,
    Shape,
    check_scales,
    half_shape,
    halving,
)
from limner.maths.couplings import Additive, Affine, Elementwise, Spline
from limner.maths.transforms import ActNorm, Chain, Coupling, Inverse, InvertibleConv, Split

COUPLINGS: dict[str, Elementwise] = {
    "affine": Affine(),
    "additive": Additive(),
    "spline": Spline(),
}


def coupling(channels: int, hidden: int, vector: int, f: Elementwise) -> Coupling:
    """Return a coupling of the second half of the channels, given the first half."""
    half = channels // 2
    return Coupling(CouplingNetwork(half, hidden, f.size * (channels - half), vector), f)


def step(channels: int, hidden: int, vector: int, f: Elementwise) -> Chain:
    """Return one step of flow: figure 2a."""
    return Chain(ActNorm(channels), InvertibleConv(channels), coupling(channels, hidden, vector, f))


def scales(shape: Shape, L: int, K: int, hidden: int, vector: int, f: Elementwise) -> Chain:
    """Return the multi-scale flow: figure 2b."""
    squeeze, (c, h, w) = halving(shape), half_shape(shape)
    steps = [step(c, hidden, vector, f) for _ in range(K)]
    if L == 1:
        return Chain(squeeze, *steps, Inverse(squeeze))
    prior = coupling(c, hidden, vector, Affine())
    rest = Split(scales((c // 2, h, w), L - 1, K, hidden, vector, f))
    return Chain(squeeze, *steps, prior, rest, Inverse(squeeze))


@register(
    "glow",
    family="flows",
    paper=Paper(
        "Glow: generative flow with invertible 1x1 convolutions",
        "Kingma, Dhariwal",
        2018,
        "1807.03039",
    ),
    tiny={"K": 2, "hidden": 8},
    train={"lr": 1e-3, "clip": 10.0},
)
class Glow(NormalizingFlow):
    """Glow: invertible 1 x 1 convolutions and couplings, at several scales.

    Args:
        spec: specification of the images.
        L: number of scales.
        K: steps of flow at each scale.
        hidden: hidden features of the coupling networks.
        coupling: function that maps half of the channels, given the other half.
        alpha: alpha of a logit that is applied to the input; None, as in the paper, leaves it out.
        dequantisation: distribution of the noise that is added to the levels.
        condition_dropout: probability of hiding the condition in training.
    """

    def __init__(
        self,
        spec: ImageSpec,
        L: Count = 2,
        K: Count = 16,
        hidden: Count = 128,
        coupling: Literal["affine", "additive", "spline"] = "affine",
        alpha: Annotated[float, Field(gt=0, lt=0.5)] | None = None,
        dequantisation: Dequantised = "uniform",
        condition_dropout: Share = 0.1,
    ) -> None:
        check_scales(spec.shape, L)
        super().__init__(spec, L, alpha, dequantisation, hidden, condition_dropout)
        f = COUPLINGS[coupling]
        self.flow = scales(spec.shape, L, K, hidden, self.vector_size, f)
