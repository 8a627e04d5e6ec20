"""How many modes of the data a model covers, and how evenly: StackedMNIST.

Three digits as the red, green and blue channel of a picture have 1,000 modes. A classifier of
digits recognises each channel, which gives the mode.

Reference:
    Metz, Poole, Pfau, Sohl-Dickstein (2016). Unrolled Generative Adversarial Networks.
    arXiv:1611.02163.
"""

import math
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec
from limner.contract.registry import Paper
from limner.evaluate.extractors.choose import open_extractor
from limner.evaluate.extractors.extractor import Extractor
from limner.evaluate.metric import Metric, metric
from limner.evaluate.metrics.statistics import binomial_law
from limner.evaluate.passes import Columns, Observations, Observer
from limner.evaluate.picture_sets import Numbers, PictureSet, Pixels
from limner.evaluate.report import SUBJECT, Number

PAPER = Paper(
    "Unrolled generative adversarial networks",
    "Metz, Poole, Pfau, Sohl-Dickstein",
    2016,
    "1611.02163",
)
_DIGIT_SPEC = ImageSpec(1, 28, 28)
_KL_NAME = "KL to uniform"


class ModeCount(NamedTuple):
    """The number of covered modes, the divergence from the uniform distribution, and its floor.

    Args:
        covered_count: the number of modes that occur.
        mode_count: the number of all modes.
        divergence: KL(made || uniform), in nats.
        floor: the expected divergence of a uniform model, see `uniform_divergence`.
    """

    covered_count: int
    mode_count: int
    divergence: float
    floor: float


def modes(classes: Int64[Tensor, "n"], k: int) -> ModeCount:
    """Count the covered modes, and compute the divergence of their shares from uniform.

        KL(made || uniform) = sum_y p(y) ln(K p(y))

    with p(y) the share of mode y among the pictures.

    Args:
        classes: the mode of each picture, 0 .. K - 1.
        k: the number K of modes; 1,000 for StackedMNIST.

    Raises:
        LimnerError: no picture; a class outside 0 .. K - 1.
    """
    if not len(classes):
        raise LimnerError("counting modes needs at least 1 picture, not 0")
    if k < 1 or classes.min() < 0 or classes.max() >= k:
        raise LimnerError(
            f"classes from {int(classes.min())} to {int(classes.max())} are not among the {k} "
            f"modes 0 .. {k - 1}"
        )
    counts = classes.cpu().bincount(minlength=k)
    n = len(classes)
    entropy = float(torch.special.entr(counts.double() / n).sum())
    return ModeCount(int((counts > 0).sum()), k, math.log(k) - entropy, uniform_divergence(n, k))


def uniform_divergence(n: int, k: int) -> float:
    """Compute the expected KL(made || uniform), in nats, for a model that is uniform over k modes.

    It is k E[p ln(k p)], where n p is binomial. For many pictures it is about (k - 1) / 2n.

    Args:
        n: the number of pictures.
        k: the number of modes.
    """
    p = torch.arange(n + 1, dtype=torch.float64) / n
    return k * float((binomial_law(n, 1 / k) * torch.xlogy(p, k * p)).sum())


def stacked_modes(digits: Int64[Tensor, "n 3"]) -> Int64[Tensor, "n"]:
    """Return the mode of each picture of StackedMNIST: 100 r + 10 g + b.

    Args:
        digits: the class of the red, the green and the blue channel, 0 .. 9.

    Raises:
        LimnerError: a class is not a digit.
    """
    if len(digits) and (digits.min() < 0 or digits.max() > 9):
        raise LimnerError("the classes of StackedMNIST's channels are the digits 0 .. 9")
    return digits @ torch.tensor([100, 10, 1], device=digits.device)


class ChannelObserver(Observer):
    """Observer that classifies each channel as a grey picture.

    Args:
        extractor: a classifier of grey pictures.
    """

    def __init__(self, extractor: Extractor) -> None:
        self.extractor = extractor
        self.name = "channels"
        self.fingerprint = f"channels {extractor.fingerprint}"

    def look(self, pictures: PictureSet, numbers: Numbers, pixels: Pixels) -> Columns:
        """Return `digits`, "b c", the class of each channel."""
        n, channels = pixels.shape[:2]
        _, logits = self.extractor(pixels.flatten(0, 1)[:, None])
        assert logits is not None, "a classifier has logits"
        return {"digits": logits.argmax(1).view(n, channels).cpu()}


@metric("modes", paper=PAPER)
class Modes(Metric):
    """The number of digits that occur, or of combinations of digits for several channels."""

    summary = "digits: how many of the 10, or StackedMNIST's 1,000, there are, and how evenly"
    reads = ("class scores",)
    better = "higher"

    @cached_property
    def observer(self) -> ChannelObserver:
        """The classifier of digits, independent of the extractor of the other metrics."""
        return ChannelObserver(open_extractor("lenet", _DIGIT_SPEC, self.setting.device))

    @property
    def extractor(self) -> Extractor:
        """The classifier."""
        return self.observer.extractor

    def needs(self) -> list[tuple[PictureSet, Observer]]:
        """Request the channels of the subject, and of as many pictures of the reference."""
        if not self.setting.reference.name.startswith(("mnist", "stacked-mnist")):
            self.skip_unless_named("the channels are not known to be digits")
        if self.setting.model and self.setting.subject.classes:
            self.skip_unless_named("the model is given the digits to paint")
        return [(p, self.observer) for _, p in self.sets]

    @property
    def sets(self) -> list[tuple[str, PictureSet]]:
        """The subject and as many real pictures, each with the name of its row."""
        s = self.setting
        real = s.reference.first(len(s.subject))
        return [(SUBJECT, s.subject), (f"real ({real.name})", real)]

    def numbers(self, observations: Observations) -> list[Number]:
        """Compute the covered modes, and the divergence from uniform with its floor."""
        numbers: list[Number] = []
        for row, pictures in self.sets:
            digits = observations.of(pictures, self.observer)["digits"]
            channels = digits.shape[1]
            powers = 10 ** torch.arange(channels - 1, -1, -1)
            count, n = modes(digits @ powers, 10**channels), len(digits)
            fields: dict[str, Any] = {"row": row}
            unit = f"of {count.mode_count:,}"
            numbers += [
                self.number("modes", count.covered_count, n, better="higher", unit=unit, **fields),
                self.number(_KL_NAME, count.divergence, n, better="lower", unit="nats", **fields),
            ]
            if row == SUBJECT:
                numbers.append(replace(numbers[-1], value=count.floor, row="floor", sign="~"))
        return numbers
