"""The Frechet distance between two sets of features, each described by a Gaussian.

    FD = |m_1 - m_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))

It is called FID if the features are Inception's. The trace of the root is the sum of the square
roots of the eigenvalues of L' S_2 L, which is symmetric, with S_1 = L L' (Cholesky). This needs no
matrix root and no complex numbers, and adds nothing to a diagonal. If a covariance is singular,
both are factored with their eigenvectors, S = A A', and the trace is the nuclear norm of A_1' A_2,
so that no square root of a rounding error is taken.

The distance of few images is too large, by about `floor`; `extrapolate` estimates its limit for
infinitely many images. Compare only distances of equally many images to the same reference.

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
    IntervalEstimate,
    Moments,
    checked_features,
    checked_features_of_both,
    random_order,
    same_dimension,
    student_quantile,
)
from limner.evaluate.passes import Observations, Observer
from limner.evaluate.picture_sets import PictureSet
from limner.evaluate.report import SUBJECT, Number

PAPER = Paper(
    "GANs trained by a two time-scale update rule converge to a local Nash equilibrium",
    "Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter",
    2017,
    "1706.08500",
)
_METRIC_NAME = "the Frechet distance"
_ROUNDING = torch.finfo(torch.float64).eps
_MIN_PARTS = 5
_BLOCK_FEATURES = 256


def frechet_distance(a: Moments, b: Moments) -> float:
    """Compute the Frechet distance of two sets from their moments; it is never negative.

    Raises:
        LimnerError: fewer than 2 images in a set; different numbers of features; moments beyond the
            range of float64.
    """
    same_dimension(len(a.mean), len(b.mean))
    first, second = a.covariance, b.covariance
    between = (a.mean - b.mean).square().sum()
    total = between + first.trace() + second.trace()
    if not total.isfinite():
        raise LimnerError(
            "these features are so large that the sum of their squares overflows; check the "
            "extractor's weights"
        )
    return float((total - 2 * _trace_of_root(first, second)).clamp(min=0))


def _trace_of_root(
    first: Float64[Tensor, "d d"], second: Float64[Tensor, "d d"]
) -> Float64[Tensor, ""]:
    """Compute tr (S_1 S_2)^(1/2), the sum of the singular values of L_1' L_2, with S = L L'."""
    one, other = _cholesky(first), _cholesky(second)
    if one is None or other is None:
        return torch.linalg.svdvals(_factor(first).T @ _factor(second)).sum()
    return torch.linalg.eigvalsh(_lower_gram(one, other)).clamp(min=0).sqrt().sum()


def _lower_gram(
    one: Float64[Tensor, "d d"], other: Float64[Tensor, "d d"]
) -> Float64[Tensor, "d d"]:
    """Compute the lower triangle of M M', M = L_1' L_2, for two lower triangular factors.

    It works in blocks, and skips the zero blocks of the factors and the blocks above the diagonal.
    """
    d, product, gram = len(one), torch.empty_like(one), torch.empty_like(one)
    blocks = [slice(i, min(i + _BLOCK_FEATURES, d)) for i in range(0, d, _BLOCK_FEATURES)]
    for rows in blocks:
        for columns in blocks:
            below = slice(max(rows.start, columns.start), d)
            product[rows, columns] = one[below, rows].T @ other[below, columns]
    for rows in blocks:
        gram[rows, : rows.stop] = product[rows] @ product[: rows.stop].T
    return gram


def _cholesky(covariance: Float64[Tensor, "d d"]) -> Float64[Tensor, "d d"] | None:
    """Return the lower Cholesky factor; None if the covariance is singular up to rounding."""
    lower, failed = torch.linalg.cholesky_ex(covariance)
    threshold = len(covariance) * _ROUNDING * covariance.diagonal().max()
    return None if failed or lower.diagonal().square().min() <= threshold else lower


def _factor(covariance: Float64[Tensor, "d d"]) -> Float64[Tensor, "d r"]:
    """Return A with A A' = S, a column for each eigenvalue that is not zero up to rounding."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > len(values) * _ROUNDING * values[-1]
    return vectors[:, kept] * values[kept].sqrt()


