"""Causal convolutions, for whole pictures and for one pixel at a time.

Pictures are scanned row by row, left to right, and each pixel channel by channel. Features are the
last dimension of every tensor: "b h w f" of a whole picture, "b w f" of a row, "n f" of pixels. So
pointwise operations (activations, gates, residuals) are written once for all three.

While a picture is painted, a `Walk` holds the position, and each convolution caches the inputs that
it needs again, padded with zeros. The contribution of the rows above is computed for a whole row
when the row starts; a pixel then costs one small matrix product per layer. (Ramachandran et al.
(2017), arXiv:1704.06001, cache in a similar way.) If no row has to wait until the row above is
finished, pixels of many rows are painted at once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

Mask = Literal["A", "B"]
_T = TypeVar("_T")


@dataclass
class Walk:
    """The position of painting, and each layer's cache of earlier pixels.

    It goes from front to front. A front consists of pixels that are painted at once: one of each
    row that is not finished, `lag` columns behind the pixel of the row above.

    Args:
        height, width: size of the picture.
        lag: columns between the pixels of two rows, at most the width; if it is the width, a front
            is a single pixel.
        row, column: position of the front's first pixel, the uppermost one.
        count: number of pixels of the front.
        memory: the cache of each layer, which creates it at its first call.
    """

    height: int
    width: int
    lag: int
    row: int = 0
    column: int = 0
    count: int = 1
    memory: dict[nn.Module, Any] = field(default_factory=dict[nn.Module, Any])

    def fronts(self) -> Iterator[Self]:
        """Yield this walk at each front, from the first to the last."""
        for step in range(self.width + self.lag * (self.height - 1)):
            end = min(step // self.lag + 1, self.height)
            self.row = max(0, -((self.width - 1 - step) // self.lag))  # rows before are finished
            self.column, self.count = step - self.lag * self.row, end - self.row
            yield self

    def front(self, x: Shaped[Tensor, "h w *at"]) -> Shaped[Tensor, "p *at"]:
        """Return a writable view of the front's pixels."""
        down, right, *rest = x.stride()
        offset = x.storage_offset() + self.row * down + self.column * right
        stride = down - self.lag * right
        return x.as_strided((self.count, *x.shape[2:]), (stride, *rest), offset)

    def each_row(self, owner: nn.Module, compute: Callable[[], _T]) -> _T:
        """Return a value that is computed when a row starts, and cached until its end."""
        row, value = self.memory.get(owner, (None, None))
        if row != self.row:
            value = compute()
            self.memory[owner] = self.row, value
        return value

    def row_above(self, x: Float[Tensor, "b h w i"]) -> Float[Tensor, "b w i"]:
        """Return the row above the walk's; zeros above the first row."""
        return x[:, self.row - 1] if self.row else torch.zeros_like(x[:, 0])

    def pixel_before(self, x: Float[Tensor, "b h w i"]) -> Float[Tensor, "b i"]:
        """Return the pixel to the left of the walk's; zeros to the left of the first column."""
        row = x[:, self.row]
        return row[:, self.column - 1] if self.column else torch.zeros_like(row[:, 0])

    def at_half_size(self) -> "Walk":
        """Return the same walk, of single pixels, on a picture of half the size."""
        height, width = (self.height + 1) // 2, (self.width + 1) // 2
        return Walk(height, width, width, self.row // 2, self.column // 2, memory=self.memory)


def feature_channels(features: int, channels: int, parts: int = 1) -> Int[Tensor, "features"]:
    """Return the channel of the picture that each feature belongs to: equal shares, in order, in
    each part."""
    size = features // parts
    return (torch.arange(size) * channels // size).repeat(parts)


def visible(
    outs: Int[Tensor, "o"], ins: Int[Tensor, "i"], rows: int, left: int, right: int, mask: Mask
) -> Bool[Tensor, "o i rows columns"]:
    """Return a mask of the kernel weights that apply to earlier pixels only.

    Args:
        outs, ins: the channel that each output and input feature belongs to.
        rows: rows of the kernel; the last one is the pixel's own.
        left, right: columns of the kernel to either side; those to the right in the rows above
            only.
        mask: at the pixel itself, "A" allows earlier channels, "B" the same channel as well.
    """
    weight_mask = torch.ones(len(outs), len(ins), rows, left + 1 + right, dtype=torch.bool)
    weight_mask[:, :, -1, left + 1 :] = False
    weight_mask[:, :, -1, left] = outs[:, None] > ins if mask == "A" else outs[:, None] >= ins
    return weight_mask


class _Convolution(nn.Module):
    """A convolution over some rows, where the last row is the pixel's own.

    Args:
        weight_mask: mask of the weights; the others are 0.
        left: columns of the kernel to the left of the pixel.
        stride: rows and columns that share an output, which is that of the first of them.

    Weights and biases are initialised uniformly within 1 / sqrt(n), where n is the number of inputs
    of an output.
    """

    mask: Tensor | None

    def __init__(
        self, weight_mask: Bool[Tensor, "o i rows columns"], left: int, stride: int = 1
    ) -> None:
        super().__init__()
        self.stride = stride
        _, _, self.rows, columns = weight_mask.shape
        self.left, self.right = left, columns - 1 - left
        bound = weight_mask.flatten(1).sum(1).clamp(min=1).rsqrt()
        weight = (2 * torch.rand(weight_mask.shape) - 1) * bound[:, None, None, None]
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
        self.bias = nn.Parameter((2 * torch.rand(len(weight_mask)) - 1) * bound)
        self.register_buffer(
            "mask", None if weight_mask.all() else weight_mask.float(), persistent=False
        )

    def kernel(self) -> Float[Tensor, "o i rows columns"]:
        """Return the masked weights."""
        return self.weight if self.mask is None else self.weight * self.mask

    def whole(self, x: Float[Tensor, "b h w i"]) -> Float[Tensor, "b hh ww o"]:
        """Return features of the whole picture."""
        kernel = self.kernel()
        if kernel.shape[2:] != (1, 1):
            x = F.pad(x, (0, 0, self.left, self.right, self.rows - 1, 0))
        return _convolve(x, kernel, self.bias, self.stride)

    def halo(
        self, x: Float[Tensor, "*at i"], walk: Walk, rows: int
    ) -> Float[Tensor, "b rows columns i"]:
        """Return a buffer of zeros for the last rows of the input, with their padding."""
        return x.new_zeros(len(x), rows, self.left + walk.width + self.right, x.shape[-1])


def _convolve(x: Tensor, kernel: Tensor, bias: Tensor, stride: int) -> Tensor:
    return F.conv2d(x.permute(0, 3, 1, 2), kernel, bias, stride).permute(0, 2, 3, 1)


class CausalConv2d(_Convolution):
    """A masked convolution of the rows above, and of its own row up to its own pixel.

    van den Oord, Kalchbrenner, Kavukcuoglu (2016), arXiv:1601.06759, section 3.4. The paper's
    kernel rows below the pixel are left out: 3 x 3 costs as much as 2 x 3.

    Args:
        ins, outs: input and output features.
        rows, left, right, mask: see `visible`.
        channels: channels of the picture, among which the features are divided.
        parts: parts into which the output will be split, each with features of every channel.
        stride: stride of the output; a walk gets an output at each pixel, and those between
            strides are meaningless.
    """

    def __init__(
        self,
        ins: int,
        outs: int,
        rows: int = 1,
        left: int = 0,
        right: int = 0,
        mask: Mask = "B",
        channels: int = 1,
        parts: int = 1,
        stride: int = 1,
    ) -> None:
        out_ids, in_ids = feature_channels(outs, channels, parts), feature_channels(ins, channels)
        super().__init__(visible(out_ids, in_ids, rows, left, right, mask), left, stride)

    def forward(
        self, x: Float[Tensor, "*at i"], walk: Walk | None = None
    ) -> Float[Tensor, "*to o"]:
        """Return features of the whole picture; with a walk, of its front, "(p b) o". Then x is
        the input at the front, or a whole input that is still being filled, as the picture is."""
        if walk is None:
            return self.whole(x)
        memory = walk.memory.get(self)
        if memory is None:
            if self.weight.shape[2:] == (1, 1):
                memory = _PointCache(self)
            else:
                memory = (_FrontCache if walk.lag < walk.width else _PixelCache)(self, x, walk)
            walk.memory[self] = memory
        return memory.step(x, walk)


class _PointCache:
    """The cache of a masked 1 x 1 kernel."""

    def __init__(self, layer: CausalConv2d) -> None:
        self.kernel, self.bias = layer.kernel()[:, :, 0, 0], layer.bias

    def step(self, x: Tensor, walk: Walk) -> Tensor:
        return F.linear(x, self.kernel, self.bias)


class _PixelCache:
    """The cache of a `CausalConv2d` while a picture is painted pixel by pixel.

    Attributes:
        recent: the last rows of the input, with padding: one fewer than the kernel has, but at
            least one; "b rows columns i".
        above: the kernel's rows except the last, as a matrix; "(rows columns i) o".
        along: the last row up to the pixel, as a matrix; "(columns i) o".
        contribution_above: contribution of the rows above to each pixel of this row; "b w o".

    All other attributes are views of these, made once: the newest row without its padding and each
    pixel of it, the inputs of each output in the rows above and in its own row, and its share of
    `contribution_above`.
    """

    def __init__(self, layer: CausalConv2d, x: Tensor, walk: Walk) -> None:
        kernel, left, width = layer.kernel().permute(2, 3, 1, 0), layer.left, walk.width
        self.grows = x.ndim == 4
        self.bias, self.stride, self.row = layer.bias, layer.stride, 0
        self.above = kernel[:-1].flatten(0, 2)
        self.along = kernel[-1, : left + 1].flatten(0, 1)
        self.recent = layer.halo(x, walk, max(1, layer.rows - 1))
        self.contribution_above = layer.bias.repeat(len(x), -(-width // layer.stride), 1)
        windows = self.recent.unfold(2, kernel.shape[1], 1).permute(0, 2, 1, 4, 3)
        self.windows_above = windows[:, :: self.stride]  # "b w rows columns i"
        self.windows_along = windows[:, :, -1, : left + 1].flatten(2).unbind(1)
        self.current_row = self.recent[:, -1, left : left + width]
        self.pixels, self.shares = self.current_row.unbind(1), self.contribution_above.unbind(1)

    def step(self, x: Tensor, walk: Walk) -> Tensor:
        row, column = walk.row, walk.column
        if self.row != row:
            self.start_row(x, row)
        if self.grows:
            self.current_row.copy_(x[:, row])
        else:
            self.pixels[column].copy_(x)
        return torch.addmm(
            self.shares[column // self.stride], self.windows_along[column], self.along
        )

    def start_row(self, x: Tensor, row: int) -> None:
        self.row = row
        if self.grows:  # the last pixel of the row before was copied before it was painted
            self.current_row.copy_(x[:, row - 1])
        if len(self.above):
            windows = self.windows_above.flatten(2).flatten(0, 1)
            contribution = torch.addmm(self.bias, windows, self.above)
            self.contribution_above.copy_(contribution.view_as(self.contribution_above))
            self.recent.copy_(self.recent.roll(-1, 1))


class _FrontCache:
    """The cache of a `CausalConv2d` while a picture is painted by fronts of many pixels.

    Attributes:
        kernel: the kernel as a matrix; "o (rows columns i)".
        inside: the input, as far as it is known; "h w b i".
        windows: each pixel's window of the padded input; "h w b rows columns i".
    """

    def __init__(self, layer: CausalConv2d, x: Tensor, walk: Walk) -> None:
        rows, columns = layer.weight.shape[2:]
        self.kernel, self.bias = layer.kernel().permute(0, 2, 3, 1).flatten(1), layer.bias
        shape = walk.height + rows - 1, walk.width + columns - 1, len(x), x.shape[-1]
        padded = x.new_zeros(shape)
        self.inside = padded[rows - 1 :, layer.left : layer.left + walk.width]
        self.windows = padded.unfold(0, rows, 1).unfold(1, columns, 1).permute(0, 1, 2, 4, 5, 3)

    def step(self, x: Tensor, walk: Walk) -> Tensor:
        if x.ndim == 4:  # the last front was copied before it was painted, so copy it again
            rows = slice(max(0, walk.row - 1), walk.row + walk.count)
            self.inside[rows] = x[:, rows].permute(1, 2, 0, 3)
        else:
            front = walk.front(self.inside)
            front.copy_(x.view_as(front))
        windows = walk.front(self.windows).flatten(2).flatten(0, 1)
        return F.linear(windows, self.kernel, self.bias)


class RowConv2d(_Convolution):
    """A convolution of the rows above and all of its own row, for features that do not depend on
    the picture's own row.

    Args:
        ins, outs: input and output features.
        rows: rows of the kernel; the last one is the pixel's own.
        reach: columns of the kernel to either side.
        stride: stride of the output, as for `CausalConv2d`.
    """

    def __init__(self, ins: int, outs: int, rows: int, reach: int, stride: int = 1) -> None:
        weight_mask = torch.ones(outs, ins, rows, 2 * reach + 1, dtype=torch.bool)
        super().__init__(weight_mask, reach, stride)

    def forward(
        self, x: Float[Tensor, "*at i"], walk: Walk | None = None
    ) -> Float[Tensor, "*to o"]:
        """Return features of the whole picture; with a walk, of its row, from the row's input."""
        if walk is None:
            return self.whole(x)
        recent = walk.memory.get(self)
        recent = self.halo(x, walk, self.rows) if recent is None else recent.roll(-1, 1)
        recent[:, -1, self.left : self.left + walk.width] = x
        walk.memory[self] = recent
        return _convolve(recent, self.kernel(), self.bias, self.stride)[:, 0]


def shift_down(x: Float[Tensor, "b h w i"]) -> Float[Tensor, "b h w i"]:
    """Return x shifted down by one row; the first row is 0."""
    return F.pad(x, (0, 0, 0, 0, 1, 0))[:, :-1]


def shift_right(x: Float[Tensor, "b h w i"]) -> Float[Tensor, "b h w i"]:
    """Return x shifted right by one column; the first column is 0."""
    return F.pad(x, (0, 0, 1, 0))[:, :, :-1]
