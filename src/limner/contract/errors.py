"""User errors: one line that says what is wrong and what to type; exit code 2."""

import contextlib
import difflib
import errno
import os
import re
import traceback
from collections.abc import Generator, Iterable
from pathlib import Path

_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""The system's error codes for a full disk."""
_MAX_SHOWN_NAMES = 12  # names in a message whose hint says how to list all


class LimnerError(Exception):
    """A user error, such as a wrong argument or a damaged file: what is wrong, and what to do
    instead.

    The message is one line: control characters, as a file's name may have, are escaped.
    """

    def __str__(self) -> str:
        return one_line(super().__str__())


def one_line(text: str) -> str:
    """Escape the control characters of a text, such as line breaks.

    >>> print(one_line("a\\nb"))
    a\\nb
    """
    return _CONTROL_CHARACTERS.sub(lambda found: repr(found[0])[1:-1], text)


def is_utf8(text: str) -> bool:
    """Return whether a text is valid Unicode, which a file's name may not be."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def install_command(extra: str) -> str:
    """Return the command that installs an extra, from the current clone or from the package
    index."""
    clone = Path(__file__).parents[3]
    if (clone / "pyproject.toml").is_file():
        return f"pip install -e '{clone}[{extra}]'"
    return f"pip install 'limner[{extra}]'"


@contextlib.contextmanager
def writing(path: Path, advice: str = "") -> Generator[None, None, None]:
    """Report in one line that a file or folder cannot be written, and what to do.

    Args:
        path: the file or folder, as the message names it.
        advice: what to do; by default, to give another path, and to make room on a full disk.

    Raises:
        LimnerError: the operating system raised an error.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        if error.errno in (errno.EEXIST, errno.ENOTDIR):
            file = next((place for place in (path, *path.parents) if place.is_file()), None)
            if file is not None:
                reason = f"{'it' if file == path else file} is a file, not a folder"
        if not advice:
            is_full = error.errno in DISK_FULL or os.strerror(errno.ENOSPC) in str(error)
            advice = "make room, or give another path" if is_full else "give another path"
        raise LimnerError(f"cannot write {path}: {reason}; {advice}") from None


def first_line(error: BaseException, max_length: int = 200) -> str:
    """Return the first line of an error's message, or its type if it has none.

    Args:
        error: the error that was raised, perhaps by a library.
        max_length: largest number of characters.
    """
    message = (str(error).strip() or type(error).__name__).splitlines()[0]
    return message if len(message) <= max_length else message[: max_length - 3] + "..."


def error_in_file(error: Exception | SystemExit, file: Path) -> str:
    """Return a one-line message for an error in a user's file, with the line number in that file.

    A syntax error may be in another file, which that file imports.

    Args:
        error: the error that was raised.
        file: the file, as the message names it.
    """
    message = (str(error).strip() or "no message").splitlines()[0]
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).resolve() == file.resolve()
    ]
    if isinstance(error, SyntaxError):
        message, lines = error.msg, [error.lineno] * bool(error.lineno)
        if error.filename and Path(error.filename).resolve() != file.resolve():
            file = Path(error.filename)
    if isinstance(error, ImportError) and "relative import" in message:
        message += "; write the import without leading dots"
    location = f"{file}, line {lines[-1]}" if lines else str(file)
    kind = "" if isinstance(error, LimnerError) else f"{type(error).__name__}: "
    return f"{location}: {kind}{message}"


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> LimnerError:
    """Return the error for a name that is not among `known`, with the nearest valid one.

    >>> str(unknown("model", "pixelcn", ["pixelcnn", "vae"], "limner models lists all"))
    "unknown model 'pixelcn'; did you mean 'pixelcnn'? (limner models lists all)"
    """
    names = list(known)
    sections = {n.rpartition(".")[0] for n in (name, *names)}
    start = len(sections.pop()) + 1 if sections != {""} and len(sections) == 1 else 0
    full = {n[start:]: n for n in names}
    close = [full[c] for c in difflib.get_close_matches(name[start:], full, n=1, cutoff=0.5)]
    choices = sorted(names)
    if hint and len(choices) > _MAX_SHOWN_NAMES:
        choices = [*choices[:_MAX_SHOWN_NAMES], "..."]
    advice = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(choices)}"
    advice = advice if names else "there are none; leave it out"
    return LimnerError(f"unknown {kind} '{name}'; {advice}" + (f" ({hint})" if hint else ""))
