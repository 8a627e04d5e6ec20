"""All kinds of sources by name, and `open_data`, which opens any of them.

A package of your own adds a kind with the decorator `source`.
"""

import re
import shlex
import string
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from limner.contract.errors import LimnerError, unknown
from limner.contract.names import check_new_name, check_no_section, is_again, registry_table
from limner.contract.options import parse_value, validate_options
from limner.contract.registry import import_packages
from limner.data.buckets import open_buckets
from limner.data.dataset import Dataset
from limner.data.emoji import Emoji
from limner.data.folder import Folder, Zip
from limner.data.hub import Hub
from limner.data.instructions import Instructions
from limner.data.mixed import MixedSources, read_weights
from limner.data.pictures import Listing, Source, decode_pictures, raise_error
from limner.data.scenes import Scenes
from limner.data.sharded import Sharded
from limner.data.standard_sets import Cifar10, ColouredMnist, FashionMnist, Mnist, StackedMnist
from limner.data.tars import Tars
from limner.data.two_domains import Paired, Unpaired, pairs_of

_SourceClass = TypeVar("_SourceClass", bound=type[Source])
_kinds: dict[str, type[Source]] = registry_table(
    {
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
        "wds": Tars,
        "hf": Hub,
    }
)
_addresses = {"folder": "PATH", "zip": "PATH", "wds": "PATTERN.tar", "hf": "NAME_OR_PATH"}
_PATH_SOURCES = ("folder", "zip")
PAIRS = {"unpaired": Unpaired, "paired": Paired}
"""Name -> kind of source with two domains."""
_MIXED = "mixed"
_TRAINING_SPLITS = {"train", "all"}
_DOMAIN_PREFIXES = ("a.", "b.")
_DIRECTIONS = ("AtoB", "BtoA")
NON_OPTION_FIELDS = ("address", "held_out_as")
"""Fields of sources that are not options."""


def source(name: str, *, address: str = "") -> Callable[[_SourceClass], _SourceClass]:
    """Register a kind of source under the name with which it is typed.

    Args:
        name: the name in lower case, words joined by hyphens.
        address: what is typed after the name and a colon, as PATH in folder:PATH; empty if nothing
            is.

    Raises:
        LimnerError: another kind or a recipe's section has the name, or the class is not a data
            class of `Source` with the method `listing`, whose field `split` is a `Literal`.
    """
    check_new_name(name, "data source")
    check_no_section(name, "data source")

    def register_class(kind: _SourceClass) -> _SourceClass:
        if not isinstance(kind, type) or not issubclass(kind, Source):  # pyright: ignore
            raise LimnerError(
                f"{getattr(kind, '__name__', kind)} is not a source; write @source above a class "
                "with limner.data.pictures.Source as its base"
            )
        known = PAIRS.get(name) or _kinds.get(name)
        if name == _MIXED or (known and not is_again(kind, known)):
            raise LimnerError(f"the data source name '{name}' is taken; choose another")
        if "__dataclass_fields__" not in vars(kind):
            raise LimnerError(
                f"{kind.__name__} is not a data class; write @dataclass(frozen=True, kw_only=True) "
                "below @source"
            )
        if not typing.get_args(typing.get_type_hints(kind)["split"]):
            raise LimnerError(
                f"{kind.__name__} does not name its splits; write "
                "split: Literal['train', 'test', 'all'] = 'train'"
            )
        if kind.__abstractmethods__:
            raise LimnerError(
                f"{kind.__name__} has no method listing; write def listing(self, report)"
            )
        _kinds[name] = kind
        _addresses.pop(name, None)
        if address:
            _addresses[name] = address
        return kind

    return register_class


def source_kinds() -> dict[str, type[Source]]:
    """Return all kinds of sources by name, also those of installed packages; the fields of a kind
    are its options."""
    import_packages()
    return dict(_kinds)


def has_address(typed: str) -> bool:
    """Whether a source of pictures is typed with its address, as in folder:PATH."""
    kind, colon, _ = typed.partition(":")
    return bool(colon) and _forms().get(kind, kind) != kind


def _forms() -> dict[str, str]:
    """Return the form in which each source is typed, by name."""
    names = {kind: _addresses.get(kind) for kind in source_kinds()}
    return {kind: f"{kind}:{address}" if address else kind for kind, address in names.items()}


