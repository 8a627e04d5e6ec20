"""Masks and PixelCNN: the number of unmasked weights, and the blind spot."""

import pytest
import torch

from limner.autoregressive.causal_convolution import CausalConv2d, feature_channels, visible
from limner.autoregressive.pixelcnn import PixelCNN
from limner.contract.image import ImageSpec


@pytest.mark.parametrize("k", [3, 5, 7])
def test_half_of_a_kernel_comes_earlier(k):
    """Mask A keeps (k^2 - 1) / 2 weights, mask B keeps (k^2 + 1) / 2."""
    one, half = torch.zeros(1, dtype=torch.long), k // 2
    for mask, count in (("A", (k * k - 1) // 2), ("B", (k * k + 1) // 2)):
        assert int(visible(one, one, half + 1, half, half, mask).sum()) == count


def test_red_is_seen_by_green_and_both_by_blue():
    channels = feature_channels(6, 3)
    assert channels.tolist() == [0, 0, 1, 1, 2, 2]
    assert feature_channels(6, 3, parts=2).tolist() == [0, 1, 2, 0, 1, 2]
    masks = {mask: visible(channels, channels, 1, 0, 0, mask)[:, :, 0, 0] for mask in "AB"}
    for o in range(6):
        for i in range(6):
            assert masks["A"][o, i] == (o // 2 > i // 2)
            assert masks["B"][o, i] == (o // 2 >= i // 2)


def test_a_masked_convolution_is_a_padded_convolution_with_zeros():
    layer = CausalConv2d(4, 6, 2, 1, 1, channels=2).double()
    x = torch.randn(2, 5, 4, 4, dtype=torch.float64)
    weight = torch.zeros(6, 4, 3, 3, dtype=torch.float64)
    weight[:, :, :2] = layer.kernel().detach()
    plain = torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), plain.permute(0, 2, 3, 1))
    assert not weight[:, :, 1, 2].any()
    assert not weight[:3, 2:, 1, 1].any()


def test_the_blind_spot_matches_theory():
    """In the rows above, a pixel sees no further to the right than the kernels reach: a 3 x 3
    kernel reaches one pixel to the right for one row up, the first kernel three for three."""
    H, W, blocks = 9, 13, 4
    model = PixelCNN(ImageSpec(1, H, W, levels=2), h=6, blocks=blocks, top=4).double()
    row, column = H - 1, W // 2
    x = torch.rand(1, H, W, 1, dtype=torch.float64, requires_grad=True)
    model.network(x, None)[0, row, column].sum().backward()
    assert x.grad is not None
    field = x.grad[0, :, :, 0] != 0

    steps = [(0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 0)]
    first = [(-r, c) for r in range(4) for c in range(-3, 4) if r or c < 0]
    pixels = {(row, column)}
    for _ in range(blocks):
        pixels |= {(r + dr, c + dc) for r, c in pixels for dr, dc in steps}
    pixels = {(r + dr, c + dc) for r, c in pixels for dr, dc in first}
    expected = torch.zeros(H, W, dtype=torch.bool)
    for r, c in pixels:
        if 0 <= r < H and 0 <= c < W:
            expected[r, c] = True
    assert torch.equal(field, expected)
    up = row - torch.arange(H)
    assert not any(field[r, column + int(up[r]) + 3 :].any() for r in range(H))
    assert field[row - 3, column + 3]
    assert not field[row - 1, column + 4 :].any()
