"""`limner translate`: pictures of one domain as pictures of another."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from limner.commands.arguments import Device, Model, apart, numbered, png_file, print_paths, spare
from limner.contract.errors import LimnerError


def translate_command(
    arguments: Annotated[list[str], typer.Argument(metavar="IMAGE|FOLDER ...")],
    model: Model = None,
    to: Annotated[
        str, typer.Option(help="The domain to translate to: B, A, or the data's name of it.")
    ] = "B",
    source: Annotated[
        str,
        typer.Option(
            "--from",
            help="The domain of the pictures, where bundled models translate from several.",
        ),
    ] = "",
    seed: Annotated[int, typer.Option(help="Of the noise, where a model has one.")] = 0,
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            help="A PNG file for all, or a folder for a file of each translation.",
            callback=numbered,
        ),
    ] = Path("translate.png"),
    device: Device = "auto",
) -> None:
    """Translate pictures of one domain into another: each beside its translation and way back."""
    from limner.commands.pictures import picture_files, write
    from limner.commands.translating import translate_sheet
    from limner.commands.wish import Wish

    words, options = apart(arguments, "sampler")
    files = picture_files([Path(word) for word in words])
    wish = Wish.single(model, None, None, seed=seed, **options)
    if not out.suffix:
        named = [spare(out / f"{file.stem}.png", files) for file in files]
        if len(set(named)) < len(named):
            raise LimnerError("two of the pictures have one name; give them in two calls")
        sheet, made, wish = translate_sheet(files, wish, to, source=source, device=device)
        for image, path in zip(made, named):
            one = replace(sheet, images=image[None], columns=1)
            print_paths(write(one, wish, path, enlarge=1))
        return
    sheet, _, wish = translate_sheet(files, wish, to, source=source, device=device)
    print_paths(write(sheet, wish, spare(png_file(out), files)))
