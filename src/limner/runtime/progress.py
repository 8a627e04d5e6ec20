"""Progress bars on standard error; standard output is for results."""

import contextlib
import datetime
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from limner.contract.errors import LimnerError
from limner.contract.package_errors import describe, package_traceback
from limner.runtime import processes

_QUIET_SECONDS = 10.0  # between lines if standard error is not a terminal


def say(line: str) -> None:
    """Print a line on standard error, once for all processes."""
    if processes.first() and sys.stderr:  # a program without a console has none
        print(line, file=sys.stderr, flush=True)


def say_error(what: str, error: Exception) -> None:
    """Print an error after which the work goes on, in one line; and before it a traceback, unless
    it is a user error.

    Args:
        what: what failed, such as "no sample sheet at step 7".
        error: the error.
    """
    if not isinstance(error, LimnerError):
        say(package_traceback(error))
    say(f"{what}: {describe(error)}")


class TrainingProgress:
    """A live progress line on a terminal; otherwise a plain line every few seconds."""

    def __init__(self, steps: int, step: int) -> None:
        self.steps = steps
        self._last_message = time.monotonic()
        self._bar = None
        if processes.first() and sys.stderr and sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                progress.TextColumn("step {task.completed:,}/{task.total:,}"),
                progress.BarColumn(bar_width=None),
                progress.TextColumn("{task.fields[text]}"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("", total=steps, completed=step, text="")

    def __enter__(self) -> "TrainingProgress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._bar:
            self._bar.stop()

    def show(self, step: int, logs: dict[str, float], seconds_a_step: float, images: int) -> None:
        """Show the progress of training.

        Args:
            step: the number of finished steps.
            logs: the logged values of the step.
            seconds_a_step: the recent duration of a step.
            images: the number of images in a step.
        """
        now = time.monotonic()
        if not self._bar and (not processes.first() or now - self._last_message < _QUIET_SECONDS):
            return
        self._last_message = now
        losses = [f"{k} {v:.4g}" for k, v in logs.items() if k.rpartition(".")[2] == "loss"]
        remaining = datetime.timedelta(seconds=round(seconds_a_step * (self.steps - step)))
        text = "  ".join([*losses, f"{images / seconds_a_step:,.0f} img/s", f"{remaining} left"])
        if self._bar:
            self._bar.update(self._task, completed=step, text=text)
        else:
            say(f"step {step:,}/{self.steps:,}  {text}")


@contextlib.contextmanager
def painting_progress(
    total: int, doing: str = "painting", quiet: bool = False, unit: str = "pictures"
) -> Iterator[Callable[[float], None]]:
    """Show a progress bar on standard error, or a line every few seconds if that is not a terminal.

    Args:
        total: the number of pictures.
        doing: the word for what is done to them.
        quiet: whether to show nothing.
        unit: the word for what is counted, if not pictures.

    Yields:
        a function that advances it by a number of pictures.
    """
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    columns = (
        progress.TextColumn(doing),
        progress.BarColumn(),
        progress.TextColumn(f"{{task.completed:.0f}}/{{task.total}} {unit}"),
        progress.TimeRemainingColumn(),
    )
    is_live = console.is_terminal and processes.first() and not quiet
    with progress.Progress(*columns, console=console, transient=True, disable=not is_live) as bar:
        task = bar.add_task(doing, total=total)
        start = last_time = time.monotonic()
        done = 0.0

        def advance(by: float) -> None:
            nonlocal done, last_time
            done += by
            bar.advance(task, by)
            now = time.monotonic()
            if not is_live and not quiet and now - last_time >= _QUIET_SECONDS:
                last_time = now
                remaining = datetime.timedelta(seconds=round((now - start) * (total - done) / done))
                say(f"{doing} {done:,.0f}/{total:,} {unit}  {remaining} left")

        yield advance
