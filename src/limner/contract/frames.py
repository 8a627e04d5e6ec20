"""Checks of `frames`: the requested number and size of finite pictures in [-1, 1], as float32."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import Images, ImageSpec
from limner.contract.number_types import wrong_type
from limner.contract.torch_defaults import usual_tensors

_MAX_OVERSHOOT = 8.0  # a larger maximum cannot be a sampler's overshoot


def finish_frames(frames: Callable[..., Iterator[Images]]) -> Callable[..., Iterator[Images]]:
    """Clamp each yielded frame to [-1, 1], as float32, without gradients."""

    @functools.wraps(frames)
    def wrapper(self: object, *args: Any, **kwargs: Any) -> Iterator[Images]:
        name = type(self).__name__
        with usual_tensors(), torch.no_grad():
            painting: object = frames(self, *args, **kwargs)
        if not isinstance(painting, Iterator):
            kind = type(painting).__name__
            raise LimnerError(f"frames of {name} returns {kind}; yield the pictures")
        last = torch.zeros(0)
        while True:
            with usual_tensors(), torch.no_grad():  # not around the yield: these are the caller's
                frame: object = next(painting, None)
            if frame is None:
                check_range(last, name)  # once, because reading numbers waits for the device
                return
            if not isinstance(frame, Tensor) or not frame.is_floating_point():
                kind = frame.dtype if isinstance(frame, Tensor) else type(frame).__name__
                raise LimnerError(f"frames of {name} yields {kind}; yield floats in [-1, 1]")
            last = frame.detach()
            yield last.float().clamp(-1, 1)

    return wrapper


def check_range(frame: Images, name: str) -> None:
    """Refuse pictures from 0 to 255 and infinite ones, which would be clamped to white ones.

    A sampler may overshoot [-1, 1], but then it goes below 0, too, and seldom so far above 1.

    Args:
        frame: the yielded pictures.
        name: the name of the model's class.

    Raises:
        LimnerError: a number is infinite, or none is below 0 and the largest is far above 1.
    """
    if not frame.numel() or torch.compiler.is_exporting():  # graphs read no number of a tensor
        return
    low, high = (float(end) for end in frame.detach().aminmax())
    if math.isinf(low) or math.isinf(high):
        raise _not_finite(frame.dtype, name)
    if low >= 0 and _MAX_OVERSHOOT < high <= 256:
        raise LimnerError(
            f"frames of {name} yields values from {low:g} to {high:g}; yield floats in [-1, 1]; "
            "limner.contract.image.from_uint8 converts bytes"
        )


def check_frame(
    frame: Images, n: int, channels: int, name: str, previous: Tensor | None = None
) -> None:
    """Refuse a frame that does not have n pictures, of the size of those before.

    Args:
        frame: the yielded pictures.
        n: the requested number of pictures.
        channels: the number of channels of each picture.
        name: the name of the model's class.
        previous: the frame before; None for the first.

    Raises:
        LimnerError: it has another shape.
    """
    if frame.dim() != 4 or frame.shape[:2] != (n, channels):
        shape = " x ".join(map(str, frame.shape))
        raise LimnerError(
            f"frames of {name} yields {shape}; yield {n} x {channels} x height x width"
        )
    if previous is not None and previous.shape != frame.shape:
        before, after = (" x ".join(map(str, x.shape[2:])) for x in (previous, frame))
        raise LimnerError(
            f"frames of {name} yields pictures of {before}, then of {after} (height x width); "
            "yield all frames in the size of the finished pictures"
        )


def check_end(
    frame: Images | None,
    spec: ImageSpec,
    options: Mapping[str, Any],
    dtype: torch.dtype,
    name: str,
) -> None:
    """Refuse a missing last frame, and one of another size or that is not finite.

    Args:
        frame: the last frame; None if there was none.
        spec: the specification of the model's pictures.
        options: the sampling options; `height` and `width`, if the model has them, replace those of
            the specification.
        dtype: the type of the model's weights.
        name: the name of the model's class.

    Raises:
        LimnerError: there is no frame, its pictures have another height or width, or some of its
            values are NaN or infinite.
    """
    if frame is None:
        raise LimnerError(f"frames of {name} yields no pictures; yield at least the finished ones")
    size = options.get("height") or spec.height, options.get("width") or spec.width
    if frame.shape[2:] != size:
        actual, expected = (" x ".join(map(str, sides)) for sides in (frame.shape[2:], size))
        raise LimnerError(
            f"the last pictures of {name} are {actual} (height x width); yield {expected}, as its "
            "spec or options say"
        )
    if frame.isfinite().all():
        return
    raise _not_finite(dtype, name)


def _not_finite(dtype: torch.dtype, name: str) -> LimnerError:
    """Return the error for pictures with values that are NaN or infinite."""
    if dtype == torch.float16:  # its largest number is small, so it overflows early
        return wrong_type(dtype)
    return LimnerError(
        f"the pictures of {name} are not finite: the weights are damaged, or an option of the "
        "sampler is too large; leave such options out, or train again with a lower train.lr"
    )
