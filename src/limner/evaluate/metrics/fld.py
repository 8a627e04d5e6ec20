"""The feature likelihood divergence: quality, diversity and novelty of pictures in one number.

    p(x) = 1/m sum_j N(x; g_j, s_j I)                        a Gaussian around each picture g_j
    FLD  = 100/d (mean log p_real(x) - mean log p(x))        over held-out pictures x

The variances s_j are fitted to make the *training* pictures likely. A picture that copies one gets
a variance of almost zero, and does not help to explain held-out pictures. One that resembles no
training picture gets a large variance. p_real is the same mixture around real pictures: as many
training pictures as there are of the model, with variances fitted to the other training pictures.
So 0 is as good as real pictures, more is worse, and there is no upper limit.

    gap  = 100/d (mean log p(x) - mean log p(t))             over training pictures t

is far below 0 if a model reproduces its training pictures.

Features are first divided by their deviation over the held-out pictures; features that are constant
there are left out. As in the authors' program, the variances start where each picture's nearest
training picture is likeliest. They are fitted with Adam, together with a Gaussian around the mean
of the training pictures, which keeps every picture within reach and is not part of p. Fifty steps
do not reach the optimum: two fits to different training pictures differ by up to 1 or 2 in FLD.

Intervals account for the choice of held-out pictures and of the model's pictures. The error of the
second is a jackknife's: p without each of 20 groups of its components, with the variances fixed.
The distance of `Divergence.real` from 0 shows the remaining error, from the training pictures.

Reference:
    Jiralerspong, Bose, Gemp, Qin, Bachrach, Gidel (2023). Feature Likelihood Divergence:
    Evaluating the Generalization of Generative Models Using Samples. arXiv:2302.04440.
"""

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.registry import Paper
from limner.evaluate.metric import FeatureMetric, NotApplicable, metric
from limner.evaluate.metrics.statistics import (
    IntervalEstimate,
    checked_features_of_both,
    random_order,
    student_quantile,
)
from limner.evaluate.passes import MAX_FEATURES, Observations, Observer
from limner.evaluate.picture_sets import PictureSet, RealPictures
from limner.evaluate.report import Number

PAPER = Paper(
    "Feature likelihood divergence: evaluating the generalization of generative models using "
    "samples",
    "Jiralerspong, Bose, Gemp, Qin, Bachrach, Gidel",
    2023,
    "2302.04440",
)

# The authors' constants:
_RATE, _STEPS = 0.5, 50  # learning rate and steps of Adam
# It stops when the last _WINDOW losses are this close to each other.
_LOSS_TOLERANCE, _WINDOW = 5e-4, 5
_DISTANCE_OFFSET = 1e-3  # is added to the squared distance of the nearest training picture
_MAX_LOG_VARIANCE = 40.0  # largest absolute value of the logarithm of a variance
_SHRINKAGE = 0.9  # factor on the distances from the mean, for the Gaussian around it
_MIN_PICTURES = 10
_RECOMMENDED_PICTURES = 1000  # pictures of each kind: the smallest number in the paper
_JACKKNIFE_GROUPS = 20
# Squared distances that are computed at a time: they fit into a core's cache.
_BLOCK_DISTANCES = 2**17


class Divergence(NamedTuple):
    """FLD and the gap, with intervals over the model's pictures and the evaluated pictures.

    Args:
        fld, gap: see the module's docstring.
        real: the FLD of as many other training pictures, with variances fitted to the remaining
            ones; None if there are too few.
    """

    fld: IntervalEstimate
    gap: IntervalEstimate
    real: IntervalEstimate | None


