"""Training of limner on pictures in memory, which the comparisons with other libraries share."""

import torch
from jaxtyping import Int, UInt8
from timing import Call
from torch import Tensor

from limner import ImageSpec
from limner.contract.model import Learner
from limner.data.dataset import Dataset
from limner.data.stream import Stream
from limner.training.loop import Loop, TrainOptions


class InMemory(Dataset):
    """Random pictures in memory.

    Args:
        spec: the pictures; those of two levels are white in 13 % of their pixels.
        n: number of pictures.
    """

    def __init__(self, spec: ImageSpec, n: int) -> None:
        self.spec = spec
        if spec.levels == 2:
            self.stored = (torch.rand(n, *spec.shape) < 0.13).to(torch.uint8) * 255
        else:
            self.stored = torch.randint(0, 256, (n, *spec.shape), dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self.stored)

    def pixels(self, indices: Int[Tensor, "b"]) -> UInt8[Tensor, "b c h w"]:
        """Return the stored pictures."""
        return self.stored[indices]


def limner_training(model: Learner, data: InMemory, batch: int, dtype: str) -> Call:
    """Return a call that trains for an epoch, as `limner train` does."""
    options = TrainOptions.of({"steps": 10**9, "batch": batch, "lr": 1e-3, "dtype": dtype})
    loop = Loop(model, Stream(data, 0).batch, options)
    return lambda: [loop.advance() for _ in range(len(data) // batch)]
