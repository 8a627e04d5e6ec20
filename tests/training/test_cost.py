"""Counted operations against formulas of layers, and stored bytes against autograd's."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from limner.training.estimate import _SavedBytes, count_flops


def counted(run) -> int:
    with count_flops() as counter:
        run()
    return counter.get_total_flops()


def test_a_linear_layer():
    """2 n in out forward, and as many for the gradients of the weight and of the input."""
    layer, x = nn.Linear(7, 5), torch.randn(3, 7, requires_grad=True)
    assert counted(lambda: layer(x)) == 2 * 3 * 7 * 5
    assert counted(lambda: layer(x).sum().backward()) == 3 * 2 * 3 * 7 * 5


@pytest.mark.parametrize("groups, stride", [(1, 1), (2, 1), (1, 2)])
def test_a_convolution(groups, stride):
    """2 n k^2 (in / groups) out h w, for the h w of the output."""
    layer = nn.Conv2d(4, 6, 3, padding=1, groups=groups, stride=stride)
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    side = 8 // stride
    forward = 2 * 2 * 9 * (4 // groups) * 6 * side**2
    assert counted(lambda: layer(x)) == forward
    assert counted(lambda: layer(x).sum().backward()) == 3 * forward
    assert counted(lambda: layer(x.detach()).sum().backward()) == 2 * forward


def test_a_transposed_convolution():
    """2 n k^2 in out h w, for the h w of the input."""
    layer, x = nn.ConvTranspose2d(4, 6, 4, stride=2), torch.randn(2, 4, 8, 8, requires_grad=True)
    forward = 2 * 2 * 16 * 4 * 6 * 8**2
    assert counted(lambda: layer(x)) == forward
    assert counted(lambda: layer(x).sum().backward()) == 3 * forward


def test_attention_on_a_cpu():
    """Two products of 2 n heads q k d forward; five backward, since scores are recomputed."""
    q = torch.randn(2, 4, 16, 8, requires_grad=True)
    k, v = (torch.randn(2, 4, 32, 8, requires_grad=True) for _ in range(2))
    product = 2 * 2 * 4 * 16 * 32 * 8
    assert counted(lambda: F.scaled_dot_product_attention(q, k, v)) == 2 * product
    attend = lambda: F.scaled_dot_product_attention(q, k, v).sum().backward()  # noqa: E731
    assert counted(attend) == (2 + 5) * product


def test_bytes_stored_by_autograd():
    x = torch.randn(10, requires_grad=True)
    with _SavedBytes() as saved:
        y = x.exp()  # stores its result
        z = y.sin()  # stores its input, the same tensor
    assert saved.peak == 40
    z.sum().backward()
    del y, z
    assert saved._now == 0
