"""PixelRNN: LSTMs over the rows or the diagonals of a picture.

van den Oord, Kalchbrenner, Kavukcuoglu (2016). Pixel recurrent neural networks. arXiv:1601.06759,
sections 3.1 to 3.6 and table 1.

The states of many pixels, a front, are computed at once from the states of the previous front:

    i, f, o = sigmoid(K_ss * h + K_is * x),   g = tanh(K_ss * h + K_is * x)        (3)
    c' = f c + i g,   h' = o tanh(c')

    Row LSTM            a front is a row; a state depends on three states of the row above, so that
                        a pixel depends on a triangle
    Diagonal BiLSTM     a front is a diagonal, a column of the skewed picture; a state depends on
                        the state to its left and the one above. An N x N picture has 2 N - 1
                        diagonals. A second map starts from the upper right corner, and is shifted
                        down by one row before it is added, so that a pixel depends on all earlier
                        pixels

Kept: a 7 x 7 convolution with mask A; layers on 2 h features, with h features for each gate;
residual connections, and skip connections from each layer to the top (section 3.3); two 1 x 1
convolutions; a softmax. K_is has mask B, and is one product for all gates of both directions.
Different: labels and captions shift the gates. The second map, which is shifted down anyway,
depends on each pixel itself, because otherwise the last pixel of the row above is hidden from most
pixels.
"""

from abc import ABC, abstractmethod
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limner.autoregressive.autoregressive_model import AutoregressiveModel
from limner.autoregressive.causal_convolution import CausalConv2d, Walk, shift_down
from limner.autoregressive.diagonal_lstm import Recurrence, Scan, diagonals, rows
from limner.contract.image import ImageSpec
from limner.contract.options import Count, Share
from limner.contract.registry import Paper, register
from limner.maths.pixel_distributions import softmax_distribution

PAPER = Paper(
    "Pixel recurrent neural networks", "van den Oord, Kalchbrenner, Kavukcuoglu", 2016, "1601.06759"
)


def cell_step(
    gates: Float[Tensor, "b g"], cell: Float[Tensor, "b h"]
) -> tuple[Float[Tensor, "b h"], Float[Tensor, "b h"]]:
    """Return h and c of one pixel: equation 3 after its convolutions."""
    i, f, o, g = gates.chunk(4, -1)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


class _Cache(Protocol):
    """A layer's cache while a picture is painted."""

    def step(
        self, gates: Float[Tensor, "n g"], picture: Float[Tensor, "b h w c"], walk: Walk
    ) -> Float[Tensor, "n f"]: ...


class _RowCache:
    """The Row LSTM, front by front.

    Attributes:
        states, cells: states and cells computed so far; "height w b h".
        states_above: the three states above each pixel, padded with zeros; "height w b taps h".
        above: the cell above each pixel; "height w b h".
    """

    def __init__(self, weight: Tensor, like: Tensor, walk: Walk) -> None:
        (_, taps, h, _), height = weight.shape, walk.height + 1
        self.weight = weight[0].flatten(0, 1)
        states = like.new_zeros(height, walk.width + taps - 1, len(like), h)
        cells = like.new_zeros(height, walk.width, len(like), h)
        self.states_above, self.states = states.unfold(1, taps, 1).transpose(3, 4), states[1:, 1:-1]
        self.above, self.cells = cells, cells[1:]

    def step(
        self, gates: Float[Tensor, "n g"], picture: Float[Tensor, "b h w c"], walk: Walk
    ) -> Float[Tensor, "n f"]:
        windows = walk.front(self.states_above).flatten(2).flatten(0, 1)
        gates = torch.addmm(gates, windows, self.weight)
        state, cell = cell_step(gates, walk.front(self.above).flatten(0, 1))
        for buffer, new in ((self.states, state), (self.cells, cell)):
            front = walk.front(buffer)
            front.copy_(new.view_as(front))
        return state


class _RowStates:
    """States along a row, each given the state before it and the one above.

    Attributes:
        states, cells: states and cells of this row as far as computed, else of the row above; the
            first one is 0.
        gates_above: contribution of the row above to this row's gates.
    """

    def __init__(self, weight: Tensor, like: Tensor, width: int) -> None:
        self.up, self.left = weight
        self.states = like.new_zeros(len(like), width + 1, weight.shape[1])
        self.cells = torch.zeros_like(self.states)
        self.start_row()

    def start_row(self) -> None:
        self.gates_above = self.states[:, 1:] @ self.up

    def step(self, gates: Float[Tensor, "b g"], column: int) -> Float[Tensor, "b h"]:
        gates = torch.addmm(gates + self.gates_above[:, column], self.states[:, column], self.left)
        self.states[:, column + 1], self.cells[:, column + 1] = cell_step(
            gates, self.cells[:, column]
        )
        return self.states[:, column + 1]


