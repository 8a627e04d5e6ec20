"""`limner compare`: compare runs, models and folders of pictures."""

from pathlib import Path
from typing import Annotated

import typer

from limner.commands.arguments import (
    Against,
    AsJson,
    Device,
    names,
    print_json,
    report_interruption,
    split_arguments,
)


def compare_command(
    arguments: Annotated[
        list[str], typer.Argument(metavar="SUBJECT ... [sampler.key=value data.key=value ...]")
    ],
    against: Against = None,
    metrics: Annotated[
        str | None, typer.Option(help="Names of metrics, such as fid,kid (all that apply).")
    ] = None,
    n: Annotated[
        int | None, typer.Option("-n", min=1, help="Pictures of each (at most 1,000).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Picture i is painted from seed + i.")] = 0,
    extractor: Annotated[str | None, typer.Option(help="Feature extractor.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights of the extractor.")] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Output folder for index.html.")] = Path(
        "comparison"
    ),
    as_json: AsJson = False,
    device: Device = "auto",
) -> None:
    """Compare runs, models and folders of pictures: a leaderboard, also as a web page."""
    from limner.evaluate.comparison import compare as compare_all
    from limner.evaluate.page import write_page
    from limner.runtime import processes

    subjects, options = split_arguments(arguments, "sampler", "data")
    with report_interruption():
        comparison = compare_all(
            subjects,
            against,
            metrics=names(metrics),
            n=n,
            seed=seed,
            extractor=extractor,
            weights=weights,
            sampler=options.get("sampler"),
            data=options.get("data"),
            device=device,
        )
    if processes.first():
        if as_json:  # print it before a folder that cannot be written raises an error
            print_json(comparison.to_json())
        else:
            typer.echo(f"{comparison.text()}\n")
        page, *_ = write_page(comparison, out)
        if not as_json:
            typer.echo(f"open {page}")
    if len(comparison.successes) < len(comparison.subjects):
        raise typer.Exit(2)
