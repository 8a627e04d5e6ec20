"""The data sets for training in the page: sources that limner has, and uploaded archives.

An archive is stored in the studio's folder as `data/NAME.zip` and is never extracted. The results
of `limner data check` are stored next to it as NAME.json and NAME.png, also for other sources.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import unicodedata
import zipfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limner.contract.errors import LimnerError
from limner.studio.background import in_slow_thread
from limner.studio.catalogue import modification_time
from limner.studio.settings import Settings

ZIP_SUFFIX = ".zip"
_BUNDLED_SOURCES = ("emoji", "scenes")
_STANDARD_SOURCES = ("mnist", "fashion-mnist")
"""Sources offered only if the folder LIMNER_DATA has them, because nothing is downloaded."""
_MAX_NAME_LETTERS = 40
_EMPTY_REPORT: dict[str, Any] = {"text": "", "pictures": 0, "labels": 0, "captioned": 0}


def file_name(title: str) -> str:
    """Return the file name for a title: lower case, in any script; empty if nothing is left.

    >>> file_name("Meine Fötos (2024) – Кот")
    'meine-fötos-2024-кот'
    """
    plain = unicodedata.normalize("NFKC", title).lower()
    return re.sub(r"[\W_]+", "-", plain)[:_MAX_NAME_LETTERS].strip("-")


@dataclass(frozen=True)
class DataSet:
    """Pictures to train on.

    Args:
        name: name in the API.
        source: source as typed on the command line.
        own: whether it was uploaded, and can be deleted.
        check: report of `limner data check`; None if there is none yet.
        checking: whether the check is running.
    """

    name: str
    source: str
    own: bool
    check: dict[str, Any] | None = None
    checking: bool = False


@dataclass
class DataSets:
    """The data sets of a studio.

    Args:
        settings: settings of the studio.
    """

    settings: Settings
    _check_processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        for file in self.folder.glob("*.partial"):  # left by a studio that was killed
            file.unlink(missing_ok=True)

    @property
    def folder(self) -> Path:
        """The folder of archives and reports."""
        return self.settings.folder.resolve() / "data"

    def sources(self) -> dict[str, str]:
        """Return the sources as typed on the command line, by name; uploaded ones are first."""
        uploads = sorted(
            self.folder.glob(f"*{ZIP_SUFFIX}"), key=lambda file: -modification_time(file)
        )
        folder = Path(os.environ.get("LIMNER_DATA", "/nowhere"))
        names = [name for name in _STANDARD_SOURCES if (folder / name).is_dir()]
        return {file.stem: f"zip:{self._path_from_root(file)}" for file in uploads} | {
            name: name for name in (*_BUNDLED_SOURCES, *names)
        }

    def _path_from_root(self, file: Path) -> str:
        root = self.settings.root.resolve()
        return str(file.relative_to(root) if file.is_relative_to(root) else file)

    def all(self) -> list[DataSet]:
        """Return every data set, with its report."""
        return [self._data_set(name, source) for name, source in self.sources().items()]

    def get(self, name: str) -> DataSet | None:
        """Return a data set by name; None if there is none."""
        source = self.sources().get(name)
        return self._data_set(name, source) if source else None

    def _data_set(self, name: str, source: str) -> DataSet:
        process = self._check_processes.get(name)
        is_checking = process is not None and process.poll() is None
        is_own = name not in (*_BUNDLED_SOURCES, *_STANDARD_SOURCES)
        try:
            check = _EMPTY_REPORT | json.loads((self.folder / f"{name}.json").read_text())
        except (OSError, ValueError):
            check = None
            if process and not is_checking:
                check = _EMPTY_REPORT | {"text": "these pictures could not be checked; try again"}
                check["refused"] = True
        return DataSet(name, source, is_own, check, is_checking)

    def start_check(self, name: str, again: bool = False) -> None:
        """Start the check of a data set, in a process of its own."""
        data_set = self.get(name)
        if data_set is None or data_set.checking or (data_set.check and not again):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{name}.json").unlink(missing_ok=True)
        arguments = ["check", data_set.source, str(self.folder / name)]
        self._check_processes[name] = subprocess.Popen(
            [sys.executable, "-m", "limner.studio.trainer", *arguments],
            cwd=self.settings.root,
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def sheet(self, name: str) -> Path:
        """Return the file of a data set's contact sheet."""
        return self.folder / f"{name}.png"

    async def store_archive(self, name: str, content: AsyncIterator[bytes]) -> str:
        """Store an archive that is being uploaded, and start its check.

        Args:
            name: name that the client gives it.
            content: bytes of the archive.

        Returns:
            The name of the data set.

        Raises:
            LimnerError: the content is not a zip archive.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{os.urandom(6).hex()}.partial"
        try:
            with partial.open("wb") as file:
                async for chunk in content:
                    await in_slow_thread(file.write, chunk)
            if not await in_slow_thread(zipfile.is_zipfile, partial):
                raise LimnerError("that is not a valid zip archive; send a folder, or a zip file")
            name = self._free_name(file_name(name) or "data")
            partial.replace(self.folder / f"{name}{ZIP_SUFFIX}")
        finally:
            partial.unlink(missing_ok=True)
        self.start_check(name)
        return name

    def _free_name(self, name: str) -> str:
        taken, free, number = self.sources().keys() | {*_STANDARD_SOURCES}, name, 1
        while free in taken:
            number += 1
            free = f"{name}-{number}"
        return free

    def delete(self, name: str) -> None:
        """Delete an uploaded archive, and its report."""
        self._end_check(name)
        for suffix in (ZIP_SUFFIX, ".json", ".png"):
            (self.folder / f"{name}{suffix}").unlink(missing_ok=True)

    def _end_check(self, name: str) -> None:
        process = self._check_processes.pop(name, None)
        if process is not None:
            process.kill()
            process.wait()

    def close(self) -> None:
        """End all running checks."""
        with contextlib.suppress(OSError):
            for name in [*self._check_processes]:
                self._end_check(name)
