"""Names under which classes and functions are registered."""

import re
from typing import Any, TypeVar

from limner.contract.errors import LimnerError

SECTIONS = ("model", "data", "train", "sampler", "evaluate")
"""Sections of a recipe."""


_T = TypeVar("_T")
TABLES: list[dict[str, Any]] = []
"""All tables of what is registered, by name."""


def registry_table(entries: dict[str, _T]) -> dict[str, _T]:
    """Return a table of what is registered, after adding it to `TABLES`."""
    TABLES.append(entries)
    return entries


def check_new_name(name: object, kind: str) -> None:
    """Check a name under which something is to be registered.

    Args:
        name: the name that a person types.
        kind: the kind of thing that is registered, for the message.

    Raises:
        LimnerError: the name is no text, or not in lower case.
    """
    if not isinstance(name, str):
        raise LimnerError(
            f'the decorator takes the {kind}\'s name, not {name!r}; write ("my-name") after it'
        )
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*(\+\+)?", name):
        raise LimnerError(
            f"write the {kind}'s name in lower case, words joined by hyphens, not as '{name}'"
        )


def check_no_section(name: str, kind: str) -> None:
    """Check that a name is not that of a recipe's section, which `limner options NAME` explains.

    Args:
        name: the name that a person types.
        kind: the kind of thing that is registered, for the message.

    Raises:
        LimnerError: the name is that of a section.
    """
    if name in SECTIONS:
        raise LimnerError(
            f"the {kind} name '{name}' is that of a section of options; choose another"
        )


def is_builtin(registered: Any) -> bool:
    """Return whether a class or function belongs to the library."""
    return registered.__module__.partition(".")[0] == "limner"


def is_again(registered: Any, known: Any) -> bool:
    """Return whether a class or function was registered before, and its file or cell was run
    again."""
    names = {getattr(each, "__qualname__", None) for each in (registered, known)}
    modules = {registered.__module__, known.__module__}
    is_rerun = "__main__" in modules and not any(map(is_builtin, (registered, known)))
    return len(names) == 1 and None not in names and (len(modules) == 1 or is_rerun)
