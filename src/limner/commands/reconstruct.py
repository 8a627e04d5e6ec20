"""`limner reconstruct`: pictures above their reconstructions from codes."""

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
    output_file,
    print_paths,
)


def reconstruct_command(
    images: Files = None,
    model: Model = None,
    prompt: Prompt = None,
    label: Label = None,
    n: Annotated[
        int,
        typer.Option(
            "-n", min=1, max=1000, help="Number of held-out pictures, if no file is given."
        ),
    ] = 16,
    out: Out = Path("reconstruct.png"),
    device: Device = "auto",
) -> None:
    """Show pictures, your own or from the data, above their reconstructions by a model."""
    from limner.commands.pictures import write_sheet
    from limner.commands.request import SamplingRequest
    from limner.commands.sheets.codes import reconstruct_sheet

    request = SamplingRequest.single(model, prompt, label, n=n)
    sheet, request, error = reconstruct_sheet(images or [], request, device=device)
    remark = f"mean squared error {error:.4g} on the scale from -1 to 1"
    print_paths(write_sheet(sheet, request, output_file(out, images or [])), remark)
