"""R3GAN: a relativistic game with proven local convergence, on plain networks.

Huang, Gokaslan, Kuleshov, Tompkin (2024). The GAN is dead; long live the GAN! A modern GAN
baseline. arXiv:2501.05441.

    critic       minimises  E softplus(s(G(z)) - s(x))  +  gamma / 2 (R1 + R2)
    generator    minimises  E softplus(s(x) - s(G(z)))
    R1 = E |ds(x)/dx|^2 on real pictures,    R2 = E |ds(G(z))/dG(z)|^2 on generated pictures

The score of each generated picture is compared with that of a real one (relativistic pairing,
Jolicoeur-Martineau 2018, arXiv:1807.00734), so that dropping modes does not pay (section 2.1). With
both penalties the game is locally convergent (theorem; Mescheder et al. 2018, arXiv:1801.04406, for
the classic game): near the equilibrium, the critic's gradients vanish on real and on generated
pictures, and the game does not oscillate.

Kept: the loss, with both penalties at every step; blocks of 1 x 1, grouped 3 x 3 and 1 x 1
convolutions with twice the channels between and leaky ReLU, no normalisation; fix-up initialisation
(the last convolution of a block is initialised as 0, the others are scaled by blocks^(-1/4));
bilinear resampling; a learned 4 x 4 basis that z weights as the generator's input, and as many
filters at the critic's end. Different: gamma is constant, while it falls in the paper; sizes are 4
to 7 pixels doubled k times; class and text enter the score through a projection.
"""

import math
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.model import Turn
from limner.contract.noise import Noise
from limner.contract.options import Count, NonNegative, Share
from limner.contract.registry import Paper, register
from limner.gans.adversarial_model import GAME_LOSS, Adversarial, by_pixel, variety
from limner.gans.losses import (
    game_formula,
    mean_scores,
    relativistic_critic,
    relativistic_generator,
    scores_and_slopes,
)
from limner.gans.resampling import downsample, upsample
from limner.gans.stylegan2_networks import halvings
from limner.nn.condition import Conditioner

_SLOPE = 0.2
_GAIN = math.sqrt(2 / (1 + _SLOPE**2))  # compensates the smaller deviation after leaky ReLU
_EXPANSION = 2
_Layer = TypeVar("_Layer", nn.Conv2d, nn.Linear)


