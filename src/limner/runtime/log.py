"""The log of a run: a line of JSON now and then, by whichever command wrote it."""

import contextlib
import json
from pathlib import Path
from typing import Any

LOG_FILE = "log.jsonl"


def read_log(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's log; one that a killed process left unfinished is left out."""
    rows = []
    with contextlib.suppress(FileNotFoundError):
        for line in (run / LOG_FILE).read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                rows.append(json.loads(line))
    return rows


def line(row: dict[str, Any]) -> str:
    """A row as a line of the log."""
    return json.dumps(row, allow_nan=False) + "\n"
