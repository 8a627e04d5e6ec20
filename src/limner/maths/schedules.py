"""Noise schedules: the amounts of picture and noise at time t.

Every model that denoises along a Gaussian path gets

    x_t = alpha(t) x + sigma(t) eps,   eps ~ N(0, I),

where t = 0 is the clean picture. A schedule defines alpha and sigma, the times of a sampler's
steps, and the number that the network gets in place of t. All of it is computed in float64.

References:
    Ho, Jain, Abbeel (2020). arXiv:2006.11239: linear betas.
    Nichol, Dhariwal (2021). arXiv:2102.09672: cosine.
    Kingma, Salimans, Poole, Ho (2021). arXiv:2107.00630: an evenly falling ratio.
    Karras, Aittala, Aila, Laine (2022). arXiv:2206.00364: sigma as time.
    Lipman, Chen, Ben-Hamu, Nickel, Le (2022). arXiv:2210.02747: linear path.
    Ho, Salimans (2022). arXiv:2207.12598: log signal-to-noise ratio.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from limner.contract.errors import LimnerError

Times = Float[Tensor, "*b"]
Spacing = Literal["uniform", "quadratic", "leading", "trailing"]
"""Which S of T steps a sampler takes, from the last to the first: uniform, the first, the T-th and
evenly spaced ones between; quadratic, the squares of evenly spaced numbers, more near the picture;
leading, every (T // S)-th from the first; trailing, every (T / S)-th down from the T-th. Song,
Meng, Ermon (2020), arXiv:2010.02502, appendix D.2; Lin, Liu, Li, Yang (2023), arXiv:2305.08891,
table 2."""


class Schedule(ABC):
    """alpha(t) and sigma(t), and the times of a sampler's steps."""

    @abstractmethod
    def __call__(self, t: Times) -> tuple[Times, Times]:
        """Return (alpha, sigma) at each time."""

    def times(
        self, steps: int, spacing: Spacing | None = None, shift: float | None = None
    ) -> Float64[Tensor, "{steps}+1"]:
        """Return decreasing times for a number of steps, from pure noise to the clean picture
        (sigma = 0).

        Args:
            steps: the number of steps.
            spacing: which of a discrete schedule's steps are visited.
            shift: the shift of a straight line's times, see `LinearPath`; its own if not given.

        Raises:
            LimnerError: an option that this schedule does not have.
        """
        if spacing is not None:
            raise LimnerError("spacing is for models with discrete steps (ddpm); leave it out")
        if shift is not None:
            raise LimnerError("shift is for straight paths (flow-matching); leave it out")
        return self.own_times(steps)

    def code_times(self, steps: int) -> Float64[Tensor, "{steps}+1"]:
        """Return times from a picture to the noise that is its code, for an inverse."""
        return self.own_times(steps)

    @abstractmethod
    def own_times(self, steps: int) -> Float64[Tensor, "{steps}+1"]:
        """Return the times that the schedule's paper uses."""

    @abstractmethod
    def label(self, t: Times) -> Times:
        """Return the number that the network gets in place of t; its range is about a thousand."""

    @abstractmethod
    def time_of(self, s: Times) -> Times:
        """Return the time at which sigma / alpha is s."""

    @property
    @abstractmethod
    def ends(self) -> Float64[Tensor, "2"]:
        """The times of the least and the most noise that a network is trained on."""

    @property
    def prior_deviation(self) -> float:
        """The standard deviation of x at the first time, where sampling starts."""
        return 1.0


def check_schedule(schedule: Schedule, times: object, steps: int) -> None:
    """Refuse a schedule that cannot lead from noise to a picture.

    Args:
        schedule: any schedule.
        times: its own times for this number of steps.
        steps: the number of steps.

    Raises:
        LimnerError: the times are not steps + 1 decreasing ones, or the levels at them are not two
            tensors of finite numbers, alpha not below 0 and sigma falling with t.
    """
    name = type(schedule).__name__
    shape = (steps + 1,)
    if not isinstance(times, Tensor) or times.shape != shape or not (times.diff() < 0).all():
        raise LimnerError(
            f"own_times of {name} does not return {steps + 1} falling times for {steps} steps; "
            "return a tensor from pure noise to the clean picture"
        )
    levels: object = schedule(times)
    if isinstance(levels, tuple) and len(levels) == 2:  # pyright: ignore[reportUnknownArgumentType]
        alpha, sigma = levels  # pyright: ignore[reportUnknownVariableType]
        if isinstance(alpha, Tensor) and isinstance(sigma, Tensor):
            has_shape = alpha.shape == sigma.shape == shape
            if has_shape and (alpha >= 0).all() and alpha.isfinite().all() and _falls(sigma):
                return
    raise LimnerError(
        f"{name}(t) does not return (alpha, sigma) as two tensors of finite numbers, alpha from 0 "
        "up and sigma falling with t, one of each for each time"
    )


def _falls(sigma: Tensor) -> bool:
    return bool((sigma.isfinite() & (sigma >= 0)).all() and (sigma.diff() <= 0).all())


@dataclass(frozen=True)
class DiscreteSchedule(Schedule):
    """T variance-preserving steps of variance beta_k: alpha(k/T)^2 = prod_{i<=k} (1 - beta_i),
    alpha^2 + sigma^2 = 1.

    Between the steps log alpha^2 is interpolated linearly. The last beta may be 1; then nothing of
    the picture remains.

    Args:
        betas: float64 "T", the variance added by step 1 .. T.
    """

    betas: Float64[Tensor, "T"] = field(repr=False)

    @cached_property
    def _log_alpha_bar(self) -> Float64[Tensor, "{self.T}+1"]:
        start = torch.zeros(1, dtype=torch.float64)
        return torch.cat([start, torch.log1p(-self.betas.double()).cumsum(0)])

    @property
    def T(self) -> int:  # noqa: N802 (the paper's symbol)
        """The number of steps of the schedule."""
        return len(self.betas)

    def __call__(self, t: Times) -> tuple[Times, Times]:
        """Return (alpha, sigma), from a table."""
        table = self._log_alpha_bar.to(t.device)
        k = (t.double() * self.T).clamp(0, self.T)
        below = k.floor().long().clamp(max=self.T - 1)
        start, end, share = table[below], table[below + 1], k - below  # end may be -inf
        log_alpha_bar = torch.where(share > 0, (1 - share) * start + share * end, start)
        return (log_alpha_bar / 2).exp(), (-torch.expm1(log_alpha_bar)).sqrt()

    def times(
        self, steps: int, spacing: Spacing | None = None, shift: float | None = None
    ) -> Float64[Tensor, "{steps}+1"]:
        """Return those of the T steps that the spacing selects (trailing by default); for more than
        T steps also times between them.

        Raises:
            LimnerError: another spacing than trailing, for more steps than there are.
        """
        if spacing in (None, "trailing") or shift is not None:
            return super().times(steps, None, shift)
        if steps > self.T:
            raise LimnerError(f"{steps} steps with spacing={spacing}: there are only {self.T}")
        i = torch.arange(steps, dtype=torch.float64)
        fraction = i / max(steps - 1, 1) if steps > 1 else torch.ones_like(i)
        k = {
            "uniform": 1 + (self.T - 1) * fraction,
            "quadratic": 1 + (self.T - 1) * fraction**2,
            "leading": 1 + i * (self.T // steps),
        }[spacing].round()
        for j in range(1, steps):  # squares of near numbers may round to one step
            k[j] = torch.maximum(k[j], k[j - 1] + 1)
        return torch.cat([k.flip(0), k.new_zeros(1)]) / self.T

    def own_times(self, steps: int) -> Float64[Tensor, "{steps}+1"]:
        """Return times evenly spaced down from the last of the T steps (t = 1).

        For more than T steps there are also times between them, except between the last and the one
        before if the last leaves nothing of the picture.
        """
        if steps <= self.T:
            return torch.linspace(self.T, 0, steps + 1, dtype=torch.float64).round() / self.T
        last = round(float(self.ends[1]) * self.T)
        k = torch.linspace(last, 0, steps + 1 - (self.T - last), dtype=torch.float64)
        return torch.cat([k.new_full((self.T - last,), self.T), k]) / self.T

    def label(self, t: Times) -> Times:
        """Return 1000 t, which is the step's number when T = 1000."""
        return 1000 * t

    def time_of(self, s: Times) -> Times:
        """Return the time at which alpha-bar is 1 / (1 + s^2), from a table."""
        table, target = self._log_alpha_bar.to(s.device), -torch.log1p(s.double() ** 2)
        above = torch.searchsorted(-table, -target).clamp(1, self.T)
        start, end = table[above - 1], table[above]
        return (above - 1 + ((target - start) / (end - start)).clamp(0, 1)) / self.T

    @property
    def ends(self) -> Float64[Tensor, "2"]:
        """The first step, and the last one that leaves something of the picture."""
        last = self.T - int(self.betas[-1] == 1)
        return torch.tensor([1 / self.T, last / self.T], dtype=torch.float64)


def linear_betas(T: int = 1000) -> Float64[Tensor, "T"]:
    """Return DDPM's betas (section 4): linear from 1e-4 to 0.02 for T = 1000, else times 1000 / T;
    capped. A single step has the last beta."""
    last = min(20 / T, 0.999)
    return torch.linspace(0.1 / T if T > 1 else last, last, T, dtype=torch.float64)


def sigmoid_betas(
    T: int = 1000, start: float = -3.0, end: float = 3.0, tau: float = 1.0
) -> Float64[Tensor, "T"]:
    """Return the betas of alpha-bar = (S(end) - S(t)) / (S(end) - S(start)), where S(t) is
    sigmoid((start + t (end - start)) / tau); capped. Jabri, Fleet, Chen (2022), arXiv:2212.11972,
    algorithm in appendix B.
    """
    values = (torch.linspace(start, end, T + 1, dtype=torch.float64) / tau).sigmoid()
    alpha_bar = (values[-1] - values) / (values[-1] - values[0])
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)


def cosine_betas(T: int = 1000, s: float = 0.008) -> Float64[Tensor, "T"]:
    """Return Improved DDPM's betas (equation 17): alpha-bar = cos^2((t + s) / (1 + s) pi / 2);
    capped."""
    t = torch.linspace(0, 1, T + 1, dtype=torch.float64)
    alpha_bar = ((t + s) / (1 + s) * (math.pi / 2)).cos() ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)


