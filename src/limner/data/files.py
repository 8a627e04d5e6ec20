"""Named files, in a folder or in an archive that is never extracted."""

import os
import re
import stat
import weakref
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from limner.contract.errors import LimnerError
from limner.data.broken_files import Reasons
from limner.data.decode import BYTE_CAP
from limner.data.pictures import Report

TOTAL_CAP = 64 * 2**30
"""Largest total size of an archive's members when unpacked, in bytes."""


class Files(NamedTuple):
    """Named files in a folder or an archive.

    Args:
        names: relative names with forward slashes, in natural order, without hidden files.
        open: function that opens a file by its name.
        refused: files that must not be opened, with reasons.
    """

    names: list[str]
    open: Callable[[str], IO[bytes]]
    refused: Reasons

    def text(self, name: str, report: Report) -> str:
        """Return the contents of a text file; report a file that cannot be read."""
        try:
            with self.open(name) as stream:
                text = stream.read().decode("utf-8-sig")
                return text.replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError:
            report(f"'{name}' is not UTF-8 text; save it as UTF-8")
        except (OSError, RuntimeError, zipfile.BadZipFile) as error:
            report(f"'{name}' cannot be read: {error}")
        return ""


def natural(name: str) -> tuple[list[Any], str]:
    """Return a sorting key that puts picture 9 before picture 10.

    >>> sorted(["10", "9", "b2", "a010", "a9"], key=natural)
    ['9', '10', 'a9', 'a010', 'b2']
    """
    parts = re.split(r"(\d+)", name.lower())
    return [_number(part) if i % 2 else part for i, part in enumerate(parts)], name


def _number(digits: str) -> tuple[int, str]:
    """Return the sorting key of a number, which may be too long for `int`."""
    plain = "".join(str(int(digit)) for digit in digits).lstrip("0")
    return len(plain), plain


def is_hidden(name: str) -> bool:
    """Whether a file is hidden, such as the file "._1.png" of macOS."""
    parts = name.split("/")
    return any(p == "__MACOSX" or (p.startswith(".") and p.strip(".")) for p in parts)


def folder_files(root: Path) -> Files:
    """List the files below a folder.

    Raises:
        LimnerError: there is no such folder.
    """
    if not root.is_dir():
        message = f"'{root}' is a file; for an archive write zip:{root}"
        raise LimnerError(message if root.is_file() else f"there is no folder '{root}'")
    names, refused = [], []

    def report_error(error: OSError) -> None:
        name = Path(error.filename).relative_to(root).as_posix()
        refused.append((name, f"this folder cannot be read: {error.strerror}"))

    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=report_error):
        subfolders[:] = [name for name in subfolders if not _leads_back(Path(folder, name), root)]
        for path in (Path(folder, file) for file in files):
            name = path.relative_to(root).as_posix()
            if is_hidden(name):
                continue
            if not path.is_file():
                refused.append((name, "not a regular file"))
            elif path.stat().st_size > BYTE_CAP:
                refused.append((name, f"larger than {BYTE_CAP >> 20} MB"))
            else:
                names.append(name)
    return Files(sorted(names, key=natural), partial(_open_file, root), refused)


def _open_file(root: Path, name: str) -> IO[bytes]:
    return (root / name).open("rb")


def _leads_back(folder: Path, root: Path) -> bool:
    """Whether a folder is a link to one of its parent folders below the root."""
    parents = folder.relative_to(root).parents
    return folder.is_symlink() and folder.resolve() in {(root / p).resolve() for p in parents}


def zip_files(path: Path) -> Files:
    """List the members of an archive that are safe to read.

    Raises:
        LimnerError: there is no such archive, or it would unpack to more than `TOTAL_CAP`.
    """
    try:
        archive = zipfile.ZipFile(path)
    except IsADirectoryError:
        raise LimnerError(f"'{path}' is a folder; write folder:{path}") from None
    except FileNotFoundError:
        raise LimnerError(f"there is no archive '{path}'") from None
    except (zipfile.BadZipFile, OSError) as error:
        raise LimnerError(f"'{path}' is not a valid zip archive: {error}") from None
    if archive.fp:  # closes the file even if the archive is in a reference cycle
        weakref.finalize(archive, archive.fp.close)
    members: dict[str, zipfile.ZipInfo] = {}
    refused = []
    for member in archive.infolist():
        name = PurePosixPath(member.filename.replace("\\", "/")).as_posix()
        if member.is_dir() or is_hidden(name):
            continue
        if name.startswith("/") or re.match("[A-Za-z]:", name) or ".." in name.split("/"):
            refused.append((name, "a path outside the archive"))
        elif stat.S_ISLNK(member.external_attr >> 16):
            refused.append((name, "a link"))
        elif member.file_size > BYTE_CAP:
            refused.append((name, f"larger than {BYTE_CAP >> 20} MB"))
        else:
            members[name] = member
    total = sum(member.file_size for member in members.values())
    if total > TOTAL_CAP:
        raise LimnerError(
            f"'{path}' would unpack to {total >> 30} GB, the limit is {TOTAL_CAP >> 30} GB; "
            f"if you trust it, unpack it and write folder:PATH"
        )
    # zipfile stops at the declared size of a member and checks its checksum.
    return Files(sorted(members, key=natural), _Members(path, archive, members), refused)


class _Members:
    """A picklable function that opens members of an archive; unpickling reopens the archive."""

    def __init__(
        self, path: Path, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]
    ) -> None:
        self.path, self.archive, self.members = path, archive, members

    def __call__(self, name: str) -> Any:  # a stream that beartype does not take for IO[bytes]
        return self.archive.open(self.members[name])

    def __reduce__(self) -> tuple[Callable[[Path], Callable[[str], IO[bytes]]], tuple[Path]]:
        return _opener, (self.path,)


def _opener(path: Path) -> Callable[[str], IO[bytes]]:
    return zip_files(path).open
