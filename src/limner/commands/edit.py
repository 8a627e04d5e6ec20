"""`limner edit`: paint a picture anew, or the part that is not to stay."""

from pathlib import Path
from typing import Annotated

import typer

from limner.commands.arguments import Device, Label, Model, Out, Size, apart, print_paths, spare
from limner.contract.errors import LimnerError

_WAYS = 6


def edit_command(
    arguments: Annotated[list[str], typer.Argument(metavar="IMAGE ... [sampler.key=value ...]")],
    model: Model = None,
    keep: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of the height to keep, from the top."),
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="White where the picture is repainted.")] = None,
    strength: Annotated[
        float | None,
        typer.Option(min=0.01, max=1, help="How far to move from the input picture (0.6)."),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Repeat each step so that parts agree."),
    ] = None,
    feather: Annotated[
        int | None,
        typer.Option(min=0, max=64, help="Pixels around the mask over which it blends in (0)."),
    ] = None,
    replace_words: Annotated[
        list[str] | None,
        typer.Option("--replace", help="A word and what stands in its place: dog=cat."),
    ] = None,
    refine: Annotated[
        list[str] | None, typer.Option(help="Words that are added: 'with a hat'.")
    ] = None,
    weight: Annotated[list[str] | None, typer.Option(help="How much a word counts: red=2.")] = None,
    cross: Annotated[
        float | None,
        typer.Option(help="Share of steps in which changed words keep their places (0.2)."),
    ] = None,
    own: Annotated[
        float | None,
        typer.Option(help="Share of steps in which forms keep their shape (0.1)."),
    ] = None,
    local: Annotated[
        float | None,
        typer.Option(help="Change only where attention to words is so high; 0: all (0.3)."),
    ] = None,
    instruct: Annotated[
        list[str] | None, typer.Option(help="What to do: 'make the dog blue'; once for each step.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="What the pictures should be.")] = None,
    label: Label = None,
    size: Size = None,
    n: Annotated[
        int | None,
        typer.Option("-n", min=1, max=1000, help="Variations for each input picture (6)."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Path i is drawn from seed + i (0, or the picture's own).")
    ] = None,
    out: Out = Path("edit.png"),
    device: Device = "auto",
) -> None:
    """Paint pictures anew as a prompt says: all, a part, or what words of its prompt change."""
    from limner.commands.instruct import instruct_sheet
    from limner.commands.pictures import write
    from limner.commands.repainting import edit_sheet
    from limner.commands.reword import reword_sheet
    from limner.commands.wish import Wish

    files, options = apart(arguments, "sampler")
    file = spare(out, [*map(Path, files), *([mask] if mask else [])])
    changes = [f"replace:{each}" for each in replace_words or []]
    changes += [f"refine:{each}" for each in refine or []]
    changes += [f"weight:{each}" for each in weight or []]
    shares = {"cross": cross, "own": own, "local": local}
    settings = [f"{name}:{value:g}" for name, value in shares.items() if value is not None]
    asked = {name: value for name, value in {"n": n, "seed": seed}.items() if value is not None}
    if instruct:
        if changes or settings or prompt or label:
            raise LimnerError("--instruct says all that is to be done; leave other changes out")
        if len(files) != 1 or not (keep is mask is strength is rounds is feather is None):
            raise LimnerError("--instruct changes one whole picture; give one, and no part of it")
        wish = Wish.single(model, None, None, size=size, **options)
        sheet, wish = instruct_sheet(Path(files[0]), wish, instruct, device, **asked)
        print_paths(write(sheet, wish, spare(file, [*map(Path, wish.hints)])))
        return
    if changes:
        if not (keep is mask is rounds is feather is None):
            raise LimnerError(
                "words change without --keep, --mask, --rounds and --feather; leave these out"
            )
        if len(files) != 1:
            raise LimnerError("give one picture whose words are to change")
        wish = Wish.single(
            model, prompt, label, changes=(*changes, *settings), size=size, **options
        )
        told = {"strength": strength, "device": device, **asked}
        sheet, wish = reword_sheet(Path(files[0]), wish, **told)
        print_paths(write(sheet, wish, file))
        return
    if settings:
        raise LimnerError(
            "--cross, --own and --local go with --replace, --refine or --weight; give one"
        )
    wish = Wish.single(model, prompt, label, **{"n": _WAYS, **asked, "size": size}, **options)
    told = {"keep": keep, "mask": mask, "strength": strength, "rounds": rounds, "device": device}
    told["feather"] = feather
    sheet, wish = edit_sheet([*map(Path, files)], wish, **told)
    print_paths(write(sheet, wish, file))
