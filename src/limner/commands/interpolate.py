"""`limner interpolate`: interpolate between the codes of pictures."""

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
    output_file,
    print_paths,
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
        int, typer.Option("-n", min=1, max=1000, help="Number of paths, if no picture is given.")
    ] = 6,
    out: Out = Path("interpolate.png"),
    device: Device = "auto",
) -> None:
    """Interpolate between the codes of pictures; with one picture, vary the numbers of its code."""
    from limner.commands.pictures import write_sheet
    from limner.commands.request import SamplingRequest
    from limner.commands.sheets.codes import interpolate_sheet

    request = SamplingRequest.single(model, prompt, label, n=n, size=size)
    sheet, request = interpolate_sheet(images or [], request, steps, device=device)
    print_paths(write_sheet(sheet, request, output_file(out, images or [])))
