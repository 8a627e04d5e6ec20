"""Nearest-neighbour comparison of sets of pictures: balls around features, and the points in them.

Each point of a set has a ball that reaches to its k-th nearest other point; the union of the balls
is the estimated support of the set. All counts depend on the number of points: compare only numbers
of the same n and m, best n = m.

Balls are closed: a point exactly at the radius is inside, as in the papers but not in the package
prdc. A duplicate is a neighbour at distance 0 (only the point itself is not a neighbour), so equal
sets always give 1. Distances below a millionth of the farthest point's distance from the mean of
the real pictures count as 0, and radii that close count as equal, so that ties do not depend on
rounding.

Each number is a mean of terms, one for each point of a set. The terms depend on the other set too:

    var = var(terms) / n  +  variance over other sets

The first part is the variance when the other set is fixed; it is binomial if terms are 0 or 1. The
second part is a delete-a-group jackknife, in 20 groups of the other set. With d_gi the change of
term i when group g is left out, minus the mean of this change over the groups, it is

    19/20 sum_g sum_{i != j} d_gi d_gj / n (n - 1)

Pairs i = j are left out, because they would count the variance of single terms a second time.

References:
    Efron, Stein (1981). The jackknife estimate of variance. Annals of Statistics 9.
    Zou, Donner (2008). Construction of confidence limits about effect measures. Statistics in
    Medicine 27.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.evaluate.metric import FeatureMetric
from limner.evaluate.metrics.statistics import (
    NORMAL_97_5,
    IntervalEstimate,
    checked_features_of_both,
    combine_intervals,
    random_order,
    student_quantile,
    wilson_interval,
)
from limner.evaluate.passes import Observations
from limner.evaluate.report import Number

_BLOCK_DISTANCES = 2**22  # squared distances that are held at a time
_TIE_TOLERANCE = 1e-12  # of the farthest point's squared distance
_JACKKNIFE_GROUPS = 20
_SPARE_NEIGHBOURS = 12  # neighbours beyond 4 k: almost surely enough when a group is left out


class Points:
    """A set of points with their balls and their groups.

    Args:
        x: features, centred at the common mean.
        k: the neighbour to which a ball reaches.
        tie: the squared distance below which points count as equal.
        groups: the number of groups; 0 if no group can be left out.
        seed: the seed of the groups.
    """

    def __init__(self, x: Float64[Tensor, "n d"], k: int, tie: float, groups: int, seed: int):
        self.x, self.k, self.tie = x, k, tie
        group = random_order(len(x), seed) % max(1, groups)
        versions = [torch.ones(len(x), dtype=torch.bool)]
        self.versions = torch.stack(versions + [group != g for g in range(groups)])

    def reach(self, versions: Bool[Tensor, "v n"]) -> Float64[Tensor, "v n"]:
        """Compute the squared radius of each ball in each version of the set.

        It is negative if the version does not contain the ball's centre.

        Args:
            versions: which points each version contains.
        """
        count = min(len(self.x) - 1, 4 * self.k + _SPARE_NEIGHBOURS)
        radii: list[Tensor] = []
        for start, squared in _squared_distances(self.x, self.x):
            squared.diagonal(start).fill_(torch.inf)  # itself
            near, indices = squared.topk(count, largest=False)
            is_reached = versions[:, indices].cumsum(2) >= self.k  # v b count
            position = torch.where(is_reached.any(2), is_reached.int().argmax(2), count - 1)
            radii.append(near.expand(len(position), -1, -1).gather(2, position[..., None])[..., 0])
        return (torch.cat(radii, 1) + self.tie).masked_fill(~versions, -1.0)


def pair_of_points(
    real: Float[Tensor, "n d"],
    fake: Float[Tensor, "m d"],
    k: int,
    min_pictures: tuple[int, int],
    what: str,
) -> tuple[Points, Points]:
    """Return both sets, centred at the mean of the real one, where x^2 + y^2 - 2xy loses least.

    Args:
        real, fake: features, a row for each picture.
        k: the neighbour to which a ball reaches.
        min_pictures: the smallest number of pictures in each set.
        what: the name of the metric, for error messages.

    Raises:
        LimnerError: fewer pictures; different numbers of features; NaN or infinite features; k
            below 1.
    """
    if k < 1:
        raise LimnerError(f"the number of neighbours k must be at least 1, not {k}")
    reals, fakes = checked_features_of_both(real, fake, min_pictures, f"{what} with k = {k}")
    mean = reals.mean(0)
    reals, fakes = reals - mean, fakes - mean
    tie = _TIE_TOLERANCE * max(float(z.square().sum(1).max()) for z in (reals, fakes))
    fewest = min(len(reals), len(fakes))
    groups = min(_JACKKNIFE_GROUPS, fewest)
    if groups < 2 or fewest - -(-fewest // groups) <= k:
        groups = 0  # without a group, a point would have no k-th neighbour
    return Points(reals, k, tie, groups, 0), Points(fakes, k, tie, groups, 1)


def memberships(
    points: Points, centres: Points, versions: Bool[Tensor, "v m"]
) -> Iterator[tuple[int, slice, Bool[Tensor, "b m"]]]:
    """Yield the number of a version, a slice of points, and whether each is in each centre's ball.

    Args:
        points: the points that may lie in balls.
        centres: the centres of the balls.
        versions: which centres each version contains.
    """
    reach = centres.reach(versions)
    for start, squared in _squared_distances(points.x, centres.x):
        rows = slice(start, start + len(squared))
        yield from ((version, rows, squared <= radii) for version, radii in enumerate(reach))


def share_inside(points: Points, centres: Points) -> IntervalEstimate:
    """Compute the share of points that lie in at least one ball of the centres."""
    terms = torch.zeros(len(centres.versions), len(points.x), dtype=torch.float64)
    for version, rows, is_inside in memberships(points, centres, centres.versions):
        terms[version, rows] = is_inside.any(1).double()
    return share_with_interval(terms)


def share_with_interval(
    terms: Float64[Tensor, "v n"], own_variance: float = 0.0
) -> IntervalEstimate:
    """Compute a share with its interval.

    Wilson's interval of the points, for a fixed other set, is combined with Student's interval of
    the rest of the error. So the interval is narrow where almost all points lie inside.

    Args:
        terms, own: as for `variances`.
    """
    value, n, groups = float(terms[0].mean()), terms.shape[1], len(terms) - 1
    fixed, others = variances(terms, own_variance)
    rest = others + max(0.0, fixed - variances(terms[:1])[0])
    half = student_quantile(max(4, groups - 1)) * math.sqrt(rest)
    return combine_intervals(value, [wilson_interval(value, n), (value - half, value + half)])


def mean_with_interval(terms: Float64[Tensor, "v n"]) -> IntervalEstimate:
    """Compute a mean of counts with its normal interval; the jackknife variance is rather large."""
    value, half = float(terms[0].mean()), NORMAL_97_5 * math.sqrt(sum(variances(terms)))
    return IntervalEstimate(value, max(0.0, value - half), value + half)


def variances(terms: Float64[Tensor, "v n"], own_variance: float = 0.0) -> tuple[float, float]:
    """Compute the variance of the mean of terms for a fixed other set, and over other sets.

    Args:
        terms: the terms with the whole other set, then without each of its groups.
        own_variance: the variance over their own set, if the terms depend on one another.
    """
    n, groups = terms.shape[1], len(terms) - 1
    fixed = max(own_variance, float(terms[0].var()) / n if n > 1 else 0.0)
    if groups < 2 or n < 2:
        return fixed, 0.0
    change = terms[1:] - terms[1:].mean(0)
    pairs = float(change.sum(1).square().sum() - change.square().sum())
    return fixed, max(0.0, (groups - 1) / groups * pairs / (n * (n - 1)))


class NeighbourMetric(FeatureMetric):
    """Base class of metrics with two nearest-neighbour numbers, of equally many fakes and reals.

    Attributes:
        k: the neighbour to which balls reach.
        names: the names of the two numbers.
    """

    reads = ("features",)
    better = "higher"
    redrawn = ("subject", "reference")
    k: ClassVar[int]
    names: ClassVar[tuple[str, str]]

    @abstractmethod
    def both(
        self, real: Float[Tensor, "n d"], fake: Float[Tensor, "n d"]
    ) -> tuple[IntervalEstimate, IntervalEstimate]:
        """Compute the two numbers of a pair of sets."""

    def numbers(self, observations: Observations) -> list[Number]:
        """Compute both numbers of each set.

        They become stricter with more pictures, so equally many pictures are compared.
        """
        reference = observations.of(self.setting.reference, self.observer)["features"]
        numbers: list[Number] = []
        for row, pictures in self.sets.items():
            features = observations.of(pictures, self.observer)["features"]
            n = min(len(features), len(reference))
            fields: dict[str, Any] = {"row": row, "m": n, "protocol": f"{self.k} neighbours"}
            for name, value in zip(self.names, self.both(reference[:n], features[:n])):
                numbers.append(self.number(name, value, n, better=self.better, **fields))
        return numbers


def _squared_distances(
    x: Float64[Tensor, "n d"], y: Float64[Tensor, "m d"]
) -> Iterator[tuple[int, Tensor]]:
    """Yield the index of a block's first row of x, and its squared distances to y, "rows m"."""
    rows = max(1, _BLOCK_DISTANCES // len(y))
    lengths = y.square().sum(1)
    for start in range(0, len(x), rows):
        block = x[start : start + rows]
        squared = torch.addmm(lengths, block, y.T, alpha=-2)
        yield start, squared.add_(block.square().sum(1, keepdim=True))
