"""Samplers: one step from x_t to x_s, s < t, given a denoiser. All have the same signature, side by
side.

Each is a value. Nothing but `memory`, which a step returns and the next one takes, lives longer
than a step. With x_hat = D(x_t, t, c) and eps_hat = (x_t - alpha_t x_hat) / sigma_t, everything
below holds for any schedule, variance-preserving, -exploding or flow matching's line, and never
divides by alpha, which may be 0 at the start.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from limner.image import Condition, Images
from limner.noise import Noise

if TYPE_CHECKING:
    from limner.denoising import Denoiser

Time = Float64[Tensor, ""]


class Step(NamedTuple):
    """What a step returns: the next state, the denoiser's view of the picture, what to remember."""

    x: Images
    sketch: Images
    memory: Any


@dataclass(frozen=True)
class Sampler(ABC):
    """A way to walk from noise to picture; its fields are its options."""

    @abstractmethod
    def step(
        self,
        D: "Denoiser",
        x: Images,
        t: Time,
        s: Time,
        c: Condition,
        noise: Noise,
        memory: Any,
        steps: int,
    ) -> Step:
        """Go from time t to time s, one of `steps` in all."""


def _levels(D: "Denoiser", t: Time) -> tuple[float, float]:
    alpha, sigma = D.schedule(t)
    return float(alpha), float(sigma)


def _posterior_variance(alpha_t: float, sigma_t: float, alpha_s: float, sigma_s: float) -> float:
    """Var q(x_s | x_t, x) = sigma_{t|s}^2 sigma_s^2 / sigma_t^2, the chain's posterior."""
    return _step_variance(alpha_t, sigma_t, alpha_s, sigma_s) * (sigma_s / sigma_t) ** 2


def _step_variance(alpha_t: float, sigma_t: float, alpha_s: float, sigma_s: float) -> float:
    """sigma_{t|s}^2 = sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2, what is added from s to t."""
    return max(sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2, 0.0)


@dataclass(frozen=True)
class Ancestral(Sampler):
    """DDPM's reverse process: draw from q(x_s | x_t, x = x_hat), with that very variance ("fixed
    small").

    mean = alpha_{t|s} sigma_s^2 / sigma_t^2 x_t + alpha_s sigma_{t|s}^2 / sigma_t^2 x_hat.
    Ho, Jain, Abbeel (2020), arXiv:2006.11239, equations 6-7 and algorithm 2.
    """

    def step(self, D, x, t, s, c, noise, memory, steps) -> Step:  # noqa: D102
        (alpha_t, sigma_t), (alpha_s, sigma_s) = _levels(D, t), _levels(D, s)
        x_hat = D(x, t, c)
        added = _step_variance(alpha_t, sigma_t, alpha_s, sigma_s)
        keep = alpha_t / alpha_s * (sigma_s / sigma_t) ** 2
        mean = keep * x + alpha_s * added / sigma_t**2 * x_hat
        deviation = math.sqrt(_posterior_variance(alpha_t, sigma_t, alpha_s, sigma_s))
        return Step(_with_noise(mean, deviation, noise), x_hat, None)


@dataclass(frozen=True)
class DDIM(Sampler):
    """x_s = alpha_s x_hat + sqrt(sigma_s^2 - std^2) eps_hat + std z, std = eta times the ancestral
    deviation.

    eta = 0 is deterministic; eta = 1 is DDPM. Song, Meng, Ermon (2020), arXiv:2010.02502, equations
    12 and 16.
    """

    eta: float = 0.0

    def step(self, D, x, t, s, c, noise, memory, steps) -> Step:  # noqa: D102
        (alpha_t, sigma_t), (alpha_s, sigma_s) = _levels(D, t), _levels(D, s)
        x_hat = D(x, t, c)
        variance = self.eta**2 * _posterior_variance(alpha_t, sigma_t, alpha_s, sigma_s)
        direction = math.sqrt(max(sigma_s**2 - variance, 0.0)) / sigma_t
        mean = direction * x + (alpha_s - direction * alpha_t) * x_hat
        return Step(_with_noise(mean, math.sqrt(variance), noise), x_hat, None)


@dataclass(frozen=True)
class Euler(Sampler):
    """x_s = x_t + (alpha_s - alpha_t) x_hat + (sigma_s - sigma_t) eps_hat, the probability flow's
    first-order step.

    On flow matching's line this is x_t + (s - t) v; in sigma it is EDM's Euler step; it equals DDIM
    with eta = 0.
    """

    def step(self, D, x, t, s, c, noise, memory, steps) -> Step:  # noqa: D102
        levels_t, levels_s = _levels(D, t), _levels(D, s)
        x_hat = D(x, t, c)
        return Step(
            _moved(x, levels_t, levels_s, x_hat, _noise_in(x, levels_t, x_hat)), x_hat, None
        )


