"""`limner compare`: judge several subjects by one reference, side by side.

1  open the reference, the same for all     the data that the models were trained on, or `against`
2  judge one subject after the other        an earlier report that matches is reused
3  take the first pictures of each, and find the training picture nearest to each
4  make a leaderboard                       one page, JSON, Markdown; a line for each failure
"""

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import limner
from limner.contract.bundled import bundled_folder
from limner.contract.checkpoint import model_file, read_header
from limner.contract.errors import LimnerError, unknown
from limner.contract.header import Header
from limner.contract.model import GenerativeModel
from limner.contract.package_errors import describe
from limner.contract.registry import foreign, models
from limner.evaluate.evaluation import evaluate
from limner.evaluate.leaderboard import ComparedSubject, Comparison, Pairs
from limner.evaluate.metric import Setting, applicable, check_name
from limner.evaluate.metrics.likelihood import likelihood_options
from limner.evaluate.metrics.memorisation import memorisation
from limner.evaluate.picture_sets import PaintedPictures, PictureSet, Pixels, RealPictures
from limner.evaluate.preparation import (
    DEFAULT_PICTURES,
    EvaluationOptions,
    setting_of,
    with_extractor,
)
from limner.evaluate.report import DataUsed, Report, append_report, read_reports
from limner.evaluate.subject import (
    Candidate,
    Reference,
    check_exists,
    open_reference,
    open_subject,
)
from limner.runtime import processes
from limner.runtime.cache import cache_folder, cache_key, keep_tensors, load_kept
from limner.runtime.log import read_log
from limner.runtime.progress import say

MAX_SHOWN = 32
"""The number of pictures of each subject on the page."""
MAX_PAIRED = 8
"""The number of these pictures that are shown with their nearest training picture."""


def compare(
    subjects: str | Path | Sequence[str | Path],
    against: str | None = None,
    *,
    metrics: str | Sequence[str] | None = None,
    n: int | None = None,
    seed: int = 0,
    extractor: str | None = None,
    weights: Path | str | None = None,
    sampler: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    device: str = "auto",
) -> Comparison:
    """Judge several subjects by one reference.

    An earlier report with the same model, pictures, options and version is reused.

    Args:
        subjects: one or several: bundled models, run or model folders, model files, folders or zip
            archives of pictures.
        against: a source; None for the source that the models were trained on.
        metrics: one or several names; each subject is judged with those that apply. None for all.
        seed, extractor, weights, device: as for `evaluate`.
        sampler: sampler options, which override those of the recipes; each applies to the models
            that have it.
        n: the number of pictures of each subject; None for as many as the reference has, at most
            1,000. A folder with fewer pictures is judged with all of them.
        data: options of the source; they override those of the first model that was trained on it.

    Raises:
        LimnerError: no subject, no reference, an option that no model has, or no subject that could
            be judged; the message gives the reason for each.
    """
    start, date = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    metrics = [metrics] if isinstance(metrics, str) else metrics
    subjects = [subjects] if isinstance(subjects, str | Path) else subjects
    names = list(dict.fromkeys(str(Path(subject)) if subject else "" for subject in subjects))
    if not names:
        raise LimnerError("there is nothing to compare; name runs, models or folders of pictures")
    headers = {name: header for name in names if (header := _header(name))}
    if not headers and (sampler or against is None):
        for name in names:
            check_exists(name)
    options = {option for header in headers.values() for option in _options(header.model)}
    for option in sampler or {}:
        if option not in options:
            raise unknown("sampler option", f"sampler.{option}", [f"sampler.{k}" for k in options])
    reference = _reference(headers, against, data or {})
    n = min(DEFAULT_PICTURES, len(reference.real)) if n is None else n
    for name in metrics or ():
        check_name(name)
    place = processes.device(device)
    judge = _Judge(reference, n, seed, metrics, sampler or {}, place, extractor, weights)
    results: list[ComparedSubject] = []
    for i, name in enumerate(names):
        say(f"{name} ({i + 1} of {len(names)})")
        try:
            results.append(judge(name))
        except (Exception, SystemExit) as error:  # keep the results of the other models
            results.append(ComparedSubject(name, error=describe(error)))
        if results[-1].error and i + 1 < len(names):  # that of the last one is shown next anyway
            say(f"{name} could not be judged: {results[-1].error}")
    if not any(result.report for result in results):
        reasons = "; ".join(f"{result.name}: {result.error}" for result in results)
        raise LimnerError(f"no subject could be judged ({reasons})")
    return Comparison(
        against=next(result.report.against for result in results if result.report),
        subjects=tuple(results),
        real=reference.real.pictures(torch.arange(min(MAX_SHOWN, len(reference.real)))),
        n=max(result.report.n for result in results if result.report),
        seed=seed,
        sampler=dict(sampler or {}),
        date=date,
        seconds=time.perf_counter() - start,
    )


