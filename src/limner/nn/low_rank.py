"""Low-rank adaptation (LoRA): a frozen network with low-rank changes to its weights."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


class LowRank(nn.Module):
    """W + B A for every weight matrix W of another module's network; no change at first.

    Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen (2021). LoRA: low-rank adaptation of large
    language models. arXiv:2106.09685, section 4.1; a convolution's kernel counts as one row for
    each of its output channels.

    Args:
        network: the network; its weights with two or more dimensions are changed.
        rank: the rank of the changes.
    """

    def __init__(self, network: nn.Module, rank: int) -> None:
        super().__init__()
        self.names = [name for name, W in network.named_parameters() if W.ndim >= 2]
        sizes = [network.get_parameter(name).flatten(1).shape for name in self.names]
        self.A = nn.ParameterList(torch.randn(rank, ins) / ins**0.5 for _, ins in sizes)
        self.B = nn.ParameterList(torch.zeros(outs, rank) for outs, _ in sizes)
        self._cached_weights: dict[str, Tensor] | None = None
        self.register_load_state_dict_post_hook(_forget)

    def train(self, mode: bool = True) -> "LowRank":
        """Set the mode, and discard the cached weights."""
        self._cached_weights = None
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "LowRank":
        """Move or convert the parameters, and discard the cached weights."""
        self._cached_weights = None
        return super()._apply(fn, recurse)

    def forward(self, network: nn.Module, *inputs: Any) -> Any:
        """Return the output of the network with changed weights."""
        weights = self.changed_weights(network)
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return functional_call(network, weights, inputs)
        return _twin(network, weights)(*inputs)

    def changed_weights(self, network: nn.Module) -> dict[str, Tensor]:
        """Return the network's changed weights, by name."""
        if self._cached_weights is not None and not torch.is_grad_enabled():
            return self._cached_weights
        changed = {}
        for name, A, B in zip(self.names, self.A, self.B):
            W = network.get_parameter(name)
            # W's own layout: a 1 x 1 kernel's layout selects the algorithm, and so the last bits
            changed[name] = torch.empty_like(W).copy_(W + (B @ A).view_as(W))
        if not self.training and not torch.is_grad_enabled():
            self._cached_weights = changed
        return changed


def _twin(network: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Return a network with other weights, which shares everything else with the given one.

    `functional_call` exchanges the weights of the network itself for the time of the call, in which
    other threads may use it, too.

    Args:
        network: the network, which stays as it is.
        weights: the other weights, by name.
    """
    twins = {module: copy.copy(module) for module in network.modules()}
    for twin in twins.values():
        twin._parameters = dict(twin._parameters)
        children = twin._modules.items()
        twin._modules = {name: child and twins[child] for name, child in children}
    twin = twins[network]
    for name, weight in weights.items():
        owner, _, own_name = name.rpartition(".")
        twin.get_submodule(owner)._parameters[own_name] = weight  # pyright: ignore
    return twin


def _forget(module: nn.Module, _: Any) -> None:
    """Discard cached weights, which belong to the weights before the new ones were loaded."""
    assert isinstance(module, LowRank)
    module._cached_weights = None


class LowRankCopy(nn.Module):
    """A copy of a network with low-rank changes; it stores only the changes.

    Args:
        network: the network of another model, which stores it.
        rank: the rank of the changes.
    """

    def __init__(self, network: nn.Module, rank: int) -> None:
        super().__init__()
        self.change = LowRank(network, rank)
        self._network = (network,)  # in a tuple, so that it is not registered as a submodule

    def forward(self, *inputs: Any) -> Any:
        """Return the output of the network with changed weights."""
        return self.change(*self._network, *inputs)
