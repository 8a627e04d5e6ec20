"""What no paper on unpaired translation could show: the true error beside the losses, in training.

    limner train recipes/gans/cyclegan-3d-flat64.toml --run RUN evaluate.every=500
    python docs/figures/translation.py RUN

RUN was evaluated while it trained, by its section [evaluate], against pairs that it never saw; the
numbers are read from its log. Minutes are those of the training steps alone.
"""

import sys
from pathlib import Path

from labelled import PICTURES
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gans import plain
from limner.evaluate.evaluation import evaluate
from limner.runtime.log import read_log
from limner.training.recipe import Recipe

SOURCE = "source"
"""The row of a report on the pictures that are translated, as they are."""
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
"""What each panel shows: names in the log, and what the lines are called."""
BESIDE = {"true picture found (R@1 of 100)": "R@1 of 100", "PSNR to the true picture, dB": "PSNR"}
"""Numbers of the pictures as they were, which the true error has to beat."""


def minutes(log: list[dict[str, float]]) -> list[float]:
    """How long training had taken at each line of a log."""
    times, images, seconds = [], 0.0, 0.0
    for row in log:
        if speed := row.get("images_per_second"):
            seconds += (row["images"] - images) / speed
            images = row["images"]
        times.append(seconds / 60)
    return times


def of_sources(run: Path) -> dict[str, float]:
    """The numbers of the held-out pictures as they are."""
    asked = Recipe.read(run / "recipe.toml").evaluate
    report = evaluate(
        run,
        against=asked["against"],
        metrics=["counterpart"],
        n=asked["n"],
        extractor=asked["extractor"],
        data={"split": asked["split"]},
    )
    return {number.name: number.value for number in report.numbers if number.row == SOURCE}


def course(run: Path) -> None:
    """A panel for each number, over the minutes of training."""
    log = read_log(run)
    times, sources = minutes(log), of_sources(run)
    figure = Figure(figsize=(7.2, 5.2), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (title, lines) in zip(figure.subplots(2, 2).flat, PANELS.items()):
        for (key, name), colour in zip(lines.items(), (GREY, BLUE, ORANGE)[-len(lines) :]):
            points = [(time, row[key]) for time, row in zip(times, log) if key in row]
            marker = "o" if key.startswith("evaluate.") else None
            axis.plot(*zip(*points), color=colour, lw=1.4, marker=marker, ms=3, label=name)
        if title in BESIDE:
            level = sources[BESIDE[title]]
            axis.axhline(level, color=GREY, lw=1.2, ls="--", label="the 3d pictures as they are")
        axis.set(title=title, xlabel="minutes")
        axis.legend(frameon=False, fontsize=8)
        plain(axis)
    figure.savefig(PICTURES / "translation-course.png", metadata={"Software": None})


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("give the run of a cyclegan: python docs/figures/translation.py RUN")
    PICTURES.mkdir(exist_ok=True)
    course(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
