"""The state of a training, from the files in its run's folder: progress, log, sheets of samples.

The files are read without torch; a damaged run is left out. Whether a process is training there is
found out elsewhere.
"""

import hashlib
import os
import re
import tomllib
from pathlib import Path
from typing import Any

from limner.runtime.log import read_log
from limner.studio.catalogue import FILE, matching_files, modification_time, visible_folders

RECIPE = "recipe.toml"
_MAX_RUNS = 200
_MAX_DEPTH = 4
_MAX_POINTS = 300  # points of a curve
_RUN_COLUMNS = ("step", "images", "images_per_second")


def find_runs(root: Path) -> dict[str, Path]:
    """Return the runs below a folder by their ids, the newest first."""
    runs: list[Path] = []
    for path, inner, names in os.walk(root):
        folder = Path(path)
        is_leaf = RECIPE in names or len(folder.relative_to(root).parts) >= _MAX_DEPTH
        inner[:] = [] if is_leaf else visible_folders(path, inner)
        if RECIPE in names and (folder / FILE).is_file():
            runs.append(folder)
    runs.sort(key=lambda run: -modification_time(run / RECIPE))
    return {id_of(run, root): run for run in runs[:_MAX_RUNS]}


def id_of(run: Path, root: Path) -> str:
    """Return the id of a run, which stays the same."""
    return hashlib.sha256(str(run.relative_to(root)).encode()).hexdigest()[:20]


def describe_run(run: Path) -> dict[str, Any] | None:
    """Return model, source, planned and done steps of a run; None if its recipe is damaged."""
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
        "changed": modification_time(run / RECIPE),
    }


def curves(run: Path) -> dict[str, list[list[float]]]:
    """Return the numbers of a run's log by name: pairs (step, value), thinned out evenly."""
    rows = read_log(run)
    rows = rows[:: -(len(rows) // _MAX_POINTS + 1)][::-1]  # this keeps the newest
    names = dict.fromkeys(name for row in rows for name in row if name not in _RUN_COLUMNS)
    return {
        name: [[row["step"], row[name]] for row in rows if isinstance(row.get(name), int | float)]
        for name in names
    }


def logged_step(run: Path) -> int:
    """Return the last step in the log; 0 if there is none."""
    return max([0, *(int(row["step"]) for row in read_log(run)[-1:] if "step" in row)])


def sheets(run: Path) -> list[int]:
    """Return the steps at which samples were painted."""
    return sorted(_numbers(run / "samples", "step-*.png"))


def sheet(run: Path, step: int) -> Path:
    """Return the file of the samples of a step."""
    return run / "samples" / f"step-{step:06d}.png"


def _numbers(folder: Path, pattern: str) -> list[int]:
    steps = (re.fullmatch(r"step-(\d+)", path.stem) for path in matching_files(folder, pattern))
    return [int(match[1]) for match in steps if match]
