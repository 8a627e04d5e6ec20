"""PixelCNN++: what a pixel sees, the initial weights, and the intermediate sizes.

Its pixel distribution is tested in tests/maths/test_pixel_distributions.py.
"""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from limner.autoregressive.causal_convolution import CausalConv2d, RowConv2d
from limner.autoregressive.pixelcnnpp import (
    GrowPixels,
    GrowRows,
    PixelCNNpp,
    Residual,
    _standardise,
)
from limner.contract.image import ImageSpec
from limner.testing.cases import toy_data

TINY = {"features": 4, "blocks": 1, "components": 2}


@pytest.mark.parametrize("sizes", [1, 2, 3])
def test_every_earlier_pixel_is_seen(sizes):
    H, W = 6, 5
    model = PixelCNNpp(ImageSpec(1, H, W), **TINY, sizes=sizes).double().eval()
    raster = torch.arange(H * W).view(H, W)
    for row, column in ((0, 0), (0, 4), (3, 0), (5, 2), (5, 4)):
        x = torch.rand(1, H, W, 1, dtype=torch.float64, requires_grad=True)
        model.network(x, None)[0, row, column].sum().backward()
        assert x.grad is not None
        field = x.grad[0, :, :, 0] != 0
        assert not field[raster >= raster[row, column]].any()
        missing = (raster < raster[row, column]) & ~field
        assert not missing.any() if sizes > 1 else missing.sum() <= 2  # beyond the kernels' reach


def grid_conv(layer, x: Tensor, above: int, left: int, right: int, stride: int = 1) -> Tensor:
    """A convolution of a row and some rows above it, "b c h w"."""
    assert layer.weight.shape[2:] == (above + 1, left + 1 + right)
    return F.conv2d(F.pad(x, (left, right, above, 0)), layer.weight, layer.bias, stride)


def authors_network(network, x: Tensor, vector: Tensor) -> Tensor:
    """The network of the authors' code, `_model_spec`, with these weights; "b c h w"."""

    def elus(x: Tensor) -> Tensor:
        return F.elu(torch.cat([x, -x], 1))

    def gated_resnet(block, x: Tensor, left: int, right: int, *more) -> Tensor:
        h = grid_conv(block.first, elus(x), 1, left, right)
        h = h + sum(grid_conv(layer, elus(features), 0, 0, 0) for layer, features in more)
        h = grid_conv(block.second, 3 * elus(h), 1, left, right)  # 3: what the dropout does here
        a, b = (h + (vector @ block.condition_bias.weight.T)[..., None, None]).chunk(2, 1)
        return x + a * torch.sigmoid(b)

    def both(rows, pixels, u: Tensor, ul: Tensor, skips=None) -> tuple[Tensor, Tensor]:
        of_rows, of_pixels = (
            ([], []) if skips is None else [[(p.skip, x)] for p, x in zip((rows, pixels), skips)]
        )
        u = gated_resnet(rows, u, 1, 1, *of_rows)
        return u, gated_resnet(pixels, ul, 1, 0, (rows.link, u), *of_pixels)

    def hourglass(rows, pixels, u: Tensor, ul: Tensor) -> tuple[Tensor, Tensor]:
        (height, width), stack = u.shape[2:], [(u, ul)]
        for blocks in zip(rows.down, pixels.down, strict=True):
            stack.append(both(*blocks, *stack[-1]))
        if rows.inner is None:
            u, ul = stack.pop()
        else:
            u, ul = stack[-1]
            u = grid_conv(rows.downsample, u, 1, 1, 1, 2)
            ul = grid_conv(pixels.downsample, ul, 1, 1, 0, 2)
            u, ul = hourglass(rows.inner, pixels.inner, u, ul)
            layer = rows.upsample
            u = F.conv_transpose2d(u, layer.weight, layer.bias, 2)
            layer = pixels.upsample
            ul = F.conv_transpose2d(ul, layer.weight, layer.bias, 2)
            u, ul = u[..., :height, 1 : 1 + width], ul[..., :height, :width]
        for blocks in zip(rows.up, pixels.up, strict=True):
            u, ul = both(*blocks, u, ul, stack.pop())
        assert not stack
        return u, ul

    x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    above, left = F.pad(x, (0, 0, 1, 0))[:, :, :-1], F.pad(x, (1, 0))[..., :-1]
    u = grid_conv(network.conv_rows, above, 1, 1, 1)
    ul = grid_conv(network.conv_above, above, 0, 1, 1) + grid_conv(network.conv_left, left, 1, 0, 0)
    _, ul = hourglass(network.stream_down, network.stream_right, u, ul)
    return grid_conv(network.conv_out, F.elu(ul), 0, 0, 0)


