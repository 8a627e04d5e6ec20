"""Improved precision and recall: do pictures lie among real ones, and real ones among them?

    precision  share of the fakes inside any real ball      are the pictures realistic?
    recall     share of the reals inside any fake ball      does the model cover all real pictures?

See `neighbours` for the balls, and for the intervals.

Reference:
    Kynkäänniemi et al. (2019). Improved Precision and Recall Metric for Assessing Generative
    Models. arXiv:1904.06991.
"""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from limner.contract.registry import Paper
from limner.evaluate.metric import metric
from limner.evaluate.metrics.neighbours import NeighbourMetric, pair_of_points, share_inside
from limner.evaluate.metrics.statistics import IntervalEstimate

PAPER = Paper(
    "Improved precision and recall metric for assessing generative models",
    "Kynkäänniemi, Karras, Laine, Lehtinen, Aila",
    2019,
    "1904.06991",
)
K = 3
"""The paper's number of neighbours."""


class PrecisionAndRecall(NamedTuple):
    """Precision and recall with their intervals, both from 0 to 1."""

    precision: IntervalEstimate
    recall: IntervalEstimate


def precision_recall(
    real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"], k: int = K
) -> PrecisionAndRecall:
    """Compute improved precision and recall, with their intervals over both sets.

    Args:
        real, fake: features, a row for each picture; best equally many.
        k: the neighbour to which a ball reaches.

    Raises:
        LimnerError: at most k pictures in a set; different numbers of features; NaN or infinite
            features.
    """
    min_pictures = (k + 1, k + 1)
    reals, fakes = pair_of_points(real, fake, k, min_pictures, "precision and recall")
    return PrecisionAndRecall(share_inside(fakes, reals), share_inside(reals, fakes))


@metric("precision-recall", paper=PAPER)
class PrecisionRecall(NeighbourMetric):
    """Improved precision and recall of pictures and real ones."""

    summary = "the share of pictures that lie among real ones, and of real ones among pictures"
    min_pictures = K + 1
    k = K
    names = ("precision", "recall")

    def both(
        self, real: Float[Tensor, "n d"], fake: Float[Tensor, "n d"]
    ) -> tuple[IntervalEstimate, IntervalEstimate]:
        """Compute precision and recall."""
        return precision_recall(real, fake, self.k)
