"""Open the subject of an evaluation and its reference from what a user types."""

import re
import shlex
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from limner.contract.bundled import bundled_folder, painters
from limner.contract.checkpoint import digest, digest_tensors, load, model_file, read_header
from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec
from limner.contract.model import GenerativeModel
from limner.data import Dataset, open_data
from limner.data.sources import has_address, source_types, splits_of
from limner.evaluate.picture_sets import RealPictures

_APPEARANCE_OPTIONS = ("size", "fit", "channels", "levels", "levels_by", "binarise", "memory")
_TRAIN, _TEST, _ALL = "train", "test", "all"
_MAX_REFERENCE = 50_000
# Most values of training pictures, if there are more than 50,000 of them.
_MAX_TRAINING_VALUES = 2**28
_BATCH_PICTURES = 64  # pictures that are read at a time
_TRAINING_OPTIONS = ("source", "split", "flip", "buckets")
_TRAINING_OPTIONS += ("label",)  # a judge may know classes that the model is not given


@dataclass(frozen=True)
class Candidate:
    """An opened subject: a model or pictures.

    Args:
        name: the name as it was typed.
        fingerprint: a hash of the model file or weights, or of the pictures.
        model: the model that paints; None for pictures.
        pictures: the existing pictures; None for a model.
        run: the folder of the run; None if the subject is not a run.
        images_seen: the number of images seen in training.
        recipe: the recipe of the training.
    """

    name: str
    fingerprint: str
    model: GenerativeModel | None = None
    pictures: Dataset | None = None
    run: Path | None = None
    images_seen: int = 0
    recipe: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def data(self) -> dict[str, Any]:
        """The recipe's section on the training data."""
        return self.recipe.get("data", {})


def open_subject(
    subject: str | Path | GenerativeModel | Dataset,
    looks: Mapping[str, Any],
    device: torch.device,
) -> Candidate:
    """Open a model or pictures.

    Args:
        subject: a bundled name, a run or model folder, a model file, a folder or zip archive of
            pictures; or a model or data set in memory.
        looks: options of the reference; its size and colours apply to a subject of pictures, too.
        device: the device of a model.

    Raises:
        LimnerError: the subject does not exist, or is neither a model nor pictures.
    """
    if isinstance(subject, GenerativeModel):
        return Candidate(
            subject.name or type(subject).__name__, _digest_of_weights(subject), subject
        )
    if isinstance(subject, Dataset):
        name = subject.source or "pictures"
        return Candidate(name, RealPictures(subject).fingerprint, pictures=subject)
    name = str(subject)
    if has_address(name):
        return _open_pictures(name, name, looks)
    if bundled_path := bundled_folder(name):
        return _open_model(name, bundled_path, device)
    check_exists(name)
    path = Path(name).expanduser()
    if path.suffix == ".safetensors" or (path.is_dir() and model_file(path).is_file()):
        return _open_model(name, path, device)
    if path.is_dir() and (path / "recipe.toml").is_file():
        raise LimnerError(
            f"{name} holds a run without a model yet; continue with: limner resume "
            f"{shlex.quote(name)}"
        )
    if path.is_dir() or path.suffix.lower() == ".zip":
        return _open_pictures(name, f"{'folder' if path.is_dir() else 'zip'}:{path}", looks)
    raise LimnerError(
        f"'{name}' is neither a model file nor a folder or zip archive of pictures; name one"
    )


def check_exists(name: str) -> None:
    """Check that a subject exists: a source, a bundled model, a file or a folder.

    Raises:
        LimnerError: it does not exist.
    """
    is_found = has_address(name) or bundled_folder(name) or Path(name).expanduser().exists()
    if not name or not is_found:
        raise LimnerError(f"there is no run, model file or folder of pictures '{name}'{painters()}")


def _open_model(name: str, path: Path, device: torch.device) -> Candidate:
    file = model_file(path)
    model, header = load(path, str(device)), read_header(file)
    if not isinstance(model, GenerativeModel):
        raise LimnerError(
            f"'{name}' paints nothing: its model is {model.name}; limner models lists generators"
        )
    run = path if (path / "recipe.toml").is_file() else None
    return Candidate(name, digest(file), model, None, run, header.images_seen, header.recipe)


