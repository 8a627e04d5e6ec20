"""Transforms: invertible maps x -> z with the log of their volume change.

    log p(x) = log p(z) + log C,   C = |det dz/dx|

Each is called with x, returns (z, log C), and has an inverse; a flow is a chain of them, and their
log C are summed. All are maps of pictures, "b c h w", that keep the number of values; a vector is a
picture of one pixel. The condition of a picture is passed along as a `Signal`, for networks that
use it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from limner.contract.errors import LimnerError
from limner.maths.couplings import Elementwise
from limner.nn.condition import Signal

NO_SIGNAL = Signal()
Numbers = Float[Tensor, "b _c _h _w"]
Transformed = tuple[Numbers, Float[Tensor, "b"]]


def each_sum(x: Numbers) -> Float[Tensor, "b"]:
    """Return the sum over all numbers of each picture."""
    return x.sum((1, 2, 3))


def log_normal(z: Numbers) -> Float[Tensor, "b"]:
    """Return log N(z; 0, I) in nats."""
    return -0.5 * (each_sum(z.square()) + z[0].numel() * math.log(2 * math.pi))


class Transform(nn.Module, ABC):
    """An invertible map of pictures; its `repr` is the chain of maps, without the networks.

    >>> Chain(Squeeze(), Chain(ActNorm(4), InvertibleConv(4)), Split(Chain(ActNorm(2), ActNorm(2))))
    Squeeze -> (ActNorm -> InvertibleConv) -> Split(2 x ActNorm)
    """

    def __repr__(self) -> str:
        """Return the name of the map."""
        return type(self).__name__

    @abstractmethod
    def forward(self, x: Numbers, s: Signal = NO_SIGNAL) -> Transformed:
        """Return z, and log C of each picture."""

    @abstractmethod
    def inverse(self, z: Numbers, s: Signal = NO_SIGNAL) -> Numbers:
        """Return the x of z."""

    def prepare(self, x: Numbers, s: Signal = NO_SIGNAL) -> Numbers:
        """Initialise from data, and return their z, from which the next transform is
        initialised."""
        return self(x, s)[0]


class Chain(Transform):
    """Several transforms, one after the other."""

    def __init__(self, *transforms: Transform) -> None:
        super().__init__()
        self.transforms = nn.ModuleList(transforms)

    def __repr__(self) -> str:
        """Return the maps in order; "3 x" stands before a map that comes three times in a row."""
        parts = [f"({each})" if isinstance(each, Chain) else f"{each}" for each in self]
        return _count_runs(parts) or "identity"

    def __iter__(self) -> Iterator[Transform]:
        return iter(self.transforms)  # pyright: ignore[reportReturnType]

    def forward(self, x: Numbers, s: Signal = NO_SIGNAL) -> Transformed:
        """Return z, and the sum of all log C."""
        total = x.new_zeros(len(x))
        for transform in self:
            x, log_c = transform(x, s)
            total = total + log_c
        return x, total

    def inverse(self, z: Numbers, s: Signal = NO_SIGNAL) -> Numbers:
        """Apply the inverses, the last one first."""
        for transform in reversed(list(self)):
            z = transform.inverse(z, s)
        return z

    def prepare(self, x: Numbers, s: Signal = NO_SIGNAL) -> Numbers:
        """Initialise each from the output of the one before."""
        for transform in self:
            x = transform.prepare(x, s)
        return x


def _count_runs(parts: list[str]) -> str:
    """Shorten a b a b c to "2 x (a -> b) -> c", for runs of up to three parts."""
    runs: list[str] = []
    while parts:
        times = dict.fromkeys((1, 2, 3), 1)
        for n in times:
            while parts[times[n] * n : (times[n] + 1) * n] == parts[:n]:
                times[n] += 1
        n = max(times, key=lambda n: n * times[n] if times[n] > 1 else 0)
        n = n if times[n] > 1 else 1
        run = " -> ".join(parts[:n])
        run = run if times[n] == 1 else f"{times[n]} x {run if n == 1 else f'({run})'}"
        runs.append(run)
        parts = parts[n * times[n] :]
    return " -> ".join(runs)


class Squeeze(Transform):
    """Blocks of rows x columns pixels become the channels of one pixel.

    Dinh, Sohl-Dickstein, Bengio (2016), arXiv:1605.08803, section 3.6.

    Args:
        rows, columns: the size of a block.
    """

    def __init__(self, rows: int = 2, columns: int = 2) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns

    def forward(self, x: Numbers, s: Signal = NO_SIGNAL) -> Transformed:
        """Map "b c h w" to "b c*rows*columns h/rows w/columns"; log C = 0."""
        b, c, h, w = x.shape
        r, k = self.rows, self.columns
        blocks = x.reshape(b, c, h // r, r, w // k, k).permute(0, 1, 3, 5, 2, 4)
        return blocks.reshape(b, c * r * k, h // r, w // k), x.new_zeros(b)

    def inverse(self, z: Numbers, s: Signal = NO_SIGNAL) -> Numbers:
        """Map "b c h w" to "b c/rows/columns h*rows w*columns"."""
        b, c, h, w = z.shape
        r, k = self.rows, self.columns
        blocks = z.reshape(b, c // (r * k), r, k, h, w).permute(0, 1, 4, 2, 5, 3)
        return blocks.reshape(b, c // (r * k), h * r, w * k)


class Inverse(Transform):
    """The inverse of a transform that keeps volumes.

    Args:
        of: the transform; its log C must be 0.
    """

    def __init__(self, of: "Squeeze | Permutation") -> None:
        super().__init__()
        self.of = of

    def __repr__(self) -> str:
        """Return the name, with the transform that it inverts."""
        return f"Inverse({self.of})"

    def forward(self, x: Numbers, s: Signal = NO_SIGNAL) -> Transformed:
        """Apply the transform's inverse; log C = 0."""
        return self.of.inverse(x, s), x.new_zeros(len(x))

    def inverse(self, z: Numbers, s: Signal = NO_SIGNAL) -> Numbers:
        """Apply the transform itself."""
        return self.of(z, s)[0]


