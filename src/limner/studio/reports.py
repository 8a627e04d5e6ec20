"""The results of `limner evaluate` and `limner compare` for the page: plain numbers, each with its
n, and whole pages.

Of a run, only `report.json` and `report.md` in its own folder are read, and no link that leads out
of it; their content is returned as text and finite numbers. A comparison's page is a file that
anyone may have written: it is shown in a sandbox that isolates it, and runs only the script that
limner put into it.
"""

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from limner.studio.catalogue import matching_files, walk_folders

_MAX_REPORTS = 20  # reports of a run, and comparisons
_MAX_BYTES = 4 * 2**20  # bytes of a file of numbers
_MAX_PAGE_BYTES = 64 * 2**20
_MAX_LETTERS = 20_000  # letters of a report as text
PAGE, NUMBERS = "index.html", "comparison.json"


def reports(run: Path) -> list[dict[str, Any]]:
    """Return the reports of a run, the newest first; damaged ones are left out."""
    paths = matching_files(run, "evaluation/*/report.json")[:_MAX_REPORTS]
    documents = [report for file in paths if (report := _read(file, run)) is not None]
    return sorted(documents, key=lambda report: report["date"], reverse=True)


def comparisons(root: Path) -> dict[str, Path]:
    """Return the folders of comparisons below a root, by ids that do not reveal their names."""
    folders = [folder for folder, names in walk_folders(root) if {PAGE, NUMBERS} <= {*names}]
    return {
        hashlib.sha256(str(folder.relative_to(root)).encode()).hexdigest()[:20]: folder
        for folder in folders[:_MAX_REPORTS]
    }


def summaries(comparisons: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Return summaries of comparisons, the newest first; damaged ones are left out."""
    items = [summary for id, folder in comparisons.items() if (summary := _summary(id, folder))]
    return sorted(items, key=lambda summary: summary["date"], reverse=True)


def _summary(id: str, folder: Path) -> dict[str, Any] | None:
    try:
        document = _document(folder / NUMBERS, folder)
        return {
            "id": id,
            "folder": folder.name,
            "against": str(document["against"]["name"]),
            "n": int(document["n"]),
            "date": str(document["date"])[:10],
            "subjects": [str(subject["name"]) for subject in document["subjects"]],
        }
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def page(folder: Path) -> Path | None:
    """Return the file of a comparison's page; None if it is missing or too large."""
    path = folder / PAGE
    try:
        return path if _is_inside(path, folder) and path.stat().st_size <= _MAX_PAGE_BYTES else None
    except OSError:
        return None


def _is_inside(file: Path, folder: Path) -> bool:
    """Whether a file is in a folder, and not a link that leads out of it."""
    return file.resolve().is_relative_to(folder.resolve())


def policy() -> str:
    """Return the content security policy of a comparison's page: its styles, and its own script."""
    script = (files("limner") / "evaluate" / "page.js").read_bytes()
    digest = base64.b64encode(hashlib.sha256(b"\n" + script).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'; "
        "sandbox allow-scripts"
    )


def _document(file: Path, folder: Path) -> Any:
    """Return the content of a JSON file in a folder.

    Raises:
        OSError, ValueError: the file cannot be read, is too large, is elsewhere, or is not JSON.
    """
    if not _is_inside(file, folder) or file.stat().st_size > _MAX_BYTES:
        raise ValueError("too large, or elsewhere")
    return json.loads(file.read_text(encoding="utf-8"))


def _read(file: Path, run: Path) -> dict[str, Any] | None:
    try:
        document = _document(file, run)
        text = file.with_suffix(".md")
        is_readable = _is_inside(text, run) and text.is_file() and text.stat().st_size <= _MAX_BYTES
        return {
            "against": str(document["against"]["name"]),
            "date": str(document["date"])[:10],
            "rows": [_row(number) for number in document["numbers"] if number["row"] == "subject"],
            "text": text.read_text(encoding="utf-8")[:_MAX_LETTERS] if is_readable else "",
        }
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def _row(number: Mapping[str, Any]) -> dict[str, Any]:
    """Return a number as text, with its name, n and feature extractor."""
    value = float(number["value"])
    sign = str(number["sign"])
    text = f"{value:.4g}" if math.isfinite(value) else "unknown"
    if sign != "=":
        text = f"{sign} {text}"
    error, low, high = (number.get(name) for name in ("error", "low", "high"))
    if error is not None:
        text += f" ± {float(error):.2g}"
    elif low is not None and high is not None:
        text += f" ({float(low):.4g} to {float(high):.4g})"
    return {
        "name": str(number["name"]),
        "value": " ".join([text, str(number["unit"])]).strip(),
        "n": int(number["n"]),
        "extractor": str(number["extractor"]),
    }
