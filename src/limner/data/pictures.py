"""Pictures in files, and the options that all sources share.

A `Source` lists its files with labels and captions (`listing`). `decode_pictures` decodes them,
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
from typing import Annotated, Any, Literal, TypeVar

import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from pydantic import Field
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec
from limner.contract.noise import Noise
from limner.contract.options import Count, NonNegative, Share, read_size
from limner.contract.text import DEFAULT_LENGTH, text_spec
from limner.data.broken_files import Reasons, check_broken, too_many
from limner.data.dataset import Dataset
from limner.data.decode import (
    Fit,
    Half,
    PictureHeader,
    UndecodableError,
    check_pixels,
    flatten,
    header,
    is_grey,
    read_with,
    to_pixels,
)
from limner.data.entries import Entry, Listing, Report, check_listing, raise_error
from limner.data.hints import REDUCTION, Hint

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """A source of pictures; the fields are its options.

    Args:
        address: the part after the colon, as in `folder:PATH`; not an option.
        split: part of the data.
        size: one number, or "HEIGHTxWIDTH"; None for the common size of all pictures.
        buckets: further sizes, as in "48x80,80x48"; in training each picture gets the size with the
            nearest aspect ratio.
        fit: how pictures reach the size: centre crop, white padding, or stretching.
        load_size: Number that is at least `size`. Pictures are resized to it first; training sees a
            random crop of `size` each time, and other uses the centre crop.
        half: "left" or "right", for pictures that show two side by side.
        channels: 1 (grey) or 3 (RGB); None for grey if all pictures are grey.
        levels: number of values per channel.
        levels_by: how 256 values become `levels`: "round" to the nearest level, or "floor", with
            equally many values per level, as n of 8 bits are kept in the papers of Glow and NVAE.
        binarise: to 2 levels: "dynamic" (drawn with the intensity as probability) or "threshold".
        flip: whether to mirror every second picture in training.
        text: whether captions become tokens, so that models can learn to paint from prompts.
        tokens: largest number of tokens; a longer caption is cut.
        memory: GiB of decoded pictures to keep in memory; larger data are decoded each time.
        broken: share of the pictures that may be broken (or one picture); these are left out.
        hint: kind of conditioning image computed from each picture: "edges", "scribble", "line",
            "lowres" or "bicubic", see `data.hints`; "mask", "boxes" and "objects" need scenes.
        reduction: factor between the sides of a picture and of its hint "lowres" or "bicubic".
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
    tokens: Annotated[int, Field(ge=1, le=256)] = DEFAULT_LENGTH
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
                f"data.load_size={self.load_size}: pictures are resized to this before a crop of "
                "data.size; give a data.size that is not larger"
            )
        if self.binarise and self.levels not in (2, 256):
            raise LimnerError(f"data.binarise makes 2 levels; leave data.levels={self.levels} out")

    @abstractmethod
    def listing(self, report: Report) -> Listing:
        """List the pictures of the split; problems of the data as a whole go to `report`."""

    def checked_listing(self, report: Report = raise_error) -> Listing:
        """Return the listing of a source, which may be of any package.

        Raises:
            LimnerError: the data as a whole are faulty, without `report`; or they are not, and the
                listing is, see `check_listing`.
        """
        problems = list[str]()

        def note(message: str) -> None:
            problems.append(message)
            report(message)

        listing = self.listing(note)
        return listing if problems else check_listing(listing, type(self).__name__)

    def open(self, typed: str) -> Dataset:
        """Open the data set; `typed` is the source as it was typed."""
        return decode_pictures(self, typed)

    @property
    def shape(self) -> tuple[int, int] | None:
        """The requested (height, width)."""
        return None if self.size is None else read_size(self.size)


