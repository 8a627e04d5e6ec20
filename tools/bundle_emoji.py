"""Bundle the prompt model: its weights in half precision, sheets of first draws, and a card.

    limner train recipes/flows/emoji32.toml --run runs/emoji32
    limner train recipes/diffusion/emoji64.toml --run runs/emoji64
    python tools/bundle_emoji.py runs/emoji32 runs/emoji64

No picture on the sheets is selected: captions are drawn with a fixed seed, the free prompts were
written down before their pictures were seen, and every prompt shows the pictures of seeds 0, 1, 2,
3. The upsampler's run may contain another base, because the upsampler is trained without its base;
the bundled base is that of the first run. Copy the printed numbers into the card.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from command_line import BuildError, mistakes_in_one_line
from jaxtyping import UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from limner.commands.request import SamplingRequest
from limner.commands.sheets.sample import paint_sheet
from limner.contract.checkpoint import load, model_file, read_header, save_model, sha256
from limner.contract.model import Learner
from limner.contract.noise import Noise
from limner.data import open_data
from limner.data.emoji import Emoji
from limner.data.pictures import raise_error
from limner.data.png import grid, save_png
from limner.data.stream import Stream
from limner.diffusion.cascade import Cascade
from limner.evaluate.metrics.memorisation import NearestTraining, memorisation, suspects
from limner.runtime.log import read_log
from limner.training.recipe import Recipe

ZOO = Path(__file__).parents[1] / "src" / "limner" / "zoo" / "emoji"
RECIPE = Path(__file__).parents[1] / "recipes" / "diffusion" / "emoji64.toml"
Split = Literal["train", "held-out-pair", "held-out-concept"]
SPLITS: tuple[Split, ...] = get_args(Split)
SHOWN, SEEDS = 20, 4  # prompts on a sheet; pictures of each
FREE = (
    "a puppy",
    "an automobile",
    "a joyful face",
    "a purple cat",
    "a kitten with sunglasses",
    "a blue apple",
    "a green heart",
    "a heart on fire",
    "a rocket in the sky",
    "a yellow flower",
    "a sailing boat",
    "a sad cloud with rain",
    "a pizza with pineapple",
    "a frightened face",
    "a golden crown",
    "a violin",
    "a snowy mountain",
    "a wizard",
    "a monkey eating a banana",
    "a house at night",
)
"""Prompts with words that no caption has, or combinations that no picture shows."""
DRAWS = 4  # noise levels at which each picture's loss is measured
N_LOSS, _PART = 256, 64  # pictures of a split for measuring the loss; pictures in a batch
SEED = 2026  # for the captions on the sheets


def assemble(base: Path, fine: Path) -> Cascade:
    """Save the upsampler's run with the base's weights in half precision; return it reloaded."""
    model = load(fine)
    if not isinstance(model, Cascade):
        raise BuildError(f"{fine} is not a run of recipes/diffusion/emoji64.toml; give one")
    small = load(base)
    try:
        model.base.load_state_dict(small.state_dict())
    except RuntimeError:
        raise BuildError(
            f"{base} is not like the base of {fine}; give a run of its recipe"
        ) from None
    header = read_header(model_file(fine))
    recipe = header.recipe
    recipe["train"]["init"] = {"base": "runs/emoji32"}
    recipe["sampler"] = Recipe.read(RECIPE).sampler  # sampler of the current recipe, not of the run
    save_model(model, ZOO, images_seen=header.images_seen, recipe=recipe, dtype=torch.float16)
    bundled = load(ZOO)
    assert isinstance(bundled, Cascade)
    return bundled


def captions(split: Split) -> list[str]:
    """Return captions of a split in a fixed random order, one for each concept: that of its first
    variant.
    """
    entries = Emoji(split=split).listing(raise_error).entries
    by_concept = list({e.group: e.captions[0] for e in reversed(entries)}.values())
    order = torch.randperm(len(by_concept), generator=torch.Generator().manual_seed(SEED))
    return [by_concept[i] for i in order]


def sheet(
    prompts: Sequence[str], path: Path, model: str = "emoji", columns: int = 4
) -> UInt8[Tensor, "n c h w"]:
    """Write a sheet with the first draws of each prompt; return the pictures."""
    images = paint_sheet(SamplingRequest(model, tuple(prompts), n=SEEDS))[0].images
    rows = -(-len(prompts) // columns)
    figure = Figure(figsize=(2.75 * columns, 0.95 * rows), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, prompt, pictures in zip(axes, prompts, images.split(SEEDS)):
        axis.imshow(grid(pictures, SEEDS, gap=1).permute(1, 2, 0).numpy(), interpolation="nearest")
        axis.set_title(prompt if len(prompt) < 42 else prompt[:39] + "...", fontsize=8, pad=2)
    figure.savefig(path, metadata={"Software": None})
    return images


def measure_loss(model: Learner, size: int, split: Split) -> float:
    """Return the training objective on a split, at fixed noise, without dropout of conditions."""
    data = open_data("emoji", split=split, size=size, style="3d", text=True, label="none")
    batch = Stream(data).batch(0, N_LOSS)
    total = 0.0
    with torch.inference_mode():
        for first in range(0, N_LOSS, _PART):
            part = batch.rows(slice(first, first + _PART))
            for draw in range(DRAWS):
                noise = Noise.keyed(SEED, draw, range(first, first + _PART))
                (turn,) = model.turns(part, 0, noise)
                total += turn.loss.item()
    return total * _PART / N_LOSS / DRAWS


def curves(runs: Sequence[Path], path: Path) -> None:
    """Plot the losses of both stages against the images that each has seen."""
    figure = Figure(figsize=(8, 2.8), layout="constrained", dpi=100)
    FigureCanvasAgg(figure)
    for axis, run, name in zip(figure.subplots(1, 2), runs, ("32 x 32", "64 x 64")):
        log = read_log(run)
        axis.plot([row["images"] for row in log], [row["loss"] for row in log], color="#d9663b")
        axis.set_yscale("log")
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("images seen")
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Software": None})


def table_row(name: str, result: NearestTraining, held_out: NearestTraining) -> str:
    """Return a row of the card's table on memorisation."""
    return (
        f"| {name} | {len(result.first)} | {result.first.median():.1f} "
        f"| {result.share_of_copies:.0%} | {result.share_authentic:.0%} "
        f"| {result.closer(held_out).share.value:.0%} |"
    )


