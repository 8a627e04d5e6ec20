"""Steps by the average velocity of a stretch of time, which a network was trained to know."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from limner.contract.image import Condition, Images
from limner.diffusion.denoising_model import DenoisingModel
from limner.maths.denoisers import Estimate
from limner.maths.schedules import Schedule, Times


@dataclass(frozen=True)
class Stretches:
    """The denoiser x_t - t u(x_t, s, t) for which Euler's step from t to the next time s of a walk
    goes by u, the average velocity between them.

    Args:
        model: along a line.
        u: u(x_t, s, t, c), with times for each picture.
        times: of the walk, decreasing.
    """

    model: DenoisingModel
    u: Callable[[Images, Times, Times, Condition], Images]
    times: Times

    @property
    def schedule(self) -> Schedule:
        """The model's."""
        return self.model.schedule

    def __call__(self, x_t: Images, t: Times, c: Condition) -> Estimate:
        """The picture at the end of the direction."""
        t = t.expand(len(x_t))
        times = self.times.to(t.device)
        s = torch.where(times < t[:, None], times, 0.0).amax(1)
        return Estimate(self.model.denoised(self.u(x_t, s, t, c), x_t, t))
