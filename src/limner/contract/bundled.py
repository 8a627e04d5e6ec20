"""The bundled models: a folder each, with `model.safetensors` and a card that says its numbers.

Some paint, others judge, see `limner.evaluate.extractors.choose`.
"""

from importlib.resources import files
from pathlib import Path

from limner.contract.abilities import FirstStage, Translates
from limner.contract.checkpoint import MODEL_FILE, read_header
from limner.contract.editing import Follows
from limner.contract.errors import LimnerError
from limner.contract.model import GenerativeModel
from limner.contract.registry import entry, models
from limner.contract.upscaling import Upscales

DEFAULT = "emoji"
"""The model that paints when none is named."""
_PIPELINE = "model_index.json"  # in a folder of diffusers


def bundled() -> dict[str, Path]:
    """The folders of the bundled models, by name."""
    folder = Path(str(files("limner") / "zoo"))
    return {each.parent.name: each.parent for each in sorted(folder.glob(f"*/{MODEL_FILE}"))}


def bundled_as(name: str) -> Path | None:
    """The folder of the bundled model of a name, unless a model that is called so lies here."""
    here = any((Path(name) / file).is_file() for file in (MODEL_FILE, _PIPELINE))
    return None if here else bundled().get(name)


def paints(folder: Path) -> bool:
    """Whether a bundled model makes pictures of nothing, rather than of others, or judges them."""
    header = read_header(folder / MODEL_FILE)
    model = entry(header.model).model
    needs_picture = header.spec.hint is not None and getattr(model, "condition", "") == "required"
    of_pictures = needs_picture or issubclass(model, Follows | FirstStage)
    return issubclass(model, GenerativeModel) and not of_pictures


def bundled_with(ability: type) -> list[str]:
    """The names of the bundled models that have an ability."""
    of = {name: entry(read_header(path / MODEL_FILE).model) for name, path in bundled().items()}
    return [name for name, own in of.items() if issubclass(own.model, ability)]


def bundled_of(model: str) -> list[str]:
    """The names of the bundled models of a registered one, the one that has its name first."""
    found = [n for n, path in bundled().items() if read_header(path / MODEL_FILE).model == model]
    return sorted(found, key=lambda name: name != model)


def painters() -> str:
    """The bundled models that paint, for a message: "; bundled are: ...", or nothing; those that
    need a picture stand behind the others."""
    found = [", ".join(name for name, folder in bundled().items() if paints(folder))]
    others = {"translators": Translates, "to change pictures": Follows, "to enlarge": Upscales}
    for what, ability in others.items():
        if names := bundled_with(ability):
            found.append(f"{what}: {', '.join(names)}")
    return f"; bundled are: {'; '.join(found)}" if found[0] else ""


def find_model(name: str | None) -> Path:
    """The path of a run or model folder, a model file, or a bundled model that is to paint; of the
    default one when none is named, and of a bundled one when a registered model is.

    Raises:
        LimnerError: there is none.
    """
    known = bundled()
    if name is None:
        return known[DEFAULT]
    if ready := bundled_as(name):
        return ready
    if not Path(name).exists():
        if name in models():
            if ready := bundled_of(name):
                return known[ready[0]]
            raise LimnerError(
                f"no {name} model is bundled; limner train {name} emoji data.size=16 --run RUN "
                f"makes one, to be named as -m RUN{painters()}"
            )
        raise LimnerError(f"there is no run, model folder or model file '{name}'{painters()}")
    return Path(name)
