"""`limner attention`: where a model looks in a picture for each word of a prompt."""

from dataclasses import replace
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
    from limner.commands.pictures import write_sheet
    from limner.commands.request import SamplingRequest
    from limner.commands.sheets.attention import ATTENTION, attention_sheet, stored_request
    from limner.commands.task import with_stored_model

    # Of the stored settings, a new prompt keeps the model.
    other = SamplingRequest.of({"model": model})
    stored = with_stored_model(other, image, ATTENTION) if prompt else stored_request(image)
    if model not in (None, stored.model):  # another model may have other classes
        stored = replace(stored, labels=())
    given = {"model": model, "prompts": [prompt] if prompt else None, "size": size}
    request = SamplingRequest.of(
        vars(stored) | {name: value for name, value in given.items() if value}
    )
    sheet, request, words = attention_sheet(image, request, device=device)
    file = output_file(out, [image])
    print_paths(
        write_sheet(sheet, request, file), f"the picture, then attention to: {', '.join(words)}"
    )
