"""New estimates of batch norm statistics, to calibrate averaged weights."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]


@contextmanager
def standing_statistics(module: nn.Module) -> Iterator[None]:
    """Reset the statistics of batch norms, and estimate them from all inputs within a `with`.

    The old statistics belong to the activations of the last weights, not of the averaged ones. The
    plain mean over many batches (standing statistics: Brock, Donahue, Simonyan, 2018,
    arXiv:1809.11096, appendix C.1) replaces the moving average.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    states = [(norm, norm.momentum, norm.training) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all inputs
        norm.train()
    try:
        yield
    finally:
        for norm, momentum, training in states:
            norm.momentum = momentum
            norm.train(training)
