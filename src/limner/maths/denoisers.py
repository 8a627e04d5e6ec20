"""Denoisers, the common interface of diffusion: D(x_t, t, c) is the expected clean picture of a
noisy one and, if known, the variance of a reverse step, as one `Estimate`.

A network F never predicts x_hat directly. A parametrisation is three coefficients (EDM, equation
7; the fourth, label(t), belongs to the schedule),

    D(x_t, t, c) = skip x_t + out F(inn x_t, label(t), c),

and one loss with unit weight on F, E ||F - (x - skip x_t) / out||^2, becomes each paper's loss:

    epsilon   DDPM's L_simple            skip = 1 / alpha   out = -sigma / alpha
    x         the picture itself         skip = 0           out = 1
    v         progressive distillation   skip = alpha       out = -sigma   (alpha^2 + sigma^2 = 1)
    flow      flow matching's velocity   skip = 1           out = -sigma   (alpha + sigma = 1)
    edm       EDM's preconditioning      skip = sd^2 / (s^2 + sd^2) / alpha, ... (s = sigma / alpha)

Guidance and clipping map denoiser -> denoiser and can be nested: `Clipped(Guided(D, 3.0))`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from limner.contract.image import Condition, Images
from limner.maths.schedules import Schedule, Times


class Coefficients(NamedTuple):
    """The coefficients of D = skip x_t + out F(inn x_t): numbers in float64, all of one shape."""

    skip: Times
    out: Times
    inn: Times


Variance = Float[Tensor, "#b #c #h #w"] | None


class Estimate(NamedTuple):
    """The output of a denoiser for x_t.

    Args:
        x_hat: the expected clean picture.
        variance: the variance of a reverse step, if the denoiser predicts it: v in small^(1 - v)
            large^v, "b c h w" (`samplers.Ancestral`).
    """

    x_hat: Images
    variance: Variance = None


Parametrisation = Callable[[Times, Times], Coefficients]
"""A function (alpha, sigma) -> coefficients."""


def epsilon(alpha: Times, sigma: Times) -> Coefficients:
    """F is the noise. Ho et al. (2020), arXiv:2006.11239, equation 11."""
    return Coefficients(1 / alpha, -sigma / alpha, torch.ones_like(alpha))


def picture(alpha: Times, sigma: Times) -> Coefficients:
    """F is the clean picture."""
    return Coefficients(torch.zeros_like(alpha), torch.ones_like(alpha), torch.ones_like(alpha))


def velocity(alpha: Times, sigma: Times) -> Coefficients:
    """F is v = alpha eps - sigma x. Salimans, Ho (2022), arXiv:2202.00512, appendix D."""
    return Coefficients(alpha, -sigma, torch.ones_like(alpha))


def flow(alpha: Times, sigma: Times) -> Coefficients:
    """F is dx_t/dt = eps - x. Lipman et al. (2022), arXiv:2210.02747; alpha + sigma = 1."""
    return Coefficients(torch.ones_like(alpha), -sigma, torch.ones_like(alpha))


Prediction = Literal["epsilon", "x", "v"]
PREDICTIONS: dict[Prediction, Parametrisation] = {
    "epsilon": epsilon,
    "x": picture,
    "v": velocity,
}


def edm(sigma_data: float | Float64[Tensor, ""]) -> Parametrisation:
    """F has unit input and unit target at every noise level. Karras et al. (2022),
    arXiv:2206.00364, table 1.

    Args:
        sigma_data: the standard deviation of the pictures' values.
    """

    def coefficients(alpha: Times, sigma: Times) -> Coefficients:
        """F is x and eps, mixed to unit variance at every noise level."""
        s = sigma / alpha
        total = (s**2 + sigma_data**2).sqrt()
        return Coefficients(
            sigma_data**2 / total**2 / alpha, s * sigma_data / total, 1 / total / alpha
        )

    return coefficients


def target_weights(alpha: Times, sigma: Times, k: Coefficients) -> tuple[Times, Times]:
    """Return (a, b) such that F's target (x - skip x_t) / out is a x + b eps."""
    return (1 - k.skip * alpha) / k.out, -k.skip * sigma / k.out


