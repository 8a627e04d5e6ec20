"""`limner upscale`: enlarge pictures of any size."""

from pathlib import Path
from typing import Annotated

import typer

from limner.commands.arguments import Device, Label, Model, Prompt, print_paths, split_arguments

_FACTOR_HELP = "Scale factor of width and height."


def upscale_command(
    arguments: Annotated[
        list[str], typer.Argument(metavar="IMAGE|FOLDER ... [sampler.key=value ...]")
    ],
    model: Model = None,
    prompt: Prompt = None,
    label: Label = None,
    factor: Annotated[
        float, typer.Option("--factor", "-f", min=1, max=64, help=_FACTOR_HELP)
    ] = 4.0,
    seed: Annotated[int, typer.Option(help="Seed of the noise, if the model uses noise.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="File for one picture, or a folder (this one)."),
    ] = None,
    page: Annotated[
        bool, typer.Option("--page", help="Also write upscale.html: each picture before and after.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Make pictures of any size larger; alpha and the frames of animations are kept."""
    from limner.commands.request import SamplingRequest
    from limner.commands.sheets.upscale import upscale_files

    words, options = split_arguments(arguments, "sampler")
    request = SamplingRequest.single(model, prompt, label, seed=seed, **options)
    files = [Path(word) for word in words]
    print_paths(upscale_files(files, request, factor, out=out, page=page, device=device))
