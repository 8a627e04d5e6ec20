"""What a run's folder says of its training: how far it is, its log, its sheets of samples.

Only files are read, without torch; a damaged run is left out. Whether a process is at work there
is known elsewhere.
"""

import hashlib
import os
import re
import tomllib
from pathlib import Path
from typing import Any

from limner.runtime.log import read_log
from limner.studio.catalogue import FILE, changed, named, visible

RECIPE = "recipe.toml"
_MOST = 200  # runs
_DEPTH = 4
_POINTS = 300  # of a curve
_KEPT = ("step", "images", "images_per_second")


def found(root: Path) -> dict[str, Path]:
    """The runs below a folder by their ids, the newest first."""
    runs: list[Path] = []
    for place, inner, names in os.walk(root):
        folder = Path(place)
        ends = RECIPE in names or len(folder.relative_to(root).parts) >= _DEPTH
        inner[:] = [] if ends else visible(place, inner)
        if RECIPE in names and (folder / FILE).is_file():
            runs.append(folder)
    runs.sort(key=lambda run: -changed(run / RECIPE))
    return {id_of(run, root): run for run in runs[:_MOST]}


def id_of(run: Path, root: Path) -> str:
    """A run's id, which stays the same."""
    return hashlib.sha256(str(run.relative_to(root)).encode()).hexdigest()[:20]


def about(run: Path) -> dict[str, Any] | None:
    """Model, source, steps of a run, and how many are done; None where its recipe is damaged."""
    try:
        recipe = tomllib.loads((run / RECIPE).read_text(encoding="utf-8"))
        model, source = str(recipe["model"]["name"]), str(recipe["data"]["source"])
        steps = int(recipe["train"]["steps"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return {
        "model": model,
        "source": source,
        "steps": steps,
        "step": max([0, *_numbers(run / "state", "step-*")]),
        "changed": changed(run / RECIPE),
    }


def curves(run: Path) -> dict[str, list[list[float]]]:
    """The numbers of a run's log by name: (step, value), thinned out evenly."""
    rows = read_log(run)
    rows = rows[:: -(len(rows) // _POINTS + 1)][::-1]  # the newest is among them
    names = dict.fromkeys(name for row in rows for name in row if name not in _KEPT)
    return {
        name: [[row["step"], row[name]] for row in rows if isinstance(row.get(name), int | float)]
        for name in names
    }


def logged_step(run: Path) -> int:
    """The last step of which the log says something."""
    return max([0, *(int(row["step"]) for row in read_log(run)[-1:] if "step" in row)])


def sheets(run: Path) -> list[int]:
    """The steps at which samples were painted."""
    return sorted(_numbers(run / "samples", "step-*.png"))


def sheet(run: Path, step: int) -> Path:
    """The file of the samples of a step."""
    return run / "samples" / f"step-{step:06d}.png"


def _numbers(folder: Path, pattern: str) -> list[int]:
    steps = (re.fullmatch(r"step-(\d+)", path.stem) for path in named(folder, pattern))
    return [int(match[1]) for match in steps if match]
