"""`limner doctor`: check this machine, and give remedies for what is missing."""

from typing import Annotated

import typer

from limner.commands.arguments import AsJson, print_json
from limner.contract.errors import LimnerError


def doctor_command(
    gpu: Annotated[
        bool,
        typer.Option("--gpu", help="Compare the results of all models on GPU and CPU."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check this machine: versions, cores, speed and data, with a remedy for what is missing."""
    if gpu and as_json:
        raise LimnerError("--gpu prints tables for people to read; leave --json out")
    if gpu:
        _compare_with_cpu()
        return
    from limner.commands.system_checks import examine

    report = examine()
    if as_json:
        print_json(report.to_json())
    else:
        typer.echo(report.text())
    if not report.healthy:
        raise typer.Exit(1)


def _compare_with_cpu() -> None:
    """Print the table of `limner.testing.on_device`.

    Raises:
        LimnerError: torch finds no GPU.
    """
    import torch

    from limner.runtime.progress import say
    from limner.testing.on_device import machine, rows, speeds, table

    device = torch.accelerator.current_accelerator(check_available=True)
    if device is None:
        raise LimnerError("torch finds no GPU here; type limner doctor to check the rest")
    results = []
    for row in rows(device):
        say(f"{row.model}: {'as on the CPU' if row.is_accepted else 'not as on the CPU'}")
        results.append(row)
    typer.echo("\n\n".join([machine(device), table(results), speeds(device)]))
    if not all(row.is_accepted for row in results):
        raise typer.Exit(1)
