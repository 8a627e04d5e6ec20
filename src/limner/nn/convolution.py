"""3 x 3 convolutions that are faster than torch's in float32 on a CPU: with two thirds of the
multiplications (Winograd's F(2, 3)), or with the kernel's gradient as matrix products."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Ratio of products (channels x out) to sums (channels + out) from which it is faster.
_MIN_WIDTH_RATIO = 40
_MIN_PIXELS = 2048  # pixels of all pictures from which the sums of kernels cost little
_DEEP, _LARGE = 128, 1024  # channels, and pixels of a picture, from which products are faster


class Conv3x3(nn.Conv2d):
    """A convolution that keeps the size; it is faster in float32 on a CPU for many features.

    With rows d of the picture and g of the kernel, two rows of the output are

        y_0 = g_0 d_0 + g_1 d_1 + g_2 d_2    y_1 = g_0 d_1 + g_1 d_2 + g_2 d_3,

    where products are convolutions with a 1 x 3 kernel. Four of them are enough:

        m_0 = g_0 (d_0 - d_2)    m_1 = (g_0 + g_1 + g_2) / 2 (d_1 + d_2)
        m_3 = g_2 (d_1 - d_3)    m_2 = (g_0 - g_1 + g_2) / 2 (d_2 - d_1)
        y_0 = m_0 + m_1 + m_2    y_1 = m_1 - m_2 - m_3.

    Lavin, Gray (2015). Fast algorithms for convolutional neural networks. arXiv:1509.09308, section
    4.1, F(2, 3).

    Args:
        channels: input channels.
        out: output channels.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out, 3, padding=1)

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b out h w"]:
        """Return the convolution; compiled and exported graphs use torch's own, since they have no
        `jvp`."""
        b, c, h, w = input.shape
        is_large = b * h * w >= _MIN_PIXELS and c * self.out_channels >= _MIN_WIDTH_RATIO * (
            c + self.out_channels
        )
        single = input.dtype == self.weight.dtype == torch.float32
        is_plain = input.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if is_large and single and is_plain and h % 2 == 0 and not torch.compiler.is_compiling():
            return _ByRows.apply(input, self.weight, self.bias)  # pyright: ignore
        return super().forward(input)


class _ByRows(torch.autograd.Function):
    """The convolution with four products for two rows; the gradient of x is a convolution of this
    kind."""

    @staticmethod
    def forward(x, weight, bias):
        return _by_rows(x, weight, bias)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, _ = inputs
        ctx.set_materialize_grads(False)  # zeros in `jvp` would cost a further convolution
        ctx.save_for_backward(x, weight)
        ctx.save_for_forward(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # pyright: ignore
        if grad is None:
            return None, None, None
        x, weight = ctx.saved_tensors
        d_x = _by_rows(grad, weight.flip(2, 3).transpose(0, 1), None)
        _, d_weight, d_bias = torch.ops.aten.convolution_backward(
            grad, x, weight, [len(weight)], [1, 1], [1, 1], [1, 1], False, [0, 0], 1,
            [False, True, True],
        )  # fmt: skip
        return d_x, d_weight, d_bias

    @staticmethod
    @torch.no_grad()  # it is not differentiated again
    def jvp(ctx, d_x, d_weight, d_bias):  # pyright: ignore
        x, weight = ctx.saved_tensors
        d_y = x.new_zeros(())
        if d_x is not None:
            d_y = d_y + _by_rows(d_x, weight, None)
        if d_weight is not None or d_bias is not None:
            d_weight = torch.zeros_like(weight) if d_weight is None else d_weight
            d_y = d_y + _by_rows(x, d_weight, d_bias)
        return d_y


def _by_rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    b, _, h, w = x.shape
    g_0, g_1, g_2 = weight.split(1, dim=2)
    mean, half = (g_0 + g_2) / 2, g_1 / 2
    padded = F.pad(x, (0, 0, 1, 1))
    d_0, d_1, d_2, d_3 = (padded[:, :, i : i + h : 2] for i in range(4))
    m_0 = F.conv2d(d_0 - d_2, g_0, padding=(0, 1))
    m_1 = F.conv2d(d_1 + d_2, mean + half, bias, padding=(0, 1))
    m_2 = F.conv2d(d_2 - d_1, mean - half, padding=(0, 1))
    m_3 = F.conv2d(d_1 - d_3, g_2, padding=(0, 1))
    y = x.new_empty(b, h, w, len(weight)).permute(0, 3, 1, 2)
    torch.add(m_0.add_(m_1), m_2, out=y[:, :, 0::2])
    torch.sub(m_1.sub_(m_2), m_3, out=y[:, :, 1::2])
    return y


class InnerConv3x3(nn.Conv2d):
    """A convolution without padding and bias; its kernel's gradient is nine matrix products.

    The pictures, row by row, are one long list of pixels. Each place of the kernel uses this list
    from another start:

        d g[i, j] = sum_p d_y[p] x[p + i W + j]^T,    d_y is 0 where a row of y ends before x's.

    With 128 channels and 32 x 32 pixels it takes half as long as torch's own on AVX2.

    Args:
        channels: input channels.
        out: output channels.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out, 3, bias=False)

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b out hh ww"]:
        """Return the convolution, two pixels smaller along each side."""
        c, h, w = input.shape[1:]
        is_large = min(c, self.out_channels) >= _DEEP and (h - 2) * (w - 2) >= _LARGE
        single = input.dtype == self.weight.dtype == torch.float32
        is_plain = input.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if is_large and single and is_plain and torch.is_grad_enabled():
            return _Inner.apply(input, self.weight)  # pyright: ignore
        return super().forward(input)


class _Inner(torch.autograd.Function):
    """torch's convolution and its gradient of x; the kernel's gradient as matrix products."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # pyright: ignore
        x, weight = ctx.saved_tensors
        d_x = d_weight = None
        if ctx.needs_input_grad[0]:
            d_x, _, _ = torch.ops.aten.convolution_backward(
                grad, x, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1,
                [True, False, False],
            )  # fmt: skip
        if ctx.needs_input_grad[1]:
            d_weight = _kernel_gradient(x, grad)
        return d_x, d_weight


def _kernel_gradient(x: Tensor, grad: Tensor) -> Tensor:
    b, c, h, w = x.shape
    out = grad.shape[1]
    pixels = x.permute(0, 2, 3, 1).reshape(b * h * w, c)
    d_y = F.pad(grad.permute(0, 2, 3, 1), (0, 0, 0, 2, 0, 2)).reshape(b * h * w, out)
    last = 2 * w + 2  # offset of the kernel's last corner; the last d_y are 0
    d_y = d_y[: b * h * w - last].T
    patches = [pixels[i * w + j :][: d_y.shape[1]] for i in range(3) for j in range(3)]
    d_g = torch.stack([d_y @ patch for patch in patches], 1)
    return d_g.view(out, 3, 3, c).permute(0, 3, 1, 2)
