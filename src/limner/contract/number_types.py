"""Numbers that fail: weights in another type than float32, in which some models paint and others
fail deep in torch, and pictures that are not finite."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from limner.contract.errors import LimnerError
from limner.contract.image import Images


def wrong_type(dtype: torch.dtype) -> LimnerError:
    """The error for a model that cannot paint in the type of its weights."""
    kind = str(dtype).removeprefix("torch.")
    return LimnerError(
        f"the weights are {kind}, in which this model cannot paint; type model.float(), and for "
        'speed sample within torch.autocast("cuda", torch.bfloat16)'
    )


def check_finite(x: Images, dtype: torch.dtype) -> None:
    """Refuse pictures that are not numbers.

    Args:
        x: what was painted.
        dtype: of the model's weights.

    Raises:
        LimnerError: some of x is NaN or infinite.
    """
    if x.isfinite().all():
        return
    if dtype == torch.float16:  # whose largest number is small
        raise wrong_type(dtype)
    raise LimnerError(
        "what was painted is not finite: the weights are damaged, or an option of the sampler is "
        "too large; leave such options out, or train anew at a lower train.lr"
    )


@contextmanager
def one_line_types(dtype: torch.dtype) -> Iterator[None]:
    """Within it, torch's error where types do not go together is one line.

    Args:
        dtype: of a model's weights.

    Raises:
        LimnerError: they are not float32, and something else is.
    """
    try:
        yield
    except RuntimeError as error:
        if dtype == torch.float32 or "type" not in str(error):
            raise
        raise wrong_type(dtype) from error
