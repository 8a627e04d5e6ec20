"""Density and coverage: variants of precision and recall that use the balls of real pictures only.

    density    mean number of real balls around a fake / k  like precision, robust to outliers
    coverage   share of the real balls with a fake inside   like recall, with balls of the reals

See `neighbours` for the balls, and for the intervals.

Reference:
    Naeem et al. (2020). Reliable Fidelity and Diversity Metrics for Generative Models.
    arXiv:2002.09797.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from limner.contract.registry import Paper
from limner.evaluate.metric import metric
from limner.evaluate.metrics.neighbours import (
    NeighbourMetric,
    mean_with_interval,
    memberships,
    pair_of_points,
    share_with_interval,
)
from limner.evaluate.metrics.statistics import IntervalEstimate

PAPER = Paper(
    "Reliable fidelity and diversity metrics for generative models",
    "Naeem, Oh, Uh, Choi, Yoo",
    2020,
    "2002.09797",
)
K = 5
"""The paper's number of neighbours."""


class DensityAndCoverage(NamedTuple):
    """Density and coverage with their intervals.

    Args:
        density: about 1 for equal distributions; it may be larger.
        coverage: from 0 to 1.
    """

    density: IntervalEstimate
    coverage: IntervalEstimate


def density_coverage(
    real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"], k: int = K
) -> DensityAndCoverage:
    """Compute density and coverage, with their intervals over both sets.

    Args:
        real, fake: features, a row for each picture; best equally many.
        k: the neighbour to which a ball reaches.

    Raises:
        LimnerError: at most k real pictures or no fake one; different numbers of features; NaN or
            infinite features.
    """
    reals, fakes = pair_of_points(real, fake, k, (k + 1, 1), "density and coverage")
    balls = torch.zeros(len(reals.versions), len(fakes.x), dtype=torch.float64)
    filled = torch.zeros(reals.versions.shape, dtype=torch.bool)
    for version, rows, is_inside in memberships(fakes, reals, reals.versions):
        balls[version, rows] = is_inside.sum(1).double() / k
        filled[version] |= is_inside.any(0)
    covered = torch.zeros(len(fakes.versions), len(reals.x), dtype=torch.bool)
    for _, rows, is_inside in memberships(fakes, reals, reals.versions[:1]):
        for version, members in enumerate(fakes.versions):
            covered[version] |= is_inside[members[rows]].any(0)
    without = filled[1:].sum(1) / reals.versions[1:].sum(1)
    variance = (
        (len(without) - 1) * float(without.double().var(correction=0)) if len(without) else 0.0
    )
    return DensityAndCoverage(
        mean_with_interval(balls), share_with_interval(covered.double(), variance)
    )


@metric("density-coverage", paper=PAPER)
class DensityCoverage(NeighbourMetric):
    """Density and coverage of pictures and real ones."""

    summary = "how many real pictures lie around each picture, and how many real ones have one near"
    min_pictures = K + 1
    k = K
    names = ("density", "coverage")

    def both(
        self, real: Float[Tensor, "n d"], fake: Float[Tensor, "n d"]
    ) -> tuple[IntervalEstimate, IntervalEstimate]:
        """Compute density and coverage."""
        return density_coverage(real, fake, self.k)
