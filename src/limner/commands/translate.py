"""`limner translate`: translate pictures from one domain to another."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from limner.commands.arguments import (
    Device,
    Model,
    free_output_file,
    output_file,
    png_file,
    print_paths,
    split_arguments,
)
from limner.contract.errors import LimnerError


def translate_command(
    arguments: Annotated[list[str], typer.Argument(metavar="IMAGE|FOLDER ...")],
    model: Model = None,
    to: Annotated[
        str, typer.Option(help="Domain to translate to: B, A, or its name in the data.")
    ] = "B",
    source: Annotated[
        str,
        typer.Option(
            "--from",
            help="Domain of the pictures, if bundled models translate from several.",
        ),
    ] = "",
    seed: Annotated[int, typer.Option(help="Seed of the noise, if the model uses noise.")] = 0,
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            help="PNG file for all, or a folder with a file for each translation.",
            callback=free_output_file,
        ),
    ] = Path("translate.png"),
    device: Device = "auto",
) -> None:
    """Translate pictures from one domain to another; show each with its translation and
    back-translation."""
    from limner.commands.pictures import write_sheet
    from limner.commands.request import SamplingRequest
    from limner.commands.sheets.translate import translate_sheet
    from limner.data.picture_files import picture_files

    words, options = split_arguments(arguments, "sampler")
    files = picture_files([Path(word) for word in words])
    request = SamplingRequest.single(model, None, None, seed=seed, **options)
    if not out.suffix:
        paths = [output_file(out / f"{file.stem}.png", files) for file in files]
        if len(set(paths)) < len(paths):
            raise LimnerError(
                "two of the pictures have the same name; give them in separate commands, with "
                "different folders in -o"
            )
        sheet, translations, request = translate_sheet(
            files, request, to, source=source, device=device
        )
        for image, path in zip(translations, paths):
            single = replace(sheet, images=image[None], columns=1)
            print_paths(write_sheet(single, request, path, enlarge=1))
        return
    sheet, _, request = translate_sheet(files, request, to, source=source, device=device)
    print_paths(write_sheet(sheet, request, output_file(png_file(out), files)))
