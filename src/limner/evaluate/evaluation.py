"""`limner evaluate`: judge a subject by a reference, with every metric that applies.

1  open both, choose an extractor, ask each metric whether it applies   nothing is painted yet
2  paint and observe in blocks of 64, each process its share            finished blocks are kept
3  the first process computes the numbers                               the blocks are deleted
"""

import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import limner
from limner.contract.errors import LimnerError
from limner.contract.model import GenerativeModel
from limner.data import Dataset
from limner.data.mixed import MixedSources
from limner.evaluate.extractors.extractor import Extractor
from limner.evaluate.extractors.judge import JudgeExtractor
from limner.evaluate.metric import Metric, Setting, numbers_of, sheets_of
from limner.evaluate.passes import DigestObserver, Observations, Share
from limner.evaluate.picture_sets import PaintedPictures, PictureSet, RealPictures
from limner.evaluate.preparation import SHEET_PICTURES, EvaluationOptions, prepare
from limner.evaluate.report import DataUsed, Number, Report, Subject, append_report
from limner.evaluate.subject import Reference
from limner.runtime import processes
from limner.runtime.allocator import keep_freed_memory
from limner.runtime.progress import painting_progress, say
from limner.runtime.ray_workers import run_by_ray

_SHARES_PER_WORKER = 4  # shares of the work for each worker


def evaluate(
    subject: str | Path | GenerativeModel | Dataset,
    against: str | Dataset | Reference | None = None,
    *,
    metrics: str | Sequence[str] | None = None,
    n: int | None = None,
    seed: int = 0,
    extractor: str | Extractor | None = None,
    weights: Path | str | None = None,
    sampler: Mapping[str, Any] | None = None,
    likelihood: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    training: Dataset | None = None,
    device: str = "auto",
    workers: int = 1,
    ray: str | None = None,
    quiet: bool = False,
) -> Report:
    """Judge a model or a folder of pictures by real ones.

    Painted pictures are kept in the folder `limner.runtime.cache.cache_folder()` until the report
    is made, so the same call continues an interrupted one. Under torchrun the work is shared, and
    every process returns the report.

    Args:
        subject: a bundled model, a run or model folder, a model file, a folder or zip archive of
            pictures; or a model or data set in memory.
        against: a source as for `open_data`, with the split "test" if there is one and `data` names
            none; or a data set, or the result of `open_reference`. None for the source that the
            model was trained on.
        metrics: one or several names, as `limner metrics` lists them; None for all that apply.
        n: the number of pictures of the subject. None for all existing pictures, or for as many
            pictures of a model as the reference has, at most 1,000.
        seed: the first seed; picture i is painted from seed + i.
        extractor: the name of an extractor, see `evaluate.extractors.choose.open_extractor`, or an
            extractor of your own; None for the one that fits the data.
        weights: other weights for the extractor.
        sampler: options of the model's sampler; they override those of its recipe.
        likelihood: options of the model's likelihood.
        data: options of the source; they override those of the model's recipe.
        training: the pictures that models learn from, if `against` is a data set.
        device: the device to compute on.
        workers: the number of processes that share the work; several use Ray.
        ray: the address of a Ray cluster; None starts one on this machine for several workers.
        quiet: show no progress.

    Returns:
        The report, with its sheets of pictures on the first process.

    Raises:
        LimnerError: a wrong argument; a metric that was named and does not apply; pictures that
            cannot be compared; NaN in pictures or features; a subject whose pictures are all the
            same.
        KeyboardInterrupt: Ctrl-C; the same call continues the evaluation.
    """
    keep_freed_memory()
    metrics = [metrics] if isinstance(metrics, str) else metrics
    start, date = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    place = processes.device(device)
    processes.join(place)
    options = EvaluationOptions(
        metrics, n, seed, extractor, weights, sampler or {}, likelihood or {}, data or {}, training
    )
    setting, needs, left_out, pictures, digests, observations = prepare(
        place, subject, against, options
    )
    candidate, reference = setting.candidate, setting.against
    if workers > 1 or ray:
        args = device, subject, against, options
        _observe_by_ray(observations, args, workers, ray, device, quiet)
    else:
        _observe_share(observations, place, quiet)

    def make_report() -> Report:
        extractors = {m.extractor.name: m.extractor for m in needs if m.extractor}
        remarks = [*_remarks(setting, extractors), *_repetitions(observations, pictures, digests)]
        numbers, sheets, failures = _measure(observations, [*needs], strict=metrics is not None)
        samples = range(min(SHEET_PICTURES, len(pictures)))
        return Report(
            subject=_subject(setting),
            against=_data_used(reference.real, reference.options),
            n=len(setting.subject),
            painted=len(pictures) if len(pictures) < len(setting.subject) else None,
            seed=seed,
            numbers=tuple(numbers),
            training=_data_used(reference.training) if reference.training else None,
            held_out=_data_used(reference.held_out) if reference.held_out else None,
            left_out=left_out | failures,
            remarks=tuple(remarks),
            protocol=tuple(_protocol(setting, pictures)),
            likelihood=dict(setting.likelihood),
            extractors={name: each.fingerprint for name, each in extractors.items()},
            versions=_versions(),
            device=place.type,
            date=date,
            seconds=time.perf_counter() - start,
            painting_seconds=observations.seconds(pictures),
            pictures={"samples": observations.pixels(pictures, samples)} | sheets,
        )

    report = _report_of_first_process(make_report, place)
    if processes.first():
        if candidate.run:
            try:
                append_report(report, candidate.run)
            except LimnerError as error:
                say(str(error))
        observations.discard()
    return report


