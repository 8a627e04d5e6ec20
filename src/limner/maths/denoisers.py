"""Diffusion's lingua franca: a denoiser D(x_t, t, c), the clean picture to expect of a noisy one;
where it knows it, also the variance of a reverse step. Both are one `Estimate`.

A network F is never asked for x_hat directly. A parametrisation is four coefficients (EDM,
equation 7),

    D(x_t, t, c) = skip x_t + out F(inn x_t, label(t), c),

and one loss of unit weight on F, E ||F - (x - skip x_t) / out||^2, is each paper's own:

    epsilon   DDPM's L_simple            skip = 1 / alpha   out = -sigma / alpha
    x         the picture itself         skip = 0           out = 1
    v         progressive distillation   skip = alpha       out = -sigma   (alpha^2 + sigma^2 = 1)
    flow      flow matching's velocity   skip = 1           out = -sigma   (alpha + sigma = 1)
    edm       EDM's preconditioning      skip = sd^2 / (s^2 + sd^2) / alpha, ... (s = sigma / alpha)

Guidance and clipping are denoiser -> denoiser and nest: `Clipped(Guided(D, 3.0))`.
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
    """D = skip x_t + out F(inn x_t): numbers in float64, of any one shape."""

    skip: Times
    out: Times
    inn: Times


Variance = Float[Tensor, "#b #c #h #w"] | None


class Estimate(NamedTuple):
    """What a denoiser makes of x_t.

    Args:
        x_hat: the expected clean picture.
        variance: where the variance of a reverse step lies, if the denoiser says so: at v in
            small^(1 - v) large^v, "b c h w" (`samplers.Ancestral`).
    """

    x_hat: Images
    variance: Variance = None


Parametrisation = Callable[[Times, Times], Coefficients]
"""(alpha, sigma) -> coefficients."""


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
    """(a, b) such that F's target (x - skip x_t) / out is a x + b eps."""
    return (1 - k.skip * alpha) / k.out, -k.skip * sigma / k.out


def per_image(number: Times, x: Images) -> Float[Tensor, "#b 1 1 1"]:
    """One number for each image (or for all), shaped to multiply images."""
    return number.to(x).reshape(-1, 1, 1, 1)


class Denoiser(Protocol):
    """D(x_t, t, c), with one t for all images or one for each; it knows its schedule."""

    @property
    def schedule(self) -> Schedule:
        """What alpha and sigma are at each time."""
        ...

    def __call__(self, x_t: Images, t: Times, c: Condition) -> Estimate:
        """The expected clean picture, and perhaps a variance."""
        ...


@dataclass(frozen=True)
class Conditional:
    """D(x_t, t) = D(x_t, t, c), for the pictures of one walk.

    Args:
        denoiser: D(x_t, t, c).
        c: what the pictures are of.
    """

    denoiser: Denoiser
    c: Condition

    @property
    def schedule(self) -> Schedule:
        """That of the denoiser within."""
        return self.denoiser.schedule

    def __call__(self, x_t: Images, t: Times) -> Estimate:
        """The estimate, given c."""
        return self.denoiser(x_t, t, self.c)


@dataclass(frozen=True)
class DenoiserWrapper(ABC):
    """A denoiser made of another one, whose schedule it has."""

    denoiser: Denoiser

    @abstractmethod
    def __call__(self, x_t: Images, t: Times, c: Condition) -> Estimate:
        """The changed picture, and the variance of the denoiser within."""

    @property
    def schedule(self) -> Schedule:
        """That of the denoiser within."""
        return self.denoiser.schedule


@dataclass(frozen=True)
class Guided(DenoiserWrapper):
    """Classifier-free guidance: x_hat = D(x, null) + scale (D(x, c) - D(x, null)).

    scale 1 is the conditional model, 0 the unconditional one; the paper's w is scale - 1. Where the
    condition says what to avoid, that stands in null's place. A condition without parts is left
    alone. Ho, Salimans (2022), arXiv:2207.12598, equation 6.

    Args:
        scale: how far to go.
        interval: the least and the greatest noise sigma / alpha at which to guide; elsewhere the
            model is the conditional one. Kynkaanniemi et al. (2024), arXiv:2404.07724.
        rescale: a share of x_hat is given the standard deviation of D(x, c), picture by picture,
            which guidance raises. Lin, Liu, Li, Yang (2023), arXiv:2305.08891, equations 15-16,
            for x_hat in place of the network's output.
    """

    scale: float
    interval: tuple[float, float] | None = None
    rescale: float = 0.0

    def __call__(self, x_t: Images, t: Times, c: Condition) -> Estimate:
        """The guided picture, and the conditional variance; one evaluation of a doubled batch."""
        asked, contrast = c.guidance_pair()
        if not len(c) or self.scale == 1 or not self.guides(t):
            return self.denoiser(x_t, t, asked)
        if self.scale == 0:
            return self.denoiser(x_t, t, contrast)
        both = Condition.cat([asked, contrast])
        t = t if t.ndim == 0 else t.repeat(2)
        x_hat, v = self.denoiser(x_t.repeat(2, 1, 1, 1), t, both)
        conditional, unconditional = x_hat.chunk(2)
        guided = torch.lerp(unconditional, conditional, self.scale)
        guided = self.rescale_contrast(guided, conditional)
        return Estimate(guided, v if v is None else v.chunk(2)[0])

    def rescale_contrast(self, guided: Images, conditional: Images) -> Images:
        """The guided picture with the standard deviation of the conditional one, by a share."""
        if not self.rescale:
            return guided
        wanted, got = (some.std((1, 2, 3), keepdim=True) for some in (conditional, guided))
        return torch.lerp(guided, guided * wanted / got.clamp(min=1e-12), self.rescale)

    def guides(self, t: Times) -> bool:
        """Whether a time is within the interval."""
        if self.interval is None:
            return True
        alpha, sigma = self.schedule(t)
        low, high = self.interval
        within = low * alpha <= sigma
        if math.isfinite(high):  # without an upper end the noise may be all there is, alpha = 0
            within = within & (sigma <= high * alpha)
        return bool(within.all())


