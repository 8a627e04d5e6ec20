"""The bundled models: a folder each, with `model.safetensors` and a card with measured numbers.

Some paint, others are judges, see `limner.evaluate.extractors.choose`.
"""

from importlib.resources import files
from pathlib import Path

from limner.contract.abilities import FirstStage, Translates
from limner.contract.checkpoint import MODEL_FILE, digest, model_file, read_header, sha256
from limner.contract.editing import Follows
from limner.contract.errors import LimnerError
from limner.contract.model import GenerativeModel
from limner.contract.registry import entry, models
from limner.contract.upscaling import Upscales

DEFAULT = "emoji"
"""The model that paints when no model is named."""
AVERAGE_FILE = "average.safetensors"
"""The file of a training state with its averaged weights."""
_PIPELINE = "model_index.json"  # the file that marks a diffusers folder


def bundled() -> dict[str, Path]:
    """Return the folders of the bundled models, by name."""
    folder = Path(str(files("limner") / "zoo"))
    return {each.parent.name: each.parent for each in sorted(folder.glob(f"*/{MODEL_FILE}"))}


def bundled_as(name: str) -> Path | None:
    """Return the folder of a bundled model; None if there is none, or if a folder here has its name
    and holds a model."""
    here = any((Path(name) / file).is_file() for file in (MODEL_FILE, _PIPELINE))
    return None if here else bundled().get(name)


def paints(folder: Path) -> bool:
    """Return whether a bundled model paints without a picture as input."""
    header = read_header(folder / MODEL_FILE)
    model = entry(header.model).model
    needs_picture = header.spec.hint is not None and getattr(model, "condition", "") == "required"
    of_pictures = needs_picture or issubclass(model, Follows | FirstStage)
    return issubclass(model, GenerativeModel) and not of_pictures


def bundled_with(ability: type) -> list[str]:
    """Return the names of the bundled models that have an ability."""
    of = {name: entry(read_header(path / MODEL_FILE).model) for name, path in bundled().items()}
    return [name for name, own in of.items() if issubclass(own.model, ability)]


def bundled_of(model: str) -> list[str]:
    """Return the names of the bundled models of a registered model; one with the same name is
    first."""
    found = [n for n, path in bundled().items() if read_header(path / MODEL_FILE).model == model]
    return sorted(found, key=lambda name: name != model)


def painters() -> str:
    """Return the bundled models for a message, as "; bundled are: ...", or "" if none paints.

    Models that need a picture are listed after the others.
    """
    found = [", ".join(name for name, folder in bundled().items() if paints(folder))]
    others = {"translators": Translates, "to change pictures": Follows, "to enlarge": Upscales}
    for what, ability in others.items():
        if names := bundled_with(ability):
            found.append(f"{what}: {', '.join(names)}")
    return f"; bundled are: {'; '.join(found)}" if found[0] else ""


def find_model(name: str | None) -> Path:
    """Return the path of a model to paint with: a run or model folder, a model file or a bundled
    model.

    Without a name it is the default model; the name of a registered model means a bundled one of
    it.

    Raises:
        LimnerError: there is no such model.
    """
    known = bundled()
    if name is None:
        return known[DEFAULT]
    if ready := bundled_as(name):
        return ready
    if not name or not Path(name).exists():
        if name in models():
            if ready := bundled_of(name):
                return known[ready[0]]
            raise LimnerError(
                f"no {name} model is bundled; train one, as limner models {name} shows, and give "
                f"its run with -m{painters()}"
            )
        raise LimnerError(f"there is no run, model folder or model file '{name}'{painters()}")
    return Path(name)


def digest_named(name: str) -> str:
    """Return a hash of a trained model, or of the averaged weights of a training state, that is
    named as in `options.RunName`.

    Raises:
        LimnerError: there is no such model.
    """
    state = Path(name) / AVERAGE_FILE
    return sha256(state) if state.is_file() else digest(model_file(find_model(name)))
