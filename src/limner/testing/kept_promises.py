"""Run checks, and say which promises are kept."""

from collections.abc import Callable, Iterable
from typing import TypeVar

_Subject = TypeVar("_Subject")


def kept_promises(
    name: str, subject: _Subject, checks: Iterable[Callable[[_Subject], None]]
) -> list[str]:
    """Run checks on a subject.

    Args:
        name: its name, for the lines.
        subject: what the checks take.
        checks: functions whose docstring is the promise, and that raise an AssertionError if it is
            broken.

    Returns:
        a line for each promise.

    Raises:
        AssertionError: a promise is broken; the message says which and how.
    """
    lines: list[str] = []
    for check in checks:
        promise = f"{name}: {(check.__doc__ or '').strip()}"
        try:
            check(subject)
        except AssertionError as error:
            raise AssertionError(f"{promise}\n{error}") from error
        lines.append(promise)
    return lines
