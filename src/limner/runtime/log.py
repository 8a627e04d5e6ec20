"""Files of JSON lines, and the log of a run: a line now and then, by whichever command wrote it."""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LOG_FILE = "log.jsonl"


def read_log(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's log."""
    return read_lines(run / LOG_FILE)


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The rows of a file; one that a killed process left unfinished is left out."""
    rows = []
    with contextlib.suppress(FileNotFoundError):
        for text in file.read_bytes().split(b"\n"):
            with contextlib.suppress(ValueError):
                rows.append(json.loads(text))
    return rows


def append_line(file: Path, row: Mapping[str, Any]) -> None:
    """Add a row on a line of its own, also after one that was left unfinished."""
    with file.open("ab+") as at:
        at.seek(-min(1, at.seek(0, os.SEEK_END)), os.SEEK_END)
        cut = at.read() not in (b"", b"\n")
        at.write(b"\n" * cut + line(row).encode())


def line(row: Mapping[str, Any]) -> str:
    """A row as a line."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
