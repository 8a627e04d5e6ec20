"""`limner doctor`: what this machine has, and remedies for what is missing."""

import typer

from limner.commands.arguments import AsJson, print_json


def doctor_command(as_json: AsJson = False) -> None:
    """Look at this machine: versions, cores, speed, data, and what to do about what is missing."""
    from limner.commands.examination import examine

    report = examine()
    if as_json:
        print_json(report.to_json())
    else:
        typer.echo(report.text())
    if not report.healthy:
        raise typer.Exit(1)
