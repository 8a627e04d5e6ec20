"""What a metric is: whether it applies, what has to be seen for it, and the numbers it makes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from limner.contract.model import GenerativeModel
from limner.evaluate.extractors.extractor import Extractor
from limner.evaluate.metrics.statistics import wilson
from limner.evaluate.passes import Observer, Seen
from limner.evaluate.picture_sets import PictureSet, Pixels, RealPictures
from limner.evaluate.report import Number


@dataclass(frozen=True)
class Setting:
    """What is known before anything is painted.

    Args:
        subject: the pictures that are judged.
        model: that paints them; None for pictures that are there already.
        fingerprint: of the model's weights, or of the pictures.
        seed: of the first picture, and of whatever else is drawn.
        device: where models and extractors compute.
        reference: the real pictures that they are judged by, all of them.
        training: those that models learn from; None where that is unknown.
        held_out: those that they never see; one of the two is the reference.
        extractor: what sees features; None where none fits.
        no_extractor: why none does.
        has_logits: whether it says classes too.
        likelihood: options of the model's likelihood.
    """

    subject: PictureSet
    model: GenerativeModel | None
    fingerprint: str
    seed: int
    device: torch.device
    reference: RealPictures
    training: RealPictures | None
    held_out: RealPictures | None
    extractor: Extractor | None = None
    no_extractor: str = ""
    has_logits: bool = False
    likelihood: Mapping[str, Any] = field(default_factory=dict)

    @property
    def other(self) -> RealPictures | None:
        """As many real pictures as are judged, none of them in the reference: what a perfect
        model would read.
        """
        trains = self.training is not None and self.training.dataset is self.reference.dataset
        other = self.held_out if trains else self.training
        return other and other.first(len(self.subject))


class Metric(ABC):
    """A metric of `--metrics`, in one setting.

    Attributes:
        name: as it is typed.
        summary: what it says, in a line.
        of_pictures: whether it is of the subject's pictures; else they need not be painted.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    of_pictures: ClassVar[bool] = True

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def refusal(self) -> str:
        """Why it does not apply; empty when it does."""
        return ""

    def doubt(self) -> str:
        """Why it is left out unless it is asked for by name; empty when it is not."""
        return ""

    def extractors(self) -> list[Extractor]:
        """Those whose names stand beside its numbers."""
        return []

    @abstractmethod
    def needs(self) -> list[tuple[PictureSet, Observer]]:
        """Which pictures have to be seen by whom."""

    @abstractmethod
    def numbers(self, seen: Seen) -> list[Number]:
        """What it found, the subject's numbers first."""

    def share(self, name: str, value: float, n: int, **more: Any) -> Number:
        """A share of n pictures, with its interval."""
        low, high = wilson(value, n)
        return Number(self.name, name, value, n, low=low, high=high, **more)

    def sheets(self, seen: Seen) -> dict[str, Pixels]:
        """Pictures that belong to the numbers, by the name of their sheet."""
        return {}
