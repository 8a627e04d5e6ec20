"""Sets of pictures compared by nearest neighbours: balls around features, and what lies in them.

Around each point of a set lies the ball that reaches to its k-th nearest other point; the balls
together are where the set lives. All that is counted depends on how many points there are: compare
only numbers of the same n and m, best n = m.

Balls are closed, so a point at the very radius is inside, as the papers have it and the package
prdc has not. A duplicate is a neighbour at distance 0 (only a point itself is none), so equal sets
always read 1. Distances below a millionth of the farthest point's from the reals' mean are 0, and
radii that close are equal, so that ties do not hang on rounding.

Each number is a mean of terms, one of each point of a set, that depend on the other set too:

    var = var(terms) / n  +  variance over other sets

The first is the binomial one where terms are 0 or 1: what is left to chance when the other set is
given. The second is a delete-a-group jackknife's, in 20 groups of the other set: with d_gi what
leaving out group g changes in term i, from which its mean over the groups is taken,

    19/20 sum_g sum_{i != j} d_gi d_gj / n (n - 1)

Pairs i = j are left out, which would count the chance of single terms a second time.

References:
    Efron, Stein (1981). The jackknife estimate of variance. Annals of Statistics 9.
    Kish (1965). Survey sampling. Wiley. (The effective number of things behind a share.)
    Satterthwaite (1946). An approximate distribution of estimates of variance components.
    Biometrics Bulletin 2.
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
    Estimate,
    checked_features_of_both,
    random_order,
    student_quantile,
    wilson_interval,
)
from limner.evaluate.passes import Seen
from limner.evaluate.report import Number

_BLOCK = 2**22  # squared distances that are held at a time
_TIE = 1e-12  # of the farthest point's squared distance
_GROUPS = 20
_SPARE = 12  # neighbours beyond 4 k, all but surely enough where a group is left out


class Points:
    """A set with its balls and its groups.

    Args:
        x: around the common mean.
        k: which neighbour a ball reaches to.
        tie: the squared distance that counts as none.
        groups: how many there are; 0 where no group can be left out.
        seed: of the groups.
    """

    def __init__(self, x: Float64[Tensor, "n d"], k: int, tie: float, groups: int, seed: int):
        self.x, self.k, self.tie = x, k, tie
        group = random_order(len(x), seed) % max(1, groups)
        versions = [torch.ones(len(x), dtype=torch.bool)]
        self.versions = torch.stack(versions + [group != g for g in range(groups)])

    def reach(self, versions: Bool[Tensor, "v n"]) -> Float64[Tensor, "v n"]:
        """The squared radius of each ball in each version; negative where its centre is out."""
        most = min(len(self.x) - 1, 4 * self.k + _SPARE)
        found: list[Tensor] = []
        for start, squared in _squared_distances(self.x, self.x):
            squared.diagonal(start).fill_(torch.inf)  # itself
            near, which = squared.topk(most, largest=False)
            there = versions[:, which].cumsum(2) >= self.k  # v b most
            place = torch.where(there.any(2), there.int().argmax(2), most - 1)
            found.append(near.expand(len(place), -1, -1).gather(2, place[..., None])[..., 0])
        return (torch.cat(found, 1) + self.tie).masked_fill(~versions, -1.0)


def pair_of_points(
    real: Float[Tensor, "n d"],
    fake: Float[Tensor, "m d"],
    k: int,
    least: tuple[int, int],
    what: str,
) -> tuple[Points, Points]:
    """Both sets around the reals' mean, where x^2 + y^2 - 2xy loses least.

    Args:
        real, fake: features, a row for each picture.
        k: which neighbour a ball reaches to.
        least: how many of each there have to be.
        what: the metric's name, for messages.

    Raises:
        LimnerError: fewer; different, NaN or infinite features; k below 1.
    """
    if k < 1:
        raise LimnerError(f"the number of neighbours k is at least 1, not {k}")
    reals, fakes = checked_features_of_both(real, fake, least, f"{what} with k = {k}")
    mean = reals.mean(0)
    reals, fakes = reals - mean, fakes - mean
    tie = _TIE * max(float(z.square().sum(1).max()) for z in (reals, fakes))
    fewest = min(len(reals), len(fakes))
    groups = min(_GROUPS, fewest)
    if groups < 2 or fewest - -(-fewest // groups) <= k:
        groups = 0  # what is left would have no k-th neighbour
    return Points(reals, k, tie, groups, 0), Points(fakes, k, tie, groups, 1)


def inside(
    points: Points, centres: Points, versions: Bool[Tensor, "v m"]
) -> Iterator[tuple[int, slice, Bool[Tensor, "b m"]]]:
    """Number of a version, some points, and whether each lies in the ball of each centre.

    Args:
        points: that may lie in balls.
        centres: of the balls.
        versions: which of the centres there are.
    """
    reach = centres.reach(versions)
    for start, squared in _squared_distances(points.x, centres.x):
        rows = slice(start, start + len(squared))
        yield from ((version, rows, squared <= radii) for version, radii in enumerate(reach))


def share_inside(points: Points, centres: Points) -> Estimate:
    """The share of points in any ball of the centres."""
    terms = torch.zeros(len(centres.versions), len(points.x), dtype=torch.float64)
    for version, rows, lies in inside(points, centres, centres.versions):
        terms[version, rows] = lies.any(1).double()
    return share(terms)


def share(terms: Float64[Tensor, "v n"], own: float = 0.0) -> Estimate:
    """A share with its interval: Wilson's, of as many things as have its error.

    The error is Student's, with the degrees of freedom that Satterthwaite's formula gives.

    Args:
        terms, own: as for `variances`.
    """
    value, n, groups = float(terms[0].mean()), float(terms.shape[1]), len(terms) - 1
    given, others = variances(terms, own)
    if (both := given + others) > 0:
        degrees = (groups - 1) * (both / others) ** 2 if others else math.inf
        wider = (NORMAL_97_5 / student_quantile(max(4.0, degrees))) ** 2
        n = min(n, value * (1 - value) / both * wider)
    return Estimate(value, *wilson_interval(value, max(1.0, n)))


def mean(terms: Float64[Tensor, "v n"]) -> Estimate:
    """A mean of counts with its normal interval: their jackknife's variance is rather too large."""
    value, half = float(terms[0].mean()), NORMAL_97_5 * math.sqrt(sum(variances(terms)))
    return Estimate(value, max(0.0, value - half), value + half)


