"""`limner upscale`: pictures of any size, made larger."""

from pathlib import Path
from typing import Annotated

import typer

from limner.commands.arguments import Device, Label, Model, Prompt, apart, print_paths

_HELP = "How many times as high and wide the pictures become."


def upscale_command(
    arguments: Annotated[
        list[str], typer.Argument(metavar="IMAGE|FOLDER ... [sampler.key=value ...]")
    ],
    model: Model = None,
    prompt: Prompt = None,
    label: Label = None,
    factor: Annotated[float, typer.Option("--factor", "-f", min=1, max=64, help=_HELP)] = 4.0,
    seed: Annotated[int, typer.Option(help="Of the noise, where a model has one.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="A file for one picture, or a folder (this one)."),
    ] = None,
    page: Annotated[
        bool, typer.Option("--page", help="Also write upscale.html: each before and after.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Make pictures of any size larger; alpha and the frames of animations are kept."""
    from limner.commands.upscaling import upscale_files
    from limner.commands.wish import Wish

    words, options = apart(arguments, "sampler")
    wish = Wish.single(model, prompt, label, seed=seed, **options)
    files = [Path(word) for word in words]
    print_paths(upscale_files(files, wish, factor, out=out, page=page, device=device))
