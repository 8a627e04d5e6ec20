"""Checks of what a model's constructor gets and sets: some attributes belong to every model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec

_RESERVED_NAMES = ("config", "name", "spec")


def check_spec(spec: object, name: str) -> None:
    """Refuse anything but a specification as the first argument of a constructor.

    Args:
        spec: the first argument.
        name: the name of the model's class.

    Raises:
        LimnerError: it is not an `ImageSpec`.
    """
    if not isinstance(spec, ImageSpec):
        raise LimnerError(
            f"{name} takes the specification of the pictures first, not {type(spec).__name__}; "
            "give that of a data set, as data.spec, or ImageSpec(channels=1, height=8, width=8)"
        )


@contextmanager
def super_first(model: nn.Module) -> Iterator[None]:
    """Refuse a constructor that does not call that of its base class first, within a `with`.

    Args:
        model: the model that is being constructed.

    Raises:
        LimnerError: the constructor sets a layer before the call, or does not make it.
    """
    try:
        yield
    except AttributeError as error:
        if "_modules" in vars(model) or "before Module.__init__() call" not in str(error):
            raise  # it may be about one of the model's layers
    if "_modules" not in vars(model):
        raise LimnerError(
            f"the constructor of {type(model).__name__} does not call super().__init__() before it "
            "sets layers; write that as its first line"
        )


def check_attributes(model: nn.Module, config: Mapping[str, Any]) -> None:
    """Refuse attributes with a name that every model already has.

    The class's own attribute would hide a layer of that name, and a value would hide a method.

    Args:
        model: a model that was just built.
        config: the arguments of its constructor, which are its attribute `config`.

    Raises:
        LimnerError: there is such an attribute; the message names the first.
    """
    kind, attributes = type(model), vars(model)
    layers = (*model._modules, *model._parameters, *model._buffers)
    taken = [name for name in layers if hasattr(kind, name) or name in _RESERVED_NAMES]
    for name, value in attributes.items():
        replaces = callable(getattr(kind, name, None)) and not callable(value)
        if replaces or name == "name" or (name == "config" and value is not config):
            taken.append(name)
    if taken:
        raise LimnerError(
            f"{kind.__name__} sets self.{taken[0]}, which every model has already; give the "
            "attribute another name"
        )


def check_players(parts: object, model: nn.Module) -> None:
    """Refuse players that are not modules by name, or not parts of the model.

    Args:
        parts: the value that `players` returned.
        model: the model that was just built.

    Raises:
        LimnerError: it is not a dictionary, one of its values is not a module, or one has weights
            that the model does not have.
    """
    name = type(model).__name__
    remedy = "return modules by name, as {'generator': self.generator}"
    if not isinstance(parts, Mapping):
        raise LimnerError(f"players of {name} returns {type(parts).__name__}; {remedy}")
    own = {id(p) for p in model.parameters()}
    for key, part in parts.items():  # pyright: ignore[reportUnknownVariableType]
        if not isinstance(part, nn.Module):
            raise LimnerError(
                f"players of {name} has {type(part).__name__} as '{key}'; {remedy}"  # pyright: ignore
            )
        if any(id(p) not in own for p in part.parameters()):
            raise LimnerError(
                f"players of {name} has weights in '{key}' that the model does not have; set that "
                "module as an attribute in the constructor"
            )