class FittedPictures(Dataset):
    """Pictures from files, all fitted to one size as a source's options say.

    Args:
        source: source with the options.
        typed: the source as it was typed.
        shape: (channels, height, width).
        classes: all class names.
        labels: class of each picture.
        weights: relative sampling weight of each picture.
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
            remedy = "give a metadata.csv or a .txt next to each picture (docs/data.md)"
            raise LimnerError(f"{typed} has no captions; {remedy}, or leave data.text=true out")
        self.spec = ImageSpec(*shape, levels, classes, frequencies, text)
        self._decode = partial(to_pixels, **pixel_arguments(source, shape))
        self._options = [self.training, self.flip, self.dynamic, self.spec.to_json()]
        self._options += ["floor"] if self.floors else []

    @abstractmethod
    def whole(self, indices: Int[Tensor, "b"]) -> UInt8[Tensor, "b c hh ww"]:
        """Return pictures as loaded, which may be larger than the specified size."""

    def pixels(self, indices: Int[Tensor, "b"]) -> UInt8[Tensor, "b c h w"]:
        """Return pictures from memory or files, with larger ones centre-cropped."""
        return self.middle(self.whole(indices))

    def middle(self, x: UInt8[Tensor, "b c hh ww"]) -> UInt8[Tensor, "b c h w"]:
        """Centre-crop pictures to the specified size."""
        _, height, width = self.spec.shape
        top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
        return x[..., top : top + height, left : left + width]

    def parts(
        self, indices: Int[Tensor, "b"], corner: Float[Tensor, "b 2"]
    ) -> UInt8[Tensor, "b c h w"]:
        """Return pictures from memory or files, with larger ones cropped at a corner."""
        return self.at_corner(self.whole(indices), corner)

    def at_corner(
        self, x: UInt8[Tensor, "b c hh ww"], corner: Float[Tensor, "b 2"]
    ) -> UInt8[Tensor, "b c h w"]:
        """Crop pictures to the specified size at given corners."""
        _, height, width = self.spec.shape
        margins = torch.tensor([x.shape[2] - height, x.shape[3] - width])
        if not margins.any():
            return x
        corners = (corner * (margins + 1)).long().minimum(margins).tolist()
        crops = [image[:, t : t + height, r : r + width] for image, (t, r) in zip(x, corners)]
        return torch.stack(crops)


class Pictures(FittedPictures):
    """Pictures of a source, in memory or decoded on demand.

    Args:
        source: source with the options.
        typed: the source as it was typed.
        listing: contents of the source.
        entries: its valid pictures.
        shape: (channels, height, width).
        pixels: pixels of the pictures, or None to decode them each time.
        content: sha256 of the pixels.
        broken: files left out, with reasons.
    """

    def __init__(
        self,
        source: Source,
        typed: str,
        listing: Listing,
        entries: Sequence[Entry],
        shape: tuple[int, int, int],
        pixels: UInt8[Tensor, "n c h w"] | None,
        content: str,
        broken: Reasons,
    ) -> None:
        labels = weights = None
        if entries[0].weight is not None:
            weights = torch.tensor([e.weight for e in entries], dtype=torch.float64)
        if listing.labels:
            number = {label: i for i, label in enumerate(listing.labels)}
            labels = torch.tensor([number[str(e.label)] for e in entries])
        captioned = bool(entries[0].captions)
        super().__init__(source, typed, shape, listing.labels, labels, weights, captioned)
        self.entries = entries
        self.skipped = (*listing.refused, *broken)
        self._pixels = pixels
        if entries[0].group is not None:
            number = {group: i for i, group in enumerate(dict.fromkeys(e.group for e in entries))}
            self.groups = torch.tensor([number[e.group] for e in entries])
        raw = [(e.name, e.label, e.captions, e.tags, e.weight) for e in entries]
        self.digest = hashlib.sha256(json.dumps([content, self._options, raw]).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.entries)

    def name(self, index: int) -> str:
        """Return the file's name, relative to the source."""
        return self.entries[index].name

    def whole(self, indices: Int[Tensor, "b"]) -> UInt8[Tensor, "b c hh ww"]:
        """Return pictures as loaded, from memory or files."""
        if self._pixels is not None:
            return self._pixels[indices]
        return decode_entries([self.entries[i] for i in indices.tolist()], self._decode)

    def captions(self, indices: Int[Tensor, "b"], noise: Noise) -> list[str] | None:
        """Return one caption each; with tags, half are replaced or followed by shuffled tags."""
        if not self.entries[0].captions:
            return None
        n_tags = max(len(entry.tags) for entry in self.entries)
        texts = []
        for i, u in zip(indices.tolist(), noise.uniform(2 + n_tags, dtype=torch.float64).tolist()):
            captions, tags = self.entries[i].captions, self.entries[i].tags
            caption = captions[int(u[0] * len(captions))]
            shuffled = [tag for _, tag in sorted(zip(u[2:], tags))]
            if tags and u[1] >= 0.5:
                caption = ", ".join(shuffled if u[1] < 0.75 else [caption, *shuffled])
            texts.append(caption)
        return texts


