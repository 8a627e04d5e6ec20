"""The command line: the same words as in Python; torch is imported when a command runs."""

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from limner.errors import LimnerError

app = typer.Typer(
    name="limner",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Every kind of image generator: train, sample, judge and serve in the same few words.",
    epilog="key=value reaches every option by its path: model.channels=64,128  train.steps=2000  "
    "sampler.steps=20  data.size=32",
)
data_app = typer.Typer(no_args_is_help=True, help="Look at data before training on them.")
app.add_typer(data_app, name="data")

Options = Annotated[list[str] | None, typer.Argument(metavar="[key=value ...]")]
Run = Annotated[Path | None, typer.Option("--run", help="The folder that the run goes to.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]


def _print_json(document: Any) -> None:
    json.dump(document, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        import limner

        typer.echo(f"limner {limner.__version__}")
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The folder for index.html.")] = Path("demo"),
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="How long to train.")] = 60,
) -> None:
    """Train a small model on emoji for a minute, and write a page of what it learnt."""
    from limner.demo import run_demo

    run_demo(out, seconds)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Look at this machine: versions, cores, speed, data, and what to do about what is missing."""
    from limner.doctor import examine

    report = examine()
    if as_json:
        _print_json(report.to_json())
    else:
        typer.echo(report.text())
    if not report.healthy:
        raise typer.Exit(1)


@app.command("models")
def models_(
    name: Annotated[str | None, typer.Argument(help="A model, for all its options.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the models, or the options of one."""
    from limner import listing
    from limner.registry import entry, models

    entries = [entry(name)] if name else list(models().values())
    if as_json:
        described = [listing.described(each) for each in entries]
        _print_json(described[0] if name else described)
    elif name:
        typer.echo(listing.options_text(entries[0]))
    else:
        typer.echo(listing.table_text(entries))


def _recipe(arguments: list[str]) -> tuple[Any, str]:
    """A recipe from `RECIPE.toml` or `MODEL SOURCE` and `key=value ...`, and a name for its run."""
    from limner.recipe import Recipe

    words = [a for a in arguments if not _is_option(a)]
    assignments = [a for a in arguments if _is_option(a)]
    if len(words) == 1 and words[0].endswith(".toml"):
        return Recipe.read(words[0], assignments), Path(words[0]).stem
    if len(words) == 2 and not words[0].endswith(".toml"):
        source = re.sub(r"[^a-z0-9]+", "-", words[1].lower()).strip("-")
        return Recipe.of(words[0], words[1], assignments), f"{words[0]}-{source}"[:80]
    raise LimnerError(
        "say what to train: limner train RECIPE.toml, or limner train MODEL SOURCE, as in "
        "limner train edm emoji data.size=16"
    )


def _is_option(argument: str) -> bool:
    return re.match(r"[a-z_]+(\.[A-Za-z0-9_]+)*=", argument) is not None


def _free_folder(name: str) -> Path:
    """runs/NAME, or runs/NAME-2, -3, ... when that is taken."""
    folder, number = Path("runs") / name, 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{name}-{number}"
    return folder


@app.command()
def train(
    arguments: Annotated[
        list[str], typer.Argument(metavar="RECIPE.toml | MODEL SOURCE [key=value ...]")
    ],
    run: Run = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would cost; train nothing.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Train a model by a recipe, or by name on a source of data."""
    recipe, name = _recipe(arguments)
    if dry_run:
        from limner.estimate import dry_run as estimate

        typer.echo(str(estimate(recipe, device=device)))
        return
    from limner.run import train as train_run

    folder = run or _free_folder(name)
    train_run(recipe, folder, device=device)
    _trained(folder)


@app.command()
def resume(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    options: Options = None,
    device: Device = "auto",
) -> None:
    """Go on with a run that was stopped, bit for bit as if it had not been."""
    from limner.run import resume as resume_run

    resume_run(run, options or [], device=device)
    _trained(run)


def _trained(folder: Path) -> None:
    typer.echo(
        f"trained: {folder}/model.safetensors (sheets in {folder}/samples, curves.png beside it)"
    )
    typer.echo(f"paint with it: limner sample -m {folder} -n 16")


@app.command()
def sample(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[PROMPT ...] [sampler.key=value ...]")
    ] = None,
    model: Annotated[
        str | None, typer.Option("-m", "--model", help="A run or model folder, or a model file.")
    ] = None,
    negative: Annotated[
        str | None, typer.Option(help="What the pictures should keep away from.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", help="A class by name or number; repeat for several; 'all'."),
    ] = None,
    n: Annotated[
        int | None, typer.Option("-n", min=1, max=10_000, help="Pictures of each (1).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Picture i is drawn from seed + i (0).")] = None,
    vary: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Paint variations of the seed's picture, this far away."),
    ] = None,
    like: Annotated[
        Path | None, typer.Option("--from", help="A picture of limner, whose settings to use.")
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="The PNG file.")] = Path("sample.png"),
    separate: Annotated[
        bool, typer.Option("--separate", help="A file for each picture: NAME-0.png, ...")
    ] = False,
    strip: Annotated[
        bool, typer.Option("--strip", help="Also how they form: NAME-strip.png.")
    ] = False,
    gif: Annotated[bool, typer.Option("--gif", help="Also how they form: NAME.gif.")] = False,
    dtype: Annotated[
        str | None, typer.Option(help="float32, or bfloat16: quicker, slightly other pictures.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Paint pictures with a trained model, as PNG files that remember how they were made."""
    from limner.options import parse_assignments
    from limner.painting import Wish, paint, write

    if out.suffix.lower() != ".png":
        raise LimnerError(f"'{out}' is no PNG file; give -o NAME.png")
    words = [a for a in arguments or [] if not _is_option(a)]
    options = parse_assignments([a for a in arguments or [] if _is_option(a)], ["sampler"])
    given = {
        "model": model,
        "prompts": words or None,
        "negative": negative,
        "labels": label or None,
        "n": n,
        "seed": seed,
        "vary": vary,
        "dtype": dtype,
    }
    base = vars(Wish.read(like)) if like else {}
    values = base | {key: value for key, value in given.items() if value is not None}
    values["sampler"] = base.get("sampler", {}) | options.get("sampler", {})
    sheet, wish = paint(Wish.of(values), device=device, forming=strip or gif)
    for path in write(sheet, wish, out, separate=separate, strip=strip, gif=gif):
        typer.echo(str(path))


@data_app.command("check")
def data_check(
    source: Annotated[str, typer.Argument(help="emoji, mnist, folder:PATH, zip:PATH, ...")],
    options: Options = None,
    sheet: Annotated[Path | None, typer.Option(help="A contact sheet as a PNG file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Sizes, channels, labels, captions, duplicates and broken files of a source."""
    from limner.data import check
    from limner.options import parse_assignments

    report = check(source, **parse_assignments(options or [], ["data"]).get("data", {}))
    if sheet is not None:
        report.sheet(sheet)
    if as_json:
        _print_json(report.to_json())
        return
    typer.echo(report.text())
    if sheet is not None:
        typer.echo(f"contact sheet: {sheet}")
