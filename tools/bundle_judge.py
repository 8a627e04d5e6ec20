"""Bundle a judge: its weights in half precision, its log, and the numbers of its card.

    limner train recipes/judges/lenet.toml --run runs/lenet
    python tools/bundle_judge.py lenet runs/lenet

    python tools/bundle_judge.py lenet          measure the bundled judge again

A judge is measured on real pictures that it was not trained on, as the extractor that metrics use.
Accuracy is over all pictures of a split and style. Retrieval takes one picture of each concept, for
each style, and searches for its own caption among those of all these concepts; chance is k divided
by the number of captions.
"""

import argparse
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from command_line import BuildError, mistakes_in_one_line
from jaxtyping import UInt8
from torch import Tensor

from limner.contract.checkpoint import (
    MODEL_FILE,
    load,
    model_file,
    read_header,
    save_model,
    sha256,
)
from limner.contract.text import Tokenizer
from limner.data import open_data
from limner.data.dataset import Dataset
from limner.data.pictures import Pictures
from limner.evaluate.evaluation import evaluate
from limner.evaluate.extractors.choose import JUDGES, open_extractor
from limner.evaluate.extractors.extractor import Extractor, ImageText
from limner.evaluate.metrics.composition import SKILL_NAMES
from limner.evaluate.metrics.retrieval import retrieval

ZOO = Path(__file__).parents[1] / "src" / "limner" / "zoo"
_BATCH = 500
_SCENES = 4000  # scenes for each split, size and style


def bundle(name: str, run: Path) -> None:
    """Write a run's weights and log to the zoo."""
    header, known = read_header(model_file(run)), read_header(ZOO / name / MODEL_FILE)
    if header.model != known.model:
        raise BuildError(
            f"{run} is a run of {header.model}, and {name} is of {known.model}; "
            f"give a run of {known.model}"
        )
    save_model(
        load(run),
        ZOO / name,
        images_seen=header.images_seen,
        recipe=header.recipe,
        dtype=torch.float16,
    )
    shutil.copy(run / "log.jsonl", ZOO / name)


def pixel_batches(data: Dataset, numbers: Tensor) -> Iterator[UInt8[Tensor, "b c h w"]]:
    """Yield the pictures with these numbers, in batches."""
    return (data.pixels(batch) for batch in numbers.split(_BATCH))


def accuracy(judge: Extractor, data: Dataset) -> float:
    """Return the share of pictures for which the true class has the highest score."""
    assert data.labels is not None
    logits = [judge(pixels).logits for pixels in pixel_batches(data, torch.arange(len(data)))]
    predicted = torch.cat([part.argmax(1) for part in logits if part is not None])
    return float((predicted == data.labels).double().mean())


def first_of_each_concept(data: Pictures) -> dict[str, int]:
    """Return the number of each concept's first picture, by its caption."""
    first = {entry.group: i for i, entry in reversed(list(enumerate(data.entries)))}
    return {data.entries[i].captions[0]: i for i in sorted(first.values())}


def emoji_row(judge: Extractor, split: str, style: str) -> str:
    """Return a row of the emoji judge's table."""
    data = open_data("emoji", size=32, split=split, style=style)
    assert isinstance(data, Pictures)
    assert isinstance(judge, ImageText)
    captions = first_of_each_concept(data)
    text = Tokenizer(judge.text).encode(list(captions))
    pictures = pixel_batches(data, torch.tensor(list(captions.values())))
    similarity = torch.cat([judge.similarity(pixels, text) for pixels in pictures])
    result = retrieval(similarity, torch.arange(len(captions)))
    return (
        f"| {split} | {style} | {len(data):,} | {accuracy(judge, data):.1%} | {len(captions)} "
        f"| {result.r1.value:.1%} | {result.r5.value:.1%} | {result.median_rank.value:g} |"
    )


def scene_row(split: str, size: int, style: str) -> str:
    """Return a row of the scene judge's table: shares of real scenes that match their captions."""
    data = open_data("scenes", size=size, split=split, style=style)
    report = evaluate(data, data, metrics=["composition"], n=_SCENES, quiet=True)
    names = (*SKILL_NAMES.values(), "composition")
    numbers = (report.number(name) for name in names)
    shares = " | ".join(f"{each.value:.1%} ({each.n:,})" if each else "-" for each in numbers)
    return f"| {split} | {size} | {style} | {shares} |"


def print_numbers(name: str) -> None:
    """Print the numbers of a judge's card."""
    file = ZOO / name / "model.safetensors"
    header = read_header(file)
    judge = open_extractor(name, header.spec)
    print(f"{load(file).parameter_count():,} parameters, {file.stat().st_size:,} bytes")
    print(f"SHA-256 {sha256(file)}")
    if name == "lenet":
        for split in ("train", "test"):
            data = open_data("mnist", split=split)
            print(f"accuracy on {split}: {accuracy(judge, data):.2%} of {len(data):,}", flush=True)
        return
    if name == "scene-judge":
        print(f"| split | pixels | style | {' | '.join(SKILL_NAMES.values())} | mean |")
        print("|" + "---|" * (len(SKILL_NAMES) + 4))
        for split, size in itertools.product(("test", "held-out"), (128, 64)):
            print(scene_row(split, size, "all"), flush=True)
        for style in ("3d", "flat", "line", "noto"):
            print(scene_row("test", 128, style), flush=True)
        return
    print("| split | style | pictures | accuracy | captions | R@1 | R@5 | median rank |")
    print("|---|---|---|---|---|---|---|---|")
    for split in ("train", "held-out-pair", "held-out-concept"):
        for style in ("3d", "flat", "line"):
            print(emoji_row(judge, split, style), flush=True)


def main() -> None:
    """Bundle a run, if one is given, and print the card's numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=JUDGES)
    parser.add_argument("run", type=Path, nargs="?", help="run of its recipe")
    args = parser.parse_args()
    with mistakes_in_one_line():
        if args.run:
            bundle(args.name, args.run)
        print_numbers(args.name)


if __name__ == "__main__":
    main()
