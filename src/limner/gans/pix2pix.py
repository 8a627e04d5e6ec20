"""pix2pix: a translator trained on pairs, with a critic that takes both pictures of a pair.

Isola, Zhu, Zhou, Efros (2017). Image-to-image translation with conditional adversarial networks.
arXiv:1611.07004.

    L_D = -(E log D(a, b) + E log(1 - D(a, G(a, z)))) / 2
    L_G = -E log D(a, G(a, z)) + lambda E |b - G(a, z)|                   (equations 1 to 4)

G is a U-Net: it halves the picture down to a pixel or two and doubles it again, with a skip
connection at each size. The noise z is dropout in the three innermost doublings, in training and in
sampling. Its masks are drawn from each picture's own stream, so that a seed determines the picture.

Kept: networks, objective, lambda = 100, the factor 1/2 of the critic's loss, weights from
N(0, 0.02). Different: instance norm, which equals the paper's batch norm for its batches of one;
sizes are not limited to powers of two; a critic of small pictures has smaller patches.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limner.contract.abilities import Domain
from limner.contract.image import Batch, Images, ImageSpec
from limner.contract.model import Turn
from limner.contract.noise import Noise
from limner.contract.options import Count, NonNegative, Rate
from limner.contract.registry import Paper, register
from limner.gans.adversarial_model import by_pixel
from limner.gans.losses import discriminate, mean_probabilities, non_saturating
from limner.gans.translation_networks import PatchCritic, Upsampling, doubling, initialise
from limner.gans.translator import Translator, distance, layer_count, scores_of
from limner.nn.norm import instance_norm

_SLOPE = 0.2
_MAX_WIDTH_FACTOR = 8  # largest multiple of the first layer's channels
_DROPOUT_DOUBLINGS = 3  # number of doublings with dropout


class UNet(nn.Module):
    """C k, C 2k, C 4k, C 8k, ... down to a pixel, and back, with skips; 4 x 4 kernels.

    Args:
        channels_in: input channels.
        channels_out: output channels.
        side: shorter side of the pictures; it is halved as often as possible, at most 8 times.
        channels: k, the channels of the first layer.
        dropout: probability of dropping a feature in the innermost doublings.
        upsampling: kind of upsampling; with "resize" a further convolution takes the features and
            the picture itself, because the norms remove its colours.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        side: int,
        channels: int,
        dropout: float,
        upsampling: Upsampling = "transposed",
    ) -> None:
        super().__init__()
        self.halvings = min(8, int(math.log2(side)))
        widths = [channels * min(2**i, _MAX_WIDTH_FACTOR) for i in range(self.halvings)]
        before = [channels_in, *widths]
        last = self.halvings - 1
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, 4, 2, 1, bias=i in (0, last))
            for i, (a, b) in enumerate(zip(before, widths))
        )
        double, fine = doubling(upsampling, 4), upsampling == "resize"
        finest = channels if fine else channels_out
        self.up = nn.ModuleList(
            double(b if i == last else 2 * b, a, bias=i == 0 and not fine)
            for i, (a, b) in enumerate(zip([finest, *widths], widths))
        )
        self.conv_out = None
        if fine:
            self.conv_out = nn.Conv2d(
                channels + channels_in, channels_out, 3, padding=1, padding_mode="replicate"
            )
        self.dropout = dropout
        self.apply(initialise)

    def forward(self, x: Float[Tensor, "b k h w"], noise: Noise) -> Images:
        """Return pictures in [-1, 1], of the same size.

        Args:
            x: pictures.
            noise: a random stream for each picture, for the dropout.
        """
        height, width = x.shape[-2:]
        step, last = 2**self.halvings, self.halvings - 1
        margins = (0, -width % step, 0, -height % step)
        h = padded = by_pixel(F.pad(x, margins, mode="replicate"))
        skips: list[Tensor] = []
        for i, down in enumerate(self.down):
            h = down(h if i == 0 else F.leaky_relu(h, _SLOPE))
            h = h if i in (0, last) else instance_norm(h)
            skips.append(h)
        for i in range(last, 0, -1):
            h = self.up[i](F.relu(h if i == last else torch.cat([skips[i], h], 1)))
            h = instance_norm(h)
            if i > last - _DROPOUT_DOUBLINGS:
                h = self._dropout(h, noise)
        h = self.up[0](F.relu(torch.cat([skips[0], h], 1)))
        if self.conv_out is not None:
            h = self.conv_out(torch.cat([padded, instance_norm(h, 0.0)], 1))
        return h.tanh()[..., :height, :width]

    def _dropout(self, h: Float[Tensor, "b c h w"], noise: Noise) -> Float[Tensor, "b c h w"]:
        if not self.dropout:
            return h
        mask = noise.uniform(*h.shape[1:]) >= self.dropout
        return h * mask / (1 - self.dropout)


