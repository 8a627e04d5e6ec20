"""Samplers: one step from x_t to x_s, s < t, given a denoiser; all have the same signature.

A sampler is an immutable value. The only state is the `State`, which a step returns and the next
one takes. With x_hat = D(x_t, t) and eps_hat = (x_t - alpha_t x_hat) / sigma_t, everything below
holds for any schedule (variance-preserving, variance-exploding or flow matching's line). It never
divides by alpha, which may be 0 at the start.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import Condition, Images
from limner.contract.noise import Noise
from limner.maths.denoisers import Conditional

Time = Float64[Tensor, ""]
Deviation = Float[Tensor, "#b #c #h #w"]


class State(NamedTuple):
    """The state between two steps of sampling.

    Args:
        x: x_t.
        sketch: the denoiser's clean picture in the step before.
        memory: what a multistep sampler keeps from earlier steps.
    """

    x: Images
    sketch: Images
    memory: Any = None


@dataclass(frozen=True)
class Sampler(ABC):
    """A method to get from noise to a picture, step by step; its fields are its options."""

    @abstractmethod
    def step(self, D: Conditional, at: State, t: Time, s: Time, noise: Noise) -> State:
        """Go from time t to time s < t.

        Args:
            D: the denoiser.
            at: the state at the start of the step.
            t, s: the times of the start and the end of the step.
            noise: random streams, one for each picture.
        """

    def spread(self, steps: int) -> "Sampler":
        """Return the sampler for a given number of steps: itself, unless an option depends on that
        number."""
        return self


def _levels(D: Conditional, t: Time) -> tuple[float, float]:
    alpha, sigma = D.schedule(t)
    return float(alpha.detach()), float(sigma.detach())


def _posterior_variance(alpha_t: float, sigma_t: float, alpha_s: float, sigma_s: float) -> float:
    """Return Var q(x_s | x_t, x) = sigma_{t|s}^2 sigma_s^2 / sigma_t^2, the chain's posterior."""
    return _step_variance(alpha_t, sigma_t, alpha_s, sigma_s) * (sigma_s / sigma_t) ** 2


def _step_variance(alpha_t: float, sigma_t: float, alpha_s: float, sigma_s: float) -> float:
    """Return sigma_{t|s}^2 = sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2, the noise added from s to
    t."""
    return max(sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2, 0.0)


@dataclass(frozen=True)
class Ancestral(Sampler):
    """DDPM's reverse process: a Gaussian step with the mean of q(x_s | x_t, x = x_hat).

    mean = alpha_{t|s} sigma_s^2 / sigma_t^2 x_t + alpha_s sigma_{t|s}^2 / sigma_t^2 x_hat;
    its variance is small^(1 - v) large^v, between the smallest valid one, that of
    q(x_s | x_t, x), and the largest, sigma_{t|s}^2. `variance` is v: 0 is the papers' "fixed
    small", 1 "fixed large"; by default it is the denoiser's, or 0 if that has none. The step to
    the clean picture is its mean.
    Ho, Jain, Abbeel (2020), arXiv:2006.11239, equations 6-7 and algorithm 2; Nichol, Dhariwal
    (2021), arXiv:2102.09672, equation 15; Ho, Salimans (2022), arXiv:2207.12598, algorithm 2.
    """

    variance: float | None = None

    def step(self, D: Conditional, at: State, t: Time, s: Time, noise: Noise) -> State:
        """Take one step."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = _levels(D, t), _levels(D, s)
        x, (x_hat, v) = at.x, D(at.x, t)
        if self.variance is not None:
            v = self.variance
        large = _step_variance(alpha_t, sigma_t, alpha_s, sigma_s)
        small = _posterior_variance(alpha_t, sigma_t, alpha_s, sigma_s)
        keep = alpha_t / alpha_s * (sigma_s / sigma_t) ** 2
        mean = keep * x + alpha_s * large / sigma_t**2 * x_hat
        if small == 0:
            return State(mean, x_hat)
        deviation = math.sqrt(small) * (large / small) ** (0.5 * (0.0 if v is None else v))
        mean = mean + self.shift(D, x, t, deviation)
        return State(_with_noise(mean, deviation, noise), x_hat)

    def shift(
        self, D: Conditional, x: Images, t: Time, deviation: float | Deviation
    ) -> float | Images:
        """Return what guidance adds to the mean of a step from x_t: nothing here."""
        return 0.0


@dataclass(frozen=True)
class GuidedAncestral(Ancestral):
    """The mean of each step is moved by scale Sigma g, where g is a gradient at x_t.

    Dhariwal, Nichol (2021), arXiv:2105.05233, algorithm 1, with g = grad log p(y | x_t).

    Args:
        gradient: g(x_t, t, c).
        scale: the guidance scale, s of the paper.
    """

    gradient: Callable[[Images, Time, Condition], Images] | None = None
    scale: float = 1.0

    def shift(
        self, D: Conditional, x: Images, t: Time, deviation: float | Deviation
    ) -> float | Images:
        """Return scale Sigma g."""
        assert self.gradient is not None
        return self.scale * deviation**2 * self.gradient(x, t, D.c)


@dataclass(frozen=True)
class DDIM(Sampler):
    """x_s = alpha_s x_hat + sqrt(sigma_s^2 - std^2) eps_hat + std z, where std is eta times the
    ancestral deviation.

    eta = 0 is deterministic; eta = 1 is DDPM. Song, Meng, Ermon (2020), arXiv:2010.02502, equations
    12 and 16.
    """

    eta: float = 0.0

    def step(self, D: Conditional, at: State, t: Time, s: Time, noise: Noise) -> State:
        """Take one step."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = _levels(D, t), _levels(D, s)
        x, x_hat = at.x, D(at.x, t).x_hat
        variance = self.eta**2 * _posterior_variance(alpha_t, sigma_t, alpha_s, sigma_s)
        direction = math.sqrt(max(sigma_s**2 - variance, 0.0)) / sigma_t
        mean = direction * x + (alpha_s - direction * alpha_t) * x_hat
        return State(_with_noise(mean, math.sqrt(variance), noise), x_hat)


