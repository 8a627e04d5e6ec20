"""Random numbers as a pure function of a key: a stream for each (seed, step, image).

Every image of a batch has its own stream. So a picture is the same alone, in any batch and on any
number of processes, and training can be stopped and continued at any step. Nothing here reads or
changes torch's global generator. A stream is SplitMix64, computed for all positions in parallel
instead of one after the other:

    z_i = mix(s + (i + 1) g),   g = 0x9E3779B97F4A7C15,   s = the stream's seed,

where `mix` is the generator's finaliser. Normal numbers are made from pairs of uniform ones by Box
and Muller.

References:
    Steele, Lea, Flood (2014). Fast splittable pseudorandom number generators. OOPSLA.
    Box, Muller (1958). A note on the generation of random normal deviates.
"""

import math
from collections.abc import Sequence
from enum import IntEnum
from operator import index
from typing import NamedTuple, SupportsIndex, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limner.contract.errors import LimnerError


def _as_signed(number: int) -> int:
    """Return the int64 with the same lowest 64 bits, because torch has no arithmetic on uint64."""
    return (number + 2**63) % 2**64 - 2**63


_GAMMA = _as_signed(0x9E3779B97F4A7C15)
_MULTIPLY_1 = _as_signed(0xBF58476D1CE4E5B9)
_MULTIPLY_2 = _as_signed(0x94D049BB133111EB)


class Purpose(IntEnum):
    """What random streams are used for; it takes the place of a training step (steps count from 0).

    No two parts of the library share a purpose, so that no two draw the same numbers.
    """

    SAMPLING = -1
    """Sampling of pictures."""
    ORDER = -2
    """The order of the pictures of the data."""
    BINARISE = -3
    """Binarisation of pixels to 0 or 1."""
    FLIP = -4
    """Which pictures are mirrored."""
    CAPTION = -5
    """Which caption a picture comes with."""
    HINT = -6
    """The order of the other domain of unpaired data."""
    REFERENCE_CAPTION = -7
    """Which caption of a real picture is used in evaluations of a model."""
    LIKELIHOOD = -8
    """Draws of a bound in an evaluation."""
    SCORE = -9
    """Draws of a bound when single pictures are scored."""
    ODD_PICTURES = -10
    """Pictures unlike any data, for the self-test of scores."""
    STACKING = -11
    """Which digits are stacked."""
    CALIBRATION = -12
    """Draws with which a model calibrates its averaged weights."""
    PREPARATION = -13
    """Draws with which a model initialises itself from data, before its first step."""
    VALIDATION = -14
    """Noise of the held-out loss."""
    CROP = -15
    """Which part of a picture is used."""
    COLOUR = -16
    """Which colour a digit has."""
    OTHER_ORDER = -17
    """The order of the pictures of the other domain."""
    WINDOW = -18
    """The order of pictures that lie near each other."""
    MIX = -19
    """Which of several sources a picture comes from."""


def _shift_xor(z: Int[Tensor, "*n"], bits: int) -> Int[Tensor, "*n"]:
    """Compute z ^ (z >>> bits), in place; torch's >> is arithmetic, so copies of the sign are
    masked."""
    return z.bitwise_xor_((z >> bits).bitwise_and_((1 << (64 - bits)) - 1))


