"""The promises of every metric, as checks that run on any metric.

    from limner.testing.metric_checks import check_metric
    check_metric("my-metric")

The pictures are of a known law: one of 60 templates, each a class with a caption, plus normal
noise. A linear extractor finds features, classes and captions in them. Metrics of the layouts of
scenes, or of conditioning pictures, need data that such pictures do not have; they have their own
tests.
"""

import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from limner.contract.image import Batch, Condition, ImageSpec
from limner.contract.likelihood import Likelihood, LikelihoodModel
from limner.contract.model import Turn
from limner.contract.noise import Noise
from limner.contract.text import Tokenizer, text_spec
from limner.data.dataset import Dataset
from limner.evaluate.extractors.extractor import Features
from limner.evaluate.metric import (
    Metric,
    NotApplicable,
    Redrawn,
    Setting,
    metrics,
    needs_of,
    numbers_of,
)
from limner.evaluate.passes import Observations, Observer
from limner.evaluate.picture_sets import PictureSet, Pixels, RealPictures
from limner.evaluate.report import SUBJECT, Number
from limner.evaluate.subject import Candidate, Reference
from limner.runtime import processes
from limner.testing.kept_promises import kept_promises

PICTURES = 100
"""Number of pictures in each set."""
REPEATS = 200
"""Number of repeats of the law; in 90 to 98 % of them the interval must hold the truth."""
_MEAN_LEVEL = 128  # the mean level of the pictures
_MIN_VALUES = 10  # a number with fewer different values is too coarse for an interval of 95 %
_COLOURS = ("red", "green", "blue", "yellow", "pink", "white", "black", "brown", "orange", "purple")
_THINGS = ("cat", "dog", "house", "tree", "car", "ship")
_NAMES = tuple(f"{colour} {thing}" for thing in _THINGS for colour in _COLOURS)
_SIDE, _FEATURES = 8, 4
_GENERATOR = torch.Generator().manual_seed(0)
_TEMPLATES = torch.randn(len(_NAMES), _SIDE**2, generator=_GENERATOR) * 12
_PROJECTION = torch.randn(_SIDE**2, _FEATURES, generator=_GENERATOR) / 250
_FAULT = torch.randn(_SIDE**2, generator=_GENERATOR)
_NOISE = 30.0  # levels; with sixty classes, about three in four pictures are classified correctly


class Law(Dataset):
    """Pictures of the known law.

    Args:
        n: the number of pictures.
        seed: the seed of their classes and noise.
        training: whether models learn from them.
        fault: their shift away from the law, in levels.
    """

    source = "law"

    def __init__(self, n: int, seed: int, training: bool = False, fault: float = 0.0) -> None:
        self.spec = ImageSpec(1, _SIDE, _SIDE, labels=_NAMES, text=text_spec())
        self.training = training
        self.digest = f"law {n} {seed} {training} {fault}"
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(len(_NAMES), (n,), generator=generator)
        x = _TEMPLATES[self.labels] + _NOISE * torch.randn(n, _SIDE**2, generator=generator)
        self._pixels = (
            (x + _MEAN_LEVEL + fault * _FAULT)
            .round()
            .clamp(0, 255)
            .to(torch.uint8)
            .view(n, 1, _SIDE, _SIDE)
        )

    def __len__(self) -> int:
        return len(self._pixels)

    def pixels(self, indices: Tensor) -> Pixels:
        """Return the pictures with these numbers."""
        return self._pixels[indices]

    def captions(self, indices: Tensor, noise: Noise) -> list[str]:
        """Return the names of their classes."""
        assert self.labels is not None
        return [_NAMES[label] for label in self.labels[indices].tolist()]


class LinearExtractor:
    """An extractor for such pictures: a projection, and the distances from the templates."""

    name, fingerprint = "linear", "linear-1"
    dim, classes = _FEATURES, _NAMES

    def __init__(self) -> None:
        self.text = text_spec()
        self.tokens = Tokenizer(self.text).encode(list(_NAMES))

    def __call__(self, images: Pixels) -> Features:
        """Return projections of the pixels, and log-likelihoods of the classes."""
        x = images.flatten(1).float() - _MEAN_LEVEL
        return Features(x @ _PROJECTION, -torch.cdist(x, _TEMPLATES).square() / (2 * _NOISE**2))

    def similarity(self, images: Pixels, text: Tensor) -> Tensor:
        """Return the similarity with the template of the class that a caption names."""
        index = (text[:, None] == self.tokens).all(2).int().argmax(1)
        x = images.flatten(1).float() - _MEAN_LEVEL
        return torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(_TEMPLATES[index]).T


