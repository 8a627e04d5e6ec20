"""`limner export`: write a model in the format of another program."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from limner.commands.arguments import only_options
from limner.contract.errors import LimnerError

Format = Literal["diffusers", "onnx", "web"]


def export_command(
    model: Annotated[
        str, typer.Argument(help="A bundled model, a run, a model folder or a model file.")
    ],
    to: Annotated[Path, typer.Argument(help="New folder, or new ONNX file.")],
    options: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[sampler.key=value ...]", help="Sampler options, for onnx and web."
        ),
    ] = None,
    form: Annotated[
        Format,
        typer.Option(
            "--format", help="A diffusers pipeline, an ONNX file, or a folder for a web server."
        ),
    ] = "diffusers",
    n: Annotated[
        int | None, typer.Option("-n", min=1, max=64, help="Batch size of an ONNX file (1).")
    ] = None,
    store: Annotated[
        Literal["float32", "float16", "int8"] | None,
        typer.Option(help="Number format of the weights (float32 for onnx, float16 for web)."),
    ] = None,
    runtime: Annotated[
        Path | None,
        typer.Option(help="Folder dist of onnxruntime-web, for web (fetched with npm)."),
    ] = None,
) -> None:
    """Write a model for other programs: diffusers, ONNX, or a page for any browser."""
    if form == "diffusers" and (unused := _options_of_graphs(options, n, store)):
        raise LimnerError(
            f"{unused[0]} does not go with --format diffusers; leave it out, or give --format onnx"
        )
    if form == "diffusers" and to.suffix == ".onnx":
        raise LimnerError(f"'{to}' is the name of an ONNX file; give --format onnx, or a folder")
    if form != "web" and runtime:
        raise LimnerError("--runtime is for --format web; leave it out")
    if form == "web" and n:
        raise LimnerError("a web page paints one picture at a time; leave -n out")
    if form == "diffusers":
        from limner.diffusion.diffusers.export import export as write

        typer.echo(str(write(model, to)))
        return
    from limner.commands.request import SamplingRequest, open_model

    sampler = only_options(options, "sampler")
    if form == "onnx" and to.suffix != ".onnx":
        raise LimnerError(f"'{to}' is not an ONNX file; give NAME.onnx")
    from limner.commands.exports.onnx_file import write_onnx  # which says what is not installed

    painter, sampler_options = open_model(SamplingRequest.of({"model": model, **sampler}), "cpu")
    if form == "web":
        from limner.commands.exports.web import write_web

        page = {"title": f"{Path(model).stem} ({painter.name})", "runtime": runtime}
        write_web(painter.eval(), sampler_options, to, store=store or "float16", **page)
        typer.echo(f"{to}  (to try it: python -m http.server -d {to})")
        return
    difference = write_onnx(painter.eval(), sampler_options, to, n=n or 1, store=store or "float32")
    typer.echo(f"{to}  (differs from the model by at most {difference:.1e})")


def _options_of_graphs(options: list[str] | None, n: int | None, store: str | None) -> list[str]:
    """Return the names of the given options that only ONNX graphs have."""
    given = {"-n": n, "--store": store}
    return [
        *(option.partition("=")[0] for option in options or []),
        *(name for name, value in given.items() if value is not None),
    ]