class _Judge:
    """Judge that makes a report of one subject after the other.

    Args:
        reference: the reference of all subjects.
        n: the number of pictures of each subject.
        seed: the seed of the first picture.
        metrics: names of metrics; those that apply are computed. None for all.
        sampler: sampler options, which override those of the recipes of models that have them.
        device: the device to compute on.
        extractor, weights: as for `evaluate`; the same for all subjects.

    Raises:
        LimnerError: the named extractor is not available, or does not accept such pictures.
    """

    def __init__(
        self,
        reference: Reference,
        n: int,
        seed: int,
        metrics: Sequence[str] | None,
        sampler: Mapping[str, Any],
        device: torch.device,
        extractor: str | None,
        weights: Path | str | None,
    ) -> None:
        self.reference, self.n, self.seed, self.place = reference, n, seed, device
        self.metrics, self.sampler = metrics, dict(sampler)
        real = reference.real
        setting = Setting(Candidate(real.name, real.fingerprint), reference, real, seed, device)
        setting = with_extractor(setting, extractor, weights)
        self.extractor = setting.extractor
        self.extractor_fields = {
            k: getattr(setting, k) for k in ("extractor", "no_extractor", "has_logits")
        }

    def __call__(self, name: str) -> ComparedSubject:
        """Judge a subject, or reuse an earlier report.

        Raises:
            LimnerError: the subject cannot be judged.
        """
        candidate = open_subject(name, self.reference.options, self.place)
        n = self.n if candidate.pictures is None else min(self.n, len(candidate.pictures))
        known = _options(candidate.model.name) if candidate.model else ()
        sampler = {option: value for option, value in self.sampler.items() if option in known}
        options = EvaluationOptions(n=n, seed=self.seed, sampler=sampler)
        setting = setting_of(candidate, self.reference, options, self.place)
        likelihood = likelihood_options(candidate.model, {}, name)
        setting = replace(setting, likelihood=likelihood, **self.extractor_fields)
        metrics = self.applicable_names(setting)
        folder = candidate.run or cache_folder() / "reports" / candidate.fingerprint[:32]
        reports = (Report.from_json(row) for row in reversed(read_reports(folder)))
        earlier = next((r for r in reports if self.can_reuse(r, setting, metrics)), None)
        if earlier:
            say(f"{name} was judged before, at {earlier.date}")
            numbers = [x for x in earlier.numbers if metrics is None or x.metric in metrics]
            earlier = replace(earlier, numbers=tuple(numbers))
        report = earlier or evaluate(
            name,
            self.reference,
            metrics=metrics,
            n=n,
            seed=self.seed,
            extractor=self.extractor,
            sampler=sampler,
            data=self.reference.options,
            device=str(self.place),
        )
        if not earlier and not candidate.run and processes.first():
            folder.mkdir(parents=True, exist_ok=True)
            append_report(report, folder)
        seconds = _training_seconds(candidate.run or bundled_folder(name))
        samples, pairs = self.sheets(report, setting.subject) if processes.first() else (None, None)
        return ComparedSubject(name, report, "", seconds, earlier is not None, samples, pairs)

    def applicable_names(self, setting: Setting) -> list[str] | None:
        """Return the named metrics that apply to a subject; None if no metrics were named.

        Raises:
            LimnerError: none of them applies.
        """
        if self.metrics is None:
            return None
        metrics, left_out = applicable(setting, self.metrics)
        if not metrics:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
            raise LimnerError(f"none of the metrics applies ({reasons})")
        return [metric.name for metric in metrics]

    def can_reuse(self, report: Report, setting: Setting, metrics: list[str] | None) -> bool:
        """Return whether an earlier report has all that a new evaluation would compute."""
        reference, pictures = self.reference, setting.subject
        is_painted = isinstance(pictures, PaintedPictures)
        options, digests = (pictures.options, pictures.named_models) if is_painted else ({}, {})
        sampler = {name: v for name, v in options.items() if v is not None}
        names = {number.metric for number in report.numbers}
        if metrics is None:
            names |= report.left_out.keys()
        needs, _ = applicable(setting, metrics)
        fingerprints = {m.extractor.name: m.extractor.fingerprint for m in needs if m.extractor}
        return (
            report.subject.fingerprint == setting.candidate.fingerprint
            and report.subject.sampler == json.loads(json.dumps(sampler, default=str))
            and report.subject.named_models == digests
            and _is_same_data(report.against, reference.real)
            and _is_same_data(report.training, reference.training)
            and _is_same_data(report.held_out, reference.held_out)
            and report.likelihood == json.loads(json.dumps(dict(setting.likelihood)))
            and (report.n, report.seed) == (len(pictures), self.seed)
            and {metric.name for metric in needs} <= names
            and fingerprints.items() <= report.extractors.items()
            and report.device == self.place.type
            and report.versions.get("limner") == limner.__version__
        )

    def sheets(self, report: Report, pictures: PictureSet) -> tuple[Pixels, Pairs | None]:
        """Return the first pictures, and pairs of a picture and its nearest training picture."""
        n, training = min(MAX_SHOWN, len(pictures)), self.reference.training
        name = cache_key(pictures.fingerprint, n, MAX_PAIRED, training and training.fingerprint)
        path = cache_folder() / "sheets" / f"{name}.safetensors"
        sheets = load_kept(path)
        if sheets is None:
            samples = report.pictures.get("samples")
            samples = pictures.pictures(torch.arange(n)) if samples is None else samples[:n]
            sheets = {"samples": samples} | self.pair_with_nearest(samples[:MAX_PAIRED])
            with contextlib.suppress(LimnerError):
                keep_tensors(path, sheets)
        return sheets["samples"], sheets.get("pairs")

    def pair_with_nearest(self, samples: Pixels) -> dict[str, Pairs]:
        """Return `pairs`, each picture followed by its nearest training picture, or nothing."""
        training = self.reference.training
        if training is None or training.dataset.endless:
            return {}
        groups = training.groups(torch.arange(len(training)))
        try:
            nearest = memorisation(samples, self.training_pixels, groups).nearest
        except LimnerError:  # too few or too small training pictures, or all alike
            return {}
        return {"pairs": torch.stack([samples, self.training_pixels[nearest]], 1).flatten(0, 1)}

    @cached_property
    def training_pixels(self) -> Pixels:
        """All pictures that models learn from."""
        assert self.reference.training is not None
        return self.reference.training.pictures(torch.arange(len(self.reference.training)))


