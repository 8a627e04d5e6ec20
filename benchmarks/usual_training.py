"""How good is the usual training of each model, compared with the general defaults?

    python benchmarks/usual_training.py                      # every registered model
    python benchmarks/usual_training.py gan wgan --seconds 60
    python benchmarks/usual_training.py pixelcnn vdm --ways usual muon

Each model is trained on small pictures in four ways: with the general defaults (`TrainOptions`),
with its usual options (`register(..., train={...})`), and with these and a third of, or three
times, all its learning rates. A fifth way, for `--ways muon`, uses the usual options, but the
optimiser Muon. The number of steps of each way is chosen to fill the same seconds, as estimated by
`limner train --dry-run`. At the end, one number is read: the one that says how well the model
does its task. Models that start from another model share it; it is trained beforehand with its own
usual options.
"""

import json
import math
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from timing import options_parser, positive, show

from limner.contract.errors import LimnerError
from limner.contract.registry import ModelEntry, entry
from limner.training.estimate import dry_run
from limner.training.options import TrainOptions
from limner.training.recipe import Recipe
from limner.training.run import train

PAIRS = "emoji:style=3d,emoji:style=flat"
SMALL = ("data.size=16",)
WORDS = ("data.size=16", "data.vocabulary=6", "data.grid=16")
FACTORS = {"usual / 3": 1 / 3, "usual": 1.0, "usual x 3": 3.0}
WAYS = ["general", *FACTORS]
COMPARED_OPTIONS = "optimizer", "lr", "betas", "weight_decay", "batch", "clip", "ema"


@dataclass(frozen=True)
class Task:
    """What models are trained on, and the number that says how well they learnt it.

    Args:
        key: key of the number in the run's log.
        title: name of the number in the table.
        source: source of the pictures.
        options: options of the data and of the evaluation.
        higher_is_better: whether a higher number is better.
        duration: training time relative to that of other tasks.
        initial: models that the model starts from, as pairs of its option and their name.
    """

    key: str
    title: str
    source: str = "emoji"
    options: tuple[str, ...] = SMALL
    higher_is_better: bool = False
    duration: float = 1.0
    initial: tuple[tuple[str, str], ...] = ()

    def with_options(self, *options: str) -> "Task":
        """Return the same task with options for smaller networks, so that more steps fit in the
        time.
        """
        return replace(self, options=(*self.options, *options))

    def starting_from(self, **initial: str) -> "Task":
        """Return the same task for a model that starts from others."""
        return replace(self, initial=tuple(initial.items()))


def _painting_task(duration: float, *options: str) -> Task:
    evaluation = "evaluate.metrics=kid", "evaluate.extractor=emoji-judge", "evaluate.n=512"
    return Task(
        "evaluate.KD (emoji-judge)", "KD", "emoji", (*SMALL, *evaluation, *options), False, duration
    )


