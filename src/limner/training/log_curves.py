"""The log of a run as curves: a picture with a panel for each kind of number."""

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limner.contract.atomic_files import write_durably
from limner.training.evaluation import PREFIX

_COLOURS = ("#2f6fb2", "#d9663b", "#3c9a6b", "#8a5fb0", "#b8962e", "#5b6770")
_ENDINGS = {"loss": "loss", "norm": "gradient norm", "lr": "learning rate"}
_OTHER_PANEL = "from the model"
_UNDRAWN_COLUMNS = {"step", "images", "seconds", "skipped"}
_LOG_FROM = 20  # a range of values wider than this factor is drawn on a logarithmic axis


def draw_curves(rows: Sequence[Mapping[str, Any]], path: Path, title: str = "") -> None:
    """Draw the log of a run: losses, other values of the model, learning rates and speed.

    Args:
        rows: lines of the log, each with "step".
        path: path of the PNG file.
        title: title of the figure.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _panels(rows)
    figure = Figure(figsize=(10, 2.6 * math.ceil(len(panels) / 2) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    # Without parse_math=False, a part between two "$" would be typeset as a formula.
    figure.suptitle(title, fontsize=11, color="#222222", parse_math=False)
    axes = figure.subplots(math.ceil(len(panels) / 2), 2, squeeze=False).flatten()
    for axis, (heading, keys) in zip(axes, panels.items()):
        _draw(axis, heading, keys, rows)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    file = io.BytesIO()
    with warnings.catch_warnings():  # a letter that the font does not have becomes a box
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.savefig(file, format="png", dpi=110)
    write_durably(path, file.getvalue())


def _panels(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return heading -> keys of the numbers in a panel."""
    panels: dict[str, list[str]] = {"loss": [], "images per second": []}
    for key in dict.fromkeys(key for row in rows for key in row):
        if key in _UNDRAWN_COLUMNS:
            continue
        fallback = "images per second" if key == "images_per_second" else _OTHER_PANEL
        if key.startswith(PREFIX):  # each of these numbers has its own panel
            fallback = key.removeprefix(PREFIX)
        panels.setdefault(_ENDINGS.get(key.rpartition(".")[2], fallback), []).append(key)
    return {heading: keys for heading, keys in panels.items() if keys}


def _draw(axis: Any, heading: str, keys: list[str], rows: Sequence[Mapping[str, Any]]) -> None:
    all_values: list[float] = []
    for key, colour in zip(keys, _COLOURS):
        points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
        steps, values = zip(*points) if points else ((), ())
        all_values += values
        is_long = len(values) > 60
        axis.plot(
            steps, values, color=colour, lw=0.8 if is_long else 1.6, alpha=0.3 if is_long else 1
        )
        if is_long:
            axis.plot(steps, _smooth(values), color=colour, lw=1.6)
        axis.plot([], [], color=colour, lw=1.6, label=key)
    if all_values and min(all_values) > 0 and max(all_values) > _LOG_FROM * min(all_values):
        axis.set_yscale("log")
    axis.set_title(
        keys[0] if heading == _OTHER_PANEL and len(keys) == 1 else heading,
        fontsize=10,
        loc="left",
        color="#222222",
    )
    axis.set_xlabel("step", fontsize=8, color="#555555")
    axis.tick_params(labelsize=8, colors="#555555")
    axis.grid(color="#e4e4e4", lw=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    if len(keys) > 1:
        axis.legend(fontsize=8, frameon=False)


def _smooth(values: Sequence[float]) -> list[float]:
    """Return a running mean over about a thirtieth of the points, unbiased at the start."""
    decay, mean, weight, smooth = 1 - 30 / len(values) if len(values) > 60 else 0.5, 0.0, 0.0, []
    for value in values:
        mean = decay * mean + (1 - decay) * value
        weight = decay * weight + (1 - decay)
        smooth.append(mean / weight)
    return smooth