def distance_of_features(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """Compute the Frechet distance of two sets of features.

    If both sets are smaller than d, the trace of the root is the nuclear norm of X Y', where X and
    Y are the centred features over sqrt(n - 1). This is exact and needs no d x d matrix.

    Raises:
        LimnerError: fewer than 2 images in a set; different numbers of features; NaN or infinite
            features.
    """
    x, y = checked_features_of_both(x, y, (2, 2), _METRIC_NAME)
    if max(len(x), len(y)) >= x.shape[1]:
        return frechet_distance(Moments.of(x), Moments.of(y))
    between = (x.mean(0) - y.mean(0)).square().sum()
    x, y = ((z - z.mean(0)) / math.sqrt(len(z) - 1) for z in (x, y))
    root = torch.linalg.svdvals(x @ y.T).sum()
    return float((between + x.square().sum() + y.square().sum() - 2 * root).clamp(min=0))


def distance_of_pairs(
    x: Float[Tensor, "n d"], y: Float[Tensor, "n d"], parts: int = 20, seed: int = 0
) -> IntervalEstimate:
    """Compute the Frechet distance of two sets of paired rows, with an interval over the pairs.

    The interval is for the distance of n pairs, which is too large by about `floor`, as the value
    is: value +- t s, with the jackknife's standard error over groups of pairs

        s^2 = (P - 1) / P sum_p (FD_-p - mean over p of FD_-p)^2.

    A bootstrap is not suitable: a pair that is drawn twice adds no new pair, and the distance
    depends on the number of distinct pairs.

    Args:
        x, y: features; row i of x and row i of y are a pair.
        parts: the number P of groups.
        seed: the seed of the groups.

    Raises:
        LimnerError: fewer than 3 pairs; different numbers of features; NaN or infinite features.
    """
    x, y = checked_features_of_both(x, y, (3, 3), _METRIC_NAME)
    value, groups = distance_of_features(x, y), random_order(len(x), seed).tensor_split(parts)
    without: list[float] = []
    for group in groups[: min(parts, len(x))]:
        kept = torch.ones(len(x), dtype=torch.bool)
        kept[group] = False
        without.append(distance_of_features(x[kept], y[kept]))
    count, values = len(without), torch.tensor(without, dtype=torch.float64)
    error = math.sqrt((count - 1) / count * float((values - values.mean()).square().sum()))
    half = student_quantile(count - 1) * error
    return IntervalEstimate(value, max(0.0, value - half), value + half)


def floor(covariance: Float64[Tensor, "d d"], n: float, m: float) -> float:
    """Compute the expected distance between n and m images of the same distribution.

        (1/n + 1/m) (sum_i l_i + sum_ij l_i l_j (1 + [i = j]) / (2 (l_i + l_j)))

    with the eigenvalues l of the covariance: the second-order expansion of the distance at equal
    Gaussians, for n and m well above the number of features.

    Args:
        covariance: the covariance of the features.
        n, m: the numbers of images; `math.inf` if the true distribution is known.

    Raises:
        LimnerError: there are not more images than features, so that the expansion does not hold.
    """
    if min(n, m) <= (d := len(covariance)):
        raise LimnerError(
            f"the floor of {_METRIC_NAME} of {d} features needs more than {d} images, not "
            f"{min(n, m)}; use kid for so few"
        )
    l = torch.linalg.eigvalsh(covariance).clamp(min=0)  # noqa: E741 (the formula's symbol)
    products, sums = l[:, None] * l, l[:, None] + l
    pairs = torch.where(sums > 0, products / (2 * sums), 0.0)
    return (1 / n + 1 / m) * float(l.sum() + pairs.sum() + pairs.trace())


def extrapolate(
    features: Float[Tensor, "n d"], reference: Moments, parts: int = 20, seed: int = 0
) -> IntervalEstimate:
    """Estimate FID-infinity, the distance to a reference for infinitely many images.

    See `limit`; the images are shuffled with `statistics.random_order` before they are split.

    Args:
        features: features of the images that are judged.
        reference: moments of the reference.
        parts: the number of parts, at least 5.
        seed: the seed of the shuffle.

    Raises:
        LimnerError: see `limit`; NaN or infinite features.
    """
    min_pictures = max(parts, 2 * len(reference.mean) + 1)
    x = checked_features(features, min_pictures, "the extrapolated Frechet distance")
    shares = x[random_order(len(x), seed)].tensor_split(parts)
    return limit([Moments.of(share) for share in shares], reference)


def limit(parts: Sequence[Moments], reference: Moments) -> IntervalEstimate:
    """Estimate FID-infinity of images that were divided at random into equal parts.

    The distance of N images is FD_inf + c / N + ..., a line in 1 / N. Chong and Forsyth fit the
    line to random subsets. Here its two points are all images, and all but one part. With FD_-p the
    distance without part p, the mean and the standard error of the P numbers

        P FD - (P - 1) FD_-p

    are Quenouille's and Tukey's jackknife estimates of FD_inf and of its error, which give a
    Student interval. No image is left out, and no subset is drawn. The result may be negative. The
    reference is not extrapolated: with m images it leaves about `floor(covariance, inf, m)`.

    Args:
        parts: the moments of each part, at least 5.
        reference: moments of the reference.

    Raises:
        LimnerError: fewer parts; at most twice as many images as features, where the distance is
            not yet a line in 1 / N; different numbers of features.

    Reference:
        Miller (1974). The jackknife: a review. Biometrika 61.
    """
    if (count := len(parts)) < _MIN_PARTS:
        raise LimnerError(f"extrapolating needs at least {_MIN_PARTS} parts, not {count}")
    whole = reduce(Moments.merge, parts)
    if whole.n <= (min_pictures := 2 * len(whole.mean)):
        raise LimnerError(
            f"the extrapolated Frechet distance of {len(whole.mean)} features needs more than "
            f"{min_pictures} images, not {whole.n}; use kid for so few"
        )
    distance = frechet_distance(whole, reference)
    without = [frechet_distance(whole.without(part), reference) for part in parts]
    values = count * distance - (count - 1) * torch.tensor(without, dtype=torch.float64)
    value = float(values.mean())
    half = student_quantile(count - 1) * float(values.std()) / math.sqrt(count)
    return IntervalEstimate(value, value - half, value + half)


def limit_of_all(
    features: Float[Tensor, "n d"], whole: Moments, reference: Moments
) -> IntervalEstimate:
    """Estimate FID-infinity of all images from the features of some of them.

    The distance of N images is FD_inf + c / N, with an error that falls as 1 / sqrt(N). Both c and
    the error are estimated on the images with known features.

    Args:
        features: features of a random sample of the images, or of all.
        whole: moments of all images.
        reference: moments of the reference.

    Raises:
        LimnerError: see `extrapolate`.
    """
    estimate = extrapolate(features, reference)
    n, count = whole.n, len(features)
    if n == count:
        return estimate
    c = count * (frechet_distance(Moments.of(features), reference) - estimate.value)
    value = frechet_distance(whole, reference) - c / n
    half = (estimate.high - estimate.low) / 2 * math.sqrt(count / n)
    return IntervalEstimate(value, value - half, value + half)


@metric("fid", paper=PAPER)
class FrechetDistance(FeatureMetric):
    """The Frechet distance, its floor and its limit."""

    summary = "Frechet distance of features; its floor at this number of pictures, and its limit"
    reads = ("features",)
    better = "lower"
    redrawn = ("subject",)

    def needs(self) -> list[tuple[PictureSet, Observer]]:
        """Request the features of all sets; for few pictures, skip the metric unless named.

        The distance of few pictures is large, no matter what they show.
        """
        needs = super().needs()
        fewest = min(len(self.setting.subject), len(self.setting.reference))
        if fewest <= (d := self.extractor.dim):
            self.skip_unless_named(
                f"{fewest} pictures are too few for {d} features; use kid for few pictures"
            )
        return needs

    def numbers(self, observations: Observations) -> list[Number]:
        """Compute the distance of each set to the reference, with its limit, and the floor."""
        reference = Moments.from_tensors(observations.of(self.setting.reference, self.observer))
        name, limit_name = (
            self.label("FID", "FD"),
            self.label("FID-infinity", "FD-infinity"),
        )
        fields: dict[str, Any] = {"m": reference.n, "better": self.better}
        numbers: list[Number] = []
        for row, pictures in self.sets.items():
            columns = observations.of(pictures, self.observer)
            moments, features = Moments.from_tensors(columns), columns["features"]
            distance = frechet_distance(moments, reference)
            if min(moments.n, reference.n) <= self.extractor.dim:
                protocol = "fewer pictures than features: only comparable at this n"
                numbers.append(
                    self.number(name, distance, moments.n, row=row, protocol=protocol, **fields)
                )
                continue
            row_fields, limits = dict(fields), []
            if len(features) > 2 * self.extractor.dim:
                estimate = limit_of_all(features, moments, reference)
                # The distance and its limit have the same jackknife error.
                half = (estimate.high - estimate.low) / 2
                row_fields |= {"low": max(0.0, distance - half), "high": distance + half}
                n = moments.n
                limits = [self.number(limit_name, estimate, n, row=row, sign="~", **fields)]
            else:
                count = 2 * self.extractor.dim + 1
                row_fields["protocol"] = f"an interval and the limit need {count:,} pictures"
            numbers.append(self.number(name, distance, moments.n, row=row, **row_fields))
            if row == SUBJECT:
                value = floor(reference.covariance, moments.n, reference.n)
                numbers.append(self.number(name, value, moments.n, row="floor", sign="~", **fields))
            numbers += limits
        return numbers