class Triple(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * x


@pytest.mark.parametrize(("sizes", "blocks"), [(1, 2), (3, 1), (2, 2)])
def test_the_network_equals_the_authors(sizes: int, blocks: int):
    """A factor of 3 in the place of dropout shows where it acts."""
    spec = ImageSpec(3, 6, 5, labels=("one", "two"))
    options = {**TINY, "blocks": blocks, "sizes": sizes, "dropout": 0.3}
    model = PixelCNNpp(spec, **options).double()
    batch = toy_data(spec, 0, 3)
    x, vector = batch.x.double(), model._vector(batch.c, 3, (1, 1))
    for block in model.network.modules():
        if isinstance(block, Residual):
            assert isinstance(block.dropout, nn.Dropout) and block.dropout.p == 0.3
            block.dropout = Triple()
    with torch.no_grad():
        theta = model.network(x.permute(0, 2, 3, 1), vector)
        expected = authors_network(model.network, x, vector[:, 0, 0])
    torch.testing.assert_close(theta.permute(0, 3, 1, 2), expected)
    assert expected.std() > 0.01


def test_the_initial_features_have_mean_0_and_deviation_1():
    """On the batch of `prepare`, layers have deviation 1, and the added branches 0.1."""
    spec = ImageSpec(3, 8, 8, labels=("one", "two"))
    model = PixelCNNpp(spec, **TINY, sizes=2).eval()
    batch = toy_data(spec, 0, 16)
    with torch.no_grad():
        model.prepare(itertools.repeat(batch))
    kinds = (CausalConv2d, RowConv2d, GrowPixels, GrowRows)
    blocks = [part for part in model.network.modules() if isinstance(part, Residual)]
    expected = {part: 1.0 for part in model.network.modules() if isinstance(part, kinds)}
    expected |= {block.second: 0.1 for block in blocks}
    moments = {}

    def note(part, _, out):
        moments[part] = torch.std_mean(out.flatten(0, -2), 0)

    hooks = [part.register_forward_hook(note) for part in expected]
    with torch.no_grad():
        x = batch.x.permute(0, 2, 3, 1)
        model.network(x, model._vector(batch.c, 16, (1, 1)))
    for hook in hooks:
        hook.remove()
    assert moments.keys() == expected.keys()
    for part, (deviation, mean) in moments.items():
        torch.testing.assert_close(
            deviation, torch.full_like(deviation, expected[part]), rtol=1e-3, atol=0
        )
        assert float(mean.abs().max()) < 1e-4


def test_features_that_hardly_vary_are_only_centred():
    """A factor that gives them deviation 1 would be huge."""
    layer = parametrizations.weight_norm(CausalConv2d(2, 3, rows=2, left=1), dim=0)
    x = 1 + 1e-6 * torch.randn(4, 5, 5, 2)[:, 1:, 1:]
    with torch.no_grad():
        kernel, out = layer.weight.clone(), layer.whole(x)[:, 1:, 1:]
        centred = _standardise(1.0, layer, None, out)
    torch.testing.assert_close(layer.weight, kernel)
    torch.testing.assert_close(centred, out - out.mean((0, 1, 2)))
    torch.testing.assert_close(layer.whole(x)[:, 1:, 1:], centred, atol=1e-6, rtol=0)


def test_means_are_in_float32_under_mixed_precision_and_defaults_are_the_papers():
    model = PixelCNNpp(ImageSpec(1, 6, 5), condition_dropout=0.2)
    assert (model.law.components, model.condition_dropout) == (10, 0.2)
    with torch.autocast("cpu", torch.bfloat16):
        theta = model.network(torch.rand(2, 6, 5, 1), None)
    assert theta.dtype == torch.float32
    assert not torch.equal(theta, theta.bfloat16().float())


def test_growing_is_the_reverse_of_shrinking_in_size():
    """Each row (or pixel) of half the size affects only two rows (or four pixels)."""
    rows, pixels = GrowRows(2).double(), GrowPixels(2).double()
    x = torch.randn(1, 3, 4, 2, dtype=torch.float64)
    like = torch.zeros(1, 5, 7, 2, dtype=torch.float64)
    for grow, reach in ((rows, 1), (pixels, 0)):
        jacobian = torch.autograd.functional.jacobian(lambda x, g=grow: g(x, like, None), x)
        jacobian = jacobian[0, :, :, :, 0].abs().sum((2, 5)) != 0
        for r, c in itertools.product(range(5), range(7)):
            sources = {tuple(index) for index in jacobian[r, c].nonzero().tolist()}
            columns = {k // 2 for k in range(c - reach, c + reach + 1) if k % 2 == 0 or not reach}
            assert sources == {(r // 2, k) for k in columns if 0 <= k < 4}
