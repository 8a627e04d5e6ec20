"""What is known before anything is painted: both sides opened, an extractor chosen, and each metric
asked whether it applies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from limner.contract.checkpoint import usual_options
from limner.contract.errors import LimnerError
from limner.contract.model import GenerativeModel
from limner.data import Dataset
from limner.evaluate.extractors.choose import extractor as open_extractor
from limner.evaluate.extractors.extractor import Extractor, check_extractor, extract
from limner.evaluate.metric import Metric, Setting, applicable
from limner.evaluate.metrics.likelihood import likelihood_options
from limner.evaluate.own_code import code_of
from limner.evaluate.passes import DigestObserver, Observer, Seen
from limner.evaluate.picture_sets import PaintedPictures, PictureSet, RealPictures
from limner.evaluate.subject import (
    Candidate,
    Reference,
    check_alike,
    check_varied,
    open_reference,
    open_subject,
)

PICTURES = 1000
"""At most so many does a model paint, unless said otherwise."""
SAMPLES = 64
"""Of the sheet."""


class Prepared(NamedTuple):
    """All that is known before anything is painted.

    Args:
        setting: what is judged, and by what.
        metrics: the metrics that are computed, with what they need.
        left_out: why others are not.
        shown: the pictures of the sheet.
        digests: what sees which of them are the same.
        seen: what has to be seen.
    """

    setting: Setting
    metrics: dict[Metric, list[tuple[PictureSet, Observer]]]
    left_out: dict[str, str]
    shown: PictureSet
    digests: DigestObserver
    seen: Seen


def prepare(
    place: torch.device,
    subject: str | Path | GenerativeModel | Dataset,
    against: str | Dataset | Reference | None,
    *,
    metrics: Sequence[str] | None,
    n: int | None,
    seed: int,
    extractor: str | Extractor | None,
    weights: Path | str | None,
    sampler: Mapping[str, Any],
    likelihood: Mapping[str, Any],
    data: Mapping[str, Any],
    training: Dataset | None,
) -> Prepared:
    """Open both, choose an extractor, and ask each metric whether it applies; see `evaluate`.

    Raises:
        LimnerError: a wrong argument; a metric that was named and does not apply; pictures that
            cannot be compared.
    """
    opened = open_subject(subject, data, place)
    reference = open_reference(against, data, opened, training)
    setting = setting_of(opened, reference, n, seed, sampler, place)
    options = likelihood_options(opened.model, likelihood, opened.name)
    setting = replace(setting, likelihood=options)
    setting = with_extractor(setting, extractor, weights)
    chosen, left_out = _choose_metrics(setting, metrics)
    shown, digests = setting.subject, DigestObserver()
    if all("likelihood" in metric.reads for metric in chosen):  # so that none has to be painted
        shown = shown.first(SAMPLES)
    seen = Seen([(shown, digests), *(need for needs in chosen.values() for need in needs)])
    return Prepared(setting, chosen, left_out, shown, digests, seen)


def setting_of(
    opened: Candidate,
    reference: Reference,
    n: int | None,
    seed: int,
    sampler: Mapping[str, Any],
    place: torch.device,
) -> Setting:
    """What is judged, without an extractor.

    Raises:
        LimnerError: pictures that cannot be compared; an impossible number of them; options of a
            sampler that there is not.
    """
    if n is not None and n < 1:
        raise LimnerError(f"the number of pictures must be at least 1, not {n}")
    check_varied(reference.real)
    if opened.model:
        n = n or min(PICTURES, len(reference.real))
        check_alike(opened.name, opened.model.spec, reference.real, paints=True)
        usual = usual_options(opened.model, opened.recipe, opened.name)
        subject = PaintedPictures(
            opened.model,
            reference.real,
            n,
            seed=seed,
            options=opened.model.sampler_options(usual | dict(sampler)),
            name=opened.name,
            fingerprint=opened.fingerprint + code_of(type(opened.model)),
        )
    else:
        assert opened.pictures is not None
        if sampler:
            raise LimnerError(
                f"{opened.name} are pictures, which no sampler paints; leave sampler."
                f"{next(iter(sampler))} out"
            )
        if n and n > len(opened.pictures):
            raise LimnerError(f"{opened.name} has {len(opened.pictures)} pictures, not {n}")
        check_alike(opened.name, opened.pictures.spec, reference.real, paints=False)
        subject = RealPictures(opened.pictures, n, opened.name)
    return Setting(opened, reference, subject, seed, place)


def with_extractor(
    setting: Setting, asked: str | Extractor | None, weights: Path | str | None
) -> Setting:
    """The setting with an extractor that has seen a picture; or why there is none.

    Raises:
        LimnerError: the one that was named cannot be had, or cannot see such pictures.
    """
    try:
        if asked is None or isinstance(asked, str):
            real = setting.reference
            source = real.dataset.source
            found = open_extractor(asked, real.spec, setting.device, weights, source=source)
        else:
            check_extractor(asked)
            found = asked
        seen = extract(found, setting.reference.pictures(torch.arange(1)))
    except LimnerError as error:
        if asked:
            raise
        return replace(setting, no_extractor=str(error))
    return replace(setting, extractor=found, has_logits=seen.logits is not None)


def _choose_metrics(
    setting: Setting, names: Sequence[str] | None
) -> tuple[dict[Metric, list[tuple[PictureSet, Observer]]], dict[str, str]]:
    """The metrics that are computed with what they need, and why others are not.

    Raises:
        LimnerError: one that was named does not apply, or none applies.
    """
    chosen, left_out = applicable(setting, names)
    for name, why in left_out.items():
        if names is not None:
            raise LimnerError(f"metric '{name}' does not apply here: {why}")
    if not chosen:
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise LimnerError(f"no metric applies ({reasons or 'none was named'})")
    return chosen, left_out
