"""How good is each model after the same minutes of one core, on one data set and with one judge?

    python benchmarks/one_clock.py [NAME ...] [--minutes 1 3 10] [--n 1000] [--runs runs/one-clock]
                                   [--evaluations [1 2 4 ...]]

Each contestant is trained on MNIST's digits of 256 levels with its own recipe, except for three
things: the learning rate stays constant after its warm-up, so that the model can be judged at any
time; it computes in one thread; and the models that denoise have networks of one size. Nothing else
is tuned. The clock counts the seconds that the process computes, from its start on, without those
for judging. `distilled`, `reflow` and `dmd2` are trained from the `flow-matching` of this contest;
add its minutes to theirs.

At each mark, the Frechet distance, precision and recall are measured with `lenet`, and bits/dim if
the model has a likelihood that needs no integration. At the last mark, so are the time for a
picture, and the distance with other numbers of evaluations; a bare `--evaluations` leaves these
out. The rows are added to `docs/figures/one_clock.jsonl`, and `docs/figures/one_clock.py` draws
them.
"""

import argparse
import platform
import re
import time
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from timing import count, options_parser, positive

from limner import Condition, LikelihoodModel, open_data
from limner.contract.checkpoint import load, read_header
from limner.contract.model import GenerativeModel
from limner.contract.registry import entry
from limner.diffusion.denoising_model import DenoisingModel
from limner.evaluate.evaluation import evaluate
from limner.evaluate.report import Number, Report
from limner.evaluate.subject import Reference, open_reference, open_subject
from limner.runtime.log import append_line
from limner.runtime.progress import say
from limner.training.loop import Loop
from limner.training.recipe import Recipe
from limner.training.run import train

ROOT = Path(__file__).parents[1]
ROWS = ROOT / "docs" / "figures" / "one_clock.jsonl"
EVALUATIONS = 1, 2, 4, 8, 16, 32, 128
NEVER = 1_000_000_000
COMMON_CHANGES = (
    f"train.steps={NEVER}",
    f"train.save_every={NEVER}",
    "train.schedule=constant",
    "train.threads=1",
    "train.validation=0",
    "train.sample_every=0",
    "train.samples=0",
)
EVALUATION: dict[str, Any] = {
    "metrics": ["fid", "precision-recall"],
    "extractor": "lenet",
    "quiet": True,
}
LEAST_N = 257  # the distance has an interval above twice as many pictures as lenet's 128 features
NETWORK_SIZE = ("model.channels=32,64",)
"""The size of denoising networks, for recipes that set another one or none."""


@dataclass(frozen=True)
class Contestant:
    """A model that takes part.

    Args:
        recipe: file of its recipe under `recipes`, without the ending.
        changes: changes to the recipe besides those that all contestants have.
        teacher: contestant that it learns from.
        bound: whether it is a denoiser with a bound on the likelihood that needs no
            integration.
        sweep_options: options of the sampler that can use other numbers of evaluations; None if
            the number is fixed.
    """

    recipe: str
    changes: tuple[str, ...] = ()
    teacher: str = ""
    bound: bool = False
    sweep_options: dict[str, Any] | None = None


CONTESTANTS = {
    "flow-matching": Contestant("flows/flow-matching-mnist", sweep_options={"sampler": "dpm++"}),
    "ddpm": Contestant(
        "diffusion/ddpm-mnist", NETWORK_SIZE, bound=True, sweep_options={"sampler": "dpm++"}
    ),
    "r3gan": Contestant("gans/r3gan-mnist"),
    "drifting": Contestant("gans/drifting-mnist"),
    "shortcut": Contestant("diffusion/shortcut-mnist", sweep_options={}),
    "meanflow": Contestant("diffusion/meanflow-mnist", sweep_options={}),
    "gan": Contestant("gans/gan-mnist"),
    "wgan-gp": Contestant("gans/wgan-gp-mnist"),
    "biggan": Contestant("gans/biggan-mnist"),
    "vae": Contestant("autoencoders/vae-mnist"),
    "glow": Contestant("flows/glow-mnist"),
    "pixelcnnpp": Contestant("autoregressive/pixelcnnpp-mnist"),
    "dmd2": Contestant("diffusion/dmd2-mnist", teacher="flow-matching"),
    "nvae": Contestant("autoencoders/nvae-mnist"),
    "realnvp": Contestant("flows/realnvp-mnist"),
    "gated-pixelcnn": Contestant("autoregressive/gated-pixelcnn-mnist"),
    "pixelrnn-row": Contestant("autoregressive/pixelrnn-row-mnist"),
    "edm": Contestant("diffusion/edm-mnist", sweep_options={"sampler": "dpm++"}),
    "distilled": Contestant("diffusion/distilled-mnist", teacher="flow-matching"),
    "vdm": Contestant("diffusion/vdm-mnist", bound=True),
    "reflow": Contestant("diffusion/reflow-mnist", teacher="flow-matching", sweep_options={}),
    "pixelcnn": Contestant("autoregressive/pixelcnn-mnist"),
    "pixelrnn-diagonal": Contestant("autoregressive/pixelrnn-diagonal-mnist"),
    "wgan": Contestant("gans/wgan-mnist"),
    "autoencoder": Contestant("autoencoders/autoencoder-mnist"),
}
"""The contestants by name; those that the charts need most come first."""


def recipe_of(name: str, runs: Path) -> Recipe:
    """Return the recipe of a contestant, with the changes for this contest."""
    contestant = CONTESTANTS[name]
    changes = [*COMMON_CHANGES, *contestant.changes]
    if contestant.teacher:
        changes.append(f"train.init.teacher={runs / contestant.teacher}")
    recipe = Recipe.read(ROOT / "recipes" / f"{contestant.recipe}.toml", changes)
    return replace(recipe, evaluate={})


