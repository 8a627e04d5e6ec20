"""Registry of all models by name, for `limner models`, the documentation and the contract tests."""

import importlib
import inspect
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar, get_args

from limner.contract.choices import check_defaults
from limner.contract.errors import LimnerError, error_in_file, one_line, unknown
from limner.contract.header import complete_config
from limner.contract.image import ImageSpec
from limner.contract.model import Learner, Part, is_nested
from limner.contract.names import (
    TABLES,
    check_new_name,
    check_no_section,
    is_again,
    is_builtin,
    registry_table,
)
from limner.contract.options import option_names, parameters_of
from limner.contract.package_errors import (
    ENTRY_POINT_GROUP,
    failed_modules,
    file_in_places,
    package_name,
    package_places,
)

FAMILIES = ("autoregressive", "autoencoders", "gans", "flows", "diffusion", "judges")
# Packages of families that do not have the family's name.
_FAMILY_PACKAGES = {"judges": "evaluate.judges"}
_L = TypeVar("_L", bound=type[Learner])
_log = logging.getLogger("limner")


@dataclass(frozen=True)
class Paper:
    """The publication that describes a model.

    Args:
        title, authors, year: as they are cited.
        arxiv: the number on arXiv.
        doi: the DOI of a paper that is not on arXiv.
    """

    title: str
    authors: str
    year: int
    arxiv: str = ""
    doi: str = ""

    @property
    def identifier(self) -> str:
        """The number with arXiv or doi before it; empty if there is none."""
        return f"arXiv:{self.arxiv}" if self.arxiv else f"doi:{self.doi}" if self.doi else ""

    def __str__(self) -> str:
        return f"{self.authors} ({self.year}). {self.title}. {self.identifier}".rstrip()


@dataclass(frozen=True)
class ModelEntry:
    """A registered model.

    Args:
        name: the name that a person types.
        family: the folder of the library that it belongs to.
        paper: the paper that describes it.
        model: its class.
        tiny: options that make it small enough for the contract tests.
        file: for a model that another program trained: the file that identifies its folder.
        train: its default training options, as in section [train] of a recipe.
    """

    name: str
    family: str
    paper: Paper
    model: type[Learner]
    tiny: Mapping[str, Any] = field(default_factory=dict[str, Any])
    file: str = ""
    train: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def nested_options(self) -> list[str]:
        """The names of its options that are themselves models."""
        options = parameters_of(self.model.__init__)
        return [name for name, option in options.items() if is_nested(option)]

    @property
    def summary(self) -> str:
        """The first line of the model's docstring."""
        return (self.model.__doc__ or "").strip().split("\n")[0]


_entries: dict[str, ModelEntry] = registry_table({})


def register(
    name: str,
    *,
    family: str,
    paper: Paper,
    tiny: Mapping[str, Any] | None = None,
    file: str = "",
    train: Mapping[str, Any] | None = None,
) -> Callable[[_L], _L]:
    """Register a model class under a name; the contract suite then tests it.

    A class whose models are only opened, never trained, is an `abilities.Foreign`; it is identified
    by a file of its folders.

    Args:
        name: lower case, words joined by hyphens.
        family: one of `FAMILIES`.
        paper: the paper that describes the model.
        tiny: options for a model of a few thousand parameters, for tests.
        file: for a model that another program trained: the file that identifies its folder.
        train: its default training options, as in section [train] of a recipe. A recipe overrides
            them; options in neither have the default of `TrainOptions`.

    Raises:
        LimnerError: another model or a recipe's section has the name, or the class does not satisfy
            the contract.
    """
    if family not in FAMILIES:
        raise unknown("family", family, FAMILIES)
    check_registration(name, "model", paper)
    check_no_section(name, "model")

    def enter(model: _L) -> _L:
        if not isinstance(model, type) or not issubclass(model, Learner):  # pyright: ignore
            raise LimnerError(
                f"{getattr(model, '__name__', model)} is not a model; write @register(...) above a "
                "class with limner.GenerativeModel or limner.LikelihoodModel as its base"
            )
        if not is_builtin(model):  # register the library's names before any other
            _load_families()
        previous = _entries.get(name)
        if previous and not is_again(model, previous.model):
            raise LimnerError(
                f"the model name '{name}' is taken by {previous.model.__qualname__} of "
                f"{previous.model.__module__}; choose another"
            )
        _check_class(model)
        model.name = name
        _entries[name] = ModelEntry(name, family, paper, model, tiny or {}, file, train or {})
        return model

    return enter