@dataclass(frozen=True)
class Euler(Sampler):
    """x_s = x_t + (alpha_s - alpha_t) x_hat + (sigma_s - sigma_t) eps_hat, the probability flow's
    first-order step.

    On flow matching's line this is x_t + (s - t) v; in sigma it is EDM's Euler step; it equals DDIM
    with eta = 0.
    """

    def step(self, D: Conditional, at: State, t: Time, s: Time, noise: Noise) -> State:
        """Take one step."""
        levels_t, levels_s = _levels(D, t), _levels(D, s)
        x, x_hat = at.x, D(at.x, t).x_hat
        eps_hat = _noise_in(x, levels_t, x_hat)
        return State(_euler_step(x, levels_t, levels_s, x_hat, eps_hat), x_hat)


@dataclass(frozen=True)
class Heun(Sampler):
    """Euler's step, then again with the mean of both ends' x_hat and eps_hat: second order.

    The rule is trapezoidal in alpha and sigma, dx = x_hat d(alpha) + eps_hat d(sigma), so it is
    EDM's algorithm 1 when alpha = 1 and Heun's method in t on flow matching's line. A step costs
    two evaluations; the last one, to the clean picture, is Euler's and costs one. `churn` is
    S_churn of algorithm 2: if sigma is in `churn_interval`, S_tmin to S_tmax, noise is added before
    a step. It raises sigma by the factor 1 + gamma, gamma = min(churn / steps, sqrt(2) - 1); the
    deviation of this noise is multiplied by `churn_noise`, S_noise. Churn needs alpha = 1. `steps`
    is the number of steps from pure noise; an edit takes only the last ones. Karras, Aittala, Aila,
    Laine (2022), arXiv:2206.00364.
    """

    churn: float = 0.0
    churn_interval: tuple[float, float] = (0.0, math.inf)
    churn_noise: float = 1.0
    steps: int = 1

    def spread(self, steps: int) -> "Sampler":
        """Return the sampler with this number of steps, over which churn is distributed."""
        return replace(self, steps=steps)

    def step(self, D: Conditional, at: State, t: Time, s: Time, noise: Noise) -> State:
        """Take one step."""
        x = at.x
        if self.churn:
            x, t = self._churn(D, x, t, noise)
        levels_t, levels_s = _levels(D, t), _levels(D, s)
        x_hat = D(x, t).x_hat
        eps_hat = _noise_in(x, levels_t, x_hat)
        x_s = _euler_step(x, levels_t, levels_s, x_hat, eps_hat)
        if levels_s[1] == 0:
            return State(x_s, x_hat)
        x_hat_s = D(x_s, s).x_hat
        eps_hat_s = _noise_in(x_s, levels_s, x_hat_s)
        mean_x, mean_eps = (x_hat + x_hat_s) / 2, (eps_hat + eps_hat_s) / 2
        return State(_euler_step(x, levels_t, levels_s, mean_x, mean_eps), x_hat_s)

    def _churn(self, D: Conditional, x: Images, t: Time, noise: Noise) -> tuple[Images, Time]:
        """Return x at the higher noise level t (1 + gamma), if sigma is in the interval."""
        alpha, sigma = _levels(D, t)
        if alpha != 1 or sigma != float(t):
            raise LimnerError("churn is for models whose time is sigma (edm); leave it out")
        if not self.churn_interval[0] <= sigma <= self.churn_interval[1]:
            return x, t
        higher = t * (1 + min(self.churn / self.steps, math.sqrt(2) - 1))
        added = self.churn_noise * math.sqrt(float(higher) ** 2 - sigma**2)
        return _with_noise(x, added, noise), higher


