"""Checks that a data set returns what its specification says, at every call.

They prevent, for example, that a user's data set trains a model on black pictures because its
pixels are floats in [0, 1], or on one caption for a whole batch.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec

Check = Callable[[object, int, str, ImageSpec, bool], None]
"""Raises an error if a method returned wrong data, for (result, number of pictures, names of method
and class, specification, whether the pictures differ in size)."""
_ROUNDING = 1e-3  # allowed rounding error beyond [-1, 1]


def kind_of(value: object) -> str:
    """Return the type of a value for messages; for a tensor, its dtype."""
    is_tensor = isinstance(value, Tensor)
    return str(value.dtype).removeprefix("torch.") if is_tensor else type(value).__name__


def check_pixels(value: object, n: int, who: str, spec: ImageSpec, varied: bool) -> None:
    """Check that pixels are n pictures of uint8.

    Raises:
        LimnerError: their type or shape is wrong.
    """
    if not isinstance(value, Tensor) or value.dtype != torch.uint8:
        raise LimnerError(
            f"{who} returns {kind_of(value)}; return a tensor of uint8, from 0 to 255, as "
            "(x * 255).round().byte() makes of floats in [0, 1]"
        )
    _check_shape(value, n, who, spec, varied)


def check_images(value: object, n: int, who: str, spec: ImageSpec, varied: bool) -> None:
    """Check that images are n pictures of float32 in [-1, 1].

    Raises:
        LimnerError: their type, shape or range is wrong.
    """
    _check_floats(value, who)
    assert isinstance(value, Tensor)
    _check_shape(value, n, who, spec, varied)


def check_captions(value: object, n: int, who: str, spec: ImageSpec, varied: bool) -> None:
    """Check that there is one caption for each of n pictures, or None without captions.

    Raises:
        LimnerError: the type or number of captions is wrong, or there are none although the
            specification has text.
    """
    if value is None and not spec.text:
        return
    captions = cast("list[object]", value) if isinstance(value, list) else [None]
    others = [caption for caption in captions if not isinstance(caption, str)]
    if others:
        kind = f"a list with {kind_of(others[0])}" if isinstance(value, list) else kind_of(value)
        raise LimnerError(f"{who} returns {kind}; return a list with a str for each picture")
    if len(captions) != n:
        raise LimnerError(
            f"{who} returns {len(captions)} captions for {n} pictures; return one for each"
        )


def check_hints(value: object, n: int, who: str, spec: ImageSpec, varied: bool) -> None:
    """Check that there are n conditioning images as specified, or None without them.

    Raises:
        LimnerError: their type, shape or range is wrong, or the specification has no hint.
    """
    if value is None and spec.hint is None:
        return
    if spec.hint is None:
        raise LimnerError(f"{who} returns pictures; describe them in spec: hint=ImageSpec(...)")
    _check_floats(value, who)
    assert isinstance(value, Tensor)
    _check_shape(value, n, who, spec.hint, varied)


def _check_floats(value: object, who: str) -> None:
    if not isinstance(value, Tensor) or value.dtype != torch.float32:
        raise LimnerError(
            f"{who} returns {kind_of(value)}; return float32 in [-1, 1], such as "
            "limner.contract.image.from_uint8 returns"
        )
    if not value.numel():
        return
    low, high = (float(end) for end in value.aminmax())
    if not -1 - _ROUNDING <= low <= high <= 1 + _ROUNDING:
        raise LimnerError(
            f"{who} returns values from {low:g} to {high:g}; return floats in [-1, 1], such as "
            "limner.contract.image.from_uint8 returns"
        )


def _check_shape(value: Tensor, n: int, who: str, spec: ImageSpec, varied: bool) -> None:
    channels, *size = spec.shape
    fits = value.ndim == 4 and tuple(value.shape[:2]) == (n, channels)
    if fits and (varied or [*value.shape[2:]] == size):
        return
    shape = " x ".join(map(str, value.shape))
    target = " x ".join(map(str, (n, *spec.shape)))
    raise LimnerError(
        f"{who} returns {shape}, but its spec says {target} (pictures x channels x height x width)"
    )
