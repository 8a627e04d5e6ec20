"""The Monge distance: the sliced Wasserstein distance between two sets of features.

    MIND = 3 d mean_u W(u'x, u'y),    W(p, q) = mean_i (p_(i) - q_(i))^2

over M = 1,000 random unit vectors u, for d features: in one dimension, optimal transport pairs the
sorted values. It is called MIND, Monge Inception distance, if the features are Inception's. No
covariance is estimated, so the distance is defined for fewer pictures than features, and it
distinguishes two distributions with equal moments. The factor 3 d is the paper's; a shift of all
pictures by a vector v gives 3 |v|^2.

Both sets have equally many pictures. The distance of few pictures is too large, by about `floor`;
the paper uses 1,000 to 5,000. Intervals are the normal ones of the central limit theorem, for the
value at this n. The derivative of W with respect to the weight of a picture is the picture's
Kantorovich potential, so the error is that of a mean of potentials. Nothing is resampled.

References:
    Berthet, Wu, Crepy, Elie, Greff, Sander (2026). MIND: Monge Inception Distance for Generative
    Models Evaluation. arXiv:2605.06797.
    Bonneel, Rabin, Peyré, Pfister (2015). Sliced and Radon Wasserstein barycenters of measures.
    Journal of Mathematical Imaging and Vision 51.
    Del Barrio, Loubes (2019). Central limit theorems for empirical transportation cost in general
    dimension. arXiv:1705.01299.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.noise import Noise
from limner.contract.registry import Paper
from limner.evaluate.metric import FeatureMetric, metric
from limner.evaluate.metrics.statistics import (
    IntervalEstimate,
    checked_features,
    checked_features_of_both,
    random_order,
    student_quantile,
)
from limner.evaluate.passes import Observations, Observer
from limner.evaluate.picture_sets import PictureSet
from limner.evaluate.report import SUBJECT, Number

PAPER = Paper(
    "MIND: Monge Inception distance for generative models evaluation",
    "Berthet, Wu, Crepy, Elie, Greff, Sander",
    2026,
    "2605.06797",
)
DIRECTIONS = 1000
"""The number of random directions: the largest that the paper recommends."""
_MIN_PICTURES = 10
_BATCH_DIRECTIONS = 64  # directions at a time
_SPLITS = 10
_RECOMMENDED_PICTURES = 1000  # pictures: the smallest number in the paper


def mind(x: Float[Tensor, "n d"], y: Float[Tensor, "n d"], seed: int = 0) -> IntervalEstimate:
    """Compute the Monge distance of two sets of equally many images, with its interval.

    Args:
        x, y: features, a row for each image, in any order.
        seed: the seed of the directions.

    Raises:
        LimnerError: fewer than 10 images; sets of different sizes; different numbers of features;
            NaN or infinite features.
    """
    x, y = checked_features_of_both(x, y, (_MIN_PICTURES, _MIN_PICTURES), "MIND")
    n, d = x.shape
    if n != len(y):
        raise LimnerError(f"MIND compares equally many images, not {n} with {len(y)}")
    total, pull_x, pull_y = 0.0, x.new_zeros(n), y.new_zeros(n)
    for u in directions(d, seed).split(_BATCH_DIRECTIONS):
        (p, order_x), (q, order_y) = ((u @ z.T).sort(dim=1) for z in (x, y))  # rows n
        gap = p - q
        total += float(gap.square().sum())
        pull_x += torch.empty_like(p).scatter_(1, order_x, _potentials(p, gap)).sum(0)
        pull_y += torch.empty_like(q).scatter_(1, order_y, _potentials(q, -gap)).sum(0)
    scale = 3 * d / DIRECTIONS
    value = scale * total / n
    error = scale * math.sqrt(float(pull_x.var() + pull_y.var()) / n)
    half = student_quantile(n - 1) * error
    return IntervalEstimate(value, max(0.0, value - half), value + half)


def floor(reference: Float[Tensor, "m d"], n: int, seed: int = 0) -> float:
    """Estimate the expected distance between two sets of n images of the same distribution.

    It is the mean over 10 random pairs of disjoint parts of the reference. If the reference has
    fewer than 2 n images, the parts are its halves, and their distance is assumed to fall as 1 / n.

    Args:
        reference: features, a row for each real image.
        n: the number of images in each set.
        seed: the seed of the directions and the parts.

    Raises:
        LimnerError: fewer than 20 images; NaN or infinite features.
    """
    x = checked_features(reference, 2 * _MIN_PICTURES, "the floor of MIND")
    size = min(n, len(x) // 2)
    parts = [random_order(len(x), seed + split)[: 2 * size] for split in range(_SPLITS)]
    total = 0.0
    for u in directions(x.shape[1], seed).split(_BATCH_DIRECTIONS):
        projections = u @ x.T
        for part in parts:
            p, q = projections[:, part].unflatten(1, (2, size)).sort(dim=2).values.unbind(1)
            total += float((p - q).square().sum())
    return 3 * x.shape[1] * total / (DIRECTIONS * _SPLITS * size) * size / n


def directions(d: int, seed: int = 0) -> Float64[Tensor, "k d"]:
    """Draw random unit vectors, uniform on the sphere; row k uses the stream `seed + k`."""
    return F.normalize(Noise.sampling(seed, DIRECTIONS).normal(d, dtype=torch.float64), dim=1)


def _potentials(p: Float64[Tensor, "k n"], gap: Float64[Tensor, "k n"]) -> Tensor:
    """Compute the Kantorovich potential of each sorted value; its slope is 2 (p - q)."""
    steps = p.diff(dim=1) * (gap[:, 1:] + gap[:, :-1])
    return F.pad(steps.cumsum(1), (1, 0))


@metric("mind", paper=PAPER)
class MongeDistance(FeatureMetric):
    """The Monge distance and its floor."""

    summary = "sliced Wasserstein distance of features, for 1,000 pictures or more; its floor"
    reads = ("features",)
    better = "lower"
    min_pictures = 2 * _MIN_PICTURES
    redrawn = ("subject", "reference")

    def needs(self) -> list[tuple[PictureSet, Observer]]:
        """Request the features of all sets; for few pictures, skip the metric unless named.

        The distance of few pictures is mostly its floor.
        """
        needs = super().needs()
        fewest = min(len(self.setting.subject), len(self.setting.reference))
        if fewest < _RECOMMENDED_PICTURES:
            self.skip_unless_named(
                f"it is made for {_RECOMMENDED_PICTURES:,} pictures or more, not {fewest}; use kid "
                "for few pictures"
            )
        return needs

    def numbers(self, observations: Observations) -> list[Number]:
        """Compute the distance of each set to as many real pictures, and the floor."""
        reference = observations.of(self.setting.reference, self.observer)["features"]
        name, numbers = self.label("MIND", "MD"), list[Number]()
        for row, pictures in self.sets.items():
            features = observations.of(pictures, self.observer)["features"]
            n = min(len(features), len(reference))
            fields: dict[str, Any] = {"m": n, "better": self.better}
            fields["protocol"] = f"{DIRECTIONS:,} directions"
            distance = mind(features[:n], reference[:n])
            numbers.append(self.number(name, distance, n, row=row, **fields))
            if row == SUBJECT:
                value = floor(reference, n)
                numbers.append(self.number(name, value, n, row="floor", sign="~", **fields))
        return numbers