def log_snr_betas(T: int = 1000, first: float = 13.3, last: float = -5.0) -> Float64[Tensor, "T"]:
    """Return the betas of a log signal-to-noise ratio that falls evenly from the first step to the
    last.

    So training uses every ratio as often as it counts in the likelihood's bound. After the first
    step the levels of a picture are still distinct: sigma is 0.0013, a sixth of the distance of two
    of 256 levels. It is the initial schedule of Kingma, Salimans, Poole, Ho (2021),
    arXiv:2107.00630.

    Raises:
        LimnerError: T is 1; one step would leave the picture almost unchanged.
    """
    if T < 2:
        raise LimnerError("a log-snr schedule goes from a first step to a last; give T=2 or more")
    alpha_bar = torch.linspace(first, last, T, dtype=torch.float64).sigmoid()
    return 1 - alpha_bar / torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])


def zero_terminal(betas: Float64[Tensor, "T"]) -> Float64[Tensor, "T"]:
    """Return betas changed so that the last step leaves nothing of the picture: alpha is shifted to
    be 0 there, and scaled so that the first step is unchanged.

    With them, sampling starts from the same noise as in training, and a network can paint pictures
    that are bright or dark throughout. Lin, Liu, Li, Yang (2023), arXiv:2305.08891, algorithm 1.

    Args:
        betas: the betas of two steps or more.

    Raises:
        LimnerError: there is one step only.
    """
    if len(betas) < 2:
        raise LimnerError("a schedule of one step has no other step to keep; give T=2 or more")
    alpha = (1 - betas).cumprod(0).sqrt()
    alpha_bar = ((alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])).square()
    return 1 - alpha_bar / torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])


