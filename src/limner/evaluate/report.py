"""The report of an evaluation: the numbers, and everything that they depend on.

A `Report` is plain data: `to_json` and `from_json` are inverse; each line of `report.jsonl` is one.

    Report
      subject    what was judged          Subject(name, kind, fingerprint, model, parameters, ...)
      against    the reference            DataUsed(name, options, pictures, digest)
      numbers    the results              Number(metric, name, row, value, sign, n, extractor, ...)
      left_out   metric -> why it was left out
      remarks    what matters for the interpretation of the numbers
      protocol   how it was done, for people; seed, extractors, versions, device, date, seconds
      pictures   not in JSON: the first pictures, and those most suspected of being copies

Each number has a row. "subject" is the result; the other rows are values to compare it with
("floor", "real", "chance", "shuffled captions", ...).
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from jaxtyping import UInt8
from torch import Tensor

from limner.contract.atomic_files import write_durably
from limner.contract.errors import LimnerError, writing
from limner.contract.likelihood import Sign
from limner.contract.options import validate_options
from limner.data import png
from limner.evaluate.tables import escape_markdown, markdown
from limner.runtime.cache import cache_key
from limner.runtime.log import append_line, read_lines

REPORT_FILE = "report.jsonl"
"""The file of reports in a run's folder, one report per line."""
SUBJECT = "subject"
FORMAT = 1
_DISPLAY_SIDE = 64  # small pictures are enlarged to about this on a sheet


@dataclass(frozen=True)
class Number:
    """A number with its description.

    Args:
        metric: the metric, as in `--metrics fid`.
        name: the name of the number; a metric may have several.
        value: the number itself; it and all others are finite.
        n: the number of pictures.
        row: "subject", or a row to compare it with: "floor", "real", ...
        sign: "=" or a bound: the true value is "<=" or ">=" this; "~" is an estimate.
        m: the number of pictures it was compared with; 0 for none.
        extractor: the extractor of the features; empty if none was needed.
        low, high: the 95 % interval.
        error: the standard error, or the standard deviation over splits.
        unit: the unit of the value; empty for shares and pure numbers.
        better: whether "lower" or "higher" values are better; empty if neither is.
        protocol: what else affects the number, in a few words.
        parts: the value of each split.
        things: the number of things that the pictures show, if fewer than n; the error is over
            these.
    """

    metric: str
    name: str
    value: float
    n: int
    row: str = SUBJECT
    sign: Sign = "="
    m: int = 0
    extractor: str = ""
    low: float | None = None
    high: float | None = None
    error: float | None = None
    unit: str = ""
    better: Literal["", "higher", "lower"] = ""
    protocol: str = ""
    parts: tuple[float, ...] = ()
    things: int | None = None

    def __post_init__(self) -> None:
        for value in (self.value, self.low, self.high, self.error, *self.parts):
            if value is not None and not math.isfinite(value):
                raise LimnerError(f"{self.name} ({self.row}) of {self.n} pictures is not finite")

    def text(self) -> str:
        """Return the value with its sign, its interval or error, and its unit."""
        sign = "" if self.sign == "=" else f"{self.sign} "
        interval = ""
        if self.low is not None and self.high is not None:
            interval = f" [{_round(self.low)}, {_round(self.high)}]"
        elif self.error is not None:
            interval = f" ± {_round(self.error)}"
        return f"{sign}{_round(self.value)}{interval}{f' {self.unit}' if self.unit else ''}"


