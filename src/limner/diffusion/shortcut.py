"""Shortcut models: one network, conditioned on the step length, for 1, 2, 4, ..., 128 steps.

Frans, Hafner, Levine, Abbeel (2024). One step diffusion via shortcut models. arXiv:2410.12557.

On the line x_t = (1 - t) x + t eps, s(x_t, t, d) is the direction of the single step from t to
t - d (equation 3, with time from picture to noise):

    x_{t-d} = x_t - d s(x_t, t, d).

At d = 0 it is the velocity eps - x of flow matching. A step of 2d is two steps of d (equation 4),
so that longer steps are learnt from shorter ones, down to those of flow matching (equation 5):

    s(x_t, t, 2d) = (s_1 + s_2) / 2,   s_1 = s(x_t, t, d),   s_2 = s(x_t - d s_1, t - d, d).

Kept: a quarter of the pictures learn from two steps. These are computed with an average of the
weights and without gradients; steps at d = 0 are guided. d is in 1/128, ..., 1/2, 1, and t is a
multiple of it; times are uniform. Different: whether a picture learns from two steps is drawn for
each picture; a U-Net instead of a transformer; if the number of steps is not a power of two, the
last steps are halved.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Unpack

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.model import Turn
from limner.contract.noise import Noise
from limner.contract.options import Rate, Share
from limner.contract.registry import Paper, register
from limner.diffusion.average_velocity import AverageVelocity
from limner.diffusion.denoising_model import DenoisingModel
from limner.diffusion.sampling import Plan
from limner.maths.denoisers import (
    Clipped,
    Denoiser,
    Guided,
    Parametrisation,
    flow,
    per_image,
)
from limner.maths.samplers.euler import Euler
from limner.maths.schedules import LinearPath, Times
from limner.nn.span_unet import SpanUNet
from limner.nn.unet import PatchOptions
from limner.nn.weight_average import WeightAverage

_HALVINGS = 7  # of the longest step; the shortest is 1/128
_MAX_STEPS = 2**_HALVINGS


@register(
    "shortcut",
    family="diffusion",
    paper=Paper(
        "One step diffusion via shortcut models",
        "Frans, Hafner, Levine, Abbeel",
        2024,
        "2410.12557",
    ),
    tiny={"channels": (8,), "attention": 0, "share": 0.5},
    train={"lr": 5e-4, "clip": 1.0},
)
class Shortcut(DenoisingModel):
    """Shortcut model: flow matching conditioned on the step length, for any number of steps.

    Without a named sampler, sampling takes the steps that were trained, up to 128 of them; with a
    sampler, it follows the equation of flow matching, with d = 0.

    Args:
        spec: specification of the images.
        share: share of the pictures that learn a longer step from two shorter ones.
        scale: guidance scale of the shortest steps, from which all others learn; 1 is no guidance.
        decay: decay rate of the averaged weights that compute these targets.
        condition_dropout: probability that training hides the condition.
        unet: see `PatchOptions`.
    """

    default_sampler = "euler"
    default_steps = 4
    loss_compares = False

    def __init__(
        self,
        spec: ImageSpec,
        share: Share = 0.25,
        scale: Annotated[float, Field(ge=0, le=100)] = 1.5,
        decay: Rate = 0.999,
        condition_dropout: Share = 0.1,
        **unet: Unpack[PatchOptions],
    ) -> None:
        network = SpanUNet(spec, **unet)
        super().__init__(spec, network, condition_dropout)
        self.schedule = LinearPath()
        self.share, self.scale = share, scale
        self.target = WeightAverage(network, decay)

    def memory(self) -> dict[str, Tensor]:
        """Return the averaged weights that compute the targets."""
        return dict(self.target.named_buffers(prefix="target"))

    @property
    def parametrisation(self) -> Parametrisation:
        """Prediction of the velocity, at d = 0."""
        return flow

    def draw_times(self, noise: Noise) -> Times:
        """Draw t uniform in (0, 1)."""
        return noise.uniform(dtype=torch.float64).clamp_(min=1e-5)

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield one turn: some pictures learn a step from two shorter ones, the others velocity."""
        self.target.follow(self.network, step)
        e = self.example(batch, noise)
        is_longer = noise.uniform() < self.share
        d = 0.5 ** noise.integers(_HALVINGS + 1).double()
        t = torch.where(is_longer, d * (1 + (noise.uniform(dtype=torch.float64) / d).floor()), e.t)
        d, target, x_t = torch.where(is_longer, d, 0.0), e.target, e.x_t
        if bool(is_longer.any()):
            eps = e.target + batch.x
            x_t = per_image(1 - t, eps) * batch.x + per_image(t, eps) * eps
            rows = is_longer.nonzero().flatten()
            target = target.index_copy(
                0, rows, self.two_steps(x_t[rows], t[rows], d[rows], batch.c.rows(rows))
            )
        error = (self.direction(x_t, t, d, e.c).float() - target).square().flatten(1).mean(1)
        logs = {
            name: error.detach()[mask].mean()  # NaN where there are none
            for name, mask in (("velocity", ~is_longer), ("consistency", is_longer))
        }
        yield Turn(error.mean(), logs=logs)

    def direction(self, x_t: Images, t: Times, d: Times, c: Condition) -> Images:
        """Return s(x_t, t, d)."""
        return self.network(x_t, self.schedule.label(t), span(d), c)

    def average_velocity(self, x_t: Images, s: Times, t: Times, c: Condition) -> Images:
        """Return the direction of the step from t to s."""
        return self.direction(x_t, t, t - s, c)

    def output(self, x_t: Images, t: Times, c: Condition) -> Tensor:
        """Return the velocity: the direction at d = 0."""
        return self.direction(x_t, t, torch.zeros_like(t), c)

    @torch.no_grad()
    def two_steps(self, x_t: Images, t: Times, d: Times, c: Condition) -> Images:
        """Return the joint direction of two steps of d / 2, computed with the averaged weights.

        Where d / 2 is shorter than the shortest step, these steps use the guided velocity.
        """
        half = d / 2
        length = torch.where(half < 1 / _MAX_STEPS, 0.0, half)
        s_1 = self._guided_velocity(x_t, t, length, c)
        s_2 = self._guided_velocity(x_t - per_image(half, x_t) * s_1, t - half, length, c)
        return (s_1 + s_2) / 2

    def _guided_velocity(self, x_t: Images, t: Times, d: Times, c: Condition) -> Images:
        label = self.schedule.label(t)
        s = self.target(self.network, x_t, label, span(d), c).to(x_t)
        rows = (d == 0).nonzero().flatten()
        if self.scale == 1 or not len(c) or not len(rows):
            return s
        null = c.rows(rows).null()
        uncond = self.target(self.network, x_t[rows], label[rows], span(d[rows]), null).to(x_t)
        return s.index_copy(0, rows, torch.lerp(uncond, s[rows], self.scale))

    def plan(self, **options: Any) -> Plan:
        """Return a plan with steps of the trained lengths, unless a sampler is named.

        Raises:
            LimnerError: more steps than 128 without a sampler.
        """
        if options.get("sampler") is not None:
            return super().plan(**options)
        if options.get("guide") is not None:
            raise LimnerError("sampler.guide needs a sampler; type sampler.sampler=heun")
        steps = options.pop("steps", None) or self.default_steps
        if steps > _MAX_STEPS:
            raise LimnerError(
                f"steps={steps}: a shortcut model was trained for 1 to {_MAX_STEPS} steps; for more"
                ", name a sampler, as in sampler.sampler=euler"
            )
        clip, scale = options.pop("clip", True), options.pop("scale", 1.0)
        interval, rescale = options.pop("interval", None), options.pop("rescale", None) or 0.0
        super().plan(interval=interval, **options)  # refuses options of samplers
        times = dyadic(steps)
        D: Denoiser = AverageVelocity(self, self.average_velocity, times)
        D = D if scale == 1 else Guided(D, scale, interval, rescale)
        return Plan(Euler(), Clipped(D) if clip else D, times)


def span(d: Times) -> Times:
    """Return the network's input for d: 125 (8 + log2 d), and 0 for d = 0."""
    safe = torch.where(d > 0, d, 1.0)
    return torch.where(d > 0, 125 * (_HALVINGS + 1 + safe.log2()), 0.0)


def dyadic(steps: int) -> Float[Tensor, "{steps}+1"]:
    """Return times from 1 to 0 with steps of powers of 1/2, as even as possible, shortest last.

    >>> dyadic(3).tolist()
    [1.0, 0.5, 0.25, 0.0]
    """
    power = 1 << (steps.bit_length() - 1)
    k = torch.arange(2 * power + 1, dtype=torch.float64)
    is_visited = (k % 2 == 0) | (k < 2 * (steps - power))
    return (k[is_visited] / (2 * power)).flip(0)
