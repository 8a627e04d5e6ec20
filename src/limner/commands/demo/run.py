"""Implementation of `limner demo`: paint prompts, train for a minute, write a page of both."""

import shlex
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from limner.commands.demo.page import write_page
from limner.commands.request import SamplingRequest
from limner.commands.sheets.sample import paint_sheet
from limner.commands.suited_model import with_suited_model
from limner.contract.bundled import DEFAULT
from limner.contract.checkpoint import load
from limner.contract.errors import LimnerError, writing
from limner.contract.image import Condition, to_uint8
from limner.contract.model import GenerativeModel
from limner.data import Dataset, Stream, open_data
from limner.runtime.log import read_log
from limner.training.loop import Loop
from limner.training.recipe import Recipe
from limner.training.run import train

PICTURES = 8
"""Number of pictures of each class on the last sheet."""
SCALES = (0.0, 1.0, 2.0, 4.0)
"""Guidance scales that are compared."""
PROMPTS = (
    "a red apple",
    "a dog",
    "a crying face",
    "a pizza",
    "an astronaut",
    "a heart on fire",
    "a joyful face with sunglasses",
    "an automobile",
)
"""Prompts for the default model; no caption contains "joyful" or "automobile"."""
COMPOSITIONS = (
    "a red apple and a green car",
    "a green apple and a red car",
    "a star above a heart",
    "two penguins in the snow",
)
"""Prompts for the composing model."""
_PICTURES_PER_PROMPT = 4  # pictures of each prompt
_PICTURES_PER_CLASS = 2  # pictures of each class on the sheets painted during training
_COMPARED_IMAGES = 20_000  # first training images, from which the real ones shown are taken
_TIMED_STEPS = 12  # to measure the speed of this machine
_TRAINING_SHEETS = 6  # sheets painted during training
_TIME_FACTOR = 1.6  # training stops after this multiple of the planned time


@dataclass
class Findings:
    """The contents of the page.

    Args:
        labels: the classes.
        recipe: the recipe of the training.
        prompt_pictures: prompt -> pictures by the default model.
        compositions: prompt -> pictures by the composing model.
        seconds, images: training time, and number of training images seen.
        parameters: number of parameters of the model.
        sheets: (images seen, pictures) during training, `_PICTURES_PER_CLASS` of each class.
        samples: `PICTURES` of each class after training.
        real: as many from the data.
        frames: frames of one picture of each class.
        scales: guidance scale -> one picture of each class.
        log: the run's log.
    """

    labels: tuple[str, ...]
    recipe: Recipe
    prompt_pictures: dict[str, UInt8[Tensor, "n c h w"]]
    compositions: dict[str, UInt8[Tensor, "n c side side"]]
    seconds: float = 0.0
    images: int = 0
    parameters: int = 0
    sheets: list[tuple[int, UInt8[Tensor, "n c h w"]]] = field(default_factory=list)
    samples: UInt8[Tensor, "n c h w"] | None = None
    real: UInt8[Tensor, "n c h w"] | None = None
    frames: list[UInt8[Tensor, "n c h w"]] = field(default_factory=list)
    scales: dict[float, UInt8[Tensor, "n c h w"]] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)


def run_demo(out: Path, seconds: float) -> Path:
    """Paint prompts, train, write `out/index.html`, and print what to type next.

    A demo that is already in the folder is replaced.

    Args:
        out: output folder.
        seconds: approximate training time.

    Returns:
        the page.

    Raises:
        LimnerError: the folder contains other files, or cannot be written.
    """
    start = time.perf_counter()
    run = _clear_folder(out)
    with as_file(files("limner.commands.demo") / "recipe.toml") as path:
        recipe = Recipe.read(path)
    dataset = open_data(**recipe.data)
    recipe = recipe.with_values([f"train.steps={_affordable_steps(recipe, dataset, seconds)}"])
    painted = _pictures_of(PROMPTS, DEFAULT), _pictures_of(COMPOSITIONS)
    findings = Findings(dataset.spec.labels, recipe, *painted)
    _train(findings, run, dataset, seconds)
    model = load(run)
    assert isinstance(model, GenerativeModel)
    _paint(findings, model, dataset)
    page = write_page(findings, out / "index.html", run, time.perf_counter() - start)
    quoted_run = shlex.quote(str(run))
    print(
        f"open {page}\n"
        f'from words:      limner sample "{COMPOSITIONS[0]}" -n {_PICTURES_PER_PROMPT}\n'
        f"paint more:      limner sample -m {quoted_run} --label all -n 8\n"
        f"train longer:    limner resume {quoted_run} train.steps={8 * recipe.train['steps']}\n"
        f"your pictures:   limner train flow-matching folder:PATH data.size=32"
    )
    return page


