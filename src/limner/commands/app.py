"""The command line: the same words as in Python; torch is imported when a command runs."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from limner.commands import data_check, export_command, metrics, picture_commands
from limner.commands.arguments import (
    Against,
    AsJson,
    Device,
    Model,
    Options,
    Run,
    apart,
    is_option,
    print_json,
)
from limner.contract.errors import LimnerError

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
app.add_typer(data_check.app, name="data")


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
    from limner.commands.demo import run_demo

    run_demo(out, seconds)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Look at this machine: versions, cores, speed, data, and what to do about what is missing."""
    from limner.commands.doctor import examine

    report = examine()
    if as_json:
        print_json(report.to_json())
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
    from limner.commands import listing
    from limner.contract.registry import entry, foreign, models

    entries = [entry(name)] if name else [*models().values(), *foreign().values()]
    if as_json:
        described = [listing.described(each) for each in entries]
        print_json(described[0] if name else described)
    elif name:
        typer.echo(listing.options_text(entries[0]))
    else:
        typer.echo(listing.table_text(entries))


def _recipe(arguments: list[str]) -> tuple[Any, str]:
    """A recipe from `RECIPE.toml` or `MODEL SOURCE` and `key=value ...`, and a name for its run."""
    from limner.training.recipe import Recipe

    words = [a for a in arguments if not is_option(a)]
    assignments = [a for a in arguments if is_option(a)]
    if len(words) == 1 and words[0].endswith(".toml"):
        return Recipe.read(words[0], assignments), Path(words[0]).stem
    if len(words) == 2 and not words[0].endswith(".toml"):
        source = re.sub(r"[^a-z0-9]+", "-", words[1].lower()).strip("-")
        return Recipe.of(words[0], words[1], assignments), f"{words[0]}-{source}"[:80]
    raise LimnerError(
        "say what to train: limner train RECIPE.toml, or limner train MODEL SOURCE, as in "
        "limner train edm emoji data.size=16"
    )


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
        from limner.training.estimate import dry_run as estimate

        typer.echo(str(estimate(recipe, device=device)))
        return
    from limner.training.run import train as train_run

    folder = run or _free_folder(name)
    train_run(recipe, folder, device=device)
    _trained(folder)


@app.command()
def resume(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    options: Options = None,
    new_data: Annotated[
        bool, typer.Option("--new-data", help="Go on although the data have changed.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Go on with a run that was stopped, bit for bit as if it had not been."""
    from limner.training.run import resume as resume_run

    resume_run(run, options or [], device=device, new_data=new_data)
    _trained(run)


def _trained(folder: Path) -> None:
    from limner.contract.bundled import paints
    from limner.runtime import processes

    if not processes.first():
        return
    if not paints(folder):
        typer.echo(f"trained: {folder}/model.safetensors (curves.png beside it)")
        return
    typer.echo(
        f"trained: {folder}/model.safetensors (sheets in {folder}/samples, curves.png beside it)"
    )
    typer.echo(f"paint with it: limner sample -m {folder} -n 16")


@app.command()
def sample(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[PROMPT ...] [sampler.key=value ...]")
    ] = None,
    model: Model = None,
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
        Path | None, typer.Option("--from", help="Reuse the settings stored in this PNG.")
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="The PNG file.")] = Path("sample.png"),
    separate: Annotated[
        bool, typer.Option("--separate", help="A file for each picture: NAME-0.png, ...")
    ] = False,
    enlarge: Annotated[
        int | None,
        typer.Option(
            min=1, max=32, help="Pixels a side for one (small pictures to about 128); 1 for none."
        ),
    ] = None,
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
    from limner.commands.sample import Wish, paint, write

    if out.suffix.lower() != ".png":
        raise LimnerError(f"'{out}' is not a PNG file; give -o NAME.png")
    words, options = apart(arguments, "sampler")
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
    for path in write(sheet, wish, out, separate=separate, enlarge=enlarge, strip=strip, gif=gif):
        typer.echo(str(path))


for command in (
    metrics.metrics,
    picture_commands.edit,
    picture_commands.reconstruct,
    picture_commands.interpolate,
    picture_commands.style_mix,
    export_command.export,
):
    app.command()(command)


@app.command()
def evaluate(
    subject: Annotated[
        str,
        typer.Argument(help="A bundled name, a run, a model file, a folder or zip of pictures."),
    ],
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[sampler.key=value likelihood.key=value ...]")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(help="The real pictures: emoji, mnist, folder:PATH, ... (the model's data)"),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="Which, as in fid,kid,likelihood (all that apply).")
    ] = None,
    n: Annotated[
        int | None, typer.Option("-n", "--n", min=1, help="Pictures (as the reference, <= 1000).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Picture i is painted from seed + i.")] = 0,
    extractor: Annotated[
        str | None, typer.Option(help="lenet, emoji-judge, lite0, ... (the fitting one)")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="The extractor's weights.")] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Where files go (RUN/evaluation/SOURCE).")
    ] = None,
    as_json: AsJson = False,
    device: Device = "auto",
) -> None:
    """Judge a model or a folder of pictures by real ones; a run also keeps the report."""
    from limner.evaluate.evaluation import evaluate as judge
    from limner.evaluate.report import report_folder
    from limner.runtime import processes
    from limner.runtime.progress import say

    given = apart(options, "sampler", "likelihood", "data")[1]
    try:
        report = judge(
            subject,
            against,
            metrics=None if metrics is None else metrics.replace(",", " ").split(),
            n=n,
            seed=seed,
            extractor=extractor,
            weights=weights,
            sampler=given.get("sampler"),
            likelihood=given.get("likelihood"),
            data=given.get("data"),
            device=device,
        )
    except KeyboardInterrupt:
        say("stopped; what is done is kept: to go on, type the same command again")
        raise
    if not processes.first():
        return
    folder = out or report_folder(report)
    written = report.write(folder) if folder else []
    if as_json:
        print_json(report.to_json())
        return
    typer.echo(report.text())
    if folder:
        typer.echo(f"written to {folder}: {', '.join(path.name for path in written)}")


