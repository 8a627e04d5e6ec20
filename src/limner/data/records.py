"""Pictures in shards, for data too large for separate files or for memory.

A `Shard` contains records: a picture with caption, label and hint. Each shard is read once: all of
its pictures are decoded to find broken ones, and the position of each record is written into the
cache (`Index`). Afterwards any process reads record i directly, in any order, without the others.
No position of a reader has to be stored, so a killed run continues with the very next picture.
"""

import hashlib
import io
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from PIL import Image
from torch import Tensor

from limner.data.broken_files import Reasons
from limner.data.decode import UndecodableError, flatten, header, is_grey, read_with
from limner.runtime import processes
from limner.runtime.cache import cache_folder, keep_tensors, load_kept
from limner.runtime.progress import painting_progress

Place = tuple[int, ...]
"""Position of a record in its shard; its meaning depends on the kind of shard."""
FACTS = ("width", "height", "grey", "label", "captioned", "hint")
"""Facts of each record in the index: size of its picture, whether it is grey, number of its label
(-1 none, -2 not UTF-8), its caption (0 none, 1 present, -1 not UTF-8), and its conditioning image
(-1 none, 0 colour, 1 grey)."""
_VERSION = 1  # of the cache format
_NO_PLACES = torch.empty(0, 0, dtype=torch.int64)
_RECORDS_WITH_KEYS = 16  # first records of a shard, whose keys are kept for messages


class Record(NamedTuple):
    """The contents of a record.

    Args:
        name: name within its shard.
        place: position in its shard.
        image: bytes of a picture file.
        captions: its captions; one is drawn each time.
        label: name of its class.
        hint: bytes of its conditioning image.
        fault: reason why it cannot be used; "" if it can.
        keys: names of all its parts.
        not_utf8: which of "caption" and "label" is in a text file that is not UTF-8.
    """

    name: str
    place: Place = ()
    image: bytes = b""
    captions: tuple[str, ...] = ()
    label: str | None = None
    hint: bytes | None = None
    fault: str = ""
    keys: tuple[str, ...] = ()
    not_utf8: tuple[str, ...] = ()


class Shard(ABC):
    """Some of the records of a source.

    Args:
        name: name for messages; the names of its records start with it.
        key: cache key of its index, which depends on the state of the file and the options.
    """

    name: str
    key: str

    @abstractmethod
    def records(self) -> Iterator[Record]:
        """Yield all records in order."""

    @abstractmethod
    def image(self, place: Place) -> io.BytesIO:
        """Open the picture file of a record."""

    @abstractmethod
    def captions(self, place: Place) -> tuple[str, ...]:
        """Return the captions of a record; empty without captions."""

    @abstractmethod
    def hint(self, place: Place) -> io.BytesIO:
        """Open the conditioning image of a record that has one."""


class Index:
    """The positions and facts of all records; record i is a function of i.

    Args:
        shards: the shards, in order.
        parts: result of `survey` for each.
    """

    def __init__(self, shards: Sequence[Shard], parts: Sequence[Mapping[str, Tensor]]) -> None:
        self.shards = shards
        notes = [json.loads(part["notes"].numpy().tobytes()) for part in parts]
        self.counts = torch.tensor([len(part["facts"]) for part in parts])
        self.shard_of = torch.repeat_interleave(torch.arange(len(parts)), self.counts)
        self.digests = [str(note["digest"]) for note in notes]
        self.keys = sorted({key for note in notes for key in note["keys"]})
        self.broken: Reasons = [
            (f"{shard.name}/{name}" if name else shard.name, reason)
            for shard, note in zip(shards, notes)
            for name, reason in note["broken"]
        ]
        self.labels = list(dict.fromkeys(label for note in notes for label in note["labels"]))
        number = {label: i for i, label in enumerate(self.labels)}
        facts = []
        for part, note in zip(parts, notes):
            rows = part["facts"].clone()
            # indices -1 and -2 (no label) select the last elements
            renumbered = torch.tensor([*(number[label] for label in note["labels"]), -2, -1])
            rows[:, FACTS.index("label")] = renumbered[rows[:, FACTS.index("label")].long()].int()
            facts.append(rows)
        self._facts = torch.cat(facts)
        self._places = torch.cat(
            [part["places"] for part in parts if len(part["places"])] or [_NO_PLACES]
        )
        self._names = torch.cat([part["names"] for part in parts]).numpy()
        ends = torch.cat([part["name_lengths"] for part in parts]).long().cumsum(0)
        self._name_ends = torch.cat([torch.zeros(1, dtype=torch.int64), ends])

    def __len__(self) -> int:
        return len(self._facts)

    def fact(self, name: str) -> Int[Tensor, "n"]:
        """Return one of `FACTS` for all records."""
        return self._facts[:, FACTS.index(name)].long()

    def has(self, what: str) -> Bool[Tensor, "n"]:
        """Whether each record has a "caption", a "label" or a "hint"."""
        return self.fact("captioned") > 0 if what == "caption" else self.fact(what) >= 0

    def is_not_utf8(self, what: str) -> Bool[Tensor, "n"]:
        """Whether each record has a "caption" or a "label" in a text that is not UTF-8."""
        return self.fact("captioned") < 0 if what == "caption" else self.fact(what) == -2

    def name(self, number: int) -> str:
        """Return shard and name of a record."""
        first, end = self._name_ends[number : number + 2].tolist()
        name = self._names[first:end].tobytes().decode("utf-8", "replace")
        return f"{self.shard(number).name}/{name}"

    def shard(self, number: int) -> Shard:
        """Return the shard of a record."""
        return self.shards[int(self.shard_of[number])]

    def place(self, number: int) -> Place:
        """Return the position of a record in its shard."""
        return tuple(self._places[number].tolist())