def _digest_of_weights(model: GenerativeModel) -> str:
    return digest_tensors(model.state_dict(), repr(model.description()))


def _open_pictures(name: str, source: str, looks: Mapping[str, Any]) -> Candidate:
    """Open pictures, with their classes and captions if these can be read."""
    options = {key: value for key, value in looks.items() if key in _APPEARANCE_OPTIONS}
    try:
        data = open_data(source, split=_ALL, **options)
    except LimnerError:  # without labels and captions, any other error is raised again
        data = open_data(source, split=_ALL, labels=False, captions=False, **options)
    return Candidate(name, data.digest, pictures=data)


@dataclass(frozen=True)
class Reference:
    """The real pictures that a subject is judged against.

    Args:
        real: the reference.
        training: the pictures that models learn from; None if they are unknown.
        held_out: the pictures that models never see; None if there are none. The reference is
            `training` or `held_out`.
        options: the options of the source that are in effect.
    """

    real: RealPictures
    training: RealPictures | None
    held_out: RealPictures | None
    options: dict[str, Any] = field(default_factory=dict[str, Any])


def open_reference(
    against: str | Dataset | Reference | None,
    given: Mapping[str, Any],
    subject: Candidate,
    training: Dataset | None = None,
) -> Reference:
    """Open the reference, with the training split and the held-out split.

    Args:
        against: a source, as for `open_data`, or a data set; None for the source that the subject
            was trained on. A `Reference` is returned unchanged.
        given: options of the source. Without `split`, the split is "test" if there is one.
        subject: the subject; if its data have the same source, their options are the defaults.
        training: the pictures that models learn from, if `against` is a data set.

    Raises:
        LimnerError: see `open_data`; no source.
    """
    if isinstance(against, Reference):
        return against
    if isinstance(against, Dataset):
        real = RealPictures(against, _MAX_REFERENCE)
        if training is not None:
            return Reference(real, RealPictures(training), real)
        training_set = _training_pictures(real) if against.training else None
        return Reference(real, training_set, None if training_set else real)
    defaults = subject.data
    source: str | None = against or defaults.get("source")
    if source is None or (against is None and not source_types(source)):  # a data set in memory
        raise LimnerError(
            f"say which real pictures to judge {subject.name} by: --against emoji, mnist, "
            "folder:PATH, ..."
        )
    if "source" in given:
        raise LimnerError("leave data.source out; give the source with --against")
    options: dict[str, Any] = {}
    is_same = _domains(defaults.get("source", "")) == _domains(source)
    if is_same:
        options |= {k: v for k, v in defaults.items() if k not in _TRAINING_OPTIONS}
    options |= given
    if options.get("buckets"):
        raise LimnerError("pictures are judged in one size; leave data.buckets out")
    if is_same and splits_of(defaults) != {_TRAIN}:  # as with split=all, where nothing is held out
        recipe_data = {**options, **{k: defaults[k] for k in ("split",) if k in defaults}}
        recipe_pictures = _real_pictures(open_data(source, **recipe_data), source, recipe_data)
        options = {**recipe_data, **given}
        real = _real_pictures(open_data(source, **options), source, options)
        return Reference(real, _training_pictures(recipe_pictures), None, options)
    splits = _splits_of(source)
    if _TEST in splits and (options.get("holdout") or not _holds_out(source)):
        options.setdefault("split", _TEST)
    try:
        dataset = open_data(source, **options)
    except LimnerError as error:
        if against is not None or given:
            raise
        raise LimnerError(f"{error}; for data that moved, add --against SOURCE") from None
    real = _real_pictures(dataset, source, options)
    if not dataset.training:
        training_set = _open_split(source, options, _TRAIN)
        return Reference(real, training_set and _training_pictures(training_set), real, options)
    others = () if options.get("split") == _ALL else set(splits) - {_TRAIN, _ALL}
    held_out = next(
        filter(None, (_open_split(source, options, s) for s in splits if s in others)), None
    )
    if held_out and _TEST in splits and "split" not in options:  # a folder with train and test
        return Reference(held_out, _training_pictures(real), held_out, options | {"split": _TEST})
    return Reference(real, _training_pictures(real), held_out, options)


