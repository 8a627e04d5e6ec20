"""A critic that scores pictures at several scales independently, each at all smaller sizes.

    s_ij = psi_j(h_ij, c) + conv_j(h_ij),   h_ij: features of size j of the picture at scale i

A picture enters the network at its own size, through an input layer of that size, and continues
through blocks that all scales share. At each further size j a head computes a map of scores, from
the condition and the picture with psi_j, and from the picture alone with conv_j. The scales do not
depend on each other, so each must look real by itself (multi-scale input, multi-scale output).

    loss          the mean over scales i, sizes j and positions of each score's loss
    matching      softplus(s(x, c')) + softplus(s(G(z, c), c')), c' the caption of another picture
    R1            gamma_i / 2 times the mean over scores of |d s / d x_i|^2

The matching loss treats a picture with the wrong caption like a fake one. R1 is a mean over many
scores. It is estimated with a single gradient: for random signs e_p, its value is
E_e |d/dx sum_p e_p s_p / sqrt(n)|^2.

Kang, Zhu, Zhang, Park, Shechtman, Paris, Park (2023). Scaling up GANs for text-to-image synthesis.
arXiv:2303.05511, sections 3.2 and 3.3. R1: Mescheder, Geiger, Nowozin (2018). arXiv:1801.04406.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from limner.contract.image import Condition, Images, ImageSpec
from limner.contract.noise import Noise
from limner.gans.adversarial_model import by_pixel
from limner.gans.gigagan_networks import L2Attention
from limner.gans.losses import Scalar, discriminate
from limner.gans.modulation import Conv, EqualisedLinear, ModulatedConv, activate, equalise
from limner.gans.stylegan2_networks import CriticBlock, deviation
from limner.nn.condition import Conditioner

Pyramid = list[Float[Tensor, "_ _ _ _"]]
"""Pictures at several scales, largest first."""
Scores = list[list[Float[Tensor, "_ _"]]]
"""Scores of each scale, largest first, at each size that scores it."""
Features = list[Float[Tensor, "_ _ _ _"]]
"""Features at each size, largest first: those of all scales that pass it, one after the other."""
_PSI_LAYERS = 2  # number of layers of psi


def picture_scales(x: Images, scales: int) -> Pyramid:
    """Return a picture at several scales, each halved by averaging four pixels."""
    sizes = [x]
    for _ in range(scales - 1):
        sizes.append(F.avg_pool2d(sizes[-1], 2))
    return sizes


class Head(nn.Module):
    """psi(h, c) + conv(h), at each position.

    Args:
        channels: channels of h.
        condition: dimension of c; 0 without a condition.
    """

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.plain = Conv(channels, 1, 1)
        depth = _PSI_LAYERS if condition else 0
        self.layers = nn.ModuleList(
            ModulatedConv(channels, channels, 1, condition) for _ in range(depth)
        )
        self.score = Conv(channels, 1, 1) if condition else None

    def forward(
        self, h: Float[Tensor, "b c h w"], condition: Float[Tensor, "b d"] | None
    ) -> Float[Tensor, "b positions"]:
        """Return a score for each position."""
        scores = self.plain(h)
        if self.score is not None and condition is not None:
            for layer in self.layers:
                h = activate(layer(h, condition))
            scores = scores + self.score(h)
        return scores.flatten(1).float()


class MultiScaleCritic(nn.Module):
    """Critic: maps pictures at several scales and their condition to scores.

    Args:
        spec: specification of the images.
        widths: channels at each size, largest first.
        scales: maximum number of scales of the input.
        attention: largest longer side, in pixels, with self-attention.
        condition: dimension of the condition's vector.
    """

    def __init__(
        self, spec: ImageSpec, widths: Sequence[int], scales: int, attention: int, condition: int
    ) -> None:
        super().__init__()
        last, self.depth = widths[-1], len(widths) - 1
        self.scales = min(scales, len(widths))
        self.from_picture = nn.ModuleList(Conv(spec.channels, n, 1) for n in widths[: self.scales])
        self.blocks = nn.ModuleList(CriticBlock(n, m) for n, m in pairwise(widths))
        side = max(spec.height, spec.width)
        self.attention = nn.ModuleDict(
            {str(j): L2Attention(n) for j, n in enumerate(widths) if j and side >> j <= attention}
        )
        self.conv = Conv(last + 1, last, 3)
        positions = (spec.height >> self.depth) * (spec.width >> self.depth)
        self.features = EqualisedLinear(last * positions, last)
        self.conditioner = Conditioner(spec, condition)
        equalise(self.conditioner)
        condition = condition if spec.labels or spec.text else 0
        self.heads = nn.ModuleList(Head(n, condition) for n in (*widths[1:-1], last))

    def forward(self, pictures: Pyramid, c: Condition, batches: int = 1) -> Scores:
        """Return the scores of each scale at each size.

        Args:
            pictures: pictures at each scale, largest first.
            c: their condition.
            batches: number of batches that they consist of, one after the other; a picture is
                compared with others of its own batch and scale only.
        """
        vector = self.condition_vector(c, len(pictures[0]))
        return self.judge(self.extract(pictures, batches), vector)

    def condition_vector(self, c: Condition, n: int) -> Float[Tensor, "b d"] | None:
        """Return the condition's vector; None without a condition."""
        return self.conditioner(c, n).vector

    def extract(self, pictures: Pyramid, batches: int = 1) -> Features:
        """Return the features at each size; see `forward`."""
        h, features = None, Features()
        for j in range(self.depth + 1):
            if j < self.scales:
                x = activate(self.from_picture[j](by_pixel(pictures[j])))
                h = x if h is None else torch.cat([h, x])
            assert h is not None
            if j == self.depth:
                features.append(self._end(h, batches * self.scales))
                break
            h = self.blocks[j](h)
            if str(j + 1) in self.attention:
                h = self.attention[str(j + 1)](h)
            if j + 1 < self.depth:
                features.append(h)
        return features

    def _end(self, h: Float[Tensor, "b c h w"], batches: int) -> Float[Tensor, "b c 1 1"]:
        """Return features of the whole picture, including the deviation of its group."""
        deviations = torch.cat([deviation(batch) for batch in h.chunk(batches)])
        h = activate(self.conv(torch.cat([h, deviations], dim=1)))
        return activate(self.features(h.flatten(1)))[:, :, None, None]

    def judge(self, features: Features, condition: Float[Tensor, "b d"] | None) -> Scores:
        """Return the scores of each scale at each size.

        Args:
            features: the features of the pictures.
            condition: the condition's vector; None for scores without a condition.
        """
        scores = [list[Tensor]() for _ in range(self.scales)]
        for j, (head, h) in enumerate(zip(self.heads, features)):
            entries = min(j + 1, self.scales) if j < len(features) - 1 else self.scales
            conditions = None if condition is None else condition.repeat(entries, 1)
            for maps, scale_map in zip(scores, head(h, conditions).chunk(entries)):
                maps.append(scale_map)
        return scores


