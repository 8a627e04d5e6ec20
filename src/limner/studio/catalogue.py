"""The catalogue of models: the bundled ones, and every run and pipeline below a folder.

Finding models does not need torch; describing them does. So the server finds them, a worker
describes them, and the descriptions are stored for the server's next start.
"""

import hashlib
import inspect
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limner.contract.errors import is_utf8
from limner.studio.background import log

if TYPE_CHECKING:
    from limner.contract.header import Header

FILE = "model.safetensors"
PIPELINE = "model_index.json"
_FIRST_MODEL = "emoji"  # as `limner.contract.bundled.DEFAULT`, whose import needs torch
_MAX_DEPTH = 4  # levels of folders below the root in which runs are searched
_MAX_MODELS = 200
_PROPORTIONS = ((3, 4), (4, 3), (2, 3), (3, 2), (9, 16), (16, 9))


def find_models(root: Path) -> dict[str, Path]:
    """Return the folders of models by the names that users type: the default, other bundled models,
    then runs, the newest first. A run replaces a bundled model of the same name.
    """
    zoo = Path(__file__).parent.parent / "zoo"
    folders = (path.parent for path in sorted(zoo.glob(f"*/{FILE}")))
    bundled = {
        path.name: path for path in sorted(folders, key=lambda path: path.name != _FIRST_MODEL)
    }
    runs = [
        folder
        for folder, names in walk_folders(root)
        if {FILE, PIPELINE} & {*names} and folder.resolve().parent != zoo.resolve()
    ]
    runs.sort(key=lambda run: -modification_time(_file(run)))
    trained = {str(run.relative_to(root)): run for run in runs[:_MAX_MODELS] if run != root}
    return bundled | trained


