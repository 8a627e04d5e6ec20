"""Averages of the weights over training: beta in  average <- beta average + (1 - beta) weights.

    constant   beta
    warmup     a short average at first, to forget the random initial weights soon
    power      an average whose width is a fixed share of the training so far

From power averages of a few widths, kept at each saved state, an average of any width can be made
after training, see reconstruction.py.

Reference:
    Karras et al. (2023). Analyzing and improving the training dynamics of diffusion models.
    arXiv:2312.02696, section 3.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from limner.contract.checkpoint import save_tensors
from limner.contract.errors import LimnerError
from limner.runtime import processes
from limner.training.sharding import local_shards, shard_like, whole

AverageName = Literal["constant", "warmup", "power"]

WARMUP_POWER = 2 / 3
"""Exponent of the average's warm-up, the same as in diffusers' `EMAModel(use_ema_warmup=True)`."""
MAX_WIDTH = math.sqrt(1 / 12)
"""The relative width of a power-function average at gamma = 0, the plain mean of all so far."""
FOLDER = "averages"
"""Name of the folder in a run that holds its snapshots."""
UPDATES, IMAGES = "updates", "images"
"""Names in a snapshot of the numbers of updates and images that it has seen."""


class PowerAverages:
    """Power averages of several widths, which follow the same weights.

    Args:
        widths: relative widths, between 0 and 0.289, all different.
        weights: weights to average, by name.
    """

    def __init__(self, widths: Sequence[float], weights: Mapping[str, Tensor]) -> None:
        self._weights = weights
        self._betas = {width: average_beta("power", width) for width in widths}
        self._averages = {
            width: {n: w.detach().clone() for n, w in weights.items()} for width in widths
        }

    def follow(self, t: int) -> None:
        """Update the averages with the current weights; t = 0, 1, 2, ... is the update's number."""
        weights = list(self._weights.values())
        for width, beta in self._betas.items():
            lerp_(list(self._averages[width].values()), weights, beta(t))

    def state(self, copied: Callable[[Tensor], Tensor] = whole) -> dict[str, Tensor]:
        """Return copies of all averages, by WIDTH/NAME."""
        return {
            f"{width:g}/{name}": copied(average)
            for width, averages in self._averages.items()
            for name, average in averages.items()
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the averages from a state of the same widths."""
        for width, averages in self._averages.items():
            for name, average in averages.items():
                average.copy_(shard_like(state[f"{width:g}/{name}"], average))

    def save(self, run: Path, step: int, updates: int, images: int) -> None:
        """Save a snapshot of all averages in half precision, if there are any."""
        if not self._averages or not updates:
            return
        halves = {name: average.half() for name, average in self.state().items()}
        if processes.first():
            (run / FOLDER).mkdir(exist_ok=True)
            counts = {UPDATES: torch.tensor(updates), IMAGES: torch.tensor(images)}
            save_tensors(halves | counts, run / FOLDER / f"step-{step:08d}.safetensors")


def average_beta(name: AverageName, ema: float) -> Callable[[int], float]:
    """Return a function from t to beta, the share of the average kept at update t = 0, 1, 2, ...

    constant    beta
    warmup      min(beta, 1 - (1 + t)^(-2/3))
    power       (1 - 1 / (t + 1))^(gamma + 1)

    Args:
        name: name of the average, one of those above.
        ema: beta, below 1 (0 = no averaging); for "power" the relative width sigma_rel, e.g. 0.05.

    Raises:
        LimnerError: a number out of range.

    Reference: arXiv:2312.02696, equations 4, 125 and 127.
    """
    if name not in get_args(AverageName):
        raise LimnerError(f"average '{name}' is not one of: {', '.join(get_args(AverageName))}")
    if name == "power":
        exponent = gamma(ema, "with train.average=power train.ema") + 1
        return lambda t: (1 - 1 / (t + 1)) ** exponent
    if not 0 <= ema < 1:
        raise LimnerError(f"train.ema={ema:g}: give a decay rate from 0 to below 1, e.g. 0.999")
    if name == "warmup":
        return lambda t: min(ema, 1 - (1 + t) ** -WARMUP_POWER)
    return lambda t: ema


@functools.cache
def gamma(width: float, option: str = "train.widths") -> float:
    """Return the exponent gamma > 0 of a power average from its relative width.

    It solves width^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)), a cubic equation.

    Args:
        width: relative width, above 0 and below 0.289.
        option: name of the option that gave the width, for the error message.

    Raises:
        LimnerError: a width out of range.
    """
    if not 0 < width < MAX_WIDTH:
        raise LimnerError(
            f"{option}={width:g}: the relative width of an average is above 0 and below "
            f"{MAX_WIDTH:.3f}; try 0.05"
        )
    t = width**-2
    return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())


def lerp_(
    average: Sequence[Float[Tensor, "..."]], weights: Sequence[Float[Tensor, "..."]], beta: float
) -> None:
    """Update a list of averages in place: average <- beta average + (1 - beta) weights."""
    lerp = torch._foreach_lerp_  # pyright: ignore[reportPrivateImportUsage]
    lerp(local_shards(list(average)), local_shards(list(weights)), 1 - beta)
