"""Locks that let one process at a time use a folder or a file."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from limner.contract.errors import LimnerError, writing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_RETRY_SECONDS = 0.05  # wait before a second try; `is_locked` holds its lock for less


@contextlib.contextmanager
def lock_folder(folder: Path, in_use: str) -> Iterator[None]:
    """Keep other processes out of a folder, which is created if it does not exist.

    A killed process leaves no lock. On Windows nothing is locked.

    Args:
        folder: the folder to lock.
        in_use: the message of the error if another process holds the folder.

    Raises:
        LimnerError: another process holds the folder, or it cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = None if fcntl is None else os.open(folder, os.O_RDONLY)
    if descriptor is None:
        yield
        return
    with _exclusive_lock(descriptor, in_use):
        yield


def is_locked(folder: Path) -> bool:
    """Return whether a process keeps others out of a folder. This check keeps nobody out."""
    if fcntl is None:
        return False
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextlib.contextmanager
def locked_file(file: Path, in_use: str) -> Iterator[None]:
    """Keep other processes that use this function off a file, which is created empty if it does not
    exist.

    Args:
        file: the file to lock.
        in_use: see `lock_folder`.

    Raises:
        LimnerError: another process holds the file.
        OSError: it cannot be written.
    """
    with _exclusive_lock(os.open(file, os.O_RDWR | os.O_CREAT, 0o644), in_use):
        yield


@contextlib.contextmanager
def _exclusive_lock(descriptor: int, in_use: str) -> Iterator[None]:
    try:
        if not _try_lock(descriptor):
            time.sleep(_RETRY_SECONDS)
            if not _try_lock(descriptor):
                raise LimnerError(in_use)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