def index_shards(shards: Sequence[Shard]) -> Index:
    """Return the index of shards, from the cache if possible.

    Each of several processes starts with another shard, and reuses what the others have indexed.

    Raises:
        LimnerError: a shard cannot be read, or the cache cannot be written.
    """
    paths = {shard.key: cache_folder() / "shards" / f"{shard.key}.safetensors" for shard in shards}
    parts = {key: part for key, path in paths.items() if (part := load_kept(path)) is not None}
    missing = [shard for shard in shards if shard.key not in parts]
    first = len(missing) * processes.rank() // processes.size()

    def make(shard: Shard) -> tuple[str, dict[str, Tensor]]:
        part = load_kept(paths[shard.key])
        if part is None:
            part = survey(shard)
            keep_tensors(paths[shard.key], part)
        return shard.key, part

    if missing:
        with (
            painting_progress(len(missing), "indexing", unit="shards") as advance,
            ThreadPoolExecutor(os.cpu_count()) as pool,
        ):
            for key, part in pool.map(make, [*missing[first:], *missing[:first]]):
                parts[key] = part
                advance(1)
    return Index(shards, [parts[shard.key] for shard in shards])


def survey(shard: Shard) -> dict[str, Tensor]:
    """Read a shard once and decode its pictures, to find positions, facts and broken records."""
    content = hashlib.sha256(f"limner shard {_VERSION}".encode())
    names, places, facts = list[bytes](), list[Place](), list[tuple[int, ...]]()
    broken, labels, keys = Reasons(), dict[str, int](), set[str]()
    for record in shard.records():
        if len(names) < _RECORDS_WITH_KEYS:
            keys.update(record.keys)
        try:
            if record.fault:
                raise UndecodableError(record.fault)
            width, height, grey = _measure(record.image)
            hint = -1 if record.hint is None else _measure(record.hint)[2]
        except UndecodableError as reason:
            broken.append((record.name, str(reason)))
            continue
        label = -2 if "label" in record.not_utf8 else -1
        if record.label is not None:
            label = labels.setdefault(record.label, len(labels))
        captioned = -1 if "caption" in record.not_utf8 else int(bool(record.captions))
        names.append(record.name.encode("utf-8", "replace"))
        places.append(record.place)
        facts.append((width, height, grey, label, captioned, hint))
        metadata = json.dumps([record.name, record.captions, record.label, record.hint is not None])
        for part in (record.image, record.hint or b"", metadata.encode("utf-8", "replace")):
            content.update(hashlib.sha256(part).digest())
    notes = {"digest": content.hexdigest(), "labels": [*labels], "broken": broken}
    return {
        "facts": torch.tensor(facts, dtype=torch.int32).view(-1, len(FACTS)),
        "places": torch.tensor(places, dtype=torch.int64) if places else _NO_PLACES,
        "names": _bytes(b"".join(names)),
        "name_lengths": torch.tensor([len(name) for name in names], dtype=torch.int32),
        "notes": _bytes(json.dumps(notes | {"keys": sorted(keys)}).encode()),
    }


def _measure(data: bytes) -> tuple[int, int, bool]:
    """Decode a picture, and return its width, its height, and whether it is grey."""

    def use(image: Image.Image) -> tuple[int, int, bool]:
        head = header(image)
        flatten(image)
        return head.width, head.height, is_grey(head.mode)

    return read_with(lambda: io.BytesIO(data), use)


def _bytes(data: bytes) -> UInt8[Tensor, "n"]:
    return torch.from_numpy(np.frombuffer(bytearray(data), np.uint8))


def plain_label(value: Any) -> str | None:
    """Return the class name for a word or an integer; None for anything else or an empty word."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value).strip() or None


def plain_captions(value: Any) -> tuple[str, ...]:
    """Return the captions in a text or a list of texts, without blank ones."""
    texts = value if isinstance(value, list | tuple) else [value]
    return tuple(line.strip() for line in texts if isinstance(line, str) and line.strip())
