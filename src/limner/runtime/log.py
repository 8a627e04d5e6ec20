"""Files of JSON lines, and the log of a run, to which several commands add lines."""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LOG_FILE = "log.jsonl"


def read_log(run: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's log."""
    return read_lines(run / LOG_FILE)


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a file, without those that a killed process left unfinished."""
    rows = []
    with contextlib.suppress(FileNotFoundError):
        for text in file.read_bytes().split(b"\n"):
            with contextlib.suppress(ValueError):
                rows.append(json.loads(text))
    return rows


def append_line(file: Path, row: Mapping[str, Any]) -> None:
    """Add a row on its own line, even if the line before it is unfinished."""
    with file.open("ab+") as stream:
        stream.seek(-min(1, stream.seek(0, os.SEEK_END)), os.SEEK_END)
        is_cut = stream.read() not in (b"", b"\n")
        stream.write(b"\n" * is_cut + line(row).encode())


def line(row: Mapping[str, Any]) -> str:
    """Return a row as a line."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