GAN_TRAINING = _painting_task(2.5)
DENOISING = _painting_task(1, "sampler.steps=12")
LIKELIHOOD = Task(
    "evaluate.bits/dim",
    "bits/dim",
    "emoji",
    (*SMALL, "evaluate.metrics=likelihood", "evaluate.n=64"),
)
LOSS = Task("held_out.loss", "held-out loss")
RECONSTRUCTION = Task("squared_error", "squared error", "emoji", (*SMALL, "data.label=none"))
_EVALUATION = "evaluate.metrics=counterpart", "evaluate.split=held-out-concept", "evaluate.n=100"
_DOMAINS = "data.size=32", "data.label=none", f"evaluate.against=paired:{PAIRS}", *_EVALUATION
PAIRED = Task("evaluate.PSNR", "PSNR", f"paired:{PAIRS}", _DOMAINS, True)
UNPAIRED = Task("evaluate.PSNR", "PSNR", f"unpaired:{PAIRS}", _DOMAINS, True, 2.5)
_REDUCED = "data.size=32", "data.label=none", "data.hint=bicubic", "data.reduction=2"
ENLARGEMENT = Task(
    "evaluate.PSNR",
    "PSNR",
    "emoji",
    (*_REDUCED, "evaluate.metrics=upscaling", "evaluate.n=64"),
    True,
)
NARROW = "model.channels=16", "model.critic_channels=16", "model.blocks=3"
TASKS: dict[str, Task] = {
    **dict.fromkeys(
        ("gan", "wgan", "wgan-gp", "r3gan", "stylegan2", "biggan", "gigagan"), GAN_TRAINING
    ),
    "drifting": GAN_TRAINING,
    **dict.fromkeys(("ddpm", "edm", "flow-matching", "classifier-free"), DENOISING),
    "shortcut": DENOISING,
    "meanflow": _painting_task(1, "sampler.steps=2"),
    "latent-diffusion": DENOISING.starting_from(first_stage="kl-autoencoder"),
    "distilled": _painting_task(1).starting_from(teacher="flow-matching"),
    "reflow": _painting_task(1, "sampler.steps=2").starting_from(teacher="flow-matching"),
    "dmd2": _painting_task(1).starting_from(teacher="flow-matching"),
    **dict.fromkeys(("pixelcnn", "gated-pixelcnn", "pixelcnnpp"), LIKELIHOOD),
    **dict.fromkeys(("pixelrnn-row", "pixelrnn-diagonal", "vae", "nvae"), LIKELIHOOD),
    **dict.fromkeys(("realnvp", "glow", "vdm"), LIKELIHOOD),
    "autoencoder": RECONSTRUCTION,
    "kl-autoencoder": replace(RECONSTRUCTION, key="absolute_error", title="absolute error"),
    "pix2pix": PAIRED,
    **dict.fromkeys(("cyclegan", "cut"), UNPAIRED.with_options(*NARROW)),
    **dict.fromkeys(("srgan", "sr3"), ENLARGEMENT),
    "gigagan-upsampler": ENLARGEMENT.with_options("model.channels=16", "model.most_channels=64"),
    "classifier": Task("held_out.loss", LOSS.title).starting_from(base="flow-matching"),
    "cascade": Task(LOSS.key, LOSS.title, "emoji", ("data.size=32",)).starting_from(
        base="flow-matching"
    ),
    "controlnet": Task(LOSS.key, LOSS.title, "emoji", (*SMALL, "data.hint=edges")).starting_from(
        base="flow-matching"
    ),
    "instruct": Task(LOSS.key, LOSS.title, "instructions", WORDS).starting_from(base="captions"),
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
INITIAL_MODELS = {
    "flow-matching": ("flow-matching", "emoji", SMALL),
    "kl-autoencoder": ("kl-autoencoder", "emoji", (*SMALL, "data.label=none")),
    "captions": ("flow-matching", "scenes", WORDS),
}


class Runs:
    """Training runs in a temporary folder, and their results.

    Args:
        folder: folder of the runs.
        seconds: seconds of training for each run.
        seed: seed of every run.
    """

    def __init__(self, folder: Path, seconds: float, seed: int) -> None:
        self.folder, self.seconds, self.seed = folder, seconds, seed
        self._trained: dict[str, Path] = {}

    def measure(self, name: str, task: Task, way: Mapping[str, Any]) -> float:
        """Return the number that a model reaches when trained this way; nan if the loss was not
        finite.
        """
        initial = [
            f"train.init.{option}={self._initial_model(model)}" for option, model in task.initial
        ]
        evaluation = ["evaluate.every=1000000000"] if task.key.startswith("evaluate") else []
        recipe = Recipe.of(name, task.source, [*task.options, *initial, *evaluation])
        try:
            run = self._train(recipe, way, task.duration * self.seconds)
        except LimnerError as error:
            if "finite" not in str(error):
                raise
            return math.nan
        row = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
        return float(row.get(task.key, math.nan))

    def _initial_model(self, name: str) -> Path:
        """Return the run of a model that others start from; train it only once."""
        if name not in self._trained:
            recipe = Recipe.of(*INITIAL_MODELS[name])
            self._trained[name] = self._train(recipe, {}, 4 * self.seconds)
        return self._trained[name]

    def _train(self, recipe: Recipe, way: Mapping[str, Any], seconds: float) -> Path:
        """Train for as many steps as fill the seconds; return the run."""
        common = {"threads": 1, "samples": 0, "seed": self.seed}
        recipe = replace(recipe, train=recipe.train | dict(way) | common)
        cost, measured_steps = dry_run(recipe), recipe.options().steps
        steps = max(20, round(seconds * cost.images_per_second * measured_steps / cost.images))
        lengths = {"steps": steps, "log_every": max(1, steps // 10), "save_every": steps}
        run = Path(tempfile.mkdtemp(dir=self.folder)) / "run"
        train(replace(recipe, train=recipe.train | lengths), run)
        return run


def ways(model: ModelEntry, names: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return the ways to train a model with these names, each as a recipe's section [train]."""
    defaults = vars(TrainOptions())
    all_ways = {"general": {k: defaults[k] for k in COMPARED_OPTIONS}}
    for name, factor in FACTORS.items():
        all_ways[name] = {"lr": model.train["lr"] * factor}
        players = model.train.get("players", {})
        if players:
            all_ways[name]["players"] = {k: {"lr": v["lr"] * factor} for k, v in players.items()}
    all_ways["muon"] = {"optimizer": "muon"}
    return {name: way for name, way in all_ways.items() if name in names}


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument(
        "models", nargs="*", default=list(TASKS), help="names of the models; default: all"
    )
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=[*WAYS, "muon"])
    parser.add_argument("--seconds", type=positive, default=12, help="seconds of training per run")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name in args.models:
        if name not in TASKS:
            parser.error(f"unknown model '{name}'; choose from {', '.join(TASKS)}")
    torch.set_num_threads(1)
    rows: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder), args.seconds, args.seed)
        for name in args.models:
            task = TASKS[name]
            chosen = ways(entry(name), args.ways)
            numbers = {way: runs.measure(name, task, changes) for way, changes in chosen.items()}
            finite = [v for v in numbers.values() if not math.isnan(v)]
            best = (max if task.higher_is_better else min)(finite, default=math.nan)
            best_way = next((way for way, v in numbers.items() if v == best), "none")
            rows.append((name, task.title, *(f"{v:.4g}" for v in numbers.values()), best_way))
            print(*rows[-1], sep="  ", flush=True)
    show(
        f"{args.seconds:g} s of one thread per run, seed {args.seed}",
        ("", "number", *(way for way in [*WAYS, "muon"] if way in args.ways), "best"),
        rows,
    )


if __name__ == "__main__":
    main()
