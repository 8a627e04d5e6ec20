"""Every kind of source by its name, and the one way to open any: `open_data`."""

import re
from typing import Any

from limner.contract.errors import LimnerError, unknown
from limner.contract.options import validated
from limner.data.dataset import Dataset
from limner.data.emoji import Emoji
from limner.data.folder import Folder, Zip
from limner.data.named import Cifar10, FashionMnist, Mnist, StackedMnist
from limner.data.pictures import Source
from limner.data.scenes import Scenes
from limner.data.unpaired import Unpaired

SOURCES: dict[str, type[Source]] = {
    "emoji": Emoji,
    "scenes": Scenes,
    "mnist": Mnist,
    "stacked-mnist": StackedMnist,
    "fashion-mnist": FashionMnist,
    "cifar10": Cifar10,
    "folder": Folder,
    "zip": Zip,
}
"""The kinds of source; the fields of each are its options."""
FORMS = {kind: f"{kind}:PATH" if kind in ("folder", "zip") else kind for kind in SOURCES}
"""How each kind is typed."""


def find_source(typed: str, options: dict[str, Any]) -> Source:
    """The source that was typed, with its options checked.

    Raises:
        LimnerError: no such source, or an option that it does not have.
    """
    kind, _, address = typed.partition(":")
    if kind not in SOURCES:
        raise unknown("data source", typed, [*FORMS.values(), "unpaired:A,B"])
    if (FORMS[kind] == kind) == bool(address):
        raise LimnerError(f"data source '{typed}' is to be written {FORMS[kind]}")
    known = SOURCES[kind]
    values = validated(known, options, kind="data option", prefix="data.", skip=("address",))
    return known(address=address, **values)


def open_data(source: str, **options: Any) -> Dataset:
    """Open a data set.

    Args:
        source: `emoji`, `scenes`, `mnist`, `stacked-mnist`, `fashion-mnist`, `cifar10`,
            `folder:PATH`, `zip:PATH`, or `unpaired:A,B` of two of these.
        options: the fields of the source's class in `SOURCES`; all have split, size, fit, channels,
            levels, binarise, flip and memory. Of `unpaired`, "a.NAME" and "b.NAME" are options of
            one of the two, and the others of both.

    Raises:
        LimnerError: no such source or option; data that are missing, broken or do not fit together.
    """
    kind, _, pair = source.partition(":")
    if kind != "unpaired":
        return find_source(source, options).open(source)
    parts = re.split(rf",(?=(?:{'|'.join(SOURCES)})(?::|$))", pair)
    if len(parts) != 2:
        raise LimnerError(
            f"data source '{source}' is to be written unpaired:A,B with two of "
            f"{', '.join(FORMS.values())}"
        )
    shared = {name: value for name, value in options.items() if name[:2] not in ("a.", "b.")}
    a, b = (
        open_data(part, **shared | {n[2:]: v for n, v in options.items() if n[:2] == side})
        for side, part in zip(("a.", "b."), parts)
    )
    return Unpaired(a, b, source)
