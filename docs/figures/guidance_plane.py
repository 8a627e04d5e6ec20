"""Draw precision against recall as guidance grows, with four guides, for the page on sampling.

    limner train recipes/flows/flow-matching-mnist.toml model.channels=16,32 train.steps=1000 \\
    --run runs/flow-small
    limner train recipes/diffusion/classifier-mnist.toml train.init.base=flow-matching \\
    --run runs/classifier-flow
    python docs/figures/guidance_plane.py flow-matching --guide runs/flow-small \\
    --classifier runs/classifier-flow [--n 1000]

The model denoises digits. The run of `--guide` is a worse version of it, and that of `--classifier`
is a classifier that was trained over it. Each point uses ten steps of dpm++, and the same seeds and
classes. The rows are stored in limner's cache, so an interrupted run continues where it stopped.
"""

import argparse
from typing import Any

import torch
from labelled import PICTURES, shrink
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from limner.contract.checkpoint import digest_tensors
from limner.contract.model import GenerativeModel
from limner.evaluate.evaluation import evaluate
from limner.evaluate.report import Number, Report
from limner.evaluate.subject import Reference, open_reference, open_subject
from limner.runtime.cache import cache_folder
from limner.runtime.log import append_line, read_lines
from limner.runtime.progress import say

SCALES = 1.0, 1.5, 2.0, 3.0, 5.0, 8.0
STEPS: dict[str, Any] = {"sampler": "dpm++", "steps": 10}
COLOURS = {
    "classifier-free": "#2f9e6e",
    "within an interval": "#3b7dd9",
    "by a worse version": "#d9663b",
    "by a classifier": "#8a5bc7",
}
NUMBERS = "FD", "precision", "recall"
LEAST_N = 257  # the distance has an interval above twice as many pictures as lenet's 128 features
Row = dict[str, Any]


def options(guide: str, scale: float, worse_run: str) -> dict[str, Any]:
    """Return the sampler options for a kind of guidance at a scale; for every kind, 1 means no
    guidance.
    """
    if guide == "within an interval":
        return STEPS | {"scale": scale, "interval": (0.3, 3.0)}
    if guide == "by a worse version":
        return STEPS | {"guide": worse_run, "guide_scale": scale}
    if guide == "by a classifier":
        return STEPS | {"scale": scale - 1, "base_scale": 1.0}
    return STEPS | {"scale": scale}


def evaluate_point(
    model: GenerativeModel, sampler: dict[str, Any], reference: Reference, n: int
) -> Row:
    """Return the three numbers of one point and of real digits, with their intervals."""
    weights = digest_tensors(model.state_dict(), repr(model.description()))
    cache, name = cache_folder() / "guidance-plane.jsonl", f"{weights[:32]} {n} {sampler}"
    for row in read_lines(cache):
        if row["name"] == name:
            return row
    metrics = ["fid", "precision-recall"]
    with torch.autocast("cpu", torch.bfloat16):
        report = evaluate(
            model, reference, metrics=metrics, n=n, sampler=sampler, extractor="lenet", quiet=True
        )
    row = {"name": name} | {key: value_and_interval(report, key) for key in NUMBERS}
    row |= {f"real {key}": value_and_interval(report, key, "real (mnist train)") for key in NUMBERS}
    append_line(cache, row)
    return row


def value_and_interval(report: Report, name: str, row: str = "") -> list[float]:
    """Return a number and the ends of its interval."""
    number: Number | None = report.number(name, row) if row else report.number(name)
    assert number is not None and number.low is not None and number.high is not None
    return [number.value, number.low, number.high]


def plane(axis: Axes, curves: dict[str, list[Row]]) -> None:
    """Draw precision against recall, one line for each guide, with scales next to the points."""
    for guide, rows in curves.items():
        recall, precision = ([row[key][0] for row in rows] for key in ("recall", "precision"))
        axis.plot(recall, precision, color=COLOURS[guide], marker="o", ms=4, lw=1.5, label=guide)
        for x, y, scale in list(zip(recall, precision, SCALES))[1:]:
            if guide == "by a classifier":  # its points are close together
                continue
            offset: dict[str, Any] = {"textcoords": "offset points", "xytext": (4, 3)}
            axis.annotate(f"{scale:g}", (x, y), fontsize=7, color=COLOURS[guide], **offset)
    first = next(iter(curves.values()))[0]
    axis.plot(first["recall"][0], first["precision"][0], "o", color="#333333", label="no guidance")
    real = [first[f"real {key}"][0] for key in ("recall", "precision")]
    axis.plot(*real, "*", ms=11, color="#8a8f94", label="real digits")
    axis.set(xlabel="recall", ylabel="precision")
    axis.legend(frameon=False, fontsize=8)


def distance(axis: Axes, curves: dict[str, list[Row]]) -> None:
    """Draw the Frechet distance against the scale, with intervals."""
    for guide, rows in curves.items():
        value, low, high = zip(*(row["FD"] for row in rows))
        bars = [[v - x for v, x in zip(value, low)], [x - v for v, x in zip(value, high)]]
        style: dict[str, Any] = {"lw": 1.5, "marker": "o", "ms": 4, "elinewidth": 0.8}
        axis.errorbar(SCALES, value, yerr=bars, color=COLOURS[guide], **style)
    real = next(iter(curves.values()))[0]["real FD"][0]
    axis.axhline(real, color="#8a8f94", lw=1.2, ls="--")
    axis.set(xlabel="scale", ylabel="Frechet distance (lenet)", yscale="log")
    axis.set_xscale("log")
    axis.set_xticks(SCALES, [f"{scale:g}" for scale in SCALES])
    axis.minorticks_off()
    ticks = [15, 30, 60, 120]
    axis.set_yticks(ticks, map(str, ticks))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("model", help="denoising model of digits")
    parser.add_argument("--guide", required=True, help="run of a worse version of the model")
    parser.add_argument(
        "--classifier", required=True, help="run of a classifier trained over the model"
    )
    parser.add_argument("--n", type=int, default=1000, help="number of pictures at each point")
    args = parser.parse_args()
    if args.n < LEAST_N:
        parser.error(f"--n {args.n} is too small for intervals; give {LEAST_N} or more")
    subject = open_subject(args.model, {}, torch.device("cpu"))
    reference = open_reference(None, {}, subject)
    curves: dict[str, list[Row]] = {}
    for guide in COLOURS:
        name = args.classifier if guide == "by a classifier" else args.model
        model = open_subject(name, {}, torch.device("cpu")).model
        for scale in SCALES:
            sampler = options(guide, scale, args.guide) if scale > 1 else STEPS | {"scale": 1.0}
            assert model is not None and subject.model is not None
            row = evaluate_point(model if scale > 1 else subject.model, sampler, reference, args.n)
            curves.setdefault(guide, []).append(row)
            say(f"{guide} {scale:g}: " + ", ".join(f"{k} {row[k][0]:.3g}" for k in NUMBERS))
    figure = Figure(figsize=(8.2, 3.8), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    plane(left, curves)
    distance(right, curves)
    for axis in (left, right):
        axis.grid(color="#e4e4e4", lw=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURES / "guidance-plane.png", metadata={"Software": None})
    shrink("guidance-plane")


if __name__ == "__main__":
    main()
