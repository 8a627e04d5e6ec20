"""`limner average`: other averages of a run's weights, after its training."""

from pathlib import Path
from typing import Annotated

import typer


def average_command(
    run: Annotated[
        Path, typer.Argument(help="Run that was trained with train.widths, as in 0.05,0.1.")
    ],
    width: Annotated[
        list[float],
        typer.Option(help="Relative width from 0.01 to 0.28, such as 0.08; repeat for several."),
    ],
    step: Annotated[
        int | None, typer.Option(help="Training step of a saved state (the last one).")
    ] = None,
) -> None:
    """Make other averages of a run's weights, long or short, as separate models."""
    from limner.contract.errors import LimnerError
    from limner.training.reconstruction import write_average

    if not run.is_dir():
        raise LimnerError(f"there is no run {run}; give the folder of a run")
    for value in dict.fromkeys(width):
        folder, error = write_average(run, value, step)
        hint = "; too few states were saved, try a smaller train.save_every" if error > 0.1 else ""
        typer.echo(f"{folder}  (its profile is matched within {100 * error:.2g} %{hint})")
