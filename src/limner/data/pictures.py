"""Pictures that lie in files, and the options that every kind of source shares.

A `Source` says which files there are and what they are of (`listing`); `gather` decodes them once,
leaves broken ones out, and makes a `Pictures` data set of the rest.
"""

import hashlib
import itertools
import json
import math
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple, NoReturn, TypeVar

import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from pydantic import Field
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec
from limner.contract.noise import Noise
from limner.contract.options import Count, NonNegative, Share, read_size
from limner.contract.text import LENGTH, text_spec
from limner.data.broken_files import Reasons, few, too_many
from limner.data.dataset import Dataset
from limner.data.decode import (
    Fit,
    Half,
    Header,
    Opener,
    UndecodableError,
    check_pixels,
    flattened,
    header,
    is_grey,
    reading,
    to_pixels,
)
from limner.data.hints import REDUCTION, Hint

T = TypeVar("T")
Report = Callable[[str], None]
"""Receives a message about faulty data; `stop` raises it, `limner data check` collects them."""


def stop(message: str) -> NoReturn:
    """Raise the message: the `Report` for training, which needs sound data."""
    raise LimnerError(message)


class Entry(NamedTuple):
    """One picture before it is decoded.

    Args:
        name: of the file, relative to the source.
        open: gives its bytes.
        label: the name of its class.
        captions: one is drawn each time.
        tags: words that may stand for or beside the caption, in any order.
        weight: how often it is drawn, relatively; None for once an epoch.
        group: what it is a variant of.
    """

    name: str
    open: Opener
    label: str | None = None
    captions: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    weight: float | None = None
    group: str | None = None


class Listing(NamedTuple):
    """The pictures of a split, the class names of all splits, and what is not among the pictures:
    files that are not even tried, and those that are known to be broken.
    """

    entries: Sequence[Entry]
    labels: tuple[str, ...] = ()
    refused: Sequence[tuple[str, str]] = ()
    broken: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """Where pictures come from; the fields are the options.

    Args:
        address: what follows the colon, as in `folder:PATH`; no option.
        split: which part of the data.
        size: one number, or "HEIGHTxWIDTH"; None for the size that all pictures have.
        buckets: further sizes, as in "48x80,80x48", of which training gives each picture the one
            nearest to it in proportion.
        fit: how a picture gets there: its middle cropped, white added, or stretched.
        load_size: one number from `size` on: pictures are made so large first, and training sees
            another part of them each time, else the middle.
        half: "left" or "right", of pictures that show two side by side.
        channels: 1 (grey) or 3 (RGB); None for grey if all pictures are.
        levels: values per channel.
        levels_by: how 256 values become `levels`: "round" to the nearest one, or "floor", equal
            numbers of values each, as n bits are kept of 8 in the papers of Glow and NVAE.
        binarise: to 2 levels: "dynamic" (coin flips of the intensity) or "threshold".
        flip: whether to mirror every second picture in training.
        text: whether captions become tokens, so that models can learn to paint from prompts.
        tokens: how many of them at most; a longer caption is cut.
        memory: GiB of decoded pictures to keep; larger data are decoded each time.
        broken: the share of pictures that may be broken; these are left out, and one always may.
        hint: what becomes of each picture as its conditioning image: "edges", "scribble", "line",
            "lowres" or "bicubic", see `data.hints`; "mask", "boxes" and "objects" are of scenes.
        reduction: how many times smaller the side of a hint "lowres" or "bicubic" is.
    """

    address: str = ""
    split: str = "train"
    size: int | str | None = None
    buckets: int | str = ""
    fit: Fit = "crop"
    load_size: Count | None = None
    half: Half | None = None
    channels: Literal[1, 3] | None = None
    levels: Annotated[int, Field(ge=2, le=256)] = 256
    levels_by: Literal["round", "floor"] = "round"
    binarise: Literal["dynamic", "threshold"] | None = None
    flip: bool = False
    text: bool = False
    tokens: Annotated[int, Field(ge=1, le=256)] = LENGTH
    memory: NonNegative = 4.0
    broken: Share = 0.01
    hint: Hint | None = None
    reduction: Annotated[int, Field(ge=2, le=64)] = REDUCTION

    def __post_init__(self) -> None:
        try:
            shape = self.shape
        except ValueError:
            raise LimnerError(
                f"data option data.size={self.size}: give one number below 100000, or "
                "HEIGHTxWIDTH as in 32x48"
            ) from None
        check_pixels("size", shape)
        check_pixels("load_size", self.load_size)
        if self.load_size and (shape is None or self.load_size < max(shape)):
            raise LimnerError(
                f"data.load_size={self.load_size}: pictures are made so large before a part of "
                "data.size is cut out; give a data.size that is not larger"
            )
        if self.binarise and self.levels not in (2, 256):
            raise LimnerError(f"data.binarise makes 2 levels; leave data.levels={self.levels} out")

    @abstractmethod
    def listing(self, report: Report) -> Listing:
        """The pictures of the split; what is wrong with the data as a whole goes to `report`."""

    def open(self, typed: str) -> Dataset:
        """The data set, of a source typed so."""
        return gather(self, typed)

    @property
    def shape(self) -> tuple[int, int] | None:
        """(height, width) as asked for."""
        return None if self.size is None else read_size(self.size)


