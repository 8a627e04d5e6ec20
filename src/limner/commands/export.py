"""`limner export`: write a model as another program's."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from limner.commands.arguments import apart
from limner.contract.errors import LimnerError

Format = Literal["diffusers", "onnx"]


def export_command(
    model: Annotated[str, typer.Argument(help="A run or model folder, or a model file.")],
    to: Annotated[Path, typer.Argument(help="The new folder, or the new ONNX file.")],
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[sampler.key=value ...]", help="Of ONNX files.")
    ] = None,
    form: Annotated[
        Format, typer.Option("--format", help="diffusers is a folder, onnx a file.")
    ] = "diffusers",
    n: Annotated[
        int | None, typer.Option("-n", min=1, max=64, help="Pictures at once, of ONNX files (1).")
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="Store weights of ONNX files in half precision.")
    ] = False,
) -> None:
    """Write a model for other programs: a pipeline of diffusers, or an ONNX graph."""
    if form == "diffusers":
        if options or n or half:
            raise LimnerError("sampler options, -n and --half are of --format onnx; give that")
        from limner.diffusion.diffusers.export import export as write

        typer.echo(str(write(model, to)))
        return
    if to.suffix != ".onnx":
        raise LimnerError(f"an ONNX file ends in .onnx; name {to.with_suffix('.onnx')}")
    _, sampler = apart(options or [], "sampler")
    from limner.commands.exports.onnx_file import write_onnx
    from limner.commands.wish import Wish, open_model

    painter, checked = open_model(Wish.of({"model": model, **sampler}), "cpu")
    difference = write_onnx(painter.eval(), checked, to, n=n or 1, half=half)
    typer.echo(f"{to}  (differs from the model by at most {difference:.1e})")