def map_pictures(
    entries: Sequence[Entry], use: Callable[[Image.Image], T], broken: Reasons
) -> Iterator[tuple[Entry, T]]:
    """Yield the result of `use` for each picture, in order, with threads; note broken ones."""

    def attempt(batch: list[Entry]) -> list[tuple[Entry, T | UndecodableError]]:
        results = []
        for entry in batch:
            try:
                results.append((entry, read_with(entry.open, use)))
            except UndecodableError as reason:
                results.append((entry, reason))
        return results

    threads = os.cpu_count() or 1
    rest = iter(entries)
    batch_size = min(64, len(entries) // (4 * threads) + 1)  # a task costs as much as an icon
    batches = iter(lambda: list(itertools.islice(rest, batch_size)), [])
    with ThreadPoolExecutor(threads) as pool:
        for entry, result in itertools.chain.from_iterable(pool.map(attempt, batches)):
            if isinstance(result, UndecodableError):
                broken.append((entry.name, str(result)))
            else:
                yield entry, result


def decode_entries(
    entries: Sequence[Entry], decode: Callable[[Image.Image], UInt8[Tensor, "c h w"]]
) -> UInt8[Tensor, "b c h w"]:
    """Decode pictures that were valid before.

    Raises:
        LimnerError: one is not valid any more.
    """
    broken: Reasons = []
    pictures = [picture for _, picture in map_pictures(entries, decode, broken)]
    if broken:
        raise LimnerError(f"'{broken[0][0]}' can no longer be read: {broken[0][1]}")
    return torch.stack(pictures)


def none_in(typed: str, split: str) -> LimnerError:
    """Return the error for a source without pictures in a split."""
    other = "data.split=train" if split != "train" else "more of them, or a smaller data.holdout"
    return LimnerError(f"{typed} has no pictures in split '{split}'; give {other}")


def decode_pictures(source: Source, typed: str, listing: Listing | None = None) -> Pictures:
    """Decode the pictures of a source or listing once, and leave broken ones out.

    Raises:
        LimnerError: there are no pictures; they have no common size and none is given; or more than
            `source.broken` (and more than one) are broken.
    """
    listing = listing or source.checked_listing()
    broken: Reasons = [*listing.broken]
    total = len(listing.entries) + len(broken)
    if not total:
        raise none_in(typed, source.split)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's warnings; broken files are reported with reasons
        heads = list(map_pictures(listing.entries, header, broken))
        if too_many(len(broken), total, source.broken):  # report files with broken pixels, too
            for _ in map_pictures([entry for entry, _ in heads], _decodes, broken):
                pass
        check_broken(broken, total, typed, source.broken)
        sizes = [(e.name, h.width // (2 if source.half else 1), h.height) for e, h in heads]
        shape = (channels_of(source, heads), *(source.shape or common_size(sizes)))
        valid = listing._replace(entries=[entry for entry, _ in heads])
        pictures = gather_part(source, typed, valid, shape, broken)
    check_broken(broken, total, typed, source.broken)
    assert pictures is not None, "some pictures are valid"
    return pictures


def channels_of(source: Source, heads: Sequence[tuple[Entry, PictureHeader]]) -> int:
    """Return the requested number of channels; by default 1 if all pictures are grey, else 3."""
    return source.channels or (1 if all(is_grey(head.mode) for _, head in heads) else 3)


def gather_part(
    source: Source, typed: str, listing: Listing, shape: tuple[int, int, int], broken: Reasons
) -> Pictures | None:
    """Decode some of a source's pictures; return None if all are broken.

    Args:
        source: source with the options.
        typed: the source as it was typed.
        listing: pictures to decode.
        shape: (channels, height, width).
        broken: broken files with reasons, to which further ones are added.
    """
    arguments = pixel_arguments(source, shape)
    loaded = shape[0], arguments["height"], arguments["width"]
    fits = len(listing.entries) * math.prod(loaded) <= source.memory * 2**30
    pixels = torch.empty((len(listing.entries), *loaded), dtype=torch.uint8) if fits else None
    content = hashlib.sha256()
    entries: list[Entry] = []
    for entry, picture in map_pictures(listing.entries, partial(to_pixels, **arguments), broken):
        content.update(picture.numpy().tobytes())
        if pixels is not None:
            pixels[len(entries)] = picture
        entries.append(entry)
    if not entries:
        return None
    pixels = None if pixels is None else pixels[: len(entries)]
    return Pictures(source, typed, listing, entries, shape, pixels, content.hexdigest(), broken)


def pixel_arguments(source: Source, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Return the arguments of `to_pixels` for a source."""
    channels, height, width = shape
    if source.load_size:
        height = width = source.load_size
    size = {"channels": channels, "height": height, "width": width}
    return size | {"fit": source.fit, "half": source.half}


def common_size(sizes: list[tuple[str, int, int]]) -> tuple[int, int]:
    """Return the (height, width) that all pictures have."""
    name, width, height = sizes[0]
    for other, *size in sizes:
        if size != [width, height]:
            raise LimnerError(
                f"the pictures differ in size: '{name}' is {width} x {height}, '{other}' is "
                f"{size[0]} x {size[1]}; give one size, for example data.size=32"
            )
    return height, width


def _decodes(image: Image.Image) -> None:
    flatten(image)
