"""PixelRNN: its fronts, what a pixel sees, and its recurrence compared with torch's LSTM."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from limner.autoregressive.diagonal_lstm import Recurrence, diagonals, rows
from limner.autoregressive.pixelrnn import (
    DiagonalBiLSTM,
    PixelRNNDiagonal,
    PixelRNNRow,
    cell_step,
)
from limner.contract.image import ImageSpec
from limner.contract.noise import Noise

SHAPES = [(3, 5), (5, 3), (4, 4), (1, 4), (4, 1)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


@shapes
@pytest.mark.parametrize("scan", [rows, diagonals])
def test_packing_is_invertible_and_keeps_each_pixel_once(scan, shape):
    H, W = shape
    scan = scan(H, W)
    x = torch.randn(2, H * W, len(scan.orders), 3)
    packed = scan.pack(x)
    assert torch.equal(scan.unpack(packed), x)
    assert torch.equal(packed.sort(1).values, x.permute(2, 1, 0, 3).sort(1).values)


@shapes
def test_diagonals_are_columns_of_the_skewed_picture(shape):
    H, W = shape
    row, column = torch.arange(H).repeat_interleave(W), torch.arange(W).repeat(H)
    scan = diagonals(H, W)
    assert len(scan.fronts) == H + W - 1
    for t, front in enumerate(scan.fronts):
        left, right = scan.orders[:, front.pixels]
        assert (row[left] + column[left]).eq(t).all()
        assert (row[right] + W - 1 - column[right]).eq(t).all()
        assert row[left].diff().eq(1).all()


def slow_recurrence(gates, weight, kind):
    """Compute equation 3 one pixel after the other, from gates "b H W d 4h"."""
    b, H, W, D, _ = gates.shape
    h = weight.shape[2]
    zero = gates.new_zeros(b, h)
    out = torch.zeros(b, H, W, D, h, dtype=gates.dtype)
    for d in range(D):
        states, cells = {}, {}
        for r in range(H):
            for m in range(W):
                neighbours = {
                    rows: [(r - 1, m - 1), (r - 1, m), (r - 1, m + 1)],
                    diagonals: [(r - 1, m), (r, m - 1)],
                }[kind]
                c = W - 1 - m if d else m
                total = gates[:, r, c, d]
                for tap, neighbour in enumerate(neighbours):
                    total = total + states.get(neighbour, zero) @ weight[d, tap]
                states[r, m], cells[r, m] = cell_step(total, cells.get(neighbours[1], zero))
                out[:, r, c, d] = states[r, m]
    return out


@shapes
@pytest.mark.parametrize("scan", [rows, diagonals])
def test_the_recurrence_and_its_gradient_match_a_slow_one(scan, shape):
    (H, W), h, b = shape, 3, 2
    D, taps = (1, 3) if scan is rows else (2, 2)
    gates = torch.randn(b, H, W, D, 4 * h, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(D, taps, h, 4 * h, dtype=torch.float64, requires_grad=True)
    fast = Recurrence.apply(gates.flatten(1, 2), weight, scan(H, W)).unflatten(1, (H, W))
    slow = slow_recurrence(gates, weight, scan)
    torch.testing.assert_close(fast, slow)
    v = torch.randn_like(fast)
    for ours, theirs in zip(
        torch.autograd.grad((fast * v).sum(), (gates, weight)),
        torch.autograd.grad((slow * v).sum(), (gates, weight)),
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("scan", [rows, diagonals])
def test_on_a_line_of_pixels_the_recurrence_is_torchs_lstm(scan):
    """The line is a column for the Row LSTM and a row for the Diagonal LSTM. Only the second tap
    has an input."""
    N, h, b = 9, 5, 3
    lstm = torch.nn.LSTM(4, h, batch_first=True).double()
    x = torch.randn(b, N, 4, dtype=torch.float64)
    order = torch.arange(4 * h).view(4, h)[[0, 1, 3, 2]].flatten()  # i f g o -> i f o g
    inputs = (x @ lstm.weight_ih_l0.T + lstm.bias_ih_l0 + lstm.bias_hh_l0)[..., order]
    D, taps = (1, 3) if scan is rows else (2, 2)
    weight = torch.randn(D, taps, h, 4 * h, dtype=torch.float64)
    weight[0, 1] = lstm.weight_hh_l0.T[:, order]
    shape = (N, 1) if scan is rows else (1, N)
    ours = Recurrence.apply(inputs[:, :, None].expand(-1, -1, D, -1), weight, scan(*shape))
    torch.testing.assert_close(ours[:, :, 0], lstm(x)[0])


class Counter(TorchDispatchMode):
    """A mode that counts the operations that reach torch."""

    def __init__(self):
        super().__init__()
        self.counts = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.counts[name] = self.counts.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("model", "steps"), [(PixelRNNDiagonal, 2 * 12 - 1), (PixelRNNRow, 12)], ids=["diagonal", "row"]
)
def test_the_number_of_sequential_steps_is_that_of_the_paper(model, steps):
    """There are 2 N - 1 steps for diagonals in both directions together and N for rows, in training
    and without gradients. Each has one activation of all sigmoid gates and one product per tap."""
    N, layers = 12, 2
    model = model(ImageSpec(1, N, N, levels=2), h=2, layers=layers, top=2)
    x = torch.rand(1, 1, N, N).round() * 2 - 1
    for training in (True, False):
        with torch.set_grad_enabled(training), Counter() as counter:
            nats = model.log_prob(x, noise=Noise.sampling(0, 1)).nats
        taps = model.network.layers[0].weight.shape[1]
        assert counter.counts["sigmoid_"] == layers * steps
        assert counter.counts["baddbmm_"] == layers * steps * taps
        if training:
            with Counter() as counter:
                nats.sum().backward()
            assert counter.counts["baddbmm_"] == layers * steps * taps
            assert counter.counts["tanh"] == layers * steps


def test_the_map_from_the_right_is_shifted_down():
    """With only its own row from the left, a state sees this row up to itself and, in the rows
    above, the pixels directly above it and to the right."""
    H, W = 4, 5
    layer = DiagonalBiLSTM(3, 1, 0).double()
    layer.weight.data[0].zero_()
    picture = torch.randn(1, H, W, 1, dtype=torch.float64)
    x = torch.randn(1, H, W, 6, dtype=torch.float64)

    def seen(function, inputs):
        return torch.autograd.functional.jacobian(function, inputs)[:, :, 0].abs().sum(-1) != 0

    by_features = seen(lambda x: layer(x, picture, None, None).sum((0, 3)), x)
    by_itself = seen(lambda picture: layer(x, picture, None, None).sum((0, 3)), picture)
    for r in range(H):
        for c in range(W):
            expected = torch.zeros(H, W, dtype=torch.bool)
            expected[:r, c:] = True
            assert torch.equal(by_itself[r, c], expected)
            expected[r, : c + 1] = True
            assert torch.equal(by_features[r, c], expected)


def receptive_field(model, row: int, column: int) -> torch.Tensor:
    """Return a mask of the pixels on which theta at one pixel depends."""
    _, H, W = model.spec.shape
    x = torch.rand(1, H, W, 1, dtype=torch.float64, requires_grad=True)
    model.network(x, None)[0, row, column].sum().backward()
    assert x.grad is not None
    return x.grad[0, :, :, 0] != 0


def test_the_row_lstm_sees_exactly_a_triangle():
    """dr rows up, it reaches dr + 2 to the right and dr + 3 + layers to the left: each row up is a
    step to either side, the first convolution adds three, K_is one to the left in each layer."""
    H, W, layers, row, column = 8, 21, 2, 7, 11
    model = PixelRNNRow(ImageSpec(1, H, W, levels=2), h=3, layers=layers, top=4).double()
    expected = torch.zeros(H, W, dtype=torch.bool)
    expected[row, column - 3 - layers : column] = True
    for up in range(1, H):
        left = max(0, column - up - 3 - layers)
        expected[row - up, left : column + up + 3] = True
    field = receptive_field(model, row, column)
    assert torch.equal(field, expected)
    assert not field[row - 1, column + 4 :].any()


def test_the_diagonal_bilstm_sees_every_earlier_pixel():
    H, W = 6, 7
    model = PixelRNNDiagonal(ImageSpec(1, H, W, levels=2), h=3, layers=1, top=4).double()
    raster = torch.arange(H * W).view(H, W)
    for row, column in ((0, 0), (0, 6), (3, 0), (5, 3), (5, 6)):
        assert torch.equal(receptive_field(model, row, column), raster < raster[row, column])
