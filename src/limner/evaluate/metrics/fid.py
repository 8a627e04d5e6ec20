"""The Frechet distance of two sets of features, as if both were Gaussian.

    FD = |m_1 - m_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))

It is called FID where the features are Inception's. The trace of the root is the sum of the roots
of the eigenvalues of L' S_2 L, which is symmetric, where S_1 = L L' (Cholesky): no matrix root, no
complex numbers, nothing added to a diagonal. Where a covariance is singular, both are factored by
their eigenvectors, S = A A', and the trace is the nuclear norm of A_1' A_2, which takes no root of
a rounding error.

The distance of few images is too large, by about `floor`; `extrapolate` is its limit for endlessly
many. Compare only distances of equally many images to the same reference.

References:
    Heusel et al. (2017). GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
    Equilibrium. arXiv:1706.08500.
    Chong, Forsyth (2020). Effectively Unbiased FID and Inception Score and where to find them.
    arXiv:1911.07023.
"""

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.registry import Paper
from limner.evaluate.metric import FeatureMetric, metric
from limner.evaluate.metrics.statistics import (
    Estimate,
    Moments,
    checked_features,
    checked_features_of_both,
    random_order,
    same_dimension,
    student_quantile,
)
from limner.evaluate.passes import Observer, Seen
from limner.evaluate.picture_sets import PictureSet
from limner.evaluate.report import SUBJECT, Number

PAPER = Paper(
    "GANs trained by a two time-scale update rule converge to a local Nash equilibrium",
    "Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter",
    2017,
    "1706.08500",
)
_METRIC = "the Frechet distance"
_ROUNDING = torch.finfo(torch.float64).eps
_FEWEST_PARTS = 5
_BLOCK = 256  # features


def frechet_distance(a: Moments, b: Moments) -> float:
    """The Frechet distance of two sets by their moments; never negative.

    Raises:
        LimnerError: fewer than 2 images in a set; different features; moments beyond float64.
    """
    same_dimension(len(a.mean), len(b.mean))
    first, second = a.covariance, b.covariance
    between = (a.mean - b.mean).square().sum()
    apart = between + first.trace() + second.trace()
    if not apart.isfinite():
        raise LimnerError("these features are too large for their squares to be added up")
    return float((apart - 2 * _trace_of_root(first, second)).clamp(min=0))


def _trace_of_root(
    first: Float64[Tensor, "d d"], second: Float64[Tensor, "d d"]
) -> Float64[Tensor, ""]:
    """tr (S_1 S_2)^(1/2): the sum of the singular values of L_1' L_2, with S = L L'."""
    one, other = _cholesky(first), _cholesky(second)
    if one is None or other is None:
        return torch.linalg.svdvals(_factor(first).T @ _factor(second)).sum()
    return torch.linalg.eigvalsh(_lower_gram(one, other)).clamp(min=0).sqrt().sum()


def _lower_gram(
    one: Float64[Tensor, "d d"], other: Float64[Tensor, "d d"]
) -> Float64[Tensor, "d d"]:
    """The lower triangle of M M', M = L_1' L_2, of two lower factors.

    It goes by blocks, and leaves out what is zero of the factors and what is above the diagonal.
    """
    d, product, gram = len(one), torch.empty_like(one), torch.empty_like(one)
    blocks = [slice(i, min(i + _BLOCK, d)) for i in range(0, d, _BLOCK)]
    for rows in blocks:
        for columns in blocks:
            below = slice(max(rows.start, columns.start), d)
            product[rows, columns] = one[below, rows].T @ other[below, columns]
    for rows in blocks:
        gram[rows, : rows.stop] = product[rows] @ product[: rows.stop].T
    return gram


def _cholesky(covariance: Float64[Tensor, "d d"]) -> Float64[Tensor, "d d"] | None:
    """The lower factor; None where the covariance is singular, up to rounding."""
    lower, failed = torch.linalg.cholesky_ex(covariance)
    least = len(covariance) * _ROUNDING * covariance.diagonal().max()
    return None if failed or lower.diagonal().square().min() <= least else lower


