"""PixelCNN++: what a pixel sees, the initial weights, and the intermediate sizes.

Its pixel distribution is tested in tests/maths/test_pixel_distributions.py.
"""

import itertools

import pytest
import torch

from limner.autoregressive.causal_convolution import CausalConv2d, RowConv2d
from limner.autoregressive.pixelcnnpp import GrowPixels, GrowRows, PixelCNNpp, Residual
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