def per_image(number: Times, x: Images) -> Float[Tensor, "#b 1 1 1"]:
    """Return one number for each image (or for all), in a shape that multiplies images."""
    return number.to(x).reshape(-1, 1, 1, 1)


class Denoiser(Protocol):
    """D(x_t, t, c), with one t for all images or one for each; it has a schedule."""

    @property
    def schedule(self) -> Schedule:
        """The schedule: alpha and sigma at each time."""
        ...

    def __call__(self, x_t: Images, t: Times, c: Condition) -> Estimate:
        """Return the expected clean picture, and perhaps a variance."""
        ...


@dataclass(frozen=True)
class Conditional:
    """D(x_t, t) = D(x_t, t, c), with c fixed for the pictures of one sampling run.

    Args:
        denoiser: D(x_t, t, c).
        c: the condition of the pictures.
    """

    denoiser: Denoiser
    c: Condition

    @property
    def schedule(self) -> Schedule:
        """The schedule of the inner denoiser."""
        return self.denoiser.schedule

    def __call__(self, x_t: Images, t: Times) -> Estimate:
        """Return the estimate, given c."""
        return self.denoiser(x_t, t, self.c)


@dataclass(frozen=True)
class DenoiserWrapper(ABC):
    """A denoiser that changes the output of another one, and has its schedule."""

    denoiser: Denoiser

    @abstractmethod
    def __call__(self, x_t: Images, t: Times, c: Condition) -> Estimate:
        """Return the changed picture, and the variance of the inner denoiser."""

    @property
    def schedule(self) -> Schedule:
        """The schedule of the inner denoiser."""
        return self.denoiser.schedule


@dataclass(frozen=True)
class Guided(DenoiserWrapper):
    """Classifier-free guidance: x_hat = D(x, null) + scale (D(x, c) - D(x, null)).

    scale 1 is the conditional model, 0 the unconditional one; the paper's w is scale - 1. If the
    condition has `avoid`, that replaces null. Without a condition there is no guidance. Ho,
    Salimans (2022), arXiv:2207.12598, equation 6.

    Args:
        scale: the guidance scale.
        interval: the smallest and the largest noise sigma / alpha at which to guide; elsewhere the
            model is the conditional one. Kynkaanniemi et al. (2024), arXiv:2404.07724.
        rescale: the share by which x_hat gets the standard deviation of D(x, c), picture by
            picture, which guidance raises. Lin, Liu, Li, Yang (2023), arXiv:2305.08891, equations
            15-16, for x_hat in place of the network's output.
    """

    scale: float
    interval: tuple[float, float] | None = None
    rescale: float = 0.0

    def __call__(self, x_t: Images, t: Times, c: Condition) -> Estimate:
        """Return the guided picture, and the conditional variance; one evaluation of a doubled
        batch."""
        condition, contrast = c.guidance_pair()
        if not len(c) or self.scale == 1 or not self.guides(t):
            return self.denoiser(x_t, t, condition)
        if self.scale == 0:
            return self.denoiser(x_t, t, contrast)
        pair = Condition.cat([condition, contrast])
        t = t if t.ndim == 0 else t.repeat(2)
        x_hat, v = self.denoiser(x_t.repeat(2, 1, 1, 1), t, pair)
        conditional, unconditional = x_hat.chunk(2)
        guided = torch.lerp(unconditional, conditional, self.scale)
        guided = self.rescale_contrast(guided, conditional)
        return Estimate(guided, v if v is None else v.chunk(2)[0])

    def rescale_contrast(self, guided: Images, conditional: Images) -> Images:
        """Return the guided picture with its standard deviation moved to the conditional one by
        `rescale`; a picture of one number has none."""
        if not self.rescale or guided[0].numel() == 1:
            return guided
        target_std, std = (images.std((1, 2, 3), keepdim=True) for images in (conditional, guided))
        return torch.lerp(guided, guided * target_std / std.clamp(min=1e-12), self.rescale)

    def guides(self, t: Times) -> bool:
        """Return whether a time is within the interval."""
        if self.interval is None:
            return True
        alpha, sigma = self.schedule(t)
        low, high = self.interval
        is_inside = low * alpha <= sigma
        if math.isfinite(high):  # without an upper end, x_t may be pure noise, alpha = 0
            is_inside = is_inside & (sigma <= high * alpha)
        return bool(is_inside.all())


