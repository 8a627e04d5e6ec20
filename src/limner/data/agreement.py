"""What a data set gives agrees with its specification; checked whenever it is asked for.

So a data set of one's own cannot train a model on black pictures, because its pixels are floats in
[0, 1], or on one caption for a whole batch.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec

Check = Callable[[object, int, str, ImageSpec, bool], None]
"""Refuses what a method gave, for (that, how many pictures, the names of method and class, what the
pictures are, whether they differ in size)."""
_ROUNDING = 1e-3  # beyond [-1, 1]


def kind_of(found: object) -> str:
    """The type of a value in a message, of a tensor that of its numbers."""
    whole = isinstance(found, Tensor)
    return str(found.dtype).removeprefix("torch.") if whole else type(found).__name__


def check_pixels(found: object, n: int, who: str, spec: ImageSpec, varied: bool) -> None:
    """Refuse what is not n pictures of uint8.

    Raises:
        LimnerError: their type or shape is another one.
    """
    if not isinstance(found, Tensor) or found.dtype != torch.uint8:
        raise LimnerError(
            f"{who} gives {kind_of(found)}; give a tensor of uint8, from 0 to 255, as "
            "(x * 255).round().byte() makes of floats in [0, 1]"
        )
    _check_shape(found, n, who, spec, varied)


def check_images(found: object, n: int, who: str, spec: ImageSpec, varied: bool) -> None:
    """Refuse what is not n pictures of float32 in [-1, 1].

    Raises:
        LimnerError: their type, shape or range is another one.
    """
    _check_floats(found, who)
    assert isinstance(found, Tensor)
    _check_shape(found, n, who, spec, varied)


def check_captions(found: object, n: int, who: str, spec: ImageSpec, varied: bool) -> None:
    """Refuse what is not a caption for each of n pictures, or None where there are none.

    Raises:
        LimnerError: it is of another type, there are more or fewer, or none where models learn
            from captions.
    """
    if found is None and not spec.text:
        return
    said = cast("list[object]", found) if isinstance(found, list) else [None]
    if not all(isinstance(each, str) for each in said):
        raise LimnerError(f"{who} gives {kind_of(found)}; give a list with a str for each picture")
    if len(said) != n:
        raise LimnerError(f"{who} gives {len(said)} captions for {n} pictures; give one for each")


def check_hints(found: object, n: int, who: str, spec: ImageSpec, varied: bool) -> None:
    """Refuse what is not n conditioning images as the specification says, or None without them.

    Raises:
        LimnerError: their type, shape or range is another one, or it says that there are none.
    """
    if found is None and spec.hint is None:
        return
    if spec.hint is None:
        raise LimnerError(f"{who} gives pictures; say in spec what they are: hint=ImageSpec(...)")
    _check_floats(found, who)
    assert isinstance(found, Tensor)
    _check_shape(found, n, who, spec.hint, varied)


def _check_floats(found: object, who: str) -> None:
    if not isinstance(found, Tensor) or found.dtype != torch.float32:
        raise LimnerError(
            f"{who} gives {kind_of(found)}; give float32 in [-1, 1], as "
            "limner.contract.image.from_uint8 makes of bytes"
        )
    if not found.numel():
        return
    low, high = (float(end) for end in found.aminmax())
    if not -1 - _ROUNDING <= low <= high <= 1 + _ROUNDING:
        raise LimnerError(
            f"{who} gives values from {low:g} to {high:g}; give floats in [-1, 1], as "
            "limner.contract.image.from_uint8 makes of bytes"
        )


def _check_shape(found: Tensor, n: int, who: str, spec: ImageSpec, varied: bool) -> None:
    channels, *size = spec.shape
    fits = found.ndim == 4 and tuple(found.shape[:2]) == (n, channels)
    if fits and (varied or [*found.shape[2:]] == size):
        return
    seen = " x ".join(map(str, found.shape))
    due = " x ".join(map(str, (n, *spec.shape)))
    raise LimnerError(
        f"{who} gives {seen}, where its spec says {due} (pictures x channels x height x width)"
    )
