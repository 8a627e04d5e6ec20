"""MeanFlow: a network learns the average velocity over an interval, so one step is enough.

Geng, Deng, Bai, Kolter, He (2025). Mean flows for one-step generative modeling. arXiv:2505.13447.

On the line z_t = (1 - t) x + t eps with velocity v = eps - x, the average velocity from r to t is

    u(z_t, r, t) = 1 / (t - r) int_r^t v(z_s, s) ds,    z_r = z_t - (t - r) u(z_t, r, t).

Its derivative in t gives the MeanFlow identity (equation 6), where d/dt is along the path:

    u = v - (t - r) du/dt,    du/dt = v d_z u + d_t u.

The right side, with the network's own u and without gradients, is the target (equations 9-11).
du/dt is one forward-mode derivative of the network. Where r = t, the method is flow matching.

Kept: a share of pictures with r != t; r and t logit-normal, from N(-0.4, 1), with t the greater
one; the network takes t and t - r; the adaptive weight 1 / (|error|^2 + 1e-3)^p, p = 1 (equation 22
of the appendix); guidance within training (equations 19-21, kappa = 0): the velocity is
w v + (1 - w) u(z_t, t, t | null), so that a guided picture costs one evaluation. Different: a U-Net
instead of a transformer. Where r = t, t is one draw; in the authors' program it is the greater of
two. The derivative is computed only for pictures with r != t, without its own gradients, which are
not needed, always in float32, and without dropout. The weight uses the mean error over the numbers
of a picture, so that it means the same for pictures of every size.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Unpack

import torch
from pydantic import Field
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.model import Turn
from limner.contract.noise import Noise
from limner.contract.options import NonNegative, Positive, Share
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
from limner.nn.weight_average import without_dropout

_MEAN, _DEVIATION = -0.4, 1.0  # of logit t, table 1d
_WEIGHT_OFFSET = 1e-3  # c of the adaptive weight


@register(
    "meanflow",
    family="diffusion",
    paper=Paper(
        "Mean flows for one-step generative modeling",
        "Geng, Deng, Bai, Kolter, He",
        2025,
        "2505.13447",
    ),
    tiny={"channels": (8,), "attention": 0, "share": 0.5},
    train={"lr": 5e-4, "betas": (0.9, 0.95), "clip": 1.0},
)
class MeanFlow(DenoisingModel):
    """MeanFlow: the average velocity of a flow, with which a single step is enough.

    Without a named sampler, each step of sampling uses the average velocity over its interval; with
    a sampler, it follows the equation of flow matching, with the velocity at r = t.

    Args:
        spec: specification of the images.
        share: share of the pictures with r != t.
        scale: w, guidance scale within training; 1 is no guidance.
        power: p of the adaptive weight; 0 is the plain squared error.
        unit: factor of t and of t - r as inputs of the network: 1 as the authors have it; 1000 as
            in other models here, with fast features of time that make du/dt much larger.
        condition_dropout: probability that training hides the condition.
        unet: see `PatchOptions`.
    """

    default_sampler = "euler"
    default_steps = 1
    loss_compares = False

    def __init__(
        self,
        spec: ImageSpec,
        share: Share = 0.25,
        scale: Annotated[float, Field(ge=1, le=100)] = 2.0,
        power: NonNegative = 1.0,
        unit: Positive = 1.0,
        condition_dropout: Share = 0.1,
        **unet: Unpack[PatchOptions],
    ) -> None:
        network = SpanUNet(spec, **unet)
        super().__init__(spec, network, condition_dropout)
        self.schedule = LinearPath()
        self.share, self.scale, self.power, self.unit = share, scale, power, unit

    @property
    def parametrisation(self) -> Parametrisation:
        """Prediction of the velocity, where r = t."""
        return flow

    def draw_times(self, noise: Noise) -> Times:
        """Draw t in (0, 1), logit-normal."""
        logits = noise.normal(dtype=torch.float64) * _DEVIATION + _MEAN
        return logits.sigmoid().clamp_(min=1e-5)

    def average_velocity(self, z_t: Images, r: Times, t: Times, c: Condition) -> Images:
        """Return u(z_t, r, t)."""
        return self.network(z_t, self.unit * t, self.unit * (t - r), c)

    def output(self, x_t: Images, t: Times, c: Condition) -> Tensor:
        """Return the velocity: the average one where r = t."""
        return self.average_velocity(x_t, t, t, c)

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield one turn: the error of the average velocity in the MeanFlow identity."""
        eps = noise.normal(*self.spec.shape)
        first, second = self.draw_times(noise), self.draw_times(noise)
        is_average = noise.uniform() < self.share
        t = torch.where(is_average, torch.maximum(first, second), first)
        r = torch.where(is_average, torch.minimum(first, second), first)
        z_t = per_image(1 - t, eps) * batch.x + per_image(t, eps) * eps
        u = self.average_velocity(z_t, r, t, batch.c).float()
        v = self.guided_velocity(eps - batch.x, z_t, t, batch.c)
        target, rows = v, is_average.nonzero().flatten()
        if self.share:
            rows = rows if len(rows) else rows.new_zeros(1)  # processes compute the same layers
            slope = self.derivative(z_t[rows], v[rows], r[rows], t[rows], batch.c.rows(rows))
            interval = per_image(t - r, v)[rows]
            target = v.index_copy(0, rows, v[rows] - interval * slope)
        error = (u - target).square().flatten(1).mean(1)
        weight = (error.detach() + _WEIGHT_OFFSET) ** -self.power
        logs = {
            name: error.detach()[mask].mean()  # NaN where there are none
            for name, mask in (("velocity", ~is_average), ("average", is_average))
        }
        yield Turn((weight * error).mean(), logs=logs)

    @torch.no_grad()
    def guided_velocity(self, v: Images, z_t: Images, t: Times, c: Condition) -> Images:
        """Return w v + (1 - w) u(z_t, t, t | null), or v for pictures with a hidden condition."""
        if self.scale == 1 or not len(c):
            return v
        with without_dropout(self.network):
            null = self.average_velocity(z_t, t, t, c.null()).to(v)
        return torch.where(c.is_null().view(-1, 1, 1, 1), v, torch.lerp(null, v, self.scale))

    @torch.no_grad()
    def derivative(self, z_t: Images, v: Images, r: Times, t: Times, c: Condition) -> Images:
        """Return du/dt along the path: the derivative of u in direction (v, 0, 1), in float32."""
        with (
            without_dropout(self.network),
            torch.autocast(z_t.device.type, enabled=False),
            sdpa_kernel(SDPBackend.MATH),  # fused attention has no forward derivative
            forward_ad.dual_level(),
        ):
            inputs = forward_ad.make_dual(z_t, v), r, forward_ad.make_dual(t, torch.ones_like(t))
            slope = forward_ad.unpack_dual(self.average_velocity(*inputs, c)).tangent
        return torch.zeros_like(v) if slope is None else slope.to(v)

    def plan(self, **options: Any) -> Plan:
        """Return a plan whose steps use average velocities, unless a sampler is named."""
        if options.get("sampler") is not None:
            return super().plan(**options)
        if options.get("guide") is not None:
            raise LimnerError("sampler.guide needs a sampler; type sampler.sampler=heun")
        clip, scale = options.pop("clip", True), options.pop("scale", 1.0)
        interval, rescale = options.pop("interval", None), options.pop("rescale", None) or 0.0
        times = super().plan(interval=interval, **options).times
        D: Denoiser = AverageVelocity(self, self.average_velocity, times)
        D = D if scale == 1 else Guided(D, scale, interval, rescale)
        return Plan(Euler(), Clipped(D) if clip else D, times)
