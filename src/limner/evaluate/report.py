"""What an evaluation found: numbers that say what they are, and everything that decides them.

A `Report` is plain data: `to_json` and `from_json` are inverse; a line of `report.jsonl` is one.

    Report
      subject    what was judged          Subject(name, kind, fingerprint, model, parameters, ...)
      against    what it was judged by    DataUsed(name, options, pictures, digest)
      numbers    what was found           Number(metric, name, row, value, sign, n, extractor, ...)
      left_out   metric -> why it is not there
      remarks    what to know before the numbers are believed
      protocol   how it was done, for people; seed, extractors, versions, device, date, seconds
      pictures   not in JSON: the first pictures, and those most suspected of being copies

Each number has a row: "subject" is what was asked for; the others stand beside it and say what it
is worth ("floor", "real", "chance", "shuffled captions", ...).
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

from limner.contract.checkpoint import write_durably
from limner.contract.errors import LimnerError
from limner.contract.likelihood import Sign
from limner.contract.options import validated
from limner.data import png
from limner.evaluate.tables import escape, markdown
from limner.runtime.cache import key
from limner.runtime.log import append_line, read_lines

REPORT_FILE = "report.jsonl"
"""In a run's folder: a report a line."""
SUBJECT = "subject"
FORMAT = 1
_SHOWN_SIDE = 64  # small pictures are enlarged to about this on a sheet