@app.command()
def compare(
    arguments: Annotated[
        list[str], typer.Argument(metavar="SUBJECT ... [sampler.key=value data.key=value ...]")
    ],
    against: Against = None,
    metrics: Annotated[
        str | None, typer.Option(help="Names, as in fid,kid; all that apply, unless given.")
    ] = None,
    n: Annotated[
        int | None, typer.Option("-n", min=1, help="Pictures of each (at most 1,000).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Picture i is painted from seed + i.")] = 0,
    extractor: Annotated[str | None, typer.Option(help="What sees the pictures.")] = None,
    weights: Annotated[Path | None, typer.Option(help="The extractor's, from elsewhere.")] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder for index.html.")] = Path(
        "comparison"
    ),
    as_json: AsJson = False,
    device: Device = "auto",
) -> None:
    """Put runs, models and folders of pictures side by side: a leaderboard, and a page of it."""
    from limner.evaluate.comparison import compare as compare_all
    from limner.evaluate.page import write
    from limner.runtime import processes

    subjects, options = apart(arguments, "sampler", "data")
    found = compare_all(
        subjects,
        against,
        metrics=metrics.replace(",", " ").split() if metrics else None,
        n=n,
        seed=seed,
        extractor=extractor,
        weights=weights,
        sampler=options.get("sampler"),
        data=options.get("data"),
        device=device,
    )
    if processes.first():
        page, *_ = write(found, out)
        if as_json:
            print_json(found.to_json())
        else:
            typer.echo(f"{found.text()}\n\nopen {page}")
    if len(found.judged) < len(found.subjects):
        raise typer.Exit(2)


@app.command()
def score(
    model: Annotated[str, typer.Argument(help="A run or model folder, a model file, or bundled.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="IMAGE ... [data.key=value ...]")
    ] = None,
    against: Against = None,
    n: Annotated[int, typer.Option("-n", min=2, help="Real pictures, at most.")] = 1000,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Tell noise, negatives, ... from real pictures.")
    ] = False,
    foreign: Annotated[
        str | None, typer.Option(help="Other data for the self-test (emoji).")
    ] = None,
    as_json: AsJson = False,
    device: Device = "auto",
) -> None:
    """Say how likely pictures are to a model, among real ones."""
    from limner.evaluate.scoring import Scorer
    from limner.evaluate.scoring import score as score_all
    from limner.evaluate.self_test import self_test as run_self_test

    images, options = apart(arguments, "data")
    data = options.get("data", {})
    if self_test and images:
        raise LimnerError("a self-test makes its own pictures; leave the files or --self-test out")
    if self_test:
        test = run_self_test(Scorer.open(model, against, n, data, device), foreign)
        return print_json(test.to_json()) if as_json else typer.echo(test.text())
    found = score_all(model, images, against=against, n=n, data=data, device=device)
    if as_json:
        print_json(found.to_json())
    else:
        typer.echo(found.text())
    for why in found.failed.values():
        typer.echo(f"limner: {why}", err=True)
    if found.failed:
        raise typer.Exit(2)
    return None


@app.command()
def studio(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8420,
    host: Annotated[
        str, typer.Option(help="Interface to listen on (this machine only).")
    ] = "127.0.0.1",
    token: Annotated[
        str,
        typer.Option(
            envvar="LIMNER_TOKEN", help="Secret that remote clients must send; needs --host."
        ),
    ] = "",
    name: Annotated[
        list[str] | None, typer.Option("--name", help="Extra host name to accept.")
    ] = None,
    data: Annotated[
        Path, typer.Option("--data", help="The folder for pictures and the queue.")
    ] = Path("studio"),
    db: Annotated[
        str | None, typer.Option(help="postgresql://..., in place of SQLite in the folder.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Open the studio: type a prompt in a browser, watch the picture form, keep it."""
    try:
        from limner.studio.serve import serve
    except ModuleNotFoundError as error:
        raise LimnerError(
            f"the studio needs {error.name}; type: pip install 'limner[studio]'"
        ) from None
    from limner.studio.settings import Settings

    names, given = tuple(name or ()), {"host": host, "port": port, "token": token}
    settings = Settings(**given, names=names, folder=data, database=db, device=device)
    serve(settings, lambda address: typer.echo(f"the studio is open: {address}"))
