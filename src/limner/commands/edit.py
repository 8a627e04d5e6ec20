"""`limner edit`: repaint a picture, or a part of it."""

from pathlib import Path
from typing import Annotated, Any

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

_DEFAULT_VARIATIONS = 6  # of each picture, if not said


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
    cross_steps: Annotated[
        float | None,
        typer.Option(
            help="Share of steps that reuse the first picture's attention to words (0.2)."
        ),
    ] = None,
    self_steps: Annotated[
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
    from limner.commands.pictures import write_sheet
    from limner.commands.request import SamplingRequest
    from limner.commands.sheets.edit import edit_sheet
    from limner.commands.sheets.instruct import instruct_sheet
    from limner.commands.sheets.reword import reword_sheet

    names, options = split_arguments(arguments, "sampler")
    files = [Path(name) for name in names]
    read = [*files, *([mask] if mask else [])]
    part = {"keep": keep, "mask": mask, "rounds": rounds, "feather": feather}
    changes = [f"replace:{text}" for text in replace_words or []]
    changes += [f"refine:{text}" for text in refine or []]
    changes += [f"weight:{text}" for text in weight or []]
    shares = {"cross_steps": cross_steps, "self_steps": self_steps, "local": local}
    limits = [f"{name}:{value:g}" for name, value in shares.items() if value is not None]
    draws = {name: value for name, value in {"n": n, "seed": seed}.items() if value is not None}
    if instruct:
        _check_instruction(
            files, part | {"strength": strength}, changes or limits or prompt or label
        )
        request = SamplingRequest.single(model, None, None, size=size, **options)
        sheet, request = instruct_sheet(files[0], request, instruct, device, **draws)
        read += map(Path, request.hints)
    elif changes:
        _check_rewording(files, part)
        changes += limits
        request = SamplingRequest.single(
            model, prompt, label, changes=changes, size=size, **options
        )
        sheet, request = reword_sheet(files[0], request, strength=strength, device=device, **draws)
    elif limits:
        raise LimnerError(
            "--cross-steps, --self-steps and --local need --replace, --refine or --weight; "
            "give one of them"
        )
    else:
        draws = {"n": _DEFAULT_VARIATIONS, **draws}
        request = SamplingRequest.single(model, prompt, label, size=size, **draws, **options)
        sheet, request = edit_sheet(files, request, strength=strength, device=device, **part)
    print_paths(write_sheet(sheet, request, output_file(out, read)))


def _check_instruction(files: list[Path], part: dict[str, Any], others: object) -> None:
    """Check that an instruction changes one whole picture, and nothing else does."""
    if others:
        raise LimnerError(
            "--instruct does not go with other changes, --prompt or --label; leave these out"
        )
    if len(files) != 1 or any(value is not None for value in part.values()):
        raise LimnerError(
            "--instruct changes one whole picture; give one picture, and leave --keep, --mask, "
            "--strength, --rounds and --feather out"
        )


def _check_rewording(files: list[Path], part: dict[str, Any]) -> None:
    """Check that words are changed in one whole picture."""
    if any(value is not None for value in part.values()):
        raise LimnerError(
            "--replace, --refine and --weight do not go with --keep, --mask, --rounds or "
            "--feather; leave these out"
        )
    if len(files) != 1:
        raise LimnerError("--replace, --refine and --weight change one picture; give one")
