"""Cycle consistency: the error of pictures translated to the other domain and back.

The error is the mean absolute difference of a pixel's channel, on the scale [-1, 1].

Reference:
    Zhu, Park, Isola, Efros (2017). Unpaired image-to-image translation using cycle-consistent
    adversarial networks. arXiv:1703.10593, equation 2.
"""

from typing import Any

import torch

from limner.contract.abilities import Domain, Translates
from limner.contract.image import Images, from_uint8
from limner.contract.registry import Paper
from limner.evaluate.metric import Metric, NotApplicable, metric
from limner.evaluate.passes import Columns, Observations, Observer
from limner.evaluate.picture_sets import Numbers, PictureSet, Pixels, RealPictures
from limner.evaluate.report import SUBJECT, Number

PAPER = Paper(
    "Unpaired image-to-image translation using cycle-consistent adversarial networks",
    "Zhu, Park, Isola, Efros",
    2017,
    "1703.10593",
)


class CycleObserver(Observer):
    """Observer of the cycle error of each real picture, in both domains.

    Args:
        model: a model that translates both ways.
        fingerprint: the fingerprint of its weights.
    """

    name = "cycles"

    def __init__(self, model: Translates, fingerprint: str) -> None:
        self.model, self.fingerprint = model, f"cycles {fingerprint}"

    def look(self, pictures: PictureSet, numbers: Numbers, pixels: Pixels) -> Columns:
        """Return `A` and `B`: E |x - back(there(x))| of each picture of the domain."""
        assert isinstance(pictures, RealPictures)
        a = pictures.condition(numbers, self.model.spec).image
        assert a is not None
        return {"A": self._error(a, "B", "A"), "B": self._error(from_uint8(pixels), "A", "B")}

    def _error(self, x: Images, to: Domain, back: Domain) -> torch.Tensor:
        translation = self.model.translate(x, to)
        return (self.model.translate(translation, back).cpu() - x).abs().flatten(1).mean(1)


@metric("cycle", paper=PAPER)
class Cycle(Metric):
    """The cycle error of both domains."""

    summary = "how much pictures change when translated to the other domain and back"
    reads = ("conditioning pictures",)
    better = "lower"
    redrawn = ("reference",)

    @property
    def pictures(self) -> RealPictures:
        """As many real pictures as the subject has."""
        return self.setting.reference.first(len(self.setting.subject))

    def observer(self) -> CycleObserver:
        """Return the observer of the cycle errors.

        Raises:
            NotApplicable: the model does not translate both ways.
        """
        model = self.setting.model
        if not (isinstance(model, Translates) and len(model.ways) == 2):
            raise NotApplicable(f"{self.setting.subject.name} does not translate both ways")
        return CycleObserver(model, self.setting.candidate.fingerprint)

    def needs(self) -> list[tuple[PictureSet, Observer]]:
        """Request the cycle errors of real pictures.

        Raises:
            NotApplicable: the model does not translate both ways, or the data have one domain only.
        """
        observer = self.observer()
        if self.setting.reference.spec.hint is None:
            raise NotApplicable(f"{self.setting.reference.name} has one domain, not two")
        return [(self.pictures, observer)]

    def numbers(self, observations: Observations) -> list[Number]:
        """Compute the mean error of each domain, with an interval over its pictures."""
        columns = observations.of(self.pictures, self.observer())
        groups = self.pictures.groups(torch.arange(len(self.pictures)))
        fields: dict[str, Any] = {"row": SUBJECT, "better": "lower"}
        return [
            self.mean(f"cycle error of {name}", columns[name], 0, 2, groups, **fields)
            for name in ("A", "B")
        ]