@dataclass(frozen=True)
class DPMSolver(Sampler):
    """DPM-Solver++ (2M, 3M): a multistep method, one evaluation a step; `memory` has the last
    outputs x_hat.

    Let lambda = ln(alpha / sigma), h = lambda_s - lambda_t, and x_hat' and x_hat'' the first two
    derivatives in lambda of a parabola (order 3) or line (order 2) through the last x_hat. Then
    x_s = sigma_s / sigma_t x_t + alpha_s ((1 - e^-h) x_hat + (h + e^-h - 1) x_hat'
    + (h^2 / 2 - h - e^-h + 1) x_hat''), where order 2 approximates the second factor by
    h (1 - e^-h) / 2. The first step and the last (where h is infinite) are of first order. In 3M,
    diffusers has half of the term of x_hat'', and so is of second order.
    Lu, Zhou, Bao, Chen, Li, Zhu (2022), arXiv:2211.01095, algorithm 2 and appendix.
    """

    order: int = 2

    def step(self, D: Conditional, at: State, t: Time, s: Time, noise: Noise) -> State:
        """Take one step."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = _levels(D, t), _levels(D, s)
        x, x_hat = at.x, D(at.x, t).x_hat
        views = _newest_views(at.memory, x_hat, _log_ratio(alpha_t, sigma_t), self.order)
        h = _log_ratio(alpha_s, sigma_s) - views[0].at
        to_x = alpha_s - sigma_s * alpha_t / sigma_t  # alpha_s (1 - e^-h)
        x = sigma_s / sigma_t * x + to_x * x_hat
        if math.isfinite(h) and len(views) > 1:
            slopes = [(a.x_hat - b.x_hat) / (a.at - b.at) for a, b in pairwise(views)]
            if len(views) == 2:
                x = x + to_x * h / 2 * slopes[0]
            else:
                curvature = (slopes[0] - slopes[1]) / (views[0].at - views[2].at)
                slope = slopes[0] + curvature * (views[0].at - views[1].at)
                lost = -math.expm1(-h)
                x = x + alpha_s * ((h - lost) * slope + (h * h - 2 * h + 2 * lost) * curvature)
        return State(x, x_hat, views)


@dataclass(frozen=True)
class UniPC(Sampler):
    """UniPC: a multistep predictor, and a corrector that costs nothing.

    x_hat at the predicted x_s, which the next step needs anyway, first corrects x_s, and then
    predicts from it. With h = lambda_s - lambda_t, B = e^-h - 1 and r_i = (lambda_i - lambda_t) / h
    for the earlier x_hat (the predictor) and the one at s, r = 1 (the corrector),
    x_s = sigma_s / sigma_t x_t - alpha_s B (x_hat + sum_i a_i (x_hat_i - x_hat) / r_i),
    where a solves sum_i r_i^(k-1) a_i = b_k, so that polynomials of the order's degree are exact.
    Zhao, Bai, Rao, Zhou, Lu (2023), arXiv:2302.04867, algorithms 5 and 6, B_2(h).
    """

    order: int = 2

    def step(self, D: Conditional, at: State, t: Time, s: Time, noise: Noise) -> State:
        """Take one step."""
        levels_t, levels_s = _levels(D, t), _levels(D, s)
        x, x_hat = at.x, D(at.x, t).x_hat
        views: list[_View] = list(at.memory[0]) if at.memory else []
        last: _Last | None = at.memory[1] if at.memory else None
        view_t = _View(x_hat, _log_ratio(*levels_t))
        if last is not None and math.isfinite(views[0].at):
            x = _combine_views(last.x, last.levels, levels_t, tuple(views[: last.order]), view_t)
        newest = _newest_views(tuple(views), x_hat, view_t.at, self.order)
        order = len(newest) if math.isfinite(_log_ratio(*levels_s)) else 1
        predicted = _combine_views(x, levels_t, levels_s, newest[:order], None)
        return State(predicted, x_hat, (newest, _Last(x, levels_t, order)))


class _View(NamedTuple):
    """The denoiser's clean picture at lambda = `at`."""

    x_hat: Images
    at: float


