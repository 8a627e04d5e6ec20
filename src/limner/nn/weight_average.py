"""A moving average of a network's weights, without dropout, to compute training targets."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


@contextmanager
def without_dropout(network: nn.Module) -> Iterator[None]:
    """Switch off a network's dropout within a `with`, since a target should not be noisy."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


class WeightAverage(nn.Module):
    """w <- beta w + (1 - beta) network, updated once per training step.

    beta is min(decay, n / (n + 10)) at the n-th step, so that the first weights are soon forgotten.
    The average is a set of buffers; they are part of the training state, but of no model file.

    Args:
        network: the network to average; it belongs to another module.
        decay: the largest beta.
    """

    step: Tensor
    count: Tensor

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.names = [name for name, _ in network.named_parameters()]
        self.decay = decay
        for i, p in enumerate(network.parameters()):
            self.register_buffer(f"w{i}", p.detach().clone(), persistent=False)
        for name, value in (("step", -1), ("count", 0)):
            self.register_buffer(name, torch.tensor(value), persistent=False)

    @torch.no_grad()
    def follow(self, network: nn.Module, step: int) -> None:
        """Update the average with the network's weights, unless this was already done at
        this step."""
        if int(self.step) == step:
            return
        n = int(self.count)
        beta = min(self.decay, n / (n + 10))
        for average, p in zip(self._weights(), network.parameters(), strict=True):
            average.lerp_(p, 1 - beta)
        self.step.fill_(step)
        self.count += 1

    def forward(self, network: nn.Module, *inputs: Any) -> Tensor:
        """Return the output of the network with averaged weights, without gradients and dropout."""
        with torch.no_grad(), without_dropout(network):
            return functional_call(network, dict(zip(self.names, self._weights())), inputs)

    def _weights(self) -> list[Tensor]:
        return [self.get_buffer(f"w{i}") for i in range(len(self.names))]
