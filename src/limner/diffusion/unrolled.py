"""A walk from noise to a picture written out: which sums each evaluation is given.

All samplers here take steps that are linear in where they are, in what the denoiser said so far and
in the noise that they draw:

    x_k = sum_j a_kj v_j,   v = the first noise, views of the denoiser, further noise

So a walk of any sampler is a table of numbers a. It is found by walking once with unit vectors in
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
from limner.maths.denoisers import DenoiserWrapper, Estimate
from limner.maths.samplers import Ancestral, GuidedAncestral
from limner.maths.schedules import Schedule, Times

_MOST_STEPS = 100


class Look(NamedTuple):
    """An evaluation of the denoiser, or the end.

    Args:
        sums: x_t, as numbers times the vectors so far.
        t: the time; None at the end.
        drawn: how many further noises were drawn before it.
    """

    sums: tuple[float, ...]
    t: float | None
    drawn: int


class _Units(Noise):
    """Unit vectors in place of random numbers; the denoiser's views are some, too."""

    def __init__(self, size: int) -> None:
        super().__init__(torch.zeros(1, dtype=torch.int64))
        self.size, self.used, self.drawn = size, 0, 0

    def unit(self) -> Float[Tensor, "1 1 1 n"]:
        """The next one."""
        x = torch.zeros(1, 1, 1, self.size, dtype=torch.float64)
        x[..., self.used] = 1
        self.used += 1
        return x

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "b *shape"]:
        """The next one."""
        self.drawn += 1
        return self.unit()


class _Asked:
    """A denoiser that keeps what it was asked, and answers with unit vectors."""

    def __init__(self, schedule: Schedule, units: _Units, variance: Tensor | None) -> None:
        self.schedule, self.units, self.variance = schedule, units, variance
        self.looks: list[Look] = []

    def keep(self, x: Images, t: float | None) -> None:
        """Note where the walk is."""
        known = x.flatten()[: self.units.used].tolist()
        self.looks.append(Look(tuple(known), t, self.units.drawn))

    def __call__(self, x_t: Images, t: Times, c: Condition) -> Estimate:
        """A view that is like nothing else."""
        self.keep(x_t, float(t))
        return Estimate(self.units.unit(), self.variance)


def unrolled(plan: Plan, variance: Tensor | None = None) -> list[Look]:
    """The table of a walk: what the denoiser is asked, in order, and the end.

    Args:
        plan: of the walk.
        variance: of a reverse step, where the denoiser says one.

    Raises:
        LimnerError: there is none: the walk is guided by a gradient, has a variance for each pixel,
            or is of too many steps.
    """
    steps, sampler = len(plan.times) - 1, plan.sampler
    if isinstance(sampler, GuidedAncestral) or _is_classified(plan.D):
        raise LimnerError("a classifier guides by gradients, which no table has; export the base")
    own = isinstance(sampler, Ancestral) and sampler.variance is None
    if own and variance is not None and variance.numel() > 1:
        raise LimnerError(
            "the network says the variance of each step, which no table has; give "
            "sampler.sampler=ddim"
        )
    if steps > _MOST_STEPS:
        raise LimnerError(
            f"{steps} steps are too many to be written out; give sampler.steps of at most "
            f"{_MOST_STEPS}"
        )
    units = _Units(8 * steps + 8)
    asked = _Asked(plan.D.schedule, units, variance if own else None)
    walked = plan._replace(D=asked).walked(units.unit(), Condition(), units, False)
    asked.keep(deque(walked, maxlen=1).pop(), None)
    return asked.looks


def _is_classified(D: object) -> bool:
    """Whether a classifier moves what a denoiser says, within whatever wraps it."""
    while isinstance(D, DenoiserWrapper):
        if isinstance(D, Classified):
            return True
        D = D.denoiser
    return False


def follow_table(
    looks: Sequence[Look], first: Images, further: Sequence[Images], D: Callable[..., Images]
) -> Images:
    """Where a walk ends.

    Args:
        looks: its table.
        first: the noise that it begins with.
        further: the noises that it draws.
        D: the view of the picture, given x_t and t.
    """
    vectors, drawn = [first], 0
    for look in looks:
        vectors += further[drawn : look.drawn]
        drawn = look.drawn
        x = torch.stack([a * v for a, v in zip(look.sums, vectors, strict=True)]).sum(0)
        if look.t is None:
            return x
        vectors.append(D(x, look.t))
    raise AssertionError("a table has an end")
