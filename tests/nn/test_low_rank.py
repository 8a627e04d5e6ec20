"""Low-rank changes of a network's weights."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from limner.nn.low_rank import LowRank


class _Probe(nn.Module):
    """A layer that records the weight of another one while the network runs."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = (layer,)  # in a tuple, so that it is not registered as a submodule
        self.weights: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.weights.append(self.layer[0].weight.detach().clone())
        return x


def _changed_network() -> tuple[nn.Linear, nn.Sequential, LowRank]:
    first = nn.Linear(3, 4)
    network = nn.Sequential(first, _Probe(first), nn.Sequential(nn.SiLU(), nn.Linear(4, 2)))
    change = LowRank(network, 2)
    for B in change.B:
        nn.init.normal_(B)
    return first, network, change.eval()


def test_other_threads_see_unchanged_weights_while_a_changed_network_runs() -> None:
    first, network, change = _changed_network()
    before = first.weight.detach().clone()
    with torch.no_grad():
        change(network, torch.randn(5, 3))
    probe = network[1]
    assert isinstance(probe, _Probe)
    assert torch.equal(probe.weights[0], before)


def test_changed_network_computes_the_same_with_and_without_gradients() -> None:
    _, network, change = _changed_network()
    x = torch.randn(5, 3)
    with_gradients = change(network, x)
    with torch.no_grad():
        without = change(network, x)
        expected = functional_call(network, change.changed_weights(network), (x,))
    assert torch.equal(without, expected)
    assert torch.equal(with_gradients.detach(), expected)
    assert not torch.equal(without, network(x))
