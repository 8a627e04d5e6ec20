"""`limner attention`: where a model looks in a picture for each word of a prompt."""

from pathlib import Path
from typing import Annotated

import typer

from limner.commands.arguments import Device, Model, Out, Prompt, Size, output_file, print_paths


def attention_command(
    image: Annotated[Path, typer.Argument(help="Picture file.", show_default=False)],
    model: Model = None,
    prompt: Prompt = None,
    size: Size = None,
    out: Out = Path("attention.png"),
    device: Device = "auto",
) -> None:
    """Show where a model looks in a picture for each word of a given or stored prompt."""
    from limner.commands.pictures import read_own_settings, write
    from limner.commands.request import Request
    from limner.commands.sheets.attention import attention_sheet

    settings = {} if prompt else read_own_settings(image) or {}
    size = size or settings.get("size")
    request = Request.single(
        model or settings.get("model"), prompt or settings.get("prompt"), None, size=size
    )
    sheet, request, words = attention_sheet(image, request, device=device)
    file = output_file(out, [image])
    print_paths(write(sheet, request, file), f"the picture, then attention to: {', '.join(words)}")
