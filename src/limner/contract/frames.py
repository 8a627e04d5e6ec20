"""What comes out of `frames`: finite pictures in [-1, 1], as float32, as many as were asked for."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import Images
from limner.contract.number_types import wrong_type

_FAR = 8.0  # above 1


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
        last = torch.zeros(0)
        while True:
            with torch.no_grad():  # not around the yield: a caller keeps its own gradients
                frame: object = next(painting, None)
            if frame is None:
                check_range(last, name)  # once, for to look at numbers waits for the device
                return
            if not isinstance(frame, Tensor) or not frame.is_floating_point():
                kind = frame.dtype if isinstance(frame, Tensor) else type(frame).__name__
                raise LimnerError(f"frames of {name} yields {kind}; yield floats in [-1, 1]")
            last = frame.detach()
            yield last.float().clamp(-1, 1)

    return clamped


def check_range(frame: Images, name: str) -> None:
    """Refuse pictures from 0 to 255, which would be clamped to white ones.

    What a sampler overshoots is no mistake, but it goes below 0, too, and seldom so far.

    Args:
        frame: what was yielded.
        name: of the class that paints them.

    Raises:
        LimnerError: no number is below 0, and the largest is far above 1.
    """
    if not frame.numel() or torch.compiler.is_exporting():  # graphs read no number of a tensor
        return
    low, high = (float(end) for end in frame.detach().aminmax())
    if low >= 0 and _FAR < high <= 256:
        raise LimnerError(
            f"frames of {name} yields values from {low:g} to {high:g}; yield floats in [-1, 1], as "
            "limner.contract.image.from_uint8 makes of bytes"
        )


def check_frame(frame: Images, n: int, channels: int, name: str) -> None:
    """Refuse what is not n pictures.

    Args:
        frame: what was yielded.
        n: how many pictures were asked for.
        channels: of each.
        name: of the class that paints them.

    Raises:
        LimnerError: it has another shape.
    """
    if frame.dim() != 4 or frame.shape[:2] != (n, channels):
        seen = " x ".join(map(str, frame.shape))
        raise LimnerError(
            f"frames of {name} yields {seen}, where {n} x {channels} x height x width are due"
        )


def check_end(frame: Images | None, dtype: torch.dtype, name: str) -> None:
    """Refuse pictures that are none, or no numbers.

    Args:
        frame: the last one; None where there was none.
        dtype: of the model's weights.
        name: of the class that paints them.

    Raises:
        LimnerError: there is no frame, or some of it is NaN or infinite.
    """
    if frame is None:
        raise LimnerError(f"frames of {name} yields no pictures; yield at least the finished ones")
    if frame.isfinite().all():
        return
    if dtype == torch.float16:  # whose largest number is small
        raise wrong_type(dtype)
    raise LimnerError(
        f"what {name} painted is not finite: the weights are damaged, or an option of the sampler "
        "is too large; leave such options out, or train anew at a lower train.lr"
    )