def _observe_share(observations: Observations, device: torch.device, quiet: bool) -> None:
    """Paint and observe this process's share, and wait for the other processes.

    Raises:
        LimnerError: this or another process failed.
    """
    failure: LimnerError | None = None
    try:
        with painting_progress(observations.count_waiting(), "judging", quiet) as advance:
            observations.do_share(advance)
    except LimnerError as error:
        failure = error
    if processes.anyone(failure is not None, device):
        raise failure or LimnerError("another process stopped; its message says why")


def _observe_by_ray(
    observations: Observations,
    args: Sequence[Any],
    workers: int,
    address: str | None,
    device: str,
    quiet: bool,
) -> None:
    """Paint and observe with the processes of a Ray cluster.

    Blocks that are not in this machine's cache, because a process ran elsewhere or was lost, are
    computed here when the numbers are made.
    """
    if not observations.count_waiting():
        return
    shares = workers * _SHARES_PER_WORKER
    with painting_progress(shares, "judging", quiet) as advance:
        for _ in run_by_ray(
            _ShareWorker,
            (shares, *args),
            range(shares),
            workers=workers,
            address=address,
            device=device,
        ):
            advance(1)


class _ShareWorker:
    """A process of a Ray cluster that paints and observes.

    Args:
        shares: the number of shares of the work.
        device: the device to compute on.
        subject, against: see `evaluate`.
        options: what to compare, and how.
    """

    def __init__(
        self, shares: int, device: str, subject: Any, against: Any, options: EvaluationOptions
    ) -> None:
        keep_freed_memory()
        self.shares = shares
        self.observations = prepare(
            processes.device(device), subject, against, options
        ).observations

    def do(self, number: int) -> None:
        """Paint and observe one share."""
        self.observations.do_share(lambda _: None, Share(number, self.shares))


def _measure(
    observations: Observations, metrics: Sequence[Metric], strict: bool
) -> tuple[list[Number], dict[str, Any], dict[str, str]]:
    """Compute numbers and sheets of all metrics, and why some turn out to have no value.

    Args:
        observations: the observed pictures.
        metrics: the metrics.
        strict: whether to raise an error if a metric has no value.
    """
    numbers: list[Number] = []
    sheets: dict[str, Any] = {}
    failures: dict[str, str] = {}
    for metric in metrics:
        try:
            results, pictures = numbers_of(metric, observations), sheets_of(metric, observations)
        except LimnerError as error:
            if strict:
                raise
            failures[metric.name] = str(error)
            continue
        numbers += results
        sheets |= pictures
    if not numbers:
        raise LimnerError(f"no metric has a value ({'; '.join(failures.values())})")
    return numbers, sheets, failures


def _report_of_first_process(make: Callable[[], Report], device: torch.device) -> Report:
    """Make the report on the first process, and return it on every process.

    Raises:
        LimnerError: making the report failed.
    """
    report, document = None, {}
    if processes.first():
        try:
            report = make()
            document = {"report": report.to_json()}
        except LimnerError as error:
            document = {"error": str(error)}
    document = json.loads(processes.broadcast_text(json.dumps(document), device))
    if "error" in document:
        raise LimnerError(document["error"])
    return report or Report.from_json(document["report"])


