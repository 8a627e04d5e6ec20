"""Tables of words, for a terminal and for a document."""

import re
from collections.abc import Sequence

Row = Sequence[str]
_MARKDOWN_CHARACTERS = re.compile(
    r"[\\`*|]|<(?=[a-zA-Z/!?])|&(?=#?\w+;)|(?<!\w)_|_(?!\w)|\](?=[(\[])"
)
"""Characters that are Markdown syntax: of a cell, a tag, emphasis, code, or a link."""


def align_columns(rows: Sequence[Row]) -> list[str]:
    """Return a line for each row, with aligned columns two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in rows]


def escape_markdown(words: str) -> str:
    """Escape text, so that Markdown shows it unchanged.

    >>> print(escape_markdown("runs/<b>|*x*, <= 3"))
    runs/\\<b>\\|\\*x\\*, <= 3
    """
    return _MARKDOWN_CHARACTERS.sub(r"\\\g<0>", words)


def markdown(rows: Sequence[Row]) -> list[str]:
    """Return the lines of a Markdown table; the first row holds the headings, cells are text."""
    head, *body = rows
    cells = [[escape_markdown(cell) for cell in row] for row in (head, ["---"] * len(head), *body)]
    return [f"| {' | '.join(row)} |" for row in cells]
