"""`limner data check`: report the contents of a data source and its problems."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from limner.commands.arguments import AsJson, Options, only_options, png_file, print_json
from limner.contract.errors import LimnerError, write_error

app = typer.Typer(no_args_is_help=True, help="Check data before training on them.")


@app.callback()
def _group() -> None:
    """Keep `check` as a subcommand: typer drops the name of a single command."""


@app.command()
def check(
    source: Annotated[str, typer.Argument(help="emoji, mnist, folder:PATH, zip:PATH, ...")],
    options: Options = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Write a contact sheet to this PNG file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Report sizes, channels, labels, captions, duplicates and broken files of a source.

    The exit code is 2 if training would refuse the data.
    """
    from limner.data import check as check_source

    data_options = only_options(options, "data").get("data", {})
    if "source" in data_options:
        raise LimnerError(f"the source is {source} already; leave data.source out")
    with _writing(sheet):  # before the long check, so that a wrong path fails immediately
        if sheet is not None:
            png_file(sheet).parent.mkdir(parents=True, exist_ok=True)
    report = check_source(source, **data_options)
    with _writing(sheet):
        if sheet is not None:
            report.sheet(sheet)
    if as_json:
        print_json(report.to_json())
    else:
        typer.echo(report.text())
        if sheet is not None:
            typer.echo(f"contact sheet: {sheet}")
    if report.refused_by_training:
        raise typer.Exit(2)


@contextlib.contextmanager
def _writing(file: Path | None) -> Iterator[None]:
    """Report in one line that a file cannot be written, and why."""
    try:
        yield
    except OSError as error:
        assert file is not None, "nothing else is written"
        raise write_error(file, error) from None
