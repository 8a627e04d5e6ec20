"""`limner export`: write a model as another program's."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from limner.commands.arguments import only_options
from limner.contract.errors import LimnerError

Format = Literal["diffusers", "onnx", "web"]


def export_command(
    model: Annotated[str, typer.Argument(help="A run or model folder, or a model file.")],
    to: Annotated[Path, typer.Argument(help="The new folder, or the new ONNX file.")],
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[sampler.key=value ...]", help="Of onnx and web."),
    ] = None,
    form: Annotated[
        Format,
        typer.Option(
            "--format", help="A pipeline of diffusers, an ONNX file, or a folder for a web server."
        ),
    ] = "diffusers",
    n: Annotated[
        int | None, typer.Option("-n", min=1, max=64, help="Pictures at once, of ONNX files (1).")
    ] = None,
    store: Annotated[
        Literal["float32", "float16", "int8"] | None,
        typer.Option(help="How onnx and web store weights (float32, and float16 for web)."),
    ] = None,
    runtime: Annotated[
        Path | None,
        typer.Option(help="The folder dist of onnxruntime-web; web fetches it by npm."),
    ] = None,
) -> None:
    """Write a model for other programs: diffusers, ONNX, or a page for any browser."""
    if form == "diffusers" and (options or n or store):
        raise LimnerError("sampler options, -n and --store are of --format onnx; give that")
    if form != "web" and runtime:
        raise LimnerError("--runtime is of --format web; leave it out")
    if form == "web" and n:
        raise LimnerError("a page paints one picture after another; leave -n out")
    if form == "diffusers":
        from limner.diffusion.diffusers.export import export as write

        typer.echo(str(write(model, to)))
        return
    from limner.commands.wish import Wish, open_model

    sampler = only_options(options, "sampler")
    if form == "onnx" and to.suffix != ".onnx":
        raise LimnerError(f"an ONNX file ends in .onnx; name {to.with_suffix('.onnx')}")
    painter, checked = open_model(Wish.of({"model": model, **sampler}), "cpu")
    if form == "web":
        from limner.commands.exports.web import write_web

        told = {"title": f"{Path(model).stem} ({painter.name})", "runtime": runtime}
        write_web(painter.eval(), checked, to, store=store or "float16", **told)
        typer.echo(f"{to}  (to try it: python -m http.server -d {to})")
        return
    from limner.commands.exports.onnx_file import write_onnx

    apart_by = write_onnx(painter.eval(), checked, to, n=n or 1, store=store or "float32")
    typer.echo(f"{to}  (differs from the model by at most {apart_by:.1e})")
