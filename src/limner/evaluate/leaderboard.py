"""The result of a comparison: a leaderboard with reference rows, and the best subject per column.

    Comparison
      against            the reference of all subjects       DataUsed
      subjects           reports, and reasons of failures    ComparedSubject
      columns()          every number of any subject         Column
      lines()            a row of numbers for each subject   Line
      reference_lines()  floors and ceilings                 Line
      best(c)            the best subject of a column, or why none is marked

The best value of a column is marked only if its 95 % interval does not overlap with any other one,
and all were computed from equally many pictures. Otherwise chance, or n, may explain the
difference.
"""

import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from jaxtyping import UInt8
from torch import Tensor

import limner
from limner.evaluate.metric import metrics
from limner.evaluate.metrics.statistics import student_quantile
from limner.evaluate.passes import BLOCK_PICTURES
from limner.evaluate.picture_sets import Pixels
from limner.evaluate.report import SUBJECT, DataUsed, Number, Report
from limner.evaluate.tables import align_columns, escape_markdown, markdown

FORMAT = 1
Pairs = UInt8[Tensor, "p c h w"]
"""Pictures, each followed by the training picture nearest to it."""
BEST_MARK = "★"
"""The mark after the best value."""


@dataclass(frozen=True)
class ComparedSubject:
    """A subject of a comparison.

    Args:
        name: the name as it was typed.
        report: the report; None if the evaluation failed.
        error: the reason of the failure.
        trained_seconds: the time of all training steps in the run's log; 0 if unknown.
        is_reused: whether an earlier report was used.
        samples: its first pictures.
        pairs: the first few of them, each followed by the training picture nearest to it.
    """

    name: str
    report: Report | None = None
    error: str = ""
    trained_seconds: float = 0.0
    is_reused: bool = False
    samples: Pixels | None = field(default=None, repr=False, compare=False)
    pairs: Pairs | None = field(default=None, repr=False, compare=False)


class Column(NamedTuple):
    """A column of the leaderboard: the description that a number has in common in all subjects."""

    metric: str
    name: str
    extractor: str
    better: Literal["", "higher", "lower"]


class Line(NamedTuple):
    """A row of the leaderboard: a subject, or values to compare all subjects with."""

    name: str
    subject: ComparedSubject | None
    numbers: dict[tuple[str, str], Number]


