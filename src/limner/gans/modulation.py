"""Equalised learning rates, and convolutions with weights modulated by a style.

An equalised layer stores weights of unit variance and multiplies them by He's constant in its
forward pass, so that Adam changes all layers at the same relative speed (Karras, Aila, Laine,
Lehtinen, 2017, arXiv:1710.10196, section 4.1). With a rate m the stored weights are 1 / m as large,
and learn m times as fast.

A modulated convolution scales the weights of input channel i by a style s_i. Demodulation then
scales every output map's weights to unit length (Karras, Laine, Aittala, Hellsten, Lehtinen, Aila,
2019, arXiv:1912.04958, equations 1 and 3):

    w'_oik = s_i w_oik        w''_oik = w'_oik / sqrt(sum_ik w'_oik^2 + 1e-8)

Each picture has its own style, and so its own weights w''. But convolution is linear: w'' * x
equals d_o (w * (s_i x_i)) with d_o = 1 / sqrt(sum_i s_i^2 sum_k w_oik^2 + 1e-8), which needs one
ordinary convolution for the whole batch.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limner.gans.resampling import blur

_GAIN = math.sqrt(2)
"""Compensates the leaky ReLU, which halves the variance."""


def activate(x: Float[Tensor, "b *rest"]) -> Float[Tensor, "b *rest"]:
    """Return sqrt(2) leaky_relu(x), with slope 0.2."""
    return F.leaky_relu(x, 0.2) * _GAIN


class EqualisedLinear(nn.Module):
    """y = m (W x / sqrt(n) + b), W drawn from N(0, 1 / m^2).

    Args:
        n: number of inputs.
        out: number of outputs.
        rate: m, the multiplier of the learning rate.
        bias: initial value of m b.
    """

    def __init__(self, n: int, out: int, rate: float = 1.0, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, n) / rate)
        self.bias = nn.Parameter(torch.full((out,), bias / rate))
        self.rate, self.scale = rate, rate / math.sqrt(n)

    def forward(self, x: Float[Tensor, "*b n"]) -> Float[Tensor, "*b out"]:
        """Return one row for each row of x."""
        return F.linear(x, self.weight * self.scale, self.bias * self.rate)


def equalise(module: nn.Module) -> None:
    """Replace every `nn.Linear` of a module by an equalised layer that computes the same, in place.

    Args:
        module: the module; all its linear layers must have a bias.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            layer = EqualisedLinear(child.in_features, child.out_features)
            with torch.no_grad():
                layer.weight.copy_(child.weight / layer.scale)
                layer.bias.copy_(child.bias)
            setattr(module, name, layer)
        else:
            equalise(child)


class Conv(nn.Module):
    """A convolution with equalised weights.

    Args:
        channels: input channels.
        out: output channels.
        kernel: side of the kernel.
        bias: whether it adds a bias.
        halving: whether it blurs the picture and halves its size.
    """

    def __init__(
        self, channels: int, out: int, kernel: int, *, bias: bool = True, halving: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out)) if bias else None
        self.scale, self.halving = 1 / math.sqrt(channels * kernel**2), halving
        self.border = kernel // 2

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b out hh ww"]:
        """Return features as high and wide as x, or half as much."""
        w = self.weight * self.scale
        if not self.halving:
            return F.conv2d(x, w, self.bias, padding=self.border)
        return F.conv2d(blur(x, self.border + 1), w, self.bias, stride=2)


class ModulatedConv(nn.Module):
    """A convolution with weights that are scaled by each picture's style.

    Args:
        channels: input channels.
        out: output channels.
        kernel: side of the kernel.
        style: dimension of w; the scales are an affine function of it.
        demodulate: whether the scaled weights of each output map are scaled to unit length.
        doubling: whether it doubles the picture's size and blurs it.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: int,
        style: int,
        *,
        demodulate: bool = True,
        doubling: bool = False,
    ) -> None:
        super().__init__()
        self.affine = EqualisedLinear(style, channels, bias=1.0)
        self.weight = nn.Parameter(torch.randn(out, channels, kernel, kernel))
        self.scale = 1 / math.sqrt(channels * kernel**2)
        self.demodulate, self.doubling, self.border = demodulate, doubling, kernel // 2

    def forward(
        self, x: Float[Tensor, "b c h w"], w: Float[Tensor, "b style"]
    ) -> Float[Tensor, "b out hh ww"]:
        """Return features as high and wide as x, or twice as much."""
        return self.convolve(x, self.affine(w))

    def convolve(
        self, x: Float[Tensor, "b c h w"], s: Float[Tensor, "b c"]
    ) -> Float[Tensor, "b out hh ww"]:
        """Return the same, given the scales s."""
        weight = self.weight * self.scale
        h = self.convolve_with(x * s[:, :, None, None], weight)
        if not self.demodulate:
            return h
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 keeps only three digits
            s = s.to(weight.dtype)
            squares = F.linear(s.square(), weight.square().sum((2, 3)))
        return h * (squares + 1e-8).rsqrt().to(h.dtype)[:, :, None, None]

    def convolve_with(
        self, x: Float[Tensor, "b c h w"], weight: Float[Tensor, "out c k k"]
    ) -> Float[Tensor, "b out hh ww"]:
        """Convolve x with given weights, doubling the size if this layer does."""
        if self.doubling:
            return 4 * blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), self.border)
        return F.conv2d(x, weight, padding=self.border)
