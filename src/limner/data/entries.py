"""What a source lists: an entry for each picture, before it is decoded."""

import math
from collections.abc import Callable, Iterable, Sequence, Set
from numbers import Real
from typing import NamedTuple, NoReturn

from limner.contract.errors import LimnerError
from limner.data.decode import Opener

Report = Callable[[str], None]
"""Called with a message about faulty data: `raise_error`, or a list of `limner data check`."""


def raise_error(message: str) -> NoReturn:
    """Raise the message: the `Report` for training, which needs valid data."""
    raise LimnerError(message)


class Entry(NamedTuple):
    """One picture before it is decoded.

    Args:
        name: name of the file, relative to the source.
        open: function that opens the file.
        label: name of its class.
        captions: its captions; one is drawn each time.
        tags: words that may replace or follow the caption, in any order.
        weight: relative sampling weight; None for once an epoch.
        group: name of the thing that it is a variant of.
    """

    name: str
    open: Opener
    label: str | None = None
    captions: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    weight: float | None = None
    group: str | None = None


class Listing(NamedTuple):
    """The contents of a source: the pictures of the split, the class names of all splits, and, with
    reasons, files that are not opened and files that are known to be broken.
    """

    entries: Sequence[Entry]
    labels: tuple[str, ...] = ()
    refused: Sequence[tuple[str, str]] = ()
    broken: Sequence[tuple[str, str]] = ()


def check_listing(listing: object, name: str) -> Listing:
    """Return what a source lists, if it is valid.

    Args:
        listing: the value that `Source.listing` returned.
        name: the name of the source's class.

    Raises:
        LimnerError: it is not a `Listing`, its entries are not a sequence of `Entry`, its labels
            are not a tuple, or its left-out files are not pairs of a name and a reason; or an entry
            has a part of another type, a class that is not one of the labels, or a weight that is
            not a number from 0 on; or only some of them have captions or a weight.
    """
    what = f"listing of {name}"
    if not isinstance(listing, Listing):
        raise LimnerError(f"{what} returns {type(listing).__name__}; return Listing(entries)")
    if not isinstance(listing.entries, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
        kind = type(listing.entries).__name__
        raise LimnerError(f"{what} has {kind} as entries; give a list")
    if not isinstance(listing.labels, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        kind = type(listing.labels).__name__
        raise LimnerError(f"{what} has {kind} as labels; give a tuple of texts, which may be empty")
    for part in ("refused", "broken"):
        for pair in getattr(listing, part):
            if not (isinstance(pair, tuple) and [*map(type, pair)] == [str, str]):  # pyright: ignore
                raise LimnerError(f"{what} has {pair!r} in {part}; give pairs, (name, reason)")
    labels = {*listing.labels}
    names: dict[tuple[str, bool], str] = {}  # (part, whether it is there) -> the last such entry
    for entry in listing.entries:
        if not isinstance(entry, Entry):  # pyright: ignore[reportUnnecessaryIsInstance]
            kind = type(entry).__name__
            raise LimnerError(f"{what} has {kind} among its entries; give Entry(name, open)")
        if not isinstance(entry.name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise LimnerError(f"{what} has an entry with the name {entry.name!r}; give a text")
        _check_entry(entry, labels, f"{what} has '{entry.name}'")
        names["captions", bool(entry.captions)] = entry.name
        names["weight", entry.weight is not None] = entry.name
    for part, text in {"captions": "captions", "weight": "a weight"}.items():
        if (part, True) in names and (part, False) in names:
            raise LimnerError(
                f"{what} has '{names[part, False]}' without {text}, and '{names[part, True]}' with "
                f"{text}; give {text} to all entries, or to none"
            )
    return listing


def _check_entry(entry: Entry, labels: Set[object], who: str) -> None:
    """Check the parts of an entry, except for its name.

    Raises:
        LimnerError: see `check_listing`.
    """
    label, weight = entry.label, entry.weight
    if not callable(entry.open):
        raise LimnerError(
            f"{who} with {type(entry.open).__name__} as open; give a function that opens the file, "
            "as partial(path.open, 'rb')"
        )
    if labels and not (isinstance(label, str) and label in labels):
        raise LimnerError(
            f"{who} with the class {label!r}; give one of its labels, which are texts, as in "
            "Listing(entries, labels=('cat', 'dog'))"
        )
    if label is not None and not labels:
        raise LimnerError(
            f"{who} with the class {label!r}, but no labels; give all of them, as in "
            "Listing(entries, labels=('cat', 'dog'))"
        )
    for part, texts in {"caption": entry.captions, "tag": entry.tags}.items():
        if not isinstance(texts, list | tuple):  # pyright: ignore[reportUnnecessaryIsInstance]
            kind = "one text" if isinstance(texts, str) else type(texts).__name__
            raise LimnerError(f"{who} with {kind} as {part}s; give a tuple of texts")
        for text in texts:
            if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise LimnerError(f"{who} with the {part} {text!r}; give a text")
    if not isinstance(entry.group, str | None):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise LimnerError(f"{who} with the group {entry.group!r}; give a text, or leave it out")
    is_number = isinstance(weight, Real) and 0 <= float(weight) < math.inf
    if weight is not None and not is_number:
        raise LimnerError(f"{who} with the weight {weight!r}; give a number from 0 on")
