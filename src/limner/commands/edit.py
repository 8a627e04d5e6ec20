"""`limner edit`: repaint a picture, or a part of it."""

from pathlib import Path
from typing import Annotated

import typer

from limner.commands.arguments import (
    Device,
    Label,
    Model,
    Out,
    Size,
    output_file,
    print_paths,
    split_arguments,
)
from limner.contract.errors import LimnerError

_WAYS = 6


def edit_command(
    arguments: Annotated[list[str], typer.Argument(metavar="IMAGE ... [sampler.key=value ...]")],
    model: Model = None,
    keep: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of the height to keep, from the top."),
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="Mask file, white where to repaint.")] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=1,
            help="How far to move from the input picture (0.6; 1 with --mask or --keep).",
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="How often to repeat each step, so that parts agree."),
    ] = None,
    feather: Annotated[
        int | None,
        typer.Option(min=0, max=64, help="Width in pixels of the blend around the mask (0)."),
    ] = None,
    replace_words: Annotated[
        list[str] | None,
        typer.Option("--replace", help="Replace a word with another: dog=cat."),
    ] = None,
    refine: Annotated[
        list[str] | None, typer.Option(help="Add words to the prompt: 'with a hat'.")
    ] = None,
    weight: Annotated[list[str] | None, typer.Option(help="Weight of a word: red=2.")] = None,
    cross: Annotated[
        float | None,
        typer.Option(
            help="Share of steps that reuse the first picture's attention to words (0.2)."
        ),
    ] = None,
    own: Annotated[
        float | None,
        typer.Option(help="Share of steps that reuse the first picture's self-attention (0.1)."),
    ] = None,
    local: Annotated[
        float | None,
        typer.Option(
            help="Change only where attention to the words exceeds this share of its maximum; "
            "0: everywhere (0.3)."
        ),
    ] = None,
    instruct: Annotated[
        list[str] | None, typer.Option(help="Instruction: 'make the dog blue'; repeat for several.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Prompt for the new pictures.")] = None,
    label: Label = None,
    size: Size = None,
    n: Annotated[
        int | None,
        typer.Option("-n", min=1, max=1000, help="Variations for each input picture (6)."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Variation i is drawn from seed + i (0, or the picture's own seed)."),
    ] = None,
    out: Out = Path("edit.png"),
    device: Device = "auto",
) -> None:
    """Repaint pictures from a prompt: the whole, a part, or only what changed words affect."""
    from limner.commands.pictures import write
    from limner.commands.request import Request
    from limner.commands.sheets.edit import edit_sheet
    from limner.commands.sheets.instruct import instruct_sheet
    from limner.commands.sheets.reword import reword_sheet

    files, options = split_arguments(arguments, "sampler")
    read = [*map(Path, files), *([mask] if mask else [])]
    changes = [f"replace:{text}" for text in replace_words or []]
    changes += [f"refine:{text}" for text in refine or []]
    changes += [f"weight:{text}" for text in weight or []]
    shares = {"cross": cross, "own": own, "local": local}
    limits = [f"{name}:{value:g}" for name, value in shares.items() if value is not None]
    overrides = {name: value for name, value in {"n": n, "seed": seed}.items() if value is not None}
    if instruct:
        if changes or limits or prompt or label:
            raise LimnerError(
                "--instruct does not go with other changes, --prompt or --label; leave these out"
            )
        if len(files) != 1 or not (keep is mask is strength is rounds is feather is None):
            raise LimnerError(
                "--instruct changes one whole picture; give one picture, and leave --keep, --mask, "
                "--strength, --rounds and --feather out"
            )
        request = Request.single(model, None, None, size=size, **options)
        sheet, request = instruct_sheet(Path(files[0]), request, instruct, device, **overrides)
        print_paths(write(sheet, request, output_file(out, [*read, *map(Path, request.hints)])))
        return
    if changes:
        if not (keep is mask is rounds is feather is None):
            raise LimnerError(
                "--replace, --refine and --weight do not go with --keep, --mask, --rounds or "
                "--feather; leave these out"
            )
        if len(files) != 1:
            raise LimnerError("--replace, --refine and --weight change one picture; give one")
        request = Request.single(
            model, prompt, label, changes=(*changes, *limits), size=size, **options
        )
        settings = {"strength": strength, "device": device, **overrides}
        sheet, request = reword_sheet(Path(files[0]), request, **settings)
        print_paths(write(sheet, request, output_file(out, read)))
        return
    if limits:
        raise LimnerError(
            "--cross, --own and --local need --replace, --refine or --weight; give one of them"
        )
    request = Request.single(
        model, prompt, label, **{"n": _WAYS, **overrides, "size": size}, **options
    )
    kwargs = {"keep": keep, "mask": mask, "strength": strength, "rounds": rounds, "device": device}
    kwargs["feather"] = feather
    sheet, request = edit_sheet([*map(Path, files)], request, **kwargs)
    print_paths(write(sheet, request, output_file(out, read)))
