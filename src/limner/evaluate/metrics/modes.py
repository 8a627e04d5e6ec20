"""How many of the modes of the data a model makes, and how evenly: StackedMNIST.

Three digits as the red, green and blue channel of a picture have 1,000 modes. A classifier of
digits names each channel, hence the mode.

Reference:
    Metz, Poole, Pfau, Sohl-Dickstein (2016). Unrolled Generative Adversarial Networks.
    arXiv:1611.02163.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from limner.contract.errors import LimnerError


class Modes(NamedTuple):
    """How many of how many modes were made; the divergence KL(made || uniform) in nats; and about
    what it would be if the model were uniform, (K - 1) / 2N."""

    covered: int
    of: int
    divergence: float
    floor: float


def modes(classes: Int64[Tensor, "n"], k: int) -> Modes:
    """Modes covered, and sum_y p(y) ln(K p(y)) with p(y) the shares of the modes among n pictures.

    Args:
        classes: the mode of each picture, 0 .. K - 1.
        k: how many modes there are; 1,000 for StackedMNIST.

    Raises:
        LimnerError: no picture; a class that is none of the modes.
    """
    if not len(classes):
        raise LimnerError("counting modes needs at least 1 picture, not 0")
    if k < 1 or classes.min() < 0 or classes.max() >= k:
        raise LimnerError(
            f"classes from {int(classes.min())} to {int(classes.max())} are not of the {k} modes "
            f"0 .. {k - 1}"
        )
    counts = classes.cpu().bincount(minlength=k)
    n = len(classes)
    entropy = float(torch.special.entr(counts.double() / n).sum())
    return Modes(int((counts > 0).sum()), k, math.log(k) - entropy, (k - 1) / (2 * n))


def stacked(digits: Int64[Tensor, "n 3"]) -> Int64[Tensor, "n"]:
    """The mode of each picture of StackedMNIST: 100 r + 10 g + b.

    Args:
        digits: the class of the red, the green and the blue channel, 0 .. 9.

    Raises:
        LimnerError: no digits.
    """
    if len(digits) and (digits.min() < 0 or digits.max() > 9):
        raise LimnerError("the classes of StackedMNIST's channels are the digits 0 .. 9")
    return digits @ torch.tensor([100, 10, 1], device=digits.device)
