"""What a model's constructor must leave as it is: the names that every model has."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from limner.contract.errors import LimnerError

_KEPT = ("config", "name", "spec")


def check_attributes(model: nn.Module, config: Mapping[str, Any]) -> None:
    """Refuse attributes with a name that every model has: of a layer the class's own is found in
    its place, and a value takes the place of a method.

    Args:
        model: just built.
        config: its constructor's arguments, which are its attribute `config`.

    Raises:
        LimnerError: there is such an attribute; the message names the first.
    """
    kind, own = type(model), vars(model)
    layers = (*model._modules, *model._parameters, *model._buffers)
    taken = [name for name in layers if hasattr(kind, name) or name in _KEPT]
    for name, value in own.items():
        replaces = callable(getattr(kind, name, None)) and not callable(value)
        if replaces or name == "name" or (name == "config" and value is not config):
            taken.append(name)
    if taken:
        raise LimnerError(
            f"{kind.__name__} sets self.{taken[0]}, which every model has already; give the "
            "attribute another name"
        )


def check_players(parts: object, name: str) -> None:
    """Refuse players that are not parts of a model by name.

    Args:
        parts: what `players` returned.
        name: of the model's class.

    Raises:
        LimnerError: it is not a dictionary, or one of it is not a module.
    """
    shown = "return modules by name, as {'generator': self.generator}"
    if not isinstance(parts, Mapping):
        raise LimnerError(f"players of {name} returns {type(parts).__name__}; {shown}")
    for key, part in parts.items():  # pyright: ignore[reportUnknownVariableType]
        if not isinstance(part, nn.Module):
            raise LimnerError(
                f"players of {name} has {type(part).__name__} as '{key}'; {shown}"  # pyright: ignore
            )
