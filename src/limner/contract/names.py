"""Names under which classes are registered."""

import re

from limner.contract.errors import LimnerError


def check_new_name(name: str, kind: str) -> None:
    """Check a name under which something is to be registered.

    Args:
        name: the name that a person types.
        kind: the kind of thing that is registered, for the message.

    Raises:
        LimnerError: the name is not in lower case.
    """
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*(\+\+)?", name):
        raise LimnerError(
            f"write the {kind}'s name in lower case, words joined by hyphens, not as '{name}'"
        )


def is_own(cls: type) -> bool:
    """Return whether a class belongs to the library."""
    return cls.__module__.partition(".")[0] == "limner"


def is_again(cls: type, known: type) -> bool:
    """Return whether a class was registered before, and its file or cell was run again."""
    modules = {cls.__module__, known.__module__}
    is_rerun = "__main__" in modules and not any(is_own(each) for each in (cls, known))
    return cls.__qualname__ == known.__qualname__ and (len(modules) == 1 or is_rerun)
