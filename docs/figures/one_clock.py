"""Draw the contest of `benchmarks/one_clock.py`, and print it as the tables of docs/choose.md and
docs/one-step.md.

    python docs/figures/one_clock.py

The rows are in `one_clock.jsonl`, next to this file. If a model took part twice, the last rows are
used.
"""

import math
from pathlib import Path
from typing import Any

from labelled import PICTURES, shrink
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from limner.runtime.log import read_lines

ROWS = Path(__file__).with_name("one_clock.jsonl")
COLOURS = {
    "autoregressive": "#8a5bc7",
    "autoencoders": "#c9a227",
    "gans": "#d9663b",
    "flows": "#2f9e6e",
    "diffusion": "#3b7dd9",
}
MARKS = "os^Dv<>P*Xhp8dH1234+x|"
FIXED_EVALUATIONS = {"dmd2": 1, "distilled": 4}
"""The evaluations of models for which they are fixed; a GAN has one."""
Row = dict[str, Any]


def newest(rows: list[Row], key: str) -> dict[str, dict[float, Row]]:
    """Return the last row of each model with a number such as the minutes, by model and number."""
    rows_of: dict[str, dict[float, Row]] = {}
    for row in rows:
        if key in row:
            rows_of.setdefault(row["model"], {})[row[key]] = row
    return rows_of


def against_minutes(axis: Axes, models: dict[str, dict[float, Row]]) -> None:
    """Draw the distance against minutes; dots are larger for models that paint more slowly."""
    for i, (name, by_minutes) in enumerate(models.items()):
        last = by_minutes[max(by_minutes)]
        size = 12 * (1 + math.log10(max(1, last["milliseconds"] / 0.05)))
        lines(axis, by_minutes, name, COLOURS[last["family"]], MARKS[i % len(MARKS)], size)
    axis.set(xlabel="minutes of one core", ylabel="Frechet distance (lenet)")
    marks = sorted({minutes for by_minutes in models.values() for minutes in by_minutes})
    axis.set_xticks(marks, [f"{minutes:g}" for minutes in marks])


def against_evaluations(axis: Axes, models: dict[str, dict[float, Row]]) -> None:
    """Draw the distance against evaluations of the network, after the same minutes."""
    for i, (name, by_evaluations) in enumerate(models.items()):
        colour = list(COLOURS.values())[i % len(COLOURS)] if len(by_evaluations) > 1 else "#555555"
        lines(axis, by_evaluations, name, colour, MARKS[i % len(MARKS)], 24)
    axis.set(xlabel="evaluations of the network for a picture", ylabel="Frechet distance (lenet)")
    marks = sorted({count for by_count in models.values() for count in by_count})
    axis.set_xticks(marks, [f"{count:g}" for count in marks])


def lines(
    axis: Axes, rows: dict[float, Row], name: str, colour: str, mark: str, size: float
) -> None:
    """Draw a model's distances with their intervals."""
    x = sorted(rows)
    y = [rows[value]["fd"] for value in x]
    bars = [[rows[value]["fd"] - rows[value]["low"] for value in x]]
    bars += [[rows[value]["high"] - rows[value]["fd"] for value in x]]
    axis.errorbar(x, y, yerr=bars, color=colour, lw=1.2, elinewidth=0.7)
    axis.scatter(x, y, s=size, color=colour, marker=mark, label=name, zorder=3)


def figure(draw: Any, models: dict[str, dict[float, Row]], name: str, real: float) -> None:
    """Write docs/pictures/NAME.png."""
    sheet = Figure(figsize=(7.2, 5.2), dpi=100, layout="constrained")
    FigureCanvasAgg(sheet)
    axis = sheet.subplots()
    axis.set(xscale="log", yscale="log")
    draw(axis, models)
    axis.minorticks_off()
    axis.axhline(real, color="#8a8f94", lw=1.2, ls="--", label="other real digits")
    ticks = [10, 20, 50, 100, 200, 500, 1000]
    axis.set_yticks(ticks, map(str, ticks))
    axis.grid(color="#e4e4e4", lw=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    sheet.legend(loc="outside right center", frameon=False, fontsize=8)
    sheet.savefig(PICTURES / f"{name}.png", metadata={"Software": None})
    shrink(name)


def table(models: dict[str, dict[float, Row]]) -> str:
    """Return all models as a Markdown table, sorted by their last distance, best first."""
    marks = sorted({minutes for by_minutes in models.values() for minutes in by_minutes})
    columns = [f"FD, {minutes:g} min" for minutes in marks]
    columns += ["precision", "recall", "bits/dim", "a picture takes"]
    rows = [["", "family", *columns], ["---"] * (2 + len(columns))]
    for name, model_rows in sorted(models.items(), key=lambda item: item[1][max(item[1])]["fd"]):
        last = model_rows[max(model_rows)]
        distances = [
            f"{model_rows[mark]['fd']:.0f}" if mark in model_rows else "" for mark in marks
        ]
        low, high = last["low"], last["high"]
        distances[-1] += f" ({low:.0f}-{high:.0f})" if marks[-1] in model_rows else ""
        bits = ""
        if "bits" in last:
            bits = f"{last['sign']} {last['bits']:.2f}".removeprefix("= ")
        shares = [f"{last[share]:.2f}" for share in ("precision", "recall")]
        time = (
            f"{last['milliseconds']:.2g} ms"
            if last["milliseconds"] < 10
            else f"{last['milliseconds']:.0f} ms"
        )
        rows.append([f"`{name}`", last["family"], *distances, *shares, bits, time])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def finished_models(rows: list[Row]) -> dict[str, dict[float, Row]]:
    """Return the rows of each model that reached its last mark, by minutes; the best model last."""
    contest = newest([row for row in rows if "step" in row], "minutes")
    finished = {
        name: model_rows
        for name, model_rows in contest.items()
        if "milliseconds" in model_rows[max(model_rows)]
    }
    return dict(sorted(finished.items(), key=lambda item: -item[1][max(item[1])]["fd"]))


def evaluations_table(models: dict[str, dict[float, Row]]) -> str:
    """Return the distances by evaluations as a Markdown table, sorted by the best distance."""
    counts = sorted({count for by_count in models.values() for count in by_count})
    rows = [["", *(f"{count:g}" for count in counts)], ["---"] * (1 + len(counts))]
    by_best = sorted(models.items(), key=lambda item: min(row["fd"] for row in item[1].values()))
    for name, by_count in by_best:
        distances = [
            f"{by_count[count]['fd']:.0f}" if count in by_count else "" for count in counts
        ]
        rows.append([f"`{name}`", *distances])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    rows = list(read_lines(ROWS))
    finished, real = finished_models(rows), rows[0]["real"]
    figure(against_minutes, finished, "one-clock", real)
    by_evaluations = newest(rows, "evaluations")
    for name, model_rows in finished.items():
        evaluations = (
            1 if model_rows[max(model_rows)]["family"] == "gans" else FIXED_EVALUATIONS.get(name)
        )
        if evaluations:
            by_evaluations[name] = {evaluations: model_rows[max(model_rows)]}
    figure(against_evaluations, by_evaluations, "few-evaluations", real)
    print(f"{table(finished)}\n\n{evaluations_table(by_evaluations)}")


if __name__ == "__main__":
    main()
