"""`limner walk`: from the picture of one seed to that of another."""

from pathlib import Path
from typing import Annotated

import typer

from limner.commands.arguments import (
    Device,
    Label,
    Model,
    Out,
    Prompt,
    Size,
    only_options,
    print_paths,
)


def walk_command(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[sampler.key=value ...]", show_default=False)
    ] = None,
    model: Model = None,
    prompt: Prompt = None,
    label: Label = None,
    size: Size = None,
    seed: Annotated[int, typer.Option(help="Where the way begins.")] = 0,
    other_seed: Annotated[int, typer.Option(help="Where it ends.")] = 100,
    steps: Annotated[
        int, typer.Option(min=2, max=64, help="Pictures on the way, both ends included.")
    ] = 8,
    out: Out = Path("walk.png"),
    device: Device = "auto",
) -> None:
    """Go from the picture of one seed to that of another, through what lies between."""
    from limner.commands.pictures import write
    from limner.commands.walking import walk_sheet
    from limner.commands.wish import Wish

    told = {"seed": seed, "size": size, **only_options(arguments, "sampler")}
    wish = Wish.single(model, prompt, label, **told)
    sheet, wish = walk_sheet(wish, other_seed, steps, device=device)
    print_paths(write(sheet, wish, out))