@dataclass(frozen=True)
class GuidedByPicture(Guided):
    """Guidance by a conditioning picture I and by the rest of the condition, T:

        D(x, 0, 0) + s_I (D(x, I, 0) - D(x, 0, 0)) + s_T (D(x, I, T) - D(x, I, 0)).

    Brooks, Holynski, Efros (2023), arXiv:2211.09800, equation 3; s_T is `scale`.

    Args:
        picture_scale: s_I.
    """

    picture_scale: float = 1.0

    def __call__(self, x_t: Images, t: Times, c: Condition) -> Estimate:
        """The guided picture, and the conditional variance; one evaluation of a batch three times
        as large, or twice where s_I is 1."""
        asked, nothing = c.guidance_pair()
        if (self.scale == self.picture_scale == 1) or not self.guides(t):
            return self.denoiser(x_t, t, asked)
        pictured = replace(nothing, image=asked.image, present=asked.present)
        parts = [asked, pictured] + [nothing] * (self.picture_scale != 1)
        t = t if t.ndim == 0 else t.repeat(len(parts))
        x_hat, v = self.denoiser(x_t.repeat(len(parts), 1, 1, 1), t, Condition.cat(parts))
        conditional, of_picture, *rest = x_hat.chunk(len(parts))
        guided = torch.lerp(of_picture, conditional, self.scale)
        for unconditional in rest:
            guided = guided + (self.picture_scale - 1) * (of_picture - unconditional)
        variance = v if v is None else v.chunk(len(parts))[0]
        return Estimate(self.rescale_contrast(guided, conditional), variance)


@dataclass(frozen=True)
class Autoguided(DenoiserWrapper):
    """Autoguidance: x_hat = G(x, c) + scale (D(x, c) - G(x, c)), G being a worse version of D.

    Both are told the same, so what they differ in is how well they learnt it; the error of D is
    moved along theirs, away from that of G. With classifier-free guidance they nest:
    `Guided(Autoguided(D, G, 2.0), 1.5)`. Karras, Aittala, Kynkaanniemi, Lehtinen, Aila, Laine
    (2024). Guiding a diffusion model with a bad version of itself. arXiv:2406.02507, equation 3.

    Args:
        guide: G, on the same schedule.
        scale: how far to go; 1 is D, 0 is G.
    """

    guide: Denoiser
    scale: float

    def __call__(self, x_t: Images, t: Times, c: Condition) -> Estimate:
        """The guided picture, and D's variance."""
        x_hat, v = self.denoiser(x_t, t, c)
        if self.scale == 1:
            return Estimate(x_hat, v)
        return Estimate(torch.lerp(self.guide(x_t, t, c).x_hat.to(x_hat), x_hat, self.scale), v)


@dataclass(frozen=True)
class Clipped(DenoiserWrapper):
    """x_hat clamped to [-1, 1], where pictures are. Ho et al. (2020), arXiv:2006.11239."""

    def __call__(self, x_t: Images, t: Times, c: Condition) -> Estimate:
        """The clipped picture."""
        x_hat, v = self.denoiser(x_t, t, c)
        return Estimate(x_hat.clamp(-1, 1), v)


@dataclass(frozen=True)
class KnownPixels(DenoiserWrapper):
    """x_hat is a given picture where the mask is 0: what is kept of it is certain.

    Args:
        image: the pictures.
        mask: 1 where the denoiser decides, 0 where the picture stays.
    """

    image: Images
    mask: Float[Tensor, "b 1 h w"]

    def __call__(self, x_t: Images, t: Times, c: Condition) -> Estimate:
        """Both, one beside the other."""
        x_hat, v = self.denoiser(x_t, t, c)
        return Estimate(torch.lerp(self.image.to(x_hat), x_hat, self.mask.to(x_hat)), v)
