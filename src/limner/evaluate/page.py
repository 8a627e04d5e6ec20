"""The web page of `limner compare`: one self-contained HTML file."""

import json
import math
import re
from importlib.resources import files as package_files
from pathlib import Path

import torch
from torch.nn.functional import avg_pool2d

from limner.contract.atomic_files import write_durably
from limner.contract.errors import writing
from limner.data import png
from limner.evaluate.charts import Dot, Point, intervals, scatter
from limner.evaluate.leaderboard import (
    BEST_MARK,
    FACTS,
    Column,
    ComparedSubject,
    Comparison,
    Line,
    facts,
    interval,
)
from limner.evaluate.metric import metrics
from limner.evaluate.picture_sets import Pixels
from limner.evaluate.report import Number
from limner.evaluate.webpage import document, picture, text

_SHEET_COLUMNS = 8  # of a sheet
_DISPLAY_SIDE = 96  # pixels: small pictures are enlarged to about this side, and large ones reduced
_COSTS = {
    "time a picture": ("seconds a picture", 1),
    "parameters": ("million parameters", 1e6),
    "training time": ("minutes of training", 60),
}  # facts on the cost of a model: the unit and its size


def write_page(comparison: Comparison, folder: Path) -> list[Path]:
    """Write index.html, comparison.json and comparison.md.

    Raises:
        LimnerError: the folder cannot be written.
    """
    document = json.dumps(comparison.to_json(), indent=2, ensure_ascii=False)
    files = {
        "index.html": page(comparison),
        "comparison.json": f"{document}\n",
        "comparison.md": comparison.markdown(),
    }
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_durably(folder / name, content.encode())
    return [folder / name for name in files]


def page(comparison: Comparison) -> str:
    """Return the whole page as HTML."""
    title = comparison.title
    parts = [
        f"<h1>{text(title)}</h1>",
        _lead(comparison),
        "<h2>Leaderboard</h2>",
        "<p>Click a heading to sort. The rows below the subjects are for comparison: the values of "
        "real pictures, and the floor, which is the value of a perfect model.</p>",
        '<div class="sheet" tabindex="0" role="region" aria-label="Leaderboard">'
        f"{_board(comparison)}"
        "</div>",
        _failures(comparison),
        _list(comparison.notes()),
        "<h2>Pictures</h2>",
        "<p>The first pictures of each subject, not selected. Models painted each picture under "
        "the conditions of the real picture at the same place.</p>",
        f'<div class="cards">{_sheets(comparison)}</div>',
        _nearest_pictures(comparison),
        "<h2>Number by number</h2>",
        "<p>Bars are 95 % intervals, if they are known. Hollow dots and dashed lines are the rows "
        "for comparison, such as floors and real pictures.</p>",
        f'<div class="charts">{_charts(comparison)}</div>',
        _costs(comparison),
        "<h2>Reports</h2>",
        "<p>The full report of each subject.</p>",
        *(_report(subject) for subject, _ in comparison.successes),
        "<footer>This file needs no other files. In the same folder, comparison.json holds all "
        "numbers, and comparison.md the table.</footer>",
    ]
    style, script = (
        (package_files("limner.evaluate") / name).read_text(encoding="utf-8")
        for name in ("page.css", "page.js")
    )
    return document(title, "\n".join(parts), style=style, script=script)


def _lead(comparison: Comparison) -> str:
    against = comparison.against
    prefix = "Up to " if any(report.n < comparison.n for _, report in comparison.successes) else ""
    return (
        f'<p class="lead">{prefix}<b>{comparison.n:,}</b> pictures of each, judged by '
        f"<b>{text(against.name)}</b> ({against.pictures:,} real pictures).</p>"
    )


