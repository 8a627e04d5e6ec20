"""Where training has its targets from: an average of a network's weights, without dropout."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


@contextmanager
def without_dropout(network: nn.Module) -> Iterator[None]:
    """Within it, a network in training drops nothing out, as a target should not be noisy."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


class WeightAverage(nn.Module):
    """w <- beta w + (1 - beta) network, one step of it for each step of training.

    beta is min(decay, n / (n + 10)) at the n-th step, so that the first weights are soon forgotten.
    The average is a set of buffers, part of a training's state and of no model file.

    Args:
        network: whose weights are followed; it belongs to another module.
        decay: the greatest beta.
    """

    step: Tensor
    count: Tensor

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.names = [name for name, _ in network.named_parameters()]
        self.decay = decay
        for i, p in enumerate(network.parameters()):
            self.register_buffer(f"w{i}", p.detach().clone(), persistent=False)
        for name, first in (("step", -1), ("count", 0)):
            self.register_buffer(name, torch.tensor(first), persistent=False)

    @torch.no_grad()
    def follow(self, network: nn.Module, step: int) -> None:
        """Take the step towards the network's weights, unless it was taken at this step before."""
        if int(self.step) == step:
            return
        n = int(self.count)
        beta = min(self.decay, n / (n + 10))
        for kept, p in zip(self._weights(), network.parameters(), strict=True):
            kept.lerp_(p, 1 - beta)
        self.step.fill_(step)
        self.count += 1

    def forward(self, network: nn.Module, *inputs: Any) -> Tensor:
        """The output of the network with the average in its weights' place, without gradients and
        dropout.
        """
        with torch.no_grad(), without_dropout(network):
            return functional_call(network, dict(zip(self.names, self._weights())), inputs)

    def _weights(self) -> list[Tensor]:
        return [self.get_buffer(f"w{i}") for i in range(len(self.names))]
