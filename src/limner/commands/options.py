"""`limner options`: explain the options of training, of a data source, or of a model."""

from typing import Annotated

import typer

from limner.commands.arguments import AsJson, print_json


def options_command(
    name: Annotated[
        str | None, typer.Argument(metavar="[train | evaluate | SOURCE | MODEL]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Explain the options of training, of a data source, or of a model."""
    from limner.commands.listing import (
        describe_section,
        has_section,
        section_text,
        sections_text,
    )
    from limner.commands.models import models_command
    from limner.contract.bundled import bundled_models
    from limner.contract.registry import models

    if name is None:
        typer.echo(sections_text())
    elif not has_section(name) and (name in models() or name in bundled_models()):
        models_command(name, as_json)
    elif as_json:
        print_json(describe_section(name))
    else:
        typer.echo(section_text(name))
