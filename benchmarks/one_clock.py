"""One data set, one judge, one clock: how good is a model after so many minutes of one core?

    python benchmarks/one_clock.py [NAME ...] [--minutes 1 3 10] [--n 1000] [--runs runs/one-clock]
                                   [--evaluations [1 2 4 ...]]

Each contestant learns MNIST's digits of 256 levels by its own recipe, but for three things: the
learning rate stays where it is after its rise, so that it can be judged at any time; it computes in
one thread; and the models that denoise have networks of one size. That is all the tuning there is.
The clock shows the seconds that the process computes, from its start on; judging is left out.
`distilled`, `reflow` and `dmd2` learn from the `flow-matching` of this contest, whose minutes are
to be added to theirs.

At each mark: Frechet distance, precision and recall by `lenet`, and bits/dim where there is a
likelihood that takes no integration. At the last one also how long a picture takes, and the
distance by other numbers of evaluations, or by none after a bare `--evaluations`.
`docs/figures/one_clock.py` draws the rows, which are added to `docs/figures/one_clock.jsonl`.
"""

import argparse
import platform
import time
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch

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
ALIKE = (
    f"train.steps={NEVER}",
    f"train.save_every={NEVER}",
    "train.schedule=constant",
    "train.threads=1",
    "train.validation=0",
    "train.sample_every=0",
    "train.samples=0",
)
JUDGED: dict[str, Any] = {
    "metrics": ["fid", "precision-recall"],
    "extractor": "lenet",
    "quiet": True,
}
SIZE = ("model.channels=32,64",)
"""Of networks that denoise, where their recipe has another or none."""


@dataclass(frozen=True)
class Contestant:
    """Who takes part.

    Args:
        recipe: its file under `recipes`, without the ending.
        changes: to it, beside those that all have.
        teacher: of the contest, which it learns from.
        bound: whether it denoises, and has a likelihood's bound that takes no integration.
        few: options of the sampler with which it takes other numbers of evaluations; None where
            there is no choice.
    """

    recipe: str
    changes: tuple[str, ...] = ()
    teacher: str = ""
    bound: bool = False
    few: dict[str, Any] | None = None


CONTESTANTS = {
    "flow-matching": Contestant("flows/flow-matching-mnist", few={"sampler": "dpm++"}),
    "ddpm": Contestant("diffusion/ddpm-mnist", SIZE, bound=True, few={"sampler": "dpm++"}),
    "r3gan": Contestant("gans/r3gan-mnist"),
    "drifting": Contestant("gans/drifting-mnist"),
    "shortcut": Contestant("diffusion/shortcut-mnist", few={}),
    "meanflow": Contestant("diffusion/meanflow-mnist", few={}),
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
    "edm": Contestant("diffusion/edm-mnist", few={"sampler": "dpm++"}),
    "distilled": Contestant("diffusion/distilled-mnist", teacher="flow-matching"),
    "vdm": Contestant("diffusion/vdm-mnist", bound=True),
    "reflow": Contestant("diffusion/reflow-mnist", teacher="flow-matching", few={}),
    "pixelcnn": Contestant("autoregressive/pixelcnn-mnist"),
    "pixelrnn-diagonal": Contestant("autoregressive/pixelrnn-diagonal-mnist"),
    "wgan": Contestant("gans/wgan-mnist"),
    "autoencoder": Contestant("autoencoders/autoencoder-mnist"),
}
"""By name, those first that the charts need most."""


def recipe_of(name: str, runs: Path) -> Recipe:
    """How a contestant learns."""
    chosen = CONTESTANTS[name]
    changes = [*ALIKE, *chosen.changes]
    if chosen.teacher:
        changes.append(f"train.init.teacher={runs / chosen.teacher}")
    recipe = Recipe.read(ROOT / "recipes" / f"{chosen.recipe}.toml", changes)
    return replace(recipe, evaluate={})


@dataclass
class Clock:
    """Judges a model whenever a mark is reached, and stops it at the last.

    Args:
        name: of the contestant.
        marks: minutes, rising.
        n: pictures that are judged.
        sampler: its recipe's options.
        against: the real digits.
    """

    name: str
    marks: list[float]
    n: int
    sampler: dict[str, Any]
    against: Reference
    began: float = field(default_factory=time.process_time)

    def __call__(self, loop: Loop, logs: dict[str, float]) -> bool:
        """After a step: whether the contest is over."""
        stopped = time.process_time()
        if stopped - self.began < 60 * self.marks[0]:
            return False
        minutes, model = self.marks.pop(0), loop.calibrated()
        assert isinstance(model, GenerativeModel)
        last = not self.marks
        row: dict[str, Any] = {"model": self.name, "family": entry(model.name).family}
        row |= {
            "minutes": minutes,
            "step": loop.step,
            "images": loop.images_seen,
            "parameters": sum(p.numel() for p in model.parameters()),
        }
        row |= quality(evaluate(model, self.against, n=self.n, sampler=self.sampler, **JUDGED))
        row |= likelihood(self.name, model, self.against, last)
        if last:
            row["milliseconds"] = milliseconds(model, self.sampler)
        write(row)
        self.began += time.process_time() - stopped
        return last