def find_source(typed: str, options: dict[str, Any]) -> Source:
    """Return the source that was typed, with checked options.

    Raises:
        LimnerError: there is no such source, or it does not have an option; or a URL was typed.
    """
    kind, address, typed_options = _parse(typed)
    if "://" in typed:
        name = "/".join(address.rstrip("/").split("/")[-2:])
        remedies = {
            "hf": f"type hf:{name}",
            "wds": "download or mount the shards and give their path",
        }
        remedy = remedies.get(kind, "download the pictures and type folder:PATH or zip:PATH")
        raise LimnerError(f"'{typed}' is a URL; {remedy}")
    forms = _forms()
    if kind not in forms:
        choices = [*forms.values(), *(f"{p}:A,B" for p in (*PAIRS, _MIXED))]
        folder = shlex.quote(f"folder:{typed}")
        hint = f"for a folder, type {folder}" if Path(typed).is_dir() else ""
        raise unknown("data source", typed, choices, hint)
    if (forms[kind] == kind) == bool(address):
        raise LimnerError(f"data source '{typed}' has a wrong form; type {forms[kind]}")
    source_type = _kinds[kind]
    all_options = typed_options | options
    values = validate_options(
        source_type,
        all_options,
        kind="data option",
        prefix="data.",
        skip=NON_OPTION_FIELDS,
        hint=f"limner options {kind}",
    )
    return source_type(address=address, **values)


def source_types(source: str) -> list[type[Source]]:
    """Return the kind of a source, or the kinds of its parts, without unknown ones."""
    kinds = [part.partition(":")[0] for part in parts_of(source)]
    known = source_kinds()
    return [known[name] for name in kinds if name in known]


def has_option(source: str, name: str) -> bool:
    """Return whether a source, or a part of a pair or mixture, has an option of this name.

    An unknown source has all, because opening it says what is wrong.
    """
    kind, types = source.partition(":")[0], source_types(source)
    if kind in PAIRS or kind == _MIXED:
        parts = string.ascii_lowercase[: len(parts_of(source))]
        if name in (*parts, "weights" if kind == _MIXED else "direction"):
            return True
    return not types or any(name in t.__dataclass_fields__ for t in types)


def one_source(source: str | Path | Sequence[str]) -> str:
    """Return a source in its typed form: `folder:` or `zip:` for a Path, `mixed:` for a list.

    The list may also come from a typed pair, split at its comma; then the pair is joined again.
    """
    if isinstance(source, str):
        return source
    if isinstance(source, Path):
        return f"{'zip' if source.suffix.lower() == '.zip' else 'folder'}:{source}"
    typed = ",".join(source)
    has_kind = typed.partition(":")[0] in (*PAIRS, _MIXED)
    return typed if has_kind else f"{_MIXED}:{typed}"


def parts_of(source: str) -> list[str]:
    """Return the sources of a pair or mixture, or the source itself."""
    kind, _, rest = source.partition(":")
    return _split(rest) if kind in (*PAIRS, _MIXED) else [source]


def held_out_options(source: str) -> dict[str, str]:
    """Return the options for a split that training does not see; empty if there is none."""
    kind, options = source.partition(":")[0], dict[str, str]()
    if kind in PAIRS:
        return {}
    for letter, source_type in zip(string.ascii_lowercase, source_types(source)):
        splits = typing.get_args(typing.get_type_hints(source_type)["split"])
        held_out = [split for split in splits if split not in _TRAINING_SPLITS]
        if not held_out:
            return {}
        options[f"{letter}.split" if kind == _MIXED else "split"] = held_out[0]
    return options


def splits_of(data: Mapping[str, Any]) -> set[str]:
    """Return the splits of all parts of a recipe's section [data].

    A split is an option of one part, of all parts, or in the source as it is typed.
    """
    options = flat_options(data)
    shared = {"split": options["split"]} if "split" in options else {}
    splits = set[str]()
    for letter, part in zip(string.ascii_lowercase, parts_of(one_source(options["source"]))):
        part_options = _parse(part)[2] | shared
        splits.add(options.get(f"{letter}.split", part_options.get("split", "train")))
    return splits


def _split(parts: str) -> list[str]:
    kinds = "|".join(map(re.escape, source_kinds()))
    return re.split(rf",(?=(?:{kinds})(?:[:,]|$))", parts)