def check_registration(name: str, kind: str, paper: object) -> None:
    """Refuse an invalid name or paper.

    Args:
        name: the name that a person types.
        kind: the kind of thing that is registered, for the message.
        paper: the paper that describes it.

    Raises:
        LimnerError: the name is not in lower case, or the paper is not a `Paper`.
    """
    check_new_name(name, kind)
    if not isinstance(paper, Paper):
        raise LimnerError(
            f"paper={paper!r} is not a Paper; write Paper(title, authors, year, arxiv)"
        )


_SIGNATURES = {
    "__init__": "(self, spec: ImageSpec, ...)",
    "turns": "(self, batch, step, noise)",
    "frames": "(self, n, c=Condition(), *, noise, preview=True)",
    "log_prob": "(self, x, c=Condition(), *, noise)",
}


def _check_class(model: type[Learner]) -> None:
    """Refuse a class that does not satisfy the contract.

    Raises:
        LimnerError: a method is missing or takes other arguments, or `takes` has an unknown
            condition.
    """
    if missing := sorted(model.__abstractmethods__):
        name = missing[0]
        arguments = _SIGNATURES.get(name, "(self, ...)")
        raise LimnerError(f"{model.__name__} has no {name}; write def {name}{arguments}")
    signatures: dict[str, tuple[Sequence[str], Mapping[str, bool]]] = {
        "turns": (("self", "batch", "step", "noise"), {}),
        "frames": (("self", "n", "c"), {"noise": True, "preview": True}),
        "log_prob": (("self", "x", "c"), {"noise": True}),
    }
    for name, (positional, keywords) in signatures.items():
        if not hasattr(model, name):
            continue
        try:
            inspect.signature(getattr(model, name)).bind(*positional, **keywords)
        except TypeError as error:
            raise LimnerError(
                f"{name} of {model.__name__} takes other arguments than it is given ({error}); "
                f"write def {name}{_SIGNATURES[name]}; further arguments need defaults"
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
    """Refuse options whose names are reserved, defaults of another type than that of their option,
    and an unknown value of `condition`.

    Raises:
        LimnerError: there is such an option, default or value.
    """
    if not is_builtin(model):  # a test checks those of the library, which takes time
        _check_defaults(model)
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
    choices, condition = ("optional", "required"), getattr(model, "condition", "optional")
    if isinstance(condition, str) and condition not in choices:
        raise unknown("word", condition, choices, f"condition of {model.__name__}")


def _check_defaults(model: type[Learner]) -> None:
    """Refuse defaults of another type than that of their option."""
    options = parameters_of(model.__init__).items()
    defaults = {name: p.default for name, p in options if p.default is not p.empty}
    types = {
        name: p.annotation
        for name, p in options
        if name in defaults and p.annotation is not p.empty and not isinstance(p.annotation, str)
    }
    check_defaults(types, defaults, model.__name__)


@cache
def import_modules(package: str) -> None:
    """Import all modules of a package of the library and of its folders, so that they register
    their contents.

    Args:
        package: the package, such as `evaluate.metrics`.

    Raises:
        LimnerError: a file cannot be imported; the message names the file and the line.
    """
    module = importlib.import_module(f"limner.{package}")
    for folder in map(Path, module.__path__):
        for file in sorted(folder.rglob("*.py")):  # also where a folder has no __init__.py
            parts = file.relative_to(folder).with_suffix("").parts
            if any(part.startswith(".") for part in parts):  # such as an editor's backup copies
                continue
            name = ".".join([package, *(part for part in parts if part != "__init__")])
            try:
                importlib.import_module(f"limner.{name}")
            except LimnerError:
                raise
            except (Exception, SystemExit) as error:  # a user's file may raise anything
                message = error_in_file(error, file)
                raise LimnerError(f"{message}; correct or remove that file") from error


@cache
def import_packages() -> tuple[str, ...]:
    """Import the modules that installed packages name as entry points of the group `limner`, so
    that they register their contents.

    A module that cannot be imported is left out with all that it registered, and reported: nothing
    else needs it.

    Returns:
        a message for each such module, which names the file, the line and the package.
    """
    problems: list[str] = []
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            point.load()
        except (Exception, SystemExit) as error:  # a package may raise anything
            _withdraw(failed_modules(error))
            package = package_name(point)
            places = dict.fromkeys(package_places(point.module), package)
            file, _ = file_in_places(error, places) or (Path(point.module), package)
            message = one_line(error_in_file(error, file))
            problems.append(
                f"{message}; correct the package '{package}', or type pip uninstall {package}"
            )
            _log.warning("left out: %s", problems[-1])
    return tuple(problems)


def _withdraw(modules: Collection[str]) -> None:
    """Remove what some modules registered."""
    for table in TABLES:
        for name, registered in [*table.items()]:
            of = registered.model if isinstance(registered, ModelEntry) else registered
            if of.__module__ in modules:
                del table[name]


def _load_families() -> None:
    for family in FAMILIES:
        import_modules(_FAMILY_PACKAGES.get(family, family))


def _load_all() -> None:
    _load_families()
    import_packages()


def models() -> dict[str, ModelEntry]:
    """Return all registered models that are trained here, in the order of the families."""
    _load_all()
    order = {family: i for i, family in enumerate(FAMILIES)}
    entries = {name: e for name, e in _entries.items() if not e.file}
    return dict(sorted(entries.items(), key=lambda item: (order[item[1].family], item[0])))


def foreign() -> dict[str, ModelEntry]:
    """Return the models that other programs trained, by the file that identifies their folders."""
    _load_all()
    return {e.file: e for e in _entries.values() if e.file}


def entry(name: str) -> ModelEntry:
    """Return a registered model by name.

    Raises:
        LimnerError: no model has this name; the message names the nearest one.
    """
    entries = models() | {e.name: e for e in foreign().values()}
    if name not in entries:
        raise unknown("model", name, entries, "limner models lists all")
    return entries[name]


def entry_of(name: str, file: Path) -> ModelEntry:
    """Return a registered model by the name that a file has for it.

    Args:
        name: the name in the file.
        file: the model file, run or recipe, for the message.

    Raises:
        LimnerError: no model has this name; the message says how to register one.
    """
    _load_all()  # outside the try, because it may fail for another reason
    try:
        return entry(name)
    except LimnerError as error:
        remedy = (
            "install the package that has it, import the file with its @register, or put that file "
            f"into a family's folder of {Path(__file__).parent.parent} (CONTRIBUTING.md)"
        )
        if file.suffix == ".toml":  # a person may have misspelt the name
            raise LimnerError(f"{file}: {error}. If it is a model of your own, {remedy}") from None
        raise LimnerError(f"{file}: its model '{name}' is not known here; {remedy}") from None


def build(name: str, spec: ImageSpec, /, **config: Any) -> Learner:
    """Build a new model with random weights.

    Args:
        name: a registered name.
        spec: the specification of the images.
        config: the options of the model; a nested model is given as its `description()`.
    """
    model = entry(name).model
    return model(spec, **{key: _build_nested(value) for key, value in config.items()})


def _build_nested(value: Any) -> Any:
    """Build a nested model from its description; return any other value unchanged."""
    if not isinstance(value, dict):
        return value
    description: dict[str, Any] = {str(key): part for key, part in value.items()}  # pyright: ignore
    if description.keys() != {"model", "spec", "config"}:
        return description
    spec = ImageSpec.from_json(description["spec"])
    return build(
        description["model"], spec, **complete_config(description["model"], description["config"])
    )
