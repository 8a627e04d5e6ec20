"""The kernel distance: the squared maximum mean discrepancy between two sets of features.

    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{ij} k(x_i, y_j)
    k(x, y) = (x'y / d + 1)^3

It is called KID if the features are Inception's. It is unbiased for any number of images, so it
suits few images; for equal distributions it is as often negative as positive. Reference tools
average it over random subsets of 1,000. Here all pairs are counted once, which is the value that
the average over subsets approaches. The spread over subsets is not its standard error; a bootstrap
interval is given instead.

Reference:
    Binkowski, Sutherland, Arbel, Gretton (2018). Demystifying MMD GANs. arXiv:1801.01401.
"""

from typing import Any

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from limner.contract.registry import Paper
from limner.evaluate.metric import FeatureMetric, metric
from limner.evaluate.metrics.statistics import (
    DRAWS,
    IntervalEstimate,
    bootstrap_samples,
    checked_features_of_both,
    expand,
    percentiles,
    random_order,
)
from limner.evaluate.passes import Observations
from limner.evaluate.report import Number

PAPER = Paper("Demystifying MMD GANs", "Binkowski, Sutherland, Arbel, Gretton", 2018, "1801.01401")
_MIN_PICTURES = 10
_JACKKNIFE_GROUPS = 100
_TILE = 2048  # rows and columns of a block of the kernel matrix


def kid(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], seed: int = 0) -> IntervalEstimate:
    """Compute the kernel distance of two sets of features, with its bootstrap interval.

    The images of each set are divided at random into 100 groups (or into single images, if there
    are fewer), and only the kernel's sums over pairs of groups are kept. Both the value and the
    value of a bootstrap sample of groups follow from these sums, so the interval costs almost
    nothing. Pairs of an image with itself never count. The interval is expanded according to the
    smaller number of groups. The kernel matrix is computed in blocks, so memory does not grow with
    n. For equal distributions the interval is wider than necessary.

    Args:
        x, y: features, a row for each image.
        seed: the seed of the groups and of the bootstrap's 1,000 draws.

    Raises:
        LimnerError: fewer than 10 images in a set; different numbers of features; NaN or infinite
            features.
    """
    x, y = checked_features_of_both(x, y, (_MIN_PICTURES, _MIN_PICTURES), "KID")
    groups_x, groups_y = _groups(len(x), seed), _groups(len(y), seed + 1)
    within_x, within_y = _sums(x, x, groups_x, groups_x), _sums(y, y, groups_y, groups_y)
    within_x.diagonal().index_add_(0, groups_x, -_kernel_with_itself(x))
    within_y.diagonal().index_add_(0, groups_y, -_kernel_with_itself(y))
    across = _sums(x, y, groups_x, groups_y)
    sizes_x, sizes_y = groups_x.bincount().double(), groups_y.bincount().double()
    pairs_x, pairs_y = (sizes.outer(sizes) - sizes.diag() for sizes in (sizes_x, sizes_y))
    pairs = sizes_x.outer(sizes_y)

    def value(w: Float64[Tensor, "b g"], v: Float64[Tensor, "b h"]) -> Float64[Tensor, "b"]:
        """Compute the distance with groups weighted by w and v, for each of b draws."""
        return (
            _bilinear_form(w, within_x, w) / _bilinear_form(w, pairs_x, w)
            + _bilinear_form(v, within_y, v) / _bilinear_form(v, pairs_y, v)
            - 2 * _bilinear_form(w, across, v) / _bilinear_form(w, pairs, v)
        )

    distance = value(torch.ones_like(sizes_x)[None], torch.ones_like(sizes_y)[None])
    # Draw i uses the stream seed + i, so the second set's streams start after the first set's.
    draws = value(_counts(len(sizes_x), seed), _counts(len(sizes_y), seed + DRAWS))
    return expand(percentiles(float(distance), draws), min(len(sizes_x), len(sizes_y)))


def _groups(n: int, seed: int) -> Int64[Tensor, "n"]:
    """Assign each image to a random group; return the group's number."""
    return random_order(n, seed) % _JACKKNIFE_GROUPS


def _kernel_with_itself(x: Float64[Tensor, "n d"]) -> Float64[Tensor, "n"]:
    return (x.square().mean(1) + 1) ** 3


def _sums(
    x: Float64[Tensor, "n d"],
    y: Float64[Tensor, "m d"],
    groups_x: Int64[Tensor, "n"],
    groups_y: Int64[Tensor, "m"],
) -> Float64[Tensor, "g h"]:
    """Sum the kernel over each pair of a group of x and a group of y."""
    table = x.new_zeros(int(groups_x.max()) + 1, int(groups_y.max()) + 1)
    for x_block, x_groups in zip(x.split(_TILE), groups_x.split(_TILE)):
        for y_block, y_groups in zip(y.split(_TILE), groups_y.split(_TILE)):
            k = (x_block @ y_block.T).div_(x.shape[1]).add_(1)
            k = k.square().mul_(k)
            rows = k.new_zeros(len(table), len(y_block)).index_add_(0, x_groups, k)
            table.index_add_(1, y_groups, rows)
    return table


def _counts(groups: int, seed: int) -> Float64[Tensor, "draws groups"]:
    """Return how often each group occurs in each bootstrap sample."""
    samples = bootstrap_samples(groups, seed)
    ones = torch.ones_like(samples, dtype=torch.float64)
    return torch.zeros_like(ones).scatter_add_(1, samples, ones)


def _bilinear_form(
    w: Float64[Tensor, "b g"], table: Float64[Tensor, "g h"], v: Float64[Tensor, "b h"]
) -> Float64[Tensor, "b"]:
    """Return w' table v for each draw."""
    return (w @ table).mul_(v).sum(1)


@metric("kid", paper=PAPER)
class KernelDistance(FeatureMetric):
    """The kernel distance of features, called KID for Inception's."""

    summary = "kernel distance of features: unbiased, also for few pictures; may be negative"
    reads = ("features",)
    better = "lower"
    min_pictures = _MIN_PICTURES
    redrawn = ("subject", "reference")

    def numbers(self, observations: Observations) -> list[Number]:
        """Compute the distance of each set to the reference."""
        reference = observations.of(self.setting.reference, self.observer)["features"]
        name, numbers = self.label("KID", "KD"), list[Number]()
        for row, pictures in self.sets.items():
            features = observations.of(pictures, self.observer)["features"]
            fields: dict[str, Any] = {"row": row, "m": len(reference), "better": self.better}
            numbers.append(self.number(name, kid(features, reference), len(features), **fields))
        return numbers