def _board(comparison: Comparison) -> str:
    """Return the table: a row for each subject, then the rows to compare them with."""
    columns = comparison.columns()
    groups = [("the model", len(FACTS), "")]
    for metric in dict.fromkeys(column.metric for column in columns):
        width = sum(column.metric == metric for column in columns)
        groups.append((metric, width, metrics()[metric].summary))
    metric_heads = "".join(
        f'<th colspan={width} scope=colgroup title="{text(summary)}">{text(name)}</th>'
        for name, width, summary in groups
    )
    heads = [_head(name, i + 1, "ascending") for i, name in enumerate(FACTS)]
    for i, column in enumerate(columns):
        order = "descending" if column.better == "higher" else "ascending"
        heads.append(_head(column.name, len(FACTS) + 1 + i, order))
    corner = '<th class="corner" data-at=0 data-first="ascending"><button>subject</button></th>'
    best = {column: comparison.best(column)[0] for column in columns}
    rows = "".join(_row(line, columns, best, comparison.n) for line in comparison.lines())
    beside = "".join(
        _row(line, columns, best, comparison.n) for line in comparison.reference_lines()
    )
    return (
        f'<table class="board"><thead><tr><th class="corner"></th>{metric_heads}</tr>'
        f"<tr>{corner}{''.join(heads)}</tr></thead><tbody>{rows}</tbody>"
        f'<tbody class="beside">{beside}</tbody></table>'
    )


def _head(name: str, index: int, order: str) -> str:
    return f'<th scope=col data-at={index} data-first="{order}"><button>{text(name)}</button></th>'


def _row(
    line: Line, columns: list[Column], best: dict[Column, ComparedSubject | None], n: int
) -> str:
    """Return a row; a cell contains its number of pictures if it is not n."""
    name = text(line.name)
    broken = name.replace("/", "/<wbr>").replace(":", ":<wbr>")
    cells = [f'<th scope=row data-value="{name}">{broken}</th>']
    for cell, value in facts(line.subject):
        cells.append(f'<td data-value="{_sortable(value)}">{text(cell)}</td>')
    for column in columns:
        x = line.numbers.get((column.metric, column.name))
        is_best = line.subject is not None and line.subject is best[column]
        cells.append(_cell(x, column, is_best, n))
    return f"<tr>{''.join(cells)}</tr>"


def _cell(x: Number | None, column: Column, is_best: bool, n: int) -> str:
    if x is None:
        return '<td data-value=""></td>'
    value, details = _value_and_interval(x)
    count = f"n = {x.n:,}" + (f" / {x.m:,}" if x.m else "")
    title = f"{column.name}: {x.text()}, {count}{f', {x.extractor}' if x.extractor else ''}"
    details += f", n {x.n:,}" if x.n != n else ""
    details = details.removeprefix(", ")
    css = ' class="best"' if is_best else ""
    small = f"<small>{text(details)}</small>" if details else ""
    mark = f'<span aria-label="best"> {BEST_MARK}</span>' if is_best else ""
    return (
        f'<td data-value="{_sortable(x.value)}" title="{text(title)}"{css}>{text(value)}{mark}'
        f"{small}</td>"
    )


def _value_and_interval(x: Number) -> tuple[str, str]:
    """Split a number's text into the value with its sign, and the interval with the unit."""
    match = re.match(r"((?:[<>]=|~)? ?\S+) ?(.*)", x.text())
    assert match is not None
    return match[1], match[2]


def _sortable(value: float) -> str:
    return "" if math.isnan(value) else repr(value)


def _failures(comparison: Comparison) -> str:
    return "".join(f'<p class="failed">{text(line)}</p>' for line in comparison.failures())


def _list(lines: list[str]) -> str:
    return f"<ul>{''.join(f'<li>{text(line)}</li>' for line in lines)}</ul>"


