"""Models that say how likely a picture is."""

import functools
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor

from limner.contract.errors import LimnerError, unknown
from limner.contract.evaluation_mode import evaluation_mode
from limner.contract.image import Batch, Condition, Images, check_images, one_for_each
from limner.contract.model import GenerativeModel, Turn
from limner.contract.noise import Noise

Kind = Literal["exact", "lower", "estimate"]
Sign = Literal["=", "<=", ">=", "~"]
KINDS: Mapping[Kind, tuple[Sign, Sign]] = MappingProxyType(
    {"exact": ("=", "="), "lower": (">=", "<="), "estimate": ("~", "~")}
)
"""How log p and bits/dim are to be read, by the kind of a likelihood."""


class Likelihood(NamedTuple):
    """Natural-log probabilities of discrete images, and how they are to be read.

    Args:
        nats: float "b", log p(x) of each image.
        kind: "exact" (printed "="), "lower" (log p is at least this; printed "<=" on bits) or
            "estimate" ("~").
        terms: of the evidence lower bound (ELBO): what -ELBO is the sum of, in nats, by name. It is
            -nats, too, unless the bound is a nearer one, of several draws. Reports show them apart.
    """

    nats: Float[Tensor, "b"]
    kind: Kind
    terms: Mapping[str, Float[Tensor, "b"]] = MappingProxyType({})


def in_evaluation_mode(log_prob: Callable[..., Likelihood]) -> Callable[..., Likelihood]:
    """Check what a likelihood is of, and compute it in evaluation mode, but within `turns`."""

    @functools.wraps(log_prob)
    def checked(
        self: "LikelihoodModel", x: Images, c: Condition = Condition(), **more: Any
    ) -> Likelihood:
        check_images(x)
        asked, given = (" x ".join(map(str, s)) for s in (self.spec.shape, x.shape[1:]))
        if asked != given:
            raise LimnerError(f"{given} pictures have no likelihood here; give it {asked} ones")
        if self.learning:
            return _checked(log_prob(self, x, c, **more), len(x), self)
        c = one_for_each(len(x), c)
        self.check_condition(c)
        with evaluation_mode(self):
            return _checked(log_prob(self, x, c, **more), len(x), self)

    return checked


def _checked(found: object, n: int, model: object) -> Likelihood:
    """What `log_prob` made of n pictures.

    Raises:
        LimnerError: it is not a `Likelihood`, of another kind, or not one for each picture.
    """
    where = f"log_prob of {type(model).__name__}"
    if not isinstance(found, Likelihood):
        kind = type(found).__name__
        raise LimnerError(f"{where} returns {kind}; return Likelihood(nats, kind)")
    if found.kind not in KINDS:
        raise unknown("kind", str(found.kind), KINDS, where)
    if found.nats.shape != (n,):
        shape = " x ".join(map(str, found.nats.shape)) or "one number"
        raise LimnerError(f"{where} returns nats of {shape} for {n} pictures; give one for each")
    return found


def in_training_mode(turns: Callable[..., Iterator[Turn]]) -> Callable[..., Iterator[Turn]]:
    """Let likelihoods within `turns` be computed in the mode that the model is in."""

    @functools.wraps(turns)
    def moves(self: "LikelihoodModel", *args: Any, **kwargs: Any) -> Iterator[Turn]:
        game = turns(self, *args, **kwargs)
        while True:
            outer, self.learning = self.learning, True  # not around the yield: others may ask
            try:
                turn = next(game, None)
            finally:
                self.learning = outer
            if turn is None:
                return
            yield turn

    return moves


class LikelihoodModel(GenerativeModel):
    """A model that also says how likely an image is.

    What `log_prob` takes beyond `x`, `c` and `noise` are its options, as with `frames`.
    """

    likelihood_is_slow: bool = False
    """Whether one takes many passes through a network, so that reports have it if asked for."""
    learning: bool = False
    """Whether one of the model's `turns` is being computed."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "log_prob" in cls.__dict__:
            cls.log_prob = in_evaluation_mode(cls.log_prob)
        if "turns" in cls.__dict__:
            cls.turns = in_training_mode(cls.turns)

    def likelihood_protocol(self) -> str:
        """What stands beside a likelihood in reports, of the same options: how many importance
        samples, which dequantisation; empty where `log_prob` draws nothing.
        """
        return ""

    @abstractmethod
    def log_prob(self, x: Images, c: Condition = Condition(), *, noise: Noise) -> Likelihood:
        """Natural-log probability of each image as one of `spec.levels` ** dimensions discrete
        ones.

        Args:
            x: images on the grid of `spec.levels` values in [-1, 1], "b c h w".
            c: what they are of; b rows, one for all, or no parts.
            noise: b random streams, for bounds and estimates that draw.

        Raises:
            LimnerError: pictures of another shape, or conditions that do not pair with them or that
                the model was trained without.
        """

    def bits_per_dim(self, x: Images, c: Condition = Condition(), *, noise: Noise) -> Likelihood:
        """-log2 p(x) / dimensions of each image, in `nats`' place; "lower" bounds it from above."""
        nats, kind, _ = self.log_prob(x, c, noise=noise)
        return Likelihood(-nats / (self.spec.dimensions * math.log(2)), kind)

    @in_training_mode
    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """One move: the mean bits per dimension."""
        bits = self.bits_per_dim(batch.x, batch.c, noise=noise).nats.mean()
        yield Turn(bits, logs={"bits_per_dim": bits.detach()})