@dataclass(frozen=True)
class GuidedByPicture(Guided):
    """Guidance with a conditioning picture I and with the rest of the condition, T:

        D(x, 0, 0) + s_I (D(x, I, 0) - D(x, 0, 0)) + s_T (D(x, I, T) - D(x, I, 0)).

    Brooks, Holynski, Efros (2023), arXiv:2211.09800, equation 3; s_T is `scale`.

    Args:
        picture_scale: the guidance scale of the picture, s_I.
    """

    picture_scale: float = 1.0

    def __call__(self, x_t: Images, t: Times, c: Condition) -> Estimate:
        """Return the guided picture, and the conditional variance; one evaluation of a batch three
        times as large, or twice if s_I is 1."""
        condition, null = c.guidance_pair()
        if (self.scale == self.picture_scale == 1) or not self.guides(t):
            return self.denoiser(x_t, t, condition)
        image_condition = replace(null, image=condition.image, present=condition.present)
        parts = [condition, image_condition] + [null] * (self.picture_scale != 1)
        t = t if t.ndim == 0 else t.repeat(len(parts))
        x_hat, v = self.denoiser(x_t.repeat(len(parts), 1, 1, 1), t, Condition.cat(parts))
        conditional, image_guided, *rest = x_hat.chunk(len(parts))
        guided = torch.lerp(image_guided, conditional, self.scale)
        for unconditional in rest:
            guided = guided + (self.picture_scale - 1) * (image_guided - unconditional)
        variance = v if v is None else v.chunk(len(parts))[0]
        return Estimate(self.rescale_contrast(guided, conditional), variance)


@dataclass(frozen=True)
class Autoguided(DenoiserWrapper):
    """Autoguidance: x_hat = G(x, c) + scale (D(x, c) - G(x, c)), where G is a worse version of D.

    Both get the same condition, so they differ only in how well they learnt it; guidance moves the
    output of D away from the error of G. It can be nested in classifier-free guidance:
    `Guided(Autoguided(D, G, 2.0), 1.5)`. Karras, Aittala, Kynkaanniemi, Lehtinen, Aila, Laine
    (2024). Guiding a diffusion model with a bad version of itself. arXiv:2406.02507, equation 3.

    Args:
        guide: G, with the same schedule.
        scale: the guidance scale; 1 is D, 0 is G.
    """

    guide: Denoiser
    scale: float

    def __call__(self, x_t: Images, t: Times, c: Condition) -> Estimate:
        """Return the guided picture, and D's variance."""
        x_hat, v = self.denoiser(x_t, t, c)
        if self.scale == 1:
            return Estimate(x_hat, v)
        return Estimate(torch.lerp(self.guide(x_t, t, c).x_hat.to(x_hat), x_hat, self.scale), v)


@dataclass(frozen=True)
class Clipped(DenoiserWrapper):
    """x_hat clamped to [-1, 1], the range of pictures. Ho et al. (2020), arXiv:2006.11239."""

    def __call__(self, x_t: Images, t: Times, c: Condition) -> Estimate:
        """Return the clipped picture, and the variance."""
        x_hat, v = self.denoiser(x_t, t, c)
        return Estimate(x_hat.clamp(-1, 1), v)


@dataclass(frozen=True)
class KnownPixels(DenoiserWrapper):
    """x_hat, replaced by a given picture where the mask is 0, because these pixels are known.

    Args:
        image: the given pictures.
        mask: 1 where the denoiser decides, 0 where the given picture is kept.
    """

    image: Images
    mask: Float[Tensor, "b 1 h w"]

    def __call__(self, x_t: Images, t: Times, c: Condition) -> Estimate:
        """Return the combined picture, and the variance."""
        x_hat, v = self.denoiser(x_t, t, c)
        return Estimate(torch.lerp(self.image.to(x_hat), x_hat, self.mask.to(x_hat)), v)
