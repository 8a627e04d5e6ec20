"""The interface of a metric: whether it applies, what it observes, and the numbers it returns.

Each file in `evaluate/metrics/` is one metric: its mathematics, and a class decorated with
`@metric`. A registered metric is listed by `limner metrics`, documented, and tested by the contract
suite.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, cast, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from limner.contract.errors import LimnerError, unknown
from limner.contract.model import GenerativeModel
from limner.contract.names import is_again, registry_table
from limner.contract.options import validate_options
from limner.contract.registry import (
    Paper,
    check_registration,
    import_modules,
    import_packages,
)
from limner.evaluate.extractors.extractor import Extractor
from limner.evaluate.metrics.statistics import (
    IntervalEstimate,
    count_groups,
    mean_interval,
    share_interval,
)
from limner.evaluate.passes import FeatureObserver, Observations, Observer
from limner.evaluate.picture_sets import PaintedPictures, PictureSet, Pixels, RealPictures
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
"""What a metric reads from the pictures or from the model that paints them."""
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
"""What provides each input, as `limner metrics` lists it."""
Redrawn = Literal["subject", "reference", "training", "held-out"]
"""The pictures whose random choice an interval accounts for."""
_M = TypeVar("_M", bound="type[Metric]")


class NotApplicable(LimnerError):  # noqa: N818 (a metric that is left out is not an error)
    """Raised where a metric has no value; the message says why."""


@dataclass(frozen=True)
class Setting:
    """The inputs of an evaluation, known before anything is painted.

    Args:
        candidate: the model or the pictures, as opened.
        against: the real pictures, as opened.
        subject: the pictures that are judged: painted by the model, or existing ones.
        seed: the seed of the first picture, and of all other random choices.
        device: the device on which models and extractors compute.
        extractor: the feature extractor; None if none fits.
        no_extractor: the reason why no extractor fits.
        has_logits: whether the extractor also returns class scores.
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
        """The model that paints; None for existing pictures."""
        return self.candidate.model

    @property
    def reference(self) -> RealPictures:
        """All real pictures of the reference."""
        return self.against.real

    @property
    def training(self) -> RealPictures | None:
        """The pictures that models learn from; None if they are unknown."""
        return self.against.training

    @property
    def held_out(self) -> RealPictures | None:
        """The pictures that models never see; None if there are none."""
        return self.against.held_out

    @property
    def real_baseline(self) -> RealPictures | None:
        """Real pictures outside the reference, as many as the subject has: their score is what a
        perfect model would get.
        """
        is_training = self.training is not None and self.training.dataset is self.reference.dataset
        baseline = self.held_out if is_training else self.training
        return baseline and baseline.first(len(self.subject))


class Metric(ABC):
    """Base class of metrics: one metric of `--metrics`, in one setting.

    Args:
        setting: the subject, the reference and the extractor.
        named: whether the user requested the metric by name.

    Attributes:
        name: the name that users type.
        paper: the paper that defines the metric.
        summary: what the metric measures, in one line.
        reads: the inputs of the metric; lists of metrics are sorted by the first one.
        better: whether "lower" or "higher" values of its first number are better.
        min_pictures: the smallest number of pictures for which the metric has a value.
        redrawn: the pictures whose random choice its intervals account for; () for no intervals.
    """

    name: ClassVar[str]
    paper: ClassVar[Paper]
    summary: ClassVar[str]
    reads: ClassVar[tuple[Reads, ...]]
    better: ClassVar[Literal["lower", "higher"]]
    min_pictures: ClassVar[int] = 1
    redrawn: ClassVar[tuple[Redrawn, ...]] = ()

    def __init__(self, setting: Setting, named: bool = True) -> None:
        self.setting, self.is_named = setting, named

    @property
    def extractor(self) -> Extractor | None:
        """The extractor whose name is reported with the numbers; None if the metric needs none."""
        return None

    @abstractmethod
    def needs(self) -> list[tuple[PictureSet, Observer]]:
        """Return pairs of a set of pictures and the observer that has to see it.

        Raises:
            NotApplicable: the metric has no value in this setting.
        """

    @abstractmethod
    def numbers(self, observations: Observations) -> list[Number]:
        """Compute the numbers from what was observed, the subject's first."""

    def sheets(self, observations: Observations) -> dict[str, Pixels]:
        """Return pictures that illustrate the numbers, by the name of their sheet."""
        return {}

    def check_number(self, pictures: PictureSet) -> None:
        """Check that a set has as many pictures as the metric needs.

        Raises:
            NotApplicable: there are too few pictures.
        """
        n, needed = len(pictures), self.min_pictures
        if n < needed:
            advice = f"; give -n {needed}" if isinstance(pictures, PaintedPictures) else ""
            few = f"{pictures.name} has {n}{advice}"
            raise NotApplicable(f"it needs at least {needed} pictures, and {few}")

    def skip_unless_named(self, reason: str) -> None:
        """Skip the metric, for the given reason, unless the user requested it by name.

        Raises:
            NotApplicable: the metric was not named; the message is the reason.
        """
        if not self.is_named:
            raise NotApplicable(reason)

    def number(self, name: str, value: float | IntervalEstimate, n: int, **more: Any) -> Number:
        """Return a number of this metric, with its extractor and an estimate's interval."""
        if isinstance(value, IntervalEstimate):
            more |= {"low": value.low, "high": value.high}
            value = value.value
        extractor = self.extractor.name if self.extractor else ""
        return Number(self.name, name, value, n, extractor=extractor, **more)

    def mean(
        self,
        name: str,
        values: Float[Tensor, "n"],
        minimum: float = -math.inf,
        maximum: float = math.inf,
        groups: Int64[Tensor, "n"] | None = None,
        **more: Any,
    ) -> Number:
        """Return the mean of one value per picture, with its interval.

        The mean of one picture, or of variants of one thing, has no interval.

        Args:
            name: the name of the number.
            values: one value for each of n pictures.
            minimum, maximum: limits of the mean, to which the interval is clipped.
            groups: the same number for all variants of one thing.
            more: further fields of the number.
        """
        mean, n = float(values.double().mean()), len(values)
        has_interval = count_groups(n, groups) > 1
        value = mean_interval(values, minimum, maximum, groups) if has_interval else mean
        return self.number(name, value, n, **more)

    def share(
        self,
        name: str,
        right: Bool[Tensor, "n"],
        groups: Int64[Tensor, "n"] | None = None,
        **more: Any,
    ) -> Number:
        """Return the share of pictures for which `right` is true, with its interval."""
        return self.number(name, share_interval(right, groups), len(right), **more)


