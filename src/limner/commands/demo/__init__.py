"""`limner demo`: paint prompts with the bundled model, train for a minute, and show both."""

from pathlib import Path
from typing import Annotated

import typer


def demo_command(
    out: Annotated[Path, typer.Option(help="Output folder for index.html.")] = Path("demo"),
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="Training time in seconds.")] = 60,
) -> None:
    """Train a small model on emoji for a minute, and write a page that shows what it learnt."""
    from limner.commands.demo.run import run_demo

    run_demo(out, seconds)