def variances(terms: Float64[Tensor, "v n"], own: float = 0.0) -> tuple[float, float]:
    """The variance of the mean of terms when the other set is given, and over other sets.

    Args:
        terms: by the whole other set, then without each of its groups.
        own: the variance over their own set, where they depend on one another.
    """
    n, groups = terms.shape[1], len(terms) - 1
    given = max(own, float(terms[0].var()) / n if n > 1 else 0.0)
    if groups < 2 or n < 2:
        return given, 0.0
    change = terms[1:] - terms[1:].mean(0)
    pairs = float(change.sum(1).square().sum() - change.square().sum())
    return given, max(0.0, (groups - 1) / groups * pairs / (n * (n - 1)))


class NeighbourMetric(FeatureMetric):
    """Two numbers by nearest neighbours, of equally many pictures and real ones.

    Attributes:
        k: which neighbour balls reach to.
        names: of the two.
    """

    reads = ("features",)
    better = "higher"
    redrawn = ("subject", "reference")
    k: ClassVar[int]
    names: ClassVar[tuple[str, str]]

    @abstractmethod
    def both(
        self, real: Float[Tensor, "n d"], fake: Float[Tensor, "n d"]
    ) -> tuple[Estimate, Estimate]:
        """The two numbers of a pair of sets."""

    def numbers(self, seen: Seen) -> list[Number]:
        """Both of each set; the more, the stricter, and so equally many are compared."""
        reference = seen.of(self.setting.reference, self.observer)["features"]
        found: list[Number] = []
        for row, pictures in self.sets.items():
            features = seen.of(pictures, self.observer)["features"]
            n = min(len(features), len(reference))
            shared: dict[str, Any] = {"row": row, "m": n, "protocol": f"{self.k} neighbours"}
            for name, value in zip(self.names, self.both(reference[:n], features[:n])):
                found.append(self.number(name, value, n, better=self.better, **shared))
        return found


def _squared_distances(
    x: Float64[Tensor, "n d"], y: Float64[Tensor, "m d"]
) -> Iterator[tuple[int, Tensor]]:
    """The first of some rows of x, and their squared distances to all of y, "rows m"."""
    rows = max(1, _BLOCK // len(y))
    lengths = y.square().sum(1)
    for start in range(0, len(x), rows):
        some = x[start : start + rows]
        squared = torch.addmm(lengths, some, y.T, alpha=-2)
        yield start, squared.add_(some.square().sum(1, keepdim=True))