def mean_loss(loss: Callable[..., Scalar], *scores: Scores) -> Scalar:
    """Return the mean over scales and sizes of a loss of their scores."""
    losses = [loss(*maps) for scale in zip(*scores) for maps in zip(*scale)]
    return torch.stack(losses).mean()


def split(scores: Scores) -> tuple[Scores, Scores]:
    """Split scores into those of the first and of the second half of a batch."""
    halves = [[size.chunk(2) for size in scale] for scale in scores]
    first, second = ([[pair[i] for pair in scale] for scale in halves] for i in (0, 1))
    return first, second


def mean_score(scores: Scores) -> Float[Tensor, "b"]:
    """Return each picture's mean score over scales, sizes and positions."""
    means = [size.mean(1) for scale in scores for size in scale]
    return torch.stack(means).mean(0)


def other_rows(c: Condition) -> tuple[Condition, Bool[Tensor, "b"]]:
    """Return the condition of the next picture for each picture, and whether it is different.

    A condition without label and text never counts as different, since any picture matches it.
    """
    n = len(c)
    order = torch.arange(1, n + 1, device=_device(c)) % max(n, 1)
    other = c.rows(order)
    differs = torch.zeros(n, dtype=torch.bool, device=_device(c))
    if c.label is not None and other.label is not None:
        differs |= (other.label != c.label) & (other.label >= 0)
    if c.text is not None and other.text is not None:
        differs |= (other.text != c.text).any(1) & other.text.any(1)
    return other, differs


