"""What the command lines of the tools share: values that are checked, and mistakes in one line."""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator


class BuildError(Exception):
    """A problem that the user must fix, in one line."""


@contextlib.contextmanager
def mistakes_in_one_line() -> Iterator[None]:
    """Report a mistake of the user in one line, and exit with code 2."""
    from limner.contract.errors import LimnerError

    try:
        yield
    except (BuildError, LimnerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def count(text: str) -> int:
    """Read a number of things, at least 1."""
    value = int(_read(int, text))
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1; give a whole number from 1")
    return value


def number_within(least: float, most: float) -> Callable[[str], float]:
    """Return a function that reads a number from `least` to `most`, both included."""

    def number(text: str) -> float:
        value = _read(float, text)
        if not least <= value <= most:  # as for "nan"
            raise argparse.ArgumentTypeError(f"{text} is not within {least:g} to {most:g}")
        return value

    return number


def _read(kind: Callable[[str], float], text: str) -> float:
    try:
        return kind(text)
    except ValueError:
        name = "whole number" if kind is int else "number"
        raise argparse.ArgumentTypeError(f"'{text}' is not a {name}") from None