@dataclass(frozen=True)
class Number:
    """A number that says what it is.

    Args:
        metric: what was asked for, as in `--metrics fid`.
        name: of the number; a metric may have several.
        value: the number itself; it and all others are finite.
        n: of how many pictures.
        row: "subject", or what stands beside it: "floor", "real", ...
        sign: "=" or a bound: the true value is "<=" or ">=" this; "~" is an estimate.
        m: how many pictures it was compared with; 0 for none.
        extractor: by which the pictures were seen; empty where none was needed.
        low, high: an interval of 95 %.
        error: a standard error, or over splits a standard deviation.
        unit: of the value; empty for shares and pure numbers.
        better: which way is better; empty where neither is.
        protocol: what else decides it, in a few words.
        parts: the value of each split.
        things: of how many things the pictures are, where fewer than n; an error is over these.
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
        """The value with its sign, its interval or error, and its unit."""
        sign = "" if self.sign == "=" else f"{self.sign} "
        around = ""
        if self.low is not None and self.high is not None:
            around = f" [{_round(self.low)}, {_round(self.high)}]"
        elif self.error is not None:
            around = f" ± {_round(self.error)}"
        return f"{sign}{_round(self.value)}{around}{f' {self.unit}' if self.unit else ''}"


@dataclass(frozen=True)
class Subject:
    """What was judged.

    Args:
        name: as it was typed.
        kind: a model, or pictures.
        fingerprint: SHA-256 of the model file or of its weights; a hash of the pictures.
        model: its registered name.
        parameters: how many numbers the model trains.
        images_seen: in training.
        data: the recipe's section on what it was trained on.
        sampler: every option with which it painted.
        shape: (channels, height, width).
    """

    name: str
    kind: Literal["model", "pictures"]
    fingerprint: str
    model: str = ""
    parameters: int = 0
    images_seen: int = 0
    data: dict[str, Any] = field(default_factory=dict[str, Any])
    sampler: dict[str, Any] = field(default_factory=dict[str, Any])
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class DataUsed:
    """Real pictures that took part.

    Args:
        name: the source with its split.
        pictures: how many there are.
        digest: of pictures, captions, labels and options.
        options: as they were in effect.
    """

    name: str
    pictures: int
    digest: str
    options: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Report:
    """An evaluation; see the module's docstring.

    Args:
        subject: what was judged.
        against: the reference.
        n: how many pictures were judged.
        seed: of the first picture.
        numbers: what was found.
        training, held_out: the splits that models learn from, and that they never see, if known.
        left_out: metrics that do not apply, with the reason.
        remarks: what to know before the numbers are believed.
        protocol: how it was done.
        likelihood: options of the model's likelihood that were given.
        extractors: the fingerprint of each by name.
        versions: of limner, torch and Python.
        device: where it ran.
        date: when it began, ISO 8601, UTC.
        seconds: how long it took, without what an interrupted run had done already.
        painting_seconds: how long painting took, over all processes; 0 for pictures.
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
    pictures: dict[str, UInt8[Tensor, "n c h w"]] = field(
        default_factory=dict[str, Tensor], repr=False, compare=False
    )

    def number(self, name: str, row: str = SUBJECT) -> Number | None:
        """A number by its name, or by its metric where that has one; None where it is not there."""
        found = [each for each in self.numbers if each.row == row]
        for each in found:
            if each.name == name:
                return each
        return next((each for each in found if each.metric == name), None)

    @property
    def seconds_a_picture(self) -> float:
        """How long the model paints at one."""
        return self.painting_seconds / self.n

    def to_json(self) -> dict[str, Any]:
        """Plain values, complete but for the pictures."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "pictures"}
        plain = json.loads(json.dumps(values, default=asdict, allow_nan=False))
        return {"format": FORMAT} | plain

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Report":
        """The inverse of `to_json`; what a later version added is left aside.

        Raises:
            LimnerError: no report, or one of a later format.
        """
        if not isinstance(document.get("format"), int):
            raise LimnerError("this is no report of limner evaluate")
        if document["format"] > FORMAT:
            raise LimnerError(
                "this report was written by a newer limner; type: pip install -U limner"
            )
        known = {f.name: document[f.name] for f in fields(cls) if f.name in document}
        return cls(**validated(cls, known, kind="part of a report", skip=("pictures",)))

    def text(self) -> str:
        """A table to read on a terminal, and what was left out."""
        rows = [_HEADINGS]
        for *cells, beside in self._rows():
            first, *others = beside.split(_BREAK)
            rows += [(*cells, first), *(("",) * len(cells) + (each,) for each in others)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADINGS))]
        lines = [self._title(), ""]
        lines += ["  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in rows]
        lines += ["", *self._footnotes()]
        return "\n".join(lines)

    def markdown(self) -> str:
        """The same as a document."""
        lines = [f"# {escape(self._title())}", "", *markdown([_HEADINGS, *self._rows()]), ""]
        lines += [f"* {escape(line)}" for line in self._footnotes()]
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> list[Path]:
        """Write report.json, report.md and the sheets as PNG files.

        Raises:
            LimnerError: the folder cannot be written.
        """
        written = [folder / "report.json", folder / "report.md"]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            document = json.dumps(self.to_json(), indent=2, ensure_ascii=False)
            write_durably(written[0], f"{document}\n".encode())
            write_durably(written[1], self.markdown().encode())
            for name, sheet in self.pictures.items():
                scale = max(1, _SHOWN_SIDE // max(sheet.shape[-2:]))
                path = folder / f"{name}.png"
                png.save_png(png.grid(sheet, 8, scale=scale), path, {"sheet": name})
                written.append(path)
        except OSError as error:
            raise LimnerError(f"cannot write {folder}: {error.strerror or error}") from None
        return written

    def _title(self) -> str:
        s = self.subject
        model = f" ({s.model}, {s.parameters:,} parameters)" if s.kind == "model" else ""
        return f"{s.name}{model} against {self.against.name}"

    def _rows(self) -> list[tuple[str, ...]]:
        """A row for each number of the subject, with what stands beside it."""
        rows: list[tuple[str, ...]] = []
        for each in self.numbers:
            if each.row != SUBJECT:
                continue
            beside = [
                f"{other.row.partition(' (')[0]} {other.text()}"
                + (f", n {other.n:,}" if other.n != each.n else "")
                for other in self.numbers
                if (other.metric, other.name) == (each.metric, each.name) and other is not each
            ]
            n = f"{each.n:,}" + (f" / {each.m:,}" if each.m else "")
            rows.append((each.name, each.text(), n, each.extractor, _BREAK.join(beside)))
        return rows

    def _footnotes(self) -> list[str]:
        named: dict[str, list[str]] = {}
        for each in sorted(self.numbers, key=lambda each: each.row != SUBJECT):
            row, _, of = each.row.partition(" (")
            if each.protocol and each.name not in (known := named.setdefault(each.protocol, [])):
                known.append(each.name if each.row == SUBJECT else f"{each.name} ({row})")
            if of:
                named.setdefault(f"{row} is {of.removesuffix(')')}", []).append(each.name)
        lines = [f"{', '.join(dict.fromkeys(names))}: {note}" for note, names in named.items()]
        lines += [f"remark: {line}" for line in self.remarks]
        lines += [f"left out: {metric} ({why})" for metric, why in self.left_out.items()]
        lines += list(self.protocol)
        prints = [f"{name} {fingerprint[:12]}" for name, fingerprint in self.extractors.items()]
        prints = [
            f"{self.subject.kind} {self.subject.fingerprint[:12]}",
            f"data {self.against.digest[:12]}",
            *prints,
        ]
        lines.append(f"fingerprints: {', '.join(prints)}")
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        took = f"{self.seconds:,.0f} s"
        if self.painting_seconds:
            took += f", {self.seconds_a_picture:.3g} s a picture"
        return [*lines, f"{self.date}, {versions}, {self.device}; {took}"]


_BREAK = "; "
_HEADINGS = ("metric", "value", "n / against", "extractor", "beside it")


def report_folder(report: Report) -> Path | None:
    """Where a run's report is written, a folder for each reference; None for other subjects."""
    run, name = Path(report.subject.name), report.against.name
    if not (run / "recipe.toml").is_file():
        return None
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not re.fullmatch(r"[a-z0-9-]+(:[a-z0-9]+)? [a-z-]+", name):  # another may be as plain
        plain = f"{plain}-{key(name)[:8]}"
    return run / "evaluation" / plain


def append(report: Report, run: Path, **more: Any) -> None:
    """Add a report to a run's `report.jsonl`, with what else is to be known of it.

    Raises:
        LimnerError: the file cannot be written.
    """
    path = run / REPORT_FILE
    try:
        append_line(path, more | report.to_json())
    except OSError as error:
        raise LimnerError(f"cannot write {path}: {error.strerror or error}") from None


def read_reports(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's `report.jsonl`, each a report as JSON; one that was cut is left out."""
    return read_lines(run / REPORT_FILE)


def _round(value: float) -> str:
    """Four digits, without an exponent where that can be."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:.3g}"