def fld(
    train: Float[Tensor, "n d"],
    held_out: Float[Tensor, "k d"],
    generated: Float[Tensor, "m d"],
    seed: int = 0,
) -> Divergence:
    """Compute the feature likelihood divergence of generated pictures.

    Args:
        train: features of the pictures that the model learnt from.
        held_out: features of pictures that it never saw.
        generated: features of the model's own pictures.
        seed: the seed of the choice of training pictures that represent a perfect model.

    Raises:
        LimnerError: fewer than 10 pictures in a set; different numbers of features; NaN or infinite
            features; held-out pictures that are all alike.
    """
    min_pictures, metric = (_MIN_PICTURES, _MIN_PICTURES), "FLD"
    train, held_out = checked_features_of_both(train, held_out, min_pictures, metric)
    _, generated = checked_features_of_both(train, generated, min_pictures, metric)
    mean, deviation = held_out.mean(0), held_out.std(0)
    if not (mask := deviation > 0).any():
        raise LimnerError("the held-out pictures have the same features, so FLD has no value")
    train, held_out, generated = (
        ((z - mean) / deviation)[:, mask] for z in (train, held_out, generated)
    )
    train = train[random_order(len(train), seed)]
    size = min(len(generated), len(train) // 2)
    perfect = Mixture.fit(train[:size], train[size:]).log_prob(held_out)
    model = Mixture.fit(generated, train)
    log_p = model.log_prob(held_out)
    real = None
    if len(train) >= 3 * size:
        others = torch.cat([train[:size], train[2 * size :]])
        other = Mixture.fit(train[size : 2 * size], others)
        without = other.mean_without_groups(held_out, seed)
        real = _estimate(without, perfect - other.log_prob(held_out))
    held_out_means, train_means = (model.mean_without_groups(x, seed) for x in (held_out, train))
    return Divergence(
        _estimate(held_out_means, perfect - log_p),
        _estimate(held_out_means - train_means, log_p, model.log_prob(train)),
        real,
    )


def _estimate(without: Float64[Tensor, "g"], *terms: Float64[Tensor, "_"]) -> IntervalEstimate:
    """Compute 100 times the first terms' mean minus the second's, with a Student interval.

    Args:
        without: the part that depends on the model's pictures, without each random group of them.
        terms: the terms of the pictures on which the likelihoods are evaluated.
    """
    value = 100 * float(terms[0].mean() - (terms[1].mean() if len(terms) > 1 else 0))
    variance = sum(float(t.var()) / len(t) for t in terms)
    error = 100 * math.sqrt(variance + (len(without) - 1) * float(without.var(correction=0)))
    half = student_quantile(min(map(len, (without, *terms))) - 1) * error
    return IntervalEstimate(value, value - half, value + half)


class Mixture(NamedTuple):
    """A mixture of isotropic Gaussians with equal weights, one around each centre.

    Args:
        centres: the means of the Gaussians.
        log_variance: the logarithm of each Gaussian's variance.
    """

    centres: Float64[Tensor, "m d"]
    log_variance: Float64[Tensor, "m"]

    @classmethod
    def fit(cls, centres: Float64[Tensor, "m d"], x: Float64[Tensor, "n d"]) -> "Mixture":
        """Fit the variances to make x likely."""
        d = x.shape[1]
        squared = torch.cat([block.float() for block in _squared_distances(x, centres)])
        from_mean = _SHRINKAGE**2 * (x - x.mean(0)).square().sum(1)
        log_s = ((squared.amin(0).double() + _DISTANCE_OFFSET) / d).log()
        wide = torch.zeros((), dtype=torch.float64)
        adam = torch.optim.Adam([log_s, wide], lr=_RATE)
        losses: list[float] = []
        while len(losses) < _STEPS:
            total, log_s.grad, wide.grad = 0.0, torch.zeros_like(log_s), torch.zeros_like(wide)
            for block, far in zip(_rows(squared, len(centres)), _rows(from_mean, len(centres))):
                log_p, grad, grad_wide = _with_gradients(block.double(), far, log_s, wide, d)
                total += float(log_p.sum())
                log_s.grad -= grad / (len(x) * d)
                wide.grad -= grad_wide / (len(x) * d)
            adam.step()
            # It would diverge for equal pictures.
            log_s.clamp_(-_MAX_LOG_VARIANCE, _MAX_LOG_VARIANCE)
            losses.append(-total / (len(x) * d))
            last = losses[-_WINDOW:]
            change = max(abs(loss - last[-1]) for loss in last)
            if len(losses) > _WINDOW + 1 and change < _LOSS_TOLERANCE:
                break
        return cls(centres, log_s)

    def log_prob(self, x: Float64[Tensor, "n d"]) -> Float64[Tensor, "n"]:
        """Compute log p(x) / d, in nats per feature."""
        m, d = self.centres.shape
        parts = [
            _log_gaussian(block, self.log_variance, d).logsumexp(1) - math.log(m)
            for block in _squared_distances(x, self.centres)
        ]
        return torch.cat(parts) / d

    def mean_without_groups(self, x: Float64[Tensor, "n d"], seed: int = 0) -> Float64[Tensor, "g"]:
        """Compute the mean of log p(x) / d without each of 20 random groups of the Gaussians.

        If there are fewer than 20 Gaussians, each is a group of its own.
        """
        m, d = self.centres.shape
        groups = min(_JACKKNIFE_GROUPS, m)
        group = random_order(m, seed) % groups
        order, sizes = group.argsort(stable=True), group.bincount().tolist()
        diagonal = torch.eye(groups, dtype=torch.bool)
        total = torch.zeros(groups, dtype=torch.float64)
        for block in _squared_distances(x, self.centres[order]):
            parts = _log_gaussian(block, self.log_variance[order], d).split(sizes, 1)
            log_p = torch.stack([part.logsumexp(1) for part in parts], 1)  # b g
            others = log_p[:, None].masked_fill(diagonal, -torch.inf)
            total += others.logsumexp(2).sum(0)
        return (total / len(x) - (m - torch.tensor(sizes)).double().log()) / d


def _with_gradients(
    squared: Float64[Tensor, "b m"],
    from_mean: Float64[Tensor, "b"],
    log_s: Float64[Tensor, "m"],
    wide: Float64[Tensor, ""],
    d: int,
) -> tuple[Float64[Tensor, "b"], Float64[Tensor, "m"], Float64[Tensor, ""]]:
    """Compute log p of pictures with the Gaussian around the mean, and the gradients of its sum.

    d log p / d log s_j = r_j (|x - g_j|^2 / 2 s_j - d / 2), with r_j the share of p of Gaussian j.
    """
    parts = _log_gaussian(squared, log_s, d) - math.log(len(log_s))
    other = _log_gaussian(from_mean, wide, d)
    log_p = torch.logaddexp(parts.logsumexp(1), other)
    shares = parts.sub_(log_p[:, None]).exp_()
    share = (other - log_p).exp()
    gradient = (shares * squared).sum(0) / (2 * log_s.exp()) - d / 2 * shares.sum(0)
    return log_p, gradient, (share * (from_mean / (2 * wide.exp()) - d / 2)).sum()


def _log_gaussian(squared: Tensor, log_variance: Tensor, d: int) -> Tensor:
    """Compute the log-density at a squared distance from the centre."""
    return squared / (-2 * log_variance.exp()) - d / 2 * (log_variance + math.log(2 * math.pi))


def _rows(x: Tensor, columns: int) -> tuple[Tensor, ...]:
    """Split x into blocks of rows with at most `_BLOCK_DISTANCES` distances to the columns."""
    return x.split(max(1, _BLOCK_DISTANCES // columns))


def _squared_distances(
    x: Float64[Tensor, "n d"], centres: Float64[Tensor, "m d"]
) -> Iterator[Float64[Tensor, "b m"]]:
    """Yield the squared distances from all centres, for some rows of x at a time."""
    lengths = centres.square().sum(1)
    for block in _rows(x, len(centres)):
        squared = torch.addmm(lengths, block, centres.T, alpha=-2)
        yield squared.add_(block.square().sum(1, keepdim=True)).clamp_(min=0)


@metric("fld", paper=PAPER)
class FeatureLikelihood(FeatureMetric):
    """The feature likelihood divergence of the subject."""

    summary = "feature likelihood divergence: quality, diversity and novelty in one number"
    reads = ("features", "training pictures")
    better = "lower"
    min_pictures = _MIN_PICTURES
    redrawn = ("subject", "held-out")

    @cached_property
    def splits(self) -> dict[str, RealPictures | None]:
        """The pictures that models learn from, and those that they never see, at most 10,000."""
        s = self.setting
        pairs = {"training": s.training, "held-out": s.held_out}
        return {kind: real and real.first(MAX_FEATURES) for kind, real in pairs.items()}

    def needs(self) -> list[tuple[PictureSet, Observer]]:
        """Request the features of the subject and of both splits.

        For few pictures, skip the metric unless named: they leave most of the feature space empty.
        """
        sizes = {"judged": len(self.setting.subject)}
        for kind, real in self.splits.items():
            if real is None:
                name = self.setting.reference.name
                raise NotApplicable(f"it needs {kind} pictures, and {name} has none")
            if len(real) < self.min_pictures:
                raise NotApplicable(
                    f"it needs at least {self.min_pictures} {kind} pictures, and there are "
                    f"{len(real)}"
                )
            sizes[kind] = len(real)
        super().needs()
        fewest = min(sizes, key=sizes.__getitem__)
        if sizes[fewest] < _RECOMMENDED_PICTURES:
            self.skip_unless_named(
                f"it is made for {_RECOMMENDED_PICTURES:,} pictures of each kind or more, not "
                f"{sizes[fewest]} {fewest}"
            )
        sets = (self.setting.subject, *filter(None, self.splits.values()))
        return [(pictures, self.observer) for pictures in sets]

    def numbers(self, observations: Observations) -> list[Number]:
        """Compute FLD and the gap of the subject, and the FLD of other training pictures."""
        training, held_out = self.splits["training"], self.splits["held-out"]
        assert self.setting.training is not None and training is not None and held_out is not None
        train, test, features = (
            observations.of(pictures, self.observer)["features"]
            for pictures in (training, held_out, self.setting.subject)
        )
        scores = fld(train, test, features)
        n, total = len(features), len(self.setting.training.dataset)
        fields: dict[str, Any] = {"m": len(test)}
        fields["protocol"] = f"variances fitted to {len(train):,} of {total:,} training pictures"
        numbers = [
            self.number("FLD", scores.fld, n, better=self.better, **fields),
            self.number("FLD gap", scores.gap, n, **fields),
        ]
        if scores.real is not None:
            row = f"real ({training.name})"
            numbers.append(self.number("FLD", scores.real, n, row=row, better="lower", **fields))
        return numbers
