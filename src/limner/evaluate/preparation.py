"""Prepare an evaluation: open both sides, choose an extractor and the metrics that apply."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from limner.contract.checkpoint import usual_options
from limner.contract.errors import LimnerError
from limner.contract.model import GenerativeModel
from limner.data import Dataset
from limner.evaluate.extractors.choose import open_extractor
from limner.evaluate.extractors.extractor import Extractor, check_attributes, extract
from limner.evaluate.metric import Metric, Setting, applicable
from limner.evaluate.metrics.likelihood import likelihood_options
from limner.evaluate.passes import DigestObserver, Observations, Observer
from limner.evaluate.picture_sets import PaintedPictures, PictureSet, RealPictures
from limner.evaluate.source_code import code_of
from limner.evaluate.subject import (
    Candidate,
    Reference,
    check_alike,
    check_varied,
    open_reference,
    open_subject,
)

DEFAULT_PICTURES = 1000
"""The largest number of pictures that a model paints by default."""
SHEET_PICTURES = 64
"""The number of pictures on the sheet of samples."""


@dataclass(frozen=True)
class EvaluationOptions:
    """What to compare, and how: arguments of `evaluate`.

    Args:
        metrics: the names of metrics; None for all that apply.
        n: the number of pictures of the subject; None for as many as there are, or as the reference
            has.
        seed: the first seed.
        extractor: an extractor, or its name; None for the one that fits the data.
        weights: other weights for the extractor.
        sampler, likelihood: options of the model's sampler and likelihood.
        data: options of the source.
        training: the pictures that models learn from, if the reference is a data set.
    """

    metrics: Sequence[str] | None = None
    n: int | None = None
    seed: int = 0
    extractor: str | Extractor | None = None
    weights: Path | str | None = None
    sampler: Mapping[str, Any] = field(default_factory=dict[str, Any])
    likelihood: Mapping[str, Any] = field(default_factory=dict[str, Any])
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])
    training: Dataset | None = None


class Preparation(NamedTuple):
    """A prepared evaluation; nothing is painted yet.

    Args:
        setting: the subject, the reference and the extractor.
        metrics: the metrics that are computed, with what they need.
        left_out: the other metrics, with the reason.
        sheet_pictures: the pictures of the sheet.
        digests: the observer that finds equal pictures among them.
        observations: the pictures that have to be observed.
    """

    setting: Setting
    metrics: dict[Metric, list[tuple[PictureSet, Observer]]]
    left_out: dict[str, str]
    sheet_pictures: PictureSet
    digests: DigestObserver
    observations: Observations


def prepare(
    place: torch.device,
    subject: str | Path | GenerativeModel | Dataset,
    against: str | Dataset | Reference | None,
    options: EvaluationOptions,
) -> Preparation:
    """Open both, choose an extractor, and ask each metric whether it applies; see `evaluate`.

    Raises:
        LimnerError: a wrong argument, or one without effect; a metric that was named and does not
            apply; pictures that cannot be compared.
    """
    candidate = open_subject(subject, options.data, place)
    reference = open_reference(against, options.data, candidate, options.training)
    setting = setting_of(candidate, reference, options, place)
    likelihood = likelihood_options(candidate.model, options.likelihood, candidate.name)
    setting = replace(setting, likelihood=likelihood)
    setting = with_extractor(setting, options.extractor, options.weights)
    needs, left_out = _choose_metrics(setting, options.metrics)
    if options.likelihood and not any("likelihood" in metric.reads for metric in needs):
        raise LimnerError(
            f"likelihood.{next(iter(options.likelihood))} has no effect without the metric "
            "likelihood; name it with --metrics, or leave the option out"
        )
    is_used = any(metric.extractor for metric in needs)
    if options.metrics and isinstance(options.extractor, str) and not is_used:
        raise LimnerError(
            f"an extractor has no effect on {' and '.join(options.metrics)}; leave it out, or name "
            "other metrics (limner metrics)"
        )
    pictures, digests = setting.subject, DigestObserver()
    if all("likelihood" in metric.reads for metric in needs):  # then only the sheet is painted
        pictures = pictures.first(SHEET_PICTURES)
    observations = Observations(
        [(pictures, digests), *(pair for pairs in needs.values() for pair in pairs)]
    )
    return Preparation(setting, needs, left_out, pictures, digests, observations)


def setting_of(
    opened: Candidate,
    reference: Reference,
    options: EvaluationOptions,
    place: torch.device,
) -> Setting:
    """Return the setting without an extractor.

    Raises:
        LimnerError: pictures that cannot be compared; an impossible number of them; unknown sampler
            options.
    """
    n, sampler = options.n, options.sampler
    if n is not None and n < 1:
        raise LimnerError(f"the number of pictures must be at least 1, not {n}")
    check_varied(reference.real)
    if opened.model:
        n = n or min(DEFAULT_PICTURES, len(reference.real))
        check_alike(opened.name, opened.model.spec, reference.real, paints=True)
        defaults = usual_options(opened.model, opened.recipe, opened.name)
        subject = PaintedPictures(
            opened.model,
            reference.real,
            n,
            seed=options.seed,
            options=opened.model.sampler_options(defaults | dict(sampler)),
            name=opened.name,
            fingerprint=opened.fingerprint + code_of(type(opened.model)),
        )
    else:
        assert opened.pictures is not None
        if sampler:
            raise LimnerError(
                f"{opened.name} are pictures and have no sampler; leave sampler."
                f"{next(iter(sampler))} out"
            )
        if n and n > len(opened.pictures):
            raise LimnerError(f"{opened.name} has {len(opened.pictures)} pictures, not {n}")
        check_alike(opened.name, opened.pictures.spec, reference.real, paints=False)
        subject = RealPictures(opened.pictures, n, opened.name)
    return Setting(opened, reference, subject, options.seed, place)


def with_extractor(
    setting: Setting, choice: str | Extractor | None, weights: Path | str | None
) -> Setting:
    """Return the setting with an extractor, tried on a picture; or with the reason for none.

    Raises:
        LimnerError: the named extractor, or one with the given weights, is not available, or does
            not accept such pictures.
    """
    try:
        if choice is None or isinstance(choice, str):
            real = setting.reference
            source = real.dataset.source
            extractor = open_extractor(choice, real.spec, setting.device, weights, source=source)
        else:
            check_attributes(choice)
            extractor = choice
        features = extract(extractor, setting.reference.pictures(torch.arange(1)))
    except LimnerError as error:
        if choice or weights:
            raise
        return replace(setting, no_extractor=str(error))
    return replace(setting, extractor=extractor, has_logits=features.logits is not None)


def _choose_metrics(
    setting: Setting, names: Sequence[str] | None
) -> tuple[dict[Metric, list[tuple[PictureSet, Observer]]], dict[str, str]]:
    """Return the metrics that are computed with what they need, and why others are not.

    Raises:
        LimnerError: a named metric does not apply, or none applies.
    """
    metrics, left_out = applicable(setting, names)
    for name, reason in left_out.items():
        if names is not None:
            raise LimnerError(f"metric '{name}' does not apply here: {reason}")
    if not metrics:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise LimnerError(f"no metric applies ({reasons or 'none was named'})")
    return metrics, left_out