def walk_folders(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield the folders below a root that may contain models or reports, with their file names."""
    for folder, inner, names in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        is_leaf = depth >= _MAX_DEPTH or {FILE, PIPELINE} & {*names}
        inner[:] = (
            [] if is_leaf else sorted({*visible_folders(folder, inner)} - {*_SKIPPED_FOLDERS})
        )
        yield Path(folder), names


_SKIPPED_FOLDERS = ("node_modules", "site-packages", "state", "samples", "src")


def visible_folders(folder: str, inner: Iterable[str]) -> list[str]:
    """Return the subfolders to search: without hidden ones, and without those whose names are not
    UTF-8, which an answer cannot contain.
    """
    visible: list[str] = []
    for name in inner:
        if name.startswith((".", "__")):
            continue
        if is_utf8(name):
            visible.append(name)
        else:
            _warn_of(Path(folder, name))
    return visible


@cache
def _warn_of(folder: Path) -> None:
    """Log once that a folder is left out."""
    log.warning("%s is left out: its name is not UTF-8; rename it", os.fsencode(folder))


def _file(folder: Path) -> Path:
    """Return the file that marks a model's folder."""
    return folder / FILE if (folder / FILE).is_file() else folder / PIPELINE


def modification_time(file: Path) -> float:
    """Return the time of a file's last change, in seconds; 0 if it is gone, perhaps just now."""
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def matching_files(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a folder that match a pattern, sorted; none if the folder is gone."""
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def stamp(folder: Path) -> str:
    """Return a text that changes when a model's file does; empty if the file is gone."""
    try:
        status = _file(folder).stat()
    except OSError:
        return ""
    return f"{status.st_size}-{status.st_mtime_ns}"


def describe_model(name: str, folder: Path) -> dict[str, Any] | None:
    """Return the description of a model for clients; None for a model that does not paint.

    Raises:
        LimnerError: the file is damaged, or of a model that this version of limner does not know.
    """
    from safetensors import safe_open

    from limner.contract.abilities import Controlled
    from limner.contract.checkpoint import read_header, weight_files
    from limner.contract.model import GenerativeModel
    from limner.contract.options import names_a_file
    from limner.contract.packing import is_scale, weight_shape
    from limner.contract.registry import entry_of
    from limner.studio.tasks import tasks_of

    header = read_header(_file(folder))
    registered = entry_of(header.model, _file(folder))
    model = registered.model
    if not issubclass(model, GenerativeModel):
        return None
    schema = model.sample_schema(header.config)
    files = [option for option, field in schema["properties"].items() if names_a_file(field)]
    for option in files:  # only the command line may name files
        del schema["properties"][option]
    shapes: list[Sequence[int]] = []
    for path in weight_files(_file(folder)):
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118
                if not is_scale(key):
                    shapes.append(weight_shape(key, file.get_slice(key).get_shape()))
    spec, hint = header.spec, header.spec.hint
    defaults: Mapping[str, Any] = header.recipe.get("sampler", {})
    sizes = _sizes(header) if model.size_unit is not GenerativeModel.size_unit else []
    identity = {"model": header.model, "spec": spec.to_json(), "config": header.config}
    base = header.config.get("base") if issubclass(model, Controlled) else None
    return {
        "name": name,
        "kind": header.model,
        "family": registered.family,
        "summary": registered.summary,
        "paper": str(registered.paper),
        "bundled": folder.parent.name == "zoo",
        "parameters": sum(map(math.prod, shapes)),
        "images_seen": header.images_seen,
        "size": list(spec.shape),
        "sizes": sizes,
        "labels": list(spec.labels),
        "text": spec.text is not None,
        "reads": spec.text.asset if spec.text else "",
        "hint": list(hint.shape) if hint else None,
        "hint_kind": hint.domain if hint else "",
        "condition": model.condition,
        "built": _fingerprint(identity),
        "over": _fingerprint(base) if base else "",
        "schema": schema,
        "usual": {key: value for key, value in defaults.items() if key in schema["properties"]},
        "tasks": tasks_of(model, spec, header.config),
    }


def _sizes(header: "Header") -> list[str]:
    """Return the sizes that a client may choose, as HEIGHTxWIDTH: the model's own, and others with
    about as many pixels. Empty for a model with one size.
    """
    import torch

    from limner.contract.registry import build

    height, width = header.spec.shape[1:]
    with torch.device("meta"):
        unit = build(header.model, header.spec, **header.config).size_unit
    if not unit:
        return []
    sides = [(height, width)]
    for high, wide in _PROPORTIONS:
        scale = math.sqrt(height * width / (high * wide)) / unit
        sides.append((max(1, round(scale * high)) * unit, max(1, round(scale * wide)) * unit))
    return [f"{h}x{w}" for h, w in dict.fromkeys(sides)]


def _fingerprint(build: Mapping[str, Any]) -> str:
    """Return a hash that is equal for models built in the same way, whatever their weights."""
    plain = json.loads(json.dumps(build), parse_int=float)  # an option may be stored as 3 or 3.0
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def trainable_models() -> list[dict[str, Any]]:
    """Return the models that can be trained on pictures alone, without another model and without a
    second picture.
    """
    from limner.contract.model import GenerativeModel
    from limner.contract.registry import models

    return [
        {
            "name": name,
            "family": entry.family,
            "summary": entry.summary,
            "paper": str(entry.paper),
            "takes": [*entry.model.takes],
        }
        for name, entry in models().items()
        if issubclass(entry.model, GenerativeModel)
        and entry.model.condition == "optional"
        and not _needs_a_model(entry.model)
    ]


def training_options() -> dict[str, dict[str, list[str]]]:
    """Return the names of the options of training: for each section of a recipe, by what they
    belong to, which is a model, a kind of data source, or "" for training itself.
    """
    from limner.contract.model import GenerativeModel
    from limner.contract.options import option_names
    from limner.contract.registry import models
    from limner.data.sources import NON_OPTION_FIELDS, source_kinds
    from limner.training.options import TrainOptions

    trainable = {model["name"]: models()[model["name"]].model for model in trainable_models()}
    return {
        "model": {
            name: [option for option in option_names(model) if option != "spec"]
            for name, model in trainable.items()
        },
        "data": {
            name: [option for option in option_names(kind) if option not in NON_OPTION_FIELDS]
            for name, kind in source_kinds().items()
        },
        "train": {"": option_names(TrainOptions)},
        "sampler": {
            name: [*model.sample_schema()["properties"]]
            for name, model in trainable.items()
            if issubclass(model, GenerativeModel)
        },
    }


def _needs_a_model(model: type) -> bool:
    """Whether a model's constructor requires another model."""
    parameters = [*inspect.signature(model).parameters.values()][1:]
    return any(p.default is p.empty and p.kind is not p.VAR_KEYWORD for p in parameters)
