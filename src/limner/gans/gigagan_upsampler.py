"""GigaGAN's upsampler: a U-Net that enlarges a small picture in one pass.

Kang, Zhu, Zhang, Park, Shechtman, Paris, Park (2023). Scaling up GANs for text-to-image synthesis.
arXiv:2303.05511, section 3.4.

    x~ = x + s eps              the small picture with noise; s is an input of the network
    h_i = down(h_{i+1})         from its size to a few pixels
    g_i = up(g_{i-1}, w) + h_i  adaptive kernels; w of z and the caption; h_i up to the small size
    y_i = 2 y_{i-1} + g_i       pictures of larger sizes; 2 y is bicubic upsampling
    generator minimises         E softplus(-s(y)) + l E mean_i |y*_i - y_i|

The critic is GigaGAN's: it takes the pictures of all larger sizes, and judges them independently.
The noise keeps the network from relying on every detail of a small picture, so that generated
pictures are enlarged as well as real ones. s is uniform up to `augmentation` in training, and 0 in
sampling by default.

Kept: the asymmetric U-Net with skips, attention at small sizes, noise on the small picture,
optional text, the losses of the base model. Different: distances between pictures at all scales
instead of a perceptual distance (LPIPS), since its network would have to be downloaded; at
initialisation, the output is exactly that of the bicubic filter; skips are added; words are
sometimes hidden in training, so that pictures without a caption can be enlarged. The paper's
factors are 8 and, applied again, 64; here any power of two can be learned, and a larger factor is
reached in stages.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.model import Turn
from limner.contract.noise import Noise
from limner.contract.options import Count, Natural, NonNegative, Share, Widths
from limner.contract.registry import register
from limner.contract.upscaling import Upscales, check_small, resize
from limner.gans.adversarial_model import GAME_LOSS, Adversarial, by_pixel, variety
from limner.gans.gigagan import DEFAULT_OPTIONS, PAPER
from limner.gans.gigagan_networks import AdaptiveConv, L2Attention, WordVectors
from limner.gans.losses import (
    Scalar,
    discriminate,
    game_formula,
    mean_probabilities,
    non_saturating,
)
from limner.gans.modulation import Conv, ModulatedConv, equalise
from limner.gans.multi_scale_critic import (
    MultiScaleCritic,
    Pyramid,
    critic_loss,
    mean_loss,
    mean_score,
    penalty,
    picture_scales,
)
from limner.gans.stylegan2_networks import CriticBlock, Layer, Mapping, halvings
from limner.nn.attention import Attention


class Enlarger(nn.Module):
    """The U-Net: maps a small picture, a style and words to pictures at all larger sizes.

    Args:
        spec: specification of the large pictures; its hint is that of the small ones.
        style: dimension of w.
        widths: channels at each size, smallest first.
        ups: number of sizes larger than the small picture.
        kernels: kernels in the banks of each size, smallest first; further sizes have one.
        attention: largest longer side, in pixels, with self-attention and attention to words.
        token_dim: dimension of a token; None without texts.
    """

    def __init__(
        self,
        spec: ImageSpec,
        style: int,
        widths: Sequence[int],
        ups: int,
        kernels: Sequence[int],
        attention: int,
        token_dim: int | None,
    ) -> None:
        super().__init__()
        banks = [*kernels, *[1] * len(widths)][: len(widths)]
        self.ups, self.downs = ups, len(widths) - 1 - ups
        inner = widths[: self.downs + 1]
        self.conv_in = Conv(spec.channels + 1, inner[-1], 3)
        self.down = nn.ModuleList(CriticBlock(m, n) for n, m in pairwise(inner))
        self.skips = nn.ModuleList(Conv(n, n, 1) for n in inner[1:])
        self.up_layers = nn.ModuleList(
            Layer(AdaptiveConv(n, m, 3, style, bank=bank, doubling=True), m)
            for (n, m), bank in zip(pairwise(widths), banks[1:])
        )
        self.layers = nn.ModuleList(
            Layer(AdaptiveConv(n, n, 3, style, bank=bank), n) for n, bank in zip(widths, banks)
        )
        self.self_attention, self.cross_attention = nn.ModuleDict(), nn.ModuleDict()
        for i, n in enumerate(widths):
            if max(spec.height, spec.width) >> (len(widths) - 1 - i) <= attention:
                self.self_attention[str(i)] = L2Attention(n, style)
                if token_dim:
                    self.cross_attention[str(i)] = Attention(n, token_dim=token_dim, site=f"up{i}")
        equalise(self.cross_attention)
        self.to_picture = nn.ModuleList(
            ModulatedConv(n, spec.channels, 1, style, demodulate=False) for n in widths[-ups:]
        )
        for layer in self.to_picture:
            nn.init.zeros_(layer.weight)  # pyright: ignore[reportArgumentType]
        self.offset = nn.Parameter(torch.zeros(ups, spec.channels, 1, 1))

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        level: Float[Tensor, "b"],
        w: Float[Tensor, "b style"],
        words: WordVectors | None,
        noise: Noise,
    ) -> Pyramid:
        """Return the pictures, largest first, not limited to [-1, 1].

        Args:
            x: small pictures with noise.
            level: noise level, from -1 (none) to 1 (the most in training).
            w: styles.
            words: words that each picture attends to; None for none.
            noise: random streams of the layers' noise.
        """
        level_map = level.to(x).view(-1, 1, 1, 1).expand_as(x[:, :1])
        skips = [self.conv_in(by_pixel(torch.cat([x, level_map], dim=1)))]
        for block in reversed(self.down):
            skips.append(block(skips[-1]))
        h, pictures = skips.pop(), [x]
        for i, layer in enumerate(self.layers):
            if i:
                h = self.up_layers[i - 1](h, w, noise)
            if 0 < i <= self.downs:
                h = (h + self.skips[i - 1](skips.pop())) / math.sqrt(2)
            h = layer(h, w, noise)
            if str(i) in self.self_attention:
                h = self.self_attention[str(i)](h, w)
            if str(i) in self.cross_attention and words is not None:
                h = self.cross_attention[str(i)](h, *words)
            if i > self.downs:
                j = i - self.downs - 1
                layer_picture = self.to_picture[j](h, w) + self.offset[j]
                pictures.append(double(pictures[-1]) + layer_picture)
        return pictures[:0:-1]


def double(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 2*h 2*w"]:
    """Return x twice as high and wide, with the bicubic filter."""
    return F.interpolate(x, scale_factor=2, mode="bicubic")


@register(
    "gigagan-upsampler",
    family="gans",
    paper=PAPER,
    tiny={
        "latent": 6,
        "style": 8,
        "depth": 2,
        "channels": 4,
        "kernels": (2, 1),
        "r1_every": 2,
        "augmentation": 0.2,
    },
    train=DEFAULT_OPTIONS,
)
class GigaGANUpsampler(Adversarial, Upscales):
    """GigaGAN's upsampler: a U-Net that enlarges pictures, with a critic at every scale.

    Args:
        spec: specification of the images; its `hint` is that of the small pictures, 2, 4, 8, ...
            times as small.
        latent: dimension of z, and of the caption's vector.
        style: dimension of w.
        depth: number of layers of the mapping network.
        channels: channels of the layers at full size, in both networks; doubled with each halving.
        most_channels: maximum number of channels of a layer.
        downs: maximum number of halvings of the small picture, which keeps at least 4 pixels.
        kernels: kernels in the banks of each size, smallest first; further sizes have one.
        attention: largest longer side, in pixels, with self-attention and attention to words.
        gamma: weight of the R1 penalty at full size, a quarter of it with each halving; None for
            0.0002 h w / 32, which suits batches of 32 pictures.
        r1_every: steps from one R1 update to the next; 0 = never.
        matching: weight of the loss on pictures with captions of other pictures.
        likeness: l, the weight of the distance from the large picture.
        augmentation: largest standard deviation of the noise on the small picture in training.
        words_dropout: probability of hiding label and caption in training; the small picture is
            never hidden.
    """

    takes = ("labels", "text", "hint")
    condition_dropout = 0.0
    critic: MultiScaleCritic

    def __init__(
        self,
        spec: ImageSpec,
        latent: Count = 128,
        style: Count = 512,
        depth: Count = 4,
        channels: Count = 64,
        most_channels: Count = 512,
        downs: Natural = 3,
        kernels: Widths = (4, 4, 2),
        attention: Natural = 16,
        gamma: NonNegative | None = None,
        r1_every: Natural = 16,
        matching: NonNegative = 1.0,
        likeness: NonNegative = 10.0,
        augmentation: NonNegative = 0.1,
        words_dropout: Share = 0.1,
    ) -> None:
        super().__init__()
        ups = _doublings(spec)
        plain, small = (
            replace(spec, hint=None),
            spec.with_size(spec.height >> ups, spec.width >> ups),
        )
        count = ups + min(downs, _halvings(small)) + 1
        self.mapping = Mapping(plain, latent, style, depth)
        equalise(self.mapping.conditioner)
        token_dim = self.mapping.conditioner.token_dim
        widths = [min(channels * 2**i, most_channels) for i in range(count)][::-1]
        self.enlarger = Enlarger(spec, style, widths, ups, kernels, attention, token_dim)
        widths = [min(channels * 2**i, most_channels) for i in range(halvings(plain) + 1)]
        self.critic = MultiScaleCritic(plain, widths, ups, attention, latent)  # pyright: ignore[reportIncompatibleVariableOverride]
        self.latent, self.r1_every = latent, r1_every
        self.gamma = 2e-4 * spec.height * spec.width / 32 if gamma is None else gamma
        self.matching, self.likeness = matching, likeness
        self.augmentation, self.words_dropout = augmentation, words_dropout

    def players(self) -> dict[str, nn.Module]:
        """Return the critic, which is first, and the generator."""
        return {"critic": self.critic, "generator": nn.ModuleList([self.mapping, self.enlarger])}

    def formula(self) -> list[str]:
        """Return the formulas of the output, of the game, and of both players' other losses."""
        r1 = f"+ {self.gamma / 2:.3g} E |ds/dx|^2 for the critic, " if self.r1_every else ""
        return [
            f"y = bicubic(x + s eps) + G,  {self.factor} times as large, "
            f"s <= {self.augmentation:g} in training",
            *game_formula(discriminate, non_saturating),
            f"at each scale, {r1}+ {self.likeness:g} E |y* - y| for the generator",
        ]

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield the critic's turn, its penalty if due, then the generator's turn."""
        x, small = batch.x, batch.c.image
        assert small is not None
        c = replace(batch.c, image=None, present=None).drop(self.words_dropout, noise)
        real = picture_scales(x, self.critic.scales)
        generated = self.larger_sizes(small, c, self.augmentation * noise.uniform(), noise)
        fake = [y.detach() for y in generated]
        loss, mismatch, on_real, on_fake = critic_loss(self.critic, real, fake, c, self.matching)
        logs = {GAME_LOSS: loss.detach(), "matching": mismatch.detach()}
        logs |= mean_probabilities(mean_score(on_real), mean_score(on_fake)) | {
            "variety": variety(x, fake[0])
        }
        yield Turn(loss + self.matching * mismatch, of="critic", logs=logs)
        if self.r1_every and step % self.r1_every == 0:
            r1 = penalty(self.critic, real, c, self.gamma, noise)
            yield Turn(self.r1_every * r1, of="critic", logs={"r1": r1.detach()})
        loss = mean_loss(non_saturating, self.critic(generated, c))
        error = distance(generated, real)
        logs = {"generator.game.loss": loss.detach(), "distance": error.detach()}
        yield Turn(loss + self.likeness * error, of="generator", logs=logs)

    def larger_sizes(
        self, x: Float[Tensor, "b c h w"], c: Condition, level: Float[Tensor, "b"], noise: Noise
    ) -> Pyramid:
        """Return pictures at all larger sizes, largest first.

        Args:
            x: small pictures.
            c: their labels and captions.
            level: s, the standard deviation of the noise on each picture.
            noise: a random stream for each picture.
        """
        s = level.to(x).view(-1, 1, 1, 1)
        noisy = x + s * noise.normal(*x.shape[1:]).to(x)
        signal = self.mapping.conditioner(c, len(x))
        w = self.mapping.style_of(noise.normal(self.latent).to(x), signal.vector)
        words = None
        if signal.tokens is not None and signal.mask is not None:
            words = WordVectors(signal.tokens, signal.mask)
        scaled = 2 * level / (self.augmentation or 1.0) - 1
        return self.enlarger(noisy, scaled, w, words, noise)

    def enlargement(
        self, x: Float[Tensor, "b c h w"], c: Condition, noise: Noise, **options: Any
    ) -> Float[Tensor, "b c hh ww"]:
        """Return the enlarged pictures, see `Upscales.enlargement`.

        Raises:
            LimnerError: the noise level is higher than in training.
        """
        s = options.get("level", 0.0)
        if s > self.augmentation:
            raise LimnerError(
                f"sampler option level={s:g} is beyond this model's training; "
                f"give at most {self.augmentation:g}"
            )
        return self.larger_sizes(x, c, torch.full((len(x),), s, device=x.device), noise)[0]

    def frames(
        self,
        n: int,
        c: Condition = Condition(),
        *,
        noise: Noise,
        preview: bool = True,
        level: NonNegative = 0.0,
    ) -> Iterator[Images]:
        """Yield the enlarged conditioning images, generated in one pass.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`.
            level: standard deviation of the noise on the small picture; more noise hides more of
                its mistakes, but also of its detail.

        Raises:
            LimnerError: the noise level is higher than in training.
        """
        assert c.image is not None
        x = resize(c.image, *self.tile).to(self.dtype)
        yield self.enlargement(x, replace(c, image=None, present=None), noise, level=level)


def distance(fake: Pyramid, real: Pyramid) -> Scalar:
    """Return the mean over scales of the mean absolute difference."""
    return torch.stack([F.l1_loss(y.float(), x.float()) for y, x in zip(fake, real)]).mean()


def _doublings(spec: ImageSpec) -> int:
    """Return how often the small picture is doubled to get the large one.

    Raises:
        LimnerError: the factor is not a power of two.
    """
    check_small(spec)
    assert spec.hint is not None
    factor = spec.height // spec.hint.height
    ups = factor.bit_length() - 1
    if factor != 2**ups:
        raise LimnerError(
            f"this model enlarges pictures by powers of two only, and these data need a factor of "
            f"{factor}; give data.reduction={2**ups}"
        )
    return ups


def _halvings(small: ImageSpec) -> int:
    """Return how often a picture can be halved so that each side keeps at least 4 pixels."""
    k = 0
    while not (small.height >> k) % 2 and not (small.width >> k) % 2:
        if min(small.height, small.width) >> (k + 1) < 4:
            break
        k += 1
    return k
