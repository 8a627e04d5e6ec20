"""Pictures that a tiny model learns in seconds: one half in its class's colour, the other grey."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from limner.contract.image import Batch, Condition, ImageSpec
from limner.contract.model import GenerativeModel
from limner.contract.noise import Noise
from limner.training.loop import Loop, TrainOptions

SPEC = ImageSpec(3, 8, 8, labels=("red", "blue"))
COLOURS = torch.tensor([[1.0, -1.0, -1.0], [-1.0, -1.0, 1.0]])


def batches(first: int, n: int) -> Batch:
    """Return the n pictures from number `first` on."""
    noise = Noise.keyed(7, 0, torch.arange(first, first + n))
    label, side = noise.integers(2), noise.integers(2)
    mask = (torch.arange(8) < 4) == side[:, None]
    x = COLOURS[label][:, :, None, None] * mask[:, None, None, :]
    return Batch(x.expand(n, 3, 8, 8).contiguous(), Condition(label=label))


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread: a second one does not help small networks and hurts on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def trained(model: GenerativeModel, steps: int = 120) -> GenerativeModel:
    """Train a model and return its average (EMA)."""
    options = TrainOptions(steps=steps, batch=32, lr=6e-3, ema=0.98)
    loop = Loop(model, batches, options)
    loop.prepare()
    for _ in range(steps):
        loop.advance()
    return loop.average


def colours_are_right(model: GenerativeModel, **options) -> bool:
    """Return whether at least 31 of 32 pictures have the colour of their label, red or blue."""
    label = torch.arange(32) % 2
    x = model.sample(32, Condition(label=label), **options)
    redness = (x[:, 0] - x[:, 2]).mean((1, 2))  # 1 and -1 in the data
    side = torch.where(label == 0, redness, -redness)
    return bool((side > 0.3).sum() >= 31) and 0.5 < float(side.mean()) < 1.3


class Recorder(nn.Module):
    """A network that returns 0 and records its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = []

    def forward(self, x, label, c):
        self.calls.append((x, label, c))
        return torch.zeros_like(x)
