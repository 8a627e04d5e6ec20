"""Invertible maps of single numbers, z = f(x; theta), for couplings; a network predicts theta.

    Additive   z = x + t
    Affine     z = exp(s) x + t
    Spline     a monotonic rational-quadratic spline, the identity outside of [-reach, reach]

All are the identity if theta is 0, as for a network whose last layer is zero.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Numbers = Float[Tensor, "b c h w"]
Theta = Float[Tensor, "b size c h w"]


class Elementwise(ABC):
    """z = f(x; theta), increasing in x, for each number separately."""

    @property
    @abstractmethod
    def size(self) -> int:
        """The number of values that theta has for each number of x."""

    @abstractmethod
    def __call__(self, x: Numbers, theta: Theta) -> tuple[Numbers, Numbers]:
        """Return z, and log dz/dx of each number."""

    @abstractmethod
    def inverse(self, z: Numbers, theta: Theta) -> Numbers:
        """Return the x of z."""


@dataclass(frozen=True)
class Additive(Elementwise):
    """z = x + t. Dinh, Krueger, Bengio (2014), arXiv:1410.8516, section 3.2."""

    @property
    def size(self) -> int:
        """One value: t."""
        return 1

    def __call__(self, x: Numbers, theta: Theta) -> tuple[Numbers, Numbers]:
        """Return x + t, and zeros."""
        return x + theta[:, 0], torch.zeros_like(x)

    def inverse(self, z: Numbers, theta: Theta) -> Numbers:
        """Return z - t."""
        return z - theta[:, 0]


@dataclass(frozen=True)
class Affine(Elementwise):
    """z = exp(s) x + t with theta = (t, raw s). Dinh, Sohl-Dickstein, Bengio (2016),
    arXiv:1605.08803, equation 5.

    s = bound tanh(raw / bound): neither the map nor its inverse stretches by more than exp(bound),
    so that samples are finite for any output of the network. (The paper's s is tanh times a learned
    number; Glow's exp(s) is a sigmoid, and its inverse has no bound.)

    Args:
        bound: the largest |s|.
    """

    bound: float = 2.0

    @property
    def size(self) -> int:
        """Two values: t and raw s."""
        return 2

    def __call__(self, x: Numbers, theta: Theta) -> tuple[Numbers, Numbers]:
        """Return exp(s) x + t, and s."""
        s = self._log_scale(theta)
        return torch.addcmul(theta[:, 0], x, s.exp()), s

    def inverse(self, z: Numbers, theta: Theta) -> Numbers:
        """Return exp(-s) (z - t)."""
        return (z - theta[:, 0]) * (-self._log_scale(theta)).exp()

    def _log_scale(self, theta: Theta) -> Numbers:
        return self.bound * (theta[:, 1] / self.bound).tanh()


class _Bin(NamedTuple):
    """The bin of a spline that a number is in: its start, width and height, and its slopes at both
    ends."""

    x: Numbers
    width: Numbers
    z: Numbers
    height: Numbers
    d: Numbers
    d_next: Numbers

    @property
    def slope(self) -> Numbers:
        """The mean slope, s_k."""
        return self.height / self.width


@dataclass(frozen=True)
class Spline(Elementwise):
    """A monotonic rational-quadratic spline. Durkan, Bekasov, Murray, Papamakarios (2019). Neural
    spline flows. arXiv:1906.04032, section 3.1.

    theta has the raw widths, heights and inner slopes of the bins, in this order: 3 bins - 1.

    Args:
        bins: the number of bins.
        reach: the spline maps [-reach, reach] to itself; outside of it, it is the identity.
        least: the smallest width and height of a bin, as a share of the whole, and the smallest
            slope.
    """

    bins: int = 8
    reach: float = 4.0
    least: float = 1e-3

    @property
    def size(self) -> int:
        """3 bins - 1 values."""
        return 3 * self.bins - 1

    def __call__(self, x: Numbers, theta: Theta) -> tuple[Numbers, Numbers]:
        """Return z and log dz/dx: equations 4 and 5."""
        is_inside = x.abs() < self.reach
        k = self._bin(x, theta, by_z=False)
        xi = ((x - k.x) / k.width).clamp(0, 1)
        product = xi * (1 - xi)
        denominator = k.slope + (k.d_next + k.d - 2 * k.slope) * product
        z = k.z + k.height * (k.slope * xi.square() + k.d * product) / denominator
        numerator = k.d_next * xi.square() + 2 * k.slope * product + k.d * (1 - xi).square()
        log_slope = 2 * k.slope.log() + numerator.log() - 2 * denominator.log()
        return torch.where(is_inside, z, x), torch.where(is_inside, log_slope, 0)

    def inverse(self, z: Numbers, theta: Theta) -> Numbers:
        """Return x: equations 6 to 8, the root of a quadratic in xi."""
        k = self._bin(z, theta, by_z=True)
        up = (z - k.z).clamp(min=0).minimum(k.height)
        curvature = k.d_next + k.d - 2 * k.slope
        a = k.height * (k.slope - k.d) + up * curvature
        b = k.height * k.d - up * curvature
        c = -k.slope * up
        xi = 2 * c / (-b - (b.square() - 4 * a * c).clamp(min=0).sqrt())
        return torch.where(z.abs() < self.reach, k.x + xi * k.width, z)

    def _bin(self, points: Numbers, theta: Theta, by_z: bool) -> _Bin:
        raw = theta.movedim(1, -1).split([self.bins, self.bins, self.bins - 1], -1)
        x, width = self._knots(raw[0])
        z, height = self._knots(raw[1])
        shift = math.log(math.expm1(1 - self.least))  # softplus of it and the least slope sum to 1
        d = F.pad(self.least + F.softplus(raw[2] + shift), (1, 1), value=1.0)
        inner, values = (z if by_z else x)[..., 1:-1].contiguous(), points.detach()[..., None]
        if torch.compiler.is_exporting():  # ONNX has no searchsorted
            k = (inner <= values).sum(-1, keepdim=True)
        else:
            k = torch.searchsorted(inner, values.contiguous(), right=True)
        tables = (x, width, z, height, d[..., :-1], d[..., 1:])
        return _Bin(*(part.gather(-1, k).squeeze(-1) for part in tables))

    def _knots(self, raw: Float[Tensor, "*at k"]) -> tuple[Tensor, Tensor]:
        """Return the edges of the bins, and their widths."""
        shares = self.least + (1 - self.least * self.bins) * raw.softmax(-1)
        inner = self.reach * (2 * shares.cumsum(-1)[..., :-1] - 1)
        edges = F.pad(F.pad(inner, (1, 0), value=-self.reach), (0, 1), value=self.reach)
        return edges, edges.diff(dim=-1)
