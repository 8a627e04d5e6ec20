"""`hf:NAME_OR_PATH`: data sets of Hugging Face's library `datasets`.

They come from the hub, a folder of Parquet files or pictures, a Parquet file, or the output of
`save_to_disk`. `datasets` writes the rows into an Arrow file in its cache, which is memory-mapped,
so that any row can be read directly. With `data.streaming=true` nothing is copied: Parquet files
are read in place, one row group at a time, and pictures are shuffled within windows.

Reference: Lhoest et al. (2021). Datasets: a community library for natural language processing.
EMNLP, system demonstrations. arXiv:2109.02846.
"""

import os
import socket
import sys
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

from limner.contract.errors import LimnerError, first_line, install_command, unknown
from limner.data.folder import CAPTION_COLUMNS
from limner.data.records import Shard
from limner.data.rows import ArrowRows, Columns, Groups, ParquetRows, holds_pictures, one_column
from limner.data.sharded import Sharded
from limner.runtime.cache import cache_key

_SHARD_ROWS = 1024  # rows of an Arrow file per shard
_WINDOW = 2048  # default shuffle window for streaming, in pictures
_LABEL_COLUMN = "label"
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Hub(Sharded):
    """`hf:NAME_OR_PATH`: pictures in the columns of a table.

    Args:
        train_split: name of the training split in the data; slices such as "train[:5%]" work.
        test_split: name of the held-out split; None for "test" or "validation". Without either,
            `holdout` is the share of the training pictures that is held out.
        config: name of a configuration, if there are several.
        revision: commit, branch or tag of a data set on the hub; None for the latest.
        streaming: whether Parquet files are read in place, without a copy.
    """

    train_split: str = "train"
    test_split: str | None = None
    config: str | None = None
    revision: str | None = None
    streaming: bool = False

    def has_splits(self) -> bool:
        """Whether the data have a test split, and no share is held out.

        Raises:
            LimnerError: the data have no split `test_split`.
        """
        if self.test_split:
            self._check_split(self.test_split)
        return not self.holdout and self._test_split.partition("[")[0] in self._splits

    def shards(self) -> Sequence[Shard]:
        """Return the rows of the split as shards."""
        if self.streaming:
            return self._parquet()
        shards = []
        for name in self._split_names:
            table = self._table(name)
            files = [Path(file["filename"]) for file in table.cache_files]
            state = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
            table_key = cache_key("arrow", state, name, len(table), self._columns)
            tables = {column: one_column(table, column) for column in self._columns.all}
            shards += [
                ArrowRows(
                    tables, i, min(i + _SHARD_ROWS, len(table)), self._columns, name, table_key
                )
                for i in range(0, len(table), _SHARD_ROWS)
            ]
        return shards

    def declared_classes(self) -> tuple[str, ...]:
        """Return the class names from the type of the column."""
        return self._columns.classes

    @property
    def window(self) -> int:
        """Size of the shuffle window in pictures; 0 shuffles all."""
        return self.shuffle or (_WINDOW if self.streaming else 0)

    @property
    def _test_split(self) -> str:
        names = [name for name in ("test", "validation") if name in self._splits]
        return self.test_split or next(iter(names), "test")

    @property
    def _split_names(self) -> list[str]:
        if not self.has_splits() or self.split == "train":
            return [self.train_split]
        splits = [self.train_split, self._test_split]
        return splits if self.split == "all" else splits[1:]

    @cached_property
    def _columns(self) -> Columns:
        from datasets import Image

        features = self._features
        images = [name for name, feature in features.items() if holds_pictures(feature)]
        keys = (self.image_key, self.caption_key, self.label_key, self.hint_key)
        for name, kind in zip(keys, ("image", "caption", "label", "hint")):
            if name and name not in features:
                raise unknown("column", name, features, f"data.{kind}_key of hf:{self.address}")
        images = [name for name in images if name != self.hint_key]
        exact = [name for name in images if isinstance(features[name], Image)]
        images = exact or images
        if not self.image_key and len(images) != 1:
            fault = "several columns of pictures" if images else "no column of pictures"
            raise LimnerError(
                f"hf:{self.address} has {fault} ({', '.join(images or features)}); name it, as in "
                f"data.image_key={(images or [*features])[0]}"
            )
        image = self.image_key or images[0]
        names = (name for name in CAPTION_COLUMNS if name in features)
        caption = self.caption_key or next(names, None)
        label = self.label_key or (_LABEL_COLUMN if _LABEL_COLUMN in features else None)
        classes = tuple(getattr(features.get(label or ""), "names", None) or ())
        return Columns(image, caption, label, self.hint_key, classes)

    @cached_property
    def _local(self) -> Path | None:
        path = Path(self.address).expanduser()
        return path if path.exists() else None

    @cached_property
    def _saved_splits(self) -> Any:
        """Splits written with `save_to_disk`; None for any other address."""
        path = self._local
        if path is None or not any(
            (path / name).is_file() for name in ("state.json", "dataset_dict.json")
        ):
            return None
        for option in ("config", "revision"):
            if getattr(self, option):
                raise LimnerError(
                    f"hf:{self.address} was written by save_to_disk, so there is nothing to choose "
                    f"with data.{option}; leave it out"
                )
        from datasets import DatasetDict, load_from_disk

        data = self._call_library(lambda: load_from_disk(str(path)))
        if isinstance(data, DatasetDict):
            return data
        return {self.train_split.partition("[")[0]: data}

    @cached_property
    def _builder(self) -> Any:
        from datasets import load_dataset_builder

        path = self._local
        if path and path.is_file():
            files = {"train": str(path)}
            return self._call_library(lambda: load_dataset_builder("parquet", data_files=files))
        name = str(path or self.address)
        return self._call_library(
            lambda: load_dataset_builder(name, self.config, revision=self.revision)
        )

    @cached_property
    def _splits(self) -> list[str]:
        if self._saved_splits is not None:
            return list(self._saved_splits)
        files = self._builder.config.data_files
        return [str(name) for name in files or self._builder.info.splits or ()]

    def _table(self, split: str) -> Any:
        self._check_split(split)
        if self._saved_splits is not None:
            return self._call_library(lambda: _slice_of(self._saved_splits, split))
        self._call_library(self._builder.download_and_prepare)
        return self._call_library(lambda: self._builder.as_dataset(split))

    @cached_property
    def _features(self) -> Mapping[str, Any]:
        if not self.streaming:
            return self._table(self._split_names[0]).features
        from datasets import Features
        from pyarrow.parquet import read_schema

        opener = self._files(self._split_names[0])[0][0]
        if features := self._builder.info.features:  # of the card, which may name the classes
            return features
        with opener() as stream:
            return self._call_library(lambda: Features.from_arrow_schema(read_schema(stream)))

    def _parquet(self) -> list[Shard]:
        groups = Groups(2 * self.window)
        return [
            ParquetRows(opener, self._columns, name, state, groups)
            for split in self._split_names
            for opener, name, state in self._files(split)
        ]

    def _files(self, split: str) -> list[tuple[Callable[[], IO[bytes]], str, str]]:
        """Return (opener, name, cache key of the current contents) of each Parquet file."""
        from fsspec.core import url_to_fs

        self._check_split(split)
        paths = (
            [] if self._saved_splits is not None else (self._builder.config.data_files or {})[split]
        )
        if not paths or not all(str(path).endswith(".parquet") for path in paths):
            raise LimnerError(
                "data.streaming reads Parquet files, but "
                f"hf:{self.address} has others; leave it out"
            )
        files = []
        for path in map(str, paths):
            system, place = url_to_fs(path)
            info = self._call_library(lambda s=system, p=place: s.info(p))
            state = [info.get(name) for name in ("size", "mtime", "etag", "blob_id")]
            opener = partial(system.open, place, "rb")
            files.append(
                (opener, place.rpartition("/")[2], cache_key("parquet", path, *map(str, state)))
            )
        return files

    def _check_split(self, split: str) -> None:
        name, bracket, _ = split.partition("[")
        if self.streaming and bracket and name in self._splits:
            raise LimnerError(
                f"data.streaming reads whole splits, not '{split}'; give '{name}', "
                "or leave data.streaming out"
            )
        if name not in self._splits:
            raise unknown("split", split, self._splits, f"of hf:{self.address}")

    def _call_library(self, call: Callable[[], T]) -> T:
        """Call `datasets`, and turn its errors into one line."""
        try:
            return call()
        except LimnerError:
            raise
        except Exception as error:  # datasets raises many kinds of errors
            hint = "" if self._local else "; there is no such local path either"
            raise LimnerError(
                f"hf:{self.address} cannot be opened: {first_line(error)}{hint}"
            ) from None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self._local is None:
            _stay_offline_without_network()
        try:
            import datasets  # noqa: F401
        except ModuleNotFoundError:
            raise LimnerError(
                f"hf: needs the library datasets; type: {install_command('hf')}"
            ) from None


def _slice_of(saved: Mapping[str, Any], split: str) -> Any:
    """Return a split, or a part of it such as "train[:10%]"."""
    from datasets import ReadInstruction, concatenate_datasets

    sizes = {name: len(data) for name, data in saved.items()}
    parts = ReadInstruction.from_spec(split).to_absolute(sizes)
    return concatenate_datasets([saved[p.splitname].select(range(p.from_, p.to)) for p in parts])


def _stay_offline_without_network() -> None:
    """Make the hub's library use its cache immediately, instead of after five failed attempts."""
    host = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
    if urllib.request.getproxies() or "huggingface_hub" in sys.modules:
        return
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"