@dataclass(frozen=True)
class LinearPath(Schedule):
    """Flow matching's straight line from picture to noise: alpha = 1 - t, sigma = t.

    In a large picture objects can still be seen under much noise: a mean over m / n times as many
    pixels is sqrt(m / n) times as precise. So a shift s = sqrt(m / n) converts times that suit n
    pixels to times that suit m pixels, t -> s t / (1 + (s - 1) t). Esser et al. (2024),
    arXiv:2403.03206, equation 23.

    Args:
        shift: s, above 0; above 1, more steps are near the noise.
    """

    shift: float = 1.0

    def __call__(self, t: Times) -> tuple[Times, Times]:
        """Return (1 - t, t)."""
        return 1 - t.double(), t.double()

    def shift_times(self, t: Times) -> Times:
        """Return s t / (1 + (s - 1) t)."""
        return self.shift * t / (1 + (self.shift - 1) * t)

    def times(
        self, steps: int, spacing: Spacing | None = None, shift: float | None = None
    ) -> Float64[Tensor, "{steps}+1"]:
        """Return evenly spaced times with the given shift, or the path's own."""
        path = self if shift is None else replace(self, shift=shift)
        return super(LinearPath, path).times(steps, spacing)

    def own_times(self, steps: int) -> Float64[Tensor, "{steps}+1"]:
        """Return evenly spaced times, shifted."""
        return self.shift_times(self.code_times(steps))

    def code_times(self, steps: int) -> Float64[Tensor, "{steps}+1"]:
        """Return evenly spaced times, because a shift would leave long steps near the picture."""
        return torch.linspace(1, 0, steps + 1, dtype=torch.float64)

    def label(self, t: Times) -> Times:
        """Return 1000 t."""
        return 1000 * t

    def time_of(self, s: Times) -> Times:
        """Return s / (1 + s)."""
        return s / (1 + s)

    @property
    def ends(self) -> Float64[Tensor, "2"]:
        """The times 0.001 and nearly 1; at 1 nothing of the picture remains."""
        return torch.tensor([1e-3, 1 - 1e-5], dtype=torch.float64)


