"""Muon: momentum whose update of a matrix is made orthogonal; AdamW for everything else.

Jordan et al. (2024). Muon: an optimizer for hidden layers in neural networks.
https://kellerjordan.github.io/posts/muon
Liu et al. (2025). Muon is scalable for LLM training. arXiv:2502.16982.

    M <- mu M + (1 - mu) G                     momentum, of a matrix or a kernel as (out, in k k)
    U = (1 - mu) G + mu M                      Nesterov's look ahead
    O ~ U (U^T U)^(-1/2)                       five steps of Newton and Schulz
    W <- (1 - lr wd) W - 0.2 lr sqrt(max(rows, columns)) O

Kept: the quintic's coefficients, mu = 0.95, and the factor 0.2 sqrt(max) of the second source, by
which an update is as large as one of AdamW, so that rate and weight decay mean the same. Different:
what counts as a matrix is told by its shape alone; small tables of labels and the layers that end
in a picture are narrower than `NARROWEST`, and AdamW updates them.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limner.nn.precision import has_bfloat16
from limner.training.by_matrix import ByMatrix

NARROWEST = 32
"""The shorter side of a matrix that is made orthogonal."""
MOMENTUM = 0.95
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5
_RMS = 0.2


def orthogonal(matrix: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
    """A matrix with nearly the same singular vectors and singular values near 1 (0.7 to 1.2)."""
    a, b, c = _COEFFICIENTS
    x = matrix.bfloat16() if has_bfloat16(matrix.device) else matrix.float()
    if wide := len(x) < x.shape[1]:
        x = x.T
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(_STEPS):  # x <- a x + b x x^T x + c x (x^T x)^2
        gram = x.T @ x
        x = a * x + x @ torch.addmm(gram, gram, gram, beta=b, alpha=c)
    return (x.T if wide else x).to(matrix.dtype)


class Muon(ByMatrix):
    """Muon for matrices and kernels, AdamW for the rest, at the same rate and pull to zero."""

    def takes(self, rows: int, columns: int) -> bool:
        """Whether it is wide enough."""
        return min(rows, columns) >= NARROWEST

    def update(self, p: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        """One step of momentum, made orthogonal."""
        state = self.state[p]
        if "momentum" not in state:  # new, or AdamW's in a run of an older version
            state.clear()
            state["momentum"] = torch.zeros_like(p)
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        ahead = gradient.lerp(momentum, MOMENTUM).flatten(1)
        lr, scale = group["lr"], _RMS * max(ahead.shape) ** 0.5
        p.mul_(1 - lr * group["weight_decay"])
        p.sub_(orthogonal(ahead).view_as(p), alpha=lr * scale)
