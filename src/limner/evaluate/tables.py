"""Tables of words, for a terminal and for a document."""

from collections.abc import Sequence

Row = Sequence[str]


def align(rows: Sequence[Row]) -> list[str]:
    """A line for each row, its cells below one another, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in rows]


def markdown(rows: Sequence[Row]) -> list[str]:
    """A Markdown table, whose first row are its headings."""
    head, *body = rows
    cells = [
        [cell.replace("|", "\\|") for cell in row] for row in (head, ["---"] * len(head), *body)
    ]
    return [f"| {' | '.join(row)} |" for row in cells]