class FittedPictures(Dataset):
    """Pictures out of files, all made one size as a source's options say.

    Args:
        source: with the options.
        typed: the source as it was typed.
        shape: (channels, height, width).
        classes: all class names.
        labels: the class of each picture.
        weights: how often each is drawn, relatively.
        captioned: whether there are captions.
    """

    def __init__(
        self,
        source: Source,
        typed: str,
        shape: tuple[int, int, int],
        classes: tuple[str, ...],
        labels: Int[Tensor, "n"] | None,
        weights: Float[Tensor, "n"] | None,
        captioned: bool,
    ) -> None:
        self.source = typed
        self.training = source.split in ("train", "all")
        self.flip = source.flip and self.training
        self.dynamic = source.binarise == "dynamic"
        self.floors = source.levels_by == "floor" and not source.binarise
        self.labels, self.weights = labels, weights
        frequencies = ()
        if labels is not None:
            counts = torch.bincount(labels, weights, minlength=len(classes)).double()
            total = len(labels) if weights is None else weights.sum()
            frequencies = tuple((counts / total).tolist())
        levels = 2 if source.binarise else source.levels
        text = text_spec(source.tokens) if source.text else None
        if text and not captioned:
            where = "give a metadata.csv or a .txt beside each picture (docs/data.md)"
            raise LimnerError(f"{typed} has no captions; {where}, or leave data.text=true out")
        self.spec = ImageSpec(*shape, levels, classes, frequencies, text)
        self._decode = partial(to_pixels, **fitting(source, shape))
        self._options = [self.training, self.flip, self.dynamic, self.spec.to_json()]
        self._options += ["floor"] if self.floors else []

    @abstractmethod
    def whole(self, indices: Int[Tensor, "b"]) -> UInt8[Tensor, "b c hh ww"]:
        """Pictures as they were loaded, which may be larger than they should be."""

    def pixels(self, indices: Int[Tensor, "b"]) -> UInt8[Tensor, "b c h w"]:
        """Pictures from memory, or decoded now; the middle of those that are larger."""
        return self.middle(self.whole(indices))

    def middle(self, x: UInt8[Tensor, "b c hh ww"]) -> UInt8[Tensor, "b c h w"]:
        """The middle of pictures that are larger than they should be."""
        _, height, width = self.spec.shape
        top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
        return x[..., top : top + height, left : left + width]

    def parts(
        self, indices: Int[Tensor, "b"], corner: Float[Tensor, "b 2"]
    ) -> UInt8[Tensor, "b c h w"]:
        """The same with the part at a corner, of those that are larger."""
        return self.at_corner(self.whole(indices), corner)

    def at_corner(
        self, x: UInt8[Tensor, "b c hh ww"], corner: Float[Tensor, "b 2"]
    ) -> UInt8[Tensor, "b c h w"]:
        """The parts at corners of pictures that are larger than they should be."""
        _, height, width = self.spec.shape
        margins = torch.tensor([x.shape[2] - height, x.shape[3] - width])
        if not margins.any():
            return x
        begins = (corner * (margins + 1)).long().minimum(margins).tolist()
        cut = [one[:, t : t + height, r : r + width] for one, (t, r) in zip(x, begins)]
        return torch.stack(cut)


