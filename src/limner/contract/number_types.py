"""Error messages for weights in another type than float32, in which some models cannot paint."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from limner.contract.errors import LimnerError


def wrong_type(dtype: torch.dtype) -> LimnerError:
    """Return the error for a model that cannot paint in the type of its weights."""
    kind = str(dtype).removeprefix("torch.")
    return LimnerError(
        f"the weights are {kind}, in which this model cannot paint; type model.float(), and for "
        'speed sample within torch.autocast("cuda", torch.bfloat16)'
    )


@contextmanager
def one_line_types(dtype: torch.dtype) -> Iterator[None]:
    """Turn torch's error about types that do not match into one line, within a `with`.

    Args:
        dtype: the type of a model's weights.

    Raises:
        LimnerError: the weights are not float32, and do not match the type of another tensor.
    """
    try:
        yield
    except RuntimeError as error:
        if dtype == torch.float32 or "type" not in str(error):
            raise
        raise wrong_type(dtype) from error
