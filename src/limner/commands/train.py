"""`limner train` and `limner resume`: train a model, and continue a stopped run."""

import re
import shlex
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from limner.commands.arguments import Device, Options, Run, is_option
from limner.contract.errors import LimnerError
from limner.runtime.sigterm import exit_at_signals

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def train_command(
    arguments: Annotated[
        list[str],
        typer.Argument(metavar="RECIPE.toml | recipe:NAME | MODEL SOURCE [key=value ...]"),
    ],
    run: Run = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Estimate the cost, and do not train.")
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option(help="Choose picture size and steps for about this training time: 30m, 2h."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Train a model by a recipe, or by name on a source of data."""
    with exit_at_signals(partial(_next_command, run)):
        _train(arguments, run, dry_run, budget, device)


def _train(
    arguments: list[str], run: Path | None, dry_run: bool, budget: str | None, device: str
) -> None:
    from limner.runtime import processes

    recipe, name = _recipe(arguments)
    if run is None and not dry_run and processes.may_restart():
        raise LimnerError(
            f"torchrun may restart processes, which must find their run; type -r runs/{name}"
        )
    from limner.training.memory import check_memory
    from limner.training.run import recipe_before_restart
    from limner.training.run import train as train_run

    old = recipe_before_restart(run, device) if run and not dry_run else None
    if budget is not None:
        from limner.training.budget import fit_steps, with_choices

        seconds = _seconds(budget)
        recipe = with_choices(recipe, old) if old else fit_steps(recipe, seconds, device=device)
    check_memory(recipe, device=device)
    if dry_run:
        from limner.training.estimate import dry_run as estimate

        cost = str(estimate(recipe, device=device))
        if processes.first():
            typer.echo(cost)
        return
    folder = run or _free_folder(name)
    with exit_at_signals(partial(_next_command, folder)):
        train_run(recipe, folder, device=device)
    _report_result(folder)


def resume_command(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    options: Options = None,
    new_data: Annotated[
        bool, typer.Option("--new-data", help="Resume even if the data have changed.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Continue a run that was stopped, bit for bit as if it had never stopped."""
    with exit_at_signals(partial(_next_command, run)):
        from limner.training.run import resume as resume_run

        resume_run(run, options or [], device=device, new_data=new_data)
    _report_result(run)


def _next_command(run: Path | None) -> str:
    """Return the line to report after Ctrl-C or SIGTERM between steps, when nothing can be lost.

    Args:
        run: the folder of the run, if it is known.
    """
    if run and (run / "recipe.toml").is_file():
        return (
            "stopped before the next step; nothing that was saved is lost; to continue, type: "
            f"limner resume {shlex.quote(str(run))}"
        )
    return "stopped before the first step; nothing is lost; to start, type the same command again"


def _recipe(arguments: list[str]) -> tuple[Any, str]:
    """Read a recipe from `RECIPE.toml`, `recipe:NAME` or `MODEL SOURCE`, with `key=value ...`.

    Returns:
        the recipe, and a name for its run.
    """
    from limner.contract.registry import entry_of, models
    from limner.training.bundled_recipes import PREFIX, bundled_recipes, recipe_file
    from limner.training.recipe import Recipe

    words = [a for a in arguments if not is_option(a)]
    assignments = [a for a in arguments if is_option(a)]
    file = recipe_file(words[0]) if words else None
    if len(words) == 1 and file is not None:
        recipe = Recipe.read(file, assignments)
        entry_of(recipe.model["name"], file)
        return recipe, file.stem
    if len(words) == 2 and file is None:
        if words[0] not in models() and words[1] in models():
            swapped = shlex.join([words[1], words[0]])
            raise LimnerError(f"the model comes before the source; type limner train {swapped}")
        source = re.sub(r"[^a-z0-9]+", "-", words[1].lower()).strip("-")
        return Recipe.of(words[0], words[1], assignments), f"{words[0]}-{source}"[:80]
    if len(words) == 1 and words[0] in bundled_recipes():
        raise LimnerError(f"{words[0]} is a recipe; type limner train {PREFIX}{words[0]}")
    problem = f"'{' '.join(words)}' is neither a recipe nor a model and a source"
    quotes = "; a path with spaces or braces needs quotes" if len(words) > 2 else ""
    raise LimnerError(
        f"{problem if words else 'no recipe or model is given'}; type limner train RECIPE.toml, or "
        f"limner train MODEL SOURCE, as in limner train edm emoji data.size=16{quotes}"
    )


def _seconds(text: str) -> float:
    """Convert a time as it is typed, such as 90s, 30m, 1.5h or 2d, to seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?)([smhd])", text.strip().lower())
    if not match or not float(match[1]):
        raise LimnerError(f"--budget {text} is not a time; type for example 30m or 2h")
    return float(match[1]) * _UNITS[match[2]]


def _free_folder(name: str) -> Path:
    """Return runs/NAME, or the first of runs/NAME-2, -3, ... that does not exist."""
    folder, number = Path("runs") / name, 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{name}-{number}"
    return folder


def _report_result(folder: Path) -> None:
    from limner.runtime import processes

    if not processes.first():
        return
    sheets = f"sheets in {folder}/samples, " if (folder / "samples").is_dir() else ""
    typer.echo(f"trained: {folder}/model.safetensors ({sheets}curves.png next to it)")
    if use := _use(folder):
        typer.echo(f"{use[0]} with it: limner {use[1]} -m {shlex.quote(str(folder))}{use[2]}")


def _use(folder: Path) -> tuple[str, str, str] | None:
    """Return what the model in a run's folder can do: a verb, and a command around "-m FOLDER"."""
    from limner.contract.abilities import Translates
    from limner.contract.bundled import can_paint
    from limner.contract.checkpoint import MODEL_FILE, read_header
    from limner.contract.editing import Follows
    from limner.contract.registry import entry
    from limner.contract.upscaling import Upscales

    if can_paint(folder):
        return "paint", "sample", " -n 16"
    model = entry(read_header(folder / MODEL_FILE).model).model
    uses = {
        Translates: ("translate", "translate IMAGE", ""),
        Upscales: ("enlarge", "upscale IMAGE", ""),
        Follows: ("edit", "edit IMAGE --instruct WORDS", ""),
    }
    return next((use for ability, use in uses.items() if issubclass(model, ability)), None)
