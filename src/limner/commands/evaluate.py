"""`limner evaluate`: evaluate a model or a folder of pictures against real ones."""

from pathlib import Path
from typing import Annotated

import typer

from limner.commands.arguments import (
    AsJson,
    Device,
    Ray,
    Workers,
    names,
    print_json,
    report_interruption,
    split_arguments,
)
from limner.contract.errors import LimnerError


def evaluate_command(
    subject: Annotated[
        str,
        typer.Argument(help="A bundled name, a run, a model file, a folder or zip of pictures."),
    ],
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[sampler.key=value likelihood.key=value ...]")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="Source of the real pictures: emoji, mnist, folder:PATH, ... (the model's data)."
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(help="Names of metrics, such as fid,kid,likelihood (all that apply)."),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            "-n", "--n", min=1, help="Number of pictures (as many as the reference, up to 1,000)."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Picture i is painted from seed + i.")] = 0,
    extractor: Annotated[
        str | None,
        typer.Option(help="Feature extractor: lenet, emoji-judge, lite0, ... (by the pictures)."),
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Weights of the extractor.")] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Output folder (RUN/evaluation/SOURCE).")
    ] = None,
    as_json: AsJson = False,
    workers: Workers = 1,
    ray: Ray = None,
    device: Device = "auto",
) -> None:
    """Evaluate a model or a folder of pictures against real ones; a run also keeps the report."""
    from limner.evaluate.evaluation import evaluate as judge
    from limner.evaluate.report import report_folder
    from limner.runtime import processes

    words, sections = split_arguments(options, "sampler", "likelihood", "data")
    if words:
        raise LimnerError(
            f"'{words[0]}' is a second subject; give one, its real pictures with --against, and "
            "several with limner compare"
        )
    with report_interruption():
        report = judge(
            subject,
            against,
            metrics=names(metrics),
            n=n,
            seed=seed,
            extractor=extractor,
            weights=weights,
            sampler=sections.get("sampler"),
            likelihood=sections.get("likelihood"),
            data=sections.get("data"),
            device=device,
            workers=workers,
            ray=ray,
        )
    if not processes.first():
        return
    if as_json:  # print it before a folder that cannot be written raises an error
        print_json(report.to_json())
    else:
        typer.echo(report.text())
    if folder := out or report_folder(report):
        paths = report.write(folder)
        if not as_json:
            typer.echo(f"written to {folder}: {', '.join(path.name for path in paths)}")
