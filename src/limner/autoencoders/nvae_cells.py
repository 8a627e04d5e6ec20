"""Building blocks of NVAE: residual cells, changes of resolution, and spectral norms.

Vahdat, Kautz (2020). NVAE: a deep hierarchical variational autoencoder. arXiv:2007.03898, sections
3.1 and 3.2, figure 3.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

# Scale of the residuals: deep towers start near the identity, as in the paper's code.
_RESIDUAL_SCALE = 0.1
_MOMENTUM = 0.05  # running statistics catch up in about 20 steps, section 3.1.1
_FIRST_ITERATIONS = 10


class SqueezeExcitation(nn.Module):
    """A gate for each channel, computed from the means of all channels.

    Hu, Shen, Albanie, Sun, Wu (2017). Squeeze-and-excitation networks. arXiv:1709.01507.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 16, 4)
        self.squeeze, self.excite = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the gated features."""
        gate = self.excite(F.relu(self.squeeze(x.mean((2, 3))))).sigmoid()
        return x * gate[:, :, None, None]


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, momentum=_MOMENTUM)


class Depthwise(nn.Conv2d):
    """A depthwise 5 x 5 convolution.

    It computes in its weights' own dtype: on a CPU, the backward pass in bfloat16 takes nearly four
    times as long as in float32.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 5, padding=2, groups=channels, bias=False)

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return features of the same size."""
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.to(self.weight.dtype))


class GenerativeCell(nn.Module):
    """Figure 3a: BN, 1 x 1 to more channels, BN, swish, depthwise 5 x 5, BN, swish, 1 x 1, BN,
    squeeze-excitation; added to the input.

    Depthwise kernels have a large receptive field with few weights. The many channels between the
    two 1 x 1 convolutions make up for their lower expressiveness.

    Args:
        channels: input and output channels.
        expansion: factor by which the channels grow inside the cell.
    """

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        width = expansion * channels
        self.residual = nn.Sequential(
            _norm(channels),
            nn.Conv2d(channels, width, 1, bias=False),
            _norm(width),
            nn.SiLU(),
            Depthwise(width),
            _norm(width),
            nn.SiLU(),
            nn.Conv2d(width, channels, 1, bias=False),
            _norm(channels),
            SqueezeExcitation(channels),
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return features of the same size."""
        return x + _RESIDUAL_SCALE * self.residual(x)


class EncodingCell(nn.Module):
    """Figure 3b: twice BN, swish and a 3 x 3 convolution, squeeze-excitation; added to the input.

    Args:
        channels: input and output channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _norm(channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            _norm(channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            SqueezeExcitation(channels),
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return features of the same size."""
        return x + _RESIDUAL_SCALE * self.residual(x)


class Grow(nn.Module):
    """A 1 x 1 convolution to four times the channels, then a pixel shuffle to twice the height and
    width, cropped to the given size."""

    def __init__(self, ins: int, outs: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.expand = nn.Conv2d(ins, 4 * outs, 1)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o hh ww"]:
        """Return features of the finer resolution."""
        height, width = self.size
        return F.pixel_shuffle(self.expand(x), 2)[:, :, :height, :width]


class SpectralNorms(nn.Module):
    """The sum of the largest singular values of kernels, as matrices with a row for each output.

    Spectral regularisation, Yoshida, Miyato (2017), arXiv:1705.10941: small Lipschitz constants of
    all layers keep the Lipschitz constant of the encoder's q(z | x) small. They are estimated by
    power iteration, u <- W W^T u, which continues from step to step; kernels of one shape are
    multiplied together.

    Args:
        kernels: the kernels, for their shapes.
    """

    def __init__(self, kernels: Iterable[Float[Tensor, "..."]]) -> None:
        super().__init__()
        for shape, group in _by_shape(kernels):
            u = F.normalize(torch.randn(len(group), shape[0], 1), dim=1)
            self.register_buffer(_name(shape), u)

    def forward(self, kernels: Iterable[Float[Tensor, "..."]]) -> Float[Tensor, ""]:
        """Return the sum after another iteration; its gradient is that of u^T W v at fixed u, v."""
        total = torch.zeros(())
        for shape, group in _by_shape(kernels):
            W = torch.stack(group)
            u = self.get_buffer(_name(shape))
            with torch.no_grad():
                v = F.normalize(W.mT @ u, dim=1)
                u.copy_(F.normalize(W @ v, dim=1))
            total = total.to(W) + (u.clone().mT @ W @ v).sum()
        return total

    def settle(self, kernels: Iterable[Float[Tensor, "..."]]) -> None:
        """Run several iterations; those of training continue from them."""
        kept = list(kernels)
        for _ in range(_FIRST_ITERATIONS):
            self(kept)


def kernels(network: nn.Module) -> list[Float[Tensor, "..."]]:
    """Return the kernels of all convolutions; a list, since compilers do not trace generators."""
    return [module.weight for module in network.modules() if isinstance(module, nn.Conv2d)]


def norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    """Return all batch norms."""
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def _by_shape(
    kernels: Iterable[Float[Tensor, "..."]],
) -> list[tuple[tuple[int, int], list[Float[Tensor, "..."]]]]:
    groups: dict[tuple[int, int], list[Tensor]] = {}
    for kernel in kernels:
        matrix = kernel.flatten(1)
        groups.setdefault((matrix.shape[0], matrix.shape[1]), []).append(matrix)
    return list(groups.items())


def _name(shape: tuple[int, int]) -> str:
    return f"u_{shape[0]}x{shape[1]}"
