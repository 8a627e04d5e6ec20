"""The commands that make pictures of others: edit, reconstruct, interpolate, style-mix."""

from pathlib import Path
from typing import Annotated, Any

import typer

from limner.commands.arguments import Device, Model, apart
from limner.contract.errors import LimnerError

Prompt = Annotated[str | None, typer.Option(help="What the pictures are of.")]
Label = Annotated[str | None, typer.Option(help="Their class, by name or number.")]


def edit(
    arguments: Annotated[list[str], typer.Argument(metavar="IMAGE ... [sampler.key=value ...]")],
    model: Model = None,
    keep: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="The share of the height that stays, from above."),
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="White where the picture is repainted.")] = None,
    strength: Annotated[
        float | None,
        typer.Option(min=0.01, max=1, help="How far to go from what is painted over (0.6)."),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="How often to take each step, so that parts agree (1)."),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="What the pictures should be.")] = None,
    label: Annotated[str | None, typer.Option(help="A class by name or number.")] = None,
    n: Annotated[
        int, typer.Option("-n", min=1, max=1000, help="Variations for each input picture.")
    ] = 6,
    seed: Annotated[int, typer.Option(help="Way i is drawn from seed + i.")] = 0,
    out: Annotated[Path, typer.Option("-o", "--out", help="The PNG file.")] = Path("edit.png"),
    device: Device = "auto",
) -> None:
    """Paint pictures anew as a prompt says: all, what a mask marks, or all but the upper part."""
    from limner.commands.edit import edit as edited
    from limner.commands.sample import Wish, write

    _check_png(out)
    files, options = apart(arguments, "sampler")
    asked = {"prompts": [prompt] if prompt else [], "labels": [label] if label else []}
    given = asked | {"sampler": {}} | options | {"model": model, "n": n, "seed": seed}
    sheet, wish = edited(
        [Path(file) for file in files],
        Wish.of(given),
        keep=keep,
        mask=mask,
        strength=strength,
        rounds=rounds,
        device=device,
    )
    for path in write(sheet, wish, out):
        typer.echo(str(path))


def reconstruct(
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="[IMAGE ...]", show_default=False)
    ] = None,
    model: Model = None,
    prompt: Prompt = None,
    label: Label = None,
    n: Annotated[
        int, typer.Option("-n", min=1, max=1000, help="How many, where no picture is given.")
    ] = 16,
    out: Annotated[Path, typer.Option("-o", "--out", help="The PNG file.")] = Path(
        "reconstruct.png"
    ),
    device: Device = "auto",
) -> None:
    """Show pictures, yours or the data's, above what a model makes of their codes."""
    from limner.commands import codes
    from limner.commands.sample import write

    _check_png(out)
    wish = _wish(model, prompt, label, n)
    sheet, wish, error = codes.reconstruct(images or [], wish, device=device)
    for path in write(sheet, wish, out):
        typer.echo(f"{path}  (mean squared error {error:.4g} on the scale from -1 to 1)")


def interpolate(
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="[IMAGE ...]", show_default=False)
    ] = None,
    model: Model = None,
    steps: Annotated[
        int, typer.Option(min=2, max=100, help="Pictures on each path, or values of each number.")
    ] = 8,
    prompt: Prompt = None,
    label: Label = None,
    n: Annotated[
        int, typer.Option("-n", min=1, max=1000, help="Paths, where no picture is given.")
    ] = 6,
    out: Annotated[Path, typer.Option("-o", "--out", help="The PNG file.")] = Path(
        "interpolate.png"
    ),
    device: Device = "auto",
) -> None:
    """Go from picture to picture through their codes; with one, show what its code's numbers do."""
    from limner.commands import codes
    from limner.commands.sample import write

    _check_png(out)
    wish = _wish(model, prompt, label, n)
    sheet, wish = codes.interpolate(images or [], wish, steps, device=device)
    for path in write(sheet, wish, out):
        typer.echo(str(path))


def style_mix(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[sampler.key=value ...]", show_default=False)
    ] = None,
    model: Model = None,
    layers: Annotated[
        str, typer.Option(help="What comes from above: coarse, middle, fine, or as in 2-5.")
    ] = "fine",
    n: Annotated[int, typer.Option("-n", min=1, max=100, help="Columns.")] = 6,
    rows: Annotated[int, typer.Option(min=1, max=100, help="Rows.")] = 4,
    seed: Annotated[
        int, typer.Option(help="Column i is drawn from seed + i, rows from the next ones.")
    ] = 0,
    prompt: Prompt = None,
    label: Label = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="The PNG file.")] = Path("style-mix.png"),
    device: Device = "auto",
) -> None:
    """Mix styles: each picture is the one at its left, with some layers of the one above it."""
    from limner.commands import style_mix
    from limner.commands.sample import write

    _check_png(out)
    words, options = apart(arguments, "sampler")
    if words:
        raise LimnerError(f"'{words[0]}' is not an option; give sampler.key=value")
    wish = _wish(model, prompt, label, n, seed=seed, **options)
    sheet, wish, taken = style_mix.style_mix(wish, rows, layers, device=device)
    for path in write(sheet, wish, out):
        typer.echo(f"{path}  (layers {taken.start} to {taken.stop - 1} from above)")


def _check_png(out: Path) -> None:
    if out.suffix.lower() != ".png":
        raise LimnerError(f"'{out}' is not a PNG file; give -o NAME.png")


def _wish(model: str | None, prompt: str | None, label: str | None, n: int, **settings: Any) -> Any:
    """A wish for pictures that are made from others."""
    from limner.commands.sample import Wish

    asked = {"prompts": [prompt] if prompt else [], "labels": [label] if label else []}
    return Wish.of(asked | {"model": model, "n": n, "sampler": {}} | settings)
