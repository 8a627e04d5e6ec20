"""Bundle a small model that shows its family: packed weights, its log, first draws, and a card.

    limner train recipes/autoencoders/vae-mnist.toml --run runs/vae
    python tools/bundle_model.py vae runs/vae --recipe recipes/autoencoders/vae-mnist.toml \
        --metrics likelihood -n 1000 --limits "Strokes of fours and nines are often open."

What is measured is the packed file, by `limner evaluate`; the sheet shows the pictures of seeds 0
to 39, none of them chosen.
"""

import argparse
import shutil
from datetime import date
from pathlib import Path

import torch

from limner.commands.painting import paint_sheet
from limner.commands.pictures import write
from limner.commands.wish import Wish
from limner.contract.checkpoint import load, model_file, read_header, save_model, sha256
from limner.contract.registry import entry
from limner.evaluate.evaluation import evaluate
from limner.evaluate.report import SUBJECT, Number, Report
from limner.runtime.log import read_log

ZOO = Path(__file__).parents[1] / "src" / "limner" / "zoo"
MACHINE = "AMD EPYC (Zen 3), in float32"
DATA = (
    "MNIST's training split (LeCun, Cortes, Burges), 28 x 28, grey, under CC BY-SA 3.0 as Keras' "
    "documentation has it; none of it is in the file"
)
_MANY = 150_000  # parameters, from which on they are stored in eight bits
_SHOWN = 40


def bundle(name: str, run: Path) -> Path:
    """Write a run's weights and log to the zoo: its folder there."""
    header, model = read_header(model_file(run)), load(run)
    packed = model.parameter_count() >= _MANY
    save_model(
        model,
        ZOO / name,
        images_seen=header.images_seen,
        recipe=header.recipe,
        dtype=torch.int8 if packed else torch.float16,
    )
    shutil.copy(run / "log.jsonl", ZOO / name)
    return ZOO / name


def minutes(log: Path) -> float:
    """How long the steps of a run took, by its log."""
    images, seconds = 0, 0.0
    for row in read_log(log):
        if speed := row.get("images_per_second"):
            seconds += (row["images"] - images) / speed
            images = row["images"]
    return seconds / 60


def card(folder: Path, recipe: str, report: Report, command: str, limits: str) -> str:
    """The text beside the weights."""
    file = folder / "model.safetensors"
    header, model = read_header(file), load(file)
    of = entry(header.model)
    precision = "eight bits" if model.parameter_count() >= _MANY else "float16"
    last, train = read_log(folder)[-1], header.recipe["train"]
    rows = [(_what(number), number.text()) for number in report.numbers]
    if "held_out.loss" in last and model.loss_compares:
        rows.append(("loss of held-out pictures at the end", f"{last['held_out.loss']:.4g}"))
    rows += [
        ("shown by", f"`{command}` ({date.today()}, CPU)"),
        (
            "file",
            f"`model.safetensors`, {file.stat().st_size:,} bytes: {model.parameter_count():,} "
            f"parameters in {precision}",
        ),
        ("SHA-256", f"`{sha256(file)}`"),
        ("data", DATA),
        ("licence", "MIT, as limner"),
        (
            "recipe",
            f"`{recipe}`, in the file's header as it ran: {header.images_seen:,} images, seed "
            f"{train.get('seed', 0)}{', averaged weights' if train.get('ema') else ''}",
        ),
        ("log", "`log.jsonl`"),
        ("training time", f"{minutes(folder):.0f} minutes of one core of an {MACHINE}"),
    ]
    return "\n".join(
        [
            f"# {folder.name}",
            "",
            f"{of.summary} {of.paper}. A small one, which learnt digits within minutes on one "
            f"core: `limner sample -m {folder.name}`.",
            "",
            f"![First draws, seeds 0 to {_SHOWN - 1}](samples.png)",
            "",
            "| | |",
            "|---|---|",
            *(f"| {what} | {value} |" for what, value in rows),
            "",
            f"**What it cannot do.** {limits}",
            "",
        ]
    )


def _what(number: Number) -> str:
    """A number's name, and whose it is where it is not the model's."""
    return number.name if number.row == SUBJECT else f"{number.name}, {number.row}"


def main() -> None:
    """Bundle a run and write its card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="of the registered model")
    parser.add_argument("run", type=Path)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--metrics", required=True)
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--limits", required=True)
    asked = parser.parse_args()
    folder = bundle(asked.name, asked.run)
    labels = ("all",) if read_header(model_file(folder)).spec.labels else ()
    wish = Wish(str(folder), labels=labels, n=4 if labels else _SHOWN)
    write(*paint_sheet(wish), folder / "samples.png")
    command = f"limner evaluate {asked.name} --metrics {asked.metrics} -n {asked.n}"
    report = evaluate(folder, metrics=asked.metrics.split(","), n=asked.n)
    text = card(folder, asked.recipe, report, command, asked.limits)
    (folder / "README.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
