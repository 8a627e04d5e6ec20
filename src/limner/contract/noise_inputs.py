"""Random numbers as inputs, for models that are exported as functions of them."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from limner.contract.noise import Noise


class Draw(NamedTuple):
    """The random numbers of one draw.

    Args:
        law: "normal" for N(0, 1), "uniform" for [0, 1).
        shape: the shape of one picture's numbers.
        dtype: the type of the numbers.
    """

    law: Literal["normal", "uniform"]
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32


class RecordingNoise(Noise):
    """Random streams that record their draws in `records`."""

    def __init__(self, noise: Noise) -> None:
        super().__init__(noise.streams, noise.draws, noise.others)
        self.records: list[tuple[Draw, Tensor]] = []

    def uniform(self, *shape: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "b *shape"]:
        """See `Noise.uniform`; the numbers are recorded."""
        return self._record("uniform", shape, dtype, super().uniform(*shape, dtype=dtype))

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "b *shape"]:
        """See `Noise.normal`; the numbers are recorded."""
        return self._record("normal", shape, dtype, super().normal(*shape, dtype=dtype))

    def _record(
        self, law: Any, shape: tuple[int, ...], dtype: torch.dtype, values: Tensor
    ) -> Tensor:
        self.records.append((Draw(law, shape, dtype), values.clone()))
        return values


class GivenNoise(Noise):
    """Random streams whose numbers are given, in the order in which they are drawn.

    Args:
        draws: the numbers of each draw.
        n: the number of pictures.
    """

    def __init__(self, draws: Sequence[Tensor], n: int) -> None:
        super().__init__(torch.zeros(n, dtype=torch.int64))
        self.remaining: Iterator[Tensor] = iter(draws)

    def uniform(self, *shape: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "b *shape"]:
        """Return the next numbers."""
        return next(self.remaining)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "b *shape"]:
        """Return the next numbers."""
        return next(self.remaining)
