"""The files of pictures, in a folder or in a store that several hosts share.

A store is any URL that fsspec knows, such as s3://bucket/studio. The folder then holds copies of
the files that this host used recently.
"""

import contextlib
import errno
import hashlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from limner.contract.atomic_files import atomic_file, write_durably
from limner.contract.errors import LimnerError, first_line, install_command
from limner.studio.catalogue import modification_time

_MAX_COPIES = 2_000
"""The largest number of copies that a host keeps."""
_PARTIAL_SECONDS = 3600.0  # after which nobody writes a partial file any more
_INCOMPLETE_URL = re.compile(r"(\w{2,}):/?")
"""Start of a URL without "//". The name of a drive on Windows has one letter."""
_MARKER_FILE = "limner-studio.txt"
_TIMES = {"connect_timeout": 5, "read_timeout": 10, "retries": {"total_max_attempts": 1}}
_DRIVER_OPTIONS = {"s3": {"config_kwargs": _TIMES}}
"""Options of fsspec's drivers, by the kind of URL. A store that does not answer is reported within
a minute: s3fs tries five times, and the queue tries again.
"""


class CommonFiles:
    """PNG files, each named by its hash.

    Args:
        folder: folder of the files, or of this host's copies.
        url: URL of the store; None if there is only the folder.

    Raises:
        LimnerError: there is no such store, or its driver is not installed.
    """

    def __init__(self, folder: Path, url: str | None = None) -> None:
        self.folder = folder
        self._store: Any = None
        self._root = ""
        if url is not None:
            self._store, self._root = _open_store(url)

    def path(self, sha256: str) -> Path:
        """Return the path of a file on this host, whether or not it exists."""
        return self.folder / sha256[:2] / f"{sha256}.png"

    def keep(self, content: bytes) -> str:
        """Write a PNG file in this host's folder. Returns its hash."""
        sha256 = hashlib.sha256(content).hexdigest()
        path = self.path(sha256)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(path, content)
        return sha256

    def fetch(self, sha256: str) -> Path:
        """Copy a file to this host if necessary, and return its path; no file is there if the store
        has none.

        Raises:
            OSError: the store cannot be read.
        """
        path = self.path(sha256)
        if self._store is None or path.exists():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        is_missing = contextlib.suppress(FileNotFoundError)
        with is_missing, atomic_file(path) as partial, _raise_os_errors():
            self._store.get_file(self._store_path(path.relative_to(self.folder)), str(partial))
        return path

    def publish(self, sha256: str) -> None:
        """Copy a file from this host's folder to the store, unless the store has it.

        Raises:
            OSError: the file cannot be written.
        """
        if self._store is None:
            return
        path = self.path(sha256)
        key = self._store_path(path.relative_to(self.folder))
        with _raise_os_errors():
            if not self._store.exists(key) or self._store.size(key) != path.stat().st_size:
                self._make_folder(self._store._parent(key))
                self._store.put_file(str(path), key)

    def remove(self, sha256: str) -> None:
        """Delete a file on this host and in the store."""
        path = self.path(sha256)
        path.unlink(missing_ok=True)
        if self._store is not None:
            with _raise_os_errors(), contextlib.suppress(FileNotFoundError):
                self._store.rm_file(self._store_path(path.relative_to(self.folder)))

    def tidy(self) -> None:
        """Delete what a crash left half written, and this host's oldest copies of the store."""
        old = time.time() - _PARTIAL_SECONDS
        for path in self.folder.glob("*/*.partial"):
            if modification_time(path) < old:  # another host may be writing a newer one
                path.unlink(missing_ok=True)
        if self._store is None:
            return
        copies = sorted(self.folder.glob("*/*.png"), key=lambda path: -path.stat().st_mtime)
        for path in copies[_MAX_COPIES:]:
            path.unlink(missing_ok=True)

    def mark(self, id: str | None = None) -> str:
        """Return the id of the studio that the files belong to; empty if there is none.

        Args:
            id: id to write first, if given.

        Raises:
            OSError: the files cannot be read or written.
        """
        if self._store is None:
            file = self.folder / _MARKER_FILE
            if id is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(id, encoding="ascii")
            return file.read_text(encoding="ascii") if file.is_file() else ""
        with _raise_os_errors():
            key = self._store_path(Path(_MARKER_FILE))
            if id is not None:
                self._make_folder(self._root)
                self._store.pipe_file(key, id.encode())
            return self._store.cat_file(key).decode() if self._store.exists(key) else ""

    def _make_folder(self, path: str) -> None:
        """Create a folder of the store, if it has folders: the path then begins with a slash.

        Other paths begin with a bucket, which must exist, so that a misspelt one is not created.
        """
        if path.startswith("/"):
            self._store.makedirs(path, exist_ok=True)

    def _store_path(self, path: Path) -> str:
        return f"{self._root}/{path.as_posix()}"


def common_files(folder: Path, files: str | None) -> CommonFiles:
    """Return the files of a studio.

    Args:
        folder: folder of the studio or the worker.
        files: folder or URL of the files; `pictures` in `folder` if None.

    Raises:
        LimnerError: the URL has no "//", or there is no such store, or its driver is not installed.
    """
    if files is None or "://" in files:
        return CommonFiles(folder / "pictures", files)
    if match := _INCOMPLETE_URL.match(files):
        kind, rest = match[1], files[match.end() :]
        raise LimnerError(
            f"--files {files} is a URL without //; type --files {kind}://{rest}, or "
            f"--files ./{files} for a folder of this name"
        )
    return CommonFiles(Path(files))


def _open_store(url: str) -> tuple[Any, str]:
    kind = url.split("://")[0]
    try:
        from fsspec.core import url_to_fs

        store, root = url_to_fs(url, **_DRIVER_OPTIONS.get(kind, {}))
    except (ImportError, ValueError) as error:
        text = str(error).splitlines()[0].rstrip(".")
        driver = f"type: {install_command('s3')}" if kind == "s3" else "install the driver"
        raise LimnerError(
            f"files cannot be kept in {kind}://: {text[:1].lower()}{text[1:]}; {driver}, or give "
            "--files a folder"
        ) from None
    return store, root.rstrip("/")


@contextlib.contextmanager
def _raise_os_errors() -> Iterator[None]:
    """Convert the errors that drivers raise when the network fails to OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(errno.EIO, first_line(error)) from error
