"""Draw the true error and the losses during training, which papers on unpaired translation could
not show.

    limner train recipes/gans/cyclegan-3d-flat64.toml --run RUN evaluate.every=500
    python docs/figures/translation.py RUN

RUN was evaluated while it was trained, as set in its section [evaluate], on pairs that were not
used in training; the numbers are read from its log. Minutes count only the training steps.
"""

import sys
from pathlib import Path

from labelled import PICTURES
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gans import style_axis
from limner.evaluate.evaluation import evaluate
from limner.runtime.log import read_log
from limner.training.recipe import Recipe

SOURCE = "source"
"""The row of a report for the pictures before translation."""
BLUE, ORANGE, GREY = "#2f6fb2", "#d9663b", "#8a8f94"
PANELS = {
    "what is lost there and back": {
        "cycle": "training",
        "evaluate.cycle error of A": "held-out 3d",
        "evaluate.cycle error of B": "held-out flat",
    },
    "Frechet distance": {"evaluate.FD (lite0)": "translations"},
    "true picture found (R@1 of 100)": {"evaluate.R@1 of 100 (lite0)": "translations"},
    "PSNR to the true picture, dB": {"evaluate.PSNR": "translations"},
}
"""The lines of each panel: their names in the log, and their labels."""
SOURCE_NUMBERS = {
    "true picture found (R@1 of 100)": "R@1 of 100",
    "PSNR to the true picture, dB": "PSNR",
}
"""Numbers of the untranslated pictures, which a translation must beat."""


def minutes(log: list[dict[str, float]]) -> list[float]:
    """Return the training time in minutes at each line of a log."""
    times, images, seconds = [], 0.0, 0.0
    for row in log:
        if speed := row.get("images_per_second"):
            seconds += (row["images"] - images) / speed
            images = row["images"]
        times.append(seconds / 60)
    return times


def source_numbers(run: Path) -> dict[str, float]:
    """Return the numbers of the held-out pictures before translation."""
    options = Recipe.read(run / "recipe.toml").evaluate
    report = evaluate(
        run,
        against=options["against"],
        metrics=["counterpart"],
        n=options["n"],
        extractor=options["extractor"],
        data={"split": options["split"]},
    )
    return {number.name: number.value for number in report.numbers if number.row == SOURCE}


def draw_course(run: Path) -> None:
    """Draw a panel for each number, over the minutes of training."""
    log = read_log(run)
    times, sources = minutes(log), source_numbers(run)
    figure = Figure(figsize=(7.2, 5.2), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (title, lines) in zip(figure.subplots(2, 2).flat, PANELS.items()):
        for (key, name), colour in zip(lines.items(), (GREY, BLUE, ORANGE)[-len(lines) :]):
            points = [(time, row[key]) for time, row in zip(times, log) if key in row]
            marker = "o" if key.startswith("evaluate.") else None
            axis.plot(*zip(*points), color=colour, lw=1.4, marker=marker, ms=3, label=name)
        if title in SOURCE_NUMBERS:
            level = sources[SOURCE_NUMBERS[title]]
            axis.axhline(level, color=GREY, lw=1.2, ls="--", label="the 3d pictures as they are")
        axis.set(title=title, xlabel="minutes")
        axis.legend(frameon=False, fontsize=8)
        style_axis(axis)
    figure.savefig(PICTURES / "translation-course.png", metadata={"Software": None})


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("pass the run of a cyclegan: python docs/figures/translation.py RUN")
    PICTURES.mkdir(exist_ok=True)
    draw_course(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
