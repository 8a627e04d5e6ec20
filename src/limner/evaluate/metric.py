"""What a metric is: whether it applies, what has to be seen for it, and the numbers it makes.

One file of `evaluate/metrics/` is one metric: its mathematics, and a class under `@metric`. To
register is to be listed by `limner metrics`, documented, and tested by the contract suite.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeVar, cast, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from limner.contract.errors import LimnerError, unknown
from limner.contract.model import GenerativeModel
from limner.contract.registry import Paper, check_registration, import_modules, is_again
from limner.evaluate.extractors.extractor import Extractor
from limner.evaluate.metrics.statistics import (
    Estimate,
    count_groups,
    mean_interval,
    share_interval,
)
from limner.evaluate.passes import FeatureObserver, Observer, Seen
from limner.evaluate.picture_sets import PictureSet, Pixels, RealPictures
from limner.evaluate.report import SUBJECT, Number
from limner.evaluate.subject import Candidate, Reference

Reads = Literal[
    "features",
    "class scores",
    "labels",
    "captions",
    "layouts",
    "conditioning pictures",
    "hints",
    "training pictures",
    "likelihood",
]
"""What a metric reads of pictures or of the model that paints them."""
NEEDS: dict[Reads, str] = {
    "features": "extractor",
    "class scores": "extractor with classes",
    "labels": "labels",
    "captions": "captions",
    "layouts": "scenes",
    "conditioning pictures": "two domains",
    "hints": "data.hint",
    "training pictures": "training split",
    "likelihood": "likelihood",
}
"""Where that comes from."""
Redrawn = Literal["subject", "reference", "training", "held-out"]
"""Pictures over which an interval speaks."""
_M = TypeVar("_M", bound="type[Metric]")


class NotApplicable(LimnerError):  # noqa: N818 (a metric that is left out is not an error)
    """A metric has no value here; the message says why."""


@dataclass(frozen=True)
class Setting:
    """What is known before anything is painted.

    Args:
        candidate: the model or the pictures, as opened.
        against: the real pictures, as opened.
        subject: the pictures that are judged: painted ones, or those that are there already.
        seed: of the first picture, and of whatever else is drawn.
        device: where models and extractors compute.
        extractor: what sees features; None where none fits.
        no_extractor: why none does.
        has_logits: whether it says classes too.
        likelihood: options of the model's likelihood.
    """

    candidate: Candidate
    against: Reference
    subject: PictureSet
    seed: int
    device: torch.device
    extractor: Extractor | None = None
    no_extractor: str = ""
    has_logits: bool = False
    likelihood: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> GenerativeModel | None:
        """What paints; None for pictures that are there already."""
        return self.candidate.model

    @property
    def reference(self) -> RealPictures:
        """The real pictures that it is judged by, all of them."""
        return self.against.real

    @property
    def training(self) -> RealPictures | None:
        """Those that models learn from; None where that is unknown."""
        return self.against.training

    @property
    def held_out(self) -> RealPictures | None:
        """Those that models never see."""
        return self.against.held_out

    @property
    def real_baseline(self) -> RealPictures | None:
        """Real pictures that are not in the reference, as many as the subject has: their score is
        what a perfect model would get.
        """
        trains = self.training is not None and self.training.dataset is self.reference.dataset
        other = self.held_out if trains else self.training
        return other and other.first(len(self.subject))


class Metric(ABC):
    """A metric of `--metrics`, in one setting.

    Args:
        setting: what is judged, and by what.
        named: whether it was asked for by name.

    Attributes:
        name: as it is typed.
        paper: where it is defined.
        summary: what it says, in a line.
        reads: what it reads, the first being what it is listed by.
        better: which way its first number is better.
        least: fewer pictures have no value.
        redrawn: the pictures over which its intervals speak; () where it has none.
    """

    name: ClassVar[str]
    paper: ClassVar[Paper]
    summary: ClassVar[str]
    reads: ClassVar[tuple[Reads, ...]]
    better: ClassVar[Literal["lower", "higher"]]
    least: ClassVar[int] = 1
    redrawn: ClassVar[tuple[Redrawn, ...]] = ()

    def __init__(self, setting: Setting, named: bool = True) -> None:
        self.setting, self.named = setting, named

    @property
    def extractor(self) -> Extractor | None:
        """The one whose name stands beside its numbers; None where it needs none."""
        return None

    @abstractmethod
    def needs(self) -> list[tuple[PictureSet, Observer]]:
        """Which pictures have to be seen by whom.

        Raises:
            NotApplicable: it has no value in this setting.
        """

    @abstractmethod
    def numbers(self, seen: Seen) -> list[Number]:
        """What it found, the subject's numbers first."""

    def sheets(self, seen: Seen) -> dict[str, Pixels]:
        """Pictures that belong to the numbers, by the name of their sheet."""
        return {}

    def skip_unless_named(self, reason: str) -> None:
        """Leave it out where nobody asked for it by name.

        Raises:
            NotApplicable: with the reason, unless it was named.
        """
        if not self.named:
            raise NotApplicable(reason)

    def number(self, name: str, value: float | Estimate, n: int, **more: Any) -> Number:
        """By its extractor, if it has one; an estimate comes with its interval."""
        if isinstance(value, Estimate):
            more |= {"low": value.low, "high": value.high}
            value = value.value
        extractor = self.extractor.name if self.extractor else ""
        return Number(self.name, name, value, n, extractor=extractor, **more)

    def mean(
        self,
        name: str,
        values: Float[Tensor, "n"],
        least: float = -math.inf,
        most: float = math.inf,
        groups: Int64[Tensor, "n"] | None = None,
        **more: Any,
    ) -> Number:
        """The mean of values of n pictures, with its interval between the least and the most that
        it can be; that of one picture, or of variants of one thing, has none.
        """
        mean, n = float(values.double().mean()), len(values)
        known = count_groups(n, groups) > 1
        value = mean_interval(values, least, most, groups) if known else mean
        return self.number(name, value, n, **more)

    def share(
        self,
        name: str,
        right: Bool[Tensor, "n"],
        groups: Int64[Tensor, "n"] | None = None,
        **more: Any,
    ) -> Number:
        """The share of n pictures that count, with its interval."""
        return self.number(name, share_interval(right, groups), len(right), **more)


