"""The bundled models: a folder each, with `model.safetensors` and a card with measured numbers.

Some paint, others are judges, see `limner.evaluate.extractors.choose`.
"""

import difflib
import functools
import shlex
from importlib.resources import files
from pathlib import Path
from typing import Any

from limner.contract import checkpoint
from limner.contract.abilities import FirstStage, Translates
from limner.contract.checkpoint import MODEL_FILE, digest, model_file, read_header, sha256
from limner.contract.editing import Follows
from limner.contract.errors import LimnerError
from limner.contract.model import GenerativeModel, Learner
from limner.contract.registry import entry, models
from limner.contract.upscaling import Upscales

DEFAULT = "emoji"
"""The model that paints when no model is named."""
COMPOSER = "scenes-best"
"""The model that composes several things, with their colours, numbers and places."""
QUICK_COMPOSER = "scenes"
"""The base of `COMPOSER`: less exact, but faster, and of any size."""
AVERAGE_FILE = "average.safetensors"
"""The file of a training state with its averaged weights."""
_PIPELINE_FILE = "model_index.json"  # the file that marks a diffusers folder


def bundled_models() -> dict[str, Path]:
    """Return the folders of the bundled models, by name."""
    folder = Path(str(files("limner") / "zoo"))
    return {file.parent.name: file.parent for file in sorted(folder.glob(f"*/{MODEL_FILE}"))}


def bundled_folder(name: str) -> Path | None:
    """Return the folder of a bundled model; None if there is none, or if a folder here has its name
    and holds a model."""
    is_local = any((Path(name) / file).is_file() for file in (MODEL_FILE, _PIPELINE_FILE))
    return None if is_local else bundled_models().get(name)


def can_paint(folder: Path) -> bool:
    """Return whether a bundled model paints without a picture as input."""
    header = read_header(folder / MODEL_FILE)
    model = entry(header.model).model
    needs_picture = header.spec.hint is not None and getattr(model, "condition", "") == "required"
    needs_input = needs_picture or issubclass(model, Follows | FirstStage)
    return issubclass(model, GenerativeModel) and not needs_input


def bundled_names_with(ability: type) -> list[str]:
    """Return the names of the bundled models that have an ability."""
    items = {name: entry(_model_of(folder)) for name, folder in bundled_models().items()}
    return [name for name, item in items.items() if issubclass(item.model, ability)]


def bundled_names_of(model: str) -> list[str]:
    """Return the names of the bundled models of a registered model; one with the same name is
    first."""
    names = [name for name, folder in bundled_models().items() if _model_of(folder) == model]
    return sorted(names, key=lambda name: name != model)


@functools.cache
def _model_of(folder: Path) -> str:
    """Return the registered model of a bundled one, whose file does not change."""
    return read_header(folder / MODEL_FILE).model


def painters() -> str:
    """Return the bundled models for a message, as "; bundled are: ...", or "" if none paints.

    Models that need a picture are listed after the others.
    """
    groups = [", ".join(name for name, folder in bundled_models().items() if can_paint(folder))]
    abilities = {"translators": Translates, "to change pictures": Follows, "to enlarge": Upscales}
    for use, ability in abilities.items():
        if names := bundled_names_with(ability):
            groups.append(f"{use}: {', '.join(names)}")
    return f"; bundled are: {'; '.join(groups)}" if groups[0] else ""


def find_model(name: str | None) -> Path:
    """Return the path of a model to paint with: a run or model folder, a model file or a bundled
    model.

    Without a name it is the default model; the name of a registered model means a bundled one of
    it.

    Raises:
        LimnerError: there is no such model, or a folder holds none.
    """
    folders = bundled_models()
    if name is None:
        return folders[DEFAULT]
    if folder := bundled_folder(name):
        return folder
    if not name or not Path(name).exists():
        if name in models():
            if names := bundled_names_of(name):
                return folders[names[0]]
            raise LimnerError(
                f"no {name} model is bundled; train one, as limner models {name} shows, and give "
                f"its run with -m{painters()}"
            )
        close = difflib.get_close_matches(name, folders, n=1, cutoff=0.75)
        advice = f"; did you mean '{close[0]}'?" if close else painters()
        raise LimnerError(f"there is no run, model folder or model file '{name}'{advice}")
    path = Path(name)
    if path.is_dir() and not model_file(path).is_file():
        if (path / "recipe.toml").is_file():
            raise LimnerError(
                f"{name} holds a run without a model yet; continue with: limner resume "
                f"{shlex.quote(name)}"
            )
        raise LimnerError(f"the folder {name} holds no model; give the folder of a run{painters()}")
    return path


def load(name: Path | str, device: str = "cpu") -> Learner:
    """Load a trained model, in evaluation mode.

    Args:
        name: a run or model folder, a model file or a bundled model, as for `find_model`.
        device: where to load it to.

    Raises:
        LimnerError: there is no such model; or as for `limner.contract.checkpoint.load`.
    """
    return checkpoint.load(find_model(str(name)), device)


def painting_options(name: Path | str) -> dict[str, Any]:
    """Return the sampling options of a trained model's recipe, with which the command line paints.

    Args:
        name: as for `load`.

    Raises:
        LimnerError: there is no such model, or its file is damaged.
    """
    return dict(read_header(model_file(find_model(str(name)))).recipe.get("sampler", {}))


def model_digest(name: str) -> str:
    """Return a hash of a trained model, or of the averaged weights of a training state, that is
    named as in `options.RunName`.

    Raises:
        LimnerError: there is no such model.
    """
    state = Path(name) / AVERAGE_FILE
    return sha256(state) if state.is_file() else digest(model_file(find_model(name)))
