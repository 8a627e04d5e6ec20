"""The source code of a class; its results depend on the code as well as on its weights."""

import contextlib
import inspect


def code_of(kind: type, library: bool = True) -> str:
    """Return the source code of a class and of its bases, as far as it is available.

    Args:
        kind: the class of a model or judge.
        library: whether to include limner's own classes.
    """
    left_out = {"torch", "abc", "builtins", *(() if library else ("limner",))}
    source = ""
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] not in left_out:
            with contextlib.suppress(OSError, TypeError):  # as for a class typed at a prompt
                source += inspect.getsource(base)
    return source
