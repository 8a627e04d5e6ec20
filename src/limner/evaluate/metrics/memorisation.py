"""Memorisation: does a model reproduce its training pictures?

The distance of a picture from a training picture is the root mean square difference of their pixels
in levels (0 .. 255). The training picture, without a margin of 2 pixels, is compared with the most
similar part of that size of the picture, mirrored or not. So a copy that was shifted or flipped is
still a copy. For each picture, with i its nearest training picture,

    first    d1, the distance from i
    second   d2, the distance from the nearest other training picture
    own      the distance of i itself from the nearest other training picture

and a picture is

    copied      if d1 < d2 / 3                    Yoon et al., Gu et al.
    authentic   if d1 > own                       Alaa et al.
    closer      if d1 is below the 5th percentile of the d1 of held-out pictures, or the 1st
                percentile for many of them

An "other" picture shows another subject: pictures of the same group as i (the same concept by
another artist) and near-duplicates of i are excluded. Otherwise d2 would be the distance of a twin,
and no copy of a picture with a twin would be found. The metric may report copies where there cannot
be any, so compute it on held-out pictures too.

All sums are of whole numbers below 2^53, so distances are exact, and the same in any batch.

References:
    Yoon, Choi, Kwon, Ryu (2023). Diffusion Probabilistic Models Generalize when They Fail to
    Memorize. ICML workshop on Structured Probabilistic Inference and Generative Modeling.
    Gu et al. (2023). On Memorization in Diffusion Models. arXiv:2310.02664.
    Alaa, van Breugel, Saveliev, van der Schaar (2021). How Faithful is your Synthetic Data?
    arXiv:2102.08921.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float64, Int64, UInt8
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.registry import Paper
from limner.evaluate.metric import Metric, NotApplicable, metric
from limner.evaluate.metrics.statistics import (
    IntervalEstimate,
    binomial_interval,
    combine_intervals,
    effective_number,
    share_interval,
)
from limner.evaluate.passes import BLOCK_PICTURES, Columns, Observations, Observer
from limner.evaluate.picture_sets import Numbers, PictureSet, Pixels, RealPictures
from limner.evaluate.report import SUBJECT, Number
from limner.runtime.cache import cache_key

PAPER = Paper(
    "On memorization in diffusion models", "Gu, Du, Pang, Li, Lin, Wang", 2023, "2310.02664"
)
_COPY_RATIO = 1 / 3
_MIN_HELD_OUT = 100
_MIN_FOR_PERCENTILE = 1000  # held-out pictures, of which 10 lie below the 1st percentile
_BATCH_PICTURES = 16  # pictures that are compared at a time
_BATCH_TRAINING = 2048  # training pictures that they are compared with at a time
_MIN_SIDE = 5  # because pictures are shifted by 2 pixels in both directions
_SHEET_PAIRS = 24
_MAX_PIXELS = 10**10  # training pixels times pictures: about 40 s on one core


@dataclass(frozen=True)
class NearestTraining:
    """Distances of pictures from the training pictures, in levels, 0 .. 255.

    Args:
        nearest: the number of the nearest training picture.
        first: d1, the distance from the nearest training picture.
        second: d2, the distance from the nearest training picture of another subject.
        to_other: the distance of that picture from the nearest one of another subject.
    """

    nearest: Int64[Tensor, "n"]
    first: Float64[Tensor, "n"]
    second: Float64[Tensor, "n"]
    to_other: Float64[Tensor, "n"]

    @property
    def ratio(self) -> Float64[Tensor, "n"]:
        """d1 / d2 of each picture; 0 for an exact copy, no matter what else is near."""
        return torch.where(self.first > 0, self.first / self.second, 0.0)

    @property
    def is_copy(self) -> Bool[Tensor, "n"]:
        """Whether each picture is a copy: d1 / d2 below 1/3."""
        return self.ratio < _COPY_RATIO

    @property
    def share_of_copies(self) -> float:
        """The share of pictures that are copies."""
        return float(self.is_copy.double().mean())

    @property
    def is_authentic(self) -> Bool[Tensor, "n"]:
        """Whether each picture is farther from its nearest training picture than `to_other`."""
        return self.first > self.to_other

    @property
    def share_authentic(self) -> float:
        """The share of authentic pictures."""
        return float(self.is_authentic.double().mean())

    def closer(
        self,
        held_out: "NearestTraining",
        groups: Int64[Tensor, "n"] | None = None,
        held_out_groups: Int64[Tensor, "m"] | None = None,
    ) -> "Closer":
        """Compute the share of pictures with a smaller d1 than almost all held-out pictures.

        The bound is the j-th smallest d1 of m held-out pictures, j = floor(a (m + 1)), with a = 1 %
        from 1,000 held-out pictures on, else 5 %. For a model that generalises, a share of exactly
        j / (m + 1) is expected below it, for any distribution. The interval accounts for both sets:
        it combines Wilson's interval of the share at the bound with the shares at the limits of the
        quantile, both for the effective number of things.

        Args:
            held_out: the distances of the held-out pictures.
            groups, held_out_groups: for the pictures of either set, the same number for variants of
                one thing; None if each picture is a thing of its own.

        Raises:
            LimnerError: fewer than 100 held-out pictures.
        """
        if (m := len(held_out.first)) < _MIN_HELD_OUT:
            raise LimnerError(
                f"percentiles of distances need at least {_MIN_HELD_OUT} held-out pictures, not {m}"
            )
        percent = 1 if m >= _MIN_FOR_PERCENTILE else 5
        j = percent * (m + 1) // 100
        bounds = torch.cat([held_out.first.new_tensor([-torch.inf]), held_out.first.sort().values])
        things = round(effective_number(held_out.first <= bounds[j], held_out_groups))
        low, high = (count * m / things for count in binomial_interval(things, j / (m + 1)))
        minimum, maximum = (
            float((self.first < bounds[i]).double().mean())
            for i in (math.floor(low), min(math.ceil(high) + 1, m))
        )
        share, *limits = share_interval(self.first < bounds[j], groups)
        estimate = combine_intervals(share, [(limits[0], limits[1]), (minimum, maximum)])
        return Closer(estimate, percent, j / (m + 1))


class Closer(NamedTuple):
    """The share of pictures that are closer to training pictures than held-out pictures are.

    Args:
        share: the share with its interval.
        percent: the percentile of the held-out pictures' d1 that is the bound, in whole percent.
        expected: the expected share for a model that generalises.
    """

    share: IntervalEstimate
    percent: int
    expected: float


def memorisation(
    pictures: UInt8[Tensor, "n c h w"],
    train: UInt8[Tensor, "m c h w"],
    groups: Int64[Tensor, "m"] | None = None,
    *,
    shift: int = 2,
    twin: float = 8.0,
) -> NearestTraining:
    """Compute the distances of pictures from training pictures; see the module's docstring.

    Args:
        pictures: pictures of a model, or held-out ones to find the rate of false copies.
        train: all pictures that the model was trained on.
        groups: a number for each training picture, the same for pictures of one subject.
        shift: the number of pixels by which a copy may be moved up, down, left and right.
        twin: training pictures at most this far apart, in levels, count as one subject.

    Raises:
        LimnerError: no picture; fewer than 2 subjects; pictures of different sizes, or too small.
    """
    _check(pictures, train, groups, shift)
    pictures, train = pictures.cpu(), train.cpu()
    groups = torch.arange(len(train)) if groups is None else groups.cpu()
    blocks = [
        _measure(block, train, groups, shift, twin) for block in pictures.split(_BATCH_PICTURES)
    ]
    nearest, first, second, to_other = (torch.cat(column) for column in zip(*blocks))
    if count := int(second.isinf().sum()):
        raise LimnerError(
            f"for {count} pictures, all training pictures are twins of the nearest one (at most "
            f"{twin:g} levels apart, or of its group), so there is no second one to compare with; "
            "give smaller groups or a smaller twin"
        )
    return NearestTraining(nearest, first, second, to_other)


def _check(pictures: Tensor, train: Tensor, groups: Tensor | None, shift: int) -> None:
    if not len(pictures) or len(train) < 2:
        raise LimnerError(
            "memorisation needs at least 1 picture and 2 training pictures, not "
            f"{len(pictures)} and {len(train)}"
        )
    if pictures.shape[1:] != train.shape[1:]:
        sizes = [" x ".join(map(str, images.shape[1:])) for images in (pictures, train)]
        raise LimnerError(
            f"pictures of {sizes[0]} cannot be compared with training pictures of {sizes[1]} "
            "(channels x height x width)"
        )
    if not 0 <= 2 * shift < min(train.shape[2:]):
        raise LimnerError(
            f"pictures of {train.shape[2]} x {train.shape[3]} cannot be shifted by {shift} pixels"
        )
    if groups is not None and len(groups) != len(train):
        raise LimnerError(f"{len(groups)} groups were given for {len(train)} training pictures")


def _measure(
    pictures: UInt8[Tensor, "b c h w"],
    train: UInt8[Tensor, "m c h w"],
    groups: Int64[Tensor, "m"],
    shift: int,
    twin: float,
) -> tuple[Int64[Tensor, "b"], Float64[Tensor, "b"], Float64[Tensor, "b"], Float64[Tensor, "b"]]:
    """Compute nearest, first, second and own of a few pictures; a missing second is infinite."""
    distances = _distances(pictures, train, shift)
    first, nearest = distances.min(1)
    train_distances = _distances(train[nearest], train, shift)
    is_twin = (train_distances <= twin) | (groups[nearest][:, None] == groups)
    second, to_other = (
        d.masked_fill(is_twin, torch.inf).amin(1) for d in (distances, train_distances)
    )
    return nearest, first, second, to_other


def _distances(
    pictures: UInt8[Tensor, "b c h w"], train: UInt8[Tensor, "m c h w"], shift: int
) -> Float64[Tensor, "b m"]:
    """Compute the distance of each picture from each training picture, over shifts and flips."""
    h, w = train.shape[2] - 2 * shift, train.shape[3] - 2 * shift
    flips = torch.stack([pictures, pictures.flip(-1)], 1)  # b 2 c H W
    parts = flips.unfold(3, h, 1).unfold(4, w, 1)  # b 2 c dy dx h w
    x = parts.permute(0, 1, 3, 4, 2, 5, 6).flatten(4).flatten(0, 3).double()  # b*2*dy*dx c*h*w
    # |x - y|^2 = -2 x y + |x|^2 1 + 1 |y|^2, as one product.
    left = torch.cat([-2 * x, x.square().sum(1, keepdim=True), torch.ones(len(x), 1)], 1)
    blocks = []
    for block in train.split(_BATCH_TRAINING):
        y = block[:, :, shift : shift + h, shift : shift + w].flatten(1).double()
        right = torch.cat([y, torch.ones(len(y), 1), y.square().sum(1, keepdim=True)], 1)
        blocks.append((left @ right.T).view(len(pictures), -1, len(y)).amin(1))
    return torch.cat(blocks, 1).div_(x.shape[1]).sqrt_()


def suspects(
    pictures: UInt8[Tensor, "n c h w"],
    train: UInt8[Tensor, "m c h w"],
    result: NearestTraining,
    pairs: int = 24,
) -> UInt8[Tensor, "p c h w"]:
    """Return the pictures most likely to be copies, each followed by its nearest training picture.

    `limner.data.png.grid` with an even number of columns shows them side by side.

    Args:
        pictures, train: the arguments of `memorisation`.
        result: the result of `memorisation`.
        pairs: the largest number of pairs; the smallest ratio d1 / d2 comes first.
    """
    worst = result.ratio.argsort(stable=True)[:pairs]
    sides = torch.stack([pictures.cpu()[worst], train.cpu()[result.nearest[worst]]], 1)
    return sides.flatten(0, 1)


class CopyObserver(Observer):
    """Observer of the distances from training pictures.

    Args:
        training: all pictures that models learn from.
    """

    lasting = True

    def __init__(self, training: RealPictures) -> None:
        self.training = training
        pixels = len(training) * training.spec.dimensions
        self.max_pictures = max(1, _MAX_PIXELS // pixels // BLOCK_PICTURES) * BLOCK_PICTURES
        self.name = "copies"
        self.fingerprint = cache_key(
            "copies", training.fingerprint, len(training), self.max_pictures
        )

    @cached_property
    def pixels(self) -> UInt8[Tensor, "m c h w"]:
        """All training pictures."""
        return self.training.pictures(torch.arange(len(self.training)))

    def look(self, pictures: PictureSet, numbers: Numbers, pixels: Pixels) -> Columns:
        """Return `nearest`, `first`, `second` and `own`, see `NearestTraining`."""
        groups = self.training.groups(torch.arange(len(self.training)))
        try:
            return dict(vars(memorisation(pixels, self.pixels, groups)))
        except LimnerError:  # the training pictures are all alike; `nearest` raises the error
            nan = torch.full((3, len(pixels)), torch.nan, dtype=torch.float64)
            nearest = torch.zeros(len(pixels), dtype=torch.int64)
            return {"nearest": nearest} | dict(zip(("first", "second", "own"), nan.clone()))


@metric("memorisation", paper=PAPER)
class Memorisation(Metric):
    """The share of copies of training pictures, and the same for held-out pictures."""

    summary = "the share of pictures that are copies of training pictures, with a sheet of pairs"
    reads = ("training pictures",)
    better = "lower"
    redrawn = ("subject", "held-out")

    @cached_property
    def observer(self) -> CopyObserver:
        """The observer that compares pictures with training pictures."""
        assert self.setting.training is not None
        return CopyObserver(self.setting.training)

    @cached_property
    def sets(self) -> dict[str, PictureSet]:
        """The subject and as many held-out pictures, by the row's name."""
        s = self.setting
        held_out = s.held_out and s.held_out.first(len(s.subject))
        real = {f"real ({held_out.name})": held_out} if held_out else {}
        return {SUBJECT: s.subject} | real

    def needs(self) -> list[tuple[PictureSet, Observer]]:
        """Request the comparison of both sets with the training pictures.

        Raises:
            NotApplicable: the training pictures are unknown, endless, too few or too small.
        """
        training = self.setting.training
        if training is None:
            raise NotApplicable(
                f"{self.setting.reference.name} has no split that models learn from"
            )
        if training.dataset.endless:
            raise NotApplicable(
                f"{training.name} never shows a picture twice, so there is nothing to copy"
            )
        if len(training) < 2:
            raise NotApplicable(
                f"it needs at least 2 training pictures, and {training.name} has {len(training)}"
            )
        if min(training.spec.shape[1:]) < _MIN_SIDE:
            raise NotApplicable(f"it needs pictures of at least {_MIN_SIDE} x {_MIN_SIDE}")
        return [(pictures, self.observer) for pictures in self.sets.values()]

    def nearest(self, observations: Observations, pictures: PictureSet) -> NearestTraining:
        """Return the distances of a set.

        Raises:
            LimnerError: the training pictures are so alike that none is second nearest.
        """
        nearest = NearestTraining(**observations.of(pictures, self.observer))
        if nearest.first.isnan().any():
            raise LimnerError(
                f"the pictures of {self.observer.training.name} are so alike that none is the "
                "second nearest, which memorisation needs"
            )
        return nearest

    def numbers(self, observations: Observations) -> list[Number]:
        """Compute three shares; copies among held-out pictures are false positives."""
        numbers: list[Number] = []
        m, total = len(self.observer.training), len(self.observer.training.dataset)
        note = f"; compared with {m:,} of {total:,} training pictures" if m < total else ""
        for row, pictures in self.sets.items():
            near = self.nearest(observations, pictures)
            groups = pictures.groups(torch.arange(len(near.first)))
            fields: dict[str, Any] = {"groups": groups, "row": row, "m": m}
            protocol = f"d1 / d2 < 1/3 in pixels, shifted by up to 2 and mirrored{note}"
            copied = self.share("copied", near.is_copy, better="lower", protocol=protocol, **fields)
            protocol = "d1 > the nearest training picture's own distance"
            authentic = self.share(
                "authentic", near.is_authentic, better="higher", protocol=protocol, **fields
            )
            numbers += [copied, authentic]
            if row == SUBJECT:
                numbers += self.closer_numbers(observations, near)
        return numbers

    def closer_numbers(self, observations: Observations, of: NearestTraining) -> Iterator[Number]:
        """Yield the share that is closer than held-out pictures, and that of a perfect model."""
        subject, *real = self.sets.values()
        if not real:
            return
        held_out = self.nearest(observations, real[0])
        n, m = len(of.first), len(held_out.first)
        if m < _MIN_HELD_OUT:
            return
        groups = (p.groups(torch.arange(k)) for p, k in ((subject, n), (real[0], m)))
        closer = of.closer(held_out, *groups)
        protocol = f"d1 below percentile {closer.percent} of {m:,} held-out pictures'"
        fields: dict[str, Any] = {"m": len(self.observer.training), "better": "lower"}
        name = "closer than held-out"
        yield self.number(name, closer.share, n, protocol=protocol, **fields)
        yield self.number(name, closer.expected, n, row="floor", sign="~", **fields)

    def sheets(self, observations: Observations) -> dict[str, Pixels]:
        """Return the most suspicious pairs: a picture, and the training picture nearest to it."""
        subject = self.setting.subject
        near = self.nearest(observations, subject)
        worst = near.ratio.argsort(stable=True)[:_SHEET_PAIRS]
        pairs = NearestTraining(*(column[worst] for column in vars(near).values()))
        pixels = observations.pixels(subject, worst.tolist())
        return {"suspects": suspects(pixels, self.observer.pixels, pairs, _SHEET_PAIRS)}
