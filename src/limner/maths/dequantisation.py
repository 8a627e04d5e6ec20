"""Dequantisation: adds noise to levels, on which a flow would otherwise put infinite density.

    y = (k + u) / levels,   u in [0, 1)

Every y of a level's bin belongs to that level, so P(k) is the integral of p(y) over the bin, and

    log P(k) >= E_q(u|k) [log p(y) + log C],   log C = -D log(levels) - log q(u | k):

adding log C to the log density of y bounds the log-probability of the picture, in nats.
"""

import math
from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from limner.contract.image import Images, from_levels, to_levels
from limner.contract.noise import Noise
from limner.maths.transforms import NO_SIGNAL, Transform, Transformed, log_normal
from limner.nn.condition import Signal


class Dequantisation(nn.Module, ABC):
    """y = (k + u) / levels with a random u.

    Args:
        levels: the number of values that each number of a picture may have.

    Attributes:
        protocol: how reports describe it next to a likelihood.
    """

    protocol: str

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    @abstractmethod
    def draw(self, x: Images, s: Signal, noise: Noise) -> Transformed:
        """Return u, and -log q(u | x) of each picture."""

    def forward(self, x: Images, s: Signal = NO_SIGNAL, *, noise: Noise) -> Transformed:
        """Return y in [0, 1), and log C = -D log(levels) - log q(u | x).

        Args:
            x: pictures on the grid of `levels` values in [-1, 1], "b c h w".
            s: the condition of the pictures.
            noise: b random streams.
        """
        u, entropy = self.draw(x, s, noise)
        y = (to_levels(x, self.levels) + u) / self.levels
        return y, entropy - x[0].numel() * math.log(self.levels)

    def inverse(self, y: Float[Tensor, "b c h w"]) -> Images:
        """Return the level of y, floor(levels y), as a value in [-1, 1]."""
        k = (y * self.levels).floor().clamp(0, self.levels - 1)
        return from_levels(k.long(), self.levels)

    def prepare(self, x: Images, s: Signal, *, noise: Noise) -> Float[Tensor, "b c h w"]:
        """Initialise from pictures, and return their y."""
        return self(x, s, noise=noise)[0]


class Uniform(Dequantisation):
    """u is uniform: log C = -D log(levels).

    Theis, van den Oord, Bethge (2015). A note on the evaluation of generative models.
    arXiv:1511.01844, section 3.1.
    """

    protocol = "uniform dequantisation, one draw"

    def draw(self, x: Images, s: Signal, noise: Noise) -> Transformed:
        """Return uniform numbers, and zeros."""
        return noise.uniform(*x.shape[1:], dtype=x.dtype), x.new_zeros(len(x))


class Variational(Dequantisation):
    """u is drawn from a flow given the picture: the bound is tighter if the density within bins is
    not uniform. If the flow is only the normal distribution function, it is the bound of `Uniform`.

    Ho, Chen, Srinivas, Duan, Abbeel (2019). Flow++. arXiv:1902.00275, section 3.1.

    Args:
        levels: the number of values that each number of a picture may have.
        flow: a flow from normal numbers to u in [0, 1); it gets the picture as the signal's planes.
    """

    protocol = "variational dequantisation, one draw"

    def __init__(self, levels: int, flow: Transform) -> None:
        super().__init__(levels)
        self.flow = flow

    def draw(self, x: Images, s: Signal, noise: Noise) -> Transformed:
        """Return u = flow(eps; x), and -log q(u | x) = log C of the flow - log N(eps)."""
        eps = noise.normal(*x.shape[1:], dtype=x.dtype)
        u, log_c = self.flow(eps, s._replace(planes=x))
        return u, log_c - log_normal(eps)

    def prepare(self, x: Images, s: Signal, *, noise: Noise) -> Float[Tensor, "b c h w"]:
        """Initialise the flow from pictures and noise, and return their y."""
        eps = noise.normal(*x.shape[1:], dtype=x.dtype)
        u = self.flow.prepare(eps, s._replace(planes=x))
        return (to_levels(x, self.levels) + u) / self.levels
