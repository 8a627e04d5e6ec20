"""Rows of tables as records, from a memory-mapped Arrow file or a Parquet file."""

import io
import threading
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from limner.data.records import Place, Record, Shard, plain_captions, plain_label
from limner.runtime.cache import cache_key

_BATCH_ROWS = 64  # rows of an Arrow file read at a time


class Columns(NamedTuple):
    """Columns of a table by their contents; None if there is no such column."""

    image: str
    caption: str | None
    label: str | None
    hint: str | None
    classes: tuple[str, ...] = ()

    @property
    def all(self) -> list[str]:
        """All columns that are not None."""
        return list(dict.fromkeys(filter(None, self[:4])))


class _Rows(Shard):
    """Rows of a table; a place is the position of a row, in the form that its reader needs."""

    columns: Columns

    @abstractmethod
    def value(self, place: Place, column: str) -> Any:
        """Return one cell."""

    def record(self, row: Mapping[str, Any], name: str, place: Place) -> Record:
        """Convert a row to a record."""
        c, keys = self.columns, tuple(row)
        image, hint = _file(row[c.image]), _file(row[c.hint]) if c.hint else None
        if not image or (c.hint and not hint):
            column = c.hint if image else c.image
            return Record(name, fault=f"column '{column}' has no picture", keys=keys)
        label = row[c.label] if c.label else None
        if c.classes:
            label = dict[Any, str](enumerate(c.classes)).get(label)
        captions = plain_captions(row[c.caption]) if c.caption else ()
        return Record(name, place, image, captions, plain_label(label), hint, "", keys)

    def image(self, place: Place) -> io.BytesIO:
        """Open the picture file of a row."""
        return io.BytesIO(_file(self.value(place, self.columns.image)))

    def captions(self, place: Place) -> tuple[str, ...]:
        """Return the captions of a row."""
        column = self.columns.caption
        return plain_captions(self.value(place, column)) if column else ()

    def hint(self, place: Place) -> io.BytesIO:
        """Open the conditioning image of a row."""
        return io.BytesIO(_file(self.value(place, self.columns.hint or "")))


class ArrowRows(_Rows):
    """Some rows of a memory-mapped Arrow file.

    Args:
        tables: column -> table with this column alone.
        first, stop: range of the rows.
        columns: the columns by their contents.
        name: name of the split.
        of: cache key of the current table.
    """

    def __init__(
        self, tables: Mapping[str, Any], first: int, stop: int, columns: Columns, name: str, of: str
    ) -> None:
        self.tables, self.columns, self.name = tables, columns, name
        self.rows = range(first, stop)
        self.key = cache_key(of, first, stop)

    def records(self) -> Iterator[Record]:
        """Yield the records in order."""
        for first in range(self.rows.start, self.rows.stop, _BATCH_ROWS):
            rows = slice(first, min(first + _BATCH_ROWS, self.rows.stop))
            cells = {column: table[rows][column] for column, table in self.tables.items()}
            for i in range(rows.stop - first):
                row = {column: values[i] for column, values in cells.items()}
                yield self.record(row, str(first + i), (first + i,))

    def value(self, place: Place, column: str) -> Any:
        """Return one cell."""
        return self.tables[column][place[0]][column]


class ParquetRows(_Rows):
    """A Parquet file, read in place, with the last row groups cached.

    Args:
        open: function that opens the file.
        columns: the columns by their contents.
        name: name of the file.
        of: cache key of the current file.
        groups: cache of row groups.
    """

    def __init__(
        self, open: Callable[[], IO[bytes]], columns: Columns, name: str, of: str, groups: "Groups"
    ) -> None:
        self.open, self.columns, self.name = open, columns, name
        self.key, self.groups = cache_key(of, columns), groups

    def records(self) -> Iterator[Record]:
        """Yield the records in order."""
        from pyarrow.parquet import ParquetFile

        with self.open() as stream:
            file, number = ParquetFile(stream), 0
            for group in range(file.num_row_groups):
                for i, row in enumerate(self._read_rows(file, group)):
                    yield self.record(row, str(number), (group, i))
                    number += 1

    def value(self, place: Place, column: str) -> Any:
        """Return one cell."""
        rows = self.groups.get((self.key, place[0]), lambda: self._group(place[0]))
        return rows[place[1]][column]

    def _group(self, group: int) -> list[dict[str, Any]]:
        from pyarrow.parquet import ParquetFile

        with self.open() as stream:
            return self._read_rows(ParquetFile(stream), group)

    def _read_rows(self, file: Any, group: int) -> list[dict[str, Any]]:
        return file.read_row_group(group, columns=self.columns.all).to_pylist()


class Groups:
    """A cache of the last row groups, shared by threads.

    Args:
        rows: number of rows to keep.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._cache: OrderedDict[tuple[str, int], list[dict[str, Any]]] = OrderedDict()
        self._lock = threading.Lock()

    def get(
        self, name: tuple[str, int], read: Callable[[], list[dict[str, Any]]]
    ) -> list[dict[str, Any]]:
        """Return a group, and read it if it is not cached.

        Args:
            name: key of the file, and number of the group.
            read: function that reads the group.
        """
        with self._lock:  # other threads wait, because most of them need the same group
            if name not in self._cache:
                self._cache[name] = read()
            self._cache.move_to_end(name)
            while len(self._cache) > 1 and sum(map(len, self._cache.values())) > self.rows:
                self._cache.popitem(last=False)
            return self._cache[name]


def _file(cell: Any) -> bytes:
    """Return the bytes of a picture file in a cell, or of the file it names; b"" if empty."""
    if isinstance(cell, bytes):
        return cell
    fields = cell or {}
    if fields.get("bytes"):
        return fields["bytes"]
    path = Path(fields.get("path") or "")
    return path.read_bytes() if path.is_file() else b""


def one_column(table: Any, column: str) -> Any:
    """Return one column, with its picture files undecoded."""
    from datasets import Image

    selected = table.select_columns([column])
    if isinstance(selected.features[column], Image):
        return selected.cast_column(column, Image(decode=False))
    return selected


def holds_pictures(of: Any) -> bool:
    """Whether a column of this type may contain picture files."""
    from datasets import Image

    return (
        isinstance(of, Image)
        or (isinstance(of, dict) and "bytes" in of)
        or getattr(of, "dtype", "") in ("binary", "large_binary")
    )
