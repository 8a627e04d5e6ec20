"""The metrics of classes: are pictures of what was asked for, and of how many kinds?"""

from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from limner.contract.image import ImageSpec
from limner.evaluate.extractors.choose import extractor
from limner.evaluate.extractors.extractor import Extractor
from limner.evaluate.metric import Metric
from limner.evaluate.metrics.fidelity import OfFeatures
from limner.evaluate.metrics.modes import modes
from limner.evaluate.passes import Columns, Observer, Seen
from limner.evaluate.picture_sets import Numbers, PictureSet, Pixels
from limner.evaluate.report import SUBJECT, Number

_DIGITS = ImageSpec(1, 28, 28)


class Accuracy(OfFeatures):
    """How often the extractor sees the class that was asked for."""

    name = "accuracy"
    summary = "the share of conditional pictures that are of their class, to a classifier"
    least = 1

    def refusal(self) -> str:
        """The pictures are of no classes, or not of those that the extractor knows."""
        if why := super().refusal():
            return why
        subject = self.setting.subject
        if not subject.classes:
            return f"{subject.name} has no classes, or others than {self.setting.reference.name}"
        if not self.setting.has_logits or not self.known(subject):
            return f"{self.extractor.name} does not know the classes of {subject.name}"
        return ""

    def known(self, pictures: PictureSet) -> bool:
        """Whether the extractor knows a set's classes."""
        return set(pictures.classes) <= set(self.extractor.classes)

    def needs(self) -> list[tuple[PictureSet, Observer]]:
        """The class scores of the subject and of the reference."""
        return [(p, self.observer) for p in (self.setting.subject, self.setting.reference)]

    def numbers(self, seen: Seen) -> list[Number]:
        """The share of the subject, and that of the reference, which no model can be asked to
        exceed.
        """
        s = self.setting
        found: list[Number] = []
        for row, pictures in ((SUBJECT, s.subject), (f"real ({s.reference.name})", s.reference)):
            logits = seen.of(pictures, self.observer)["logits"]
            asked = pictures.labels(torch.arange(len(logits)))
            if asked is None or not self.known(pictures):
                continue
            place = [self.extractor.classes.index(name) for name in pictures.classes]
            right = logits.argmax(1) == torch.tensor(place)[asked]
            shared: dict[str, Any] = {"row": row, "extractor": self.extractor.name}
            accuracy = float(right.double().mean())
            found.append(self.share("accuracy", accuracy, len(right), better="higher", **shared))
        return found


class SeenChannels(Observer):
    """The class of each channel, as a grey picture of its own.

    Args:
        extractor: of grey pictures.
    """

    def __init__(self, extractor: Extractor) -> None:
        self.extractor = extractor
        self.name = "channels"
        self.fingerprint = f"channels {extractor.fingerprint}"

    def look(self, pictures: PictureSet, numbers: Numbers, pixels: Pixels) -> Columns:
        """`digits`, "b c"."""
        n, channels = pixels.shape[:2]
        _, logits = self.extractor(pixels.flatten(0, 1)[:, None])
        assert logits is not None, "a classifier has logits"
        return {"digits": logits.argmax(1).view(n, channels).cpu()}


class Modes(Metric):
    """How many digits there are, or combinations of digits where there are channels."""

    name = "modes"
    summary = "digits: how many of the 10, or StackedMNIST's 1,000, there are, and how evenly"

    @cached_property
    def observer(self) -> SeenChannels:
        """The classifier of digits, whatever sees the features of the other metrics."""
        return SeenChannels(extractor("lenet", _DIGITS, self.setting.device))

    def doubt(self) -> str:
        """The data are not known to be digits, or the model was told which ones to paint."""
        if not self.setting.reference.name.startswith(("mnist", "stacked-mnist")):
            return "the channels are no digits, as far as is known"
        if self.setting.model and self.setting.subject.classes:
            return "the model is told which digits to paint"
        return ""

    def extractors(self) -> list[Extractor]:
        """The classifier."""
        return [self.observer.extractor]

    def needs(self) -> list[tuple[PictureSet, Observer]]:
        """The channels of the subject, and of as many pictures of the reference."""
        return [(p, self.observer) for _, p in self.sets]

    @property
    def sets(self) -> list[tuple[str, PictureSet]]:
        """With their rows."""
        s = self.setting
        real = s.reference.first(len(s.subject))
        return [(SUBJECT, s.subject), (f"real ({real.name})", real)]

    def numbers(self, seen: Seen) -> list[Number]:
        """Modes covered, and the divergence from the uniform law with its floor for so few."""
        found: list[Number] = []
        for row, pictures in self.sets:
            digits = seen.of(pictures, self.observer)["digits"]
            channels = digits.shape[1]
            place = 10 ** torch.arange(channels - 1, -1, -1)
            counted, n = modes(digits @ place, 10**channels), len(digits)
            shared: dict[str, Any] = {"row": row, "extractor": self.observer.extractor.name}
            found += [
                Number(self.name, "modes", counted.covered, n, better="higher",
                       unit=f"of {counted.of:,}", **shared),
                Number(self.name, "KL to uniform", counted.divergence, n, better="lower",
                       unit="nats", **shared),
            ]  # fmt: skip
            if row == SUBJECT:
                found.append(replace(found[-1], value=counted.floor, row="floor", sign="~"))
        return found
