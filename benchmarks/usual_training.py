"""What the usual training of each model is worth, beside the same loop's general defaults.

    python benchmarks/usual_training.py                      # every registered model
    python benchmarks/usual_training.py gan wgan --seconds 60
    python benchmarks/usual_training.py pixelcnn vdm --ways usual muon

Each model is trained on small pictures in four ways: by the general defaults (`TrainOptions`), as
is usual for it (`register(..., train={...})`), and so with a third and three times all its rates. A
fifth, if it is asked for, is as usual, but with the optimiser Muon.
The steps of each way are those that fill the same seconds, as `limner train --dry-run` estimates
them. One number is read at the end: what the model is for. Models that begin with another one share
it, trained beforehand as is usual for that one.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from timing import show

from limner.contract.errors import LimnerError
from limner.contract.registry import Entry, entry
from limner.training.estimate import dry_run
from limner.training.options import TrainOptions
from limner.training.recipe import Recipe
from limner.training.run import train

PAIRS = "emoji:style=3d,emoji:style=flat"
SMALL = ("data.size=16",)
WORDS = ("data.size=16", "data.vocabulary=6", "data.grid=16")
FACTORS = {"usual / 3": 1 / 3, "usual": 1.0, "usual x 3": 3.0}
WAYS = ["general", *FACTORS]
DECIDING = "optimizer", "lr", "betas", "weight_decay", "batch", "clip", "ema"


@dataclass(frozen=True)
class Task:
    """What models are trained on, and the number that says how well they learnt it.

    Args:
        key: of the number, in the run's log.
        title: what it is, for people.
        source: of the pictures.
        options: the data's, and how it is evaluated.
        greatest: whether more is better.
        longer: so many times as long as other tasks.
        begins: the model that it begins with, by its option.
    """

    key: str
    title: str
    source: str = "emoji"
    options: tuple[str, ...] = SMALL
    greatest: bool = False
    longer: float = 1.0
    begins: tuple[tuple[str, str], ...] = ()

    def narrow(self, *options: str) -> "Task":
        """The same task, of smaller networks than usual, which take more steps in the time."""
        return replace(self, options=(*self.options, *options))

    def after(self, **begins: str) -> "Task":
        """The same task, of a model that begins with others."""
        return replace(self, begins=tuple(begins.items()))


def _paints(longer: float, *options: str) -> Task:
    judged = "evaluate.metrics=kid", "evaluate.extractor=emoji-judge", "evaluate.n=512"
    return Task(
        "evaluate.KD (emoji-judge)", "KD", "emoji", (*SMALL, *judged, *options), False, longer
    )


GAME = _paints(2.5)
DENOISES = _paints(1, "sampler.steps=12")
EXPLAINS = Task(
    "evaluate.bits/dim",
    "bits/dim",
    "emoji",
    (*SMALL, "evaluate.metrics=likelihood", "evaluate.n=64"),
)
LOSS = Task("held_out.loss", "held-out loss")
RECONSTRUCTS = Task("squared_error", "squared error", "emoji", (*SMALL, "data.label=none"))
_JUDGED = "evaluate.metrics=counterpart", "evaluate.split=held-out-concept", "evaluate.n=100"
_DOMAINS = "data.size=32", "data.label=none", f"evaluate.against=paired:{PAIRS}", *_JUDGED
PAIRED = Task("evaluate.PSNR", "PSNR", f"paired:{PAIRS}", _DOMAINS, True)
UNPAIRED = Task("evaluate.PSNR", "PSNR", f"unpaired:{PAIRS}", _DOMAINS, True, 2.5)
_REDUCED = "data.size=32", "data.label=none", "data.hint=bicubic", "data.reduction=2"
ENLARGES = Task(
    "evaluate.PSNR",
    "PSNR",
    "emoji",
    (*_REDUCED, "evaluate.metrics=upscaling", "evaluate.n=64"),
    True,
)
NARROW = "model.channels=16", "model.critic_channels=16", "model.blocks=3"
TASKS: dict[str, Task] = {
    **dict.fromkeys(("gan", "wgan", "wgan-gp", "r3gan", "stylegan2", "biggan", "gigagan"), GAME),
    "drifting": GAME,
    **dict.fromkeys(("ddpm", "edm", "flow-matching", "classifier-free"), DENOISES),
    "shortcut": DENOISES,
    "meanflow": _paints(1, "sampler.steps=2"),
    "latent-diffusion": DENOISES.after(first_stage="kl-autoencoder"),
    "distilled": _paints(1).after(teacher="flow-matching"),
    "reflow": _paints(1, "sampler.steps=2").after(teacher="flow-matching"),
    "dmd2": _paints(1).after(teacher="flow-matching"),
    **dict.fromkeys(("pixelcnn", "gated-pixelcnn", "pixelcnnpp"), EXPLAINS),
    **dict.fromkeys(("pixelrnn-row", "pixelrnn-diagonal", "vae", "nvae"), EXPLAINS),
    **dict.fromkeys(("realnvp", "glow", "vdm"), EXPLAINS),
    "autoencoder": RECONSTRUCTS,
    "kl-autoencoder": replace(RECONSTRUCTS, key="absolute_error", title="absolute error"),
    "pix2pix": PAIRED,
    **dict.fromkeys(("cyclegan", "cut"), UNPAIRED.narrow(*NARROW)),
    **dict.fromkeys(("srgan", "sr3"), ENLARGES),
    "gigagan-upsampler": ENLARGES.narrow("model.channels=16", "model.most_channels=64"),
    "classifier": Task("held_out.loss", LOSS.title).after(base="flow-matching"),
    "cascade": Task(LOSS.key, LOSS.title, "emoji", ("data.size=32",)).after(base="flow-matching"),
    "controlnet": Task(LOSS.key, LOSS.title, "emoji", (*SMALL, "data.hint=edges")).after(
        base="flow-matching"
    ),
    "instruct": Task(LOSS.key, LOSS.title, "instructions", WORDS).after(base="captions"),
    "centernet2": Task(
        LOSS.key,
        LOSS.title,
        "scenes",
        ("data.size=64", "data.vocabulary=6", "data.hint=objects", "data.text=false"),
    ),
    "caption-reader": Task(LOSS.key, LOSS.title, "scenes", (*WORDS, "data.hint=objects")),
    "dual-encoder": Task(LOSS.key, LOSS.title, "emoji", ("data.size=32", "data.text=true")),
    "lenet": LOSS,
}
BEGINNINGS = {
    "flow-matching": ("flow-matching", "emoji", SMALL),
    "kl-autoencoder": ("kl-autoencoder", "emoji", (*SMALL, "data.label=none")),
    "captions": ("flow-matching", "scenes", WORDS),
}


class Runs:
    """Trains models into a folder that nobody keeps, and reads what came of it.

    Args:
        folder: of the runs.
        seconds: of training, for each.
        seed: of every run.
    """

    def __init__(self, folder: Path, seconds: float, seed: int) -> None:
        self.folder, self.seconds, self.seed = folder, seconds, seed
        self._trained: dict[str, Path] = {}

    def number(self, name: str, task: Task, way: Mapping[str, Any]) -> float:
        """What a model reaches, trained in such a way; nan where losses were not finite."""
        begins = [f"train.init.{option}={self._first(of)}" for option, of in task.begins]
        evaluated = ["evaluate.every=1000000000"] if task.key.startswith("evaluate") else []
        recipe = Recipe.of(name, task.source, [*task.options, *begins, *evaluated])
        try:
            run = self._train(recipe, way, task.longer * self.seconds)
        except LimnerError as error:
            if "finite" not in str(error):
                raise
            return math.nan
        last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
        return float(last.get(task.key, math.nan))

    def _first(self, name: str) -> Path:
        """A model that others begin with, trained once."""
        if name not in self._trained:
            recipe = Recipe.of(*BEGINNINGS[name])
            self._trained[name] = self._train(recipe, {}, 4 * self.seconds)
        return self._trained[name]

    def _train(self, recipe: Recipe, way: Mapping[str, Any], seconds: float) -> Path:
        """A run of as many steps as fill the seconds."""
        own = {"threads": 1, "samples": 0, "seed": self.seed}
        recipe = replace(recipe, train=recipe.train | dict(way) | own)
        cost, few = dry_run(recipe), recipe.options().steps
        steps = max(20, round(seconds * cost.images_per_second * few / cost.images))
        lengths = {"steps": steps, "log_every": max(1, steps // 10), "save_every": steps}
        run = Path(tempfile.mkdtemp(dir=self.folder)) / "run"
        train(replace(recipe, train=recipe.train | lengths), run)
        return run


def ways(of: Entry, asked: Collection[str]) -> dict[str, dict[str, Any]]:
    """Those of the ways to train a model that are asked for, as a recipe's section [train] has
    them."""
    general = vars(TrainOptions())
    found = {"general": {k: general[k] for k in DECIDING}}
    for name, factor in FACTORS.items():
        found[name] = {"lr": of.train["lr"] * factor}
        players = of.train.get("players", {})
        if players:
            found[name]["players"] = {k: {"lr": v["lr"] * factor} for k, v in players.items()}
    found["muon"] = {"optimizer": "muon"}
    return {name: way for name, way in found.items() if name in asked}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(TASKS), help="all, unless named")
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=[*WAYS, "muon"])
    parser.add_argument("--seconds", type=float, default=12, help="of training, a run")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder), asked.seconds, asked.seed)
        for name in asked.models:
            task = TASKS[name]
            tried = ways(entry(name), asked.ways)
            found = {way: runs.number(name, task, own) for way, own in tried.items()}
            finite = [v for v in found.values() if not math.isnan(v)]
            best = (max if task.greatest else min)(finite, default=math.nan)
            best_way = next((way for way, v in found.items() if v == best), "none")
            rows.append((name, task.title, *(f"{v:.4g}" for v in found.values()), best_way))
            print(*rows[-1], sep="  ", flush=True)
    show(
        f"{asked.seconds:g} s of one thread a run, seed {asked.seed}",
        ("", "number", *(way for way in [*WAYS, "muon"] if way in asked.ways), "best"),
        rows,
    )


if __name__ == "__main__":
    main()
