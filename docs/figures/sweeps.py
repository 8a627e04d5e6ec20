"""Draw two sweeps for the page on diffusion: the Frechet distance against the evaluations of the
network with several samplers, and the distance and the Inception Score against the guidance scale.

    python docs/figures/sweeps.py [MODEL] [--n 1000] [--most 100] [--of NAME]

MODEL is a bundled model or a run that denoises. For a cascade, the base is judged at its own size.
For a classifier, its base is judged: guided without the classifier, and guided with it, with and
without giving the class to the base. NAME is added at the end of the pictures' names.

At every point, picture i is painted from seed i with the caption or the class of real picture i, in
bfloat16. Each point is a separate evaluation, whose report is stored in limner's cache, so an
interrupted run continues where it stopped, and `--most 0` draws the reports that exist. An interval
needs more than twice as many pictures as the judge has features.
"""

import argparse
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from labelled import PICTURES
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from limner.contract.checkpoint import digest_tensors
from limner.contract.model import GenerativeModel
from limner.diffusion.cascade import Cascade
from limner.diffusion.classifier_guidance import Classifier
from limner.diffusion.denoising_model import DenoisingModel
from limner.evaluate.evaluation import evaluate
from limner.evaluate.extractors.choose import open_extractor
from limner.evaluate.metrics.fid import frechet_distance
from limner.evaluate.metrics.statistics import Moments
from limner.evaluate.report import Number, Report, append_report, read_reports
from limner.evaluate.subject import Reference, open_reference, open_subject
from limner.maths.samplers.sampler import SamplerName
from limner.runtime import processes
from limner.runtime.cache import cache_folder
from limner.runtime.progress import say

EVALUATIONS = 1, 2, 3, 5, 10, 15, 25, 50, 100
SCALES = 0.0, 1.0, 1.5, 2.5, 4.0, 7.0
COLOURS: dict[SamplerName, str] = {
    "ddim": "#3b7dd9",
    "heun": "#d9663b",
    "dpm++": "#2f9e6e",
    "unipc": "#8a5bc7",
    "ancestral": "#8a8f94",
}
"""The samplers that are compared; `euler` is the same as `ddim`."""
CLASSIFIED: dict[str, dict[str, float]] = {
    "by a classifier alone": {},
    "by a classifier, told the class": {"base_scale": 1.0},
}
"""Further sampler options for a base that is guided by a classifier."""
SCORES = {
    "FD": "Frechet distance",
    "IS (1 split)": "Inception Score = S D",
    "sharpness (1 split)": "sharpness S",
    "diversity (1 split)": "diversity D",
}
"""The numbers of a report that are drawn against the scale, with their titles."""