class _DiagonalCache:
    """The Diagonal BiLSTM, pixel by pixel; the map from the right, when the next row starts."""

    def __init__(self, layer: "DiagonalBiLSTM", like: Tensor, width: int) -> None:
        self.left, self.right = (_RowStates(weight, like, width) for weight in layer.weight)
        self.gates = like.new_zeros(len(like), width, like.shape[1] // 2)
        self.colours, self.row = layer.colours, 0
        self.above = torch.zeros_like(self.right.states[:, 1:])

    def step(
        self, gates: Float[Tensor, "b g"], picture: Float[Tensor, "b h w c"], walk: Walk
    ) -> Float[Tensor, "b f"]:
        if self.row != walk.row:
            self.row = walk.row
            inputs = (self.gates + self.colours(picture[:, walk.row - 1])).flip(1)
            for column in range(walk.width):
                self.right.step(inputs[:, column], column)
            self.above = self.right.states[:, 1:].flip(1)
            self.left.start_row()
            self.right.start_row()
        left_gates, self.gates[:, walk.column] = gates.chunk(2, 1)
        return self.left.step(left_gates, walk.column) + self.above[:, walk.column]


class _LSTM(nn.Module, ABC):
    """Equation 3 over a picture.

    Args:
        h: features of the states and of each gate.
        channels: channels of the picture.
        vector: length of the condition's vector; 0 without one.
        directions, taps: first dimensions of K_ss.
        left: columns of K_is to the left of the pixel.
    """

    def __init__(
        self, h: int, channels: int, vector: int, directions: int, taps: int, left: int
    ) -> None:
        super().__init__()
        gates = 4 * directions
        self.conv_in = CausalConv2d(2 * h, gates * h, left=left, channels=channels, parts=gates)
        self.condition_bias = nn.Linear(vector, gates * h, bias=False) if vector else None
        weight = 2 * torch.rand(directions, taps, h, 4 * h) - 1
        self.weight = nn.Parameter(weight / (taps * h) ** 0.5)

    def forward(
        self,
        x: Float[Tensor, "*at i"],
        picture: Float[Tensor, "b h w c"],
        vector: Tensor | None,
        walk: Walk | None,
    ) -> Float[Tensor, "*at f"]:
        """Return the states of the whole picture, or of the walk's front."""
        gates = self.conv_in(x, walk)
        if self.condition_bias is not None:
            gates = gates + self.condition_bias(vector)
        if walk is None:
            return self.whole(gates, picture)
        if self not in walk.memory:
            walk.memory[self] = self.new_cache(gates, walk)
        cache: _Cache = walk.memory[self]
        return cache.step(gates, picture, walk)

    @abstractmethod
    def whole(
        self, gates: Float[Tensor, "b h w g"], picture: Float[Tensor, "b h w c"]
    ) -> Float[Tensor, "b h w f"]:
        """Return the states of the whole picture, given the input's part of their gates."""

    @abstractmethod
    def new_cache(self, like: Float[Tensor, "b g"], walk: Walk) -> _Cache:
        """Return a new cache for painting."""

    def states(self, inputs: Float[Tensor, "b h w d g"], scan: Scan) -> Float[Tensor, "b h w d f"]:
        """Return the states of each direction, in the precision of K_ss, as its sums are long."""
        with torch.autocast(inputs.device.type, enabled=False):
            pixels = inputs.flatten(1, 2).to(self.weight.dtype)
            states = Recurrence.apply(pixels, self.weight, scan)
        assert isinstance(states, Tensor)
        return states.unflatten(1, inputs.shape[1:3])


class RowLSTM(_LSTM):
    """The Row LSTM of section 3.1: K_is is 3 x 1 with mask B, K_ss 3 x 1 on the row above."""

    def __init__(self, h: int, channels: int, vector: int) -> None:
        super().__init__(h, channels, vector, directions=1, taps=3, left=1)

    def whole(
        self, gates: Float[Tensor, "b h w g"], picture: Float[Tensor, "b h w c"]
    ) -> Float[Tensor, "b h w f"]:
        """Return the states, computed row by row."""
        return self.states(gates[..., None, :], rows(*gates.shape[1:3]))[..., 0, :]

    def new_cache(self, like: Float[Tensor, "b g"], walk: Walk) -> _Cache:
        """Return a new cache of states and cells."""
        return _RowCache(self.weight, like, walk)


class DiagonalBiLSTM(_LSTM):
    """The Diagonal BiLSTM of section 3.2: K_is is 1 x 1 with mask B, K_ss 2 x 1 on the skewed map,
    in two directions."""

    def __init__(self, h: int, channels: int, vector: int) -> None:
        super().__init__(h, channels, vector, directions=2, taps=2, left=0)
        self.colours = nn.Linear(channels, 4 * h, bias=False)

    def whole(
        self, gates: Float[Tensor, "b h w g"], picture: Float[Tensor, "b h w c"]
    ) -> Float[Tensor, "b h w f"]:
        """Return the map from the left plus the map from the right, shifted down by a row."""
        left, right = gates.chunk(2, -1)
        inputs = torch.stack([left, right + self.colours(picture)], -2)
        left, right = self.states(inputs, diagonals(*gates.shape[1:3])).unbind(-2)
        return left + shift_down(right)

    def new_cache(self, like: Float[Tensor, "b g"], walk: Walk) -> _Cache:
        """Return a new cache of the states along a row, in each direction."""
        return _DiagonalCache(self, like, walk.width)


class Network(nn.Module):
    """The network of table 1, which returns theta of every pixel.

    Args:
        kind: class of the layers.
        channels: channels of the picture.
        size: dimension of theta.
        h, layers, top: see `PixelRNN`.
        vector: length of the condition's vector; 0 without one.
    """

    def __init__(
        self,
        kind: type[RowLSTM] | type[DiagonalBiLSTM],
        channels: int,
        size: int,
        h: int,
        layers: int,
        top: int,
        vector: int,
    ) -> None:
        super().__init__()
        self.conv_in = CausalConv2d(channels, 2 * h, 4, 3, 3, "A", channels)
        self.layers = nn.ModuleList(kind(h, channels, vector) for _ in range(layers))
        expand = [CausalConv2d(h, 4 * h, channels=channels, parts=2) for _ in range(layers)]
        self.expand = nn.ModuleList(expand)
        self.top = CausalConv2d(2 * h, top, channels=channels)
        self.conv_out = CausalConv2d(top, size, channels=channels)

    def forward(
        self, picture: Float[Tensor, "b h w c"], vector: Tensor | None, walk: Walk | None = None
    ) -> Float[Tensor, "..."]:
        """Return theta of all pixels, or of the walk's front."""
        x = self.conv_in(picture, walk)
        skips = torch.zeros_like(x)
        for layer, expand in zip(self.layers, self.expand):
            residual, skip = expand(layer(x, picture, vector, walk), walk).chunk(2, -1)
            x, skips = x + residual, skips + skip
        return self.conv_out(F.relu(self.top(F.relu(x + skips), walk)), walk)


class PixelRNN(AutoregressiveModel):
    """Base of both PixelRNNs.

    Args:
        spec: specification of the images.
        kind: class of the layers.
        h: features of the states; layers have twice as many.
        layers: number of layers.
        top: features of the last hidden layer.
        condition_dropout: probability of hiding the condition in training.
    """

    def __init__(
        self,
        spec: ImageSpec,
        kind: type[RowLSTM] | type[DiagonalBiLSTM],
        h: int,
        layers: int,
        top: int,
        condition_dropout: float,
    ) -> None:
        super().__init__(spec, 2 * h, condition_dropout)
        self.law = softmax_distribution(spec)
        size, vector = self.law.size, self.vector_size
        self.network = Network(kind, spec.channels, size, h, layers, top, vector)


@register(
    "pixelrnn-row",
    family="autoregressive",
    paper=PAPER,
    tiny={"h": 4, "layers": 1, "top": 6},
    train={"lr": 1e-3, "clip": 1.0},
)
class PixelRNNRow(PixelRNN):
    """PixelRNN, Row LSTM: exact likelihood with states that depend on a triangle above them.

    Args:
        spec: specification of the images.
        h: features of the states; layers have twice as many.
        layers: number of layers.
        top: features of the last hidden layer.
        condition_dropout: probability of hiding the condition in training.
    """

    lag = 4  # the first kernel reaches 3 columns to the right in the row above, states 1 a row

    def __init__(
        self,
        spec: ImageSpec,
        h: Count = 16,
        layers: Count = 7,
        top: Count = 32,
        condition_dropout: Share = 0.1,
    ) -> None:
        super().__init__(spec, RowLSTM, h, layers, top, condition_dropout)


@register(
    "pixelrnn-diagonal",
    family="autoregressive",
    paper=PAPER,
    tiny={"h": 4, "layers": 1, "top": 6},
    train={"lr": 1e-3, "clip": 1.0},
)
class PixelRNNDiagonal(PixelRNN):
    """PixelRNN, Diagonal BiLSTM: exact likelihood with states that depend on all earlier pixels.

    Args:
        spec: specification of the images.
        h: features of the states; layers have twice as many.
        layers: number of layers.
        top: features of the last hidden layer.
        condition_dropout: probability of hiding the condition in training.
    """

    def __init__(
        self,
        spec: ImageSpec,
        h: Count = 16,
        layers: Count = 7,
        top: Count = 32,
        condition_dropout: Share = 0.1,
    ) -> None:
        super().__init__(spec, DiagonalBiLSTM, h, layers, top, condition_dropout)
