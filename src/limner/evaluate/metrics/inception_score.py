"""The Inception Score, as sharpness times diversity.

A classifier says c(y|x) of each picture; c(y) is its mean over the pictures.

    S  = exp( E_x sum_y c(y|x) ln c(y|x) )    sharpness: 1/K (it has no idea) .. 1 (it is sure)
    D  = exp(-E_x sum_y c(y|x) ln c(y)   )    diversity: 1 (always the same class) .. K (all alike)
    IS = S D = exp( E_x KL(c(y|x) || c(y)) )  1 .. K

IS = S D holds where all three are of the same pictures, hence for each split, but not for the means
over splits. Compare only scores of equally many pictures and splits: few pictures do not show all
classes alike, and the best generator there can be reads `ceiling`. The score is blind to what
happens within a class: one picture of each, again and again, reads K.

References:
    Salimans et al. (2016). Improved Techniques for Training GANs. arXiv:1606.03498.
    Barratt, Sharma (2018). A Note on the Inception Score. arXiv:1801.01973.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.evaluate.metrics.statistics import checked, shuffled


class Score(NamedTuple):
    """Sharpness, diversity and their product."""

    sharpness: float
    diversity: float
    inception_score: float


class InceptionScore(NamedTuple):
    """The scores of all splits, with their means and their standard deviations (over the number of
    splits, as the paper's code has it)."""

    splits: tuple[Score, ...]
    mean: Score
    deviation: Score


@dataclass(frozen=True)
class Predictions:
    """What the score needs of a classifier's logits; parts add up, in memory that does not grow.

    Args:
        n: how many pictures.
        certainty: the sum over them of sum_y c(y|x) ln c(y|x).
        classes: the sum over them of c(y|x).
    """

    n: int
    certainty: Float64[Tensor, ""]
    classes: Float64[Tensor, "k"]

    @classmethod
    def of(cls, logits: Float[Tensor, "n k"]) -> "Predictions":
        """Of these pictures' logits.

        Raises:
            LimnerError: no picture; NaN or infinite logits.
        """
        log_c = checked(logits, 1, "the Inception Score").log_softmax(1)
        c = log_c.exp()
        return cls(len(c), (c * log_c).sum(), c.sum(0))

    def merge(self, other: "Predictions") -> "Predictions":
        """Of both.

        Raises:
            LimnerError: another number of classes.
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
    logits: Float[Tensor, "n k"], splits: int = 10, seed: int | None = 0
) -> InceptionScore:
    """The Inception Score of pictures, in splits.

    Split i are the pictures i n // splits .. (i + 1) n // splits - 1, after a shuffle by
    `statistics.shuffled`; sorted pictures, each split of other classes, would score too low.

    Args:
        logits: of a classifier, a row for each picture.
        splits: how many parts are scored by themselves; 10 in the paper.
        seed: of the shuffle; None keeps the order.

    Raises:
        LimnerError: fewer pictures than splits; NaN or infinite logits.
    """
    n = len(logits)
    if splits < 1:
        raise LimnerError(f"the Inception Score has at least 1 split, not {splits}")
    if n < splits:
        raise LimnerError(f"the Inception Score in {splits} splits needs as many images, not {n}")
    order = torch.arange(n) if seed is None else shuffled(n, seed)
    rows = logits[order.to(logits.device)]
    bounds = [i * n // splits for i in range(splits + 1)]
    scores = tuple(Predictions.of(rows[start:end]).score for start, end in pairwise(bounds))
    table = torch.tensor(scores, dtype=torch.float64)
    mean, deviation = table.mean(0).tolist(), table.std(0, correction=0).tolist()
    return InceptionScore(scores, Score(*mean), Score(*deviation))


def ceiling(k: int, n: int) -> float:
    """About what a perfect generator scores: K exp(-(K - 1) / 2N), for N well above K.

    Its classes are uniform and certain, but N pictures do not show them equally often.

    Args:
        k: how many classes.
        n: how many pictures a split has.
    """
    return k * math.exp(-(k - 1) / (2 * n))