@dataclass(frozen=True)
class Comparison:
    """The comparison of several subjects by one reference; see the module's docstring.

    Args:
        against: the reference.
        subjects: the subjects, in the given order.
        real: the first pictures of the reference; models painted from their conditions.
        n: the number of pictures of each subject, or of the one with most pictures.
        seed: the seed of the first picture.
        date: the start of the comparison, ISO 8601, UTC.
        seconds: its duration.
        sampler: the given sampler options; each applies to the models that have it.
    """

    against: DataUsed
    subjects: tuple[ComparedSubject, ...]
    real: Pixels = field(repr=False, compare=False)
    n: int
    seed: int
    date: str
    seconds: float
    sampler: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def successes(self) -> list[tuple[ComparedSubject, Report]]:
        """The subjects that did not fail, with their reports."""
        return [(subject, subject.report) for subject in self.subjects if subject.report]

    def columns(self) -> list[Column]:
        """Return a column for every number of any subject, in the order of the metrics."""
        columns: dict[tuple[str, str], Column] = {}
        for metric in metrics():
            for _, report in self.successes:
                for x in report.numbers:
                    if x.metric == metric and x.row == SUBJECT:
                        column = Column(x.metric, x.name, x.extractor, x.better)
                        columns.setdefault((x.metric, x.name), column)
        return list(columns.values())

    def lines(self) -> list[Line]:
        """Return a row for each subject that did not fail."""
        return [Line(each.name, each, _numbers(report, SUBJECT)) for each, report in self.successes]

    def reference_lines(self) -> list[Line]:
        """Return floors and ceilings: rows of no subject, with the values that all reports share.

        The row's name contains n only if reports with different n have the row.
        """
        reports = [report for _, report in self.successes]
        rows: dict[str, dict[tuple[str, str], Number]] = {}
        for row in dict.fromkeys(x.row for r in reports for x in r.numbers if x.row != SUBJECT):
            for column in self.columns():
                key = (column.metric, column.name)
                by_n: dict[int, list[Number]] = {}
                for report in reports:
                    if x := _numbers(report, row).get(key):
                        by_n.setdefault(x.n, []).append(x)
                for n, group in sorted(by_n.items(), reverse=True):
                    if all(math.isclose(x.value, group[0].value, rel_tol=1e-9) for x in group):
                        name = row if n == max(by_n) else f"{row}, n = {n:,}"
                        rows.setdefault(name, {})[key] = group[0]
        return [Line(name, None, numbers) for name, numbers in rows.items()]

    def best(self, column: Column) -> tuple[ComparedSubject | None, str]:
        """Return the subject with the best value, or None and why no subject is marked as best."""
        key = (column.metric, column.name)
        entries = [(line.subject, x) for line in self.lines() if (x := line.numbers.get(key))]
        if not column.better:
            return None, "neither direction is better"
        if len(entries) < 2:
            return None, "there is one value only"
        if len({(x.n, x.m, x.extractor) for _, x in entries}) > 1:
            return None, "not of equally many pictures"
        spans = [interval(x) for _, x in entries]
        sign = 1 if column.better == "lower" else -1
        first, *others = sorted(range(len(entries)), key=lambda i: sign * entries[i][1].value)
        known = [span for span in spans if span]
        if len(known) < len(spans):
            return None, "no interval is known"
        low, high = known[first]
        rivals = [i for i in others if not (high < known[i][0] if sign > 0 else known[i][1] < low)]
        if rivals and all(math.isinf(known[i][0]) or math.isinf(known[i][1]) for i in rivals):
            return None, "a bound may be better than it says"
        return (None, "intervals overlap") if rivals else (entries[first][0], "")

    def unmarked_columns(self) -> dict[str, list[str]]:
        """Return the reasons why no best value is marked, each with the names of its columns."""
        reasons: dict[str, list[str]] = {}
        for column in self.columns():
            best, reason = self.best(column)
            if best is None:
                reasons.setdefault(reason, []).append(column.name)
        return reasons

    @property
    def title(self) -> str:
        """The title: the number of subjects and the reference."""
        n = len(self.successes)
        return f"{n} {'subject' if n == 1 else 'subjects'} against {self.against.name}"

    def table(self) -> list[tuple[str, ...]]:
        """Return a row for each number, with a column for each subject and each reference row."""
        lines = [*self.lines(), *self.reference_lines()]
        rows: list[tuple[str, ...]] = [("", *(line.name for line in lines))]
        for heading, cells in zip(FACTS, zip(*(facts(line.subject) for line in lines))):
            rows.append((heading, *(text for text, _ in cells)))
        for column in self.columns():
            best, _ = self.best(column)
            row = [column.name + (f" ({column.extractor})" if column.extractor else "")]
            for line in lines:
                x = line.numbers.get((column.metric, column.name))
                mark = f" {BEST_MARK}" if best is not None and line.subject is best else ""
                n = f", n {x.n:,}" if x and x.n != self.n else ""
                row.append(x.text() + n + mark if x else "")
            rows.append(tuple(row))
        return rows

    def notes(self) -> list[str]:
        """Return notes on the table and on the subjects."""
        lines = [
            f"n is {self.n:,} unless stated otherwise; seed {self.seed}",
            "[low, high] is a 95 % interval; ± a standard error, or a deviation over splits",
        ]
        if len(self.successes) > 1:
            lines.append(
                f"{BEST_MARK} the best: its 95 % interval does not overlap with any other, and all "
                "have equally many pictures"
            )
            for reason, names in self.unmarked_columns().items():
                lines.append(f"no best value is marked in {', '.join(names)}: {reason}")
        lines += self._differences()
        for option, value in self.sampler.items():
            models = [r.subject.name for _, r in self.successes if option in r.subject.sampler]
            lines.append(
                f"sampler.{option}={value} applies to {', '.join(models) or 'none of them'}"
            )
        devices = sorted({report.device for _, report in self.successes if report.device})
        if any(report.painting_seconds for _, report in self.successes):
            lines.append(
                f"time a picture: painted in blocks of {BLOCK_PICTURES}, on {' and '.join(devices)}"
            )
        remarks: dict[str, list[str]] = {}
        for subject, report in self.successes:
            for remark in report.remarks:
                remarks.setdefault(remark, []).append(subject.name)
        for remark, names in remarks.items():
            subjects = "" if len(names) == len(self.successes) else f" ({', '.join(names)})"
            lines.append(f"remark{subjects}: {remark}")
        return [*lines, f"{self.date}, limner {limner.__version__}; {self.seconds:,.0f} s"]

    def _differences(self) -> list[str]:
        """Return notes on protocols that are not the same for all subjects."""
        differences: dict[tuple[str, str], list[str]] = {}
        for column in self.columns():
            numbers = [
                (line.name, line.numbers.get((column.metric, column.name))) for line in self.lines()
            ]
            protocols = [(name, x.protocol) for name, x in numbers if x]
            if len({protocol for _, protocol in protocols}) > 1:
                for protocol in dict.fromkeys(protocol for _, protocol in protocols if protocol):
                    subjects = ", ".join(name for name, other in protocols if other == protocol)
                    differences.setdefault((subjects, protocol), []).append(column.name)
        return [
            f"{', '.join(columns)} of {subjects}: {protocol}"
            for (subjects, protocol), columns in differences.items()
        ]

    def failures(self) -> list[str]:
        """Return a line for each subject that could not be judged."""
        return [f"not judged: {each.name}: {each.error}" for each in self.subjects if each.error]

    def text(self) -> str:
        """Return the table and the notes for the terminal."""
        lines = [self.title, "", *align_columns(self.table()), "", *self.notes(), *self.failures()]
        return "\n".join(lines)

    def markdown(self) -> str:
        """Return the table and the notes as a Markdown document."""
        lines = [f"# {escape_markdown(self.title)}", "", *markdown(self.table()), ""]
        lines += [f"- {escape_markdown(line)}" for line in [*self.notes(), *self.failures()]]
        return "\n".join(lines) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain values, with all reports."""
        marks = {c.name: best.name for c in self.columns() if (best := self.best(c)[0])}
        subjects = [
            {
                "name": subject.name,
                "error": subject.error,
                "trained_seconds": subject.trained_seconds,
                "report": subject.report.to_json() if subject.report else None,
            }
            for subject in self.subjects
        ]
        against = {"name": self.against.name, "pictures": self.against.pictures}
        against |= {"digest": self.against.digest, "options": self.against.options}
        document = {"format": FORMAT, "against": against, "n": self.n, "seed": self.seed}
        document |= {"sampler": self.sampler, "date": self.date}
        document |= {"subjects": subjects, "best": marks}
        return json.loads(json.dumps(document, default=str, allow_nan=False))


FACTS = ("parameters", "training time", "images seen", "time a picture")
"""The facts on a model that are listed with its numbers."""


def facts(subject: ComparedSubject | None) -> list[tuple[str, float]]:
    """Return the cells of `FACTS`: text and a number to sort by; empty and NaN if unknown."""
    if subject is None or subject.report is None:
        return [("", math.nan)] * len(FACTS)
    model, report = subject.report.subject, subject.report
    return [
        (f"{model.parameters:,}", model.parameters) if model.parameters else ("", math.nan),
        _duration_cell(subject.trained_seconds),
        (f"{model.images_seen:,}", model.images_seen) if model.images_seen else ("", math.nan),
        _duration_cell(report.seconds_a_picture),
    ]


def interval(number: Number) -> tuple[float, float] | None:
    """Return the 95 % interval of a number; a bound has one finite end only. None if unknown.

    The half-width is the standard error times Student's quantile for the number of things (1.96 for
    many things). The error over splits is their deviation; it is used once. An estimated likelihood
    counts as a bound.
    """
    if number.low is not None and number.high is not None:
        low, high = number.low, number.high
    elif number.error is not None:
        factor = 1.0 if number.parts else student_quantile(max(1, (number.things or number.n) - 1))
        half = factor * number.error
        low, high = number.value - half, number.value + half
    else:
        return None
    is_bound = number.metric == "likelihood" and number.sign == "~"
    if number.sign == "<=" or (is_bound and number.better == "lower"):
        return -math.inf, high
    if number.sign == ">=" or (is_bound and number.better == "higher"):
        return low, math.inf
    return low, high


def duration(seconds: float) -> str:
    """Format a duration: "2 h 13 min", "45 s", "12 ms"."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 99.5:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _duration_cell(seconds: float) -> tuple[str, float]:
    return (duration(seconds), seconds) if seconds else ("", math.nan)


def _numbers(report: Report, row: str) -> dict[tuple[str, str], Number]:
    return {(x.metric, x.name): x for x in report.numbers if x.row == row}