def main() -> None:
    """Write the model and its sheets, and print the card's numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path, help="the run of recipes/flows/emoji32.toml")
    parser.add_argument("fine", type=Path, help="the run of recipes/diffusion/emoji64.toml")
    runs = parser.parse_args()
    with mistakes_in_one_line():
        model = assemble(runs.base, runs.fine)
        file = ZOO / "model.safetensors"
        print(
            f"{model.parameter_count():,} parameters, {file.stat().st_size:,} bytes, {sha256(file)}"
        )
        for stage, run in zip(("emoji32", "emoji64"), (runs.base, runs.fine)):
            shutil.copy(run / "log.jsonl", ZOO / f"{stage}.jsonl")
        curves([runs.base, runs.fine], ZOO / "curves.png")

        model.condition_dropout = model.base.condition_dropout = 0.0  # pyright: ignore
        print("\n| split | first stage | second stage |\n|---|---|---|")
        for split in SPLITS:
            losses = [measure_loss(m, s, split) for m, s in ((model.base, 32), (model, 64))]
            print(f"| {split} | {losses[0]:.4f} | {losses[1]:.4f} |", flush=True)

        prompts = {split: captions(split)[:SHOWN] for split in SPLITS} | {"free": FREE}
        pictures = {name: sheet(texts, ZOO / f"{name}.png") for name, texts in prompts.items()}
        train = open_data("emoji", size=64, style="3d", label="none")
        train_pixels = train.pixels(torch.arange(len(train)))
        real = []
        for split in SPLITS[1:]:
            data = open_data("emoji", size=64, style="3d", label="none", split=split)
            real.append(data.pixels(torch.arange(len(data))))
        held_out = memorisation(torch.cat(real), train_pixels, train.groups)
        print("\n| pictures | n | median d1 | copied | authentic | closer |")
        print("|---|---|---|---|---|---|")
        print(table_row("real, held out", held_out, held_out))
        for name, images in pictures.items():
            print(
                table_row(name, memorisation(images, train_pixels, train.groups), held_out),
                flush=True,
            )
            first = images[::SEEDS]
            pairs = suspects(first, train_pixels, memorisation(first, train_pixels, train.groups))
            save_png(grid(pairs, 10, gap=2), ZOO / f"{name}-nearest.png")
        print(json.dumps(prompts, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
