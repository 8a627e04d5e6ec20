"""Does a translator undo itself? The mean distance of a pixel's channel, on the scale [-1, 1],
between pictures and what is left of them after the way to the other domain and back.

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
from limner.evaluate.passes import Columns, Observer, Seen
from limner.evaluate.picture_sets import Numbers, PictureSet, Pixels, RealPictures
from limner.evaluate.report import SUBJECT, Number

PAPER = Paper(
    "Unpaired image-to-image translation using cycle-consistent adversarial networks",
    "Zhu, Park, Isola, Efros",
    2017,
    "1703.10593",
)


class CycleObserver(Observer):
    """How far each real picture of either domain is from its translation and back.

    Args:
        model: translates both ways.
        fingerprint: of its weights.
    """

    name = "cycles"

    def __init__(self, model: Translates, fingerprint: str) -> None:
        self.model, self.fingerprint = model, f"cycles {fingerprint}"

    def look(self, pictures: PictureSet, numbers: Numbers, pixels: Pixels) -> Columns:
        """`A` and `B`: E |x - back(there(x))| of each."""
        assert isinstance(pictures, RealPictures)
        a = pictures.condition(numbers, self.model.spec).image
        assert a is not None
        return {"A": self._error(a, "B", "A"), "B": self._error(from_uint8(pixels), "A", "B")}

    def _error(self, x: Images, to: Domain, back: Domain) -> torch.Tensor:
        there = self.model.translate(x, to)
        return (self.model.translate(there, back).cpu() - x).abs().flatten(1).mean(1)


@metric("cycle", paper=PAPER)
class Cycle(Metric):
    """The cycle error of both domains."""

    summary = "how far pictures are from their translation to the other domain and back"
    reads = ("conditioning pictures",)
    better = "lower"
    redrawn = ("reference",)

    @property
    def pictures(self) -> RealPictures:
        """As many real ones as are judged."""
        return self.setting.reference.first(len(self.setting.subject))

    def observer(self) -> CycleObserver:
        """What sees the cycles.

        Raises:
            NotApplicable: the model does not translate both ways.
        """
        model = self.setting.model
        if not (isinstance(model, Translates) and len(model.ways) == 2):
            raise NotApplicable(f"{self.setting.subject.name} does not translate both ways")
        return CycleObserver(model, self.setting.candidate.fingerprint)

    def needs(self) -> list[tuple[PictureSet, Observer]]:
        """The cycles of real pictures.

        Raises:
            NotApplicable: the model does not translate both ways, or the data are of one domain.
        """
        observer = self.observer()
        if self.setting.reference.spec.hint is None:
            raise NotApplicable(f"{self.setting.reference.name} has one domain, not two")
        return [(self.pictures, observer)]

    def numbers(self, seen: Seen) -> list[Number]:
        """The mean of each domain's pictures, with intervals over them."""
        found = seen.of(self.pictures, self.observer())
        groups = self.pictures.groups(torch.arange(len(self.pictures)))
        of: dict[str, Any] = {"row": SUBJECT, "better": "lower"}
        return [
            self.mean(f"cycle error of {name}", found[name], 0, 2, groups, **of)
            for name in ("A", "B")
        ]
