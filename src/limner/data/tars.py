"""`wds:PATTERN.tar`: shards of pictures in tar files, in WebDataset's format.

    0001.jpg 0001.txt 0001.cls     files with the same stem are a record: picture, captions, class
    0001.jpg 0001.json             a JSON object has both, as "text" (or "caption") and "label"
    0001.jpg 0001.canny.png        other files are named by what follows the first dot, as in
                                   data.hint_key=canny.png

The pattern has the numbers of the shards, as in "shards/{000..127}.tar", or wildcards, or is a
folder of tar files. Shards are read in place and never unpacked.

The library `webdataset` returns records one after the other, and the position of a reader cannot be
saved. Here a record is a function of its number.

Reference: Aizman, Maltby, Breuel (2019). High performance I/O for large scale deep learning.
arXiv:2001.01858.
"""

import glob
import io
import itertools
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from limner.contract.errors import LimnerError
from limner.data.decode import BYTE_CAP, EXTENSIONS
from limner.data.files import is_hidden, natural
from limner.data.folder import CAPTION_COLUMNS
from limner.data.records import Place, Record, Shard, plain_captions, plain_label
from limner.data.sharded import Sharded
from limner.runtime.cache import cache_key

_TEXT, _CLASS, _JSON, _LABEL = "txt", "cls", "json", "label"
_MISSING_PART = (-1, -1)  # position of a missing part


class Keys(NamedTuple):
    """Names of the parts of a record; None for the usual names."""

    image: str | None = None
    caption: str | None = None
    label: str | None = None
    hint: str | None = None


class TarShard(Shard):
    """One tar file.

    Args:
        path: path of the file.
        keys: names of the parts of records.

    Raises:
        LimnerError: there is no such file.
    """

    def __init__(self, path: Path, keys: Keys) -> None:
        self.path, self.keys = path, keys
        self.name = path.name
        try:
            info = path.stat()
        except OSError as error:
            raise LimnerError(f"cannot read the shard '{path}': {error.strerror}") from None
        self.key = cache_key("tar 3", str(path.resolve()), info.st_size, info.st_mtime_ns, keys)

    def records(self) -> Iterator[Record]:
        """Yield the records in order; if the file is damaged, the last one reports that.

        Raises:
            LimnerError: the file is not a tar file, or is compressed.
        """
        try:
            archive = tarfile.open(self.path, "r:")  # noqa: SIM115
        except (tarfile.TarError, OSError, EOFError) as error:
            raise LimnerError(
                f"'{self.path}' cannot be read as an uncompressed tar file ({error}); if it is "
                "compressed, type gunzip FILE.tar.gz"
            ) from None
        with archive:
            name = ""
            try:
                files = (m for m in archive if m.isreg() and not is_hidden(m.name))
                for name, members in itertools.groupby(files, lambda m: _split_name(m.name)[0]):
                    yield self._record(archive, name, {_split_name(m.name)[1]: m for m in members})
            except (tarfile.TarError, OSError, EOFError) as error:
                after = f" after '{name}'" if name else ""
                yield Record("", fault=f"the file is damaged{after}: {error}")
                return
            end = archive.offset
        last = self._read_bytes((end, tarfile.BLOCKSIZE))
        if last != bytes(tarfile.BLOCKSIZE):  # zeros mark the end
            yield Record("", fault=f"the file is truncated or damaged after '{name}'")

    def _record(
        self, archive: tarfile.TarFile, name: str, members: dict[str, tarfile.TarInfo]
    ) -> Record:
        keys, names = self.keys, tuple(members)

        def read(member: tarfile.TarInfo | None) -> bytes:
            stream = member and archive.extractfile(member)
            return stream.read() if stream else b""

        image = self._image(members)
        if image is None:
            part = f"'{keys.image}'" if keys.image else "picture"
            fault = f"there is no {part} among {', '.join(names)}"
            pictures = [e for e in names if Path(e).suffix.lower() in EXTENSIONS and e != keys.hint]
            fault += f"; give data.image_key={pictures[0]}" if pictures else ""
            return Record(name, fault=fault, keys=names)
        hint = members.get(keys.hint) if keys.hint else None
        for member in (image, hint):
            if member and member.size > BYTE_CAP:
                fault = f"'{member.name}' is larger than {BYTE_CAP >> 20} MB"
                return Record(name, fault=fault, keys=names)
        part_name = keys.caption or (_TEXT if _TEXT in members else _JSON)
        caption = members.get(_JSON if _of_json(part_name) else part_name)
        is_json = caption is not None and caption is members.get(_JSON)
        captions, label, not_utf8 = (), None, list[str]()
        try:
            captions = self._captions(read(caption), is_json)
        except UnicodeDecodeError:
            not_utf8.append("caption")
        part_name = keys.label or (_CLASS if _CLASS in members else f"{_JSON}.{_LABEL}")
        field = _of_json(part_name)
        content = read(members.get(_JSON if field else part_name))
        try:
            label = plain_label(_object(content).get(field) if field else _text(content))
        except UnicodeDecodeError:
            not_utf8.append("label")
        place = (*_spot(image), *_spot(caption), *_spot(hint), int(is_json))
        hint_file, faults = read(hint) if hint else None, tuple(not_utf8)
        return Record(name, place, read(image), captions, label, hint_file, "", names, faults)

    def _image(self, members: dict[str, tarfile.TarInfo]) -> tarfile.TarInfo | None:
        """Return the member with the picture: the named one, or the first picture file."""
        if self.keys.image:
            return members.get(self.keys.image)
        pictures = (m for e, m in members.items() if f".{e}" in EXTENSIONS and e != self.keys.hint)
        return next(pictures, None)

    def image(self, place: Place) -> io.BytesIO:
        """Open the picture file of a record."""
        return io.BytesIO(self._read_bytes(place[0:2]))

    def captions(self, place: Place) -> tuple[str, ...]:
        """Return the captions of a record; empty without captions.

        Raises:
            UnicodeDecodeError: they are not UTF-8 text.
        """
        return () if place[2] < 0 else self._captions(self._read_bytes(place[2:4]), bool(place[6]))

    def hint(self, place: Place) -> io.BytesIO:
        """Open the conditioning image of a record that has one."""
        return io.BytesIO(self._read_bytes(place[4:6]))

    def _read_bytes(self, spot: Sequence[int]) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(spot[0])
                return file.read(spot[1])
        except OSError as error:
            raise LimnerError(f"'{self.path}' can no longer be read: {error.strerror}") from None

    def _captions(self, data: bytes, is_json: bool) -> tuple[str, ...]:
        if not is_json:
            return plain_captions(_text(data).splitlines())
        values, column = _object(data), _of_json(self.keys.caption or "")
        columns = (column,) if column else CAPTION_COLUMNS
        return next(filter(None, (plain_captions(values.get(name)) for name in columns)), ())


