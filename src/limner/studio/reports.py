"""What `limner evaluate` wrote of a run, for the page: plain numbers, each with its n.

Only `report.json` files in the run's own folder are read, whatever is in them comes out as words
and finite numbers.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_MOST = 20  # reports of a run
_LARGEST = 2**20  # bytes


def reports(run: Path) -> list[dict[str, Any]]:
    """The reports of a run, the newest first; a damaged one is left out."""
    files = sorted(run.glob("evaluation/*/report.json"))[:_MOST]
    found = [report for file in files if (report := _read(file)) is not None]
    return sorted(found, key=lambda report: report["date"], reverse=True)


def _read(file: Path) -> dict[str, Any] | None:
    try:
        if file.stat().st_size > _LARGEST:
            return None
        document = json.loads(file.read_text(encoding="utf-8"))
        return {
            "against": str(document["against"]["name"]),
            "date": str(document["date"])[:10],
            "rows": [_row(each) for each in document["numbers"] if each["row"] == "subject"],
        }
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def _row(number: Mapping[str, Any]) -> dict[str, Any]:
    """A number as it is printed, with what it was measured on."""
    value = float(number["value"])
    sign = str(number["sign"])
    shown = f"{value:.4g}" if math.isfinite(value) else "unknown"
    if sign != "=":
        shown = f"{sign} {shown}"
    error, low, high = (number.get(name) for name in ("error", "low", "high"))
    if error is not None:
        shown += f" ± {float(error):.2g}"
    elif low is not None and high is not None:
        shown += f" ({float(low):.4g} to {float(high):.4g})"
    return {
        "name": str(number["name"]),
        "value": " ".join([shown, str(number["unit"])]).strip(),
        "n": int(number["n"]),
        "extractor": str(number["extractor"]),
    }