def _factor(covariance: Float64[Tensor, "d d"]) -> Float64[Tensor, "d r"]:
    """A with A A' = S, a column for each eigenvalue that is not zero up to rounding."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > len(values) * _ROUNDING * values[-1]
    return vectors[:, kept] * values[kept].sqrt()


def distance_of_features(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """The Frechet distance of two sets of features.

    Where both sets are smaller than d, the trace of the root is the nuclear norm of X Y', of the
    centred features over sqrt(n - 1): exact, with no matrix of d x d.

    Raises:
        LimnerError: fewer than 2 images in a set; different, NaN or infinite features.
    """
    x, y = checked_features_of_both(x, y, (2, 2), _METRIC)
    if max(len(x), len(y)) >= x.shape[1]:
        return frechet_distance(Moments.of(x), Moments.of(y))
    between = (x.mean(0) - y.mean(0)).square().sum()
    x, y = ((z - z.mean(0)) / math.sqrt(len(z) - 1) for z in (x, y))
    root = torch.linalg.svdvals(x @ y.T).sum()
    return float((between + x.square().sum() + y.square().sum() - 2 * root).clamp(min=0))


def distance_of_pairs(
    x: Float[Tensor, "n d"], y: Float[Tensor, "n d"], parts: int = 20, seed: int = 0
) -> Estimate:
    """The Frechet distance of two sets whose rows are pairs, with an interval over the pairs.

    The interval is of the distance of n pairs, which is too large by what `floor` says, as the
    distance itself is: value +- t s, with the jackknife's standard error over groups of pairs

        s^2 = (P - 1) / P sum_p (FD_-p - mean of these)^2.

    A bootstrap would not do: pairs that are drawn twice count as fewer, which moves the distance.

    Args:
        x, y: features; row i of both belongs together.
        parts: how many groups, P.
        seed: of the groups.

    Raises:
        LimnerError: fewer than 3 pairs; different, NaN or infinite features.
    """
    x, y = checked_features_of_both(x, y, (3, 3), _METRIC)
    value, shares = distance_of_features(x, y), random_order(len(x), seed).tensor_split(parts)
    without: list[float] = []
    for share in shares[: min(parts, len(x))]:
        kept = torch.ones(len(x), dtype=torch.bool)
        kept[share] = False
        without.append(distance_of_features(x[kept], y[kept]))
    count, found = len(without), torch.tensor(without, dtype=torch.float64)
    error = math.sqrt((count - 1) / count * float((found - found.mean()).square().sum()))
    half = student_quantile(count - 1) * error
    return Estimate(value, max(0.0, value - half), value + half)


def floor(covariance: Float64[Tensor, "d d"], n: float, m: float) -> float:
    """What two sets of n and m images of the same law are expected to be apart.

        (1/n + 1/m) (sum_i l_i + sum_ij l_i l_j (1 + [i = j]) / (2 (l_i + l_j)))

    with the eigenvalues l of the covariance: the second-order expansion of the distance at equal
    Gaussians, for n and m well above the number of features.

    Args:
        covariance: of the features.
        n, m: how many images; `math.inf` where the true law is known.

    Raises:
        LimnerError: no more images than features, where this says nothing.
    """
    if min(n, m) <= (d := len(covariance)):
        raise LimnerError(
            f"the floor of {_METRIC} of {d} features needs more than {d} images, not "
            f"{min(n, m)}; use kid for so few"
        )
    l = torch.linalg.eigvalsh(covariance).clamp(min=0)  # noqa: E741 (the formula's symbol)
    products, sums = l[:, None] * l, l[:, None] + l
    pairs = torch.where(sums > 0, products / (2 * sums), 0.0)
    return (1 / n + 1 / m) * float(l.sum() + pairs.sum() + pairs.trace())


def extrapolate(
    features: Float[Tensor, "n d"], reference: Moments, parts: int = 20, seed: int = 0
) -> Estimate:
    """FID-infinity: what the distance to a reference would be with endlessly many images.

    See `limit`; the parts are drawn by `statistics.random_order`.

    Args:
        features: of the images that are judged.
        reference: what they are compared with.
        parts: how many, at least 5.
        seed: of the shuffle.

    Raises:
        LimnerError: see `limit`; NaN or infinite features.
    """
    least = max(parts, 2 * len(reference.mean) + 1)
    x = checked_features(features, least, "the extrapolated Frechet distance")
    shares = x[random_order(len(x), seed)].tensor_split(parts)
    return limit([Moments.of(share) for share in shares], reference)


def limit(parts: Sequence[Moments], reference: Moments) -> Estimate:
    """FID-infinity of images that were dealt at random into equal parts.

    The distance of N images is FD_inf + c / N + ..., a line in 1 / N. Chong and Forsyth fit it to
    random subsets; here its two points are all images, and all but one part: with FD_-p the
    distance without part p, the mean and the standard error of the P numbers

        P FD - (P - 1) FD_-p

    are Quenouille's and Tukey's jackknife estimates of FD_inf and of its error, hence a Student
    interval. No image is left out, no subset is drawn. The result may be negative. The reference is
    taken as it is: one of m images leaves about `floor(covariance, inf, m)`.

    Args:
        parts: at least 5; the moments of each.
        reference: what they are compared with.

    Raises:
        LimnerError: fewer parts; at most twice as many images as features, where the distance is
            not yet a line in 1 / N; different features.

    Reference:
        Miller (1974). The jackknife: a review. Biometrika 61.
    """
    if (count := len(parts)) < _FEWEST_PARTS:
        raise LimnerError(f"extrapolating takes at least {_FEWEST_PARTS} parts, not {count}")
    whole = reduce(Moments.merge, parts)
    if whole.n <= (least := 2 * len(whole.mean)):
        raise LimnerError(
            f"the extrapolated Frechet distance of {len(whole.mean)} features needs more than "
            f"{least} images, not {whole.n}; use kid for so few"
        )
    distance = frechet_distance(whole, reference)
    without = [frechet_distance(whole.without(part), reference) for part in parts]
    values = count * distance - (count - 1) * torch.tensor(without, dtype=torch.float64)
    value = float(values.mean())
    half = student_quantile(count - 1) * float(values.std()) / math.sqrt(count)
    return Estimate(value, value - half, value + half)


def limit_of_all(features: Float[Tensor, "n d"], whole: Moments, reference: Moments) -> Estimate:
    """FID-infinity of all images, where features are known of some.

    The distance of N images is FD_inf + c / N, with an error that falls as 1 / sqrt(N): c and the
    error are those of the images whose features are known.

    Args:
        features: of a fair sample of the images, or of all.
        whole: the moments of all.
        reference: what they are compared with.

    Raises:
        LimnerError: see `extrapolate`.
    """
    found = extrapolate(features, reference)
    n, some = whole.n, len(features)
    if n == some:
        return found
    c = some * (frechet_distance(Moments.of(features), reference) - found.value)
    value = frechet_distance(whole, reference) - c / n
    half = (found.high - found.low) / 2 * math.sqrt(some / n)
    return Estimate(value, value - half, value + half)


@metric("fid", paper=PAPER)
class FrechetDistance(FeatureMetric):
    """The Frechet distance, its floor and its limit."""

    summary = "Frechet distance of features; its floor for so few pictures, and its limit"
    reads = ("features",)
    better = "lower"
    redrawn = ("subject",)

    def needs(self) -> list[tuple[PictureSet, Observer]]:
        """The features of all sets; few pictures are far apart whatever they show."""
        needs = super().needs()
        fewest = min(len(self.setting.subject), len(self.setting.reference))
        if fewest <= (d := self.extractor.dim):
            self.skip_unless_named(
                f"{fewest} pictures are too few for {d} features; kid is for few"
            )
        return needs

    def numbers(self, seen: Seen) -> list[Number]:
        """The distance of each set to the reference, with its limit, and the floor."""
        reference = Moments.from_tensors(seen.of(self.setting.reference, self.observer))
        name, limit_name = (
            self.label("FID", "FD"),
            self.label("FID-infinity", "FD-infinity"),
        )
        shared: dict[str, Any] = {"m": reference.n, "better": self.better}
        found: list[Number] = []
        for row, pictures in self.sets.items():
            of = seen.of(pictures, self.observer)
            moments, features = Moments.from_tensors(of), of["features"]
            distance = frechet_distance(moments, reference)
            if min(moments.n, reference.n) <= self.extractor.dim:
                few = "fewer pictures than features: only comparable at this n"
                found.append(
                    self.number(name, distance, moments.n, row=row, protocol=few, **shared)
                )
                continue
            more, limits = dict(shared), []
            if len(features) > 2 * self.extractor.dim:
                estimate = limit_of_all(features, moments, reference)
                half = (estimate.high - estimate.low) / 2  # the jackknife's error is of both
                more |= {"low": distance - half, "high": distance + half}
                n = moments.n
                limits = [self.number(limit_name, estimate, n, row=row, sign="~", **shared)]
            else:
                enough = 2 * self.extractor.dim + 1
                more["protocol"] = f"an interval and the limit need {enough:,} pictures"
            found.append(self.number(name, distance, moments.n, row=row, **more))
            if row == SUBJECT:
                least = floor(reference.covariance, moments.n, reference.n)
                found.append(self.number(name, least, moments.n, row="floor", sign="~", **shared))
            found += limits
        return found