class FeatureMetric(Metric):
    """A metric of an extractor: of the subject, the reference and other real pictures."""

    least = 2

    @property
    def extractor(self) -> Extractor:
        """The setting's."""
        assert self.setting.extractor is not None, "needs() says why there is none"
        return self.setting.extractor

    @cached_property
    def observer(self) -> FeatureObserver:
        """What sees the features."""
        return FeatureObserver(self.extractor)

    @cached_property
    def sets(self) -> dict[str, PictureSet]:
        """The subject, and other real pictures if there are enough of them, by their rows."""
        other = self.setting.real_baseline
        real = {f"real ({other.name})": other} if other and len(other) >= self.least else {}
        return {SUBJECT: self.setting.subject} | real

    def needs(self) -> list[tuple[PictureSet, Observer]]:
        """The features of all sets, and of the reference.

        Raises:
            NotApplicable: no extractor fits, or it tells no classes apart, or there are too few
                pictures.
        """
        s = self.setting
        if s.extractor is None:
            raise NotApplicable(s.no_extractor)
        for pictures in (s.subject, s.reference):
            if (n := len(pictures)) < self.least:
                raise NotApplicable(
                    f"it needs at least {self.least} pictures, and {pictures.name} has {n}"
                )
        if "class scores" in self.reads and not s.has_logits:
            raise NotApplicable(f"{s.extractor.name} knows no classes")
        return [(p, self.observer) for p in (*self.sets.values(), s.reference)]

    def label(self, inception: str, otherwise: str) -> str:
        """A number's name: papers mean Inception's features by FID and KID."""
        return inception if self.extractor.name.startswith("inception") else otherwise