class Permutation(Transform):
    """Channels in another order: channel i of z is channel order[i] of x.

    Args:
        order: the number of each channel, once.
    """

    order: Tensor
    back: Tensor

    def __init__(self, order: Sequence[int]) -> None:
        super().__init__()
        if sorted(order) != list(range(len(order))):
            raise LimnerError(f"{list(order)} is not a permutation of {len(order)} channels")
        self.register_buffer("order", torch.tensor(order))
        self.register_buffer("back", torch.argsort(self.order))

    def forward(self, x: Numbers, s: Signal = NO_SIGNAL) -> Transformed:
        """Reorder the channels; log C = 0."""
        return x[:, self.order], x.new_zeros(len(x))

    def inverse(self, z: Numbers, s: Signal = NO_SIGNAL) -> Numbers:
        """Restore the order."""
        return z[:, self.back]


class Logit(Transform):
    """z = logit(alpha + (1 - 2 alpha) x), from [0, 1] to all numbers.

    Dinh, Sohl-Dickstein, Bengio (2016), arXiv:1605.08803, section 4.1, which has 1 - alpha in place
    of 1 - 2 alpha; here both ends are finite.

    Args:
        alpha: how far the ends are kept from infinity.
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Numbers, s: Signal = NO_SIGNAL) -> Transformed:
        """Return z, and log C = sum log(1 - 2 alpha) - log p - log(1 - p).

        Here p = alpha + (1 - 2 alpha) x.
        """
        scale = 1 - 2 * self.alpha
        p, q = self.alpha + scale * x, self.alpha + scale * (1 - x)
        log_p, log_q = p.log(), q.log()
        constant = torch.log1p(x.new_tensor(-2 * self.alpha)) * x[0].numel()
        return log_p - log_q, constant - each_sum(log_p + log_q)

    def inverse(self, z: Numbers, s: Signal = NO_SIGNAL) -> Numbers:
        """Return (sigmoid(z) - alpha) / (1 - 2 alpha)."""
        return (z.sigmoid() - self.alpha) / (1 - 2 * self.alpha)


class NormalCDF(Transform):
    """z = Phi(x), from all numbers to [0, 1): normal numbers become uniform."""

    def forward(self, x: Numbers, s: Signal = NO_SIGNAL) -> Transformed:
        """Return z, and log C = sum log N(x; 0, 1); values that round to 1 become the largest
        number below it."""
        below_one = 1 - torch.finfo(x.dtype).eps / 2
        return torch.special.ndtr(x).clamp(max=below_one), log_normal(x)

    def inverse(self, z: Numbers, s: Signal = NO_SIGNAL) -> Numbers:
        """Return Phi^-1(z)."""
        return torch.special.ndtri(z)


class ActNorm(Transform):
    """z = exp(log_s) x + b for each channel, initialised such that z has mean 0 and deviation 1.

    Kingma, Dhariwal (2018), arXiv:1807.03039, section 3.1.

    Args:
        channels: the channels of the picture.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_s = nn.Parameter(torch.zeros(channels))
        self.b = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Numbers, s: Signal = NO_SIGNAL) -> Transformed:
        """Return z, and log C = h w sum log_s."""
        z = torch.addcmul(_channels(self.b), x, _channels(self.log_s.exp()))
        return z, (self.log_s.sum() * x[0, 0].numel()).expand(len(x))

    def inverse(self, z: Numbers, s: Signal = NO_SIGNAL) -> Numbers:
        """Return exp(-log_s) (z - b)."""
        return (z - _channels(self.b)) * _channels((-self.log_s).exp())

    @torch.no_grad()
    def prepare(self, x: Numbers, s: Signal = NO_SIGNAL) -> Numbers:
        """Initialise from the moments of the channels in the data."""
        deviation, mean = torch.std_mean(x, (0, 2, 3), correction=0)
        self.log_s.copy_(-(deviation + 1e-6).log())
        self.b.copy_(-mean * self.log_s.exp())
        return self(x, s)[0]


