"""Options and data set shared by sources of pictures in shards."""

import hashlib
import json
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, overload

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import Images, ImageSpec, from_uint8
from limner.contract.noise import Noise
from limner.contract.options import Natural, Rate
from limner.data.broken_files import Reasons, check_broken
from limner.data.dataset import View
from limner.data.decode import to_pixels
from limner.data.files import natural
from limner.data.folder import class_names, share_of
from limner.data.order import Order, Windowed
from limner.data.pictures import (
    Entry,
    FittedPictures,
    Listing,
    Report,
    Source,
    common_size,
    decode_entries,
    none_in,
    pixel_arguments,
    raise_error,
)
from limner.data.records import Index, Shard, index_shards


@dataclass(frozen=True)
class Selection:
    """The records that a source's options select.

    Args:
        index: index of all records.
        numbers: numbers of the selected records.
        classes: all class names.
        labels: class of each selected record; None without classes.
        captioned: whether there are captions.
        broken: records left out, with reasons.
        total: number of all records, with broken ones and other splits.
    """

    index: Index
    numbers: Int[Tensor, "n"]
    classes: tuple[str, ...]
    labels: Int[Tensor, "n"] | None
    captioned: bool
    broken: Reasons
    total: int


@dataclass(frozen=True, kw_only=True)
class Sharded(Source):
    """Pictures in shards.

    Args:
        split: "train", "test" (held out with `holdout`) or "all".
        holdout: share of pictures held out, chosen by a hash of their names.
        labels: false to ignore classes; a list to fix their names and order.
        captions: false to ignore captions.
        image_key: key of the picture in a record; None for the only picture.
        caption_key: key of the caption; None for the usual names.
        label_key: key of the class; None for the usual names.
        hint_key: key of the conditioning image; None for no conditioning images.
        shuffle: Size of the shuffle window in pictures, for disks that read best in sequence. Each
            epoch shuffles the shards, and then the pictures within each window; 0 shuffles all
            pictures.
        held_out_as: picture -> counterpart whose name decides whether both are held out.
    """

    split: Literal["train", "test", "all"] = "train"
    holdout: Rate = 0.0
    labels: bool | list[str] = True
    captions: bool = True
    image_key: str | None = None
    caption_key: str | None = None
    label_key: str | None = None
    hint_key: str | None = None
    shuffle: Natural = 0
    held_out_as: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hint and self.hint_key:
            raise LimnerError(
                f"data.hint={self.hint} computes conditioning images, but data.hint_key="
                f"{self.hint_key} reads them; leave one of the two out"
            )

    @abstractmethod
    def shards(self) -> Sequence[Shard]:
        """Return the shards with the records."""

    @abstractmethod
    def has_splits(self) -> bool:
        """Whether the data are already split, so that no hash of names is needed."""

    @property
    def window(self) -> int:
        """Size of the shuffle window in pictures; 0 shuffles all."""
        return self.shuffle

    def declared_classes(self) -> tuple[str, ...]:
        """Return the class names if the data define their order; else (), and they are sorted."""
        return ()

    def choose(self, report: Report) -> Selection:
        """Select the valid records of the split."""
        is_split = self.has_splits()
        if self.split == "test" and not self.holdout and not is_split:
            raise LimnerError("no pictures are held out; give for example data.holdout=0.1")
        index = index_shards(self.shards())
        if self.image_key and not len(index) and self.image_key not in index.keys:
            report(_no_part("picture", "image", self.image_key, index))
        sieve = _Sieve(index)
        captioned = self._sift("caption", sieve, report)
        has_labels = self._sift("label", sieve, report)
        classes, labels = self._labels(sieve, report) if has_labels else ((), None)
        self._sift("hint", sieve, report)
        if self.split != "all" and not is_split and self.holdout:
            names = [index.name(i) for i in range(len(index))]
            shares = torch.tensor([share_of(self.held_out_as.get(name, name)) for name in names])
            sieve.mask &= (shares < self.holdout) == (self.split == "test")
        numbers = sieve.mask.nonzero().flatten()
        labels = None if labels is None else labels[numbers]
        total = len(index) + len(index.broken)
        return Selection(index, numbers, classes, labels, captioned, sieve.broken, total)

    def _sift(self, part: str, sieve: "_Sieve", report: Report) -> bool:
        """Leave out records without a requested part; return whether any record has it."""
        key, is_wanted = {
            "caption": (self.caption_key, self.captions),
            "label": (self.label_key, self.labels is not False),
            "hint": (self.hint_key, self.hint_key is not None),
        }[part]
        mask, faulty = sieve.index.has(part), sieve.index.is_not_utf8(part)
        is_present = bool((mask | faulty).any())
        if not is_wanted or not (is_present or key):
            return False
        if not is_present:
            report(_no_part(part, part, str(key), sieve.index))
        sieve.need(~faulty, f"its {part} is not UTF-8 text; save it as UTF-8")
        sieve.need(mask, f"no {part}")
        return is_present

    def _labels(self, sieve: "_Sieve", report: Report) -> tuple[tuple[str, ...], Int[Tensor, "n"]]:
        """Return all class names, and the class of each record; leave out unknown labels."""
        names = sieve.index.labels
        classes = class_names(self.labels if isinstance(self.labels, list) else [], report)
        classes = classes or self.declared_classes() or tuple(sorted(names, key=natural))
        number = {name: i for i, name in enumerate(classes)}
        numbers = torch.tensor([*(number.get(name, -2) for name in names), -1, -1])
        labels = numbers[sieve.index.fact("label")]
        sieve.need(labels != -2, "its label is not in data.labels")
        return classes, labels

    def listing(self, report: Report) -> Listing:
        """List the records as files that are read on demand."""
        selection = self.choose(report)
        return Listing(_Entries(selection), selection.classes, (), selection.broken)

    def open(self, typed: str) -> "Records":
        """Open the data set.

        Raises:
            LimnerError: see `Source.open`.
        """
        selection = self.choose(raise_error)
        if selection.total:
            check_broken(selection.broken, selection.total, typed, self.broken)
        if not len(selection.numbers):
            raise none_in(typed, self.split)
        return Records(self, typed, selection)