def _parse(source: str) -> tuple[str, str, dict[str, Any]]:
    """Return kind, address and options; `emoji:style=flat,people=1` has two options."""
    kind, _, rest = source.partition(":")
    if _forms().get(kind) != kind or "=" not in rest:
        return kind, rest, {}
    pairs = [part.partition("=") for part in rest.split(",")]
    return kind, "", {name.strip(): parse_value(value) for name, _, value in pairs}


def open_data(source: str | Path | Sequence[str], **options: Any) -> Dataset:
    """Open a data set.

    Args:
        source: `emoji`, `scenes`, `instructions`, `mnist`, `coloured-mnist`, `stacked-mnist`,
            `fashion-mnist`, `cifar10`, `folder:PATH`, `zip:PATH`, `wds:PATTERN.tar` or
            `hf:NAME_OR_PATH`, with options as in `emoji:style=flat`. Or `unpaired:A,B` or
            `paired:A,B` with two of these, or with one folder or archive that contains two domains.
            Or `mixed:A,B,...` or a list of several. A Path is a folder or a zip archive.
        options: the fields of the source's class in `source_kinds()`; all have split, size, fit,
            load_size, half, channels, levels, binarise, flip, memory, broken, hint and reduction.
            With two domains, "a.NAME" and "b.NAME" are options of one domain, and other options are
            for both; direction="BtoA" exchanges the domains. In a mixture there are also "c.NAME"
            and so on, other options are for all sources that have them, and weights=[...] gives the
            share of each source.

    Raises:
        LimnerError: there is no such source or option, or the data are missing, broken or do not
            fit together.
    """
    source = one_source(source)
    options = flat_options(options)
    kind = source.partition(":")[0]
    if kind == _MIXED:
        return _open_mixed(source, options)
    if kind not in PAIRS:
        return open_one(find_source(source, options), source)
    if options.get("hint"):
        raise LimnerError(
            f"in {kind}:A,B the pictures of A are the conditioning images; leave data.hint out"
        )
    direction = options.pop("direction", _DIRECTIONS[0])
    if direction not in _DIRECTIONS:
        raise LimnerError(f"data.direction={direction}: give {' or '.join(_DIRECTIONS)}")
    parts = parts_of_pair(source, options)
    datasets: list[Dataset] = []
    names: list[str] = []
    sources = [find_source(part, part_options) for part, part_options in parts]
    if kind == "paired":
        sources[0] = _with_counterparts(*sources)
    for part_source, (part, _), part_options in zip(sources, parts, _of_sides(options)):
        datasets.append(open_one(part_source, part))
        names.append(_domain_name(part, part_options))
    _check_one_size(datasets, source)
    if names[0] == names[1]:
        names = ["", ""]
    for data, name in zip(datasets, names):
        data.spec = replace(data.spec, domain=name)
    a, b = datasets if direction == _DIRECTIONS[0] else reversed(datasets)
    return PAIRS[kind](a, b, source)


def open_one(source: Source, typed: str, listing: Listing | None = None) -> Dataset:
    """Open a source that is neither a pair nor a mixture, or a listing of its files.

    Raises:
        LimnerError: see `open_data`.
    """
    if source.buckets and source.split in _TRAINING_SPLITS:
        data = open_buckets(source, typed, listing)
    else:
        data = decode_pictures(source, typed, listing) if listing else source.open(typed)
    if source.hint is not None and data.spec.hint is None:
        data.compute_hints(source.hint, source.reduction)
    return data


def _with_counterparts(a: Source, b: Source) -> Source:
    """Return domain A of pairs, with a picture held out if its counterpart in B is."""
    if not (isinstance(a, Folder | Sharded) and isinstance(b, Folder | Sharded)):
        return a
    if not (a.holdout and b.holdout):
        return a
    sources = (replace(d, split="all", labels=False, captions=False) for d in (a, b))
    names_a, names_b = ([entry.name for entry in d.listing(raise_error).entries] for d in sources)
    counterparts = {names_a[j]: names_b[i] for i, j in pairs_of(names_a, names_b)}
    return replace(a, held_out_as=counterparts)


