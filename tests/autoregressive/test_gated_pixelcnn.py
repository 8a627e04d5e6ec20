"""Gated PixelCNN: it has no blind spot, and its gates and stacks match figure 2."""

import torch
import torch.nn.functional as F

from limner.autoregressive.gated_pixelcnn import GatedPixelCNN, Horizontal, Vertical
from limner.contract.image import ImageSpec


def test_every_earlier_pixel_within_reach_is_seen_and_nothing_else():
    """The first layer reaches three rows and three pixels to each side; each further layer reaches
    one more."""
    H, W, layers = 6, 12, 2
    model = GatedPixelCNN(ImageSpec(1, H, W, levels=2), features=4, layers=layers, top=4).double()
    side = 3 + layers
    for row, column in ((0, 0), (5, 6), (5, 0), (4, 11), (3, 8)):
        x = torch.rand(1, H, W, 1, dtype=torch.float64, requires_grad=True)
        model.network(x, None)[0, row, column].sum().backward()
        assert x.grad is not None
        expected = torch.zeros(H, W, dtype=torch.bool)
        expected[row, max(0, column - side) : column] = True
        expected[max(0, row - side) : row, max(0, column - side) : column + side + 1] = True
        assert torch.equal(x.grad[0, :, :, 0] != 0, expected)


def test_a_layer_matches_figure_2():
    """Compare with plain masked convolutions: n x n on the rows above, 1 x n on the row."""
    H, W, f = 5, 6, 4
    down, across = (
        Vertical(f, f, 3, rows=2, reach=1).double(),
        Horizontal(f, f, 1, reach=1).double(),
    )
    v, h, condition = torch.randn(3, 2, H, W, f, dtype=torch.float64)
    condition = condition[:, :1, :1, :3]
    v_out, link = down(v, condition, None)
    out = across(h, link, None)

    def first(x):
        return x.permute(0, 3, 1, 2)

    vertical = F.conv2d(F.pad(first(v), (1, 1, 1, 0)), down.conv.weight, down.conv.bias)
    row = torch.zeros(2 * f, f, 1, 3, dtype=torch.float64)
    row[..., :2] = across.conv.weight.detach()
    horizontal = F.conv2d(first(h), row, across.conv.bias, padding=(0, 1))
    linked = F.conv2d(vertical, down.link.weight[:, :, None, None])
    condition_v, condition_h = first(condition @ down.condition_bias.weight.T).chunk(2, 1)
    to_gate = horizontal + linked + condition_h
    gate = to_gate[:, :f].tanh() * to_gate[:, f:].sigmoid()
    expected = F.conv2d(gate, across.conv_out.weight, across.conv_out.bias) + first(h)
    torch.testing.assert_close(first(out), expected)
    gate = (vertical + condition_v)[:, :f].tanh() * (vertical + condition_v)[:, f:].sigmoid()
    torch.testing.assert_close(first(v_out), gate)
