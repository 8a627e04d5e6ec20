"""The first stage of latent diffusion: pictures encoded as small maps of a few channels.

Rombach, Blattmann, Lorenz, Esser, Ommer (2021). High-resolution image synthesis with latent
diffusion models. arXiv:2112.10752, section 3.1 and appendix G.

    q(z | x) = N(E(x), V(x)),   z a map, each side 2^k times smaller
    minimise  |x - D(z)| + w_KL KL(q || N(0, I)) - w_adv l s(D(z)),   z ~ q

s is a critic of patches (Isola et al. (2016), arXiv:1611.07004). The decoder is trained against it,
so that it generates fine structure that absolute errors would average away. The factor l gives both
gradients the same norm at the decoder's last layer (Esser et al. (2020), arXiv:2012.09841, equation
7). The KL term has a small weight: it only keeps maps bounded, and the second stage rescales them.

A critic that is not trained yet has small gradients, which l makes as large as those of the error.
If encoder and decoder learn as fast as the critic, they deceive it from the start, and it then
scores 0 for all pictures. So the critic is trained for some steps before its loss is used, w_adv is
small, and the critic's learning rate should be about ten times theirs (`train.players.critic.lr`).

Kept: hinge losses, a late start of the critic, the adaptive weight. Different: no perceptual loss,
since its network would have to be downloaded; no attention; group norm in the critic instead of
batch norm; weights apply to means over values. Labels and captions are ignored.
"""

import itertools
from collections.abc import Iterator
from typing import Annotated, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from limner.contract.abilities import FirstStage, Latents
from limner.contract.codes import Encodes
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.model import Turn
from limner.contract.noise import Noise
from limner.contract.options import Count, Counts, Natural, NonNegative, Widths
from limner.contract.registry import Paper, register
from limner.nn.norm import NormSiLU, groups
from limner.nn.residual import ResidualBlock

_M = TypeVar("_M", bound="KLAutoencoder")

_MEASURED_BATCHES = 16
_LOG_VARIANCE = (-30.0, 20.0)


class MapCoders(nn.Module):
    """The encoder E, V and the decoder D: residual blocks at each resolution.

    Args:
        channels: channels of the picture.
        latent: channels of the map.
        widths: channels per resolution, finest first; each resolution halves height and width.
        encoder_blocks, blocks: residual blocks of E and of D per resolution, the map's last.
    """

    def __init__(
        self,
        channels: int,
        latent: int,
        widths: tuple[int, ...],
        encoder_blocks: tuple[int, ...],
        blocks: tuple[int, ...],
    ) -> None:
        super().__init__()

        def level(width: int, count: int) -> nn.Sequential:
            return nn.Sequential(*(ResidualBlock(width, width) for _ in range(count)))

        down: list[nn.Module] = [nn.Conv2d(channels, widths[0], 3, padding=1)]
        for (width, deeper), count in zip(
            itertools.pairwise((*widths, widths[-1])), encoder_blocks
        ):
            down += [level(width, count), nn.Conv2d(width, deeper, 2, stride=2)]
        down += [level(widths[-1], encoder_blocks[-1])]
        down += [NormSiLU(widths[-1]), nn.Conv2d(widths[-1], 2 * latent, 1)]
        up: list[nn.Module] = [nn.Conv2d(latent, widths[-1], 3, padding=1)]
        up += [level(widths[-1], blocks[-1])]
        pairs = itertools.pairwise((widths[-1], *widths[::-1]))
        for (width, finer), count in zip(pairs, blocks[-2::-1]):
            up += [nn.Conv2d(width, 4 * finer, 1), nn.PixelShuffle(2), level(finer, count)]
        up += [NormSiLU(widths[0])]
        self.down, self.up = nn.Sequential(*down), nn.Sequential(*up)
        self.conv_out = nn.Conv2d(widths[0], channels, 3, padding=1)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def encode(self, x: Images) -> tuple[Latents, Latents]:
        """Return E(x) and ln V(x)."""
        mean, log_variance = self.down(x).float().chunk(2, dim=1)
        return mean, log_variance.clamp(*_LOG_VARIANCE)

    def decode(self, z: Latents) -> Images:
        """Return D(z)."""
        return self.conv_out(self.up(z)).float()


