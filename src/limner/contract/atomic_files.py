"""Files that have either their old or their new content, complete, whatever stops a program."""

import contextlib
import os
from collections.abc import Generator
from pathlib import Path


@contextlib.contextmanager
def atomic_file(path: Path) -> Generator[Path, None, None]:
    """Give a path to write to; at the end that file replaces `path`, and after an error it goes.

    It has a name of its own, because several processes may write `path` at the same time.

    Args:
        path: the file; its folder exists.

    Raises:
        OSError: the file cannot be replaced.
    """
    partial = path.with_name(f"{os.urandom(6).hex()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_durably(path: Path, content: bytes) -> None:
    """Write a file so that after a crash it has either the old or the new content, complete."""
    with atomic_file(path) as partial, partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the entries of a folder durable, on systems where folders can be opened."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # on Windows, always
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
