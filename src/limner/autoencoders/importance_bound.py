"""Diagonal normal laws, and the bound on log p(x) that k draws from one of them give.

    log p(x) >= L_k = E log 1/k sum_i w_i,   w_i = p(x, z_i) / q(z_i | x),   z_i from q(z | x)

L_1 is the evidence lower bound; L_k never falls with k, and tends to log p(x) where the weights are
bounded. The expectation is what bounds: one estimate may lie above log p(x).

Burda, Grosse, Salakhutdinov (2015). Importance weighted autoencoders. arXiv:1509.00519, theorem 1.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from limner.contract.likelihood import Likelihood

_AT_ONCE = 2**20  # numbers of pictures that are decoded together


class Normal(NamedTuple):
    """Independent normal numbers.

    Args:
        mean: of each.
        log_deviation: the logarithm of each standard deviation.
    """

    mean: Float[Tensor, "..."]
    log_deviation: Float[Tensor, "..."]

    def draw(self, epsilon: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """mean + deviation epsilon, for standard normal epsilon; gradients pass through it."""
        return self.mean + self.log_deviation.exp() * epsilon

    def log_prob(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The log-density of each number."""
        scaled = (z - self.mean) * (-self.log_deviation).exp()
        return -0.5 * scaled.square() - self.log_deviation - 0.5 * math.log(2 * math.pi)

    def kl(self, prior: "Normal") -> Float[Tensor, "..."]:
        """KL(self || prior) of each number.

        ln(s_p / s_q) + (s_q^2 + (m_q - m_p)^2) / (2 s_p^2) - 1/2.
        """
        wider = self.log_deviation - prior.log_deviation
        off = (self.mean - prior.mean) * (-prior.log_deviation).exp()
        return 0.5 * ((2 * wider).exp() + off.square() - 1) - wider


def standard(like: Float[Tensor, "..."]) -> Normal:
    """Numbers of mean 0 and deviation 1, as many as these."""
    return Normal(torch.zeros_like(like), torch.zeros_like(like))


class Draws(NamedTuple):
    """What g draws from q(z | x) say of b pictures.

    Args:
        log_weights: log w = log p(x, z) - log q(z | x).
        terms: of the evidence lower bound, by name: -log p(x | z), and parts of the KL, in nats.
    """

    log_weights: Float[Tensor, "g b"]
    terms: Mapping[str, Float[Tensor, "g b"]]


def importance_weighted(
    draws: Callable[[int], Draws], k: int, dimensions: int, rows: int
) -> Likelihood:
    """log 1/k sum_i w_i of each of b pictures, and the means of the draws' terms, in float64.

    Args:
        draws: the next g draws, for all pictures.
        k: how many draws.
        dimensions: numbers in a picture.
        rows: b. So many draws are made at once as the memory for about a million decoded numbers
            allows; the result does not depend on it.
    """
    at_once, parts = max(1, _AT_ONCE // (rows * dimensions)), list[Tensor]()
    sums: dict[str, Tensor] = {}
    for first in range(0, k, at_once):
        log_weights, terms = draws(min(at_once, k - first))
        parts.append(log_weights.double().logsumexp(0))
        for name, term in terms.items():
            part = term.double().sum(0)
            sums[name] = sums[name] + part if name in sums else part
    nats = torch.stack(parts).logsumexp(0) - math.log(k)
    return Likelihood(nats, "lower", {name: total / k for name, total in sums.items()})
