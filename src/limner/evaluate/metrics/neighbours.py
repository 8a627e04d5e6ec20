"""Precision and recall, density and coverage: sets of pictures compared by nearest neighbours.

Around each point of a set lies the ball that reaches to its k-th nearest other point; the balls
together are where the set lives.

    precision  share of the fakes inside any real ball      are they realistic?
    recall     share of the reals inside any fake ball      does the model make all there is?
    density    mean number of real balls around a fake / k  as precision, but outliers count little
    coverage   share of the real balls with a fake inside   as recall, but by the reals' own balls

All depend on how many points there are: compare only numbers of the same n and m, best n = m. Balls
are closed, so a point at the very radius is inside, as the papers have it and the package prdc has
not. A duplicate is a neighbour at distance 0 (only a point itself is none), so equal sets always
read 1. Distances below a millionth of the farthest point's from the reals' mean are 0, and radii
that close are equal, so that ties do not hang on rounding.

References:
    Kynkäänniemi et al. (2019). Improved Precision and Recall Metric for Assessing Generative
    Models. arXiv:1904.06991.
    Naeem et al. (2020). Reliable Fidelity and Diversity Metrics for Generative Models.
    arXiv:2002.09797.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.evaluate.metrics.statistics import checked_pair

_BLOCK = 2**22  # squared distances that are held at a time
_TIE = 1e-12  # of the farthest point's squared distance


class PrecisionRecall(NamedTuple):
    """Both from 0 to 1."""

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """Density is about 1 for equal laws and may be more; coverage is from 0 to 1."""

    density: float
    coverage: float


def precision_recall(
    real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"], k: int = 3
) -> PrecisionRecall:
    """Improved precision and recall.

    Args:
        real, fake: features, a row for each picture; best equally many.
        k: which neighbour a ball reaches to; 3 in the paper.

    Raises:
        LimnerError: at most k pictures in a set; different, NaN or infinite features.
    """
    _check_k(k)
    reals, fakes = checked_pair(real, fake, (k + 1, k + 1), f"precision and recall with k = {k}")
    reals, fakes, tie = _centred(reals, fakes)
    precise = sum(float(inside.any(1).sum()) for inside in _inside(fakes, reals, k, tie))
    recalled = sum(float(inside.any(1).sum()) for inside in _inside(reals, fakes, k, tie))
    return PrecisionRecall(precise / len(fakes), recalled / len(reals))


def density_coverage(
    real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"], k: int = 5
) -> DensityCoverage:
    """Density and coverage.

    Args:
        real, fake: features, a row for each picture; best equally many.
        k: which neighbour a ball reaches to; 5 in the paper.

    Raises:
        LimnerError: at most k real pictures, no fake one; different, NaN or infinite features.
    """
    _check_k(k)
    reals, fakes = checked_pair(real, fake, (k + 1, 1), f"density and coverage with k = {k}")
    reals, fakes, tie = _centred(reals, fakes)
    balls, covered = 0.0, torch.zeros(len(reals), dtype=torch.bool)
    for inside in _inside(fakes, reals, k, tie):
        balls += float(inside.sum())
        covered |= inside.any(0)
    return DensityCoverage(balls / (k * len(fakes)), float(covered.double().mean()))


def _check_k(k: int) -> None:
    if k < 1:
        raise LimnerError(f"the number of neighbours k is at least 1, not {k}")


def _centred(
    reals: Float64[Tensor, "n d"], fakes: Float64[Tensor, "m d"]
) -> tuple[Float64[Tensor, "n d"], Float64[Tensor, "m d"], float]:
    """Both around the reals' mean, where x^2 + y^2 - 2xy loses least, and the squared distance
    that counts as none."""
    mean = reals.mean(0)
    reals, fakes = reals - mean, fakes - mean
    farthest = max(float(z.square().sum(1).max()) for z in (reals, fakes))
    return reals, fakes, _TIE * farthest


def _inside(
    points: Float64[Tensor, "n d"], centres: Float64[Tensor, "m d"], k: int, tie: float
) -> Iterator[Tensor]:
    """For some points at a time, "rows m", whether each lies in the ball of each centre."""
    nearest = []
    for start, squared in _squared_distances(centres, centres):
        squared.diagonal(start).fill_(torch.inf)  # itself
        nearest.append(squared.kthvalue(k, dim=1).values)
    reach = torch.cat(nearest) + tie
    for _, squared in _squared_distances(points, centres):
        yield squared <= reach


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