def _device(c: Condition) -> torch.device | None:
    part = c.label if c.label is not None else c.text
    return None if part is None else part.device


def matching_loss(scores: Scores, differs: Bool[Tensor, "b"]) -> Scalar:
    """Return E softplus(s(x, c')), which lowers the scores of pictures with a wrong condition.

    Args:
        scores: scores of real or of generated pictures with the condition of another picture.
        differs: whether this condition differs from the picture's own.
    """

    def loss(maps: Tensor) -> Tensor:
        weight = differs.to(maps)[:, None].expand_as(maps)
        return (F.softplus(maps) * weight).sum() / weight.sum().clamp(min=1)

    return mean_loss(loss, scores)


def steepness(
    critic: Callable[[Pyramid], Scores], pictures: Pyramid, noise: Noise
) -> list[Float[Tensor, ""]]:
    """Return E mean_p |d s_p / d x|^2 over the scores s_p of each scale, from random signs.

    Args:
        critic: function from pictures at all scales to scores.
        pictures: real pictures at each scale.
        noise: a random stream for each picture.
    """
    leaves = [x.detach().requires_grad_() for x in pictures]
    with torch.enable_grad():
        scores = critic([x.clone(memory_format=torch.channels_last) for x in leaves])
        total = torch.stack([_signed_sum(scale, noise) for scale in scores]).sum()
        slopes = torch.autograd.grad(total, leaves, create_graph=True)
    return [slope.square().flatten(1).sum(1).mean() for slope in slopes]


def _signed_sum(scale: Sequence[Float[Tensor, "_ _"]], noise: Noise) -> Float[Tensor, ""]:
    """Return sum_p e_p s_p / sqrt(n), with the same weight for each size."""
    sums = [
        ((2 * noise.integers(2, size.shape[1]) - 1).to(size) * size).sum()
        / math.sqrt(size.shape[1] * len(scale))
        for size in scale
    ]
    return torch.stack(sums).sum()


def penalty(
    critic: MultiScaleCritic, real: Pyramid, c: Condition, gamma: float, noise: Noise
) -> Scalar:
    """Return R1: the mean over scales i of gamma / 4^i / 2 E |ds/dx_i|^2, in full precision.

    Args:
        critic: the critic.
        real: real pictures at each scale.
        c: their condition.
        gamma: weight at full size; it is proportional to the number of pixels at other sizes.
        noise: a random stream for each picture.
    """
    with torch.autocast(real[0].device.type, enabled=False):
        slopes = steepness(lambda pictures: critic(pictures, c), real, noise)
    penalties = [gamma / 4**i / 2 * slope for i, slope in enumerate(slopes)]
    return torch.stack(penalties).mean()


def critic_loss(
    critic: MultiScaleCritic,
    real: Pyramid,
    fake: Pyramid,
    c: Condition,
    weight: float,
) -> tuple[Scalar, Scalar, Scores, Scores]:
    """Return the critic's losses: that of the game, and the matching loss, not yet weighted.

    Args:
        critic: the critic.
        real, fake: real and generated pictures at each scale.
        c: condition of both.
        weight: weight of the matching loss, which is not computed if this is 0.

    Returns:
        the game's loss, the matching loss, and the scores of real and of generated pictures.
    """
    n = len(real[0])
    features = critic.extract([torch.cat(pair) for pair in zip(real, fake)], batches=2)
    vector = critic.condition_vector(c, n)
    vectors = None if vector is None else torch.cat([vector, vector])
    on_real, on_fake = split(critic.judge(features, vectors))
    loss = mean_loss(discriminate, on_real, on_fake)
    mismatch = loss.new_zeros(())
    if vector is not None and weight and len(c):
        other, differs = other_rows(c)
        vector = critic.condition_vector(other, n)
        assert vector is not None
        scores = split(critic.judge(features, torch.cat([vector, vector])))
        mismatch = matching_loss(scores[0], differs) + matching_loss(scores[1], differs)
    return loss, mismatch, on_real, on_fake