class Pictures(FittedPictures):
    """Pictures of a source, in memory or decoded when asked for.

    Args:
        source: with the options.
        typed: the source as it was typed.
        listing: what the source holds.
        entries: those of its pictures that are sound.
        shape: (channels, height, width).
        kept: their pixels, or None to decode them each time.
        content: a sha256 of their pixels.
        broken: files left out, and why.
    """

    def __init__(
        self,
        source: Source,
        typed: str,
        listing: Listing,
        entries: Sequence[Entry],
        shape: tuple[int, int, int],
        kept: UInt8[Tensor, "n c h w"] | None,
        content: str,
        broken: Reasons,
    ) -> None:
        labels = weights = None
        if entries[0].weight is not None:
            weights = torch.tensor([e.weight or 1.0 for e in entries], dtype=torch.float64)
        if listing.labels:
            number = {label: i for i, label in enumerate(listing.labels)}
            labels = torch.tensor([number[str(e.label)] for e in entries])
        captioned = bool(entries[0].captions)
        super().__init__(source, typed, shape, listing.labels, labels, weights, captioned)
        self.entries = entries
        self.skipped = (*listing.refused, *broken)
        self._kept = kept
        if entries[0].group is not None:
            number = {group: i for i, group in enumerate(dict.fromkeys(e.group for e in entries))}
            self.groups = torch.tensor([number[e.group] for e in entries])
        own = [(e.name, e.label, e.captions, e.tags, e.weight) for e in entries]
        self.digest = hashlib.sha256(json.dumps([content, self._options, own]).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.entries)

    def name(self, index: int) -> str:
        """The file's name, relative to the source."""
        return self.entries[index].name

    def whole(self, indices: Int[Tensor, "b"]) -> UInt8[Tensor, "b c hh ww"]:
        """From memory, or decoded now."""
        if self._kept is not None:
            return self._kept[indices]
        return decoded([self.entries[i] for i in indices.tolist()], self._decode)

    def captions(self, indices: Int[Tensor, "b"], noise: Noise) -> list[str] | None:
        """A caption; half the time, where there are tags, these in any order for or after it."""
        if not self.entries[0].captions:
            return None
        most = max(len(entry.tags) for entry in self.entries)
        said = []
        for i, u in zip(indices.tolist(), noise.uniform(2 + most, dtype=torch.float64).tolist()):
            captions, tags = self.entries[i].captions, self.entries[i].tags
            caption = captions[int(u[0] * len(captions))]
            shuffled = [tag for _, tag in sorted(zip(u[2:], tags))]
            if tags and u[1] >= 0.5:
                caption = ", ".join(shuffled if u[1] < 0.75 else [caption, *shuffled])
            said.append(caption)
        return said