def flat_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten the options of parts, which are sections in recipes, to "a.NAME"."""
    flat = dict[str, Any]()
    for name, value in options.items():
        nested = isinstance(value, Mapping)
        flat |= {f"{name}.{key}": v for key, v in value.items()} if nested else {name: value}
    return flat


def _open_mixed(source: str, options: dict[str, Any]) -> Dataset:
    """Open a mixture of sources; for errors, see `open_data`."""
    weights = options.pop("weights", None)
    parts = parts_of_mixture(source, options)
    shares = read_weights(weights, len(parts))
    datasets = [open_data(name, **part_options) for name, part_options in parts]
    _check_one_size(datasets, source)
    return MixedSources(datasets, [name for name, _ in parts], source, shares)


def _check_one_size(parts: Sequence[Dataset], typed: str) -> None:
    """Check that each part has pictures of one size.

    Raises:
        LimnerError: a part has several sizes.
    """
    if any(part.sizes for part in parts):
        raise LimnerError(f"the pictures of {typed} must have one size; leave data.buckets out")


def is_mixture(source: str) -> bool:
    """Whether a source is a mixture, `mixed:A,B,...`."""
    return source.partition(":")[0] == _MIXED


def parts_of_mixture(source: str, options: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the sources of a mixture, each with the options that it has.

    Raises:
        LimnerError: no source has an option, there are no sources, or more sources than letters.
    """
    names = parts_of(source)
    if not all(names):
        raise LimnerError(
            f"data source '{source}' has a wrong form; type {_MIXED}:A,B with sources A, B"
        )
    if len(names) > len(string.ascii_lowercase):
        raise LimnerError(
            f"a mixture has at most {len(string.ascii_lowercase)} sources, not {len(names)}; put "
            "pictures of several sources into one folder"
        )
    letters = string.ascii_lowercase[: len(names)]
    prefixed = {n: v for n, v in options.items() if n[1:2] == "." and n[0] in letters}
    shared = {n: v for n, v in options.items() if n not in prefixed}
    field_sets = [{field.name for field in fields(kind)} for kind in source_types(source)]
    for name in shared:
        if field_sets and not any(name in field_set for field_set in field_sets):
            choices = (
                f"data.{option}"
                for option in {*set.union(*field_sets), "weights"} - {*NON_OPTION_FIELDS}
            )
            raise unknown("data option", f"data.{name}", choices)
    parts = list[tuple[str, dict[str, Any]]]()
    for letter, name in zip(letters, names):
        kind = source_kinds().get(name.partition(":")[0])
        part_options = {
            n: v for n, v in shared.items() if kind is None or n in kind.__dataclass_fields__
        }
        part_options |= {n[2:]: v for n, v in prefixed.items() if n[0] == letter}
        parts.append((name, part_options))
    return parts


def parts_of_pair(source: str, options: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the two sources of a pair, each with all its options."""
    shared = {name: value for name, value in options.items() if name[:2] not in _DOMAIN_PREFIXES}
    parts = domains(source, shared)
    return [
        (part, shared | domain | side) for (part, domain), side in zip(parts, _of_sides(options))
    ]


def _of_sides(options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the options of each domain alone."""
    return [{n[2:]: v for n, v in options.items() if n[:2] == side} for side in _DOMAIN_PREFIXES]


def domains(source: str, options: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the two sources of a pair, each with the options that select one domain."""
    kind, _, pair = source.partition(":")
    parts = _split(pair)
    if len(parts) == 1 and parts[0].partition(":")[0] in _PATH_SOURCES:
        selection = {name: options[name] for name in ("split", "holdout") if name in options}
        folder = find_source(parts[0], {**selection, "holdout": 0.0})
        assert isinstance(folder, Folder)
        if any("trainA" in PurePosixPath(name).parts for name in folder.files().names):
            return [(parts[0], {"domain": "A"}), (parts[0], {"domain": "B"})]
        if kind == "paired":
            return [(parts[0], {"half": "left"}), (parts[0], {"half": "right"})]
        raise LimnerError(
            f"'{parts[0]}' has no folders trainA and trainB; make them, or give two sources, as in "
            "unpaired:folder:PATH,folder:PATH"
        )
    if len(parts) != 2:
        raise LimnerError(
            f"data source '{source}' has a wrong form; type {kind}:A,B with two of "
            f"{', '.join(_forms().values())}"
        )
    return [(part, {}) for part in parts]


def _domain_name(part: str, options: Mapping[str, Any]) -> str:
    """Return the name of a domain: its own options, its folder, or its kind."""
    kind, address, typed_options = _parse(part)
    values = [value for value in (typed_options | dict(options)).values() if isinstance(value, str)]
    return " ".join(values) or PurePosixPath(address).stem or kind
