"""`limner data check`: the contents of a data source and its problems."""

import hashlib
import itertools
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from limner.contract.errors import LimnerError, one_line
from limner.contract.names import is_builtin
from limner.contract.text import Tokenizer, text_spec
from limner.data.broken_files import Reasons, too_many
from limner.data.decode import PictureHeader, flatten, header, resize_to_fit
from limner.data.pictures import Entry, Listing, Source, map_pictures, none_in
from limner.data.scenes import Scenes
from limner.data.sharded import Sharded
from limner.data.sources import (
    PAIRS,
    find_source,
    flat_options,
    is_mixture,
    one_source,
    open_data,
    open_one,
    parts_of_mixture,
    parts_of_pair,
)
from limner.data.stream import Stream
from limner.data.two_domains import Paired

_TILE, _ACROSS = 64, 10  # of the contact sheet: side of a picture in pixels, pictures per row
_MAX_SHOWN = 10  # most entries of a list
_THUMBNAIL_SIDE = 16
# Root mean square difference of two thumbnails, in grey values; re-saving makes 1.
_MAX_DIFFERENCE = 3.0
_MAX_PAIRS = 1000  # most pairs of similar pictures
_MAX_COMPARED = 20_000  # most pictures that are compared with each other


@dataclass
class CheckReport:
    """Report of `check` on one source.

    Args:
        source: the source as it was typed.
        pictures: number of valid picture files.
        sizes, modes, formats: number of pictures with each, the most frequent first.
        labels: number of pictures of each class.
        captioned: number of pictures with captions.
        captions: a few captions, each with the name of its picture.
        unread: captions without a known word, such as captions in another language.
        duplicates: names of pictures with equal pixels.
        similar: pairs of pictures that look the same, among the first 20,000; at most 1,000.
        rotated: names of pictures with an EXIF rotation.
        animated: names of animations, of which only the first frame is used.
        broken: names of files that could not be decoded, with reasons.
        refused: names of files that were not opened, with reasons.
        broken_share: share of the pictures that may be broken.
        problems: other problems that prevent opening the data, each with its remedy.
        tiles: small pictures for the contact sheet.
    """

    source: str
    pictures: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    formats: dict[str, int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    captioned: int = 0
    captions: list[tuple[str, str]] = field(default_factory=list)
    unread: list[tuple[str, str]] = field(default_factory=list)
    duplicates: list[list[str]] = field(default_factory=list)
    similar: list[list[str]] = field(default_factory=list)
    rotated: list[str] = field(default_factory=list)
    animated: list[str] = field(default_factory=list)
    broken: Reasons = field(default_factory=list)
    refused: Reasons = field(default_factory=list)
    broken_share: float = 0.01
    problems: list[str] = field(default_factory=list)
    tiles: list[Image.Image] = field(default_factory=list, repr=False)

    @property
    def refused_by_training(self) -> bool:
        """Whether training on the unchanged data would stop with an error."""
        total = self.pictures + len(self.broken)
        return bool(self.problems) or too_many(len(self.broken), total, self.broken_share)

    def to_json(self) -> dict[str, Any]:
        """Return the complete report as plain values."""
        return {name: value for name, value in vars(self).items() if name != "tiles"}

    def text(self) -> str:
        """Return a readable table, one line per finding, with long lists shortened."""
        captions = f"{self.captioned} of {self.pictures + len(self.broken)} pictures"
        lines = [
            ("source", self.source),
            ("pictures", f"{self.pictures} valid, {len(self.broken)} broken"),
            ("sizes", _list_counts(self.sizes)),
            ("modes", _list_counts(self.modes)),
            ("formats", _list_counts(self.formats)),
            (
                "labels",
                f"{len(self.labels)}: {_list_counts(self.labels)}" if self.labels else "none",
            ),
            ("captions", captions if self.captioned else "none"),
        ]
        for title, items in {
            "for example": [f"{name}: {text}" for name, text in self.captions],
            "no known word": [f"{name}: {text}" for name, text in self.unread],
            "same pixels": [" = ".join(_shorten(names)) for names in self.duplicates],
            "look the same": [" ~ ".join(names) for names in self.similar],
            "rotated by EXIF": self.rotated,
            "first frame of": self.animated,
            "broken": [f"{name}: {reason}" for name, reason in self.broken],
            "not opened": [f"{name}: {reason}" for name, reason in self.refused],
            "to fix": self.problems,
        }.items():
            titles = itertools.chain([f"{title} ({len(items)})"], itertools.repeat(""))
            lines += zip(titles, _shorten(items))
        width = max(len(title) for title, _ in lines)
        return "\n".join(one_line(f"{title:<{width}}  {text}".rstrip()) for title, text in lines)

    def sheet(self, path: str | Path) -> None:
        """Save up to 100 pictures, evenly spread over the data, as one PNG."""
        pitch = _TILE + 2
        rows = max(1, -(-len(self.tiles) // _ACROSS))
        sheet = Image.new("RGB", (_ACROSS * pitch + 2, rows * pitch + 2), "lightgrey")
        for i, tile in enumerate(self.tiles):
            sheet.paste(tile, (i % _ACROSS * pitch + 2, i // _ACROSS * pitch + 2))
        sheet.save(path, format="PNG")


@dataclass
class MixedReport:
    """Report of `check` on a mixture or on two domains.

    Args:
        source: the source as it was typed.
        parts: reports on its sources.
        problems: reasons why the sources do not fit together, each with its remedy.
        pairs: number of pairs in paired data; None for other data.
        unpaired: names of pictures without a counterpart in paired data, with reasons.
    """

    source: str
    parts: list[CheckReport]
    problems: list[str] = field(default_factory=list)
    pairs: int | None = None
    unpaired: Reasons = field(default_factory=list)

    @property
    def refused_by_training(self) -> bool:
        """Whether training on all sources together would stop with an error."""
        return bool(self.problems) or any(part.refused_by_training for part in self.parts)

    @property
    def pictures(self) -> int:
        """Number of valid picture files."""
        return sum(part.pictures for part in self.parts)

    @property
    def captioned(self) -> int:
        """Number of pictures with captions."""
        return sum(part.captioned for part in self.parts)

    @property
    def labels(self) -> dict[str, int]:
        """Number of pictures of each class."""
        return dict(sum((Counter(part.labels) for part in self.parts), Counter[str]()))

    def to_json(self) -> dict[str, Any]:
        """Return the complete report as plain values."""
        parts = [part.to_json() for part in self.parts]
        report = {"source": self.source, "parts": parts, "problems": self.problems}
        pairs = {"pairs": self.pairs, "unpaired": self.unpaired}
        return report if self.pairs is None else report | pairs

    def text(self) -> str:
        """Return a table for each source, and whether the sources fit together."""
        tables = [part.text() for part in self.parts]
        refused = [part.source for part in self.parts if part.refused_by_training]
        lines = self.problems or [f"to fix in {source}" for source in refused]
        if not lines and self.pairs is not None:
            lines = [f"{self.pairs:,} pairs"]
            lines += _shorten([f"left out: {name} ({reason})" for name, reason in self.unpaired])
        kind = self.source.partition(":")[0]
        return "\n\n".join([*tables, "\n".join([kind, *(lines or ["the sources agree"])])])

    def sheet(self, path: str | Path) -> None:
        """Save pictures of all sources, one after the other, as one PNG."""
        share = _ACROSS**2 // len(self.parts)
        tiles = [tile for part in self.parts for tile in part.tiles[:share]]
        CheckReport(self.source, tiles=tiles).sheet(path)


class _Inspection(NamedTuple):
    head: PictureHeader
    content: str
    thumb: UInt8[np.ndarray, "16 16"]
    tile: Image.Image


def _inspect(image: Image.Image) -> _Inspection:
    """Return header, content hash and two thumbnails of an opened picture."""
    head, flat = header(image), flatten(image)
    content = hashlib.sha256(f"{flat.mode} {flat.size}".encode() + flat.tobytes()).hexdigest()
    thumb = np.asarray(flat.convert("L").resize((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE)))
    return _Inspection(
        head, content, thumb, resize_to_fit(flat.convert("RGB"), _TILE, _TILE, "pad")
    )


def check(source: str | Sequence[str], **options: Any) -> CheckReport | MixedReport:
    """Check every picture of a source; problems in the data are reported, not raised.

    Args:
        source: see `open_data`.
        options: see `open_data`.

    Raises:
        LimnerError: there is no such source, file or option.
    """
    source = one_source(source)
    if is_mixture(source) or source.partition(":")[0] in PAIRS:
        return _check_several(source, flat_options(options))
    return _check_one(source, options)


def _check_several(source: str, options: dict[str, Any]) -> MixedReport:
    """Check each source of a mixture or of two domains, and whether they fit together."""
    rest = {name: value for name, value in options.items() if name not in ("weights", "direction")}
    parts = parts_of_mixture(source, rest) if is_mixture(source) else parts_of_pair(source, rest)
    report = MixedReport(source, [_check_one(name, part_options) for name, part_options in parts])
    if not report.refused_by_training:
        try:
            data = open_data(source, **options)
        except LimnerError as error:
            report.problems.append(str(error))
            return report
        if isinstance(data, Paired):
            report.pairs, report.unpaired = len(data), data.unpaired
    return report


def _check_one(typed: str, options: dict[str, Any]) -> CheckReport:
    report = CheckReport(typed)
    source = find_source(typed, options)
    listing = source.checked_listing(report.problems.append)
    entries = listing.entries
    report.refused, report.broken = list(listing.refused), list(listing.broken)
    report.broken_share = source.broken
    if not (entries or report.broken or report.problems):
        report.problems.append(str(none_in(typed, source.split)))
    report.labels = dict.fromkeys(listing.labels, 0)
    for entry in entries:
        if entry.label in report.labels:
            report.labels[entry.label] += 1
    captioned = [(entry.name, entry.captions[0]) for entry in entries if entry.captions]
    report.captioned, report.captions = len(captioned), captioned[:3]
    is_known = Tokenizer(text_spec()).encode([caption for _, caption in captioned]).any(1).tolist()
    report.unread = [pair for pair, known in zip(captioned, is_known) if not known]

    heads: list[PictureHeader] = []
    copies: defaultdict[str, list[str]] = defaultdict(list)
    thumbs: dict[str, np.ndarray] = {}  # of distinct pictures, by the name of the first copy
    by_size: dict[tuple[int, int], Entry] = {}
    interval = -(-len(entries) // _ACROSS**2) or 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's warnings; broken files are reported with reasons
        for entry, result in map_pictures(entries, _inspect, report.broken):
            if not copies[result.content] and len(thumbs) < _MAX_COMPARED:
                thumbs[entry.name] = result.thumb
            copies[result.content].append(entry.name)
            if len(heads) % interval == 0:
                report.tiles.append(result.tile)
            if result.head.rotated:
                report.rotated.append(entry.name)
            if result.head.animated:
                report.animated.append(entry.name)
            heads.append(result.head)
            by_size.setdefault((result.head.width, result.head.height), entry)
    if (
        not report.problems
        and heads
        and not too_many(len(report.broken), len(heads) + len(report.broken), source.broken)
    ):
        no_word = bool(captioned) and len(report.unread) == len(captioned)
        report.problems += _refusal(source, typed, listing, [*by_size.values()], no_word)
    report.pictures = len(heads)
    report.sizes = dict(Counter(f"{head.width} x {head.height}" for head in heads).most_common())
    report.modes = dict(Counter(head.mode for head in heads).most_common())
    report.formats = dict(Counter(head.format for head in heads).most_common())
    report.duplicates = [names for names in copies.values() if len(names) > 1]
    report.similar = _similar(thumbs)
    return report


def _refusal(
    source: Source, typed: str, listing: Listing, examples: list[Entry], no_word: bool
) -> list[str]:
    """Return further reasons for which training would refuse the data.

    Args:
        source: the source.
        typed: the source as it was typed.
        listing: the full listing of the source.
        examples: a valid picture of each size, in order. Training refuses them for the same
            reasons as all pictures, and they are read quickly.
        no_word: whether no caption has a known word.
    """
    kind = type(source)
    is_own = kind.open is not Source.open and not is_builtin(kind)  # it may not use the listing
    opens_whole = is_own or issubclass(kind, Sharded | Scenes)  # these read no picture to open
    try:
        few = listing._replace(entries=examples, broken=())
        data = open_one(source, typed, None if opens_whole else few)
        if no_word:
            Stream(data).check_captions()
    except LimnerError as error:
        return [str(error)]
    return []


def _similar(thumbs: dict[str, UInt8[np.ndarray, "16 16"]]) -> list[list[str]]:
    """Return at most `_MAX_PAIRS` pairs of names with almost equal thumbnails."""
    if not thumbs:
        return []
    names = list(thumbs)
    points = torch.from_numpy(np.stack(list(thumbs.values()))).float().flatten(1)
    pairs = []
    for first in range(0, len(names), 1024):
        near = torch.cdist(points[first : first + 1024], points) < _MAX_DIFFERENCE * _THUMBNAIL_SIDE
        rows, columns = near.triu(first + 1).nonzero()[: _MAX_PAIRS - len(pairs)].T.tolist()
        pairs += [[names[first + i], names[j]] for i, j in zip(rows, columns)]
        if len(pairs) == _MAX_PAIRS:
            break
    return pairs


def _shorten(lines: list[str]) -> list[str]:
    more = [f"... and {len(lines) - _MAX_SHOWN} more"] if len(lines) > _MAX_SHOWN else []
    return lines[:_MAX_SHOWN] + more


def _list_counts(counts: dict[str, int]) -> str:
    return ", ".join(_shorten([f"{name} ({count})" for name, count in counts.items()]))