def _subject(setting: Setting) -> Subject:
    candidate, model = setting.candidate, setting.model
    if model is None:
        return Subject(
            candidate.name, "pictures", candidate.fingerprint, shape=setting.subject.spec.shape
        )
    assert isinstance(setting.subject, PaintedPictures)
    options = {name: v for name, v in setting.subject.options.items() if v is not None}
    return Subject(
        name=candidate.name,
        kind="model",
        fingerprint=candidate.fingerprint,
        model=model.name,
        parameters=sum(p.numel() for p in model.parameters()),
        images_seen=candidate.images_seen,
        data=candidate.data,
        sampler=json.loads(json.dumps(options, default=str)),
        named_models=setting.subject.named_models,
        shape=model.spec.shape,
    )


def _data_used(real: RealPictures, options: Mapping[str, Any] | None = None) -> DataUsed:
    return DataUsed(
        real.name, len(real), real.dataset.digest or real.fingerprint, dict(options or {})
    )


def _remarks(setting: Setting, extractors: Mapping[str, Extractor]) -> Iterator[str]:
    """Yield remarks that matter for the interpretation of the numbers.

    Args:
        setting: the subject, the reference and the extractor.
        extractors: the extractors of the metrics, by name.
    """
    candidate, reference, real = setting.candidate, setting.against, setting.reference
    is_training = reference.training is not None and reference.training.dataset is real.dataset
    if is_training:
        yield f"{real.name} is what models learn from: a copy of it would score best"
    source, real_source = candidate.data.get("source"), real.dataset.source
    for judge in extractors.values():
        if isinstance(judge, JudgeExtractor) and judge.source not in ("", real_source):
            yield (
                f"{judge.name} was trained on {judge.source}, and may not see what matters in "
                f"{real_source or 'these pictures'}"
            )
    if source and real_source not in ("", source):
        yield f"{candidate.name} was trained on {source}, not on {real_source}"
    if len(real) < len(real.dataset):
        total = "endless" if real.dataset.endless else f"{len(real.dataset):,}"
        yield f"of the {total} pictures of {real.name}, {len(real):,} are used"
    if candidate.model is None:
        return
    spec = candidate.model.spec
    condition = real.condition(torch.arange(1), spec)
    if spec.labels and condition.label is None:
        yield f"{real.name} lacks the classes of {candidate.name}, which chooses its own classes"
    if spec.text and condition.text is None:
        yield f"{real.name} has no captions, so {candidate.name} paints without captions"
    if real.dataset.weights is not None and not len(condition):
        yield f"training draws the pictures of {real.name} by weight; here each counts once"
    if isinstance(real.dataset, MixedSources) and not real.dataset.endless:
        yield f"training draws the sources of {real.name} by share; here each picture counts once"


def _repetitions(
    observations: Observations, subject: PictureSet, digests: DigestObserver
) -> Iterator[str]:
    """Yield a remark if some pictures are the same.

    Raises:
        LimnerError: all pictures are the same.
    """
    n, is_painted = len(subject), isinstance(subject, PaintedPictures)
    count = len(observations.of(subject, digests)["digest"].unique())
    if count == 1 < n:
        remedy = "inspect one with limner sample" if is_painted else "give other pictures"
        raise LimnerError(
            f"all {n:,} pictures of {subject.name} are the same, so no metric has a value; {remedy}"
        )
    if count < n:
        yield f"of the {n:,} pictures of {subject.name}, {count:,} are different"


def _protocol(setting: Setting, subject: PictureSet) -> Iterator[str]:
    """Yield lines for people on how the evaluation was done."""
    s = setting
    if isinstance(subject, PaintedPictures):
        condition = s.reference.condition(torch.arange(1), subject.spec)
        names = ("label", "text", "image")
        parts = [name for name in names if getattr(condition, name) is not None]
        conditions = f", under {' and '.join(parts)} of {s.reference.name}" if parts else ""
        yield f"painted from the seeds {s.seed} to {s.seed + len(subject) - 1}{conditions}"
        options = [f"{k}={v}" for k, v in subject.options.items() if v is not None]
        if options:
            yield f"sampler: {', '.join(options)}"
    yield "real pictures: each once, in a fixed random order; intervals are 95 % intervals"


def _versions() -> dict[str, str]:
    return {
        "limner": limner.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
