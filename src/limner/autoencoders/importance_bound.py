"""Diagonal normal distributions, and the importance-weighted bound on log p(x).

    log p(x) >= L_k = E log 1/k sum_i w_i,   w_i = p(x, z_i) / q(z_i | x),   z_i from q(z | x)

L_1 is the evidence lower bound (ELBO). L_k never falls with k, and tends to log p(x) if the weights
are bounded. Only the expectation is a lower bound: a single estimate may lie above log p(x).

Burda, Grosse, Salakhutdinov (2015). Importance weighted autoencoders. arXiv:1509.00519, theorem 1.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from limner.contract.likelihood import Likelihood

_MAX_DECODED_VALUES = 2**20  # most pixel values decoded at once


class Normal(NamedTuple):
    """A diagonal normal distribution.

    Args:
        mean: mean of each number.
        log_deviation: natural logarithm of each standard deviation.
    """

    mean: Float[Tensor, "..."]
    log_deviation: Float[Tensor, "..."]

    def draw(self, epsilon: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return mean + deviation * epsilon, for standard normal epsilon; it is differentiable."""
        return self.mean + self.log_deviation.exp() * epsilon

    def log_prob(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the log-density of each number."""
        scaled = (z - self.mean) * (-self.log_deviation).exp()
        return -0.5 * scaled.square() - self.log_deviation - 0.5 * math.log(2 * math.pi)

    def kl(self, prior: "Normal") -> Float[Tensor, "..."]:
        """Return KL(self || prior) of each number.

        ln(s_p / s_q) + (s_q^2 + (m_q - m_p)^2) / (2 s_p^2) - 1/2.
        """
        log_ratio = self.log_deviation - prior.log_deviation
        offset = (self.mean - prior.mean) * (-prior.log_deviation).exp()
        return 0.5 * ((2 * log_ratio).exp() + offset.square() - 1) - log_ratio


def standard_normal(like: Float[Tensor, "..."]) -> Normal:
    """Return a standard normal distribution with the shape of a tensor."""
    return Normal(torch.zeros_like(like), torch.zeros_like(like))


class Draws(NamedTuple):
    """The log-weights and ELBO terms of g draws from q(z | x), for b pictures.

    Args:
        log_weights: log w = log p(x, z) - log q(z | x), in nats.
        terms: the ELBO's terms by name, in nats: -log p(x | z), and the parts of the KL.
    """

    log_weights: Float[Tensor, "g b"]
    terms: Mapping[str, Float[Tensor, "g b"]]


def importance_weighted_bound(
    draws: Callable[[int], Draws], k: int, dimensions: int, rows: int
) -> Likelihood:
    """Return log 1/k sum_i w_i of each of b pictures, and the mean of each term, in float64.

    Draws are made in groups of about a million decoded values; the result does not depend on the
    size of the groups.

    Args:
        draws: function that makes the next g draws for all pictures.
        k: total number of draws.
        dimensions: number of values in a picture.
        rows: b, the number of pictures.
    """
    at_once, parts = max(1, _MAX_DECODED_VALUES // (rows * dimensions)), list[Tensor]()
    sums: dict[str, Tensor] = {}
    for start in range(0, k, at_once):
        log_weights, terms = draws(min(at_once, k - start))
        parts.append(log_weights.double().logsumexp(0))
        for name, term in terms.items():
            part = term.double().sum(0)
            sums[name] = sums[name] + part if name in sums else part
    nats = torch.stack(parts).logsumexp(0) - math.log(k)
    return Likelihood(nats, "lower", {name: total / k for name, total in sums.items()})
