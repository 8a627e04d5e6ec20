"""Check whether a batch fits into memory, before the system ends a training that needs too much."""

import os
import sys
from dataclasses import replace

import torch

from limner.contract.errors import LimnerError
from limner.runtime import processes
from limner.training.estimate import dry_run
from limner.training.recipe import Recipe

SAFE_BATCH = 1000
"""Number of pictures at a time up to which nothing is checked, since a check takes a few steps."""
_TRIAL_PICTURES = 8  # pictures at a time in the steps that are measured


def check_memory(recipe: Recipe, *, device: str = "auto") -> None:
    """Refuse a batch that needs more memory than the machine has.

    The memory of activations grows with the pictures at a time; it is measured on a few pictures.

    Args:
        recipe: recipe of the training.
        device: device to train on.

    Raises:
        LimnerError: the batch needs more memory than there is.
    """
    torch_device = processes.device(device)
    processes.join(torch_device)
    options = recipe.options()
    rows = options.batch // (options.micro_batches * processes.size())
    if rows <= SAFE_BATCH:
        return
    small_batch = {"batch": _TRIAL_PICTURES * processes.size(), "micro_batches": 1}
    estimate = dry_run(replace(recipe, train=recipe.train | small_batch), device=device)
    available = _memory(torch_device)
    fixed = estimate.memory - estimate.activations
    max_batch = max(1, int((available - fixed) / (estimate.activations / _TRIAL_PICTURES)))
    if rows <= max_batch:
        return
    needed = fixed + estimate.activations * rows / _TRIAL_PICTURES
    batch = options.batch // processes.size()
    parts = next(k for k in range(1, batch + 1) if batch % k == 0 and batch // k <= max_batch)
    raise LimnerError(
        f"train.batch={options.batch} with {rows:,} pictures at a time needs about "
        f"{needed / 2**30:,.0f} GiB of memory, and there are {available / 2**30:,.0f}; try "
        f"train.micro_batches={parts} or train.batch={_below(max_batch) * processes.size()}"
    )


def _below(maximum: int) -> int:
    """Return the largest power of two that is not above a number."""
    return 1 << (maximum.bit_length() - 1)


def _memory(device: torch.device) -> int:
    """Return a device's total memory in bytes; the largest integer if the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    if not hasattr(os, "sysconf"):  # Windows
        return sys.maxsize
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