def each(
    entries: Sequence[Entry], use: Callable[[Image.Image], T], broken: Reasons
) -> Iterator[tuple[Entry, T]]:
    """What `use` makes of each picture, in order, decoded in threads; broken ones are noted."""

    def attempt(lot: list[Entry]) -> list[tuple[Entry, T | UndecodableError]]:
        done = []
        for entry in lot:
            try:
                done.append((entry, reading(entry.open, use)))
            except UndecodableError as reason:
                done.append((entry, reason))
        return done

    threads = os.cpu_count() or 1
    rest = iter(entries)
    at_once = min(64, len(entries) // (4 * threads) + 1)  # a hand-over costs as much as an icon
    lots = iter(lambda: list(itertools.islice(rest, at_once)), [])
    with ThreadPoolExecutor(threads) as pool:
        for entry, result in itertools.chain.from_iterable(pool.map(attempt, lots)):
            if isinstance(result, UndecodableError):
                broken.append((entry.name, str(result)))
            else:
                yield entry, result


def decoded(
    entries: Sequence[Entry], decode: Callable[[Image.Image], UInt8[Tensor, "c h w"]]
) -> UInt8[Tensor, "b c h w"]:
    """Pictures that were sound before.

    Raises:
        LimnerError: one is not any more.
    """
    broken: Reasons = []
    found = [picture for _, picture in each(entries, decode, broken)]
    if broken:
        raise LimnerError(f"'{broken[0][0]}' can no longer be read: {broken[0][1]}")
    return torch.stack(found)


def none_in(typed: str, split: str) -> LimnerError:
    """The error for a source without pictures in a split."""
    other = "data.split=train" if split != "train" else "more of them, or a smaller data.holdout"
    return LimnerError(f"{typed} has no pictures in split '{split}'; give {other}")


def gather(source: Source, typed: str, listing: Listing | None = None) -> Pictures:
    """Decode a source's pictures, or those of a listing, once and leave the broken ones out.

    Raises:
        LimnerError: no pictures; no common size and none given; more than `source.broken` (and
            one) are broken.
    """
    listing = listing or source.listing(stop)
    total = len(listing.entries)
    if not total:
        raise none_in(typed, source.split)
    broken: Reasons = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's; a broken file is named with its reason
        heads = list(each(listing.entries, header, broken))
        if too_many(len(broken), total, source.broken):  # name those with broken pixels, too
            for _ in each([entry for entry, _ in heads], _decodes, broken):
                pass
        few(broken, total, typed, source.broken)
        sizes = [(e.name, h.width // (2 if source.half else 1), h.height) for e, h in heads]
        shape = (channels_of(source, heads), *(source.shape or common_size(sizes)))
        sound = listing._replace(entries=[entry for entry, _ in heads])
        found = gather_part(source, typed, sound, shape, broken)
    few(broken, total, typed, source.broken)
    assert found is not None, "some are sound"
    return found


def channels_of(source: Source, heads: Sequence[tuple[Entry, Header]]) -> int:
    """As asked for; else 1 where all pictures are grey."""
    return source.channels or (1 if all(is_grey(head.mode) for _, head in heads) else 3)


def gather_part(
    source: Source, typed: str, listing: Listing, shape: tuple[int, int, int], broken: Reasons
) -> Pictures | None:
    """Decode some of a source's pictures; None if all are broken.

    Args:
        source: with the options.
        typed: as it was typed.
        listing: what is decoded.
        shape: (channels, height, width).
        broken: which files are broken, and why; those that are found are added.
    """
    form = fitting(source, shape)
    loaded = shape[0], form["height"], form["width"]
    fits = len(listing.entries) * math.prod(loaded) <= source.memory * 2**30
    kept = torch.empty((len(listing.entries), *loaded), dtype=torch.uint8) if fits else None
    content = hashlib.sha256()
    entries: list[Entry] = []
    for entry, picture in each(listing.entries, partial(to_pixels, **form), broken):
        content.update(picture.numpy().tobytes())
        if kept is not None:
            kept[len(entries)] = picture
        entries.append(entry)
    if not entries:
        return None
    kept = None if kept is None else kept[: len(entries)]
    return Pictures(source, typed, listing, entries, shape, kept, content.hexdigest(), broken)


def fitting(source: Source, shape: tuple[int, int, int]) -> dict[str, Any]:
    """How pictures are decoded, as arguments of `to_pixels`."""
    channels, height, width = shape
    if source.load_size:
        height = width = source.load_size
    size = {"channels": channels, "height": height, "width": width}
    return size | {"fit": source.fit, "half": source.half}


def common_size(sizes: list[tuple[str, int, int]]) -> tuple[int, int]:
    """The (height, width) that all pictures have."""
    name, width, height = sizes[0]
    for other, *size in sizes:
        if size != [width, height]:
            raise LimnerError(
                f"the pictures differ in size: '{name}' is {width} x {height}, '{other}' is "
                f"{size[0]} x {size[1]}; give one, for example data.size=32"
            )
    return height, width


def _decodes(image: Image.Image) -> None:
    flattened(image)
