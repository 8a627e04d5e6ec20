"""Models that compute the likelihood of a picture."""

import functools
import math
import reprlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from limner.contract.errors import LimnerError, unknown
from limner.contract.evaluation_mode import evaluation_mode
from limner.contract.image import Batch, Condition, Images, check_images, one_for_each
from limner.contract.model import GenerativeModel, Turn
from limner.contract.noise import Noise
from limner.contract.torch_defaults import usual_tensors

Kind = Literal["exact", "lower", "estimate"]
Sign = Literal["=", "<=", ">=", "~"]
KINDS: Mapping[Kind, tuple[Sign, Sign]] = MappingProxyType(
    {"exact": ("=", "="), "lower": (">=", "<="), "estimate": ("~", "~")}
)
"""How to read log p and bits/dim, by the kind of a likelihood."""


class Likelihood(NamedTuple):
    """Natural-log probabilities of discrete images, and how to read them.

    Args:
        nats: float "b", log p(x) of each image.
        kind: "exact" (printed "="), "lower" (log p is at least this; printed "<=" on bits) or
            "estimate" ("~").
        terms: the terms of the evidence lower bound (ELBO), in nats, by name; their sum is -ELBO.
            This is also -nats, unless the bound is a tighter one, made with several draws. Reports
            show the terms separately.
    """

    nats: Float[Tensor, "b"]
    kind: Kind
    terms: Mapping[str, Float[Tensor, "b"]] = MappingProxyType({})


def in_evaluation_mode(log_prob: Callable[..., Likelihood]) -> Callable[..., Likelihood]:
    """Make `log_prob` check its arguments and run in evaluation mode, except within `turns`."""

    @functools.wraps(log_prob)
    def wrapper(
        self: "LikelihoodModel", x: Images, c: Condition = Condition(), **options: Any
    ) -> Likelihood:
        check_images(x)
        expected, actual = (" x ".join(map(str, s)) for s in (self.spec.shape, x.shape[1:]))
        if expected != actual:
            raise LimnerError(f"this model has likelihoods of {expected} pictures, not of {actual}")
        streams = options.get("noise")
        if not isinstance(streams, Noise):
            raise LimnerError(
                f"noise={reprlib.repr(streams)} has no random streams; give noise="
                "limner.Noise.sampling(seed, n)"
            )
        if len(streams) != len(x):
            raise LimnerError(
                f"{len(streams)} random streams for {len(x)} pictures; give one for each, as "
                "Noise.sampling(seed, n)"
            )
        dtype = max(self.parameters(), key=Tensor.numel, default=x).dtype  # without any, x's own
        if dtype in (torch.float32, torch.float64):  # others cannot tell all levels apart
            x = x.to(dtype)
        if self.learning:
            return _check_likelihood(log_prob(self, x, c, **options), len(x), self)
        c = one_for_each(len(x), c)
        self.check_condition(c)
        with usual_tensors(), evaluation_mode(self):
            return _check_likelihood(log_prob(self, x, c, **options), len(x), self)

    return wrapper


def _check_likelihood(value: object, n: int, model: object) -> Likelihood:
    """Check the value of `log_prob` for n pictures, and return it.

    Raises:
        LimnerError: it is not a `Likelihood`, has an unknown kind, or does not have one value for
            each picture.
    """
    name = f"log_prob of {type(model).__name__}"
    if not isinstance(value, Likelihood):
        kind = type(value).__name__
        raise LimnerError(f"{name} returns {kind}; return Likelihood(nats, kind)")
    if value.kind not in KINDS:
        raise unknown("kind", str(value.kind), KINDS, name)
    if value.nats.shape != (n,):
        shape = " x ".join(map(str, value.nats.shape)) or "one number"
        raise LimnerError(f"{name} returns nats of {shape} for {n} pictures; give one for each")
    return value


def in_training_mode(turns: Callable[..., Iterator[Turn]]) -> Callable[..., Iterator[Turn]]:
    """Make likelihoods within `turns` use the mode that the model is in."""

    @functools.wraps(turns)
    def exact_turns(self: "LikelihoodModel", *args: Any, **kwargs: Any) -> Iterator[Turn]:
        game: object = turns(self, *args, **kwargs)
        if not isinstance(game, Iterator):  # pyright: ignore[reportUnnecessaryIsInstance]
            where, kind = f"turns of {type(self).__name__}", type(game).__name__
            raise LimnerError(f"{where} returns {kind}; write yield Turn(loss)")
        while True:
            outer, self.learning = self.learning, True  # not around the yield, where others may run
            try:
                turn = next(game, None)
            finally:
                self.learning = outer
            if turn is None:
                return
            yield turn

    return exact_turns


class LikelihoodModel(GenerativeModel):
    """A model that also computes the likelihood of an image.

    The arguments of `log_prob` beyond `x`, `c` and `noise` are its options, as in `frames`.
    """

    likelihood_is_slow: bool = False
    """Whether a likelihood takes many passes through a network; then reports have it only on
    request."""
    learning: bool = False
    """Whether one of the model's `turns` is being computed."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "log_prob" in cls.__dict__:
            cls.log_prob = in_evaluation_mode(cls.log_prob)
        if "turns" in cls.__dict__:
            cls.turns = in_training_mode(cls.turns)

    def likelihood_protocol(self) -> str:
        """Return what reports show next to a likelihood computed with the same options: the number
        of importance samples, the dequantisation; empty if `log_prob` draws nothing."""
        return ""

    @abstractmethod
    def log_prob(self, x: Images, c: Condition = Condition(), *, noise: Noise) -> Likelihood:
        """Return the natural-log probability of each image, as one of `spec.levels` ** dimensions
        discrete images.

        Args:
            x: images on the grid of `spec.levels` values in [-1, 1], "b c h w".
            c: the condition of the images; b rows, one for all, or no parts.
            noise: b random streams, for bounds and estimates that draw.

        Raises:
            LimnerError: pictures of another shape, or conditions that do not pair with them or that
                the model was trained without.
        """

    def bits_per_dim(self, x: Images, c: Condition = Condition(), *, noise: Noise) -> Likelihood:
        """Return -log2 p(x) / dimensions of each image in place of `nats`; "lower" bounds it from
        above."""
        nats, kind, _ = self.log_prob(x, c, noise=noise)
        return Likelihood(-nats / (self.spec.dimensions * math.log(2)), kind)

    @in_training_mode
    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield one turn: the mean bits per dimension."""
        bits = self.bits_per_dim(batch.x, batch.c, noise=noise).nats.mean()
        yield Turn(bits, logs={"bits_per_dim": bits.detach()})
