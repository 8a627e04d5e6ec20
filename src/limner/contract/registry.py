"""Every model by name: what `limner models`, the documentation and the contract tests read."""

import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args

from limner.contract.errors import LimnerError, error_in_file, unknown
from limner.contract.header import told
from limner.contract.image import ImageSpec
from limner.contract.model import Learner, Part, is_nested
from limner.contract.options import option_names, parameters_of

FAMILIES = ("autoregressive", "autoencoders", "gans", "flows", "diffusion", "judges")
_ROOMS = {"judges": "evaluate.judges"}  # where a family's papers lie, if not under its own name
_L = TypeVar("_L", bound=type[Learner])


@dataclass(frozen=True)
class Paper:
    """Where a model is described.

    Args:
        title, authors, year: as they are cited.
        arxiv: its number there.
        doi: of a paper that is not on arXiv.
    """

    title: str
    authors: str
    year: int
    arxiv: str = ""
    doi: str = ""

    @property
    def identifier(self) -> str:
        """Its number, with arXiv or doi before it; empty where it has none."""
        return f"arXiv:{self.arxiv}" if self.arxiv else f"doi:{self.doi}" if self.doi else ""

    def __str__(self) -> str:
        return f"{self.authors} ({self.year}). {self.title}. {self.identifier}".rstrip()


@dataclass(frozen=True)
class Entry:
    """A registered model.

    Args:
        name: what a person types.
        family: which folder of the library it belongs to.
        paper: where it is described.
        model: its class.
        tiny: options that make it small enough for the contract tests.
        file: of a model that another program trained: the file that its folder is known by.
        train: its usual training, as a recipe's section [train] has it.
    """

    name: str
    family: str
    paper: Paper
    model: type[Learner]
    tiny: Mapping[str, Any] = field(default_factory=dict[str, Any])
    file: str = ""
    train: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def nested(self) -> list[str]:
        """Which of its options are models of their own."""
        options = parameters_of(self.model.__init__)
        return [name for name, each in options.items() if is_nested(each)]

    @property
    def summary(self) -> str:
        """The first line of the model's docstring."""
        return (self.model.__doc__ or "").strip().split("\n")[0]


_entries: dict[str, Entry] = {}


def register(
    name: str,
    *,
    family: str,
    paper: Paper,
    tiny: Mapping[str, Any] | None = None,
    file: str = "",
    train: Mapping[str, Any] | None = None,
) -> Callable[[_L], _L]:
    """Enter a model class under a name; to register is to be tested by the contract suite.

    One that is only opened, never trained, is known by a file of its folders, and its class is a
    `abilities.Foreign`.

    Args:
        name: lower case, words joined by hyphens.
        family: one of `FAMILIES`.
        paper: where the model is described.
        tiny: options for a model of a few thousand parameters, for tests.
        file: of a model that another program trained: the file that its folder is known by.
        train: its usual training, as a recipe's section [train] has it; a recipe overrides it, and
            what both leave out is the default of `TrainOptions`.

    Raises:
        LimnerError: another model has the name, or the class cannot keep the contract.
    """
    if family not in FAMILIES:
        raise unknown("family", family, FAMILIES)
    check_registration(name, "model", paper)

    def enter(model: _L) -> _L:
        own = _is_own(model)
        if not own:  # the library's names are known before any other
            _load_families()
        known = _entries.get(name)
        if known and not is_again(model, known.model):
            raise LimnerError(
                f"the model name '{name}' is taken by {known.model.__qualname__} of "
                f"{known.model.__module__}; choose another"
            )
        _check_class(model)
        model.name = name
        _entries[name] = Entry(name, family, paper, model, tiny or {}, file, train or {})
        return model

    return enter


def check_registration(name: str, kind: str, paper: object) -> None:
    """Refuse what nothing can be registered by.

    Args:
        name: that a person types.
        kind: of what it is, for the message.
        paper: where that is described.

    Raises:
        LimnerError: the name is not in lower case, or the paper is none.
    """
    if not re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", name):
        raise LimnerError(
            f"write the {kind}'s name in lower case, words joined by hyphens, not as '{name}'"
        )
    if not isinstance(paper, Paper):
        raise LimnerError(
            f"paper={paper!r} is not a Paper; write Paper(title, authors, year, arxiv)"
        )


def _is_own(model: type) -> bool:
    """Whether a class is the library's."""
    return model.__module__.partition(".")[0] == "limner"


def is_again(model: type, known: type) -> bool:
    """Whether a class is one that was registered before, whose file or cell was run again."""
    modules = {model.__module__, known.__module__}
    run = "__main__" in modules and not any(_is_own(each) for each in (model, known))
    return model.__qualname__ == known.__qualname__ and (len(modules) == 1 or run)


_SIGNATURES = {
    "__init__": "(self, spec: ImageSpec, ...)",
    "turns": "(self, batch, step, noise)",
    "frames": "(self, n, c=Condition(), *, noise, preview=True)",
    "log_prob": "(self, x, c=Condition(), *, noise)",
}