class FeatureMetric(Metric):
    """Base class of metrics that compare features of the subject and of real pictures."""

    min_pictures = 2

    @property
    def extractor(self) -> Extractor:
        """The extractor of the setting."""
        assert self.setting.extractor is not None, "needs() says why there is none"
        return self.setting.extractor

    @cached_property
    def observer(self) -> FeatureObserver:
        """The observer that extracts the features."""
        return FeatureObserver(self.extractor)

    @cached_property
    def sets(self) -> dict[str, PictureSet]:
        """The subject, and other real pictures if there are enough of them, by the row's name."""
        other = self.setting.real_baseline
        real = {f"real ({other.name})": other} if other and len(other) >= self.min_pictures else {}
        return {SUBJECT: self.setting.subject} | real

    def needs(self) -> list[tuple[PictureSet, Observer]]:
        """Request the features of all sets and of the reference.

        Raises:
            NotApplicable: no extractor fits, it has no class scores where the metric needs them, or
                there are too few pictures.
        """
        s = self.setting
        if s.extractor is None:
            raise NotApplicable(s.no_extractor)
        for pictures in (s.subject, s.reference):
            self.check_number(pictures)
        if "class scores" in self.reads and not s.has_logits:
            raise NotApplicable(f"{s.extractor.name} knows no classes")
        return [(p, self.observer) for p in (*self.sets.values(), s.reference)]

    def label(self, inception: str, otherwise: str) -> str:
        """Return a number's name: `inception`, such as FID, for Inception's features only."""
        return inception if self.extractor.name.startswith("inception") else otherwise


_metrics: dict[str, type[Metric]] = registry_table({})


def metric(name: str, *, paper: Paper) -> Callable[[_M], _M]:
    """Register a metric under a name; the contract suite tests every registered metric.

    Args:
        name: the name in lower case, words joined by hyphens.
        paper: the paper that defines the metric.

    Raises:
        LimnerError: another metric has the name, or the class lacks a required attribute or method.
    """
    check_registration(name, "metric", paper)

    def register_class(cls: _M) -> _M:
        _check_class(cls)
        other = _metrics.get(name)
        if other and not is_again(cls, other):
            raise LimnerError(
                f"the metric name '{name}' is taken by {other.__qualname__} of "
                f"{other.__module__}; choose another"
            )
        cls.name, cls.paper = name, paper
        _metrics[name] = cls
        return cls

    return register_class


_REQUIRED_ATTRIBUTES = {
    "summary": '"what it measures, in one line"',
    "reads": '("features",)',
    "better": '"lower"',
    "redrawn": '("subject",)',
}


