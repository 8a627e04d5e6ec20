"""What comes out of `frames`: pictures in [-1, 1], as float32, in the shape that was asked for."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import Images


def finished(frames: Callable[..., Iterator[Images]]) -> Callable[..., Iterator[Images]]:
    """Clamp each yielded frame to [-1, 1], as float32, without gradients."""

    @functools.wraps(frames)
    def clamped(self: object, *args: Any, **kwargs: Any) -> Iterator[Images]:
        name = type(self).__name__
        with torch.no_grad():
            painting: object = frames(self, *args, **kwargs)
        if not isinstance(painting, Iterator):
            kind = type(painting).__name__
            raise LimnerError(f"frames of {name} returns {kind}; yield the pictures")
        while True:
            with torch.no_grad():  # not around the yield: a caller keeps its own gradients
                frame: object = next(painting, None)
            if frame is None:
                return
            if not isinstance(frame, Tensor) or not frame.is_floating_point():
                kind = frame.dtype if isinstance(frame, Tensor) else type(frame).__name__
                raise LimnerError(f"frames of {name} yields {kind}; yield floats in [-1, 1]")
            yield frame.detach().float().clamp(-1, 1)

    return clamped


def check_frames(frames: Iterator[Images], shape: tuple[int, ...], name: str) -> Iterator[Images]:
    """The frames as they are.

    Args:
        frames: of n pictures.
        shape: that each must have, (n, c, h, w).
        name: of the class that paints them.

    Raises:
        LimnerError: one has another shape, or there are none.
    """
    some = False
    for frame in frames:
        if tuple(frame.shape) != shape:
            seen, asked = (" x ".join(map(str, each)) for each in (frame.shape, shape))
            raise LimnerError(f"frames of {name} yields {seen}, where {asked} were asked for")
        some = True
        yield frame
    if not some:
        raise LimnerError(f"frames of {name} yields no pictures; yield at least the finished ones")
