"""Whether a batch fits into memory, said before training rather than by the system that ends it."""

import os
import sys
from dataclasses import replace

import torch

from limner.contract.errors import LimnerError
from limner.runtime import processes
from limner.training.estimate import dry_run
from limner.training.recipe import Recipe

SURE = 1000
"""Pictures at a time up to which nobody is asked, for the question takes a few steps."""
_TRIED = 8  # pictures at a time of the steps from which larger ones are foretold


def check_memory(recipe: Recipe, *, device: str = "auto") -> None:
    """Refuse a batch for which the machine has not enough memory.

    What activations take grows with the pictures at a time; it is measured on a few of them.

    Args:
        recipe: what is to be trained.
        device: where.

    Raises:
        LimnerError: it would take more memory than there is.
    """
    place = processes.device(device)
    processes.join(place)
    options = recipe.options()
    rows = options.batch // (options.micro_batches * processes.size())
    if rows <= SURE:
        return
    few = {"batch": _TRIED * processes.size(), "micro_batches": 1}
    measured = dry_run(replace(recipe, train=recipe.train | few), device=device)
    available = _memory(place)
    fixed = measured.memory - measured.activations
    most = max(1, int((available - fixed) / (measured.activations / _TRIED)))
    if rows <= most:
        return
    needed = fixed + measured.activations * rows / _TRIED
    every = options.batch // processes.size()
    parts = next(k for k in range(1, every + 1) if every % k == 0 and every // k <= most)
    raise LimnerError(
        f"train.batch={options.batch} with {rows:,} pictures at a time needs about "
        f"{needed / 2**30:,.0f} GiB of memory, and there are {available / 2**30:,.0f}; try "
        f"train.micro_batches={parts} or train.batch={_below(most) * processes.size()}"
    )


def _below(most: int) -> int:
    """The power of two at or below a number."""
    return 1 << (most.bit_length() - 1)


def _memory(device: torch.device) -> int:
    """Bytes that the device has in all; more than any has where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    if not hasattr(os, "sysconf"):  # Windows
        return sys.maxsize
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
