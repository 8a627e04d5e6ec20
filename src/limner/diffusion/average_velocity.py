"""Steps with the average velocity over an interval of time, which a network was trained on."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from limner.contract.image import Condition, Images
from limner.diffusion.denoising_model import DenoisingModel
from limner.maths.denoisers import Estimate
from limner.maths.schedules import Schedule, Times


@dataclass(frozen=True)
class AverageVelocity:
    """Denoiser x_t - t u(x_t, s, t), with u the average velocity between t and the next time s.

    An Euler step from t to s with this denoiser moves along u.

    Args:
        model: model along a line.
        u: average velocity u(x_t, s, t, c), with times for each picture.
        times: times of the sampling plan, decreasing.
    """

    model: DenoisingModel
    u: Callable[[Images, Times, Times, Condition], Images]
    times: Times

    @property
    def schedule(self) -> Schedule:
        """Schedule of the model."""
        return self.model.schedule

    def __call__(self, x_t: Images, t: Times, c: Condition) -> Estimate:
        """Return x_hat, the picture in direction u at time 0."""
        t = t.expand(len(x_t))
        times = self.times.to(t.device)
        s = torch.where(times < t[:, None], times, 0.0).amax(1)
        return Estimate(self.model.combine(self.u(x_t, s, t, c), x_t, t))
