"""Contestants timed in turns, so that noise of the machine hits all of them; results as a table."""

import contextlib
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


def interleaved(
    calls: Mapping[str, Call], rounds: int, seconds: float, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds a call takes, of each contestant in each round: A B C A B C ...

    Args:
        calls: what is timed, by name; each is called twice beforehand.
        rounds: how often all of them take their turn.
        seconds: about how long a turn lasts: as many calls as that takes, and at least one.
        clock: what seconds are; of `time.process_time`, those that this process computes.
    """
    turns = {}
    for name, call in calls.items():
        call()
        turns[name] = max(1, round(seconds / timed(call, clock=clock)))
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(timed(call, turns[name], clock))
    return found


def apart(make: Callable[..., Call], *given: Any) -> Call:
    """A contestant in a process of its own, where the C library's allocator is as it comes.

    Args:
        make: makes the contestant, there.
        given: what it is called with.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    threads = torch.get_num_threads()
    context.Process(target=_take_turns, args=(there, threads, make, given), daemon=True).start()

    def call() -> None:
        here.send(None)
        here.recv()

    return call


def _take_turns(line: Connection, threads: int, make: Callable[..., Call], given: Any) -> None:
    torch.set_num_threads(threads)
    call = make(*given)
    with contextlib.suppress(EOFError):  # the end of the other process
        while True:
            line.recv()
            call()
            line.send(None)


def interleaved_apart(
    makers: Mapping[str, Callable[..., Call]], given: Sequence[Any], rounds: int, seconds: float
) -> dict[str, list[float]]:
    """As `interleaved`, each contestant in a process of its own, which says what it computes.

    Args:
        makers: what makes the contestants, there.
        given: what they are called with.
        rounds, seconds: see `interleaved`.
    """
    context, lines = multiprocessing.get_context("spawn"), {}
    turns: dict[str, int] = {}
    for name, make in makers.items():
        lines[name], there = context.Pipe()
        start = there, torch.get_num_threads(), make, given
        context.Process(target=_time_turns, args=start, daemon=True).start()
        for _ in range(2):
            lines[name].send(1)
            turns[name] = max(1, round(seconds / lines[name].recv()))
    found: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(rounds):
        for name, line in lines.items():
            line.send(turns[name])
            found[name].append(line.recv())
    for line in lines.values():
        line.close()
    return found


def _time_turns(line: Connection, threads: int, make: Callable[..., Call], given: Any) -> None:
    torch.set_num_threads(threads)
    call = make(*given)
    with contextlib.suppress(EOFError):  # the end of the other process
        while True:
            line.send(timed(call, line.recv(), time.process_time))


def timed(call: Call, times: int = 1, clock: Clock = time.perf_counter) -> float:
    """Mean seconds of so many calls in a row; a call returns once its work is done."""
    start = clock()
    for _ in range(times):
        call()
    return (clock() - start) / times


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> str:
    """The median of the rounds' ratios, and their least and greatest: "1.52 (1.40-1.61)"."""
    found = [a / b for a, b in zip(numerators, denominators, strict=True)]
    return f"{statistics.median(found):.2f} ({min(found):.2f}-{max(found):.2f})"


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, the first column being names."""
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(width=None if Console().is_terminal else 140).print(table)
