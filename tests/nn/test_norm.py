"""The fused group norm, modulation and SiLU against torch's three functions."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck

from limner.nn.norm import NormSiLU, group_norm, groups, instance_norm


def reference(norm: NormSiLU, x, scale=None, shift=None):
    h = F.group_norm(x, norm.groups, norm.weight, norm.bias, norm.eps)
    if scale is not None:
        h = (1 + scale[:, :, None, None]) * h + shift[:, :, None, None]
    return F.silu(h)


def made(channels, dtype=torch.float32, sides=(5, 4)):
    norm = NormSiLU(channels).to(dtype)
    with torch.no_grad():
        norm.weight.normal_(1, 0.3)
        norm.bias.normal_(0, 0.3)
    x = 2 * torch.randn(3, channels, *sides, dtype=dtype) + 0.5
    scale, shift = 0.5 * torch.randn(2, 3, channels, dtype=dtype)
    return norm, [part.requires_grad_() for part in (x, scale, shift)]


def value_and_gradients(function, norm, parts):
    y = function(*parts)
    v = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    return y, torch.autograd.grad(y, [*parts, norm.weight, norm.bias], v)


@pytest.mark.parametrize("channels", [4, 12, 64])
@pytest.mark.parametrize("modulated", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("sides", [(5, 4), (31, 34)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
def test_it_equals_silu_of_the_modulated_group_norm(
    channels, modulated, layout, sides, dtype, tolerance
):
    norm, parts = made(channels, dtype, sides)
    parts = parts if modulated else parts[:1]
    parts[0] = parts[0].detach().contiguous(memory_format=layout).requires_grad_()
    ours, our_gradients = value_and_gradients(norm, norm, parts)
    theirs, their_gradients = value_and_gradients(lambda *a: reference(norm, *a), norm, parts)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    for gradient, expected in zip(our_gradients, their_gradients):
        torch.testing.assert_close(gradient, expected, rtol=tolerance, atol=20 * tolerance)


@pytest.mark.parametrize("sides", [(5, 4), (31, 34)])
def test_without_silu_it_equals_torchs(sides):
    norm = torch.nn.GroupNorm(4, 12)
    _, (x, *_) = made(12, sides=sides)
    torch.nn.init.normal_(norm.weight)
    (ours, our_gradients), (theirs, their_gradients) = (
        value_and_gradients(function, norm, [x])
        for function in (lambda x: group_norm(norm, x), norm)
    )
    torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)
    for one, other in zip(our_gradients, their_gradients):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=4e-4)


def test_its_gradient_equals_finite_differences():
    norm, parts = made(8, torch.float64)
    weights = [norm.weight, norm.bias]

    def function(x, scale, shift, *_):
        return norm(x, scale, shift)

    assert gradcheck(function, (*parts, *weights))


@pytest.mark.parametrize("sides", [(5, 4), (31, 34)])
def test_its_error_in_bfloat16_is_that_of_rounding(sides):
    """Features in bfloat16, weights in float32, as with autocast: a few roundings of 2^-9."""
    norm, (x, scale, shift) = made(64, sides=sides)
    half = x.detach().bfloat16().requires_grad_()
    ours = norm(half, scale, shift)
    theirs = reference(norm, half.float(), scale, shift)
    assert ours.dtype == torch.bfloat16
    error = ((ours.float() - theirs).abs() / (1 + theirs.abs())).detach()
    assert float(error.max()) < 7 * 2**-9
    v = torch.randn_like(theirs)
    (our_gradient,) = torch.autograd.grad(ours, half, v.bfloat16())
    (their_gradient,) = torch.autograd.grad(theirs, half, v)
    assert our_gradient.dtype == torch.bfloat16
    assert (
        float(
            (our_gradient.float() - their_gradient.float()).norm() / their_gradient.float().norm()
        )
        < 0.01
    )


def test_constant_features_cause_no_division_by_zero():
    norm = NormSiLU(8)
    x = torch.full((2, 8, 4, 4), 3.0, requires_grad=True)
    y = norm(x)
    y.sum().backward()
    torch.testing.assert_close(y, torch.zeros_like(y), rtol=0, atol=1e-3)
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("channels", [1, 3, 4, 6, 50, 64, 96, 128, 256, 320])
def test_groups_divide_the_channels(channels):
    count = groups(channels)
    assert channels % count == 0
    assert count <= 32
    assert channels // count >= min(4, channels)


@pytest.mark.parametrize("slope", [None, 0.0, 0.2])
def test_instance_norm_and_its_gradient_equal_torchs(slope: float | None):
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64, requires_grad=True)
    expected = F.instance_norm(x) if slope is None else F.leaky_relu(F.instance_norm(x), slope)
    assert torch.allclose(instance_norm(x, slope), expected, atol=1e-10)
    assert torch.autograd.gradcheck(lambda x: instance_norm(x, slope), (x,))


def test_instance_norm_in_half_precision_keeps_its_dtype():
    x = torch.randn(2, 4, 6, 5)
    half = instance_norm(x.bfloat16(), 0.2)
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), instance_norm(x, 0.2), atol=0.05)


@pytest.mark.parametrize("modulated", [True, False])
@pytest.mark.parametrize("activated", [True, False])
@pytest.mark.parametrize("sides", [(5, 4), (32, 32)])
def test_its_forward_derivative_equals_finite_differences_and_two_gradients(
    modulated: bool, activated: bool, sides: tuple[int, int]
):
    """J u with torch.func.jvp, (f(x + h u) - f(x - h u)) / 2 h, and d/dv of (v J) u with torch's
    own group norm, which can be differentiated twice."""
    norm, (x, scale, shift) = made(8, torch.float64, sides)
    plain_norm = nn.GroupNorm(norm.groups, 8).double()
    plain_norm.load_state_dict(norm.state_dict())

    def fused(x, scale, shift):
        if not activated:
            return group_norm(plain_norm, x)
        return norm(x, scale, shift) if modulated else norm(x)

    def plain(x, scale, shift):
        if not activated:
            return plain_norm(x)
        return reference(norm, x, *((scale, shift) if modulated else ()))

    inputs = tuple(part.detach() for part in (x, scale, shift))
    u = tuple(torch.randn_like(part) for part in inputs)
    value, derivative = torch.func.jvp(fused, inputs, u)
    torch.testing.assert_close(value, fused(*inputs))
    h = 1e-5
    ahead, behind = (fused(*(a + s * h * d for a, d in zip(inputs, u))) for s in (1, -1))
    torch.testing.assert_close(derivative, (ahead - behind) / (2 * h), rtol=1e-6, atol=1e-7)
    y, v = plain(x, scale, shift), torch.zeros_like(value, requires_grad=True)
    gradients = torch.autograd.grad(y, [x, scale, shift], v, create_graph=True, allow_unused=True)
    paired = sum((g * d).sum() for g, d in zip(gradients, u) if g is not None)
    (expected,) = torch.autograd.grad(paired, v)
    torch.testing.assert_close(derivative, expected, rtol=1e-9, atol=1e-9)


def test_its_forward_derivative_in_bfloat16_has_rounding_errors():
    norm, parts = made(16)
    inputs = tuple(part.detach() for part in parts)
    u = tuple(torch.randn_like(part) for part in inputs)
    _, derivative = torch.func.jvp(norm, inputs, u)
    half = tuple(part.bfloat16() for part in (inputs[0], u[0]))
    _, half_derivative = torch.func.jvp(norm, (half[0], *inputs[1:]), (half[1], *u[1:]))
    assert half_derivative.dtype == torch.bfloat16
    assert float((half_derivative.float() - derivative).detach().abs().max()) < 0.1


COMPILED = """
import torch
from limner.nn.norm import NormSiLU

for side in (5, 32):
    norm, x = NormSiLU(4), torch.randn(3, 4, side, side, requires_grad=True)
    scale, shift = torch.randn(2, 3, 4)
    compiled = torch.compile(norm, backend="aot_eager", fullgraph=True)
    found = []
    for way in (norm, compiled):
        y = way(x, scale, shift)
        slopes = torch.autograd.grad(y.square().mean(), [x, norm.weight, norm.bias])
        found.append((y, *slopes))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
"""


def test_it_compiles_to_one_graph():
    # In a separate process, since the tests wrap each function in type checks.
    subprocess.run([sys.executable, "-c", COMPILED], check=True)
