"""The code of a class, on which what it sees or paints depends beside its weights."""

import contextlib
import inspect


def code_of(kind: type, library: bool = True) -> str:
    """The source of a class and of its bases, as far as it is known.

    Args:
        kind: of a model or judge.
        library: whether limner's own classes count, too.
    """
    left_out = {"torch", "abc", "builtins", *(() if library else ("limner",))}
    found = ""
    for each in kind.__mro__:
        if each.__module__.partition(".")[0] not in left_out:
            with contextlib.suppress(OSError, TypeError):  # as of one typed at a prompt
                found += inspect.getsource(each)
    return found
