"""`limner style-mix`: a grid of pictures, each with the styles of two others."""

from pathlib import Path
from typing import Annotated

import typer

from limner.commands.arguments import Device, Label, Model, Out, Prompt, only_options, print_paths


def style_mix_command(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[sampler.key=value ...]", show_default=False)
    ] = None,
    model: Model = None,
    layers: Annotated[
        str,
        typer.Option(
            help="Layers with the column's style: coarse, middle, fine, or numbers such as 2-5."
        ),
    ] = "fine",
    n: Annotated[int, typer.Option("-n", min=1, max=100, help="Number of columns.")] = 6,
    rows: Annotated[int, typer.Option(min=1, max=100, help="Number of rows.")] = 4,
    seed: Annotated[
        int, typer.Option(help="Column i is drawn from seed + i, rows from the seeds after these.")
    ] = 0,
    prompt: Prompt = None,
    other_prompt: Annotated[
        str | None, typer.Option(help="Prompt for the columns (the same as for the rows).")
    ] = None,
    label: Label = None,
    out: Out = Path("style-mix.png"),
    device: Device = "auto",
) -> None:
    """Mix styles: each picture is the one to its left, with the styles of some layers from the one
    above."""
    from limner.commands.pictures import write_sheet
    from limner.commands.request import SamplingRequest
    from limner.commands.sheets.style_mix import style_mix_sheet

    request = SamplingRequest.single(
        model, prompt, label, n=n, seed=seed, **only_options(arguments, "sampler")
    )
    sheet, request, layer_slice = style_mix_sheet(
        request, rows, layers, other_prompt=other_prompt, device=device
    )
    remark = f"layers {layer_slice.start} to {layer_slice.stop - 1} from above"
    print_paths(write_sheet(sheet, request, out), remark)
