"""Weights in another type than float32: some models paint in it, others fail deep in torch."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from limner.contract.errors import LimnerError


def wrong_type(dtype: torch.dtype) -> LimnerError:
    """The error for a model that cannot paint in the type of its weights."""
    kind = str(dtype).removeprefix("torch.")
    return LimnerError(
        f"the weights are {kind}, in which this model cannot paint; type model.float(), and for "
        'speed sample within torch.autocast("cuda", torch.bfloat16)'
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
