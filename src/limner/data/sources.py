"""Every kind of source by its name, and the one way to open any: `open_data`."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from limner.contract.errors import LimnerError, unknown
from limner.contract.options import parse_value, validated
from limner.data.dataset import Dataset
from limner.data.emoji import Emoji
from limner.data.folder import Folder, Zip
from limner.data.instructions import Instructions
from limner.data.named import Cifar10, ColouredMnist, FashionMnist, Mnist, StackedMnist
from limner.data.pictures import Source
from limner.data.scenes import Scenes
from limner.data.unpaired import Paired, Unpaired

SOURCES: dict[str, type[Source]] = {
    "emoji": Emoji,
    "scenes": Scenes,
    "instructions": Instructions,
    "mnist": Mnist,
    "coloured-mnist": ColouredMnist,
    "stacked-mnist": StackedMnist,
    "fashion-mnist": FashionMnist,
    "cifar10": Cifar10,
    "folder": Folder,
    "zip": Zip,
}
"""The kinds of source; the fields of each are its options."""
_PATHS = ("folder", "zip")
FORMS = {kind: f"{kind}:PATH" if kind in _PATHS else kind for kind in SOURCES}
"""How each kind is typed."""


PAIRS = {"unpaired": Unpaired, "paired": Paired}
"""Kinds of sources that are two domains."""
_SIDES = ("a.", "b.")
_DIRECTIONS = ("AtoB", "BtoA")


def find_source(typed: str, options: dict[str, Any]) -> Source:
    """The source that was typed, with its options checked.

    Raises:
        LimnerError: no such source, or an option that it does not have.
    """
    kind, address, own = _parse(typed)
    if kind not in SOURCES:
        raise unknown("data source", typed, [*FORMS.values(), *(f"{p}:A,B" for p in PAIRS)])
    if (FORMS[kind] == kind) == bool(address):
        raise LimnerError(f"data source '{typed}' is to be written {FORMS[kind]}")
    known = SOURCES[kind]
    given = own | options
    values = validated(known, given, kind="data option", prefix="data.", skip=("address",))
    return known(address=address, **values)


def source_types(source: str) -> list[type[Source]]:
    """The kind of a source, or the kinds of its two domains; none where there is no such kind."""
    kind, _, pair = source.partition(":")
    kinds = [part.partition(":")[0] for part in (_split(pair) if kind in PAIRS else [source])]
    return [SOURCES[name] for name in kinds if name in SOURCES]


def _split(pair: str) -> list[str]:
    return re.split(rf",(?=(?:{'|'.join(SOURCES)})(?::|$))", pair)


def _parse(source: str) -> tuple[str, str, dict[str, Any]]:
    """Kind, address, and options: `emoji:style=flat,people=1` has no address but two of these."""
    kind, _, rest = source.partition(":")
    if FORMS.get(kind) != kind or "=" not in rest:
        return kind, rest, {}
    pairs = [part.partition("=") for part in rest.split(",")]
    return kind, "", {name.strip(): parse_value(value) for name, _, value in pairs}


def open_data(source: str, **options: Any) -> Dataset:
    """Open a data set.

    Args:
        source: `emoji`, `scenes`, `instructions`, `mnist`, `coloured-mnist`, `stacked-mnist`,
            `fashion-mnist`, `cifar10`, `folder:PATH`, `zip:PATH`; options may follow, as in
            `emoji:style=flat`; or `unpaired:A,B` or `paired:A,B` of two of these, or of one folder
            or archive that holds two domains.
        options: the fields of the source's class in `SOURCES`; all have split, size, fit,
            load_size, half, channels, levels, binarise, flip, memory, hint and reduction. Of two
            domains, "a.NAME" and "b.NAME" are options of one of the two, and the others of both;
            direction="BtoA" exchanges them.

    Raises:
        LimnerError: no such source or option; data that are missing, broken or do not fit together.
    """
    kind = source.partition(":")[0]
    if kind not in PAIRS:
        found = find_source(source, options)
        data = found.open(source)
        if found.hint is not None and data.spec.hint is None:
            data.compute_hints(found.hint, found.reduction)
        return data
    if options.get("hint"):
        raise LimnerError(
            f"of {kind}:A,B the pictures of A are the conditioning images; leave data.hint out"
        )
    direction = options.pop("direction", _DIRECTIONS[0])
    if direction not in _DIRECTIONS:
        raise LimnerError(f"data.direction={direction}: give {' or '.join(_DIRECTIONS)}")
    shared = {name: value for name, value in options.items() if name[:2] not in _SIDES}
    of_sides = [{n[2:]: v for n, v in options.items() if n[:2] == side} for side in _SIDES]
    parts = domains(source, shared)
    opened: list[Dataset] = []
    names: list[str] = []
    for (part, own), given in zip(parts, of_sides):
        opened.append(open_data(part, **shared | own | given))
        names.append(_domain_name(part, given))
    if names[0] == names[1]:
        names = ["", ""]
    for data, name in zip(opened, names):
        data.spec = replace(data.spec, domain=name)
    a, b = opened if direction == _DIRECTIONS[0] else reversed(opened)
    return PAIRS[kind](a, b, source)


def domains(source: str, options: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The two sources of a pair, each with the options by which it is one domain."""
    kind, _, pair = source.partition(":")
    parts = _split(pair)
    if len(parts) == 1 and parts[0].partition(":")[0] in _PATHS:
        known = {name: options[name] for name in ("split", "holdout") if name in options}
        of_both = find_source(parts[0], {**known, "holdout": 0.0})
        assert isinstance(of_both, Folder)
        if any("trainA" in PurePosixPath(name).parts for name in of_both.files().names):
            return [(parts[0], {"domain": "A"}), (parts[0], {"domain": "B"})]
        if kind == "paired":
            return [(parts[0], {"half": "left"}), (parts[0], {"half": "right"})]
        raise LimnerError(
            f"'{parts[0]}' has no folders trainA and trainB; make them, or give two sources, as in "
            "unpaired:folder:PATH,folder:PATH"
        )
    if len(parts) != 2:
        raise LimnerError(
            f"data source '{source}' is to be written {kind}:A,B with two of "
            f"{', '.join(FORMS.values())}"
        )
    return [(part, {}) for part in parts]


def _domain_name(part: str, given: Mapping[str, Any]) -> str:
    """What one of two domains is called: the options that are its own, its folder, or its kind."""
    kind, address, own = _parse(part)
    values = [value for value in (own | dict(given)).values() if isinstance(value, str)]
    return " ".join(values) or PurePosixPath(address).stem or kind