def _check_class(model: type[Learner]) -> None:
    """Refuse a class that cannot keep the contract.

    Raises:
        LimnerError: a method is missing or takes other arguments, or `takes` names no condition.
    """
    if missing := sorted(model.__abstractmethods__):
        name = missing[0]
        arguments = _SIGNATURES.get(name, "(self, ...)")
        raise LimnerError(f"{model.__name__} has no {name}; write def {name}{arguments}")
    asked: dict[str, tuple[Sequence[str], Mapping[str, bool]]] = {
        "turns": (("self", "batch", "step", "noise"), {}),
        "frames": (("self", "n", "c"), {"noise": True, "preview": True}),
        "log_prob": (("self", "x", "c"), {"noise": True}),
    }
    for name, (places, named) in asked.items():
        if not hasattr(model, name):
            continue
        try:
            inspect.signature(getattr(model, name)).bind(*places, **named)
        except TypeError as error:
            raise LimnerError(
                f"{name} of {model.__name__} takes other arguments than it is given ({error}); "
                f"write def {name}{_SIGNATURES[name]}"
            ) from None
    if [*inspect.signature(model.__init__).parameters][1:2] != ["spec"]:
        raise LimnerError(
            f"the constructor of {model.__name__} takes no spec; write "
            f"def __init__{_SIGNATURES['__init__']}"
        )
    _check_options(model)
    if isinstance(model.takes, str):
        raise LimnerError(
            f"takes of {model.__name__} is text; write takes = ({model.takes!r},), with a comma"
        )
    for part in model.takes:
        if part not in get_args(Part):
            raise unknown("condition", part, get_args(Part), f"in takes of {model.__name__}")


def _check_options(model: type[Learner]) -> None:
    """Refuse options that would never arrive, and a condition of another kind.

    Raises:
        LimnerError: there is one.
    """
    if hasattr(model, "frames") and "seed" in option_names(model.frames):  # pyright: ignore
        raise LimnerError(
            f"frames of {model.__name__} has an option seed, which sample and watch take for the "
            "streams of `noise`; give it another name"
        )
    if "name" in option_names(model.__init__):
        raise LimnerError(
            f"the constructor of {model.__name__} has an option name, but model.name is the name "
            "that the model is registered by; give it another name"
        )
    known, condition = ("optional", "required"), getattr(model, "condition", "optional")
    if isinstance(condition, str) and condition not in known:
        raise unknown("word", condition, known, f"condition of {model.__name__}")


@cache
def import_modules(package: str) -> None:
    """Import all modules of one of the library's packages and of the folders in it, so that they
    register what they hold.

    Args:
        package: as in `evaluate.metrics`.

    Raises:
        LimnerError: a file there cannot be imported; the message says which, and where.
    """
    home = importlib.import_module(f"limner.{package}")
    for folder in map(Path, home.__path__):
        for file in sorted(folder.rglob("*.py")):  # also where a folder has no __init__.py
            parts = file.relative_to(folder).with_suffix("").parts
            if any(part.startswith(".") for part in parts):  # as editors keep copies
                continue
            name = ".".join([package, *(part for part in parts if part != "__init__")])
            try:
                importlib.import_module(f"limner.{name}")
            except LimnerError:
                raise
            except Exception as error:  # whatever a file of one's own raises there
                said = error_in_file(error, file)
                raise LimnerError(f"{said}; mend or remove that file") from error


def _load_families() -> None:
    for family in FAMILIES:
        import_modules(_ROOMS.get(family, family))


def models() -> dict[str, Entry]:
    """All registered models that are trained here, in the order of the families."""
    _load_families()
    order = {family: i for i, family in enumerate(FAMILIES)}
    own = {name: of for name, of in _entries.items() if not of.file}
    return dict(sorted(own.items(), key=lambda item: (order[item[1].family], item[0])))


def foreign() -> dict[str, Entry]:
    """The models that other programs trained, by the file that their folders are known by."""
    _load_families()
    return {of.file: of for of in _entries.values() if of.file}


def entry(name: str) -> Entry:
    """A registered model by name.

    Raises:
        LimnerError: no model is called so; the message names the nearest one.
    """
    known = models() | {of.name: of for of in foreign().values()}
    if name not in known:
        raise unknown("model", name, known, "limner models lists all")
    return known[name]


def entry_of(name: str, file: Path) -> Entry:
    """A registered model by the name that a file has for it.

    Args:
        name: in the file.
        file: a model's file or a recipe, for the message.

    Raises:
        LimnerError: no model is called so; the message says how one becomes known.
    """
    _load_families()  # which may fail for another reason
    try:
        return entry(name)
    except LimnerError as error:
        raise LimnerError(
            f"{file}: {error}. A model of your own is known once the file with its @register is "
            f"imported, or stands in a family's folder of {Path(__file__).parent.parent}"
        ) from None


def build(name: str, spec: ImageSpec, /, **config: Any) -> Learner:
    """A new model with random weights.

    Args:
        name: a registered name.
        spec: what the images are.
        config: the model's own options; a nested model is given as its `description()`.
    """
    model = entry(name).model
    return model(spec, **{key: _built(value) for key, value in config.items()})


def _built(value: Any) -> Any:
    """A nested model's description as the model; any other value as it is."""
    if not isinstance(value, dict):
        return value
    given: dict[str, Any] = {str(key): part for key, part in value.items()}  # pyright: ignore
    if given.keys() != {"model", "spec", "config"}:
        return given
    spec = ImageSpec.from_json(given["spec"])
    return build(given["model"], spec, **told(given["model"], given["config"]))
