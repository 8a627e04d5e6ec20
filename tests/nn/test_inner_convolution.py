"""A convolution that computes its kernel's gradient with nine matrix products, against torch."""

import pytest
import torch
import torch.nn.functional as F

from limner.nn import convolution
from limner.nn.convolution import InnerConv3x3


@pytest.fixture(autouse=True)
def everywhere(monkeypatch: pytest.MonkeyPatch):
    """Use matrix products also for few channels and pixels."""
    monkeypatch.setattr(convolution, "_DEEP", 1)
    monkeypatch.setattr(convolution, "_LARGE", 1)


@pytest.mark.parametrize("shape", [(1, 3, 3, 3), (2, 3, 5, 8), (3, 4, 9, 4)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_its_gradients_equal_torchs(shape: tuple[int, ...], layout: torch.memory_format):
    torch.manual_seed(0)
    conv = InnerConv3x3(shape[1], 5)
    x = torch.randn(shape).contiguous(memory_format=layout).requires_grad_()
    y, expected = conv(x), F.conv2d(x, conv.weight)
    assert type(y.grad_fn).__name__ == "_InnerBackward" and torch.equal(y, expected)
    g, ends = torch.randn_like(y), (x, conv.weight)
    for a, b in zip(torch.autograd.grad(y, ends, g), torch.autograd.grad(expected, ends, g)):
        torch.testing.assert_close(a, b)


def test_only_required_gradients_are_computed():
    conv = InnerConv3x3(2, 2)
    (only,) = torch.autograd.grad(conv(torch.rand(1, 2, 4, 4)).sum(), (conv.weight,))
    assert only.shape == conv.weight.shape
    conv.weight.requires_grad_(False)
    x = torch.rand(1, 2, 4, 4, requires_grad=True)
    (d_x,) = torch.autograd.grad(conv(x).sum(), (x,))
    assert torch.allclose(d_x.sum(), 4 * conv.weight.sum(), atol=1e-5)


def test_in_other_cases_torchs_convolution_is_used():
    conv, x = InnerConv3x3(2, 2), torch.rand(1, 2, 4, 4)
    assert type(conv.double()(x.double()).grad_fn).__name__ == "ConvolutionBackward0"
    with torch.no_grad():
        assert conv.float()(x).grad_fn is None
