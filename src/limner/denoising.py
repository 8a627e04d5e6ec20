"""Diffusion's lingua franca: a denoiser D(x_t, t, c), the clean picture to expect of a noisy one.

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

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Annotated, Any, ClassVar, NamedTuple, Protocol

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from limner.errors import LimnerError
from limner.image import Batch, Condition, Images, ImageSpec
from limner.model import GenerativeModel, Turn
from limner.noise import Noise
from limner.samplers import SAMPLERS, Sampler, SamplerName
from limner.schedules import Schedule, Spacing, Times


class Coefficients(NamedTuple):
    """D = skip x_t + out F(inn x_t): numbers in float64, of any one shape."""

    skip: Times
    out: Times
    inn: Times


Variance = Float[Tensor, "#b #c #h #w"] | None
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


def edm(sigma_data: float) -> Parametrisation:
    """F has unit input and unit target at every noise level. Karras et al. (2022),
    arXiv:2206.00364, table 1.

    Args:
        sigma_data: the standard deviation of the pictures' values.
    """

    def coefficients(alpha: Times, sigma: Times) -> Coefficients:
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
    """x_hat = D(x_t, t, c), with one t for all images or one for each; it knows its schedule."""

    @property
    def schedule(self) -> Schedule:
        """What alpha and sigma are at each time."""
        ...

    def __call__(self, x_t: Images, t: Times, c: Condition) -> Images:
        """The expected clean picture."""
        ...

    def with_variance(self, x_t: Images, t: Times, c: Condition) -> tuple[Images, Variance]:
        """The same, and where the variance of a reverse step lies, if the denoiser says so: at v in
        small^(1 - v) large^v, "b c h w" (`samplers.Ancestral`).
        """
        ...


@dataclass(frozen=True)
class Wrapped(ABC):
    """A denoiser made of another one, whose schedule it has."""

    denoiser: Denoiser

    @abstractmethod
    def with_variance(self, x_t: Images, t: Times, c: Condition) -> tuple[Images, Variance]:
        """The changed picture, and the variance of the denoiser within."""

    def __call__(self, x_t: Images, t: Times, c: Condition) -> Images:
        """The changed picture."""
        return self.with_variance(x_t, t, c)[0]

    @property
    def schedule(self) -> Schedule:
        """That of the denoiser within."""
        return self.denoiser.schedule


@dataclass(frozen=True)
class Guided(Wrapped):
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

    def with_variance(self, x_t: Images, t: Times, c: Condition) -> tuple[Images, Variance]:
        """The guided picture, and the conditional variance; one evaluation of a doubled batch."""
        asked, contrast = c.opposed()
        if not len(c) or self.scale == 1 or not self._guides(t):
            return self.denoiser.with_variance(x_t, t, asked)
        if self.scale == 0:
            return self.denoiser.with_variance(x_t, t, contrast)
        both = Condition.cat([asked, contrast])
        t = t if t.ndim == 0 else t.repeat(2)
        x_hat, v = self.denoiser.with_variance(x_t.repeat(2, 1, 1, 1), t, both)
        conditional, unconditional = x_hat.chunk(2)
        guided = torch.lerp(unconditional, conditional, self.scale)
        if self.rescale:
            wanted, got = (some.std((1, 2, 3), keepdim=True) for some in (conditional, guided))
            guided = torch.lerp(guided, guided * wanted / got, self.rescale)
        return guided, v if v is None else v.chunk(2)[0]

    def _guides(self, t: Times) -> bool:
        if self.interval is None:
            return True
        alpha, sigma = self.schedule(t)
        low, high = self.interval
        return bool(((low * alpha <= sigma) & (sigma <= high * alpha)).all())


@dataclass(frozen=True)
class Clipped(Wrapped):
    """x_hat clamped to [-1, 1], where pictures are. Ho et al. (2020), arXiv:2006.11239."""

    def with_variance(self, x_t: Images, t: Times, c: Condition) -> tuple[Images, Variance]:
        """The clipped picture."""
        x_hat, v = self.denoiser.with_variance(x_t, t, c)
        return x_hat.clamp(-1, 1), v


class Example(NamedTuple):
    """What a denoising network is taught.

    Args:
        x_t: pictures under noise.
        t: how much of it there is, for each picture.
        c: what the pictures are of, where that is not hidden.
        target: what F should say.
    """

    x_t: Images
    t: Times
    c: Condition
    target: Images


class DenoisingModel(GenerativeModel):
    """A generator that denoises along a Gaussian path; a paper adds its schedule, parametrisation
    and times.

    A subclass's constructor calls this one and then sets `schedule`; it defines `parametrisation`
    and `draw_times`.

    Args:
        spec: what the images are.
        network: F(x, label, c), a picture-shaped output for each input.
        condition_dropout: how often training hides the whole condition, so that guidance has a null
            model.
    """

    default_sampler: ClassVar[SamplerName]
    default_steps: ClassVar[int]
    schedule: Schedule

    def __init__(self, spec: ImageSpec, network: nn.Module, condition_dropout: float) -> None:
        super().__init__()
        self.network = network
        self.condition_dropout = condition_dropout

    @property
    @abstractmethod
    def parametrisation(self) -> Parametrisation:
        """What F predicts."""

    @abstractmethod
    def draw_times(self, noise: Noise) -> Times:
        """One training time for each image, float64 "b"."""

    def draw_noise(self, batch: Batch, noise: Noise) -> Images:
        """The noise that each picture is paired with in training: its own, independent one."""
        return noise.normal(*self.spec.shape)

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """One move: the mean squared error of F at a random time."""
        e = self.example(batch, noise)
        yield Turn((self.output(e.x_t, e.t, e.c).float() - e.target).square().mean())

    def example(self, batch: Batch, noise: Noise) -> Example:
        """What the network is taught by a batch: pictures under noise, and what F should say."""
        t = self.draw_times(noise)
        alpha, sigma = self.schedule(t)
        a, b = target_weights(alpha, sigma, self.parametrisation(alpha, sigma))
        x, eps = batch.x, self.draw_noise(batch, noise)
        x_t = per_image(alpha, x) * x + per_image(sigma, x) * eps
        target = per_image(a, x) * x + per_image(b, x) * eps
        return Example(x_t, t, batch.c.drop(self.condition_dropout, noise), target)

    def output(self, x_t: Images, t: Times, c: Condition) -> Tensor:
        """The network's F(inn x_t, label(t), c), with a time for each picture."""
        inn = self.parametrisation(*self.schedule(t)).inn
        return self.network(per_image(inn, x_t) * x_t, self.schedule.label(t), c)

    def seen(self, F: Images, x_t: Images, t: Times) -> Images:
        """D = skip x_t + out F."""
        k = self.parametrisation(*self.schedule(t))
        return per_image(k.skip, x_t) * x_t + per_image(k.out, x_t) * F.to(x_t.dtype)

    def __call__(self, x_t: Images, t: Times, c: Condition) -> Images:
        """The denoiser D; the model is one."""
        return self.seen(self.output(x_t, t.expand(len(x_t)), c), x_t, t)

    def with_variance(self, x_t: Images, t: Times, c: Condition) -> tuple[Images, Variance]:
        """The picture; and no variance, unless a paper learns one."""
        return self(x_t, t, c), None

    def frames(
        self,
        n: int,
        c: Condition = Condition(),
        *,
        noise: Noise,
        preview: bool = True,
        sampler: SamplerName | None = None,
        steps: Annotated[int, Field(ge=1, le=4000)] | None = None,
        spacing: Spacing | None = None,
        scale: Annotated[float, Field(ge=0, le=100)] = 1.0,
        interval: tuple[float, float] | None = None,
        rescale: Annotated[float, Field(ge=0, le=1)] = 0.0,
        eta: Annotated[float, Field(ge=0, le=1)] | None = None,
        churn: Annotated[float, Field(ge=0)] | None = None,
        variance: Annotated[float, Field(ge=0, le=1)] | None = None,
        order: Annotated[int, Field(ge=1, le=3)] | None = None,
        clip: bool = True,
    ) -> Iterator[Images]:
        """Yield the denoiser's view of the finished picture at every step, then the picture.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`.
            sampler: how to walk from noise to picture; the paper's own by default.
            steps: how many steps (Heun evaluates the network twice in each); the paper's own by
                default.
            spacing: which of a discrete schedule's steps are visited, see `schedules.Spacing`.
            scale: classifier-free guidance; 1 is the conditional model, 0 the unconditional one.
            interval, rescale: of the guidance, see `Guided`.
            eta: for "ddim": 0 is deterministic, 1 adds the noise of ancestral sampling.
            churn: for "heun": S_churn, how much noise is put back in all steps together.
            variance: for "ancestral": of a step, from the least that can be right, 0, to the
                largest, 1; the model's own by default.
            order: for "dpm++" and "unipc": how many views a step is made of, 2 by default.
            clip: clamp x_hat to [-1, 1] at each step.
        """
        asked = {"eta": eta, "churn": churn, "variance": variance, "order": order}
        walk = chosen_sampler(sampler or self.default_sampler, **asked)
        D: Denoiser = Guided(self, scale, interval, rescale)
        if clip:
            D = Clipped(D)
        times = self.schedule.times(steps or self.default_steps, spacing)
        x = self.schedule.prior_deviation * noise.normal(*self.spec.shape)
        memory = None
        for t, s in pairwise(times):
            x, sketch, memory = walk.step(D, x, t, s, c, noise, memory, len(times) - 1)
            if preview:
                yield sketch
        yield x

    def frame_count(self, **options: Any) -> int:
        """One for each step, and the picture."""
        return (options.get("steps") or self.default_steps) + 1


def chosen_sampler(name: SamplerName, **options: float | None) -> Sampler:
    """A sampler by name with the options that were given.

    Raises:
        LimnerError: an option that this sampler does not have.
    """
    sampler = SAMPLERS[name]
    known = {f.name for f in fields(sampler)}
    given = {key: value for key, value in options.items() if value is not None}
    for key in given:
        if key not in known:
            able = " or ".join(n for n, s in SAMPLERS.items() if key in {f.name for f in fields(s)})
            raise LimnerError(f"the sampler {name} has no option {key}; it belongs to {able}")
    return replace(sampler, **given)
