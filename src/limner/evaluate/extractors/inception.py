"""The Inception network that defines the Frechet inception distance and the Inception Score.

Szegedy et al. (2015). Rethinking the inception architecture for computer vision. arXiv:1512.00567.
Salimans et al. (2016). Improved techniques for training GANs. arXiv:1606.03498.
Heusel et al. (2017). GANs trained by a two time-scale update rule. arXiv:1706.08500.

It is TensorFlow's network of 2015-12-05 and not torchvision's: it has 1,008 classes, average
pooling that excludes the padding, and max-pooling in the last block, where the paper has an
average. Its weights are read from files with the tensor names of pytorch-fid and torch-fidelity.
Features are the 2,048 means of the last layer; logits are the class scores without their bias, as
in the Inception Score.

Two ways to prepare pictures are in use, and distances differ between them:

    tensorflow    the original graph and torch-fidelity: pixel i of n is read at i side / n, and
                  p becomes (p - 128) / 128
    pytorch-fid   that program: read at (i + 1/2) side / n - 1/2, and 0 .. 255 becomes [-1, 1]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from limner.contract.checkpoint import digest_tensors
from limner.contract.errors import LimnerError
from limner.contract.image import from_uint8
from limner.evaluate.extractors.extractor import (
    Features,
    Precision,
    name_at_precision,
    to_rgb,
)

SIDE = 299
"""The side to which pictures are resized, in pixels."""
CLASSES = 1008
Preparation = Literal["tensorflow", "pytorch-fid"]
_UNUSED_BUFFER = "num_batches_tracked"  # a counter of training, which old files lack


@dataclass(frozen=True)
class _Conv:
    """A convolution with its name in the files; padding is TensorFlow's "same" or "valid"."""

    name: str
    out: int
    kernel: int | tuple[int, int]
    stride: int = 1
    padding: Literal["same", "valid"] = "same"


_Step = _Conv | tuple[_Conv, _Conv] | Literal["average", "max", "halve"]
"""Paired convolutions share the input, and outputs are joined; "halve" is max-pooling, stride 2."""
_Steps = Sequence[_Step]
_ROW, _COLUMN = (1, 7), (7, 1)
_STEM: _Steps = (
    _Conv("Conv2d_1a_3x3", 32, 3, 2, "valid"),
    _Conv("Conv2d_2a_3x3", 32, 3, 1, "valid"),
    _Conv("Conv2d_2b_3x3", 64, 3),
    "halve",
    _Conv("Conv2d_3b_1x1", 80, 1),
    _Conv("Conv2d_4a_3x3", 192, 3, 1, "valid"),
    "halve",
)


def _a(pooled: int) -> Sequence[_Steps]:
    """Return the branches of the blocks at 35 x 35."""
    return (
        [_Conv("branch1x1", 64, 1)],
        [_Conv("branch5x5_1", 48, 1), _Conv("branch5x5_2", 64, 5)],
        [
            _Conv("branch3x3dbl_1", 64, 1),
            _Conv("branch3x3dbl_2", 96, 3),
            _Conv("branch3x3dbl_3", 96, 3),
        ],
        ["average", _Conv("branch_pool", pooled, 1)],
    )


_B: Sequence[_Steps] = (
    [_Conv("branch3x3", 384, 3, 2, "valid")],
    [
        _Conv("branch3x3dbl_1", 64, 1),
        _Conv("branch3x3dbl_2", 96, 3),
        _Conv("branch3x3dbl_3", 96, 3, 2, "valid"),
    ],
    ["halve"],
)
"""The branches of the block from 35 x 35 to 17 x 17."""


def _c(inner: int) -> Sequence[_Steps]:
    """Return the branches of the blocks at 17 x 17."""
    return (
        [_Conv("branch1x1", 192, 1)],
        [
            _Conv("branch7x7_1", inner, 1),
            _Conv("branch7x7_2", inner, _ROW),
            _Conv("branch7x7_3", 192, _COLUMN),
        ],
        [
            _Conv("branch7x7dbl_1", inner, 1),
            _Conv("branch7x7dbl_2", inner, _COLUMN),
            _Conv("branch7x7dbl_3", inner, _ROW),
            _Conv("branch7x7dbl_4", inner, _COLUMN),
            _Conv("branch7x7dbl_5", 192, _ROW),
        ],
        ["average", _Conv("branch_pool", 192, 1)],
    )