class NormalModel(LikelihoodModel):
    """A model with a normal law of pixels; its own pictures are not used by any metric."""

    name = "normal"

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self.spec = replace(spec, labels=(), text=None)
        self.register_buffer("unused", torch.zeros(1))

    def log_prob(self, x: Tensor, c: Condition = Condition(), *, noise: Noise) -> Likelihood:
        """Return log p(x), up to a constant."""
        return Likelihood(-x.flatten(1).square().sum(1) / 2, "exact")

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield nothing: it does not learn."""
        yield from ()

    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Tensor]:
        """Yield grey pictures."""
        yield torch.zeros(n, *self.spec.shape)


class ObservationsAtOnce(Observations):
    """The outputs of observers for complete sets of pictures, without a cache.

    Args:
        needs: the sets of pictures, each with the observer that must see it.
    """

    def __init__(self, needs: Iterable[tuple[PictureSet, Observer]]) -> None:
        self.records: dict[tuple[str, int, str], dict[str, Tensor]] = {}
        for pictures, observer in needs:
            key = (pictures.fingerprint, len(pictures), observer.fingerprint)
            if key not in self.records:
                numbers = torch.arange(len(pictures))
                block = observer.look(pictures, numbers, pictures.pictures(numbers))
                self.records[key] = observer.together([block])

    def of(self, pictures: PictureSet, observer: Observer) -> dict[str, Tensor]:
        """Return an observer's output for a set of pictures."""
        return self.records[pictures.fingerprint, len(pictures), observer.fingerprint]

    def pixels(self, pictures: PictureSet, numbers: Iterable[int]) -> Pixels:
        """Return some pictures of a set."""
        return pictures.pictures(torch.tensor(list(numbers)))


def setting_of_law(metric: type[Metric], seeds: dict[Redrawn, int], fault: float = 0.0) -> Setting:
    """Return a setting in which pictures of the law are compared with others that no model learns
    from.

    Args:
        metric: the metric.
        seeds: the seeds of the subject, the reference (the held-out pictures) and the training
            pictures.
        fault: the fault of the subject; 0 for a perfect one.
    """
    subject = RealPictures(Law(PICTURES, 3 * seeds["subject"], fault=fault), name="subject")
    held_out = RealPictures(Law(PICTURES, 3 * seeds["reference"] + 1), name="reference")
    training = RealPictures(Law(2 * PICTURES, 3 * seeds["training"] + 2, True), name="training")
    model = NormalModel(subject.spec) if "likelihood" in metric.reads else None
    return Setting(
        Candidate("law", subject.fingerprint, model),
        Reference(held_out, training, held_out),
        subject,
        0,
        torch.device("cpu"),
        LinearExtractor(),
        has_logits=True,
    )


_SEEDS: dict[Redrawn, int] = {"subject": 0, "reference": 0, "training": 0}


def check_perfect(metric: type[Metric]) -> None:
    """1. A perfect model has the number of its floor or of real pictures: the intervals overlap."""
    first, *others = _compute_numbers(metric(setting_of_law(metric, _SEEDS)))
    low, high = _interval(first)
    for other in others:
        if other.name != first.name or not other.row.startswith(("floor", "real")):
            continue
        other_low, other_high = _interval(other)
        is_comparable = low < high or other_low < other_high  # a count has no interval
        message = f"{first.text()} and {other.row} {other.text()}"
        assert not is_comparable or (low <= other_high and other_low <= high), message


def check_order(metric: type[Metric]) -> None:
    """2. The order of pictures changes no number by more than its error."""
    setting = setting_of_law(metric, _SEEDS)
    order = torch.randperm(PICTURES, generator=torch.Generator().manual_seed(1))
    other = RealPictures(Law(PICTURES, 0), name="subject")
    other._order = other._order[order]
    other.fingerprint += " in another order"
    for a, b in zip(
        _compute_numbers(metric(setting)), _compute_numbers(metric(replace(setting, subject=other)))
    ):
        low, high = _interval(a)
        depends_on_order = a.parts or "captions" in metric.reads  # these depend on the order
        error = high - low if depends_on_order else 0.0
        message = f"{a.name} ({a.row}) is {a.value}, and in another order {b.value}"
        if a.sign != "~":  # the random numbers of an estimate depend on the order
            assert abs(a.value - b.value) <= error + 1e-6 * max(1.0, abs(a.value)), message