def _split_name(name: str) -> tuple[str, str]:
    """Split a member's name at the first dot of its last part.

    >>> _split_name("cats/0001.canny.PNG")
    ('cats/0001', 'canny.png')
    """
    folder, slash, last = name.rpartition("/")
    stem, _, ending = last.partition(".")
    return f"{folder}{slash}{stem}", ending.lower()


def _of_json(name: str) -> str:
    """Return the field of `json.FIELD`; "" for other names."""
    return name.removeprefix(f"{_JSON}.") if name.startswith(f"{_JSON}.") else ""


def _spot(member: tarfile.TarInfo | None) -> tuple[int, int]:
    return (member.offset_data, member.size) if member else _MISSING_PART


def _text(data: bytes) -> str:
    return data.decode("utf-8-sig").strip()


def _object(data: bytes) -> dict[str, object]:
    """Parse a JSON object; return an empty one if the data are invalid."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def shard_paths(pattern: str) -> list[Path]:
    """List the files that a pattern matches, in order.

    Raises:
        LimnerError: there are none, or the file of one of its numbers is missing.
    """
    paths = list[Path]()
    for text in _with_numbers(str(Path(pattern).expanduser())):
        path = Path(text)
        if path.is_dir():
            files = sorted(path.glob("*.tar"), key=lambda p: natural(p.name))
        elif glob.has_magic(text) and not path.exists():
            files = [Path(name) for name in sorted(glob.glob(text, recursive=True), key=natural)]  # noqa: PTH207
        elif path.exists():
            files = [path]
        else:
            raise LimnerError(f"there is no shard '{path}'; correct the pattern '{pattern}'")
        paths += files
    if not paths:
        raise LimnerError(
            f"'{pattern}' matches no shard; give the path of tar files, as in "
            "shards/{000..127}.tar"
        )
    return paths


def _with_numbers(pattern: str) -> Iterator[str]:
    """Yield a pattern for each number of `{000..127}`, and each word of `{train,extra}`.

    >>> [*_with_numbers("a-{08..10}-{x,y}.tar")][:3]
    ['a-08-x.tar', 'a-08-y.tar', 'a-09-x.tar']
    """
    match = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if not match:
        yield pattern
        return
    first, last, words = match.groups()
    values = words.split(",") if words else []
    if not words:
        values = [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
    for value in values:
        yield from _with_numbers(pattern[: match.start()] + value + pattern[match.end() :])


@dataclass(frozen=True, kw_only=True)
class Tars(Sharded):
    """`wds:PATTERN.tar`: pictures, captions, classes and conditioning images in tar files."""

    def has_splits(self) -> bool:
        """Return False: splits are made with a hash of names."""
        return False

    def shards(self) -> list[TarShard]:
        """Return the tar files as shards."""
        keys = Keys(self.image_key, self.caption_key, self.label_key, self.hint_key)
        return [TarShard(path, keys) for path in shard_paths(self.address)]
