"""Inpainting with a latent variable model: Metropolis within Gibbs.

A picture x consists of a part v that is kept and a part u that is drawn given v. Each step of the
chain draws

    z' from q(z | x), which replaces z with probability min(1, w(x, z') / w(x, z)),
    w(x, z) = p(x | z) p(z) / q(z | x);
    u from p(u | z),

and so leaves p(u, z | v) invariant for any q. The first steps accept every z'. This is the
pseudo-Gibbs chain of Rezende, Mohamed, Wierstra (2014), arXiv:1401.4082, which gets close quickly.

Mattei, Frellsen (2018). Leveraging the exact likelihood of deep latent variable models.
arXiv:1802.04826, algorithm 1.
"""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from limner.contract.code_editing import EditsCodes
from limner.contract.image import Condition, Images, from_levels
from limner.contract.likelihood import LikelihoodModel
from limner.contract.noise import Noise
from limner.maths.pixel_distributions import PixelDistribution

_WARMUP_DIVISOR = 4  # the first quarter of the chain accepts all proposals


class Imputes(LikelihoodModel, EditsCodes):
    """A model with p(z), q(z | x) and p(x | z), where p(x | z) is a distribution of each pixel."""

    law: PixelDistribution

    @abstractmethod
    def propose(self, x: Images, c: Condition, noise: Noise) -> Float[Tensor, "b d"]:
        """Draw z from q(z | x)."""

    @abstractmethod
    def log_weights(self, x: Images, z: Float[Tensor, "b d"], c: Condition) -> Float[Tensor, "b"]:
        """Return log p(x | z) + log p(z) - log q(z | x) in nats."""

    @abstractmethod
    def theta(self, z: Float[Tensor, "b d"], c: Condition) -> Float[Tensor, "b h w p"]:
        """Return the parameters of p(x | z) at each pixel."""

    def chain(
        self,
        x: Images,
        mask: Float[Tensor, "b 1 h w"],
        c: Condition,
        noise: Noise,
        steps: int,
        *,
        output: Literal["mean", "draw"] = "mean",
        **options: Any,
    ) -> Iterator[Images]:
        """Run Metropolis within Gibbs; see `EditsCodes.chain`."""
        z = self.propose(x, c, noise)
        for step in range(steps):
            proposal = self.propose(x, c, noise)
            gain = self.log_weights(x, proposal, c) - self.log_weights(x, z, c)
            accepted = noise.uniform(dtype=torch.float64).log() < gain.double()
            if step < steps // _WARMUP_DIVISOR:
                accepted = torch.ones_like(accepted)
            z = torch.where(accepted[:, None], proposal, z)
            theta = self.theta(z, c)
            sample = self.draw_picture(theta, noise)
            x = torch.where(mask > 0, sample.to(x), x)
            yield x if output == "draw" else self.law.mean(theta).permute(0, 3, 1, 2).to(x)

    def draw_picture(self, theta: Float[Tensor, "b h w p"], noise: Noise) -> Images:
        """Draw a picture from p(x | z), given its parameters."""
        k = self.law.sample(theta, noise.uniform(*theta.shape[1:3], self.spec.channels))
        return from_levels(k, self.spec.levels).permute(0, 3, 1, 2)
