"""SRGAN: super-resolution with a residual network at low resolution, and a critic.

Ledig, Theis, Huszar, Caballero, Cunningham, Acosta, Aitken, Tejani, Totz, Wang, Shi (2016).
Photo-realistic single image super-resolution using a generative adversarial network.
arXiv:1609.04802.

    y = bicubic(x) + G(x)
    L_G = E |y* - y| + mu E mean_l |D_l(y*) - D_l(y)| + lambda E -log D(y)
    L_D = -(E log D(y*) + E log(1 - D(y))) / 2

All blocks work at the small size, with pixel shuffles at the end, so that the cost depends on the
small size. With lambda = mu = 0 there is no critic, and the network is the paper's SRResNet: it
predicts the median of the possible large pictures, which has the best PSNR but is blurred where
they differ. The critic makes the network choose one of them.

Kept: residual blocks with a skip around all of them, pixel shuffle, the critic's game. Different:
no batch norm (Lim, Son, Kim, Nah, Lee (2017), EDSR, arXiv:1707.02921); the absolute error; the
network predicts the difference from bicubic upsampling; pictures are compared with the critic's own
features D_l (Wang et al. (2017), pix2pixHD, arXiv:1711.11585, equation 4), not with those of a
network trained on photographs; the critic scores patches.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, ImageSpec
from limner.contract.model import Turn
from limner.contract.noise import Noise
from limner.contract.options import Count, NonNegative
from limner.contract.registry import Paper, register
from limner.contract.upscaling import Upscales, check_small
from limner.gans.adversarial_model import Adversarial, by_pixel
from limner.gans.losses import discriminate, mean_probabilities, non_saturating
from limner.gans.translation_networks import PatchCritic, critic_layers
from limner.gans.translator import distance

_SLOPE = 0.2
_TILE_SIDE = 256  # side of the tiles of a small picture, in pixels


class Block(nn.Module):
    """x + conv(leaky_relu(conv(x))), initialised as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv_2.weight)
        nn.init.zeros_(self.conv_2.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return features of the same shape."""
        return x + self.conv_2(F.leaky_relu(self.conv_1(x), _SLOPE))


class Generator(nn.Module):
    """Generator: bicubic upsampling plus a learned difference.

    Args:
        pictures: channels of the pictures.
        factor: upscaling factor.
        channels: features at the small size; halved with each upsampling step.
        blocks: number of residual blocks at the small size.
    """

    def __init__(self, pictures: int, factor: int, channels: int, blocks: int) -> None:
        super().__init__()
        self.factor = factor
        self.conv_in = nn.Conv2d(pictures, channels, 3, padding=1)
        self.blocks = nn.ModuleList(Block(channels) for _ in range(blocks))
        self.conv_mid = nn.Conv2d(channels, channels, 3, padding=1)
        self.up = nn.ModuleList()
        self.steps = prime_factors(factor)
        width = channels
        for i, step in enumerate(self.steps):
            out = pictures if i + 1 == len(self.steps) else max(1, width // 2)
            self.up.append(nn.Conv2d(width, out * step**2, 3, padding=1))
            width = out
        nn.init.zeros_(self.up[-1].weight)  # pyright: ignore[reportArgumentType]
        nn.init.zeros_(self.up[-1].bias)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c hh ww"]:
        """Return the large pictures, not limited to [-1, 1]."""
        first = h = self.conv_in(by_pixel(x))
        for block in self.blocks:
            h = block(h)
        h = first + self.conv_mid(h)
        for up, step in zip(self.up, self.steps):
            h = F.pixel_shuffle(up(F.leaky_relu(h, _SLOPE)), step)
        return F.interpolate(x, scale_factor=self.factor, mode="bicubic") + h


def prime_factors(number: int) -> list[int]:
    """Return the prime factors of a number, smallest first.

    >>> prime_factors(12), prime_factors(7)
    ([2, 2, 3], [7])
    """
    factors: list[int] = []
    divisor = 2
    while number > 1:
        if number % divisor:
            divisor += 1
            continue
        factors.append(divisor)
        number //= divisor
    return factors


@register(
    "srgan",
    family="gans",
    paper=Paper(
        "Photo-realistic single image super-resolution using a generative adversarial network",
        "Ledig, Theis, Huszar, Caballero, Cunningham, Acosta, Aitken, Tejani, Totz, Wang, Shi",
        2016,
        "1609.04802",
    ),
    tiny={"channels": 8, "blocks": 1, "critic_channels": 4, "adversarial": 0.1, "likeness": 0.1},
    train={"optimizer": "adam", "lr": 2e-4, "betas": (0.9, 0.99)},
)
class SRGAN(Adversarial, Upscales):
    """SRGAN: super-resolution in one pass, with a critic for detail.

    Args:
        spec: specification of the images; its `hint` is that of the small pictures.
        channels, blocks: features and residual blocks of the generator.
        adversarial: lambda, the weight of the adversarial loss relative to the distance; the paper
            uses 0.001.
        likeness: mu, the weight of the distance between the critic's features.
        critic_channels: channels of the critic's first layer.
        critic_layers: strided layers of the critic, 3 for patches of 70 pixels; by default, a
            number that suits the size.
        augmentation: largest standard deviation of the noise on the small picture in training.
        crop: side of a random crop of each small picture in training; by default, the whole
            picture.
    """

    takes = ("hint",)
    couples_batch = False
    condition_dropout = 0.0
    margin = 16

    def __init__(
        self,
        spec: ImageSpec,
        channels: Count = 48,
        blocks: Count = 10,
        adversarial: NonNegative = 0.0,
        likeness: NonNegative = 0.0,
        critic_channels: Count = 32,
        critic_layers: Count | None = None,
        augmentation: NonNegative = 0.0,
        crop: Count | None = None,
    ) -> None:
        super().__init__()
        check_small(spec)
        self.generator = Generator(spec.channels, self.factor, channels, blocks)
        self.adversarial, self.likeness = adversarial, likeness
        self.augmentation, self.crop = augmentation, crop
        self.has_critic = adversarial + likeness > 0
        if self.has_critic:
            side = min(spec.height, spec.width, (crop or spec.height) * self.factor)
            layers = critic_layers or _layers(side)
            if side // 2**layers < 3:  # each of two further layers removes a pixel
                raise LimnerError(
                    f"{layers} strided layers of a critic are too many for {side} pixels a side; "
                    "give fewer model.critic_layers, larger pictures, or model.adversarial=0 and "
                    "model.likeness=0"
                )
            self.critic = PatchCritic(spec.channels, critic_channels, layers)

    @classmethod
    def is_random(cls, config: Mapping[str, Any]) -> bool:
        """Return False: a small picture always gives the same large one."""
        return False

    def formula(self) -> list[str]:
        """Return the formulas of the output and of the generator's loss."""
        loss = "|y* - y|"
        if self.has_critic:
            loss += (
                f" + {self.likeness:g} mean_l |D_l(y*) - D_l(y)| - {self.adversarial:g} log D(y)"
            )
        size = sum(p.numel() for p in self.generator.parameters())
        return [
            f"y = bicubic(x) + G(x),  {self.factor} times as large; G has {size:,} parameters",
            f"G:  min E {loss}",
        ]

    def players(self) -> dict[str, nn.Module]:
        """Return the critic, if there is one, and the generator."""
        critic: dict[str, nn.Module] = {"critic": self.critic} if self.has_critic else {}
        return critic | {"generator": self.generator}

    def tile_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size of the picture itself, up to 256 pixels a side."""
        return min(height, _TILE_SIDE), min(width, _TILE_SIDE)

    def enlargement(
        self, x: Float[Tensor, "b c h w"], c: Condition, noise: Noise, **options: Any
    ) -> Float[Tensor, "b c hh ww"]:
        """Return the enlarged picture y; the noise is not used."""
        return self.generator(x)

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield the critic's turn, if there is a critic, then the generator's."""
        real, x = batch.x, batch.c.image
        assert x is not None
        if self.crop:
            x, real = crop_both(x, real, self.crop, noise)
        s = (self.augmentation * noise.uniform()).to(x).view(-1, 1, 1, 1)
        x = x + s * noise.normal(*x.shape[1:]).to(x) if self.augmentation else x
        fake = self.generator(x)
        if self.has_critic:
            on_real, on_fake = self.critic(torch.cat([real, fake.detach()])).float().chunk(2)
            loss = discriminate(on_real, on_fake) / 2
            yield Turn(loss, of="critic", logs=mean_probabilities(on_real, on_fake))
        error = distance(fake, real)
        if not self.has_critic:
            yield Turn(error, of="generator")
            return
        assert isinstance(self.critic, PatchCritic)
        with torch.no_grad():
            *target, _ = self.critic.features(real)
        *features, scores = self.critic.features(fake)
        likeness = torch.stack([distance(a, b) for a, b in zip(features, target)]).mean()
        loss = error + self.likeness * likeness + self.adversarial * non_saturating(scores.float())
        logs = {"distance": error.detach(), "likeness": likeness.detach()}
        yield Turn(loss, of="generator", logs=logs)


def crop_both(
    small: Float[Tensor, "b c h w"], large: Float[Tensor, "b c hh ww"], side: int, noise: Noise
) -> tuple[Float[Tensor, "b c s s"], Float[Tensor, "b c ss ss"]]:
    """Return the same random crop of small and of large pictures.

    Args:
        small, large: the pictures; large ones are a whole number of times as large.
        side: side of the crop of the small picture, if that is larger.
        noise: a random stream for each picture.
    """
    height, width = small.shape[-2:]
    factor, side = large.shape[-1] // width, min(side, height, width)
    corners = [noise.integers(length - side + 1).tolist() for length in (height, width)]
    parts = [
        (
            a[:, y : y + side, x : x + side],
            b[:, factor * y : factor * (y + side), factor * x : factor * (x + side)],
        )
        for (y, x), a, b in zip(zip(*corners), small, large)
    ]
    return torch.stack([a for a, _ in parts]), torch.stack([b for _, b in parts])


def _layers(side: int) -> int:
    """Return a number of strided layers that suits the size and leaves at least one score."""
    return min(critic_layers(side), max(1, side.bit_length() - 4))