@register(
    "pix2pix",
    family="gans",
    paper=Paper(
        "Image-to-image translation with conditional adversarial networks",
        "Isola, Zhu, Zhou, Efros",
        2017,
        "1611.07004",
    ),
    tiny={"channels": 4, "critic_channels": 4},
    train={"optimizer": "adam", "lr": 2e-4, "betas": (0.5, 0.999), "batch": 1},
)
class Pix2Pix(Translator):
    """pix2pix: translation in one direction, trained on pairs.

    Args:
        spec: specification of domain B's images; its `hint` is that of domain A's images.
        channels: channels of the U-Net's first layer.
        critic_channels: channels of the critic's first layer.
        critic_layers: strided layers of the critic, 3 for patches of 70 pixels; by default, a
            number that suits the size.
        likeness: lambda, the weight of the distance to the true picture.
        dropout: probability of dropping a feature; 0 makes the translation deterministic.
        upsampling: how the U-Net doubles the size: transposed convolutions, as in the paper, or
            nearest-neighbour doubling and a convolution, without checkerboard artifacts; a further
            convolution then also takes the picture, because the norms remove its colours.
    """

    needs_pairs = True

    def __init__(
        self,
        spec: ImageSpec,
        channels: Count = 64,
        critic_channels: Count = 64,
        critic_layers: Count | None = None,
        likeness: NonNegative = 100.0,
        dropout: Rate = 0.5,
        upsampling: Upsampling = "transposed",
    ) -> None:
        super().__init__(spec)
        a, b = self.a, self.b
        self.likeness = likeness
        side = min(b.height, b.width)
        self.generator = UNet(a.channels, b.channels, side, channels, dropout, upsampling)
        layers = layer_count(critic_layers, b)
        self.critic = PatchCritic(a.channels + b.channels, critic_channels, layers)

    @classmethod
    def is_random(cls, config: Mapping[str, Any]) -> bool:
        """Whether the model has dropout."""
        return config["dropout"] > 0

    def formula(self) -> list[str]:
        """Return the formulas of the game on pairs."""
        return [
            "critic:     min -(E log D(a, b) + E log(1 - D(a, G(a, z)))) / 2",
            f"generator:  min -E log D(a, G(a, z)) + {self.likeness:g} E |b - G(a, z)|",
        ]

    def translation(self, x: Float[Tensor, "b k h w"], to: Domain, noise: Noise) -> Images:
        """Return G(x, z)."""
        return self.generator(x, noise)

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield the critic's turn on pairs, then the generator's."""
        b, a = batch.x, batch.c.image
        assert a is not None
        fake = self.generator(a, noise)
        on_real, on_fake = scores_of(
            self.critic, torch.cat([a, b], 1), torch.cat([a, fake.detach()], 1)
        )
        loss = discriminate(on_real, on_fake) / 2
        yield Turn(loss, of="critic", logs=mean_probabilities(on_real, on_fake))
        scores = self.critic(torch.cat([a, fake], 1)).float()
        error = distance(fake, b)
        loss = non_saturating(scores) + self.likeness * error
        yield Turn(loss, of="generator", logs={"distance": error.detach()})