def _no_part(part: str, option: str, key: str, index: Index) -> str:
    """Return the message for a key under which no record has a part."""
    keys = ["json.FIELD" if name == "json" and option != "image" else name for name in index.keys]
    return (
        f"no record has its {part} under '{key}'; give another data.{option}_key, of "
        f"{', '.join(keys) or 'none'}"
    )


class _Sieve:
    """A filter of the records of an index, with reasons for those left out."""

    def __init__(self, index: Index) -> None:
        self.index, self.broken = index, list(index.broken)
        self.mask = torch.ones(len(index), dtype=torch.bool)

    def need(self, mask: Bool[Tensor, "n"], reason: str) -> None:
        """Leave out records that lack something."""
        missing = (self.mask & ~mask).nonzero().flatten().tolist()
        self.broken += [(self.index.name(i), reason) for i in missing]
        self.mask &= mask


class _Entries(Sequence[Entry]):
    """Selected records as entries, each made on demand."""

    def __init__(self, selection: Selection) -> None:
        self.selection = selection

    def __len__(self) -> int:
        return len(self.selection.numbers)

    @overload
    def __getitem__(self, i: int) -> Entry: ...
    @overload
    def __getitem__(self, i: slice) -> list[Entry]: ...
    def __getitem__(self, i: int | slice) -> Entry | list[Entry]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        selection, number = self.selection, int(self.selection.numbers[i])
        shard, place = selection.index.shard(number), selection.index.place(number)
        label = None if selection.labels is None else selection.classes[int(selection.labels[i])]
        captions = shard.captions(place) if selection.captioned else ()
        return Entry(selection.index.name(number), partial(shard.image, place), label, captions)


