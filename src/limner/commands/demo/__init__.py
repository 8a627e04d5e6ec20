"""`limner demo`: prompts painted by the bundled model, a minute of training, and a page of both."""

from pathlib import Path
from typing import Annotated

import typer


def demo_command(
    out: Annotated[Path, typer.Option(help="The folder for index.html.")] = Path("demo"),
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="How long to train.")] = 60,
) -> None:
    """Train a small model on emoji for a minute, and write a page of what it learnt."""
    from limner.commands.demo.making import run_demo

    run_demo(out, seconds)
