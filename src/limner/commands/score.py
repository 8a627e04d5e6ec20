"""`limner score`: report how likely pictures are under a model."""

from typing import Annotated

import typer

from limner.commands.arguments import Against, AsJson, Device, print_json, split_arguments
from limner.contract.errors import LimnerError


def score_command(
    model: Annotated[
        str, typer.Argument(help="Run or model folder, model file, or bundled model.")
    ],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="IMAGE ... [data.key=value ...]")
    ] = None,
    against: Against = None,
    n: Annotated[int, typer.Option("-n", min=2, help="Largest number of real pictures.")] = 1000,
    self_test: Annotated[
        bool,
        typer.Option(
            "--self-test", help="Test the score on noise, negatives, ..., against real pictures."
        ),
    ] = False,
    foreign: Annotated[
        str | None, typer.Option(help="Other data for the self-test (emoji).")
    ] = None,
    as_json: AsJson = False,
    device: Device = "auto",
) -> None:
    """Report how likely pictures are under a model, compared with real ones."""
    from limner.evaluate.scoring import Scorer
    from limner.evaluate.scoring import score as score_all
    from limner.evaluate.self_test import self_test as run_self_test

    images, options = split_arguments(arguments, "data")
    data = options.get("data", {})
    if self_test and images:
        raise LimnerError("--self-test makes its own pictures; leave the files or --self-test out")
    if foreign and not self_test:
        raise LimnerError("--foreign is for --self-test; add that, or leave --foreign out")
    if self_test:
        test = run_self_test(Scorer.open(model, against, n, data, device), foreign)
        return print_json(test.to_json()) if as_json else typer.echo(test.text())
    scores = score_all(model, images, against=against, n=n, data=data, device=device)
    if as_json:
        print_json(scores.to_json())
    else:
        typer.echo(scores.text())
    for reason in scores.failed.values():
        typer.echo(f"limner: {reason}", err=True)
    if scores.failed:
        raise typer.Exit(2)
    return None
