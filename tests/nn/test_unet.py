"""The U-Net and its parts: initial outputs, inputs, and errors."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.embeddings import get_timestep_embedding
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

import limner.nn.convolution as convolution
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, ImageSpec
from limner.contract.noise import Noise
from limner.contract.options import json_schema, shared_options
from limner.contract.registry import models
from limner.nn.condition import Conditioner
from limner.nn.convolution import Conv3x3
from limner.nn.embed import NumberEmbedding, sinusoidal
from limner.nn.fourier_features import fourier_features
from limner.nn.plain_unet import PlainUNet
from limner.nn.residual import ResidualBlock
from limner.nn.unet import PatchOptions, UNet
from limner.nn.upsampling import upsample_conv

SPEC = ImageSpec(3, 8, 8, labels=("a", "b", "c"), hint=ImageSpec(1, 4, 4))


def randomised(network: torch.nn.Module) -> torch.nn.Module:
    """Add noise to every weight, so that no layer is 0; return the network."""
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return network


def unet(spec: ImageSpec, channels: tuple[int, ...], **changes: Any) -> UNet:
    """Return a U-Net with one block per resolution, attention at the coarsest one, and patches."""
    usual: dict[str, Any] = {"blocks": 1, "attention": 1, "patch": 2, "dropout": 0.0}
    return UNet(spec, channels, **usual | changes)


def labelled_hints(n: int, label: int = 1) -> Condition:
    return Condition(label=torch.full((n,), label), image=torch.rand(n, 1, 4, 4) * 2 - 1)


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("channels", [(8,), (8, 12), (8, 16, 24)])
@pytest.mark.parametrize("blocks", [1, 2])
def test_its_initial_output_is_0_and_has_the_shape_of_the_picture(patch, channels, blocks):
    network = unet(SPEC, channels, blocks=blocks, attention=1, patch=patch)
    x, label, c = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 900.0]), labelled_hints(2)
    assert torch.equal(network(x, label, c), torch.zeros_like(x))
    y = randomised(network)(x, label, c)
    assert y.shape == x.shape
    assert float(y.detach().std()) > 1e-3


@pytest.mark.parametrize("attention", [0, 1, 2, 3])
def test_the_coarsest_resolutions_have_attention(attention):
    network = unet(SPEC, (8, 8, 8), blocks=2, attention=attention)
    attends = [
        [stage.self_attention is not None for stage in stages]
        for stages in (*network.down, *reversed(network.up))
    ]
    assert attends == [[level >= 3 - attention] * 2 for level in (0, 1, 2)] * 2


def test_larger_hints_are_reduced_with_antialiasing():
    hint = torch.rand(2, 1, 32, 32)
    signal = Conditioner(SPEC, 4)(Condition(image=hint), 2)
    expected = F.interpolate(hint, (8, 8), mode="bilinear", antialias=True)
    assert torch.equal(signal.planes[:, :1], expected)


def test_every_weight_gets_a_gradient():
    network = randomised(unet(SPEC, (8, 16), blocks=2, attention=2, dropout=0.1))
    c = Condition(label=torch.tensor([0, 1, 2, -1]), image=labelled_hints(4).image)
    network(torch.randn(4, 3, 8, 8), torch.rand(4) * 1000, c).square().mean().backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_pictures_of_a_batch_are_independent():
    network = randomised(unet(SPEC, (8, 16))).eval()
    x, label, c = torch.randn(3, 3, 8, 8), torch.tensor([3.0, 400.0, 900.0]), labelled_hints(3)
    full = network(x, label, c)
    for i in range(3):
        single = network(x[i : i + 1], label[i : i + 1], c.rows(slice(i, i + 1)))
        torch.testing.assert_close(single, full[i : i + 1], rtol=1e-4, atol=1e-5)


def test_time_class_image_and_their_absence_change_the_output():
    network = randomised(unet(SPEC, (8, 16))).eval()
    x, label, c = torch.randn(1, 3, 8, 8), torch.tensor([400.0]), labelled_hints(1)
    plain = network(x, label, c)
    outputs = [
        network(x, label + 100, c),
        network(x, label, Condition(torch.tensor([2]), image=c.image)),
        network(x, label, Condition(torch.tensor([-1]), image=c.image)),
        network(x, label, Condition(c.label, image=-c.image)),
        network(x, label, Condition(c.label)),
    ]
    for first in range(len(outputs)):
        assert not torch.allclose(outputs[first], plain, atol=1e-3)
        for second in range(first):
            assert not torch.allclose(outputs[first], outputs[second], atol=1e-3)


def test_a_null_condition_equals_no_condition():
    network = randomised(unet(SPEC, (8, 16))).eval()
    x, label = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 900.0])
    expected = network(x, label, Condition())
    assert torch.equal(network(x, label, labelled_hints(2).null()), expected)


def test_a_condition_can_be_null_in_single_rows():
    c = labelled_hints(2000)
    p = 0.3
    dropped = c.drop(p, Noise.keyed(0, 0, torch.arange(2000)))
    signal = Conditioner(SPEC, 4)(dropped, 2000)
    is_null = signal.planes[:, -1].amax((1, 2)) == 0
    assert torch.equal(is_null, dropped.label == -1)
    assert (signal.planes[is_null] == 0).all()
    share = float(is_null.double().mean())
    assert share == pytest.approx(p, abs=3 * math.sqrt(p * (1 - p) / 2000))


def test_fourier_features_have_periods_of_two_and_four_levels():
    x = torch.linspace(-1, 1, 511, dtype=torch.float64).view(1, 1, 1, 511)
    first, second = fourier_features(x, 256, 2).view(2, 2, 511).unbind(1)  # sin and cos of both
    torch.testing.assert_close(first[:, :-2], first[:, 2:])
    torch.testing.assert_close(first[:, :-1], -first[:, 1:])
    torch.testing.assert_close(second[:, :-4], second[:, 4:])
    torch.testing.assert_close(second[:, :-2], -second[:, 2:])
    sin, cos = fourier_features(x, 2, 1).unbind(1)
    torch.testing.assert_close(sin, (math.pi * x[0]).sin())
    torch.testing.assert_close(cos, (math.pi * x[0]).cos())


def test_fourier_features_distinguish_levels_also_in_half_a_network():
    torch.manual_seed(0)
    network = unet(SPEC, (8,), fourier=3)
    x, vector = torch.rand(1, 3, 8, 8), torch.randn(1, 32)
    planes = network.fourier(x, vector)
    torch.testing.assert_close(planes, torch.cat([x, fourier_features(x, 256, 3)], 1))
    assert network.conv_in.in_channels == (3 * 7 + 2) * 4
    signal, label = network.conditioner(labelled_hints(1), 1), torch.zeros(1)
    with torch.no_grad():
        randomised(network)
        gain = 1 + network.fourier.gain(vector)[0]
        torch.testing.assert_close(network.fourier(x, vector), gain[:, None, None] * planes)
        features, near = (network.encode(y, label, signal).middle for y in (x, x + 1 / 255))
        half = network.half().encode(x, label, signal).middle
    torch.testing.assert_close(half, features)
    assert float((near - features).abs().max()) > 0.1


def test_residuals_are_added_to_every_skip_and_to_the_middle():
    network = randomised(unet(SPEC, (8, 16)))
    x, label, c = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 900.0]), labelled_hints(2)
    features = network.encode(x, label, network.conditioner(c, 2))
    before = [*features.skips, features.middle]
    residuals = [torch.randn_like(h) for h in before]
    after = features.plus(residuals)
    for h, residual, new in zip(before, residuals, [*after.skips, after.middle], strict=True):
        torch.testing.assert_close(new, h + residual)


@pytest.mark.parametrize("side", [4, 8], ids=["patches", "pixels"])
def test_a_hint_is_added_to_the_output_of_the_first_convolution(side):
    new = unet(SPEC, (8, 16)) if side == 4 else PlainUNet(SPEC, (8, 16), 1, 1, 0.0)
    network = randomised(new)
    x, label, c = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 900.0]), labelled_hints(2)
    signal, hint = network.conditioner(c, 2), torch.randn(8)
    skips, middle, *_ = network.encode(
        x, label, signal, hint.view(8, 1, 1).expand(2, 8, side, side)
    )
    network.conv_in.bias.data += hint
    expected_skips, expected_middle, *_ = network.encode(x, label, signal)
    torch.testing.assert_close([*skips, middle], [*expected_skips, expected_middle])


@pytest.mark.parametrize("dim", [1, 7, 8])
def test_a_number_has_a_vector_of_any_length(dim):
    assert NumberEmbedding(dim)(torch.tensor([3.0, 900.0])).shape == (2, dim)


def test_patches_keep_their_position():
    x = torch.randn(2, 3, 8, 12)
    for patch in (1, 2, 4):
        assert torch.equal(F.pixel_shuffle(F.pixel_unshuffle(x, patch), patch), x)
    network = unet(SPEC, (12,), attention=0, patch=2)
    # Make the network copy its input: conv_in and conv_out copy, blocks are the identity.
    with torch.no_grad():
        for layer in (network.conv_in, network.conv_out):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
            layer.weight[:, :12, 1, 1] = torch.eye(12)
        block = network.up[0][0].block  # a decoder block, which takes [h, skip]
        torch.nn.init.zeros_(block.skip.weight)
        torch.nn.init.zeros_(block.skip.bias)
        block.skip.weight[:, :12, 0, 0] = torch.eye(12)
    network.norm = torch.nn.Identity()
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(network(x, torch.rand(2), Condition()), x)


@pytest.mark.parametrize("vector", [None, 6])
def test_a_new_residual_block_is_the_identity(vector):
    block = ResidualBlock(8, 8, vector)
    x = torch.randn(2, 8, 4, 4)
    signal = None if vector is None else torch.randn(2, vector)
    assert torch.equal(block(x, signal), x)
    widening = ResidualBlock(8, 12, vector)
    torch.testing.assert_close(widening(x, signal), widening.skip(x))


def test_a_residual_block_has_its_formula():
    """It is skip(x) + conv(silu((1 + scale) norm(conv(silu(norm(x)))) + shift))."""
    block = randomised(ResidualBlock(8, 12, 6)).double().eval()
    x, vector = torch.randn(2, 8, 4, 4).double(), torch.randn(2, 6).double()
    first, second = block.norm_1, block.norm_2
    h = F.silu(F.group_norm(x, first.groups, first.weight, first.bias, first.eps))
    h = F.group_norm(block.conv_1(h), second.groups, second.weight, second.bias, second.eps)
    scale, shift = block.film(vector)[:, :, None, None].chunk(2, dim=1)
    expected = block.skip(x) + block.conv_2(F.silu((1 + scale) * h + shift))
    torch.testing.assert_close(block(x, vector), expected, rtol=1e-6, atol=1e-6)


def test_a_residual_block_drops_features_before_its_last_convolution():
    block, x = randomised(ResidualBlock(8, 12, dropout=1.0)), torch.randn(2, 8, 4, 4)
    bias = block.conv_2.bias
    assert bias is not None
    torch.testing.assert_close(block(x), block.skip(x) + bias[:, None, None])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_convolution_of_doubled_pixels_equals_doubling_then_convolution(layout):
    conv = torch.nn.Conv2d(6, 10, 3, padding=1).double().to(memory_format=layout)
    x = torch.randn(2, 6, 5, 4).double().contiguous(memory_format=layout).requires_grad_()
    ours, plain = upsample_conv(conv, x), conv(F.interpolate(x, scale_factor=2.0))
    torch.testing.assert_close(ours, plain)
    v = torch.randn_like(plain)
    for a, b in zip(*(torch.autograd.grad(y, [x, *conv.parameters()], v) for y in (ours, plain))):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("h", "quick"), [(32, True), (33, False)])
def test_a_convolution_by_rows_equals_torchs(layout, h, quick):
    conv = Conv3x3(64, 128).to(memory_format=layout)
    plain = torch.nn.Conv2d(64, 128, 3, padding=1)
    plain.load_state_dict(conv.state_dict())
    x = torch.randn(3, 64, h, 30).contiguous(memory_format=layout).requires_grad_()
    ours, theirs = conv(x), plain(x)
    assert ("ByRows" in ours.grad_fn.name()) == quick
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    v = torch.randn_like(theirs) / 100
    our_gradients = torch.autograd.grad(ours, [x, *conv.parameters()], v)
    their_gradients = torch.autograd.grad(theirs, [x, *plain.parameters()], v)
    for one, other in zip(our_gradients, their_gradients):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    for dtype in (torch.float64, torch.bfloat16):  # computed with torch's convolution
        assert conv.to(dtype)(x.to(dtype)).dtype == dtype


def test_a_convolution_by_rows_passes_on_that_there_is_no_gradient():
    class Stop(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):  # pyright: ignore
            return None

    conv, x = Conv3x3(64, 128), torch.randn(3, 64, 32, 30, requires_grad=True)
    y = conv(x)
    assert "ByRows" in y.grad_fn.name()
    Stop.apply(y).sum().backward()  # pyright: ignore
    assert x.grad is None and conv.weight.grad is None


def test_a_convolution_by_rows_does_not_break_a_compiled_graph():
    conv, x = Conv3x3(96, 96), torch.randn(2, 96, 32, 32)
    assert "ByRows" in conv(x).grad_fn.name()
    compiled: Any = torch.compile(conv, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), conv(x), rtol=0, atol=1e-5)
    program = torch.export.export(conv.eval(), (x,), strict=False)
    assert [str(node.target) for node in program.graph.nodes if node.op == "call_function"] == [
        "aten.conv2d.default"
    ]


@pytest.mark.parametrize("dim", [8, 128])
def test_the_embedding_of_a_number_equals_diffusers(dim):
    number = torch.tensor([0.0, 1.0, 17.5, 400.0, 999.0])
    peer = get_timestep_embedding(number, dim, flip_sin_to_cos=True, downscale_freq_shift=0)
    # The peer has float32 angles.
    torch.testing.assert_close(sinusoidal(number, dim), peer, rtol=0, atol=2e-4)
    closed = number.double()[:, None] * 10_000 ** (-torch.arange(dim // 2) / (dim // 2)).double()
    exact = torch.cat([closed.cos(), closed.sin()], 1)
    torch.testing.assert_close(sinusoidal(number, dim).double(), exact, rtol=0, atol=1e-4)


def test_a_picture_that_cannot_be_halved_is_refused_with_a_remedy():
    with pytest.raises(LimnerError, match=r"multiples of 8 \(data.size=16"):
        unet(ImageSpec(1, 10, 12), (8, 16, 32))


def test_the_forward_derivative_of_a_convolution_by_rows_equals_torchs():
    conv = Conv3x3(64, 128)
    plain = torch.nn.Conv2d(64, 128, 3, padding=1)
    x, u = torch.randn(2, 3, 64, 32, 30)
    parameters = {"weight": conv.weight.detach(), "bias": conv.bias.detach()}  # pyright: ignore
    directions = {name: torch.randn_like(w) / 100 for name, w in parameters.items()}

    def of(layer):
        return lambda x, weights: torch.func.functional_call(layer, weights, (x,))

    ours, theirs = (
        torch.func.jvp(of(layer), (x, parameters), (u, directions)) for layer in (conv, plain)
    )
    for one, other in zip(ours, theirs):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-5)
    zeros = {name: torch.zeros_like(w) for name, w in parameters.items()}
    _, d_y = torch.func.jvp(lambda x: conv(x), (x,), (u,))
    _, expected = torch.func.jvp(of(plain), (x, parameters), (u, zeros))
    torch.testing.assert_close(d_y, expected, rtol=0, atol=2e-5)
    bias, direction = parameters.pop("bias"), directions["bias"]
    with forward_ad.dual_level():
        weights = parameters | {"bias": forward_ad.make_dual(bias, direction)}
        d_y = forward_ad.unpack_dual(of(conv)(x, weights)).tangent
    torch.testing.assert_close(d_y, direction[:, None, None].expand_as(d_y))


def test_a_forward_derivative_along_x_takes_one_more_convolution(monkeypatch):
    calls: list[Any] = []
    by_rows = convolution._by_rows
    monkeypatch.setattr(convolution, "_by_rows", lambda *args: calls.append(args) or by_rows(*args))
    x = torch.randn(3, 64, 32, 30)
    with torch.no_grad(), forward_ad.dual_level():
        Conv3x3(64, 128)(forward_ad.make_dual(x, x))
    assert len(calls) == 2


def test_a_networks_forward_derivative_equals_finite_differences():
    spec = ImageSpec(3, 8, 8, labels=("a", "b", "c"))
    network = randomised(unet(spec, (8, 12))).double().eval()
    x, u = torch.randn(2, 2, 3, 8, 8).double()
    t, c = torch.tensor([300.0, 20.0]).double(), Condition(label=torch.tensor([0, 2]))

    def F(x, t):
        return network(x, t, c)

    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        _, derivative = torch.func.jvp(F, (x, t), (u, torch.ones_like(t)))
        h = 1e-4
        difference = F(x + h * u, t + h) - F(x - h * u, t - h)
    # The embedding of time is float32.
    torch.testing.assert_close(derivative, difference / (2 * h), rtol=1e-2, atol=1e-2)


def test_models_have_its_options_with_bounds_and_defaults():
    sharing = [entry for entry in models().values() if shared_options(entry.model) is PatchOptions]
    assert {"edm", "flow-matching", "shortcut"} <= {entry.name for entry in sharing}
    for entry in sharing:
        properties = json_schema(entry.model, skip=("spec",))["properties"]
        assert properties["channels"]["default"] == [64, 128]
        assert (properties["patch"]["default"], properties["patch"]["minimum"]) == (2, 1)
        assert properties["patch"]["description"].startswith("the side of the blocks of pixels")
        assert properties["dropout"]["exclusiveMaximum"] == 1
