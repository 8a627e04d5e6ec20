"""`limner walk`: interpolate between the pictures of two seeds."""

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
    seed: Annotated[int, typer.Option(help="Seed of the first picture.")] = 0,
    other_seed: Annotated[int, typer.Option(help="Seed of the last picture.")] = 100,
    steps: Annotated[
        int, typer.Option(min=2, max=64, help="Number of pictures, both ends included.")
    ] = 8,
    out: Out = Path("walk.png"),
    device: Device = "auto",
) -> None:
    """Interpolate from the picture of one seed to the picture of another."""
    from limner.commands.pictures import write_sheet
    from limner.commands.request import SamplingRequest
    from limner.commands.sheets.walk import walk_sheet

    settings = {"seed": seed, "size": size, **only_options(arguments, "sampler")}
    request = SamplingRequest.single(model, prompt, label, **settings)
    sheet, request = walk_sheet(request, other_seed, steps, device=device)
    print_paths(write_sheet(sheet, request, out))