@dataclass(frozen=True)
class Heun(Sampler):
    """Euler's step, then again with the mean of both ends' x_hat and eps_hat: second order.

    The rule is trapezoidal in alpha and sigma, dx = x_hat d(alpha) + eps_hat d(sigma), so it is
    EDM's algorithm 1 when alpha = 1 and Heun's method in t on flow matching's line. A step costs
    two evaluations; the last, to the clean picture, is Euler's and costs one. `churn` is S_churn of
    algorithm 2: before a step, noise is added that raises sigma by the factor
    1 + min(churn / steps, sqrt(2) - 1); alpha = 1 only.
    Karras, Aittala, Aila, Laine (2022), arXiv:2206.00364.
    """

    churn: float = 0.0

    def step(self, D, x, t, s, c, noise, memory, steps) -> Step:  # noqa: D102
        if self.churn:
            x, t = self._churned(D, x, t, noise, steps)
        levels_t, levels_s = _levels(D, t), _levels(D, s)
        x_hat = D(x, t, c)
        eps_hat = _noise_in(x, levels_t, x_hat)
        there = _moved(x, levels_t, levels_s, x_hat, eps_hat)
        if levels_s[1] == 0:
            return Step(there, x_hat, None)
        x_hat_s = D(there, s, c)
        eps_hat_s = _noise_in(there, levels_s, x_hat_s)
        mean_x, mean_eps = (x_hat + x_hat_s) / 2, (eps_hat + eps_hat_s) / 2
        return Step(_moved(x, levels_t, levels_s, mean_x, mean_eps), x_hat_s, None)

    def _churned(
        self, D: "Denoiser", x: Images, t: Time, noise: Noise, steps: int
    ) -> tuple[Images, Time]:
        """x at the higher noise level t (1 + gamma)."""
        from limner.errors import LimnerError

        alpha, sigma = _levels(D, t)
        if alpha != 1 or sigma != float(t):
            raise LimnerError("churn is for models whose time is sigma (edm); leave it out")
        raised = t * (1 + min(self.churn / steps, math.sqrt(2) - 1))
        return _with_noise(x, math.sqrt(float(raised) ** 2 - sigma**2), noise), raised


@dataclass(frozen=True)
class DPMSolver(Sampler):
    """DPM-Solver++ (2M): a second-order multistep method, one evaluation a step; `memory` is the
    last x_hat.

    With lambda = ln(alpha / sigma), h = lambda_s - lambda_t and r = h_last / h:
    x_s = sigma_s / sigma_t x_t + (alpha_s - sigma_s alpha_t / sigma_t) ((1 + 1/2r) x_hat - 1/2r
    x_hat_last). The first step and the last (where h is infinite) are of first order.
    Lu, Zhou, Bao, Chen, Li, Zhu (2022), arXiv:2211.01095, algorithm 2.
    """

    def step(self, D, x, t, s, c, noise, memory, steps) -> Step:  # noqa: D102
        (alpha_t, sigma_t), (alpha_s, sigma_s) = _levels(D, t), _levels(D, s)
        x_hat = D(x, t, c)
        lambda_t, lambda_s = _log_ratio(alpha_t, sigma_t), _log_ratio(alpha_s, sigma_s)
        mixed = x_hat
        if memory is not None and math.isfinite(lambda_s):
            last, lambda_last = memory
            extrapolate = 0.5 * (lambda_s - lambda_t) / (lambda_t - lambda_last)
            mixed = torch.lerp(x_hat, last, -extrapolate)
        to_x = alpha_s - sigma_s * alpha_t / sigma_t
        return Step(sigma_s / sigma_t * x + to_x * mixed, x_hat, (x_hat, lambda_t))


def _log_ratio(alpha: float, sigma: float) -> float:
    if alpha == 0:
        return -math.inf
    return math.log(alpha / sigma) if sigma else math.inf


def _with_noise(mean: Images, deviation: float, noise: Noise) -> Images:
    """mean + deviation z; no numbers are drawn when the deviation is 0."""
    if deviation == 0:
        return mean
    return mean + deviation * noise.normal(*mean.shape[1:], dtype=mean.dtype)


def _noise_in(x: Images, levels: tuple[float, float], x_hat: Images) -> Images:
    """eps_hat = (x_t - alpha_t x_hat) / sigma_t."""
    alpha, sigma = levels
    return (x - alpha * x_hat) / sigma


def _moved(
    x: Images, here: tuple[float, float], there: tuple[float, float], x_hat: Images, eps_hat: Images
) -> Images:
    """x + (alpha_s - alpha_t) x_hat + (sigma_s - sigma_t) eps_hat."""
    return x + (there[0] - here[0]) * x_hat + (there[1] - here[1]) * eps_hat


SAMPLERS: dict[str, Sampler] = {
    "ancestral": Ancestral(),
    "ddim": DDIM(),
    "euler": Euler(),
    "heun": Heun(),
    "dpm++": DPMSolver(),
}