def _mix(z: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """Apply SplitMix64's finaliser, in place."""
    z = _shift_xor(z, 30).mul_(_MULTIPLY_1)
    z = _shift_xor(z, 27).mul_(_MULTIPLY_2)
    return _shift_xor(z, 31)


class Blend(NamedTuple):
    """A blend of two seeds: its normal numbers are sqrt(1 - amount^2) z_seed + amount z_other.

    Args:
        seed, other: the seeds that are blended.
        amount: 0 is the seed, 1 the other; a small amount is a variation, all amounts make a path.
    """

    seed: int
    other: int
    amount: float


Seeds = SupportsIndex | Sequence[SupportsIndex | Blend]
"""A whole number, for the first picture (the next ones count up), or a number for each picture:
Python's, numpy's or torch's, in a list or an array."""


def as_seeds(seed: Seeds, n: int | None = None) -> int | list[int | Blend]:
    """Return a seed, or the list of seeds, as Python's own numbers.

    Args:
        seed: the seed or seeds.
        n: the number of pictures that a list must have seeds for; None accepts a list of any
            length.

    Raises:
        LimnerError: they are not whole numbers, or not as many as the pictures.
    """
    value = cast("SupportsIndex | Sequence[object]", getattr(seed, "tolist", lambda: seed)())
    try:
        if not isinstance(value, Sequence):
            return index(value)
        seeds = [_checked_seed(item) for item in cast("Sequence[SupportsIndex | Blend]", value)]
    except TypeError:
        raise LimnerError(
            f"seed={repr(value)[:40]} is not a whole number; give one, as seed=0, or a list of "
            "one for each picture"
        ) from None
    if n not in (None, len(seeds)):
        raise LimnerError(f"{len(seeds)} seeds for {n} pictures; give one, or one for each")
    return seeds


def _checked_seed(seed: SupportsIndex | Blend) -> int | Blend:
    if isinstance(seed, Blend):
        return Blend(index(seed.seed), index(seed.other), float(seed.amount))
    return index(seed)


class Noise:
    """Independent random streams, one per image; each call draws the next numbers from all of them.

    Args:
        streams: int64 "b", the seed of each image's stream.
        draws: the number of draws made so far.
        others: float64 "b" and int64 "b": for each image the share of another stream in normal
            numbers, and that stream; None if nothing is blended.
    """

    def __init__(
        self,
        streams: Int[Tensor, "b"],
        draws: int = 0,
        others: tuple[Float[Tensor, "b"], Int[Tensor, "b"]] | None = None,
    ) -> None:
        self.streams = streams
        self.draws = draws
        self.others = others

    @classmethod
    def keyed(
        cls,
        seed: SupportsIndex,
        step: int,
        images: Sequence[int] | Int[Tensor, "b"],
        device: str = "cpu",
    ) -> "Noise":
        """Return the streams of images, by their global numbers, at one training step or for a
        purpose.

        Args:
            seed: the seed of all streams.
            step: the training step, from 0; or a `Purpose`.
            images: the global numbers of the images.
            device: the device on which numbers are drawn.
        """
        numbers = torch.as_tensor(images, dtype=torch.int64, device=device)
        value = as_seeds(seed)
        if not isinstance(value, int):
            raise LimnerError(f"seed={value} is a list; give one whole number, as seed=0")
        step_key = _mix(torch.tensor(_as_signed(value), dtype=torch.int64, device=device) + _GAMMA)
        image_key = _mix(step_key + _as_signed((step + 1) * _GAMMA))
        return cls(_mix(image_key + (numbers + 1) * _GAMMA))

    @classmethod
    def sampling(cls, seed: Seeds, n: int, device: str = "cpu") -> "Noise":
        """Return the streams for n pictures: of the given seeds, or of seed, seed + 1, ...

        Raises:
            LimnerError: the seeds are not whole numbers, or there are not n.
        """
        value = as_seeds(seed, n)
        if not isinstance(value, int):
            return cls._blend(value, device)
        seeds = torch.arange(n, dtype=torch.int64, device=device) + _as_signed(value)
        return cls(_mix(_mix(seeds + _GAMMA) + _as_signed(Purpose.SAMPLING * _GAMMA)))

    @classmethod
    def _blend(cls, seeds: Sequence[int | Blend], device: str) -> "Noise":
        """Return the streams of seeds, some of which are blended with others."""
        blends = [item if isinstance(item, Blend) else Blend(item, item, 0.0) for item in seeds]

        def streams(numbers: list[int]) -> Int[Tensor, "b"]:
            return torch.cat([cls.sampling(number, 1, device).streams for number in numbers])

        noise = cls(streams([item.seed for item in blends]))
        amounts = torch.tensor([item.amount for item in blends], dtype=torch.float64, device=device)
        if any(item.amount for item in blends):
            noise.others = amounts, streams([item.other for item in blends])
        return noise

    def __len__(self) -> int:
        return len(self.streams)

    def rows(self, rows: slice | Int[Tensor, "r"]) -> "Noise":
        """Return the streams of some images, from their current position."""
        others = self.others and (self.others[0][rows], self.others[1][rows])
        return Noise(self.streams[rows], self.draws, others)

    def to(self, device: torch.device | str) -> "Noise":
        """Return the same streams on another device."""
        others = self.others and (self.others[0].to(device), self.others[1].to(device))
        return Noise(self.streams.to(device), self.draws, others)

    def bits(self, n: int) -> Int[Tensor, "b n"]:
        """Return the next n 64-bit numbers of each stream."""
        # a tensor's product also wraps around in compiled programs, where `draws` is not a constant
        draw = torch.full_like(self.streams, self.draws + 1)
        start = _mix(self.streams + draw * _GAMMA)
        self.draws += 1
        counter = torch.arange(1, n + 1, dtype=torch.int64, device=start.device)
        return _mix(start[:, None] + counter * _GAMMA)

    def uniform(self, *shape: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "b *shape"]:
        """Return uniform numbers in [0, 1), with as many random bits as their type has digits: 24
        in float32, 53 in float64."""
        digits = 1 - round(math.log2(torch.finfo(dtype).eps))
        bits = self.bits(math.prod(shape))
        values = (bits >> (64 - digits)).bitwise_and_((1 << digits) - 1).to(dtype)
        return values.mul_(2.0**-digits).view(len(self), *shape)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "b *shape"]:
        """Return standard normal numbers, cut at 5.9 deviations (4e-9 of the mass lies beyond)."""
        if self.others:
            amount, streams = self.others
            amount = amount.to(dtype).view(-1, *(1 for _ in shape))
            z_other = Noise(streams, self.draws).normal(*shape, dtype=dtype)
            z_seed = Noise(self.streams, self.draws).normal(*shape, dtype=dtype)
            self.draws += 1
            return (1 - amount.square()).sqrt() * z_seed + amount * z_other
        n = math.prod(shape)
        bits = self.bits((n + 1) // 2)
        radius = (bits >> 40).bitwise_and_(0xFFFFFF).to(dtype).add_(0.5).mul_(2.0**-24)
        radius = radius.log_().mul_(-2).sqrt_()
        angle = (bits >> 8).bitwise_and_(0xFFFFFF).to(dtype).mul_(2 * math.pi * 2.0**-24)
        pairs = torch.cat([radius * angle.cos(), radius.mul_(angle.sin())], dim=1)
        return pairs[:, :n].reshape(len(self), *shape)

    def integers(self, high: int, *shape: int) -> Int[Tensor, "b *shape"]:
        """Return uniform integers 0 .. high - 1 (bias below high / 2^53)."""
        return (self.uniform(*shape, dtype=torch.float64) * high).long().clamp_(max=high - 1)
