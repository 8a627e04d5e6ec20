"""A whole new metric in one file: copy it to src/limner/evaluate/metrics/<metric>.py and change it.

Friedman, Dieng (2022). The Vendi score: a diversity evaluation metric. arXiv:2210.02410.

How many different pictures are there? With the eigenvalues l of K / n, where K_ij is the cosine of
the features of pictures i and j,

    VS = exp(-sum_i l_i ln l_i)        1 (all the same) .. min(n, d) (all at right angles)

The eigenvalues of X'X / n are the same, and there are no more of them than features.

    python -m limner.testing examples/new_metric.py     # checks the contract: a minute
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limner.contract.registry import Paper
from limner.evaluate.metric import FeatureMetric, metric
from limner.evaluate.metrics.statistics import (
    IntervalEstimate,
    checked_features,
    jackknife,
    random_order,
)
from limner.evaluate.passes import Observations
from limner.evaluate.report import Number

TITLE = "The Vendi score: a diversity evaluation metric for machine learning"
PAPER = Paper(TITLE, "Friedman, Dieng", 2022, "2210.02410")
PARTS = 20


def vendi(features: Float[Tensor, "n d"], seed: int = 0) -> IntervalEstimate:
    """Return the Vendi score of features, with a jackknife interval over 20 random parts."""
    x = F.normalize(checked_features(features, PARTS, "the Vendi score"), dim=1)
    parts = x[random_order(len(x), seed)].tensor_split(PARTS)
    products = torch.stack([part.T @ part for part in parts])  # parts d d
    left_out = torch.tensor([len(part) for part in parts])
    score = _score(products.sum(0)[None], torch.tensor([len(x)]))
    return jackknife(float(score), _score(products.sum(0) - products, len(x) - left_out))


def _score(products: Tensor, n: Tensor) -> Tensor:
    values = torch.linalg.eigvalsh(products / n[:, None, None]).clamp(min=0)
    return torch.special.entr(values).sum(1).exp()


# To register is to be listed, documented and tested.
@metric("vendi", paper=PAPER)
class Vendi(FeatureMetric):  # so it needs an extractor, and gets the subject's and real pictures
    """The Vendi score."""

    summary = "how many different pictures there are, from the cosines of their features"
    reads = ("features",)
    better = "higher"
    min_pictures = PARTS  # fewer pictures are refused
    redrawn = ("subject",)  # the set over which intervals are taken

    def numbers(self, observations: Observations) -> list[Number]:
        """Return the score of the subject, and that of as many other real pictures."""
        numbers: list[Number] = []
        for row, pictures in self.sets.items():
            x = observations.of(pictures, self.observer)["features"]
            numbers.append(self.number("Vendi", vendi(x), len(x), row=row, better=self.better))
        return numbers
