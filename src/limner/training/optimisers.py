"""Optimisers by name, and learning rates as pure functions of the step.

    optimisers   adamw | adam | rmsprop | muon | soap
    schedules    constant | cosine | linear, each after a linear warm-up

Only the optimisers' own moments are stateful, so a stopped run continues exactly.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from limner.training.muon import Muon
from limner.training.soap import SOAP, UPDATE_PERIOD

OptimizerName = Literal["adamw", "adam", "rmsprop", "muon", "soap"]
ScheduleName = Literal["constant", "cosine", "linear"]


def optimizer(
    name: OptimizerName,
    parameters: Sequence[nn.Parameter] | Sequence[dict[str, Any]],
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
) -> torch.optim.Optimizer:
    """Return a player's optimiser.

    Args:
        name: "adamw" (decoupled weight decay), "adam", "rmsprop" (with decay betas[1] and momentum
            betas[0]; for WGAN's weight clipping), "muon" or "soap".
        parameters: parameters to update, at least one, or groups of parameters.
        lr: learning rate, before any schedule.
        betas: decay rates of the first and second moment.
        weight_decay: strength of the weight decay.

    References:
        Kingma, Ba (2014). Adam: a method for stochastic optimization. arXiv:1412.6980.
        Loshchilov, Hutter (2017). Decoupled weight decay regularization. arXiv:1711.05101.
    """
    if name == "rmsprop":
        return torch.optim.RMSprop(
            parameters, lr=lr, alpha=betas[1], momentum=betas[0], weight_decay=weight_decay
        )
    if name in ("muon", "soap"):
        by_matrix = Muon if name == "muon" else SOAP
        return by_matrix(parameters, lr=lr, betas=betas, weight_decay=weight_decay)
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    return kind(parameters, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)


def period(name: OptimizerName) -> int:
    """Return the number of updates in which an optimiser does each kind of work at least once."""
    return UPDATE_PERIOD if name == "soap" else 1


def rate(step: int, steps: int, *, schedule: ScheduleName = "constant", warmup: int = 0) -> float:
    """Return the learning rate at a step, as a share of the highest one.

    It is min(1, (step + 1) / warmup), times (1 + cos(pi step / steps)) / 2 for "cosine", or
    min(1, 2 (1 - step / steps)), which falls over the second half, for "linear".

    >>> [rate(step, 4, schedule="cosine") for step in (0, 2, 4)]
    [1.0, 0.5, 0.0]
    >>> [rate(step, 8, schedule="linear") for step in (0, 4, 5, 6, 8)]
    [1.0, 1.0, 0.75, 0.5, 0.0]
    """
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if schedule == "constant":
        return rise
    progress = min(step / steps, 1)
    if schedule == "linear":
        return rise * min(1.0, 2 * (1 - progress))
    return rise * 0.5 * (1 + math.cos(math.pi * progress))
