"""The distance of pictures to their true counterparts, where the data have these (`paired:A,B`).

Each picture is made from another one: a translation, an enlargement, a drawing from edges.

    PSNR       -10 log10 E (x - x*)^2, x and x* in [0, 1], the mean over pictures
    distance   1 - cosine of the two pictures' features
    R@1        how often a picture's own counterpart is the nearest of 100, by features

A tie in rank counts against the model: one that always paints the same picture has an R@1 of 0.

References:
    Hore, Ziou (2010). Image quality metrics: PSNR vs. SSIM. doi:10.1109/ICPR.2010.579.
    Zhang, Isola, Efros, Shechtman, Wang (2018). The unreasonable effectiveness of deep features as
    a perceptual metric. arXiv:1801.03924. (Features in place of pixels.)
"""

from collections.abc import Mapping
from functools import cached_property
from importlib.util import find_spec
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from limner.contract.registry import Paper
from limner.evaluate.metric import NotApplicable, metric
from limner.evaluate.metrics.pairs import Measure, PairMetric, psnr
from limner.evaluate.metrics.statistics import random_order
from limner.evaluate.picture_sets import (
    PaintedPictures,
    PictureSet,
    SourcePictures,
)
from limner.evaluate.report import SUBJECT, Number

PAPER = Paper(
    "Image quality metrics: PSNR vs. SSIM", "Hore, Ziou", 2010, doi="10.1109/ICPR.2010.579"
)
GALLERY = 100
"""The number of counterparts to choose from, including a picture's own."""


def is_own_nearest(
    features: Float[Tensor, "n d"], true: Float[Tensor, "n d"], gallery: int, seed: int = 0
) -> Bool[Tensor, "n"]:
    """Return whether each picture is nearer to its own counterpart than to gallery - 1 others.

    Args:
        features: features of the pictures.
        true: features of their counterparts.
        gallery: the number of counterparts to choose from; all, if there are fewer.
        seed: the seed of the choice of the others.
    """
    n = len(features)
    similarity = F.normalize(features.double(), dim=1) @ F.normalize(true.double(), dim=1).T
    order = random_order(n, seed)
    position = torch.empty_like(order)
    position[order] = torch.arange(n)
    others = order[(position[:, None] + torch.arange(1, min(gallery, n))) % n]
    return (similarity.gather(1, others) < similarity.diagonal()[:, None]).all(1)


@metric("counterpart", paper=PAPER)
class Counterpart(PairMetric):
    """PSNR, distance and R@1 of pictures to the true ones, and the same for the source pictures."""

    summary = "how near pictures are to the true ones, where the data are pairs"
    measures: ClassVar[Mapping[str, Measure]] = {"PSNR": psnr}

    @cached_property
    def rows(self) -> dict[str, PictureSet]:
        """The subject and, if the source pictures look like pictures, these: unchanged, and with
        the colours of the true pictures (if scikit-image is installed).
        """
        s = self.setting
        rows: dict[str, PictureSet] = {SUBJECT: s.subject}
        hint, n = s.reference.spec.hint, len(s.subject)
        if hint and hint.channels in (1, s.reference.spec.channels):
            rows["source"] = SourcePictures(s.reference, n)
            if find_spec("skimage"):
                rows["source, colours matched"] = SourcePictures(s.reference, n, matched=True)
        return rows

    def check(self) -> None:
        """Check that the reference has pairs and that the subject was made from them.

        Raises:
            NotApplicable: it has none, or the subject was not made from pictures.
        """
        s = self.setting
        if not (isinstance(s.subject, PaintedPictures) and s.subject.spec.hint):
            raise NotApplicable(f"{s.subject.name} is not made from pictures")
        if not s.reference.dataset.paired:
            raise NotApplicable(
                f"{s.reference.name} has no true counterparts; give --against paired:A,B"
            )

    def numbers_of_features(
        self, own: Float[Tensor, "m d"], true: Float[Tensor, "m d"], row: str
    ) -> list[Number]:
        """Compute R@1."""
        m, right = len(own), is_own_nearest(own, true, GALLERY)
        groups = self.setting.reference.groups(torch.arange(m))
        return [self.share(f"R@1 of {min(GALLERY, m)}", right, groups, row=row, better="higher")]