class InvertibleConv(Transform):
    """z = W x at every pixel, a 1 x 1 convolution with W = P L (U + diag(s)): a permutation that
    can learn.

    W starts as a random rotation; P and the signs of s are not trained. L is lower triangular with
    ones on its diagonal, U is strictly upper triangular. Kingma, Dhariwal (2018), arXiv:1807.03039,
    section 3.2, equations 10 and 11.

    Args:
        channels: the channels of the picture.
    """

    P: Tensor
    sign: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        rotation = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64)).Q
        P, L, U = (matrix.float() for matrix in torch.linalg.lu(rotation))
        s = U.diagonal()
        self.register_buffer("P", P)
        self.register_buffer("sign", s.sign())
        self.log_s = nn.Parameter(s.abs().log())
        self.L = nn.Parameter(L.tril(-1))
        self.U = nn.Parameter(U.triu(1))

    @property
    def W(self) -> Float[Tensor, "c c"]:  # noqa: N802 (the paper's symbol)
        """P L (U + diag(s))."""
        eye = torch.eye(len(self.P), dtype=self.L.dtype, device=self.L.device)
        s = self.sign * self.log_s.exp()
        return self.P @ (self.L.tril(-1) + eye) @ (self.U.triu(1) + s.diag())

    def forward(self, x: Numbers, s: Signal = NO_SIGNAL) -> Transformed:
        """Return z, and log C = h w sum log |s|."""
        with torch.autocast(x.device.type, enabled=False):
            z = F.conv2d(x, self.W[:, :, None, None])
        return z, (self.log_s.sum() * x[0, 0].numel()).expand(len(x))

    def inverse(self, z: Numbers, s: Signal = NO_SIGNAL) -> Numbers:
        """Return W^-1 z; W^-1 is computed in float64."""
        with torch.autocast(z.device.type, enabled=False):
            inverse = torch.linalg.inv(self.W.double()).to(z.dtype)
            return F.conv2d(z, inverse[:, :, None, None])


class Coupling(Transform):
    """z_1 = x_1, z_2 = f(x_2; theta = network(x_1)): maps half of the channels, given the other
    half.

    Dinh, Krueger, Bengio (2014), arXiv:1410.8516, section 3.2.

    Args:
        network: called as network(x_1, signal); returns theta of every number of x_2, "b size*c_2 h
            w", with the channels of x_2 together. x_1 has floor(c / 2) channels.
        f: the map of numbers.
    """

    def __init__(self, network: nn.Module, f: Elementwise) -> None:
        super().__init__()
        self.network, self.f = network, f

    def forward(self, x: Numbers, s: Signal = NO_SIGNAL) -> Transformed:
        """Return z, and log C = sum log df/dx_2."""
        x_1, x_2 = halves(x)
        z_2, log_slope = self.f(x_2, self._theta(x_1, s))
        return torch.cat([x_1, z_2], 1), each_sum(log_slope)

    def inverse(self, z: Numbers, s: Signal = NO_SIGNAL) -> Numbers:
        """Return x_2 = f^-1(z_2; network(z_1)), with x_1 = z_1: the network is not inverted."""
        z_1, z_2 = halves(z)
        return torch.cat([z_1, self.f.inverse(z_2, self._theta(z_1, s))], 1)

    def _theta(self, x_1: Numbers, s: Signal) -> Float[Tensor, "b size c h w"]:
        return self.network(x_1, s).to(x_1.dtype).unflatten(1, (self.f.size, -1))


