"""`limner export`: write a model as another program's."""

from pathlib import Path
from typing import Annotated

import typer


def export_command(
    model: Annotated[str, typer.Argument(help="A run or model folder, or a model file.")],
    folder: Annotated[Path, typer.Argument(help="The new folder of a diffusers pipeline.")],
) -> None:
    """Write a model as a pipeline of diffusers, where that has an equal network."""
    from limner.diffusion.diffusers.export import export as write

    typer.echo(str(write(model, folder)))
