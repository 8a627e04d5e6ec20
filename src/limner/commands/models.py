"""`limner models`: list the models, or the options of one."""

from typing import Annotated

import typer

from limner.commands.arguments import AsJson, print_json


def models_command(
    name: Annotated[
        str | None, typer.Argument(help="Model to describe, with all its options.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the models, or the options of one."""
    from limner.commands.listing import (
        assignments,
        describe_model,
        describe_models,
        models_text,
        options_text,
    )
    from limner.contract.bundled import bundled_models
    from limner.contract.checkpoint import MODEL_FILE, read_header
    from limner.contract.registry import entry, foreign, models

    if name and name not in models() and (folder := bundled_models().get(name)):
        header = read_header(folder / MODEL_FILE)
        typer.echo(f"{name} is bundled; its card: {folder / 'README.md'}", err=as_json)
        if values := assignments("sampler", header.recipe.get("sampler") or {}):
            typer.echo(f"its own defaults: {' '.join(values)}", err=as_json)
        typer.echo(err=as_json)
        name = header.model
    entries = [entry(name)] if name else [*models().values(), *foreign().values()]
    if as_json:
        print_json(describe_model(entries[0]) if name else describe_models(entries))
    elif name:
        typer.echo(options_text(entries[0]))
    else:
        typer.echo(models_text(entries))