@register(
    "r3gan",
    family="gans",
    paper=Paper(
        "The GAN is dead; long live the GAN! A modern GAN baseline",
        "Huang, Gokaslan, Kuleshov, Tompkin",
        2024,
        "2501.05441",
    ),
    tiny={"latent": 4, "channels": 8, "group": 4, "blocks": 1},
    train={"optimizer": "adam", "lr": 2e-4, "betas": (0.0, 0.99)},
)
class R3GAN(Adversarial):
    """R3GAN: a relativistic game with two gradient penalties, on plain residual networks.

    Args:
        spec: specification of the images; each side 4 to 7 pixels, doubled k times.
        gamma: weight of both penalties; use more for larger pictures or an unstable game.
        latent: dimension of z.
        channels: channels of the layers at full size, in both networks; doubled with each halving.
        most_channels: maximum number of channels of a layer.
        group: channels in each group of the 3 x 3 convolutions.
        blocks: residual blocks at each size.
        condition_dropout: probability of hiding label and text from both networks in training.
    """

    def __init__(
        self,
        spec: ImageSpec,
        gamma: NonNegative = 1.0,
        latent: Count = 64,
        channels: Count = 32,
        most_channels: Count = 512,
        group: Count = 16,
        blocks: Count = 2,
        condition_dropout: Share = 0.0,
    ) -> None:
        super().__init__()
        if spec.labels:
            self.condition = "required"
        self.gamma, self.latent, self.condition_dropout = gamma, latent, condition_dropout
        widths = [min(channels * 2**i, most_channels) for i in range(halvings(spec) + 1)]
        self.generator = Generator(spec, latent, widths[::-1], group, blocks)
        self.critic = Critic(spec, widths, group, blocks)

    def formula(self) -> list[str]:
        """Return the formulas of the game, and of the critic's penalties."""
        penalty = f"+ {self.gamma / 2:.3g} (E |ds/dx|^2 + E |ds/dG|^2) for the critic"
        return [*game_formula(relativistic_critic, relativistic_generator), penalty]

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield the critic's turn, with scores and slopes from one pass, then the generator's."""
        x, c = batch
        with torch.no_grad():
            fake = self.generator(noise.normal(self.latent), c)
        critic = partial(self.critic, c=Condition.cat([c, c]))
        scores, slopes = scores_and_slopes(critic, torch.cat([x, fake.to(x)]))
        (on_real, on_fake), (r1, r2) = (part.chunk(2) for part in (scores, slopes))
        loss = relativistic_critic(on_real, on_fake)
        logs = {GAME_LOSS: loss.detach(), "r1": r1.detach().mean(), "r2": r2.detach().mean()}
        logs |= mean_scores(on_real, on_fake) | {"variety": variety(x, fake)}
        yield Turn(loss + self.gamma / 2 * (r1.mean() + r2.mean()), of="critic", logs=logs)
        with torch.no_grad():
            on_real = self.critic(x, c).float()
        on_fake = self.critic(self.generator(noise.normal(self.latent), c), c).float()
        yield Turn(relativistic_generator(on_fake, on_real), of="generator")

    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Images]:
        """Yield the pictures, generated in one pass.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`.
        """
        yield self.generator(noise.normal(self.latent), c)


class Generator(nn.Module):
    """Generator: maps z and a condition to a picture.

    Args:
        spec: specification of the images.
        latent: dimension of z.
        widths: channels at each size, coarsest first.
        group, blocks: see `R3GAN`.
    """

    def __init__(
        self, spec: ImageSpec, latent: int, widths: list[int], group: int, blocks: int
    ) -> None:
        super().__init__()
        k = len(widths) - 1
        self.conditioner = Conditioner(spec, latent)
        extra = latent if spec.labels or spec.text else 0
        self.basis = nn.Parameter(torch.randn(widths[0], spec.height >> k, spec.width >> k))
        self.weights = initialise(nn.Linear(latent + extra, widths[0], bias=False))
        self.stages = residual_stages(widths, group, blocks)
        self.resize = nn.ModuleList(transition(a, b) for a, b in pairwise(widths))
        self.conv_out = initialise(nn.Conv2d(widths[-1], spec.channels, 1))

    def forward(self, z: Float[Tensor, "b d"], c: Condition) -> Images:
        """Return pictures, mostly in [-1, 1]."""
        vector = self.conditioner(c, len(z)).vector
        weights = self.weights(z if vector is None else torch.cat([z, vector], dim=1))
        h = self.stages[0](by_pixel(weights[:, :, None, None] * self.basis))
        for resize, stage in zip(self.resize, self.stages[1:]):
            h = stage(upsample(resize(h)))
        return self.conv_out(h)


class Critic(nn.Module):
    """Critic: maps a picture and its condition to a score.

    Args:
        spec: specification of the images.
        widths: channels at each size, finest first.
        group, blocks: see `R3GAN`.
    """

    def __init__(self, spec: ImageSpec, widths: list[int], group: int, blocks: int) -> None:
        super().__init__()
        k, width = len(widths) - 1, widths[-1]
        self.conv_in = initialise(nn.Conv2d(spec.channels, widths[0], 1))
        self.stages = residual_stages(widths, group, blocks)
        self.resize = nn.ModuleList(transition(a, b) for a, b in pairwise(widths))
        size = spec.height >> k, spec.width >> k
        self.filters = initialise(nn.Conv2d(width, width, size, groups=width, bias=False))
        self.last = initialise(nn.Linear(width, 1, bias=False))
        self.conditioner = Conditioner(spec, width)

    def forward(self, x: Images, c: Condition) -> Float[Tensor, "b"]:
        """Return a score for each picture."""
        h = self.stages[0](self.conv_in(by_pixel(x)))
        for resize, stage in zip(self.resize, self.stages[1:]):
            h = stage(resize(downsample(h)))
        h = self.filters(h).flatten(1)
        score = self.last(h)[:, 0]
        vector = self.conditioner(c, len(x)).vector
        return score if vector is None else score + (vector * h).sum(1) / math.sqrt(h.shape[1])


class Block(nn.Module):
    """x + conv(act(conv(act(conv(x))))): 1 x 1 to twice the channels, grouped 3 x 3, 1 x 1 back.

    He et al. (2015), arXiv:1512.03385; Xie et al. (2016), arXiv:1611.05431, for the groups. It is
    initialised as the identity (Zhang, Dauphin, Ma, 2019. Fixup initialization. arXiv:1901.09321).

    Args:
        channels: input and output channels.
        group: channels of a group.
        scale: scale of the initial weights, blocks^(-1/4).
    """

    def __init__(self, channels: int, group: int, scale: float) -> None:
        super().__init__()
        width = _EXPANSION * channels
        groups = next(g for g in range(max(1, width // group), 0, -1) if width % g == 0)
        self.conv_1 = initialise(nn.Conv2d(channels, width, 1), _GAIN * scale)
        self.conv_2 = initialise(
            nn.Conv2d(width, width, 3, padding=1, groups=groups), _GAIN * scale
        )
        self.conv_3 = initialise(nn.Conv2d(width, channels, 1, bias=False), 0)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return features of the same shape."""
        h = F.leaky_relu(self.conv_1(x), _SLOPE)
        return x + self.conv_3(F.leaky_relu(self.conv_2(h), _SLOPE))


def initialise(layer: _Layer, gain: float = 1.0) -> _Layer:
    """Initialise a layer's weights from N(0, gain^2 / inputs) and its bias as 0, and return it."""
    inputs = layer.weight[0].numel()
    nn.init.normal_(layer.weight, 0.0, gain / math.sqrt(inputs))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def residual_stages(widths: list[int], group: int, blocks: int) -> nn.ModuleList:
    """Return the residual blocks of each size."""
    scale = (blocks * len(widths)) ** -0.25
    stages = ([Block(width, group, scale) for _ in range(blocks)] for width in widths)
    return nn.ModuleList(nn.Sequential(*stage) for stage in stages)


def transition(channels: int, out: int) -> nn.Module:
    """Return a 1 x 1 convolution between two sizes if the channels differ, else the identity."""
    return initialise(nn.Conv2d(channels, out, 1, bias=False)) if channels != out else nn.Identity()
