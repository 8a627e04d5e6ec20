"""Bundle a small model as an example of its family: packed weights, its log, first draws, a card.

    limner train recipes/autoencoders/vae-mnist.toml --run runs/vae
    python tools/bundle_model.py vae runs/vae --recipe recipes/autoencoders/vae-mnist.toml \
        --metrics likelihood -n 1000 --limits "Strokes of fours and nines are often open."

The packed file is measured with `limner evaluate`, with the options of the recipe's section
[evaluate] and the data options on the command line. The sheet shows the pictures of seeds 0 to 19,
or of 0 and 1 by class, without any selection. A model of scenes paints the first captions of their
test split. A translator's sheet shows 16 pairs, spread over the held-out ones: a picture, its
translation, the true picture, and the picture translated back. A control's sheet shows the first
hints of the test split and the pictures of three seeds for each. The sheet of an instruction model
shows the pictures before, after with two seeds, and the true ones. The sheet of an upscaler shows
the small pictures, enlarged with two seeds, and the true ones.

With --over NAME, a model that was trained over a bundled one is stored without the weights of that
base. Its card names the file of the base by its hash. When the base is replaced, judge the models
over it again: pass their own folder as the run.
"""

import argparse
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from command_line import BuildError, count, mistakes_in_one_line
from PIL import Image

from limner.commands.pictures import write_sheet
from limner.commands.request import SamplingRequest
from limner.commands.sheets.sample import paint_sheet
from limner.contract.abilities import Controlled, Translates
from limner.contract.checkpoint import (
    MODEL_FILE,
    load,
    load_tensors,
    model_file,
    read_header,
    save_model,
    sha256,
)
from limner.contract.editing import Follows
from limner.contract.header import Header
from limner.contract.image import Condition, to_uint8
from limner.contract.model import GenerativeModel
from limner.contract.noise import Noise
from limner.contract.packing import is_coded, pack
from limner.contract.registry import entry
from limner.contract.text import text_condition
from limner.contract.upscaling import Upscales
from limner.data import open_data, png
from limner.evaluate.evaluation import evaluate
from limner.evaluate.report import SUBJECT, Number, Report
from limner.runtime.log import read_log

ZOO = Path(__file__).parents[1] / "src" / "limner" / "zoo"
MACHINE = "AMD EPYC (Zen 3), in float32"
MNIST = (
    "MNIST's training split (LeCun, Cortes, Burges), 28 x 28, grey, under CC BY-SA 3.0 according "
    "to Keras' documentation; none of it is in the file"
)
EMOJI = "training splits of the bundled emoji (Microsoft's Fluent Emoji, MIT); none is in the file"
SCENES = (
    "composed scenes, {}, of {} objects by four artists (Microsoft's Fluent Emoji, MIT; "
    "Google's Noto Emoji, Apache-2.0); none is in the file"
)
_MANY = 150_000  # parameters; models with at least this many are stored in eight bits
_SHOWN = 40
_DRAWS = 20
_GREYS = 4
_ROWS = 10  # of a log, evenly spread
_PAIRS = 16
_SEEDS = 4
_FEW = 2
_CONDITIONS = 4


def bundle(name: str, run: Path, over: str = "") -> Path:
    """Write a run's weights and some of its log to the zoo, unless they are there; return the path.

    Args:
        name: name of the folder.
        run: the run with the weights.
        over: bundled model that is the run's base; its weights are left out.
    """
    if run.resolve() == ZOO / name:
        return run
    header, model = read_header(model_file(run)), load(run)
    part, *_ = header.recipe["train"].get("init") or ("",)
    if over:
        state = model.state_dict()
        for weight, value in load(ZOO / over).state_dict().items():
            own = state.get(f"{part}.{weight}")
            if own is None or not torch.equal(own, value):
                raise BuildError(
                    f"{run} was not trained over {over}: {weight} differs; give --over the base of "
                    "this run"
                )
    rounded = any(map(is_coded, pack(model.state_dict())))
    save_model(
        model,
        ZOO / name,
        images_seen=header.images_seen,
        recipe=_portable(header.recipe),
        shared={f"{part}.": f"{over}:"} if over else None,
        dtype=torch.int8 if model.parameter_count() >= _MANY or rounded else torch.float16,
    )
    rows = (run / "log.jsonl").read_text().splitlines(keepends=True)
    kept = rows[-1 :: -math.ceil(len(rows) / _ROWS)][::-1]
    (ZOO / name / "log.jsonl").write_text("".join(kept))
    return ZOO / name