def _splits_of(source: str) -> tuple[str, ...]:
    """Return the splits that a kind of source has, or that the kinds of both domains have."""
    splits = [typing.get_args(typing.get_type_hints(t)["split"]) for t in source_types(source)]
    return tuple(split for split in splits[0] if all(split in s for s in splits)) if splits else ()


def _holds_out(source: str) -> bool:
    """Return whether the source holds out pictures only if `holdout` requests it."""
    return any(hasattr(kind, "holdout") for kind in source_types(source))


def _domains(source: str) -> str:
    """Return the domains of a source without "paired" or "unpaired".

    A model may learn from unpaired domains and be judged by the pairs.
    """
    return re.sub("^(un)?paired:", "", source)


def _open_split(source: str, options: Mapping[str, Any], split: str) -> RealPictures | None:
    """Open another split; None if it is empty or missing."""
    split_options = {**options, "split": split}
    try:
        return _real_pictures(open_data(source, **split_options), source, split_options)
    except LimnerError:
        return None


def _real_pictures(dataset: Dataset, source: str, options: Mapping[str, Any]) -> RealPictures:
    default = _TRAIN if dataset.training and "split=" not in source else ""
    name = f"{source} {options.get('split') or default}".strip()
    return RealPictures(dataset, _MAX_REFERENCE, name)


def _training_pictures(real: RealPictures) -> RealPictures:
    """Return all pictures that models learnt from, because any of them may have been copied.

    Of many large pictures, return as many as memory allows.
    """
    limit = max(_MAX_REFERENCE, _MAX_TRAINING_VALUES // real.spec.dimensions)
    return RealPictures(real.dataset, limit, real.name)


def check_varied(real: RealPictures) -> None:
    """Check that the real pictures are not all the same picture.

    Raises:
        LimnerError: all are the same picture.
    """
    first = real.pictures(torch.arange(1))
    others = torch.arange(1, len(real)).split(_BATCH_PICTURES)
    if len(real) > 1 and all(bool((real.pictures(numbers) == first).all()) for numbers in others):
        raise LimnerError(
            f"all {len(real):,} pictures of {real.name} are the same, so nothing can be judged by "
            "them; give other pictures"
        )


def check_alike(name: str, spec: ImageSpec, real: RealPictures, paints: bool) -> None:
    """Check that subject and reference have the same size, colours and number of levels.

    Args:
        name: the name of the subject.
        spec: the specification of its pictures.
        real: the reference.
        paints: whether the subject is a model.

    Raises:
        LimnerError: they differ; the message says which option removes the difference.
    """
    own, other = spec, real.spec
    verb = "paints" if paints else "has"
    note = "" if paints else ", which applies to both"
    if (own.height, own.width) != (other.height, other.width):
        size = f"{own.height}" if own.height == own.width else f"{own.height}x{own.width}"
        raise LimnerError(
            f"{name} {verb} pictures of {own.height} x {own.width}, and {real.name} has "
            f"{other.height} x {other.width}; give data.size={size}{note}"
        )
    if own.channels != other.channels:
        kinds = {1: "grey", 3: "RGB"}
        raise LimnerError(
            f"{name} {verb} {kinds.get(own.channels, f'{own.channels}-channel')} pictures, and "
            f"{real.name} has {kinds.get(other.channels, f'{other.channels}-channel')} ones; give "
            f"data.channels={own.channels if paints else 1}{note}"
        )
    if own.levels != other.levels:
        raise LimnerError(
            f"{name} {verb} pictures of {own.levels} levels, and {real.name} has {other.levels}; "
            f"give data.levels={own.levels}"
        )
