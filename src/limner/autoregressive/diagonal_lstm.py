"""Recurrences over a picture that compute the states of many pixels at once.

These pixels form a front: a row of the picture, or a diagonal, which is a column of the skewed
picture of van den Oord, Kalchbrenner, Kavukcuoglu (2016), arXiv:1601.06759, figure 3. A state
depends on states of the previous front. The paper pads the skewed picture; here a front has its
pixels only.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

_CELL_TAP = 1  # the tap of the cell that is carried on


@dataclass(frozen=True)
class Front:
    """Pixels whose states are computed at once.

    Args:
        pixels: their positions among all pixels in the order of the fronts.
        states: positions of their states, where each front is padded by a zero at either end.
        sources: positions of the states that they depend on, for each tap; all belong to the
            previous front.
    """

    pixels: slice
    states: slice
    sources: tuple[slice, ...]


class Scan:
    """The order in which the states of a picture are computed.

    Args:
        orders: raster indices of the pixels in the order of the fronts, in each direction.
        lengths: number of pixels of each front.
        offsets: index of the first state that each front's first pixel depends on, among the states
            of the previous front with its padding.
        taps: number of neighbouring states that a state depends on.
    """

    def __init__(
        self, orders: Int[Tensor, "d pixels"], lengths: list[int], offsets: list[int], taps: int
    ) -> None:
        self.orders, self.inverse, self.taps = orders, orders.argsort(1), taps
        self.fronts: list[Front] = []
        pixel, before, place = 0, 0, lengths[0] + 2  # zeros come before the first front
        for length, offset in zip(lengths, offsets):
            starts = [before + offset + tap for tap in range(taps)]
            sources = tuple(slice(start, start + length) for start in starts)
            states = slice(place + 1, place + 1 + length)
            self.fronts.append(Front(slice(pixel, pixel + length), states, sources))
            pixel, before, place = pixel + length, place, place + length + 2
        self.places = place

    def pack(self, x: Float[Tensor, "b pixels d f"]) -> Float[Tensor, "d pixels b f"]:
        """Return a picture's features in the order of the fronts, in each direction."""
        return _pick(x.permute(2, 1, 0, 3), self.orders)

    def unpack(self, x: Float[Tensor, "d pixels b f"]) -> Float[Tensor, "b pixels d f"]:
        """Invert `pack`."""
        return _pick(x, self.inverse).permute(2, 1, 0, 3)

    def strip(self, states: Float[Tensor, "d places b f"]) -> Float[Tensor, "d pixels b f"]:
        """Return the states without the zeros between fronts."""
        return torch.cat([states[:, front.states] for front in self.fronts], 1)

    def tap_states(
        self, states: Float[Tensor, "d places b f"], tap: int
    ) -> Float[Tensor, "d pixels b f"]:
        """Return the state that each pixel depends on through one tap."""
        return torch.cat([states[:, front.sources[tap]] for front in self.fronts], 1)


def _pick(x: Float[Tensor, "d pixels b f"], orders: Tensor) -> Float[Tensor, "d pixels b f"]:
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    for d, order in enumerate(orders.to(x.device)):
        torch.index_select(x[d], 0, order, out=y[d])
    return y


@lru_cache(maxsize=16)
def rows(height: int, width: int) -> Scan:
    """Return a scan row by row; a state depends on the three states above it."""
    return Scan(torch.arange(height * width)[None], [width] * height, [0] * height, 3)


@lru_cache(maxsize=16)
def diagonals(height: int, width: int) -> Scan:
    """Return a scan by diagonals, from the upper left and from the upper right corner; a state
    depends on the state above and on the one before it in its row."""
    raster = torch.arange(height * width)
    row, column = raster // width, raster % width
    order = ((row + column) * height + row).argsort()
    mirrored = (row * width + width - 1 - column)[order]
    first = [max(0, t - width + 1) for t in range(height + width - 1)]  # row of each diagonal
    lengths = [min(t, height - 1) - r + 1 for t, r in enumerate(first)]
    offsets = [b - a for a, b in zip([0, *first], first)]
    return Scan(torch.stack([order, mirrored]), lengths, offsets, 2)


class Recurrence(torch.autograd.Function):
    """All states of a picture, from the input's part of the gates and K_ss.

    The gradient is implemented by hand: one backward pass over the fronts, and one product for
    K_ss.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, scan: Scan) -> Tensor:
        """Return h, "b pixels d h", given K_is * x, "b pixels d 4h", and K_ss, "d taps h 4h"."""
        gates, h = scan.pack(inputs), weight.shape[2]
        directions, _, b, _ = gates.shape
        states = gates.new_zeros(directions, scan.places, b, h)
        cells = torch.zeros_like(states)
        for front in scan.fronts:
            front_gates, cell = gates[:, front.pixels], cells[:, front.states]
            for tap, source in enumerate(front.sources):
                front_gates.flatten(1, 2).baddbmm_(states[:, source].flatten(1, 2), weight[:, tap])
            i, f, o = front_gates[..., : 3 * h].sigmoid_().chunk(3, -1)
            torch.mul(f, cells[:, front.sources[_CELL_TAP]], out=cell)
            cell.addcmul_(i, front_gates[..., 3 * h :].tanh_())
            torch.mul(o, cell.tanh(), out=states[:, front.states])
        ctx.save_for_backward(gates, weight, states, cells)
        ctx.scan = scan
        return scan.unpack(scan.strip(states))

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of the input's part of the gates, and of K_ss."""
        gates, weight, states, cells = ctx.saved_tensors
        scan, h = ctx.scan, weight.shape[2]
        grad, transposed = scan.pack(grad), weight.transpose(2, 3)
        d_gates = torch.empty_like(gates)
        d_states, d_cells = torch.zeros_like(states), torch.zeros_like(cells)
        for front in reversed(scan.fronts):
            front_gates, d_front_gates = gates[:, front.pixels], d_gates[:, front.pixels]
            i, f, o, g = front_gates.chunk(4, -1)
            d_i, d_f, d_o, d_g = d_front_gates.chunk(4, -1)
            before, tanh = front.sources[_CELL_TAP], cells[:, front.states].tanh()
            d_state = d_states[:, front.states].add_(grad[:, front.pixels])
            d_cell = d_cells[:, front.states].add_(d_state * o * (1 - tanh * tanh))
            torch.mul(d_cell, g, out=d_i)
            torch.mul(d_cell, cells[:, before], out=d_f)
            torch.mul(d_state, tanh, out=d_o)
            torch.mul(d_cell, i * (1 - g * g), out=d_g)
            sigmoids = front_gates[..., : 3 * h]
            d_front_gates[..., : 3 * h].mul_(sigmoids * (1 - sigmoids))
            d_cells[:, before].addcmul_(d_cell, f)
            for tap, source in enumerate(front.sources):
                d_states[:, source].flatten(1, 2).baddbmm_(
                    d_front_gates.flatten(1, 2), transposed[:, tap]
                )
        flat = d_gates.flatten(1, 2)
        taps = [
            scan.tap_states(states, tap).flatten(1, 2).transpose(1, 2) for tap in range(scan.taps)
        ]
        return scan.unpack(d_gates), torch.stack([tap @ flat for tap in taps], 1), None
