"""SVG charts for a web page, in the page's own colours, light or dark, and with its own fonts.

The page's style sheet formats the classes `dot`, `bar`, `best`, `beside`, `through`, `grid`,
`axis`, `mid` and `end`.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from limner.evaluate.webpage import text

_WIDTH, _ROW, _LINE, _MARGIN = 320, 30, 13, 10  # units of the drawing, about a pixel each
_MAX_NAME_LETTERS = 44  # letters of a name that fit in a row
_LOG_FROM = 30  # a range of positive values wider than this factor is drawn on a logarithmic axis


class Dot(NamedTuple):
    """A value with its interval.

    Args:
        name: the name of its row.
        value: the value at the dot.
        low, high: the ends of its bar; infinite for an open end; both equal the value for no bar.
        kind: "best", "beside" for a row that is not a subject, or "" for any other subject.
    """

    name: str
    value: float
    low: float
    high: float
    kind: str = ""


class Point(NamedTuple):
    """A point of a scatter chart: a subject with two values."""

    name: str
    x: float
    y: float


def intervals(dots: Sequence[Dot], label: str) -> str:
    """Draw a row for each value, as a dot on a common axis.

    A value that is not a subject's gets a line through all rows.

    Args:
        dots: the values, at least one.
        label: the description of the chart for screen readers.
    """
    ends = [e for d in dots for e in (d.value, d.low, d.high) if math.isfinite(e)]
    place, ticks = _axis(ends, _MARGIN, _WIDTH - _MARGIN)
    bottom = _ROW * len(dots) + 6
    parts = [_vertical(place(t), 0, bottom, "grid") + _tick(place(t), bottom, t) for t in ticks]
    parts += [_vertical(place(d.value), 0, bottom, "through") for d in dots if d.kind == "beside"]
    for i, d in enumerate(dots):
        y = _ROW * i + 22
        left = place(d.low) if math.isfinite(d.low) else 0
        right = place(d.high) if math.isfinite(d.high) else _WIDTH
        parts.append(f'<text x="0" y="{y - 9}">{text(_short(d.name))}</text>')
        if right > left:
            bar = f'x1="{left:.1f}" x2="{right:.1f}" y1="{y}" y2="{y}"'
            parts.append(f'<line class="bar {d.kind}" {bar}/>')
        dot = f'cx="{place(d.value):.1f}" cy="{y}" r="4"'
        parts.append(f'<circle class="dot {d.kind}" {dot}><title>{d.value:g}</title></circle>')
    return _drawing(_WIDTH, bottom + 18, parts, label)


def scatter(points: Sequence[Point], x_name: str, y_name: str) -> str:
    """Draw each subject as a dot, on axes that are logarithmic if values differ by much.

    Args:
        points: the subjects, at least one.
        x_name, y_name: the names of the axes.
    """
    height, left, bottom = 260, 44, 218
    x_place, x_ticks = _axis([p.x for p in points], left + 12, _WIDTH - 12)
    y_place, y_ticks = _axis([p.y for p in points], bottom - 12, 34)
    parts: list[str] = []
    for t in x_ticks:
        parts.append(_vertical(x_place(t), 24, bottom, "grid") + _tick(x_place(t), bottom, t))
    for t in y_ticks:
        y = y_place(t)
        parts.append(f'<line class="grid" x1="{left}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="axis end" x="{left - 6}" y="{y + 4:.1f}">{_number(t)}</text>')
    parts.append(f'<text class="axis" x="0" y="12">{text(y_name)}</text>')
    parts.append(f'<text class="axis end" x="{_WIDTH}" y="{height - 6}">{text(x_name)}</text>')
    name_y = -math.inf  # y of the previous name, which is higher up, so that names do not overlap
    for p in sorted(points, key=lambda p: y_place(p.y)):
        x, y = x_place(p.x), y_place(p.y)
        name_y = max(y, name_y + _LINE)
        is_left = x > _WIDTH / 2
        position = f'x="{x - 9 if is_left else x + 9:.1f}" y="{name_y + 4:.1f}"'
        name = text(_short(p.name, _MAX_NAME_LETTERS // 2))
        parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
        parts.append(f'<text class="{"end" if is_left else ""}" {position}>{name}</text>')
    return _drawing(_WIDTH, height, parts, f"{y_name} against {x_name}")


def _axis(
    values: Sequence[float], start: float, end: float
) -> tuple[Callable[[float], float], list[float]]:
    """Return the function from a value to its position, and the values of the ticks."""
    low, high = min(values), max(values)
    log = low > 0 and high > _LOG_FROM * low
    scale: Callable[[float], float] = math.log if log else float
    if high == low:
        room = abs(low) / 2 or 1.0
        low, high = low - room, high + room
    a, b = scale(low), scale(high)

    def place(value: float) -> float:
        return start + (scale(value) - a) / (b - a) * (end - start)

    return place, _decades(low, high) if log else _round_values(low, high)


def _round_values(low: float, high: float) -> list[float]:
    """Return two to six multiples of 1, 2 or 5 times a power of ten."""
    step = 10.0 ** math.floor(math.log10((high - low) / 2))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= 5)
    return [
        i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]


def _decades(low: float, high: float) -> list[float]:
    """Return at most six powers of ten, with 2 and 5 times these if there is room."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for multiples in ((1, 2, 5), (1,)):
        candidates = [m * 10.0**e for e in powers for m in multiples]
        ticks = [v for v in candidates if low * (1 - 1e-9) <= v <= high * (1 + 1e-9)]
        if len(ticks) <= 6:
            return ticks
    return ticks[:: -(-len(ticks) // 6)]


def _drawing(width: int, height: int, parts: Sequence[str], label: str) -> str:
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f'<svg {size} role="img" aria-label="{text(label)}">{"".join(parts)}</svg>'


def _vertical(x: float, top: float, bottom: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>'


def _tick(x: float, bottom: float, value: float) -> str:
    return f'<text class="axis mid" x="{x:.1f}" y="{bottom + 14}">{_number(value)}</text>'


def _number(value: float) -> str:
    """Format a number without digits that are rounding errors."""
    return f"{0.0 if abs(value) < 1e-12 else value:.4g}"


def _short(name: str, letters: int = _MAX_NAME_LETTERS) -> str:
    """Shorten a name to its end, which distinguishes runs."""
    return name if len(name) <= letters else f"…{name[1 - letters :]}"
