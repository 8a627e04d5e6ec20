"""What benchmarks share: timing contestants in turns, so that noise of the machine affects all of
them, a table, and the parser of their options.
"""

import argparse
import contextlib
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

Call = Callable[[], object]
Clock = Callable[[], float]


def time_interleaved(
    calls: Mapping[str, Call], rounds: int, seconds: float, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Return the seconds per call of each contestant in each round; all take turns (A B C A B C).

    Args:
        calls: what to time, by name; each is called twice beforehand.
        rounds: number of rounds; every contestant has one turn in each.
        seconds: approximate length of a turn, which consists of as many calls as fit, but at
            least one.
        clock: function that returns the time in seconds; `time.process_time` counts those that
            this process computes.
    """
    turns = {}
    for name, call in calls.items():
        call()
        turns[name] = max(1, round(seconds / time_call(call, clock=clock)))
    results: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            results[name].append(time_call(call, turns[name], clock))
    return results


def run_in_process(make: Callable[..., Call], *args: Any) -> Call:
    """Start a contestant in its own process, with the default settings of the C library's
    allocator; return a call that runs it there once.

    Args:
        make: function that makes the contestant, called in that process.
        args: arguments of `make`.
    """
    pipe = _start(_serve_calls, make, args)
    return lambda: _ask(pipe, None)


def _serve_calls(pipe: Connection, threads: int, make: Callable[..., Call], args: Any) -> None:
    torch.set_num_threads(threads)
    call = make(*args)
    with contextlib.suppress(EOFError):  # the parent process has ended
        while True:
            pipe.recv()
            call()
            pipe.send(None)


def time_in_processes(
    makers: Mapping[str, Callable[..., Call]], args: Sequence[Any], rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Time contestants in turns like `time_interleaved`, but each in its own process and in the
    seconds that its process computes.

    Args:
        makers: functions that make the contestants, called in their processes.
        args: arguments of each maker.
        rounds, seconds: see `time_interleaved`.
    """
    pipes: dict[str, Connection] = {}
    turns: dict[str, int] = {}
    for name, make in makers.items():
        pipes[name] = _start(_time_turns, make, args)
        for _ in range(2):
            turns[name] = max(1, round(seconds / _ask(pipes[name], 1)))
    results: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(rounds):
        for name, pipe in pipes.items():
            results[name].append(_ask(pipe, turns[name]))
    for pipe in pipes.values():
        pipe.close()
    return results


def _time_turns(pipe: Connection, threads: int, make: Callable[..., Call], args: Any) -> None:
    torch.set_num_threads(threads)
    call = make(*args)
    with contextlib.suppress(EOFError):  # the parent process has ended
        while True:
            pipe.send(time_call(call, pipe.recv(), time.process_time))


def _start(serve: Callable[..., None], make: Callable[..., Call], args: Any) -> Connection:
    """Start a process that serves a contestant; return the pipe to it."""
    context = multiprocessing.get_context("spawn")
    pipe, end_of_process = context.Pipe()
    process_args = end_of_process, torch.get_num_threads(), make, args
    context.Process(target=serve, args=process_args, daemon=True).start()
    end_of_process.close()  # or `recv` would wait for an answer of a process that has ended
    return pipe


def _ask(pipe: Connection, request: int | None) -> Any:
    """Send a request to a contestant's process, and return its answer."""
    try:
        pipe.send(request)
        return pipe.recv()
    except (EOFError, OSError):
        raise SystemExit("a contestant has failed; its own error is printed above") from None


def time_call(call: Call, times: int = 1, clock: Clock = time.perf_counter) -> float:
    """Return the mean seconds of `times` calls in a row; a call returns when its work is done."""
    start = clock()
    for _ in range(times):
        call()
    return (clock() - start) / times


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> str:
    """Return the median, smallest and largest of the rounds' ratios, as "1.52 (1.40-1.61)"."""
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table whose first column has the names of the rows."""
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(width=None if Console().is_terminal else 140).print(table)


def options_parser(docstring: str | None) -> argparse.ArgumentParser:
    """Return a parser without options, whose help is the docstring of a script."""
    summary, _, rest = (docstring or "").partition("\n")
    return argparse.ArgumentParser(
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def count(value: str) -> int:
    """Return a whole number of at least 1; the parser refuses any other."""
    if not value.isdecimal() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"'{value}' is not a whole number of at least 1")
    return int(value)


def positive(value: str) -> float:
    """Return a positive number; the parser refuses any other."""
    with contextlib.suppress(ValueError):
        if 0 < float(value) < math.inf:
            return float(value)
    raise argparse.ArgumentTypeError(f"'{value}' is not a positive number")


def model_name(name: str) -> str:
    """Return the name of a run, model file or bundled model; the parser refuses any other."""
    from limner.contract.bundled import find_model  # not above: peers import this file, too
    from limner.contract.errors import LimnerError

    try:
        find_model(name)
    except LimnerError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return name
