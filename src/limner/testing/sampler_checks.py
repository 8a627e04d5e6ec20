"""The promises of every sampler, as checks that run on any sampler.

    from limner.testing.sampler_checks import check_sampler
    check_sampler("my-sampler")

The numbers of a picture are independent and normal, so that the best denoiser is known:
E[x | x_t] = m + alpha v / (alpha^2 v + sigma^2) (x_t - alpha m). A sampler that follows it must end
with numbers of the same mean m and variance v, on each kind of schedule.

With few steps it may be far from them. The error e of a method of the first order is inversely
proportional to the number of steps, that of a higher order falls faster. So the errors after n and
4 n steps say what remains in the limit of many steps, e_4n + (e_4n - e_n) / 3, which must be nearly
0. A sampler that adds too much noise, or that goes a wrong way, keeps an error there.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from limner.contract.image import Condition, Images
from limner.contract.noise import Noise
from limner.maths.denoisers import Conditional, Estimate, per_image
from limner.maths.samplers.sampler import SAMPLERS, Sampler, State
from limner.maths.schedules import (
    DiscreteSchedule,
    LinearPath,
    Schedule,
    Times,
    VarianceExploding,
    cosine_betas,
)
from limner.testing.kept_promises import kept_promises

MEAN, DEVIATION = 0.3, 0.5
"""The law of every number of the pictures."""
_SIDE, _FEW = 16, 10
_PICTURES, _LARGE_SIDE, _STEPS = 16, 64, 200
_MAX_ERROR = 0.1  # of the deviation, after _STEPS steps; ancestral sampling has 0.034
# Of the deviation, in the limit; limner's have at most 0.010, half of it by chance.
_MAX_LIMIT_ERROR = 0.03
SCHEDULES: dict[str, Schedule] = {
    "a cosine schedule": DiscreteSchedule(cosine_betas()),
    "flow matching's line": LinearPath(),
    "a variance-exploding schedule": VarianceExploding(),
}


@dataclass(frozen=True)
class NormalDenoiser:
    """The best denoiser of independent normal numbers."""

    schedule: Schedule

    def __call__(self, x_t: Images, t: Times, c: Condition) -> Estimate:
        """Return E[x | x_t]."""
        alpha, sigma = (per_image(level, x_t) for level in self.schedule(t))
        gain = alpha * DEVIATION**2 / (alpha**2 * DEVIATION**2 + sigma**2)
        return Estimate(MEAN + gain * (x_t - alpha * MEAN))


def _end(
    sampler: Sampler, schedule: Schedule, steps: int, noise: Noise, side: int = _SIDE
) -> Images:
    """Return the pictures to which a sampler leads."""
    times = schedule.times(steps)
    shape = 1, side, side
    x = schedule.prior_deviation * noise.normal(*shape, dtype=torch.float64)
    D, state = Conditional(NormalDenoiser(schedule), Condition()), State(x, x)
    sampler = sampler.for_steps(steps)
    for t, s in pairwise(times):
        state = sampler.step(D, state, t, s, noise)
        assert isinstance(state, State), (
            f"step returns {type(state).__name__}; return State(x, x_hat)"
        )
        for name, images in (("x", state.x), ("sketch", state.sketch)):
            assert images.shape == x.shape, (
                f"{name} of the state has the shape {tuple(images.shape)}, not {tuple(x.shape)}"
            )
            assert images.dtype == x.dtype, (
                f"{name} of the state is {images.dtype}, not {x.dtype} like at.x"
            )
    return state.x


def check_paints(sampler: Sampler) -> None:
    """1. Every schedule leads to finite pictures, in one step and in many."""
    for name, schedule in SCHEDULES.items():
        for steps in (1, 2, _FEW):
            x = _end(sampler, schedule, steps, Noise.sampling(0, 2))
            assert x.isfinite().all(), f"{name} leads to infinite or missing numbers, steps={steps}"


def check_draws_apart(sampler: Sampler) -> None:
    """2. A picture depends on its own seed only, not on the others of its batch."""
    for name, schedule in SCHEDULES.items():
        together = _end(sampler, schedule, _FEW, Noise.sampling(0, 3))
        alone = torch.cat(
            [_end(sampler, schedule, _FEW, Noise.sampling(seed, 1)) for seed in range(3)]
        )
        error = _largest(together - alone)
        assert error < 1e-9, (
            f"on {name}, pictures painted together differ by {error:.2g} from those painted alone; "
            "draw all random numbers from noise, and keep no state in the sampler"
        )


def check_samples_the_law(sampler: Sampler) -> None:
    """3. In many steps of the best denoiser, pictures get the mean and deviation of the data."""
    for name, schedule in SCHEDULES.items():
        few, many = (
            _end(sampler, schedule, steps, Noise.sampling(0, _PICTURES), _LARGE_SIDE)
            for steps in (_STEPS // 4, _STEPS)
        )
        for what, early, value, expected in (
            ("mean", float(few.mean()), float(many.mean()), MEAN),
            ("deviation", float(few.std()), float(many.std()), DEVIATION),
        ):
            assert abs(value - expected) < _MAX_ERROR * DEVIATION, (
                f"after {_STEPS} steps of {name}, the {what} is {value:.3f}, not {expected:g}"
            )
            limit = value + (value - early) / 3
            assert abs(limit - expected) < _MAX_LIMIT_ERROR * DEVIATION, (
                f"on {name}, the {what} is {early:.3f} after {_STEPS // 4} steps and {value:.3f} "
                f"after {_STEPS}; with more it approaches {limit:.3f}, not {expected:g}; does a "
                "step add too much or too little noise, or go too far?"
            )


CHECKS: tuple[Callable[[Sampler], None], ...] = (
    check_paints,
    check_draws_apart,
    check_samples_the_law,
)


def check_sampler(name: str) -> list[str]:
    """Run all checks on a registered sampler, and return a line for each, see `kept_promises`."""
    return kept_promises(name, SAMPLERS.make(name), CHECKS)


def _largest(x: Tensor) -> float:
    return float(x.abs().max()) if x.isfinite().all() else math.inf