@dataclass
class Clock:
    """A callback that judges a model at each mark, and stops its training at the last one.

    Args:
        name: name of the contestant.
        marks: minutes, increasing.
        n: number of pictures to judge.
        sampler: sampler options of its recipe.
        against: the real digits.
    """

    name: str
    marks: list[float]
    n: int
    sampler: dict[str, Any]
    against: Reference
    started: float = field(default_factory=time.process_time)

    def __call__(self, loop: Loop, logs: dict[str, float]) -> bool:
        """Judge the model if a mark is reached; return whether that was the last mark."""
        start = time.process_time()
        if start - self.started < 60 * self.marks[0]:
            return False
        minutes, model = self.marks.pop(0), loop.calibrated_model()
        assert isinstance(model, GenerativeModel)
        is_last = not self.marks
        row: dict[str, Any] = {"model": self.name, "family": entry(model.name).family}
        row |= {
            "minutes": minutes,
            "step": loop.step,
            "images": loop.images_seen,
            "parameters": sum(p.numel() for p in model.parameters()),
        }
        row |= quality(evaluate(model, self.against, n=self.n, sampler=self.sampler, **EVALUATION))
        row |= likelihood(self.name, model, self.against, is_last)
        if is_last:
            row["milliseconds"] = milliseconds(model, self.sampler)
        write(row)
        self.started += time.process_time() - start
        return is_last


def quality(report: Report) -> dict[str, Any]:
    """Return the distance with its interval, that of other real digits, precision and recall."""
    distance, real = report.number("FD"), report.number("FD", "real (mnist train)")
    assert distance is not None and real is not None
    row = {"fd": distance.value, "low": distance.low, "high": distance.high, "n": distance.n}
    row["real"] = real.value
    return row | {name: value_of(report.number(name)) for name in ("precision", "recall")}


def value_of(number: Number | None) -> float | None:
    """Return the value of a number, or None if there is no number."""
    return None if number is None else number.value


def likelihood(
    name: str, model: GenerativeModel, reference: Reference, is_last: bool
) -> dict[str, Any]:
    """Return bits/dim of 200 test digits, with the sign that says whether it is a bound. A bound
    that needs many evaluations of a network is computed at the last mark only.
    """
    is_affordable = (
        is_last and CONTESTANTS[name].bound if isinstance(model, DenoisingModel) else True
    )
    if not isinstance(model, LikelihoodModel) or not is_affordable:
        return {}
    report = evaluate(model, reference, metrics=["likelihood"], n=200, quiet=True)
    bits = next(number for number in report.numbers if number.name == "bits/dim")
    return {"bits": bits.value, "sign": bits.sign, "bits_error": bits.error}


def milliseconds(model: GenerativeModel, sampler: dict[str, Any]) -> float:
    """Return the milliseconds of one core per picture, in a batch of 64: the best of three."""
    classes = torch.arange(64) % 10 if model.spec.labels else None
    options, best = model.sampler_options(sampler), float("inf")
    for _ in range(3):
        start = time.process_time()
        model.sample(64, Condition(label=classes), seed=0, **options)
        best = min(best, time.process_time() - start)
    return 1000 * best / 64


def sweep(name: str, run: Path, args: argparse.Namespace, reference: Reference) -> None:
    """Judge a trained model with other numbers of evaluations."""
    options = CONTESTANTS[name].sweep_options
    if options is None:
        return
    model = load(run, "cpu")
    assert isinstance(model, GenerativeModel)
    for evaluations in args.evaluations:
        sampler = {**read_header(run / "model.safetensors").recipe.get("sampler", {}), **options}
        sampler |= {"steps": evaluations}
        row = {"model": name, "minutes": max(args.minutes), "evaluations": evaluations}
        write(row | quality(evaluate(model, reference, n=args.n, sampler=sampler, **EVALUATION)))


def machine() -> str:
    """Return the name and family of the processor, and its widest instructions."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    name, family = (
        re.search(rf"^{key}\s*: (.+)", text, re.M) for key in ("model name", "cpu family")
    )
    words = name[1] if name else platform.processor()
    words += f" (family {family[1]})" if family else ""  # processors of several kinds share a name
    return f"{words}, {torch.backends.cpu.get_cpu_capability()}"


def write(row: dict[str, Any]) -> None:
    """Store a row, with its numbers rounded to four digits, the machine and the date."""
    rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()}
    append_line(ROWS, rounded | {"machine": machine(), "date": date.today().isoformat()})
    say(" ".join(f"{key}={value}" for key, value in rounded.items()))


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(CONTESTANTS)}; default: all")
    parser.add_argument("--minutes", type=positive, nargs="+", default=[1, 3, 10])
    parser.add_argument("--n", type=count, default=1000)
    parser.add_argument("--evaluations", type=count, nargs="*", default=EVALUATIONS)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "one-clock")
    args = parser.parse_args()
    if args.n < LEAST_N:
        parser.error(f"--n {args.n} is too small for intervals; give {LEAST_N} or more")
    for name in args.names:
        if name not in CONTESTANTS:
            parser.error(f"unknown model '{name}'; choose from {', '.join(CONTESTANTS)}")
    torch.set_num_threads(1)
    reference = open_reference(
        "mnist", {}, open_subject(open_data("mnist"), {}, torch.device("cpu"))
    )
    marks = sorted(args.minutes)
    for name in args.names or CONTESTANTS:
        recipe = recipe_of(name, args.runs)
        clock = Clock(name, list(marks), args.n, recipe.sampler, reference)
        train(recipe, args.runs / name, device="cpu", on_step=clock)
        sweep(name, args.runs / name, args, reference)


if __name__ == "__main__":
    main()