class Point(NamedTuple):
    """The sampler settings of one point of a sweep."""

    sampler: SamplerName
    steps: int
    scale: float = 1.0

    @classmethod
    def within(cls, sampler: SamplerName, evaluations: int) -> "Point":
        """Return the point with the most steps that needs at most this many evaluations."""
        return cls(sampler, (evaluations + 1) // 2 if sampler == "heun" else evaluations)

    @property
    def evaluations(self) -> int:
        """The evaluations of the network for a picture: two per step with Heun's rule, except for
        the last step. If guidance evaluates it twice at one time, this counts as one.
        """
        return 2 * self.steps - 1 if self.sampler == "heun" else self.steps


GUIDED = [Point("dpm++", 10, scale) for scale in SCALES]
UNGUIDED = [Point.within(sampler, most) for most in EVALUATIONS for sampler in COLOURS]


class Sweeps:
    """Reports on a model, each made only once.

    Args:
        model: the model that paints.
        against: the real pictures.
        n: number of pictures at each point.
        options: sampler options for every point.
    """

    def __init__(
        self, model: GenerativeModel, against: Reference, n: int, **options: float
    ) -> None:
        self.model, self.against, self.n, self.options = model, against, n, options
        weights = digest_tensors(model.state_dict(), repr(model.description()))
        name = "-".join([weights[:32], str(n), *(f"{k}={v:g}" for k, v in options.items())])
        self.folder = cache_folder() / "sweeps" / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.reports: dict[Point, Report] = {}
        for report in map(Report.from_json, read_reports(self.folder)):
            self.reports[point_of(report.subject.sampler)] = report

    def visit(self, points: Iterable[Point]) -> None:
        """Make the reports that are missing."""
        for point in points:
            if point in self.reports:
                continue
            with torch.autocast(self.model.device.type, torch.bfloat16):
                report = evaluate(
                    self.model,
                    self.against,
                    metrics=["fid", "is"],
                    n=self.n,
                    sampler=point._asdict() | self.options,
                    quiet=True,
                )
            append_report(report, self.folder)
            self.reports[point] = report
            say(f"{line(point, report)}; {report.seconds:.0f} s")

    def real(self) -> float:
        """Return the Frechet distance of the real pictures with the painted captions or classes. It
        is what the best possible model would reach, and is below the floor if the pictures are
        part of the reference.
        """
        pictures = self.against.real
        extract = open_extractor(None, pictures.spec, self.model.device)
        numbers = torch.arange(len(pictures)).split(64)
        features = torch.cat([extract(pictures.pictures(batch)).features for batch in numbers])
        return frechet_distance(Moments.of(features[: self.n]), Moments.of(features))


def point_of(options: dict[str, Any]) -> Point:
    """Return the point of a report, from its sampler options."""
    return Point(options["sampler"], options["steps"], options["scale"])


def sampling(reports: dict[Point, Report], real: float) -> Figure:
    """Draw the Frechet distance against evaluations, one line for each sampler."""
    figure = Figure(figsize=(7.2, 4.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for i, (sampler, colour) in enumerate(COLOURS.items()):
        own_reports = {p: reports[p] for p in UNGUIDED if p.sampler == sampler and p in reports}
        if not own_reports:
            continue
        shift = 1.03 ** (i - len(COLOURS) // 2)  # so that intervals do not overlap
        label = "ddim, euler" if sampler == "ddim" else sampler
        curve(axis, {p.evaluations * shift: r for p, r in own_reports.items()}, "FD", colour, label)
    floor = next(iter(reports.values())).number("FD", "floor")
    if floor is not None:
        mark_level(axis, floor.value, "other real pictures (floor)", ":")
    mark_level(axis, real, "real pictures of the same conditions")
    axis.set_xscale("log")
    most_evaluations = max(point.evaluations for point in reports)
    ticks = [most for most in EVALUATIONS if most <= most_evaluations]
    axis.set_xticks(ticks, map(str, ticks))
    axis.minorticks_off()
    axis.set(xlabel="evaluations of the network for a picture", ylabel=SCORES["FD"])
    if axis.get_ylim()[1] > 10 * real:
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def guidance(sweeps: dict[str, dict[Point, Report]], real: float) -> Figure:
    """Draw Frechet distance, IS, sharpness and diversity against the scale, one line for each
    guide.
    """
    figure = Figure(figsize=(7.2, 4.8), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    numbers = next(iter(sweeps["classifier-free"].values())).numbers
    for axis, (name, title) in zip(figure.subplots(2, 2).flat, SCORES.items()):
        for (guide, reports), colour in zip(sweeps.items(), ("#2f9e6e", "#d9663b", "#3b7dd9")):
            by_scale = {point.scale: reports[point] for point in GUIDED if point in reports}
            curve(axis, by_scale, name, colour, guide)
            axis.set_xticks(list(by_scale), [f"{scale:g}" for scale in by_scale], fontsize=8)
        levels = [real] if name == "FD" else []
        levels += [x.value for x in numbers if x.name == name and x.row.startswith("real")]
        mark_level(axis, levels[0], "the real pictures")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("scale")
    figure.axes[0].set_yscale("log")
    figure.axes[0].legend(frameon=False, fontsize=8)
    return figure


def curve(axis: Axes, reports: dict[float, Report], name: str, colour: str, label: str) -> None:
    """Draw a number of several reports, with its interval if there is one."""
    numbers = {x: number for x, r in reports.items() if (number := r.number(name))}
    ends = [interval(number) for number in numbers.values()]
    y = [number.value for number in numbers.values()]
    bars = [[v - low for v, (low, _) in zip(y, ends)], [high - v for v, (_, high) in zip(y, ends)]]
    style: dict[str, Any] = {"lw": 1.5, "marker": "o", "ms": 4, "elinewidth": 0.8}
    axis.errorbar(list(numbers), y, yerr=bars, color=colour, label=label, **style)
    axis.grid(color="#e4e4e4", lw=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def interval(number: Number) -> tuple[float, float]:
    """Return the 95 % interval of a number, or the value itself twice if there is none."""
    if number.low is None or number.high is None:
        return number.value, number.value
    return number.low, number.high


def mark_level(axis: Axes, value: float, label: str, style: str = "--") -> None:
    """Draw a horizontal line at the value of real pictures."""
    axis.axhline(value, color="#8a8f94", lw=1.2, ls=style, label=label)


def line(point: Point, report: Report) -> str:
    """Return a line with the numbers of a point."""
    numbers_of_point = [number for name in SCORES if (number := report.number(name))]
    numbers = ", ".join(f"{number.name} {number.text()}" for number in numbers_of_point)
    return f"{point.sampler}, {point.evaluations} evaluations, scale {point.scale:g}: {numbers}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("model", nargs="?", default="emoji")
    parser.add_argument("--n", type=int, default=1000, help="number of pictures at each point")
    parser.add_argument(
        "--most", type=int, default=max(EVALUATIONS), help="largest number of evaluations to judge"
    )
    parser.add_argument("--of", default="", help="suffix of the pictures' names, such as mnist")
    args = parser.parse_args()
    subject = open_subject(args.model, {}, processes.device("auto"))
    stage, view, classifier = subject.model, {}, None
    if isinstance(stage, Cascade):
        stage, view = stage.base, {"size": stage.base.spec.height}
    if isinstance(stage, Classifier):
        stage, classifier = stage.base, stage
    if not isinstance(stage, DenoisingModel):
        raise SystemExit(f"{args.model} does not denoise: there are no samplers to compare")
    reference = open_reference(None, view, subject)
    sweeps = Sweeps(stage, reference, args.n)
    sweeps.visit(point for point in [*GUIDED, *UNGUIDED] if point.evaluations <= args.most)
    if not sweeps.reports:
        raise SystemExit("nothing has been judged yet; pass --most 10 or more")
    for point in sorted(sweeps.reports):
        say(line(point, sweeps.reports[point]))
    guides = {"classifier-free": sweeps.reports}
    if classifier:
        for name, options in CLASSIFIED.items():
            guided = Sweeps(classifier, reference, args.n, **options)
            guided.visit(GUIDED)
            guides[name] = guided.reports
    PICTURES.mkdir(exist_ok=True)
    real = sweeps.real()
    say(f"FD {real:.4g} of the real pictures of the same conditions")
    figures = {
        "sampler-sweep": sampling(sweeps.reports, real),
        "guidance-sweep": guidance(guides, real),
    }
    for name, figure in figures.items():
        file_name = f"{name}-{args.of}" if args.of else name
        figure.savefig(PICTURES / f"{file_name}.png", metadata={"Software": None})


if __name__ == "__main__":
    main()
