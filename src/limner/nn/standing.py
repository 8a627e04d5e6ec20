"""Batch norm statistics, estimated again: for the calibration of averaged weights."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]


@contextmanager
def standing_statistics(module: nn.Module) -> Iterator[None]:
    """Within it, batch norms reset their statistics and measure them on all that passes.

    Averaged weights never met the activations that the last ones left statistics of. The plain
    mean over many batches (standing statistics: Brock, Donahue, Simonyan, 2018, arXiv:1809.11096,
    appendix C.1) replaces the moving average.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    kept = [(norm, norm.momentum, norm.training) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all that is seen
        norm.train()
    try:
        yield
    finally:
        for norm, momentum, training in kept:
            norm.momentum = momentum
            norm.train(training)
