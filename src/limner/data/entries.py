"""What a source lists: an entry for each picture, before it is decoded."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

from limner.contract.errors import LimnerError
from limner.data.decode import Opener

Report = Callable[[str], None]
"""Called with a message about faulty data; `stop` raises it, `limner data check` collects it."""


def stop(message: str) -> NoReturn:
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
        LimnerError: it is not a `Listing`, its entries are not a sequence, an entry has a class
            that is not one of the labels, or its captions are one text.
    """
    what = f"listing of {name}"
    if not isinstance(listing, Listing):
        raise LimnerError(f"{what} returns {type(listing).__name__}; return Listing(entries)")
    if not isinstance(listing.entries, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
        kind = type(listing.entries).__name__
        raise LimnerError(f"{what} has {kind} as entries; give a list")
    labels = {*listing.labels}
    for entry in listing.entries:
        if labels and not (isinstance(entry.label, str) and entry.label in labels):
            raise LimnerError(
                f"{what} has '{entry.name}' with the class {entry.label!r}; give one of its "
                "labels, which are texts, as in Listing(entries, labels=('cat', 'dog'))"
            )
        if isinstance(entry.captions, str):
            raise LimnerError(
                f"{what} has '{entry.name}' with one text as captions; give a tuple of texts"
            )
    return listing
