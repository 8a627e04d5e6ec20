"""The Inception Score, as sharpness times diversity.

A classifier gives each picture class probabilities c(y|x); c(y) is their mean over the pictures.

    S  = exp( E_x sum_y c(y|x) ln c(y|x) )    sharpness: 1/K (uniform) .. 1 (certain)
    D  = exp(-E_x sum_y c(y|x) ln c(y)   )    diversity: 1 (always the same class) .. K (all equal)
    IS = S D = exp( E_x KL(c(y|x) || c(y)) )  1 .. K

IS = S D holds if all three are computed on the same pictures. So it holds for each split, but not
for the means over splits. Compare only scores of equally many pictures and splits: few pictures do
not show all classes equally often, so that even the best possible generator scores less than K. The
score ignores the variety within a class: one picture of each class, repeated, scores K.

References:
    Salimans et al. (2016). Improved Techniques for Training GANs. arXiv:1606.03498.
    Barratt, Sharma (2018). A Note on the Inception Score. arXiv:1801.01973.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.registry import Paper
from limner.evaluate.metric import FeatureMetric, metric
from limner.evaluate.metrics.statistics import checked_features, random_order
from limner.evaluate.passes import Observations, Observer
from limner.evaluate.picture_sets import PictureSet
from limner.evaluate.report import SUBJECT, Number

PAPER = Paper(
    "Improved techniques for training GANs",
    "Salimans, Goodfellow, Zaremba, Cheung, Radford, Chen",
    2016,
    "1606.03498",
)
_SPLITS = 10
_PARTS = {"IS": "inception_score", "sharpness": "sharpness", "diversity": "diversity"}


class Score(NamedTuple):
    """Sharpness, diversity and their product, the Inception Score."""

    sharpness: float
    diversity: float
    inception_score: float


class ScoresOfSplits(NamedTuple):
    """The scores of all splits, their means and their standard deviations.

    The deviation divides by the number of splits, as in the paper's code.
    """

    splits: tuple[Score, ...]
    mean: Score
    deviation: Score


@dataclass(frozen=True)
class Predictions:
    """Sufficient statistics of a classifier's logits; those of parts can be added, in fixed memory.

    Args:
        n: the number of pictures.
        certainty: the sum over the pictures of sum_y c(y|x) ln c(y|x).
        classes: the sum over the pictures of c(y|x).
    """

    n: int
    certainty: Float64[Tensor, ""]
    classes: Float64[Tensor, "k"]

    @classmethod
    def of(cls, logits: Float[Tensor, "n k"]) -> "Predictions":
        """Compute the statistics of logits, a row for each picture.

        Raises:
            LimnerError: no picture; NaN or infinite logits.
        """
        log_c = checked_features(logits, 1, "the Inception Score").log_softmax(1)
        c = log_c.exp()
        return cls(len(c), (c * log_c).sum(), c.sum(0))

    def merge(self, other: "Predictions") -> "Predictions":
        """Return the statistics of the pictures of both.

        Raises:
            LimnerError: the numbers of classes differ.
        """
        k, others = len(self.classes), len(other.classes)
        if k != others:
            raise LimnerError(f"{k} classes cannot be added to {others}; use the same classifier")
        return Predictions(
            self.n + other.n, self.certainty + other.certainty, self.classes + other.classes
        )

    @property
    def score(self) -> Score:
        """S, D and IS of these pictures."""
        sharpness = float((self.certainty / self.n).exp())
        diversity = float(torch.special.entr(self.classes / self.n).sum().exp())
        return Score(sharpness, diversity, sharpness * diversity)


def inception_score(
    logits: Float[Tensor, "n k"], splits: int = _SPLITS, seed: int | None = 0
) -> ScoresOfSplits:
    """Compute the Inception Score of pictures, in splits.

    Split i holds the pictures i n // splits .. (i + 1) n // splits - 1, after a shuffle with
    `statistics.random_order`. Pictures sorted by class would score too low, because each split
    would hold other classes.

    Args:
        logits: logits of a classifier, a row for each picture.
        splits: the number of parts, each scored separately; 10 in the paper.
        seed: the seed of the shuffle; None keeps the order.

    Raises:
        LimnerError: fewer pictures than splits; NaN or infinite logits.
    """
    n = len(logits)
    if splits < 1:
        raise LimnerError(f"the Inception Score needs at least 1 split, not {splits}")
    if n < splits:
        raise LimnerError(f"the Inception Score in {splits} splits needs as many images, not {n}")
    order = torch.arange(n) if seed is None else random_order(n, seed)
    rows = logits[order.to(logits.device)]
    bounds = [i * n // splits for i in range(splits + 1)]
    scores = tuple(Predictions.of(rows[start:end]).score for start, end in pairwise(bounds))
    table = torch.tensor(scores, dtype=torch.float64)
    mean, deviation = table.mean(0).tolist(), table.std(0, correction=0).tolist()
    return ScoresOfSplits(scores, Score(*mean), Score(*deviation))


@metric("is", paper=PAPER)
class InceptionScore(FeatureMetric):
    """The Inception Score with its factors, sharpness and diversity."""

    summary = "sharpness x diversity of class scores, in 10 splits and in one"
    reads = ("class scores",)
    better = "higher"
    min_pictures = _SPLITS

    def needs(self) -> list[tuple[PictureSet, Observer]]:
        """Request the class scores of the subject and of the reference."""
        super().needs()
        return [(p, self.observer) for p in (self.setting.subject, self.setting.reference)]

    def numbers(self, observations: Observations) -> list[Number]:
        """Compute IS and its factors, in ten splits and in one, also of as many real pictures."""
        s = self.setting
        logits = observations.of(s.subject, self.observer)["logits"]
        real = observations.of(s.reference, self.observer)["logits"][: len(logits)]
        numbers: list[Number] = []
        for splits, kind in ((_SPLITS, ""), (1, " (1 split)")):
            for row, rows in ((SUBJECT, logits), (f"real ({s.reference.name})", real)):
                score = inception_score(rows, splits)
                for name, part in _PARTS.items():
                    fields: dict[str, Any] = {"row": row, "better": self.better}
                    if splits > 1:
                        fields["error"] = getattr(score.deviation, part)
                        fields["parts"] = tuple(getattr(split, part) for split in score.splits)
                        fields["protocol"] = f"mean of {splits} splits ± their deviation"
                    value = getattr(score.mean, part)
                    numbers.append(self.number(name + kind, value, len(rows), **fields))
        return numbers