_D: Sequence[_Steps] = (
    [_Conv("branch3x3_1", 192, 1), _Conv("branch3x3_2", 320, 3, 2, "valid")],
    [
        _Conv("branch7x7x3_1", 192, 1),
        _Conv("branch7x7x3_2", 192, _ROW),
        _Conv("branch7x7x3_3", 192, _COLUMN),
        _Conv("branch7x7x3_4", 192, 3, 2, "valid"),
    ],
    ["halve"],
)
"""The branches of the block from 17 x 17 to 8 x 8."""


def _e(pooling: Literal["average", "max"]) -> Sequence[_Steps]:
    """Return the branches of the blocks at 8 x 8."""
    return (
        [_Conv("branch1x1", 320, 1)],
        [
            _Conv("branch3x3_1", 384, 1),
            (_Conv("branch3x3_2a", 384, (1, 3)), _Conv("branch3x3_2b", 384, (3, 1))),
        ],
        [
            _Conv("branch3x3dbl_1", 448, 1),
            _Conv("branch3x3dbl_2", 384, 3),
            (_Conv("branch3x3dbl_3a", 384, (1, 3)), _Conv("branch3x3dbl_3b", 384, (3, 1))),
        ],
        [pooling, _Conv("branch_pool", 192, 1)],
    )


_BLOCKS = {
    "Mixed_5b": _a(32),
    "Mixed_5c": _a(64),
    "Mixed_5d": _a(64),
    "Mixed_6a": _B,
    "Mixed_6b": _c(128),
    "Mixed_6c": _c(160),
    "Mixed_6d": _c(160),
    "Mixed_6e": _c(192),
    "Mixed_7a": _D,
    "Mixed_7b": _e("average"),
    "Mixed_7c": _e("max"),
}


class _Layer(nn.Module):
    """A convolution without bias, batch norm, ReLU."""

    def __init__(self, channels: int, conv: _Conv) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            channels, conv.out, conv.kernel, conv.stride, padding=_padding(conv), bias=False
        )
        self.bn = nn.BatchNorm2d(conv.out, eps=0.001)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d hh ww"]:
        return F.relu_(self.bn(self.conv(x)))

    def fuse(self) -> nn.Module:
        """Return the same as a convolution with a bias, since the norm is fixed after training."""
        return nn.Sequential(fuse_conv_bn_eval(self.conv, self.bn), nn.ReLU(inplace=True))


def _padding(conv: _Conv) -> tuple[int, int]:
    if conv.padding == "valid":
        return 0, 0
    height, width = (conv.kernel,) * 2 if isinstance(conv.kernel, int) else conv.kernel
    return height // 2, width // 2


def _add(module: nn.Module, channels: int, steps: _Steps) -> int:
    """Add the layers of a chain to a module, by their names; return the channels of the output."""
    for step in steps:
        if isinstance(step, str):
            continue
        pair = step if isinstance(step, tuple) else (step,)
        for conv in pair:
            module.add_module(conv.name, _Layer(channels, conv))
        channels = sum(conv.out for conv in pair)
    return channels


def _apply_chain(module: nn.Module, x: Tensor, steps: _Steps) -> Tensor:
    """Apply a chain of layers."""
    for step in steps:
        if step == "halve":
            x = F.max_pool2d(x, 3, stride=2)
        elif step == "max":
            x = F.max_pool2d(x, 3, stride=1, padding=1)
        elif step == "average":
            x = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        elif isinstance(step, tuple):
            x = torch.cat([module.get_submodule(conv.name)(x) for conv in step], dim=1)
        elif isinstance(step, _Conv):
            x = module.get_submodule(step.name)(x)
    return x


class _Block(nn.Module):
    """Branches on the same input, joined."""

    def __init__(self, channels: int, branches: Sequence[_Steps]) -> None:
        super().__init__()
        self.branches = branches
        self.out = sum(_add(self, channels, steps) for steps in branches)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d hh ww"]:
        return torch.cat([_apply_chain(self, x, steps) for steps in self.branches], dim=1)