def _header(name: str) -> Header | None:
    """Read the header of a model file; None for pictures, and for subjects that fail later."""
    try:
        return read_header(model_file(bundled_folder(name) or Path(name).expanduser()))
    except LimnerError:
        return None


def _options(model: str) -> frozenset[str]:
    """Return the sampler options of a registered model; empty if it does not paint."""
    entries = models() | {entry.name: entry for entry in foreign().values()}
    cls = entries[model].model if model in entries else None
    schema = cls.sample_schema() if cls and issubclass(cls, GenerativeModel) else {}
    return frozenset(schema.get("properties", ()))


def _reference(
    headers: Mapping[str, Header], against: str | None, data: Mapping[str, Any]
) -> Reference:
    """Open the reference, with the data options of the first model that was trained on it.

    Raises:
        LimnerError: the models were trained on different or unknown data, and `against` is not
            given.
    """
    sections = {name: header.recipe.get("data", {}) for name, header in headers.items()}
    sections = {name: section for name, section in sections.items() if section.get("source")}
    sources = {section["source"]: name for name, section in reversed(sections.items())}
    if against is None and len(sources) > 1:
        listing = ", ".join(f"{name} on {source}" for source, name in reversed(sources.items()))
        raise LimnerError(
            f"the models were trained on different data ({listing}); give --against SOURCE"
        )
    if against is None and not sources:
        raise LimnerError("say which real pictures to judge all subjects by: --against SOURCE")
    source = against or next(iter(sources))
    defaults = next((section for section in sections.values() if section["source"] == source), {})
    return open_reference(against, data, Candidate("the subjects", "", recipe={"data": defaults}))


def _training_seconds(folder: Path | None) -> float:
    """Sum the seconds of the training steps in a run's log, without saving and painting."""
    seconds, previous = 0.0, 0
    for row in read_log(folder) if folder else ():
        if rate := row.get("images_per_second"):
            seconds += (row["images"] - previous) / rate
        previous = row["images"]
    return seconds


def _is_same_data(data: DataUsed | None, real: RealPictures | None) -> bool:
    """Return whether a report used these real pictures."""
    if data is None or real is None:
        return data is real
    return (data.digest, data.pictures) == (real.dataset.digest or real.fingerprint, len(real))
