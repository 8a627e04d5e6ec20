"""A critic of pictures at several scales, each judged at each further halving, all independently.

    s_ij = psi_j(h_ij, c) + conv_j(h_ij),   h_ij: the picture at scale i, seen down to size j

A picture enters the network where its size is, through a layer of that size, and goes on through
the blocks that all scales share. At each size j on its way a head says how real it is: a map of
scores, psi from what it is said to be of, and conv_j from the picture alone. No scale sees another,
so that small pictures, too, must be right by themselves (multi-scale input, multi-scale output).

    loss          the mean over scales i, sizes j and places of each score's loss
    matching      softplus(s(x, c')) + softplus(s(G(z, c), c')), c' the caption of another picture
    R1            gamma_i / 2 times the mean over scores of |d s / d x_i|^2

The second says that a picture which does not show its caption is as bad as one that does not look
real. The third is of many scores; with random signs e_p, E_e |d/dx sum_p e_p s_p / sqrt(n)|^2 is
their mean, by one gradient.

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
from limner.gans.modulation import Conv, Linear, ModulatedConv, activate, equalise
from limner.gans.stylegan2_networks import CriticBlock, deviation
from limner.nn.condition import Conditioner

Pyramid = list[Float[Tensor, "_ _ _ _"]]
"""Pictures at several scales, from the largest on."""
Scores = list[list[Float[Tensor, "_ _"]]]
"""Scores of each scale, from the largest on, at each size that judges it."""
Features = list[Float[Tensor, "_ _ _ _"]]
"""What each size sees, from the largest on: of all scales that have passed it, one after the
other."""
_DEPTH = 2  # layers of psi


def picture_scales(x: Images, scales: int) -> Pyramid:
    """A picture at so many scales, each half of the last, by the means of four pixels."""
    sizes = [x]
    for _ in range(scales - 1):
        sizes.append(F.avg_pool2d(sizes[-1], 2))
    return sizes


class Head(nn.Module):
    """psi(h, c) + conv(h), at each place.

    Args:
        channels: of h.
        told: numbers of c; 0 where pictures are of nothing.
    """

    def __init__(self, channels: int, told: int) -> None:
        super().__init__()
        self.plain = Conv(channels, 1, 1)
        depth = _DEPTH if told else 0
        self.layers = nn.ModuleList(
            ModulatedConv(channels, channels, 1, told) for _ in range(depth)
        )
        self.score = Conv(channels, 1, 1) if told else None

    def forward(
        self, h: Float[Tensor, "b c h w"], told: Float[Tensor, "b d"] | None
    ) -> Float[Tensor, "b places"]:
        """A score for each place."""
        scores = self.plain(h)
        if self.score is not None and told is not None:
            for layer in self.layers:
                h = activate(layer(h, told))
            scores = scores + self.score(h)
        return scores.flatten(1).float()


class MultiScaleCritic(nn.Module):
    """Pictures at several scales, and what they are said to be of, to scores.

    Args:
        spec: what the pictures are.
        widths: channels of each size, from the largest on.
        scales: how many sizes pictures are seen at, at most.
        attention: pixels of the longer side up to which a size attends to itself.
        told: numbers of what a head is told of the condition.
    """

    def __init__(
        self, spec: ImageSpec, widths: Sequence[int], scales: int, attention: int, told: int
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
        places = (spec.height >> self.depth) * (spec.width >> self.depth)
        self.features = Linear(last * places, last)
        self.conditioner = Conditioner(spec, told)
        equalise(self.conditioner)
        told = told if spec.labels or spec.text else 0
        self.heads = nn.ModuleList(Head(n, told) for n in (*widths[1:-1], last))

    def forward(self, pictures: Pyramid, c: Condition, batches: int = 1) -> Scores:
        """Scores of each scale, at each size.

        Args:
            pictures: at each scale, from the largest on.
            c: what they are said to be of.
            batches: how many batches they are of, one after the other; a picture is compared with
                others of its own batch and scale only.
        """
        return self.judge(self.see(pictures, batches), self.tell(c, len(pictures[0])))

    def tell(self, c: Condition, n: int) -> Float[Tensor, "b d"] | None:
        """The condition as heads are told it; None where the data have none."""
        return self.conditioner(c, n).vector

    def see(self, pictures: Pyramid, batches: int = 1) -> Features:
        """What each size sees; see `forward`."""
        h, seen = None, Features()
        for j in range(self.depth + 1):
            if j < self.scales:
                own = activate(self.from_picture[j](by_pixel(pictures[j])))
                h = own if h is None else torch.cat([h, own])
            assert h is not None
            if j == self.depth:
                seen.append(self._end(h, batches * self.scales))
                break
            h = self.blocks[j](h)
            if str(j + 1) in self.attention:
                h = self.attention[str(j + 1)](h)
            if j + 1 < self.depth:
                seen.append(h)
        return seen

    def _end(self, h: Float[Tensor, "b c h w"], batches: int) -> Float[Tensor, "b c 1 1"]:
        """What the smallest size sees as a whole, and how much pictures of a group differ."""
        differ = torch.cat([deviation(batch) for batch in h.chunk(batches)])
        h = activate(self.conv(torch.cat([h, differ], dim=1)))
        return activate(self.features(h.flatten(1)))[:, :, None, None]

    def judge(self, seen: Features, told: Float[Tensor, "b d"] | None) -> Scores:
        """Scores of each scale at each size: how real the pictures are under their condition.

        Args:
            seen: the features of the pictures.
            told: the condition; None for how real they are without one.
        """
        scores = [list[Tensor]() for _ in range(self.scales)]
        for j, (head, h) in enumerate(zip(self.heads, seen)):
            entries = min(j + 1, self.scales) if j < len(seen) - 1 else self.scales
            every = None if told is None else told.repeat(entries, 1)
            for own, of_scale in zip(scores, head(h, every).chunk(entries)):
                own.append(of_scale)
        return scores


def mean_loss(loss: Callable[..., Scalar], *scores: Scores) -> Scalar:
    """The mean over scales and sizes of a loss of their scores."""
    each = [loss(*maps) for scale in zip(*scores) for maps in zip(*scale)]
    return torch.stack(each).mean()


def split(scores: Scores) -> tuple[Scores, Scores]:
    """Scores of the first half of a batch, and of the second."""
    halves = [[own.chunk(2) for own in scale] for scale in scores]
    first, second = ([[pair[i] for pair in scale] for scale in halves] for i in (0, 1))
    return first, second


def overall(scores: Scores) -> Float[Tensor, "b"]:
    """Each picture's mean score over scales, sizes and places."""
    each = [own.mean(1) for scale in scores for own in scale]
    return torch.stack(each).mean(0)