@dataclass(frozen=True)
class Subject:
    """The subject of a report.

    Args:
        name: the name as it was typed.
        kind: "model" or "pictures".
        fingerprint: SHA-256 of the model file or of its weights; a hash of the pictures.
        model: the registered name of the model.
        parameters: the number of the model's parameters.
        images_seen: the number of images seen in training.
        data: the recipe's section on the training data.
        sampler: all options of the sampler.
        named_models: hashes of other models that these options name, such as a guide, by option.
        shape: (channels, height, width) of the pictures.
    """

    name: str
    kind: Literal["model", "pictures"]
    fingerprint: str
    model: str = ""
    parameters: int = 0
    images_seen: int = 0
    data: dict[str, Any] = field(default_factory=dict[str, Any])
    sampler: dict[str, Any] = field(default_factory=dict[str, Any])
    named_models: dict[str, str] = field(default_factory=dict[str, str])
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class DataUsed:
    """Real pictures that an evaluation used.

    Args:
        name: the source with its split.
        pictures: the number of pictures.
        digest: a hash of pictures, captions, labels and options.
        options: the options of the source that were in effect.
    """

    name: str
    pictures: int
    digest: str
    options: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Report:
    """The report of an evaluation; see the module's docstring.

    Args:
        subject: the subject.
        against: the reference.
        n: the number of pictures of the subject; likelihoods are of at most as many real ones.
        seed: the seed of the first picture.
        numbers: the results.
        training, held_out: the splits that models learn from, and that they never see, if known.
        left_out: metrics that do not apply, with the reason.
        remarks: what matters for the interpretation of the numbers.
        protocol: how it was done.
        likelihood: options of the model's likelihood that were in effect.
        extractors: the fingerprint of each extractor by name.
        versions: the versions of limner, torch and Python.
        device: the type of the device.
        date: the start of the evaluation, ISO 8601, UTC.
        seconds: the duration, without what an interrupted run had done already.
        painting_seconds: the duration of painting, over all processes; 0 for pictures.
        painted: the number of pictures that were painted, if fewer than n, as for likelihoods only.
        pictures: sheets as pictures in rows: "samples" (the first ones) and "suspects" (pairs: a
            picture and what it may be a copy of). Not in JSON, and only on the first process.
    """

    subject: Subject
    against: DataUsed
    n: int
    seed: int
    numbers: tuple[Number, ...]
    training: DataUsed | None = None
    held_out: DataUsed | None = None
    left_out: dict[str, str] = field(default_factory=dict[str, str])
    remarks: tuple[str, ...] = ()
    protocol: tuple[str, ...] = ()
    likelihood: dict[str, Any] = field(default_factory=dict[str, Any])
    extractors: dict[str, str] = field(default_factory=dict[str, str])
    versions: dict[str, str] = field(default_factory=dict[str, str])
    device: str = ""
    date: str = ""
    seconds: float = 0.0
    painting_seconds: float = 0.0
    painted: int | None = None
    pictures: dict[str, UInt8[Tensor, "n c h w"]] = field(
        default_factory=dict[str, Tensor], repr=False, compare=False
    )

    def number(self, name: str, row: str = SUBJECT) -> Number | None:
        """Return a number by its name, or the first number of a metric; None if there is none.

        Args:
            name: the name of the number or of the metric.
            row: the row of the number.
        """
        matches = [number for number in self.numbers if number.row == row]
        for number in matches:
            if number.name == name:
                return number
        return next((number for number in matches if number.metric == name), None)

    @property
    def seconds_a_picture(self) -> float:
        """The time to paint one picture, in seconds."""
        return self.painting_seconds / (self.painted or self.n)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values, without the pictures."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "pictures"}
        document = json.loads(json.dumps(values, default=asdict, allow_nan=False))
        return {"format": FORMAT} | document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Report":
        """Read a report from the result of `to_json`; fields of later versions are ignored.

        Raises:
            LimnerError: it is not a report, or its format is newer.
        """
        if not isinstance(document.get("format"), int):
            raise LimnerError("this is not a report of limner evaluate")
        if document["format"] > FORMAT:
            raise LimnerError(
                "this report was written by a newer limner; type: pip install -U limner"
            )
        values = {f.name: document[f.name] for f in fields(cls) if f.name in document}
        return cls(**validate_options(cls, values, kind="part of a report", skip=("pictures",)))

    def text(self) -> str:
        """Return a table for the terminal, followed by the footnotes."""
        rows = [_HEADINGS]
        for *cells, comparisons in self._rows():
            first, *others = comparisons.split(_SEPARATOR)
            rows += [(*cells, first), *(("",) * len(cells) + (other,) for other in others)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADINGS))]
        lines = [self._title(), ""]
        lines += ["  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in rows]
        lines += ["", *self._footnotes()]
        return "\n".join(lines)

    def markdown(self) -> str:
        """Return the report as a Markdown document."""
        lines = [
            f"# {escape_markdown(self._title())}",
            "",
            *markdown([_HEADINGS, *self._rows()]),
            "",
        ]
        lines += [f"* {escape_markdown(line)}" for line in self._footnotes()]
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> list[Path]:
        """Write report.json, report.md and the sheets as PNG files.

        Raises:
            LimnerError: the folder cannot be written.
        """
        paths = [folder / "report.json", folder / "report.md"]
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            document = json.dumps(self.to_json(), indent=2, ensure_ascii=False)
            write_durably(paths[0], f"{document}\n".encode())
            write_durably(paths[1], self.markdown().encode())
            for name, sheet in self.pictures.items():
                scale = max(1, _DISPLAY_SIDE // max(sheet.shape[-2:]))
                path = folder / f"{name}.png"
                png.save_png(png.grid(sheet, 8, scale=scale), path, {"sheet": name})
                paths.append(path)
        return paths

    def _title(self) -> str:
        s = self.subject
        model = f" ({s.model}, {s.parameters:,} parameters)" if s.kind == "model" else ""
        return f"{s.name}{model} against {self.against.name}"

    def _rows(self) -> list[tuple[str, ...]]:
        """Return a row for each number of the subject, with the numbers to compare it with."""
        rows: list[tuple[str, ...]] = []
        for x in self.numbers:
            if x.row != SUBJECT:
                continue
            comparisons = [
                f"{other.row.partition(' (')[0]} {other.text()}"
                + (f", n {other.n:,}" if other.n != x.n else "")
                for other in self.numbers
                if (other.metric, other.name) == (x.metric, x.name) and other is not x
            ]
            n = f"{x.n:,}" + (f" / {x.m:,}" if x.m else "")
            rows.append((x.name, x.text(), n, x.extractor, _SEPARATOR.join(comparisons)))
        return rows

    def _footnotes(self) -> list[str]:
        notes: dict[str, list[str]] = {}
        for x in sorted(self.numbers, key=lambda x: x.row != SUBJECT):
            row, _, source = x.row.partition(" (")
            if x.protocol and x.name not in (group := notes.setdefault(x.protocol, [])):
                group.append(x.name if x.row == SUBJECT else f"{x.name} ({row})")
            if source:
                notes.setdefault(f"{row} is {source.removesuffix(')')}", []).append(x.name)
        lines = [f"{', '.join(dict.fromkeys(names))}: {note}" for note, names in notes.items()]
        lines += [f"remark: {line}" for line in self.remarks]
        lines += [f"left out: {metric} ({reason})" for metric, reason in self.left_out.items()]
        lines += list(self.protocol)
        hashes = [f"{name} {fingerprint[:12]}" for name, fingerprint in self.extractors.items()]
        hashes = [
            f"{self.subject.kind} {self.subject.fingerprint[:12]}",
            f"data {self.against.digest[:12]}",
            *hashes,
        ]
        lines.append(f"fingerprints: {', '.join(hashes)}")
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        duration = f"{self.seconds:,.0f} s"
        if self.painting_seconds:
            duration += f", {self.seconds_a_picture:.3g} s a picture"
        return [*lines, f"{self.date}, {versions}, {self.device}; {duration}"]


_SEPARATOR = "; "
_HEADINGS = ("metric", "value", "n / against", "extractor", "compare with")


def report_folder(report: Report) -> Path | None:
    """Return the folder of a run's report, one for each reference; None for other subjects."""
    run, name = Path(report.subject.name), report.against.name
    if not (run / "recipe.toml").is_file():
        return None
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not re.fullmatch(r"[a-z0-9-]+(:[a-z0-9]+)? [a-z-]+", name):  # it may not be unique
        slug = f"{slug}-{cache_key(name)[:8]}"
    return run / "evaluation" / slug


def append_report(report: Report, run: Path, **more: Any) -> None:
    """Add a report to a run's `report.jsonl`.

    Args:
        report: the report.
        run: the folder of the run.
        more: further fields of the line.

    Raises:
        LimnerError: the file cannot be written.
    """
    path = run / REPORT_FILE
    with writing(path, "make room, or let the folder be written"):
        append_line(path, more | report.to_json())


def read_reports(run: Path) -> list[dict[str, Any]]:
    """Read the lines of a run's `report.jsonl`, each a report as JSON; skip incomplete lines."""
    return read_lines(run / REPORT_FILE)


def _round(value: float) -> str:
    """Format a value with four digits, without an exponent if possible."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:.3g}"
