"""`limner interpolate`: from picture to picture through their codes."""

from pathlib import Path
from typing import Annotated

import typer

from limner.commands.arguments import (
    Device,
    Files,
    Label,
    Model,
    Out,
    Prompt,
    Size,
    print_paths,
    spare,
)


def interpolate_command(
    images: Files = None,
    model: Model = None,
    steps: Annotated[
        int, typer.Option(min=2, max=100, help="Pictures on each path, or values of each number.")
    ] = 8,
    prompt: Prompt = None,
    label: Label = None,
    size: Size = None,
    n: Annotated[
        int, typer.Option("-n", min=1, max=1000, help="Paths, if no picture is given.")
    ] = 6,
    out: Out = Path("interpolate.png"),
    device: Device = "auto",
) -> None:
    """Go from picture to picture through their codes; with one, show what its code's numbers do."""
    from limner.commands.codes import interpolate_sheet
    from limner.commands.pictures import write
    from limner.commands.wish import Wish

    wish = Wish.single(model, prompt, label, n=n, size=size)
    sheet, wish = interpolate_sheet(images or [], wish, steps, device=device)
    print_paths(write(sheet, wish, spare(out, images or [])))