def _charts(comparison: Comparison) -> str:
    """Return a chart for each column where lower or higher values are better."""
    figures: list[str] = []
    beside = comparison.reference_lines()
    for column in comparison.columns():
        best, _ = comparison.best(column)
        dots: list[Dot] = []
        for line in [*comparison.lines(), *beside]:
            x = line.numbers.get((column.metric, column.name))
            if x is None:
                continue
            low, high = interval(x) or (x.value, x.value)
            kind = "beside" if line.subject is None else "best" if line.subject is best else ""
            dots.append(Dot(line.name, x.value, low, high, kind))
        if column.better and dots:
            note = f"{column.better} is better" + (
                f"; {column.extractor}" if column.extractor else ""
            )
            caption = f"<figcaption>{text(column.name)} <small>{text(note)}</small></figcaption>"
            figures.append(f"<figure>{caption}{intervals(dots, column.name)}</figure>")
    return "".join(figures)


def _costs(comparison: Comparison) -> str:
    """Return charts of the board's first number against each cost in which two models differ."""
    column = next((column for column in comparison.columns() if column.better), None)
    if column is None:
        return ""
    figures: list[str] = []
    for fact, (unit, size) in _COSTS.items():
        points: list[Point] = []
        for line in comparison.lines():
            x = line.numbers.get((column.metric, column.name))
            cost = facts(line.subject)[FACTS.index(fact)][1] / size
            if x and not math.isnan(cost):
                points.append(Point(line.name, cost, x.value))
        if len({p.x for p in points}) > 1:
            chart = scatter(points, unit, f"{column.name}, {column.better} is better")
            figures.append(f"<figure><figcaption>{text(fact)}</figcaption>{chart}</figure>")
    if not figures:
        return ""
    return f'<h2>Quality and cost</h2><div class="charts">{"".join(figures)}</div>'


def _sheets(comparison: Comparison) -> str:
    """Return the first pictures of the reference and of each subject."""
    sheets = [(f"real ({comparison.against.name})", comparison.real)]
    sheets += [
        (subject.name, subject.samples)
        for subject, _ in comparison.successes
        if subject.samples is not None
    ]
    return "".join(_figure(name, sheet, f"the first pictures of {name}") for name, sheet in sheets)


def _nearest_pictures(comparison: Comparison) -> str:
    """Return the first pictures of each model above the training pictures nearest to them."""
    figures: list[str] = []
    for subject, _ in comparison.successes:
        if subject.pairs is not None:
            rows = subject.pairs.unflatten(0, (-1, 2)).transpose(0, 1).flatten(0, 1)
            alt = f"pictures of {subject.name} above their nearest training pictures"
            figures.append(_figure(subject.name, rows, alt, len(rows) // 2))
    if not figures:
        return ""
    training = next(
        (report.training for _, report in comparison.successes if report.training), None
    )
    count = f", of {training.pictures:,}" if training else ""
    paragraph = (
        "The upper row has the first pictures, the lower row the training picture nearest to "
        f"each{count}: pixel by pixel, shifted by up to 2, or mirrored. A model that memorised its "
        "training pictures shows the same picture twice."
    )
    cards = f'<div class="cards">{"".join(figures)}</div>'
    return f"<h2>Nearest training pictures</h2><p>{paragraph}</p>{cards}"


def _figure(name: str, sheet: Pixels, alt: str, columns: int = _SHEET_COLUMNS) -> str:
    side = max(sheet.shape[-2:])
    scale, smaller = max(1, _DISPLAY_SIDE // side), max(1, side // _DISPLAY_SIDE)
    sheet = avg_pool2d(sheet.float(), smaller).round().to(torch.uint8)
    image = picture(png.grid(sheet, columns, scale=scale, gap=4), alt)
    return f"<figure>{image}<figcaption>{text(name)}</figcaption></figure>"


def _report(subject: ComparedSubject) -> str:
    assert subject.report is not None
    date = f" <small>made {text(subject.report.date)}</small>" if subject.is_reused else ""
    return (
        f"<details><summary>{text(subject.name)}{date}</summary>"
        f"<pre>{text(subject.report.text())}</pre></details>"
    )
