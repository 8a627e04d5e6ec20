"""The header of a model file: what the file says about the model."""

import json
from dataclasses import dataclass, field, replace
from typing import Any

import limner
from limner.contract.image import ImageSpec

FORMAT = 1
OLD_DEFAULTS: dict[str, dict[str, Any]] = {"vdm": {"fourier": 0}, "meanflow": {"unit": 1000.0}}
"""Options that older files of a model do not have -> the values that they had."""


def complete_config(model: str, config: dict[str, Any]) -> dict[str, Any]:
    """Return all options of a saved model, including those that were added after it was saved."""
    return OLD_DEFAULTS.get(model, {}) | config


@dataclass(frozen=True)
class Header:
    """The header of a model file.

    Args:
        model: the registered name of the model.
        spec: the specification of the images.
        config: the options of the model.
        images_seen: the number of training images that the weights have seen.
        recipe: the recipe of the training: its sections, as plain values.
        shared: tensors that the file leaves out because a bundled model has them: the start of
            their names in this model -> that model's name and the start of their names there,
            "emoji:base.".
        version: the version of limner that wrote the file.
        format: the format number of the file.
    """

    model: str
    spec: ImageSpec
    config: dict[str, Any]
    images_seen: int = 0
    recipe: dict[str, Any] = field(default_factory=dict[str, Any])
    shared: dict[str, str] = field(default_factory=dict[str, str])
    version: str = limner.__version__
    format: int = FORMAT

    def to_json(self) -> str:
        """Return the header as one line of JSON."""
        return json.dumps(self.__dict__ | {"spec": self.spec.to_json()})

    @classmethod
    def from_json(cls, text: str) -> "Header":
        """Invert `to_json`; fields that a later version added are ignored."""
        values = json.loads(text)
        arguments: dict[str, Any] = {k: values[k] for k in cls.__dataclass_fields__ if k in values}
        arguments["spec"] = ImageSpec.from_json(values["spec"])
        header = cls(**arguments)
        for name, kind in _HEADER_TYPES.items():
            if not isinstance(getattr(header, name), kind):
                raise TypeError(f"{name} is not of type {kind.__name__}")
        for name in ("data", "sampler"):  # the sections that are read
            if not isinstance(header.recipe.get(name, {}), dict):
                raise TypeError(f"recipe.{name} is not of type dict")
        if not isinstance(header.recipe.get("data", {}).get("source", ""), str):
            raise TypeError("recipe.data.source is not of type str")
        return replace(header, config=complete_config(header.model, header.config))


_HEADER_TYPES = {
    "model": str,
    "config": dict,
    "images_seen": int,
    "recipe": dict,
    "shared": dict,
    "version": str,
    "format": int,
}