class MaskedCoupling(Transform):
    """z = m x + (1 - m) f(x; network(m x)): maps some of the numbers, given the others.

    Dinh, Sohl-Dickstein, Bengio (2016), arXiv:1605.08803, equation 9.

    Args:
        network: called as network(m x, signal); returns theta of every number, "b size*c h w".
        f: the map of numbers.
        mask: m, 1 for numbers that are unchanged; its shape broadcasts with "c h w".
    """

    mask: Tensor

    def __init__(self, network: nn.Module, f: Elementwise, mask: Bool[Tensor, "_c _h _w"]) -> None:
        super().__init__()
        self.network, self.f = network, f
        self.register_buffer("mask", mask)

    def forward(self, x: Numbers, s: Signal = NO_SIGNAL) -> Transformed:
        """Return z, and log C = sum (1 - m) log df/dx."""
        z, log_slope = self.f(x, self._theta(x, s))
        return torch.where(self.mask, x, z), each_sum(log_slope.masked_fill(self.mask, 0))

    def inverse(self, z: Numbers, s: Signal = NO_SIGNAL) -> Numbers:
        """Apply f^-1 where m is 0."""
        return torch.where(self.mask, z, self.f.inverse(z, self._theta(z, s)))

    def _theta(self, x: Numbers, s: Signal) -> Float[Tensor, "b size c h w"]:
        masked = x.masked_fill(~self.mask, 0)
        return self.network(masked, s).to(x.dtype).unflatten(1, (self.f.size, -1))


class Split(Transform):
    """z = (rest(x_1), x_2): half of the channels is transformed further, the other half is
    finished.

    Dinh, Sohl-Dickstein, Bengio (2016), arXiv:1605.08803, section 3.6, equations 13 to 16. A
    coupling of x_2 given x_1 before it is Glow's learned prior of x_2.

    Args:
        rest: the transform of x_1, which keeps its shape.
    """

    def __init__(self, rest: Transform) -> None:
        super().__init__()
        self.rest = rest

    def __repr__(self) -> str:
        """Return the name, and the chain of the first half."""
        return f"Split({self.rest})"

    def forward(self, x: Numbers, s: Signal = NO_SIGNAL) -> Transformed:
        """Return z, and the log C of the rest."""
        x_1, x_2 = halves(x)
        z_1, log_c = self.rest(x_1, s)
        return torch.cat([z_1, x_2], 1), log_c

    def inverse(self, z: Numbers, s: Signal = NO_SIGNAL) -> Numbers:
        """Apply the inverse of the rest to the first half."""
        z_1, z_2 = halves(z)
        return torch.cat([self.rest.inverse(z_1, s), z_2], 1)

    def prepare(self, x: Numbers, s: Signal = NO_SIGNAL) -> Numbers:
        """Initialise the rest from the first half."""
        x_1, x_2 = halves(x)
        return torch.cat([self.rest.prepare(x_1, s), x_2], 1)


def halves(x: Numbers) -> tuple[Numbers, Numbers]:
    """Return the first floor(c / 2) channels, and the others."""
    half = x.shape[1] // 2
    return x[:, :half], x[:, half:]


def checkerboard(height: int, width: int, odd: bool) -> Bool[Tensor, "1 {height} {width}"]:
    """Return a mask that is True where the sum of row and column is odd (or even)."""
    total = torch.arange(height)[:, None] + torch.arange(width)
    return (total % 2 == int(odd))[None]


def _channels(numbers: Float[Tensor, "c"]) -> Float[Tensor, "c 1 1"]:
    return numbers[:, None, None]