def _portable(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe that names its runs without their folder on this machine."""
    train = dict(recipe["train"])
    if init := train.get("init"):
        train["init"] = {part: f"runs/{Path(run).name}" for part, run in init.items()}
    return {**recipe, "train": train}


def minutes(log: Path) -> float:
    """Return the training time of a run in minutes, from its log."""
    images, seconds = 0, 0.0
    for row in read_log(log):
        if speed := row.get("images_per_second"):
            seconds += (row["images"] - images) / speed
            images = row["images"]
    return seconds / 60


def evaluate_bundle(folder: Path, args: argparse.Namespace) -> tuple[Report, str]:
    """Return the report on the packed file, and the command that prints it."""
    recipe_options: dict[str, Any] = read_header(model_file(folder)).recipe.get("evaluate", {})
    options = {
        name: recipe_options[name] for name in ("against", "extractor") if recipe_options.get(name)
    }
    options |= {"extractor": args.extractor} if args.extractor else {}
    data = {"split": recipe_options["split"]} if recipe_options.get("split") else {}
    data |= _data_of(args.data)
    arguments = [f"--{name} {value}" for name, value in options.items()]
    arguments += [shlex.quote(f"data.{name}={value}") for name, value in data.items()]
    arguments.append(f"--metrics {args.metrics} -n {args.n}")
    metrics = args.metrics.split(",")
    report = evaluate(folder, metrics=metrics, n=args.n, data=data, **options)
    return report, " ".join(["limner evaluate", folder.name, *arguments])


def _data_of(options: Sequence[str]) -> dict[str, str]:
    """Parse data options as they are typed; return them by name."""
    for option in options:
        if "=" not in option:
            raise BuildError(f"'{option}' is not a data option; write data.KEY=VALUE")
    return dict(option.removeprefix("data.").split("=", 1) for option in options)


def draws(folder: Path) -> None:
    """Write the sheet of a model without prompts: two pictures of each class if it has classes;
    digits in few greys.
    """
    labels = ("all",) if read_header(model_file(folder)).spec.labels else ()
    request = SamplingRequest(str(folder), labels=labels, n=_FEW if labels else _DRAWS)
    write_sheet(*paint_sheet(request), folder / "samples.png", enlarge=2)
    sheet, maximum = Image.open(folder / "samples.png"), _GREYS - 1
    if sheet.mode != "L":
        _shrink(sheet.reduce(2), folder / "samples.png", 64)
        return
    sheet = sheet.point([round(v * maximum / 255) * 255 // maximum for v in range(256)])
    _shrink(sheet, folder / "samples.png", _GREYS)


def scenes(folder: Path, options: Sequence[str]) -> None:
    """Write the sheet of a model of scenes, one row for each caption."""
    request = SamplingRequest(str(folder), prompts=tuple(scene_captions(folder, options)), n=_SEEDS)
    write_sheet(*paint_sheet(request), folder / "samples.png", enlarge=1)
    sheet = Image.open(folder / "samples.png")
    stored_over_base = read_header(model_file(folder)).shared
    sheet = sheet.convert("RGB").reduce(2) if stored_over_base else sheet
    _shrink(sheet, folder / "samples.png", 32 if stored_over_base else 256)


def scene_captions(folder: Path, options: Sequence[str], n: int = 0) -> list[str]:
    """Return the first captions of the test split of the scenes that a model was trained on, or is
    judged with. A model that is stored over another one gets only a few.
    """
    header = read_header(model_file(folder))
    data = header.recipe["data"] | {"split": "test"} | _data_of(options)
    first = torch.arange(n or (_FEW if header.shared else _SHOWN // _SEEDS))
    return open_data(**data).captions(first, Noise.sampling(0, len(first))) or []


def condition_sheet(folder: Path, options: Sequence[str]) -> None:
    """Write the sheet of a control, an instruction model or an upscaler: hints or given pictures,
    and the pictures made from them.
    """
    model, recipe = load(folder), read_header(model_file(folder)).recipe
    assert isinstance(model, Controlled | Follows | Upscales)
    options_of_data = recipe["data"] | {"split": "test"} | _data_of(options)
    data, indices = open_data(**options_of_data), torch.arange(_CONDITIONS)
    hints = data.hints(indices, indices, seed=0)
    assert hints is not None
    c = Condition(image=hints)
    if model.spec.text:
        captions = data.captions(indices, Noise.sampling(0, _CONDITIONS)) or []
        c = replace(text_condition(model.spec, captions), image=hints)
    has_answer = isinstance(model, Follows | Upscales)
    shape = model.spec.shape[1:]
    columns = [F.interpolate(hints, shape, mode="nearest").expand(-1, model.spec.channels, -1, -1)]
    for seed in range(2 if has_answer else 3):
        columns.append(model.sample(_CONDITIONS, c, seed=[seed] * _CONDITIONS, **recipe["sampler"]))
    if has_answer:
        columns.append(data.images(indices, Noise.sampling(0, _CONDITIONS)))
    sheet = png.grid(to_uint8(torch.stack(columns, 1).flatten(0, 1)), 2 * len(columns))
    _shrink(Image.fromarray(sheet.permute(1, 2, 0).numpy()), folder / "samples.png")


def _shrink(image: Image.Image, file: Path, colours: int = 256) -> None:
    """Write a sheet with few colours, which takes a third of the bytes."""
    image.convert("RGB").quantize(colours).save(file, optimize=True)


def translations(folder: Path) -> None:
    """Write the sheet of a translator: held-out pairs, translated there and back."""
    model, recipe = load(folder), read_header(model_file(folder)).recipe
    assert isinstance(model, Translates)
    options = {"against": recipe["data"]["source"]} | recipe["evaluate"]
    size = model.spec.height
    pairs = open_data(options["against"], split=options["split"], size=size, label="none")
    indices = pairs.overview(_PAIRS)
    b = pairs.images(indices, Noise.sampling(0, _PAIRS))
    a = pairs.hints(indices, indices, seed=0)
    assert a is not None
    translated = model.translate(a, "B")
    columns = [a, translated, b]
    if "A" in model.ways:
        columns += [model.translate(b, "A"), model.translate(translated, "A")]
    sheet = to_uint8(torch.stack(columns, 1).flatten(0, 1))
    png.save_png(png.grid(sheet, 2 * len(columns)), folder / "samples.png")


def card(folder: Path, args: argparse.Namespace, report: Report, command: str) -> str:
    """Return the text of the card."""
    file = folder / "model.safetensors"
    header, model = read_header(file), load(file)
    registered = entry(header.model)
    precision = "in eight bits" if model.parameter_count() >= _MANY else "in float16"
    if any(is_coded(name) for name in load_tensors(file)):
        precision = "rounded to few levels or stored in eight bits"
    last, train = read_log(folder)[-1], header.recipe["train"]
    paints_scenes = _paints_scenes(header)
    takes_picture = isinstance(model, Controlled | Follows | Upscales)
    source, objects = (header.recipe["data"].get(key) for key in ("source", "vocabulary"))
    data = EMOJI if "emoji" in source else MNIST if "mnist" in source else SCENES
    size = f"{header.spec.height} x {header.spec.width}"
    rows = [(_what(number), number.text()) for number in report.numbers]
    if "held_out.loss" in last and model.loss_compares:
        rows.append(("held-out loss at the end of training", f"{last['held_out.loss']:.4g}"))
    rows += [
        ("measured with", f"`{command}` ({date.today()}, CPU)"),
        (
            "file",
            f"`model.safetensors`, {file.stat().st_size:,} bytes: {model.parameter_count():,} "
            f"parameters, {precision}",
        ),
        ("SHA-256", f"`{sha256(file)}`"),
        *[
            ("base", f"`{each}`; its file has the SHA-256 `{sha256(ZOO / each / MODEL_FILE)}`")
            for each in (source.partition(":")[0] for source in header.shared.values())
        ],
        ("data", data.format(size, objects or "all")),
        ("licence", "MIT, like limner"),
        (
            "recipe",
            f"`{args.recipe}`; the file's header has the options as run; "
            f"{header.images_seen:,} images, "
            f"seed {train.get('seed', 0)}{', averaged weights' if train.get('ema') else ''}",
        ),
        ("log", f"`log.jsonl`, at most {_ROWS} of its lines"),
        (
            "training time",
            args.trained or f"{minutes(folder):.0f} minutes of one core of an {MACHINE}",
        ),
    ]
    subject = {EMOJI: "emoji", MNIST: "digits", SCENES: "scenes"}[data]
    description = (
        f"A small model, trained on {subject} on one core: `limner sample -m {folder.name}`."
    )
    caption = f"First draws, seeds 0 to {_DRAWS - 1}"
    if header.spec.labels:
        caption = f"First draws of each class, seeds 0 to {_FEW - 1}"
    if paints_scenes:
        description = (
            f'Scenes from words: `limner sample "a red apple and a green car" -m {folder.name}`.'
        )
        captions = "; ".join(scene_captions(folder, args.data))
        half = ", at half their size" if header.shared else ""
        caption = f"First draws, seeds 0 to {_SEEDS - 1} in each row{half}: {captions}"
    if takes_picture:
        base = header.shared.get("base.", "").rstrip(":")
        captions = "; ".join(scene_captions(folder, args.data, _CONDITIONS))
        description = f"It is built over the bundled `{base}` and stored without its weights: "
        if isinstance(model, Upscales):
            description = f"A small model for scenes: `limner upscale PICTURE -m {folder.name}`."
            what = "the small picture, enlarged with seeds 0 and 1, the true picture"
        elif isinstance(model, Follows):
            description += f'`limner edit PICTURE --instruct "make the dog blue" -m {folder.name}`.'
            what = "the picture before, after with seeds 0 and 1, the true picture after"
        else:
            description += f'`limner sample "a red apple" -m {folder.name} --hint DRAWING`.'
            what = "the hint, and first draws of seeds 0 to 2 that follow it"
        caption = f"The first {_CONDITIONS} of the test split, two in each row: {what}"
        caption += f"; {captions}" if header.spec.text else ""
    if isinstance(model, Translates):
        a, b = (model.spec_of(domain).domain for domain in ("A", "B"))
        both, back = "", ""
        if "A" in model.ways:
            both = f", and back: `--to {a}`"
            back = ", its translation, and the way back of the first"
        description = (
            f"From {a} to {b}: `limner translate PICTURE -m {folder.name} --to {b}`{both}."
        )
        caption = (
            f"{_PAIRS} pairs, spread over the held-out ones, two in each row: {a}, its "
            f"translation, the true {b} picture{back}"
        )
    return "\n".join(
        [
            f"# {folder.name}",
            "",
            f"{registered.summary} {registered.paper}. {description}",
            "",
            f"![{caption}](samples.png)",
            "",
            "| | |",
            "|---|---|",
            *(f"| {what} | {value} |" for what, value in rows),
            "",
            f"**What it cannot do.** {args.limits}",
            "",
        ]
    )


def _paints_scenes(header: Header) -> bool:
    """Return whether a model was trained to paint scenes from captions."""
    has_captions = header.spec.text is not None and header.spec.hint is None
    return has_captions and header.recipe["data"]["source"] == "scenes"


def _what(number: Number) -> str:
    """Return a number's name, followed by its row if it is not the model's own."""
    return number.name if number.row == SUBJECT else f"{number.name}, {number.row}"


def main() -> None:
    """Bundle a run and write its card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="name of the folder: a registered model, or another name")
    parser.add_argument("run", type=Path, help="run with the weights")
    parser.add_argument("--recipe", required=True, help="recipe that the card names")
    parser.add_argument("--over", default="", help="bundled model that is the base of this one")
    parser.add_argument("--metrics", required=True, help="metrics, separated by commas")
    parser.add_argument("-n", type=count, default=1000, help="number of pictures to measure")
    parser.add_argument("--extractor", default="", help="default: the recipe's, or the usual one")
    parser.add_argument("--limits", required=True, help="text on what the model cannot do")
    parser.add_argument("--trained", default="", help="training time, if the log does not have it")
    parser.add_argument(
        "data", nargs="*", help="data options, directly after the run: data.grid=16"
    )
    args = parser.parse_args()
    with mistakes_in_one_line():
        if not issubclass(entry(read_header(model_file(args.run)).model).model, GenerativeModel):
            raise BuildError(f"{args.run} paints nothing; for a judge, type tools/bundle_judge.py")
        folder = bundle(args.name, args.run, args.over)
        header = read_header(model_file(folder))
        model_class = entry(header.model).model
        if issubclass(model_class, Translates):
            translations(folder)
        elif issubclass(model_class, Controlled | Follows | Upscales):
            condition_sheet(folder, args.data)
        elif _paints_scenes(header):
            scenes(folder, args.data)
        else:
            draws(folder)
        text = card(folder, args, *evaluate_bundle(folder, args))
        (folder / "README.md").write_text(text)
        print(text)


if __name__ == "__main__":
    main()