def _check_class(cls: type[Metric]) -> None:
    """Check that a class has the attributes and methods of a metric.

    Raises:
        LimnerError: an attribute or method is missing, or an attribute has an unknown value.
    """
    if missing := sorted(cls.__abstractmethods__):
        raise LimnerError(f"{cls.__name__} has no {missing[0]}; write def {missing[0]}(self, ...)")
    for attribute, example in _REQUIRED_ATTRIBUTES.items():
        value: object = getattr(cls, attribute, None)
        several = example.startswith("(")
        if not isinstance(value, tuple if several else str) or (attribute == "reads" and not value):
            raise LimnerError(
                f"{attribute} of {cls.__name__} is missing or of another type; write "
                f"{attribute} = {example}"
            )
    choices = {"reads": Reads, "redrawn": Redrawn, "better": Literal["lower", "higher"]}
    for attribute, kind in choices.items():
        value = getattr(cls, attribute)
        for word in value if isinstance(value, tuple) else (value,):
            if word not in get_args(kind):
                context = f"in {attribute} of {cls.__name__}"
                raise unknown("word", str(word), get_args(kind), context)


def metrics() -> dict[str, type[Metric]]:
    """Return all registered metrics by name, sorted by their input and the year of the paper."""
    import_modules("evaluate.metrics")
    import_packages()
    order = get_args(Reads)
    sort_keys = {n: (order.index(m.reads[0]), m.paper.year, n) for n, m in _metrics.items()}
    return {name: _metrics[name] for name in sorted(_metrics, key=sort_keys.__getitem__)}


def applicable(
    setting: Setting, names: Iterable[str] | None
) -> tuple[dict[Metric, list[tuple[PictureSet, Observer]]], dict[str, str]]:
    """Return the metrics that apply in a setting with what they need, and why the others do not.

    Args:
        setting: the subject, the reference and the extractor.
        names: names of metrics; None for all metrics.

    Raises:
        LimnerError: a name is not a metric's, or a metric returns needs of another type.
    """
    needs: dict[Metric, list[tuple[PictureSet, Observer]]] = {}
    left_out: dict[str, str] = {}
    classes = metrics()
    unique_names = list(dict.fromkeys(classes if names is None else names))
    for name in unique_names:
        check_name(name)
    for name in unique_names:
        instance = classes[name](setting, named=names is not None)
        try:
            needs[instance] = needs_of(instance)
        except NotApplicable as reason:
            left_out[name] = str(reason)
    return needs, left_out


def needs_of(metric: Metric) -> list[tuple[PictureSet, Observer]]:
    """Return what a metric needs.

    Raises:
        LimnerError: the metric returns something other than pairs of pictures and observers.
    """
    needs: object = metric.needs()
    for pair in cast("list[Any]", needs) if isinstance(needs, list) else [needs]:
        kinds = [type(part) for part in pair] if isinstance(pair, tuple) else []
        if len(kinds) != 2 or not all(map(issubclass, kinds, (PictureSet, Observer))):
            raise LimnerError(
                f"needs of {type(metric).__name__} does not return pairs of pictures and an "
                "observer; return a list such as [(self.setting.subject, observer)]"
            )
    return cast("list[tuple[PictureSet, Observer]]", needs)


def numbers_of(metric: Metric, observations: Observations) -> list[Number]:
    """Return a metric's numbers, converted to the types of their fields.

    Raises:
        LimnerError: the metric returns something other than a list of numbers, or a field has a
            wrong type.
    """
    name, numbers = type(metric).__name__, cast("object", metric.numbers(observations))
    parts = cast("list[object]", numbers) if isinstance(numbers, list) else []
    other = next((type(part).__name__ for part in parts if not isinstance(part, Number)), None)
    if other or not parts:
        kind = f"a list of {other}" if other else "[]" if numbers == [] else type(numbers).__name__
        raise LimnerError(
            f"numbers of {name} returns {kind}; return a list, each element as self.number(...)"
        )
    kind = f"numbers of {name}: the field"
    return [Number(**validate_options(Number, vars(number), kind=kind)) for number in parts]


def sheets_of(metric: Metric, observations: Observations) -> dict[str, Pixels]:
    """Return the pictures that illustrate a metric's numbers.

    Raises:
        LimnerError: the metric returns something other than named sheets of bytes.
    """
    sheets: object = metric.sheets(observations)
    parts = cast("dict[object, object]", sheets) if isinstance(sheets, dict) else {0: sheets}
    for name, sheet in parts.items():
        is_name = isinstance(name, str) and Path(name).name == name
        is_bytes = isinstance(sheet, Tensor) and sheet.dtype == torch.uint8 and sheet.dim() == 4
        if not is_name or not is_bytes:
            raise LimnerError(
                f"sheets of {type(metric).__name__} does not return sheets by file name; return a "
                "dictionary such as {'suspects': pixels}, with pixels of uint8 as b c h w"
            )
    return cast("dict[str, Pixels]", sheets)


def check_name(name: str) -> None:
    """Check that a metric with this name is registered.

    Raises:
        LimnerError: there is none; the message suggests the nearest name.
    """
    if name not in metrics():
        raise unknown("metric", name, metrics(), "limner metrics lists all")
