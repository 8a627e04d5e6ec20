"""Noise levels and elementary steps, from which samplers are made."""

import math

from jaxtyping import Float
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import Images
from limner.contract.noise import Noise
from limner.maths.denoisers import Conditional
from limner.maths.samplers.sampler import Time

Deviation = Float[Tensor, "#b #c #h #w"]


def levels_at(D: Conditional, t: Time) -> tuple[float, float]:
    """Return alpha and sigma at time t."""
    alpha, sigma = D.schedule(t)
    return float(alpha.detach()), float(sigma.detach())


def check_interval(name: str, ends: tuple[float, float]) -> None:
    """Check an option that is a range of noise.

    Raises:
        LimnerError: it does not go from less noise to more.
    """
    if not 0 <= ends[0] < ends[1]:
        raise LimnerError(
            f"sampler option {name}={ends[0]:g},{ends[1]:g}: give the least and the greatest "
            "noise, as in 0.3,5"
        )


def posterior_variance(alpha_t: float, sigma_t: float, alpha_s: float, sigma_s: float) -> float:
    """Return Var q(x_s | x_t, x) = sigma_{t|s}^2 sigma_s^2 / sigma_t^2, the chain's posterior."""
    return step_variance(alpha_t, sigma_t, alpha_s, sigma_s) * (sigma_s / sigma_t) ** 2


def step_variance(alpha_t: float, sigma_t: float, alpha_s: float, sigma_s: float) -> float:
    """Return sigma_{t|s}^2 = sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2, the noise added from s to
    t."""
    return max(sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2, 0.0)


def log_ratio(alpha: float, sigma: float) -> float:
    """Return lambda = ln(alpha / sigma), which is infinite where one of them is 0."""
    if alpha == 0:
        return -math.inf
    return math.log(alpha / sigma) if sigma else math.inf


def add_noise(mean: Images, deviation: float | Deviation, noise: Noise) -> Images:
    """Return mean + deviation z; no numbers are drawn if the deviation is 0."""
    if isinstance(deviation, float) and deviation == 0:
        return mean
    return mean + deviation * noise.normal(*mean.shape[1:], dtype=mean.dtype)


def predicted_noise(x: Images, levels: tuple[float, float], x_hat: Images) -> Images:
    """Return eps_hat = (x_t - alpha_t x_hat) / sigma_t."""
    alpha, sigma = levels
    return (x - alpha * x_hat) / sigma


def euler_step(
    x: Images,
    levels_t: tuple[float, float],
    levels_s: tuple[float, float],
    x_hat: Images,
    eps_hat: Images,
) -> Images:
    """Return x + (alpha_s - alpha_t) x_hat + (sigma_s - sigma_t) eps_hat."""
    return x + (levels_s[0] - levels_t[0]) * x_hat + (levels_s[1] - levels_t[1]) * eps_hat