_metrics: dict[str, type[Metric]] = {}


def metric(name: str, *, paper: Paper) -> Callable[[_M], _M]:
    """Enter a metric under a name; to register is to be tested by the contract suite.

    Args:
        name: lower case, words joined by hyphens.
        paper: where it is defined.

    Raises:
        LimnerError: another metric has the name, or the class lacks what a metric says of itself.
    """
    check_registration(name, "metric", paper)

    def enter(cls: _M) -> _M:
        _check_class(cls)
        known = _metrics.get(name)
        if known and not is_again(cls, known):
            raise LimnerError(
                f"the metric name '{name}' is taken by {known.__qualname__} of "
                f"{known.__module__}; choose another"
            )
        cls.name, cls.paper = name, paper
        _metrics[name] = cls
        return cls

    return enter


_SAID = {
    "summary": '"what it says, in a line"',
    "reads": '("features",)',
    "better": '"lower"',
    "redrawn": '("subject",)',
}


def _check_class(cls: type[Metric]) -> None:
    """Refuse a class that does not say what a metric says of itself.

    Raises:
        LimnerError: an attribute or method is missing, or has a value that is none of the known.
    """
    if missing := sorted(cls.__abstractmethods__):
        raise LimnerError(f"{cls.__name__} has no {missing[0]}; write def {missing[0]}(self, ...)")
    for attribute, example in _SAID.items():
        value: object = getattr(cls, attribute, None)
        several = example.startswith("(")
        if not isinstance(value, tuple if several else str) or (attribute == "reads" and not value):
            raise LimnerError(
                f"{attribute} of {cls.__name__} is missing or of another type; write "
                f"{attribute} = {example}"
            )
    chosen = {"reads": Reads, "redrawn": Redrawn, "better": Literal["lower", "higher"]}
    for attribute, kind in chosen.items():
        value = getattr(cls, attribute)
        for each in value if isinstance(value, tuple) else (value,):
            if each not in get_args(kind):
                where = f"in {attribute} of {cls.__name__}"
                raise unknown("word", str(each), get_args(kind), where)


def metrics() -> dict[str, type[Metric]]:
    """All registered metrics by name: by what they read, then by the year of their papers."""
    import_modules("evaluate.metrics")
    order = get_args(Reads)
    by = {n: (order.index(m.reads[0]), m.paper.year, n) for n, m in _metrics.items()}
    return {name: _metrics[name] for name in sorted(_metrics, key=by.__getitem__)}


def applicable(
    setting: Setting, names: Iterable[str] | None
) -> tuple[dict[Metric, list[tuple[PictureSet, Observer]]], dict[str, str]]:
    """The metrics that have a value in a setting with what they need, and why others have none.

    Args:
        setting: what is judged, and by what.
        names: which; None for all.

    Raises:
        LimnerError: a metric that there is not.
    """
    chosen: dict[Metric, list[tuple[PictureSet, Observer]]] = {}
    left_out: dict[str, str] = {}
    known = metrics()
    asked = list(dict.fromkeys(known if names is None else names))
    for name in asked:
        check_name(name)
    for name in asked:
        one = known[name](setting, named=names is not None)
        try:
            chosen[one] = one.needs()
        except NotApplicable as reason:
            left_out[name] = str(reason)
    return chosen, left_out


def numbers_of(metric: Metric, seen: Seen) -> list[Number]:
    """What a metric found.

    Raises:
        LimnerError: it returns something else than a list of numbers.
    """
    found: object = metric.numbers(seen)
    if not isinstance(found, list):
        raise LimnerError(
            f"numbers of {type(metric).__name__} returns {type(found).__name__}; return a list, "
            "each as self.number(...)"
        )
    return cast("list[Number]", found)


def check_name(name: str) -> None:
    """Refuse the name of a metric that there is not.

    Raises:
        LimnerError: with the nearest one.
    """
    if name not in metrics():
        raise unknown("metric", name, metrics(), "limner metrics lists all")
