"""Optimisers by name; learning rates and averages of weights as pure functions of the step.

    optimisers   adamw | adam | rmsprop | muon
    schedules    constant | cosine | linear, each after a linear warm-up
    averages     constant | warmup | power: beta in  average <- beta average + (1 - beta) weights

Nothing here has a memory but the optimisers' own moments, so a stopped run continues exactly.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from limner.contract.errors import LimnerError
from limner.training.muon import Muon

OptimizerName = Literal["adamw", "adam", "rmsprop", "muon"]
ScheduleName = Literal["constant", "cosine", "linear"]
AverageName = Literal["constant", "warmup", "power"]

WARMUP_POWER = 2 / 3
"""Of the average's warm-up, as diffusers' `EMAModel(use_ema_warmup=True)` has it."""
WIDEST = math.sqrt(1 / 12)
"""The relative width of a power-function average at gamma = 0, the plain mean of all so far."""


def optimizer(
    name: OptimizerName,
    parameters: Sequence[nn.Parameter],
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
) -> torch.optim.Optimizer:
    """A player's optimiser.

    Args:
        name: "adamw" (weight decay apart from the gradient), "adam", "rmsprop" (whose decay is
            betas[1] and momentum betas[0]), which WGAN's weight clipping wants, or "muon".
        parameters: what it updates, at least one.
        lr: the learning rate, before any schedule.
        betas: the decay rates of the first and second moment.
        weight_decay: the strength of the pull to zero.

    References:
        Kingma, Ba (2014). Adam: a method for stochastic optimization. arXiv:1412.6980.
        Loshchilov, Hutter (2017). Decoupled weight decay regularization. arXiv:1711.05101.
    """
    if name == "rmsprop":
        return torch.optim.RMSprop(
            parameters, lr=lr, alpha=betas[1], momentum=betas[0], weight_decay=weight_decay
        )
    if name == "muon":
        return Muon(parameters, lr=lr, betas=betas, weight_decay=weight_decay)
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    return kind(parameters, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)


def rate(step: int, steps: int, *, schedule: ScheduleName = "constant", warmup: int = 0) -> float:
    """The learning rate at a step, as a share of the highest.

    min(1, (step + 1) / warmup), times (1 + cos(pi step / steps)) / 2 for the cosine, or
    min(1, 2 (1 - step / steps)), which falls over the second half, for the line.

    >>> [rate(step, 4, schedule="cosine") for step in (0, 2, 4)]
    [1.0, 0.5, 0.0]
    >>> [rate(step, 8, schedule="linear") for step in (0, 4, 5, 6, 8)]
    [1.0, 1.0, 0.75, 0.5, 0.0]
    """
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if schedule == "constant":
        return rise
    done = min(step / steps, 1)
    if schedule == "linear":
        return rise * min(1.0, 2 * (1 - done))
    return rise * 0.5 * (1 + math.cos(math.pi * done))


def average_beta(name: AverageName, ema: float) -> Callable[[int], float]:
    """How much of the average is kept at update t = 0, 1, 2, ...

    constant    beta
    warmup      min(beta, 1 - (1 + t)^(-2/3)): short at first, to forget the random start soon
    power       (1 - 1 / (t + 1))^(gamma + 1): the width stays a fixed share of the training so far

    Args:
        name: which.
        ema: beta, below 1 (0 = no averaging); for "power" the relative width sigma_rel, as 0.05.

    Raises:
        LimnerError: a number out of range.

    Reference:
        Karras et al. (2023). Analyzing and improving the training dynamics of diffusion models.
        arXiv:2312.02696, equations 4, 125 and 127.
    """
    if name not in get_args(AverageName):
        raise LimnerError(f"average '{name}' is none of: {', '.join(get_args(AverageName))}")
    if name == "power":
        exponent = _gamma(ema) + 1
        return lambda t: (1 - 1 / (t + 1)) ** exponent
    if not 0 <= ema < 1:
        raise LimnerError(f"train.ema={ema:g}: a decay rate is at least 0 and below 1, as 0.999")
    if name == "warmup":
        return lambda t: min(ema, 1 - (1 + t) ** -WARMUP_POWER)
    return lambda t: ema


@functools.cache
def _gamma(sigma_rel: float) -> float:
    """gamma > 0 with sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)), a cubic's root."""
    if not 0 < sigma_rel < WIDEST:
        raise LimnerError(
            f"train.ema={sigma_rel:g}: with train.average=power this is the average's relative "
            f"width, above 0 and below {WIDEST:.3f}; try train.ema=0.05"
        )
    t = sigma_rel**-2
    return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())


def lerp_(
    average: Sequence[Float[Tensor, "..."]], weights: Sequence[Float[Tensor, "..."]], beta: float
) -> None:
    """average <- beta average + (1 - beta) weights, in place, for a whole list at once."""
    lerp = torch._foreach_lerp_  # pyright: ignore[reportPrivateImportUsage]
    lerp(list(average), list(weights), 1 - beta)
