"""Muon: momentum with orthogonal updates for matrices; AdamW for everything else.

Jordan et al. (2024). Muon: an optimizer for hidden layers in neural networks.
https://kellerjordan.github.io/posts/muon
Liu et al. (2025). Muon is scalable for LLM training. arXiv:2502.16982.

    M <- mu M + (1 - mu) G                     momentum, of a matrix or a kernel as (out, in k k)
    U = (1 - mu) G + mu M                      Nesterov momentum
    O ~ U (U^T U)^(-1/2)                       five steps of Newton-Schulz iteration
    W <- (1 - lr wd) W - 0.2 lr sqrt(max(rows, columns)) O

Kept: the quintic's coefficients, mu = 0.95, and the factor 0.2 sqrt(max) of the second source. With
this factor an update is as large as one of AdamW, so that learning rate and weight decay have the
same meaning. Different: only its shape decides whether a parameter is a matrix; small tables of
labels and the layers that output pictures are narrower than `MIN_SIDE`, and AdamW updates them.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limner.nn.precision import has_bfloat16
from limner.training.by_matrix import ByMatrix

MIN_SIDE = 32
"""The least length of a matrix's shorter side; AdamW updates narrower matrices."""
MOMENTUM = 0.95
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5
_RMS = 0.2


def orthogonal(matrix: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
    """Return a matrix with nearly the same singular vectors, and singular values of 0.7 to 1.2."""
    a, b, c = _COEFFICIENTS
    x = matrix.bfloat16() if has_bfloat16(matrix.device) else matrix.float()
    if is_wide := len(x) < x.shape[1]:
        x = x.T
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(_STEPS):  # x <- a x + b x x^T x + c x (x^T x)^2
        gram = x.T @ x
        x = a * x + x @ torch.addmm(gram, gram, gram, beta=b, alpha=c)
    return (x.T if is_wide else x).to(matrix.dtype)


class Muon(ByMatrix):
    """Muon for matrices and kernels, AdamW for the rest, with the same rate and weight decay."""

    def takes(self, rows: int, columns: int) -> bool:
        """Return whether a matrix is wide enough."""
        return min(rows, columns) >= MIN_SIDE

    def update(self, p: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        """Take one step of orthogonal momentum."""
        state = self.state[p]
        if "momentum" not in state:  # new, or AdamW's in a run of an older version
            state.clear()
            state["momentum"] = torch.zeros_like(p)
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        nesterov = gradient.lerp(momentum, MOMENTUM).flatten(1)
        lr, scale = group["lr"], _RMS * max(nesterov.shape) ** 0.5
        p.mul_(1 - lr * group["weight_decay"])
        p.sub_(orthogonal(nesterov).view_as(p), alpha=lr * scale)
