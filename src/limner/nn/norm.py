"""Group normalisation, modulation and SiLU as one operation."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_MIN_PIXELS = 1024  # pixels from which ATen's group norm processes all channels together


def groups(channels: int) -> int:
    """Return the number of groups of a group norm: the most, up to 32, that leave 4 channels in
    each."""
    enough = min(4, channels)
    return next(g for g in (32, 16, 8, 4, 2, 1) if channels % g == 0 and channels // g >= enough)


class NormSiLU(nn.Module):
    """silu((1 + scale) GroupNorm(x) + shift).

    Wu, He (2018). Group normalization. arXiv:1803.08494.

    Args:
        channels: the channels of the picture.
        eps: a number added to the variance.
        count: the number of groups; that of `groups` unless given.
    """

    def __init__(self, channels: int, eps: float = 1e-5, count: int | None = None) -> None:
        super().__init__()
        self.groups, self.eps = count or groups(channels), eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        scale: Float[Tensor, "b c"] | None = None,
        shift: Float[Tensor, "b c"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Return the normalised, modulated, activated features, in x's type."""
        gain, level = self.weight, self.bias
        if scale is not None and shift is not None:
            gain, level = gain * (1 + scale), level * (1 + scale) + shift
        return _activation(x, gain, level, self.groups, self.eps, True)