def quality(report: Report) -> dict[str, Any]:
    """The distance with its interval and that of other real digits, precision and recall."""
    distance, real = report.number("FD"), report.number("FD", "real (mnist train)")
    assert distance is not None and real is not None
    found = {"fd": distance.value, "low": distance.low, "high": distance.high, "n": distance.n}
    found["real"] = real.value
    return found | {name: value_of(report.number(name)) for name in ("precision", "recall")}


def value_of(number: Number | None) -> float | None:
    """Its value, if it is there."""
    return None if number is None else number.value


def likelihood(name: str, model: GenerativeModel, against: Reference, last: bool) -> dict[str, Any]:
    """Bits/dim of 200 test digits, with the sign that says whether it is a bound; one that asks for
    many evaluations of a network is for the last mark.
    """
    asks = last and CONTESTANTS[name].bound if isinstance(model, DenoisingModel) else True
    if not isinstance(model, LikelihoodModel) or not asks:
        return {}
    report = evaluate(model, against, metrics=["likelihood"], n=200, quiet=True)
    bits = next(each for each in report.numbers if each.name == "bits/dim")
    return {"bits": bits.value, "sign": bits.sign, "bits_error": bits.error}


def milliseconds(model: GenerativeModel, sampler: dict[str, Any]) -> float:
    """Of one core for one of 64 pictures, the best of three times."""
    classes = torch.arange(64) % 10 if model.spec.labels else None
    options, best = model.sampler_options(sampler), float("inf")
    for _ in range(3):
        began = time.process_time()
        model.sample(64, Condition(label=classes), seed=0, **options)
        best = min(best, time.process_time() - began)
    return 1000 * best / 64


def sweep(name: str, run: Path, given: argparse.Namespace, against: Reference) -> None:
    """Judge a trained model by other numbers of evaluations."""
    options = CONTESTANTS[name].few
    if options is None:
        return
    model = load(run, "cpu")
    assert isinstance(model, GenerativeModel)
    for evaluations in given.evaluations:
        sampler = {**read_header(run / "model.safetensors").recipe.get("sampler", {}), **options}
        sampler |= {"steps": evaluations}
        row = {"model": name, "minutes": max(given.minutes), "evaluations": evaluations}
        write(row | quality(evaluate(model, against, n=given.n, sampler=sampler, **JUDGED)))


def machine() -> str:
    """The processor whose minutes they are, by its name and its widest instructions."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return f"{[*names, platform.processor()][0]}, {torch.backends.cpu.get_cpu_capability()}"


def write(row: dict[str, Any]) -> None:
    """Keep a row, with four digits of its numbers, the machine and the day."""
    short = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()}
    append_line(ROWS, short | {"machine": machine(), "date": date.today().isoformat()})
    say(" ".join(f"{key}={value}" for key, value in short.items()))


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    asked.add_argument("names", nargs="*", help=f"of {', '.join(CONTESTANTS)}; all of them")
    asked.add_argument("--minutes", type=float, nargs="+", default=[1, 3, 10])
    asked.add_argument("--n", type=int, default=1000)
    asked.add_argument("--evaluations", type=int, nargs="*", default=EVALUATIONS)
    asked.add_argument("--runs", type=Path, default=ROOT / "runs" / "one-clock")
    given = asked.parse_args()
    for name in given.names or CONTESTANTS:
        if name not in CONTESTANTS:
            raise SystemExit(f"there is no '{name}'; give one of {', '.join(CONTESTANTS)}")
    torch.set_num_threads(1)
    against = open_reference("mnist", {}, open_subject(open_data("mnist"), {}, torch.device("cpu")))
    marks = sorted(given.minutes)
    for name in given.names or CONTESTANTS:
        recipe = recipe_of(name, given.runs)
        clock = Clock(name, list(marks), given.n, recipe.sampler, against)
        train(recipe, given.runs / name, device="cpu", on_step=clock)
        sweep(name, given.runs / name, given, against)


if __name__ == "__main__":
    main()