def other_rows(c: Condition) -> tuple[Condition, Bool[Tensor, "b"]]:
    """For each picture what the next one is of, and whether that is something else.

    A row without label and text says nothing that a picture could fail to show.
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


def matching(scores: Scores, differs: Bool[Tensor, "b"]) -> Scalar:
    """E softplus(s(x, c')): pictures under what they are not of, to be told from real ones.

    Args:
        scores: of pictures, or of paintings, under what another is of.
        differs: where that is something else.
    """

    def loss(own: Tensor) -> Tensor:
        weight = differs.to(own)[:, None].expand_as(own)
        return (F.softplus(own) * weight).sum() / weight.sum().clamp(min=1)

    return mean_loss(loss, scores)


def steepness(
    critic: Callable[[Pyramid], Scores], pictures: Pyramid, noise: Noise
) -> list[Float[Tensor, ""]]:
    """For each scale, E mean_p |d s_p / d x|^2 over its scores s_p, by one random sign for each.

    Args:
        critic: scores of pictures at all scales.
        pictures: real ones, at each scale.
        noise: a stream for each picture.
    """
    leaves = [x.detach().requires_grad_() for x in pictures]
    with torch.enable_grad():
        scores = critic([x.clone(memory_format=torch.channels_last) for x in leaves])
        total = torch.stack([_signed_sum(scale, noise) for scale in scores]).sum()
        slopes = torch.autograd.grad(total, leaves, create_graph=True)
    return [slope.square().flatten(1).sum(1).mean() for slope in slopes]


def _signed_sum(scale: Sequence[Float[Tensor, "_ _"]], noise: Noise) -> Float[Tensor, ""]:
    """sum_p e_p s_p / sqrt(n), each size counting alike."""
    sums = [
        ((2 * noise.integers(2, own.shape[1]) - 1).to(own) * own).sum()
        / math.sqrt(own.shape[1] * len(scale))
        for own in scale
    ]
    return torch.stack(sums).sum()


def penalty(
    critic: MultiScaleCritic, real: Pyramid, c: Condition, gamma: float, noise: Noise
) -> Scalar:
    """R1: the mean over scales i of gamma / 4^i / 2 E |ds/dx_i|^2, in full precision.

    Args:
        critic: the critic.
        real: pictures at each scale.
        c: what they are of.
        gamma: the weight at full size; at others it goes with the number of pixels.
        noise: a stream for each picture.
    """
    with torch.autocast(real[0].device.type, enabled=False):
        slopes = steepness(lambda pictures: critic(pictures, c), real, noise)
    each = [gamma / 4**i / 2 * slope for i, slope in enumerate(slopes)]
    return torch.stack(each).mean()


def critic_loss(
    critic: MultiScaleCritic,
    real: Pyramid,
    fake: Pyramid,
    c: Condition,
    weight: float,
) -> tuple[Scalar, Scalar, Scores, Scores]:
    """What the critic lowers: the game, and `weight` times the matching loss.

    Args:
        critic: the critic.
        real, fake: pictures and paintings at each scale.
        c: what both are of.
        weight: of pictures under what they are not of.

    Returns:
        the game's loss, that of matching, and the scores of pictures and of paintings.
    """
    n = len(real[0])
    seen = critic.see([torch.cat(pair) for pair in zip(real, fake)], batches=2)
    told = critic.tell(c, n)
    twice = None if told is None else torch.cat([told, told])
    on_real, on_fake = split(critic.judge(seen, twice))
    loss = mean_loss(discriminate, on_real, on_fake)
    mismatch = loss.new_zeros(())
    if told is not None and weight and len(c):
        other, differs = other_rows(c)
        told = critic.tell(other, n)
        assert told is not None
        scores = split(critic.judge(seen, torch.cat([told, told])))
        mismatch = matching(scores[0], differs) + matching(scores[1], differs)
    return loss, mismatch, on_real, on_fake