class Records(FittedPictures):
    """Pictures of records, decoded on demand, and kept if all fit into memory.

    Args:
        source: source with the options.
        typed: the source as it was typed.
        selection: the selected records.
    """

    def __init__(self, source: Sharded, typed: str, selection: Selection) -> None:
        index, numbers = selection.index, selection.numbers
        shape = self._shape(source, selection)
        super().__init__(
            source, typed, shape, selection.classes, selection.labels, None, selection.captioned
        )
        self.selection, self.skipped = selection, tuple(selection.broken)
        self._window = source.window
        arguments = pixel_arguments(source, shape)
        if source.hint_key:
            grey = bool((index.fact("hint")[numbers] == 1).all())
            hint = ImageSpec(1 if grey else 3, *shape[1:], domain=source.hint_key)
            self.spec, self.paired = replace(self.spec, hint=hint), True
            self._decode_hint = partial(to_pixels, **arguments | {"channels": hint.channels})
        loaded = (shape[0], arguments["height"], arguments["width"])
        fits = len(numbers) * math.prod(loaded) <= source.memory * 2**30
        self._pixels = torch.empty((len(numbers), *loaded), dtype=torch.uint8) if fits else None
        self._is_loaded = torch.zeros(len(numbers), dtype=torch.bool)
        options = [self._options, self.spec.to_json(), arguments, source.split, source.holdout]
        options += [selection.captioned, len(numbers)]
        content = json.dumps([index.digests, options])
        self.digest = hashlib.sha256(content.encode()).hexdigest()

    @staticmethod
    def _shape(source: Sharded, selection: Selection) -> tuple[int, int, int]:
        index, numbers = selection.index, selection.numbers
        grey = bool(index.fact("grey")[numbers].all())
        if source.shape:
            return (source.channels or (1 if grey else 3), *source.shape)
        sizes = torch.stack([index.fact("width"), index.fact("height")], 1)[numbers]
        sizes[:, 0] //= 2 if source.half else 1
        other = int((sizes != sizes[0]).any(1).long().argmax())
        examples = [(index.name(int(numbers[i])), *sizes[i].tolist()) for i in (0, other)]
        return (source.channels or (1 if grey else 3), *common_size(examples))

    def __len__(self) -> int:
        return len(self.selection.numbers)

    def name(self, index: int) -> str:
        """Return shard and name of a record."""
        return self.selection.index.name(int(self.selection.numbers[index]))

    def order(self, seed: int, together: int = 1) -> Order:
        """Return the order: each once an epoch; with a window, pictures of a shard stay near."""
        if not self._window:
            return super().order(seed)
        counts = torch.bincount(self.selection.index.shard_of[self.selection.numbers])
        return Windowed(counts[counts > 0], self._window, seed)

    def whole(self, indices: Int[Tensor, "b"]) -> UInt8[Tensor, "b c hh ww"]:
        """Return pictures as loaded, from memory or shards."""
        if self._pixels is None:
            return decode_entries(self._entries(indices), self._decode)
        new = indices[~self._is_loaded[indices]].unique()
        if len(new):
            self._pixels[new] = decode_entries(self._entries(new), self._decode)
            self._is_loaded[new] = True
        return self._pixels[indices]

    def _entries(self, indices: Int[Tensor, "b"], hints: bool = False) -> list[Entry]:
        entries = []
        for i in indices.tolist():
            number = int(self.selection.numbers[i])
            shard, place = self.selection.index.shard(number), self.selection.index.place(number)
            entries.append(
                Entry(self.name(i), partial(shard.hint if hints else shard.image, place))
            )
        return entries

    def captions(self, indices: Int[Tensor, "b"], noise: Noise) -> list[str] | None:
        """Read one caption of each picture."""
        if not self.selection.captioned:
            return None
        index, texts = self.selection.index, list[str]()
        for i, u in zip(indices.tolist(), noise.uniform(dtype=torch.float64).tolist()):
            number = int(self.selection.numbers[i])
            captions = index.shard(number).captions(index.place(number))
            if not captions:
                raise LimnerError(f"the caption of '{self.name(i)}' can no longer be read")
            texts.append(captions[int(u * len(captions))])
        return texts

    def hints(
        self,
        indices: Int[Tensor, "b"],
        numbers: Int[Tensor, "b"],
        seed: int,
        view: View | None = None,
        x: Images | None = None,
    ) -> Float[Tensor, "b k hh ww"] | None:
        """Return the conditioning images, mirrored and cropped like the pictures."""
        if not self.paired:
            return super().hints(indices, numbers, seed, view, x)
        pixels = decode_entries(self._entries(indices, hints=True), self._decode_hint)
        if view is None:
            return from_uint8(self.middle(pixels))
        hints = from_uint8(self.at_corner(pixels, view.corner))
        return torch.where(view.mirrored[:, None, None, None], hints.flip(-1), hints)