def _pictures_of(
    prompts: tuple[str, ...], model: str | None = None
) -> dict[str, UInt8[Tensor, "n c h w"]]:
    """Paint the first pictures of prompts as `limner sample` does, and return them by prompt."""
    request = SamplingRequest(model=model, prompts=prompts, n=_PICTURES_PER_PROMPT)
    sheet, _ = paint_sheet(with_suited_model(request, prompts))
    return dict(zip(prompts, sheet.images.split(_PICTURES_PER_PROMPT)))


def _clear_folder(out: Path) -> Path:
    """Remove an earlier demo from `out`, and return the folder for the new run."""
    run = out / "run"
    with writing(out, "give another --out"):
        if out.exists() and any(out.iterdir()) and not (run / "recipe.toml").exists():
            raise LimnerError(
                f"{out} contains other files; give another folder: limner demo --out DIR"
            )
        shutil.rmtree(run, ignore_errors=True)
        out.mkdir(parents=True, exist_ok=True)
        (out / ".writable").touch()
        (out / ".writable").unlink()
    return run


def _affordable_steps(recipe: Recipe, dataset: Dataset, seconds: float) -> int:
    """Estimate from a few steps how many this machine takes in a number of seconds."""
    from limner.training.run import open_stream

    loop = Loop(recipe.build(dataset.spec), open_stream(recipe, dataset).batch, recipe.options())
    times = []
    for _ in range(_TIMED_STEPS):
        start = time.perf_counter()
        loop.advance()
        times.append(time.perf_counter() - start)
    return max(20, int(seconds / sorted(times)[_TIMED_STEPS // 2]))


def _train(findings: Findings, run: Path, dataset: Dataset, seconds: float) -> None:
    """Train and paint sheets on the way; stop early if the machine is slower than estimated."""
    steps = findings.recipe.train["steps"]
    sheet_steps = {
        max(1, round(steps * (i / (_TRAINING_SHEETS - 1)) ** 2)) for i in range(_TRAINING_SHEETS)
    }
    start = time.perf_counter()
    painting_seconds = 0.0

    def watch(loop: Loop, logs: Mapping[str, float]) -> bool:
        nonlocal painting_seconds
        if loop.step in sheet_steps:
            painting_start = time.perf_counter()
            findings.sheets.append(
                (
                    loop.images_seen,
                    _sheet(loop.average, _PICTURES_PER_CLASS, findings.recipe.sampler),
                )
            )
            painting_seconds += time.perf_counter() - painting_start
        findings.images = loop.images_seen
        return time.perf_counter() - start - painting_seconds > _TIME_FACTOR * seconds

    train(findings.recipe, run, dataset=dataset, on_step=watch)
    findings.seconds = time.perf_counter() - start - painting_seconds
    findings.log = read_log(run)


def _sheet(
    model: Any, n: int, options: Mapping[str, Any], seed: int = 0
) -> UInt8[Tensor, "n c h w"]:
    """Paint n pictures of each class, class by class, always with the same noise streams."""
    label = torch.arange(len(model.spec.labels)).repeat_interleave(n)
    return to_uint8(model.sample(len(label), Condition(label=label), seed=seed, **options))


def _indices_by_class(dataset: Dataset, classes: int) -> Int[Tensor, "n"]:
    """Return the indices of the first `PICTURES` of each class that training sees, by class."""
    assert dataset.labels is not None
    indices = Stream(dataset).indices(torch.arange(_COMPARED_IMAGES))
    labels = dataset.labels[indices]
    chosen = []
    for i in range(classes):
        unique = dict.fromkeys(indices[labels == i].tolist())  # each picture once, in order
        chosen += list(unique)[:PICTURES]
    return torch.tensor(chosen)


def _paint(findings: Findings, model: GenerativeModel, dataset: Dataset) -> None:
    """Paint the pictures of the page: first draws of fixed seeds, without selection."""
    options = findings.recipe.sampler
    findings.parameters = model.parameter_count()
    findings.samples = _sheet(model, PICTURES, options)
    classes = len(findings.labels)
    findings.real = dataset.pixels(_indices_by_class(dataset, classes))
    label = torch.arange(classes)
    frames = model.watch(classes, Condition(label=label), seed=100, **options)
    findings.frames = [to_uint8(frame) for frame in frames]
    for scale in SCALES:
        findings.scales[scale] = _sheet(model, 1, dict(options) | {"scale": scale}, seed=200)
