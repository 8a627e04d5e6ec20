"""Rows of tables as records: of an Arrow file that is mapped into memory, or of a Parquet file."""

import io
import threading
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from limner.data.records import Place, Record, Shard, plain_captions, plain_label
from limner.runtime.cache import key

_READ = 64  # rows of an Arrow file that are read at a time


class Columns(NamedTuple):
    """Which column of a table has what; None for what it has not."""

    image: str
    caption: str | None
    label: str | None
    hint: str | None
    classes: tuple[str, ...] = ()

    @property
    def all(self) -> list[str]:
        """Those that there are."""
        return list(dict.fromkeys(filter(None, self[:4])))


class _Rows(Shard):
    """Rows of a table; a place is a row's number and what else a reader needs to find it."""

    columns: Columns

    @abstractmethod
    def value(self, place: Place, column: str) -> Any:
        """One cell."""

    def record(self, row: Mapping[str, Any], name: str, place: Place) -> Record:
        """A row as a record."""
        c, known = self.columns, tuple(row)
        image, hint = _file(row[c.image]), _file(row[c.hint]) if c.hint else None
        if not image or (c.hint and not hint):
            lacking = c.hint if image else c.image
            return Record(name, fault=f"column '{lacking}' has no picture", keys=known)
        label = row[c.label] if c.label else None
        if c.classes:
            label = dict[Any, str](enumerate(c.classes)).get(label)
        captions = plain_captions(row[c.caption]) if c.caption else ()
        return Record(name, place, image, captions, plain_label(label), hint, "", known)

    def image(self, place: Place) -> io.BytesIO:
        """The picture file of a row."""
        return io.BytesIO(_file(self.value(place, self.columns.image)))

    def captions(self, place: Place) -> tuple[str, ...]:
        """The captions of a row."""
        column = self.columns.caption
        return plain_captions(self.value(place, column)) if column else ()

    def hint(self, place: Place) -> io.BytesIO:
        """The conditioning image of a row."""
        return io.BytesIO(_file(self.value(place, self.columns.hint or "")))


class ArrowRows(_Rows):
    """Some rows of an Arrow file that lies in memory's reach.

    Args:
        tables: by column, of this column alone.
        first, stop: which rows.
        columns: what they have.
        name: of the split.
        of: a name for the table as it is.
    """

    def __init__(
        self, tables: Mapping[str, Any], first: int, stop: int, columns: Columns, name: str, of: str
    ) -> None:
        self.tables, self.columns, self.name = tables, columns, name
        self.rows = range(first, stop)
        self.key = key(of, first, stop)

    def records(self) -> Iterator[Record]:
        """In order."""
        for first in range(self.rows.start, self.rows.stop, _READ):
            rows = slice(first, min(first + _READ, self.rows.stop))
            cells = {column: table[rows][column] for column, table in self.tables.items()}
            for i in range(rows.stop - first):
                row = {column: values[i] for column, values in cells.items()}
                yield self.record(row, str(first + i), (first + i,))

    def value(self, place: Place, column: str) -> Any:
        """One cell."""
        return self.tables[column][place[0]][column]


class ParquetRows(_Rows):
    """A Parquet file, read where it lies; the last groups of rows are kept.

    Args:
        open: gives the file.
        columns: what it has.
        name: of the file.
        of: a name for the file as it is.
        groups: where groups of rows are kept.
    """

    def __init__(
        self, open: Callable[[], IO[bytes]], columns: Columns, name: str, of: str, groups: "Groups"
    ) -> None:
        self.open, self.columns, self.name = open, columns, name
        self.key, self.groups = key(of, columns), groups

    def records(self) -> Iterator[Record]:
        """In order."""
        from pyarrow.parquet import ParquetFile

        with self.open() as stream:
            file, number = ParquetFile(stream), 0
            for group in range(file.num_row_groups):
                for i, row in enumerate(self._read(file, group)):
                    yield self.record(row, str(number), (group, i))
                    number += 1

    def value(self, place: Place, column: str) -> Any:
        """One cell."""
        rows = self.groups.get((self.key, place[0]), lambda: self._group(place[0]))
        return rows[place[1]][column]

    def _group(self, group: int) -> list[dict[str, Any]]:
        from pyarrow.parquet import ParquetFile

        with self.open() as stream:
            return self._read(ParquetFile(stream), group)

    def _read(self, file: Any, group: int) -> list[dict[str, Any]]:
        return file.read_row_group(group, columns=self.columns.all).to_pylist()


class Groups:
    """The groups of rows that were read last, by whichever thread.

    Args:
        rows: how many rows are kept.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._known: OrderedDict[tuple[str, int], list[dict[str, Any]]] = OrderedDict()
        self._lock = threading.Lock()

    def get(
        self, name: tuple[str, int], read: Callable[[], list[dict[str, Any]]]
    ) -> list[dict[str, Any]]:
        """A group, read now unless it is known.

        Args:
            name: of file and group.
            read: reads it.
        """
        with self._lock:  # others wait, for most of them want the same group
            if name not in self._known:
                self._known[name] = read()
            self._known.move_to_end(name)
            while len(self._known) > 1 and sum(map(len, self._known.values())) > self.rows:
                self._known.popitem(last=False)
            return self._known[name]


def _file(cell: Any) -> bytes:
    """The bytes of a picture file in a cell, or of the one that it names; none if it is empty."""
    if isinstance(cell, bytes):
        return cell
    found = cell or {}
    if found.get("bytes"):
        return found["bytes"]
    path = Path(found.get("path") or "")
    return path.read_bytes() if path.is_file() else b""


def one_column(table: Any, column: str) -> Any:
    """One column, its picture files as they are."""
    from datasets import Image

    alone = table.select_columns([column])
    if isinstance(alone.features[column], Image):
        return alone.cast_column(column, Image(decode=False))
    return alone


def holds_pictures(of: Any) -> bool:
    """Whether a column of this type may hold picture files."""
    from datasets import Image

    return (
        isinstance(of, Image)
        or (isinstance(of, dict) and "bytes" in of)
        or getattr(of, "dtype", "") in ("binary", "large_binary")
    )