class Network(nn.Module):
    """The network, on prepared pictures; its tensors have the names of the files."""

    def __init__(self) -> None:
        super().__init__()
        channels = _add(self, 3, _STEM)
        for name, branches in _BLOCKS.items():
            block = _Block(channels, branches)
            self.add_module(name, block)
            channels = block.out
        self.fc = nn.Linear(channels, CLASSES)
        self.dim = channels

    def forward(self, x: Float[Tensor, "b 3 299 299"]) -> Features:
        """Compute the means over the last layer's positions, and the class scores."""
        x = _apply_chain(self, x, _STEM)
        for name in _BLOCKS:
            x = self.get_submodule(name)(x)
        features = x.float().mean((2, 3))
        return Features(features, F.linear(features, self.fc.weight.float()))


def load_network(weights: Mapping[str, Tensor], source: str) -> Network:
    """Return the network with weights from a file, ready to use.

    Args:
        weights: the tensors of the file.
        source: the file, for error messages.

    Raises:
        LimnerError: the tensors are not those of this network.
    """
    with torch.device("meta"):
        network = Network()
    shapes = {
        name: t.shape for name, t in network.state_dict().items() if _UNUSED_BUFFER not in name
    }
    file_shapes = {name: t.shape for name, t in weights.items() if _UNUSED_BUFFER not in name}
    if wrong := sorted(name for name in shapes if file_shapes.get(name) != shapes[name]):
        raise LimnerError(
            f"{source} does not hold the Inception network of the Frechet inception distance "
            f"(tensor '{wrong[0]}' is missing or has another shape); give pytorch-fid's or "
            f"torch-fidelity's file, whose name ends in inception-2015-12-05-6726825d.pth"
        )
    network.load_state_dict({name: weights[name].float() for name in shapes}, False, assign=True)
    network.eval().requires_grad_(False)
    for module in [network, *network.children()]:
        for name, layer in module.named_children():
            if isinstance(layer, _Layer):
                module.add_module(name, layer.fuse())
    return network


def read_from_corners(
    x: Float[Tensor, "b c h w"], height: int, width: int
) -> Float[Tensor, "b c height width"]:
    """Resize pictures bilinearly as in TensorFlow 1: pixel i of n is read at i side / n.

    The corners of the first pixels coincide, so an enlarged picture is shifted towards its origin.
    There is no antialiasing. On a CPU the result is bit-identical to the original.
    """
    for axis, size in ((3, width), (2, height)):
        side = x.shape[axis]
        position = torch.arange(size, dtype=x.dtype, device=x.device) * (side / size)
        low = position.long()
        high = (low + 1).clamp(max=side - 1)
        share = (position - low).view(-1, *(1,) * (3 - axis))
        x_low = x.index_select(axis, low)
        x = x_low + (x.index_select(axis, high) - x_low) * share
    return x


class Inception:
    """The extractor `inception-v3`.

    Args:
        network: the result of `load_network`.
        preparation: the preparation of the network's input.
        device: the device to compute on.
        dtype: the precision of the computation; features are always float32.
    """

    classes: tuple[str, ...] = ()

    def __init__(
        self,
        network: Network,
        preparation: Preparation = "tensorflow",
        device: str | torch.device = "cpu",
        dtype: Precision = "float32",
    ) -> None:
        self.preparation: Preparation = preparation
        suffix = "" if preparation == "tensorflow" else f"-{preparation}"
        self.name = name_at_precision(f"inception-v3{suffix}", dtype)
        self.fingerprint = digest_tensors(network.state_dict(), f"{SIDE}, {preparation}, {dtype}")
        self.dim = network.dim
        self.device = torch.device(device)
        self.dtype: torch.dtype = getattr(torch, dtype)
        network.to(self.device, self.dtype).to(memory_format=torch.channels_last)  # pyright: ignore
        self.network = network

    @torch.inference_mode()
    def __call__(self, images: UInt8[Tensor, "b c h w"]) -> Features:
        """Compute the features of grey or RGB pictures of any size, and their logits."""
        pixels = to_rgb(images.to(self.device), self.name)
        if self.preparation == "tensorflow":
            x = (read_from_corners(pixels.float(), SIDE, SIDE) - 128) / 128
        else:
            x = F.interpolate(from_uint8(pixels), (SIDE, SIDE), mode="bilinear")
        return self.network(x.to(self.dtype, memory_format=torch.channels_last))
