"""Likelihoods that are bounds of several terms."""

from abc import abstractmethod

from jaxtyping import Float
from torch import Tensor

from limner.image import Condition, Images
from limner.model import Likelihood, LikelihoodModel
from limner.noise import Noise


class Bounded(LikelihoodModel):
    """A model that knows a lower bound of log P(x), and reports show its terms apart."""

    @abstractmethod
    def bound_terms(
        self, x: Images, c: Condition = Condition(), *, noise: Noise
    ) -> dict[str, Float[Tensor, "b"]]:
        """The terms whose sum -log P(x) is at most, in nats, by name.

        Args:
            x, c, noise: see `LikelihoodModel.log_prob`.
        """


def bounded(terms: dict[str, Float[Tensor, "b"]]) -> Likelihood:
    """The likelihood of which they are the terms."""
    return Likelihood(-sum(terms.values()), "lower")  # pyright: ignore[reportArgumentType]