class PatchCritic(nn.Module):
    """A critic with a score for each patch of a few dozen pixels: strided convolutions, all but
    the first one normalised.

    Args:
        channels: channels of the picture.
        width: channels of the first layer; each further layer has twice as many.
        layers: number of layers that halve the picture.
    """

    def __init__(self, channels: int, width: int, layers: int) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        channels_in = channels
        for i in range(layers):
            out = width * 2**i
            norm = [nn.GroupNorm(groups(out), out)] if i else []
            parts += [nn.Conv2d(channels_in, out, 4, stride=2, padding=1), *norm, nn.LeakyReLU(0.2)]
            channels_in = out
        self.layers = nn.Sequential(*parts, nn.Conv2d(channels_in, 1, 3, padding=1))

    def forward(self, x: Images) -> Float[Tensor, "b 1 hh ww"]:
        """Return the scores."""
        return self.layers(x).float()


@register(
    "kl-autoencoder",
    family="autoencoders",
    paper=Paper(
        "High-resolution image synthesis with latent diffusion models",
        "Rombach, Blattmann, Lorenz, Esser, Ommer",
        2021,
        "2112.10752",
    ),
    tiny={
        "channels": (8,),
        "latent": 2,
        "critic_width": 4,
        "critic_layers": 2,
        "critic_start": 1,
        "critic_lead": 1,
    },
    train={"lr": 5e-4, "betas": (0.5, 0.9), "clip": 1.0, "players": {"critic": {"lr": 4e-3}}},
)
class KLAutoencoder(Encodes, FirstStage):
    """KL autoencoder: maps of a few channels for latent diffusion, with a critic of patches.

    Args:
        spec: specification of the images.
        latent: channels of a map.
        channels: channels per resolution, finest first; each resolution halves height and width.
        blocks: residual blocks per resolution, finest first, the map's last; a single number
            applies to all.
        encoder_blocks: the same for the encoder, to make it smaller than the decoder and so speed
            up the training of the second stage.
        kl_weight: weight of the KL divergence relative to the error, both means over values.
        critic_weight: weight of the adversarial loss; 0 trains without a critic.
        critic_start: step at which the training of the critic starts.
        critic_lead: steps for which the critic is trained before the adversarial loss is used.
        critic_width, critic_layers: channels of the critic's first layer, and its strided layers.
    """

    takes = ()
    spherical = False
    code_scale: Tensor

    def __init__(
        self,
        spec: ImageSpec,
        latent: Count = 4,
        channels: Widths = (48, 96),
        blocks: Counts = (1,),
        encoder_blocks: Counts | None = None,
        kl_weight: NonNegative = 1e-6,
        critic_weight: NonNegative = 0.1,
        critic_start: Natural = 1000,
        critic_lead: Natural = 200,
        critic_width: Count = 32,
        critic_layers: Count = 3,
    ) -> None:
        super().__init__()
        unit = 2 ** len(channels)
        if spec.height % unit or spec.width % unit:
            fitting = -(-max(spec.height, spec.width) // unit) * unit
            raise LimnerError(
                f"pictures of {spec.height} x {spec.width} cannot be halved {len(channels)} times; "
                f"give data.size={fitting}, or fewer model.channels"
            )
        if critic_weight > 0 and min(spec.height, spec.width) < 2**critic_layers:
            raise LimnerError(
                f"pictures of {spec.height} x {spec.width} cannot be halved {critic_layers} times "
                "for the critic; give fewer model.critic_layers, or model.critic_weight=0"
            )
        self.latent_shape = latent, spec.height // unit, spec.width // unit
        decoding = _at_each(blocks, len(channels) + 1, "blocks")
        encoding = decoding
        if encoder_blocks is not None:
            encoding = _at_each(encoder_blocks, len(channels) + 1, "encoder_blocks")
        self.coders = MapCoders(spec.channels, latent, channels, encoding, decoding)
        self.critic = PatchCritic(spec.channels, critic_width, critic_layers)
        self.kl_weight, self.critic_weight = kl_weight, critic_weight
        self.critic_start, self.adversarial_start = critic_start, critic_start + critic_lead
        self.couples_batch = critic_weight > 0  # through the balance of both gradients
        self.register_buffer("code_scale", torch.ones(()))

    @property
    def size_unit(self) -> int:
        """Pixels along a side that one position of a map stands for."""
        return self.spec.height // self.latent_shape[1]

    def at_size(self: _M, height: int, width: int) -> _M:
        """Return the same model for pictures of another size; see `Learner.at_size`."""
        view, unit = super().at_size(height, width), self.size_unit
        if view is not self:
            view.latent_shape = self.latent_shape[0], height // unit, width // unit
        return view

    def formula(self) -> list[str]:
        """Return the formulas of q(z | x), and of the losses of both players."""
        shape = " x ".join(map(str, self.latent_shape))
        loss = f"min E |x - decoder(z)| + {self.kl_weight:g} KL(q(z | x) || N(0, I))"
        lines = [f"q(z | x) = N(mean(x), variance(x)),  z of {shape}"]
        if self.critic_weight == 0:
            return [*lines, loss]
        return [
            *lines,
            f"coders:  {loss} - {self.critic_weight:g} l E s(decoder(z))",
            "critic:  min (E max(0, 1 - s(x)) + E max(0, 1 + s(decoder(z)))) / 2",
        ]

    def players(self) -> dict[str, nn.Module]:
        """Return encoder and decoder as one player, and the critic."""
        if self.critic_weight == 0:
            return {"coders": self.coders}
        return {"coders": self.coders, "critic": self.critic}

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield the turn of encoder and decoder, then the critic's once its training starts."""
        x = batch.x
        mean, log_variance = self.coders.encode(x)
        z = mean + (log_variance / 2).exp() * noise.normal(*self.latent_shape)
        x_hat = self.coders.decode(z)
        error = (x_hat - x).abs().mean()
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        loss = error + self.kl_weight * kl
        logs = {"absolute_error": error.detach(), "kl": kl.detach()}
        if self.critic_weight > 0 and step >= self.adversarial_start:
            adversarial = -self.critic(x_hat).mean()
            balance = self._balance(error, adversarial)
            loss = loss + self.critic_weight * balance * adversarial
            logs["balance"] = balance
        yield Turn(loss, "coders", logs)
        if self.critic_weight > 0 and step >= self.critic_start:
            real, fake = self.critic(x), self.critic(x_hat.detach())
            yield Turn((F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2, "critic")

    def _balance(self, error: Tensor, adversarial: Tensor) -> Tensor:
        """Return |grad error| / |grad adversarial loss| at the decoder's last layer."""
        weight = self.coders.conv_out.weight
        error_norm, adversarial_norm = (
            torch.autograd.grad(loss, weight, retain_graph=True)[0].norm()
            for loss in (error, adversarial)
        )
        return (error_norm / (adversarial_norm + 1e-4)).clamp(0, 1e4).detach()

    @torch.no_grad()
    def calibrate(self, batches: Iterator[Batch]) -> None:
        """Measure the standard deviation of the maps, by which codes are scaled."""
        subset = itertools.islice(batches, _MEASURED_BATCHES)
        means = torch.cat([self.coders.encode(batch.x)[0].flatten() for batch in subset])
        self.code_scale.copy_(1 / means.std().clamp(min=1e-6))

    def latents(self, x: Images, noise: Noise) -> Latents:
        """Draw from q(z | x) for each picture."""
        mean, log_variance = self.coders.encode(x)
        return mean + (log_variance / 2).exp() * noise.normal(*self.latent_shape).to(mean)

    def pictures(self, z: Latents) -> Images:
        """Return the picture of each map."""
        return self.coders.decode(z)

    def encode(self, x: Images, c: Condition = Condition()) -> Float[Tensor, "b d"]:
        """Return the mean map of each picture, scaled to a standard deviation of about 1."""
        return (self.code_scale * self.coders.encode(x)[0]).flatten(1).to(x.dtype)

    def decode(self, z: Float[Tensor, "b d"], c: Condition = Condition()) -> Images:
        """Return the picture of each code."""
        return self.coders.decode(z.unflatten(1, self.latent_shape) / self.code_scale)

    def frames(
        self,
        n: int,
        c: Condition = Condition(),
        *,
        noise: Noise,
        preview: bool = True,
        temperature: Annotated[float, Field(ge=0, le=10)] = 1.0,
    ) -> Iterator[Images]:
        """Yield decoded maps of white noise: a baseline for the second stage.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`.
            temperature: factor by which the noise is scaled.
        """
        z = temperature * noise.normal(*self.latent_shape, dtype=self.code_scale.dtype)
        yield self.coders.decode(z / self.code_scale)


def _at_each(counts: tuple[int, ...], resolutions: int, option: str) -> tuple[int, ...]:
    """Return the number of blocks for each resolution.

    Raises:
        LimnerError: there is neither one number nor one for each resolution.
    """
    if len(counts) == 1:
        return counts * resolutions
    if len(counts) != resolutions:
        raise LimnerError(
            f"model.{option} has {len(counts)} numbers; give one, or {resolutions}: one for each "
            "resolution, the map's last"
        )
    return counts