def check_shards(metric: type[Metric]) -> None:
    """3. Two processes with half of the pictures each get the numbers of one process."""
    instance = metric(setting_of_law(metric, _SEEDS))
    needs = needs_of(instance)
    expected = numbers_of(instance, ObservationsAtOnce(needs))
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, LIMNER_CACHE=folder):
        outputs = Observations(needs)
        for rank in range(2):
            with (
                mock.patch.object(processes, "rank", lambda rank=rank: rank),
                mock.patch.object(processes, "size", lambda: 2),
            ):
                outputs.do_share(lambda _: None)
        if not needs:
            return
        for a, b in zip(expected, instance.numbers(outputs), strict=True):
            message = f"{a.name} ({a.row}) is {a.value}, and with two processes {b.value}"
            assert abs(a.value - b.value) <= 1e-6 * max(1.0, abs(a.value)), message


def check_few(metric: type[Metric]) -> None:
    """4. Too few pictures are refused, with the number that the metric needs."""
    if (n := metric.min_pictures) == 1:
        return
    setting = replace(setting_of_law(metric, _SEEDS), subject=RealPictures(Law(n - 1, 0)))
    try:
        metric(setting).needs()
    except NotApplicable as error:
        assert str(n) in str(error), f"it does not say {n}: {error}"
        return
    raise AssertionError(f"{n - 1} pictures are accepted, but {n} are needed")


def check_interval(metric: type[Metric], repeats: int = REPEATS) -> None:
    """5. Intervals of 95 % hold the mean of faulty pictures in 90 to 98 % of repeats."""
    if not metric.redrawn:
        return
    samples: dict[str, list[tuple[float, float, float]]] = {}
    redrawn = {"reference" if kind == "held-out" else kind for kind in metric.redrawn}
    for i in range(1, repeats + 1):
        setting = setting_of_law(metric, {k: i if k in redrawn else 0 for k in _SEEDS}, fault=15.0)
        if "training pictures" not in metric.reads:
            reference = replace(setting.against, training=None)  # so that only the subject is used
            setting = replace(setting, against=reference)
        for x in _compute_numbers(metric(setting)):
            low, high = _interval(x)
            if x.row == SUBJECT and low < high:
                samples.setdefault(x.name, []).append((x.value, low, high))
    assert samples, "no number has an interval, but `redrawn` says that one has"
    for name, rows in samples.items():
        table = torch.tensor(rows, dtype=torch.float64)
        truth = table[:, 0].mean()
        if len(table[:, 0].unique()) < _MIN_VALUES:
            continue
        share = float(((table[:, 1] <= truth) & (truth <= table[:, 2])).double().mean())
        low, high = (p + z * math.sqrt(p * (1 - p) / len(rows)) for p, z in ((0.9, -2), (0.98, 2)))
        assert low <= share <= high, f"{name}: {share:.1%} of {len(rows)} hold {truth:.4g}"


CHECKS: tuple[Callable[[type[Metric]], None], ...] = (
    check_perfect,
    check_order,
    check_shards,
    check_few,
    check_interval,
)


def check_metric(name: str) -> list[str]:
    """Run all checks on a registered metric, and return a line for each, see `kept_promises`."""
    metric = metrics()[name]
    return kept_promises(name, metric, CHECKS if is_checkable(metric) else ())


def is_checkable(metric: type[Metric]) -> bool:
    """Return whether pictures of the known law have the data that a metric reads."""
    return not {"layouts", "conditioning pictures", "hints"} & {*metric.reads}


def _compute_numbers(metric: Metric) -> list[Number]:
    return numbers_of(metric, ObservationsAtOnce(needs_of(metric)))


def _interval(number: Number) -> tuple[float, float]:
    """Return the interval of 95 %; for a standard error, 1.96 of them on each side."""
    if number.low is not None and number.high is not None:
        return number.low, number.high
    error: Any = 0.0 if number.error is None else 1.96 * number.error
    return number.value - error, number.value + error