class _Last(NamedTuple):
    """The start of the step before, and its number of views."""

    x: Images
    levels: tuple[float, float]
    order: int


def _newest_views(
    views: tuple[_View, ...] | None, x_hat: Images, at: float, order: int
) -> tuple[_View, ...]:
    """Return the newest views, this one first: at most `order`, and none of pure noise except this
    one."""
    earlier = [view for view in views or () if math.isfinite(view.at)]
    return (_View(x_hat, at), *earlier)[: order if math.isfinite(at) else 1]


def _combine_views(
    x: Images,
    levels_t: tuple[float, float],
    levels_s: tuple[float, float],
    views: tuple[_View, ...],
    new_view: _View | None,
) -> Images:
    """Return UniPC's x_s from views at and before t; for the corrector also from the view at
    x_s."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = levels_t, levels_s
    to_x = alpha_s - sigma_s * alpha_t / sigma_t
    others = [*views[1:], *([new_view] if new_view else [])]
    estimate = views[0].x_hat
    if others:
        h = _log_ratio(*levels_s) - views[0].at
        r = torch.tensor([(view.at - views[0].at) / h for view in others], dtype=torch.float64)
        weights = _weights(r, h) if len(r) > 1 else [0.5]
        for a, r_i, view in zip(weights, r.tolist(), others, strict=True):
            estimate = estimate + a / r_i * (view.x_hat - views[0].x_hat)
    return sigma_s / sigma_t * x + to_x * estimate


def _weights(r: Float64[Tensor, "p"], h: float) -> list[float]:
    """Return a with sum_i r_i^(k-1) a_i = b_k = k! phi_{k+1}(-h) (-h) / (e^-h - 1)."""
    phi, factorial, b = math.expm1(-h) / -h - 1, 1, []
    for k in range(1, len(r) + 1):
        b.append(phi * factorial / math.expm1(-h))
        factorial *= k + 1
        phi = phi / -h - 1 / factorial
    powers = torch.arange(len(r), dtype=torch.float64)
    return torch.linalg.solve(r[None] ** powers[:, None], r.new_tensor(b)).tolist()


def _log_ratio(alpha: float, sigma: float) -> float:
    if alpha == 0:
        return -math.inf
    return math.log(alpha / sigma) if sigma else math.inf


def _with_noise(mean: Images, deviation: float | Deviation, noise: Noise) -> Images:
    """Return mean + deviation z; no numbers are drawn if the deviation is 0."""
    if isinstance(deviation, float) and deviation == 0:
        return mean
    return mean + deviation * noise.normal(*mean.shape[1:], dtype=mean.dtype)


def _noise_in(x: Images, levels: tuple[float, float], x_hat: Images) -> Images:
    """Return eps_hat = (x_t - alpha_t x_hat) / sigma_t."""
    alpha, sigma = levels
    return (x - alpha * x_hat) / sigma


def _euler_step(
    x: Images,
    levels_t: tuple[float, float],
    levels_s: tuple[float, float],
    x_hat: Images,
    eps_hat: Images,
) -> Images:
    """Return x + (alpha_s - alpha_t) x_hat + (sigma_s - sigma_t) eps_hat."""
    return x + (levels_s[0] - levels_t[0]) * x_hat + (levels_s[1] - levels_t[1]) * eps_hat


SamplerName = Literal["ancestral", "ddim", "euler", "heun", "dpm++", "unipc"]
SAMPLERS: dict[SamplerName, Sampler] = {
    "ancestral": Ancestral(),
    "ddim": DDIM(),
    "euler": Euler(),
    "heun": Heun(),
    "dpm++": DPMSolver(),
    "unipc": UniPC(),
}