def group_norm(norm: nn.GroupNorm, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Return the layer's output for x, without modulation and SiLU but as fast as `NormSiLU`."""
    return _activation(x, norm.weight, norm.bias, norm.num_groups, norm.eps, False)


def _activation(
    x: Tensor, gain: Tensor, level: Tensor, groups: int, eps: float, activated: bool
) -> Tensor:
    """Return the features; in compiled networks from their parts, because compilers stop at a
    `jvp`."""
    compiling = torch.compiler.is_dynamo_compiling()
    apply = _Norm.forward if compiling else _Norm.apply
    return apply(x, gain, level, groups, eps, activated)[0]  # pyright: ignore


def instance_norm(
    x: Float[Tensor, "b c h w"], slope: float | None = None, eps: float = 1e-5
) -> Float[Tensor, "b c h w"]:
    """Return (x - mean) / deviation, with the moments of each channel of each picture; then, if a
    slope is given, a leaky ReLU with this slope, as one operation.

    Ulyanov, Vedaldi, Lempitsky (2016). Instance normalization: the missing ingredient for fast
    stylization. arXiv:1607.08022. Here without gain and bias, as translators use it.

    Args:
        x: features.
        slope: the slope for negative numbers, at least 0; None applies no ReLU.
        eps: a number added to the variance.
    """
    return _InstanceNorm.apply(x, slope, eps)  # pyright: ignore


class _InstanceNorm(torch.autograd.Function):
    """d x = (g - mean(g) - y mean(g y)) / deviation, where y are the normalised numbers."""

    @staticmethod
    def forward(ctx, x, slope, eps):
        b, c, h, w = x.shape
        flat = x.permute(0, 2, 3, 1).reshape(b, h * w, c)
        exact = flat.to(_exact(flat, flat))
        mean, square = exact.mean(1, keepdim=True), (exact * exact).mean(1, keepdim=True)
        rstd = square.addcmul(mean, mean, value=-1).clamp_(min=0).add_(eps).rsqrt_()
        y = torch.addcmul((-mean * rstd).to(flat.dtype), flat, rstd.to(flat.dtype))
        if slope is not None:
            F.leaky_relu_(y, slope)
        ctx.save_for_backward(flat, mean, rstd, None if slope is None else y)
        ctx.slope = slope
        return y.view(b, h, w, c).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # pyright: ignore
        flat, mean, rstd, y = ctx.saved_tensors
        b, c, h, w = grad.shape
        g = grad.permute(0, 2, 3, 1).reshape(flat.shape).to(flat.dtype)
        if y is not None:
            g = torch.ops.aten.leaky_relu_backward(g, y, ctx.slope, True)
        level = g.mean(1, keepdim=True, dtype=mean.dtype)
        factor = (g * flat).mean(1, keepdim=True, dtype=mean.dtype)
        factor = factor.addcmul(mean, level, value=-1) * rstd**3
        offset = (mean * factor - rstd * level).to(flat.dtype)
        d_x = torch.addcmul(offset, flat, (-factor).to(flat.dtype))
        d_x = d_x.addcmul_(g, rstd.to(flat.dtype))
        return d_x.view(b, h, w, c).permute(0, 3, 1, 2), None, None


class _Norm(torch.autograd.Function):
    """silu(gain (x - mean) / deviation + level), or the same without SiLU, with the moments of
    groups of channels of each image.

    As one operation it reads picture-sized tensors as seldom as possible: on a CPU, torch's group
    norm of a channels-last tensor, followed by modulation and SiLU, takes about twice as long. For
    many pixels, torch's group norm alone is the fastest. Statistics are computed in float32, or in
    float64 if an input is float64.
    """

    @staticmethod
    def forward(x, gain, level, groups, eps, activated):
        """Return the features, and mean and 1 / deviation of each channel's group, "b c"."""
        b, c, h, w = x.shape
        flat = _flat(x)
        large = h * w >= _MIN_PIXELS and x.device.type == "cpu"
        large = large and not torch.compiler.is_dynamo_compiling()  # `_by_library` writes in place
        single = gain.dtype == _exact(flat, gain) == torch.float32
        normalise = _by_library if large and single else _by_moments
        y, mean, rstd = normalise(flat, gain, level, groups, eps)
        if activated:
            y = F.silu(y, inplace=True)
        return y.view(b, h, w, c).permute(0, 3, 1, 2), mean, rstd

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Save the inputs of both derivatives."""
        x, gain, level, groups, _, activated = inputs
        _, mean, rstd = output
        ctx.mark_non_differentiable(mean, rstd)
        ctx.save_for_backward(x, gain, level, mean, rstd)
        ctx.save_for_forward(x, gain, level, mean, rstd)
        ctx.groups, ctx.activated = groups, activated
        ctx.count = x.shape[2] * x.shape[3] * (x.shape[1] // groups)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, *_):  # pyright: ignore
        """Return the gradients of x, gain and level."""
        x, gain, level, mean, rstd = ctx.saved_tensors
        b, c, h, w = grad.shape
        flat = _flat(x)
        g = _flat(grad).to(flat.dtype)
        dtype = _exact(flat, gain)
        if ctx.activated:
            g = torch.ops.aten.silu_backward(g, _normalise(flat, gain, level, mean, rstd))
        d_level = g.sum(1, dtype=dtype)
        d_gain = rstd * ((g * flat).sum(1, dtype=dtype) - mean * d_level)
        factor = _group_sum(gain * d_gain, ctx.groups) / ctx.count * rstd * rstd
        offset = mean * factor - rstd * _group_sum(gain * d_level, ctx.groups) / ctx.count
        d_x = torch.addcmul(_row(offset, flat), flat, _row(-factor, flat))
        d_x = d_x.addcmul_(g, _row(rstd * gain, flat))
        d_gain, d_level = d_gain.sum_to_size(gain.shape), d_level.sum_to_size(gain.shape)
        return d_x.view(b, h, w, c).permute(0, 3, 1, 2), d_gain, d_level, None, None, None

    @staticmethod
    def jvp(ctx, d_x, d_gain, d_level, *_):  # pyright: ignore
        """Return the derivative along (d_x, d_gain, d_level).

        With a = gain (x - mean) rstd + level, it is silu'(a) da, where d mean = E d_x and
        d rstd = -rstd^3 E (x - mean) d_x over each group.
        """
        x, gain, level, mean, rstd = ctx.saved_tensors
        b, c, h, w = x.shape
        flat, dtype = _flat(x), _exact(x, gain)
        slope, offset = torch.zeros_like(mean), torch.zeros_like(mean)  # of x in da
        d_a = torch.zeros_like(flat)
        if d_x is not None:
            d = _flat(d_x).to(flat.dtype)
            d_mean = _group_sum(d.sum(1, dtype=dtype), ctx.groups) / ctx.count
            moment = _group_sum((flat * d).sum(1, dtype=dtype), ctx.groups) / ctx.count
            d_rstd = -(rstd**3) * (moment - mean * d_mean)
            slope = slope + gain * d_rstd
            offset = offset - gain * (d_mean * rstd + mean * d_rstd)
            d_a = d * _row(rstd * gain, flat)
        if d_gain is not None:
            slope, offset = slope + d_gain * rstd, offset - d_gain * rstd * mean
        if d_level is not None:
            offset = offset + d_level
        d_a = torch.addcmul(_row(offset, flat) + d_a, flat, _row(slope, flat))
        if ctx.activated:
            d_a = torch.ops.aten.silu_backward(d_a, _normalise(flat, gain, level, mean, rstd))
        return d_a.view(b, h, w, c).permute(0, 3, 1, 2), None, None


def _flat(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n c"]:
    """Return a row of channels for each place; a view if x is in channels-last layout."""
    b, c, h, w = x.shape
    return x.permute(0, 2, 3, 1).reshape(b, h * w, c)


def _exact(x: Tensor, gain: Tensor) -> torch.dtype:
    """Return the type for sums: float32, or float64 if an input is float64."""
    return torch.promote_types(torch.promote_types(x.dtype, gain.dtype), torch.float32)


def _by_moments(
    flat: Tensor, gain: Tensor, level: Tensor, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the normalised numbers, their means, and the inverses of their deviations."""
    exact, n = flat.to(_exact(flat, gain)), flat.shape[1] * (flat.shape[2] // groups)
    mean = _group_sum(exact.sum(1), groups) / n
    square = _group_sum((exact * exact).sum(1), groups) / n
    rstd = (square - mean.square()).clamp_(min=0).add_(eps).rsqrt_()
    return _normalise(flat, gain, level, mean, rstd), mean, rstd


def _by_library(
    flat: Tensor, gain: Tensor, level: Tensor, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same with `F.group_norm`, with one gain and level for all images, or with none."""
    b, n, c = flat.shape
    is_shared = gain.ndim == 1
    weight, bias = (gain, level) if is_shared else (gain.new_ones(c), gain.new_zeros(c))
    image = flat.view(b, 1, n, c).permute(0, 3, 1, 2)
    y, mean, rstd = torch.native_group_norm(image, weight, bias, b, c, n, groups, eps)
    y = y.permute(0, 2, 3, 1).reshape(b, n, c)
    if not is_shared:
        torch.addcmul(_row(level, y), y, _row(gain, y), out=y)
    mean, rstd = (moment.repeat_interleave(c // groups, 1) for moment in (mean, rstd))
    return y, mean, rstd


def _normalise(flat: Tensor, gain: Tensor, level: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    scale = rstd * gain
    return torch.addcmul(_row(level - mean * scale, flat), flat, _row(scale, flat))


def _group_sum(per_channel: Float[Tensor, "b c"], groups: int) -> Float[Tensor, "b c"]:
    """Return the sum over each group of channels, at every channel of the group."""
    b, c = per_channel.shape
    total = per_channel.view(b, groups, c // groups).sum(-1, keepdim=True)
    return total.expand(b, groups, c // groups).reshape(b, c)


def _row(per_channel: Float[Tensor, "b c"], like: Tensor) -> Float[Tensor, "b 1 c"]:
    return per_channel[:, None, :].to(like.dtype)
