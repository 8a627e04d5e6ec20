"""Unroll sampling from noise to a picture into a table: the input of each evaluation as a sum.

The steps of all samplers of the library are linear in the present x_t, in the denoiser's estimates
so far, and in the noise that they draw:

    x_k = sum_j a_kj v_j,   v = the first noise, estimates of the denoiser, further noise

So every sampling plan is a table of numbers a. It is found by sampling once with unit vectors in
place of pictures.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import Condition, Images
from limner.contract.noise import Noise
from limner.diffusion.classifier_guidance import Classified
from limner.diffusion.sampling import Plan
from limner.maths.denoisers import DenoiserWrapper, Estimate, Guided
from limner.maths.samplers.ancestral import Ancestral, GuidedAncestral
from limner.maths.schedules import Schedule, Times

_MAX_STEPS = 100


class Row(NamedTuple):
    """Row of the table: an evaluation of the denoiser, or the end.

    Args:
        sums: x_t as a sum: the factors of the vectors so far.
        t: the time; None at the end.
        drawn: number of further noises drawn before it.
    """

    sums: tuple[float, ...]
    t: float | None
    drawn: int


class _Units(Noise):
    """Unit vectors in place of random numbers, and of the denoiser's estimates."""

    def __init__(self, size: int) -> None:
        super().__init__(torch.zeros(1, dtype=torch.int64))
        self.size, self.unit_count, self.noise_count = size, 0, 0

    def unit(self) -> Float[Tensor, "1 1 1 n"]:
        """Return the next unit vector."""
        x = torch.zeros(1, 1, 1, self.size, dtype=torch.float64)
        x[..., self.unit_count] = 1
        self.unit_count += 1
        return x

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "b *shape"]:
        """Return the next unit vector as drawn noise."""
        self.noise_count += 1
        return self.unit()


class _LargeNoise(Noise):
    """Noise of deviation 10, at which a sampler that limits numbers is found."""

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "b *shape"]:
        """Draw ten times what `Noise` draws."""
        return 10 * super().normal(*shape, dtype=dtype)


class _RecordingDenoiser:
    """Denoiser that records its inputs, and returns unit vectors."""

    def __init__(self, schedule: Schedule, units: _Units, variance: Tensor | None) -> None:
        self.schedule, self.units, self.variance = schedule, units, variance
        self.table: list[Row] = []

    def keep(self, x: Images, t: float | None) -> None:
        """Record a row of the table."""
        sums = x.flatten()[: self.units.unit_count].tolist()
        self.table.append(Row(tuple(sums), t, self.units.noise_count))

    def __call__(self, x_t: Images, t: Times, c: Condition) -> Estimate:
        """Record the input, and return a new unit vector as the estimate."""
        self.keep(x_t, float(t))
        return Estimate(self.units.unit(), self.variance)


def sampling_table(plan: Plan, variance: Tensor | None = None) -> list[Row]:
    """Return the table of a sampling plan: the denoiser's inputs, in order, and the end.

    Args:
        plan: sampling plan.
        variance: variance of a reverse step, if the denoiser returns one.

    Raises:
        LimnerError: there is no table, because the plan is guided by a gradient or in some steps
            only, has a variance for each pixel, has too many steps, or its sampler is not linear.
    """
    steps, sampler, wrappers = len(plan.times) - 1, plan.sampler, _wrappers(plan.D)
    if isinstance(sampler, GuidedAncestral) or any(isinstance(D, Classified) for D in wrappers):
        raise LimnerError(
            "a classifier guides with gradients, which a table cannot contain; export the base"
        )
    if any(isinstance(D, Guided) and D.interval is not None for D in wrappers):
        raise LimnerError(
            "with sampler.interval the network is guided in some steps only, which a table cannot "
            "contain; give sampler.interval=none"
        )
    needs_variance = isinstance(sampler, Ancestral) and sampler.variance is None
    if needs_variance and variance is not None and variance.numel() > 1:
        raise LimnerError(
            "the network predicts the variance of each step, which a table cannot contain; give "
            "sampler.sampler=ddim"
        )
    if steps > _MAX_STEPS:
        raise LimnerError(
            f"{steps} steps are too many for a table; give sampler.steps of at most {_MAX_STEPS}"
        )
    units = _Units(8 * steps + 8)
    recorder = _RecordingDenoiser(plan.D.schedule, units, variance if needs_variance else None)
    frames = plan._replace(D=recorder).trajectory(units.unit(), Condition(), units, False)
    recorder.keep(deque(frames, maxlen=1).pop(), None)
    _check_table(recorder.table, plan, recorder.variance)
    return recorder.table


def _check_table(table: Sequence[Row], plan: Plan, variance: Tensor | None) -> None:
    """Check that a table leads to the same picture as its plan, with a simple denoiser.

    Raises:
        LimnerError: it does not, because a step of the sampler is not linear, or mixes pixels.
    """

    class Bounded(NamedTuple):
        schedule: Schedule

        def __call__(self, x_t: Images, t: Times, c: Condition) -> Estimate:
            return Estimate(x_t.tanh(), variance)

    drawn, noise = _LargeNoise.sampling(0, 1), _LargeNoise.sampling(0, 1)
    first, *further = (
        drawn.normal(1, 4, 4, dtype=torch.float64) for _ in range(1 + table[-1].drawn)
    )
    x = noise.normal(1, 4, 4, dtype=torch.float64)
    expected = plan._replace(D=Bounded(plan.D.schedule)).end(x, Condition(), noise)
    actual = follow_table(table, first, further, lambda x, t: x.tanh())
    if not torch.allclose(actual, expected, rtol=1e-6, atol=1e-6):
        raise LimnerError(
            f"the steps of {type(plan.sampler).__name__} are no sums of pictures and noises, which "
            "is all that a table can contain; give another sampler.sampler"
        )


def _wrappers(D: object) -> list[DenoiserWrapper]:
    """Return the wrappers of a denoiser, from the outermost."""
    wrappers: list[DenoiserWrapper] = []
    while isinstance(D, DenoiserWrapper):
        wrappers.append(D)
        D = D.denoiser
    return wrappers


def follow_table(
    table: Sequence[Row], first: Images, further: Sequence[Images], D: Callable[..., Images]
) -> Images:
    """Sample with a table, and return the picture.

    Args:
        table: table of a sampling plan.
        first: noise to start from.
        further: further noises that the plan draws.
        D: function of x_t and t that returns the estimate of the picture.
    """
    vectors, drawn = [first], 0
    for row in table:
        vectors += further[drawn : row.drawn]
        drawn = row.drawn
        x = torch.stack([a * v for a, v in zip(row.sums, vectors, strict=True)]).sum(0)
        if row.t is None:
            return x
        vectors.append(D(x, row.t))
    raise AssertionError("a table has an end")