@dataclass(frozen=True)
class LogSNR(Schedule):
    """A variance-preserving schedule in continuous time: alpha^2 = sigmoid(l), sigma^2 =
    sigmoid(-l), l = -2 ln tan(a t + b) falling from greatest to least.

    For t uniform on [0, 1], l has a hyperbolic secant distribution, as in a cosine schedule. The
    clean picture is exactly at t = 0. Ho, Salimans (2022), arXiv:2207.12598, section 2.

    Args:
        least, greatest: the smallest and largest log signal-to-noise ratio.
    """

    least: float = -20.0
    greatest: float = 20.0

    def log_snr(self, t: Times) -> Times:
        """Return l(t), float64."""
        b = math.atan(math.exp(-self.greatest / 2))
        a = math.atan(math.exp(-self.least / 2)) - b
        return -2 * (a * t.double() + b).tan().log()

    def __call__(self, t: Times) -> tuple[Times, Times]:
        """Return (alpha, sigma); (1, 0) at t = 0."""
        log_snr = self.log_snr(t)
        alpha, sigma = log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()
        return torch.where(t > 0, alpha, 1.0), torch.where(t > 0, sigma, 0.0)

    def own_times(self, steps: int) -> Float64[Tensor, "{steps}+1"]:
        """Return evenly spaced times."""
        return torch.linspace(1, 0, steps + 1, dtype=torch.float64)

    def label(self, t: Times) -> Times:
        """Return -50 l, which spans 2,000."""
        return -50 * self.log_snr(t)

    def time_of(self, s: Times) -> Times:
        """Return the time at which tan(a t + b) = s."""
        b = math.atan(math.exp(-self.greatest / 2))
        a = math.atan(math.exp(-self.least / 2)) - b
        return (s.double().atan() - b) / a

    @property
    def ends(self) -> Float64[Tensor, "2"]:
        """The times 0.001 and 1."""
        return torch.tensor([1e-3, 1.0], dtype=torch.float64)


@dataclass(frozen=True)
class VarianceExploding(Schedule):
    """EDM's schedule: alpha = 1 and sigma is the time itself.

    Args:
        sigma_min, sigma_max: the least noise that a network evaluation removes, and the noise where
            sampling starts.
        rho: how strongly the times concentrate near sigma_min (equation 5).
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __call__(self, t: Times) -> tuple[Times, Times]:
        """Return (1, t)."""
        return torch.ones_like(t, dtype=torch.float64), t.double()

    def own_times(self, steps: int) -> Float64[Tensor, "{steps}+1"]:
        """Return sigma_i = (max^(1/rho) + i/(N-1) (min^(1/rho) - max^(1/rho)))^rho, then 0."""
        ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
        high, low = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        return torch.cat([(high + ramp * (low - high)) ** self.rho, ramp.new_zeros(1)])

    def label(self, t: Times) -> Times:
        """Return 250 ln sigma: EDM's c_noise = ln(sigma) / 4 on the scale of the other labels."""
        return 250 * t.log()

    def time_of(self, s: Times) -> Times:
        """Return the noise level s itself."""
        return s

    @property
    def ends(self) -> Float64[Tensor, "2"]:
        """sigma_min and sigma_max."""
        return torch.tensor([self.sigma_min, self.sigma_max], dtype=torch.float64)

    @property
    def prior_deviation(self) -> float:
        """sigma_max."""
        return self.sigma_max
