"""Do pictures show the requested class, according to a classifier of real pictures?

Reference:
    Shmelkov, Schmid, Alahari (2018). How good is my GAN? arXiv:1807.09499. (GAN-test.)
"""

from typing import Any

import torch

from limner.contract.errors import LimnerError
from limner.contract.registry import Paper
from limner.evaluate.metric import FeatureMetric, NotApplicable, metric
from limner.evaluate.passes import Observations, Observer
from limner.evaluate.picture_sets import PictureSet
from limner.evaluate.report import SUBJECT, Number

PAPER = Paper("How good is my GAN?", "Shmelkov, Schmid, Alahari", 2018, "1807.09499")


@metric("accuracy", paper=PAPER)
class Accuracy(FeatureMetric):
    """The share of pictures in which the extractor recognises the requested class."""

    summary = "the share of conditional pictures in which a classifier recognises their class"
    reads = ("labels", "class scores")
    better = "higher"
    min_pictures = 1
    redrawn = ("subject",)

    def knows_classes_of(self, pictures: PictureSet) -> bool:
        """Return whether the extractor knows all classes of a set."""
        return set(pictures.classes) <= set(self.extractor.classes)

    def needs(self) -> list[tuple[PictureSet, Observer]]:
        """Request the class scores of the subject and of the reference.

        Raises:
            NotApplicable: the pictures have no classes, or classes that the extractor does not
                know.
        """
        super().needs()
        s = self.setting
        if not s.subject.classes:
            raise NotApplicable(
                f"{s.subject.name} has no classes, or other classes than {s.reference.name}"
            )
        if not self.knows_classes_of(s.subject):
            raise NotApplicable(
                f"{self.extractor.name} does not know the classes of {s.subject.name}"
            )
        return [(p, self.observer) for p in (s.subject, s.reference)]

    def numbers(self, observations: Observations) -> list[Number]:
        """Compute the share of the subject, and of the reference as the upper limit for a model.

        Raises:
            LimnerError: no picture of the subject has a class.
        """
        s = self.setting
        numbers: list[Number] = []
        for row, pictures in ((SUBJECT, s.subject), (f"real ({s.reference.name})", s.reference)):
            logits = observations.of(pictures, self.observer)["logits"]
            labels = pictures.labels(torch.arange(len(logits)))
            if labels is None or not self.knows_classes_of(pictures):
                continue
            has_class = (labels >= 0).nonzero().flatten()
            if not len(has_class):
                if row == SUBJECT:
                    raise LimnerError(f"no picture of {pictures.name} has a class")
                continue
            columns = [self.extractor.classes.index(name) for name in pictures.classes]
            right = (logits.argmax(1) == torch.tensor(columns)[labels])[has_class]
            fields: dict[str, Any] = {"row": row, "better": self.better}
            groups = pictures.groups(has_class)
            numbers.append(self.share("accuracy", right, groups, **fields))
        return numbers
