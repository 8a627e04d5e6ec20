"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner; AdamW for everything else.

Vyas et al. (2024). SOAP: improving and stabilizing Shampoo using Adam. arXiv:2409.11321.

    L <- b2 L + (1 - b2) G G^T        of the gradient of a matrix, or of a kernel as (out, in k k)
    R <- b2 R + (1 - b2) G^T G
    P, Q: the eigenvectors of L and R, by one power iteration and QR every tenth update
    M <- b1 M + (1 - b1) G
    V <- b2 V + (1 - b2) (P^T G Q)^2
    W <- (1 - lr wd) W - lr P (P^T M Q / sqrt V) Q^T

Without P and Q this is AdamW, except that eps is added to sqrt V before its bias is corrected. As
in the authors' code, the first gradient only initialises L and R. Different: a side longer than
`MAX_SIDE` is not transformed; in the paper this holds only from 10,000 on.

Where L or R has no information, its eigenvectors are rounding errors. They differ between machines,
and with the split of a batch; therefore all processes use the eigenvectors of the first one.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limner.runtime import processes
from limner.training.by_matrix import ByMatrix

MAX_SIDE = 256
"""The longest side of a matrix that is transformed to the eigenbasis."""
UPDATE_PERIOD = 10
"""Number of updates between two improvements of the eigenvectors."""


class SOAP(ByMatrix):
    """SOAP for matrices and kernels, AdamW for the rest.

    Both use the same learning rate and decay rates; the second decay rate is also that of L and R.
    The paper's decay rates are 0.95 and 0.95.
    """

    def takes(self, rows: int, columns: int) -> bool:
        """Return whether at least one side is short enough."""
        return min(rows, columns) <= MAX_SIDE

    def update(self, p: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        """Take one step of Adam along the eigenvectors, then update L, R and their eigenvectors."""
        gradient = gradient.flatten(1)
        state, (beta1, beta2) = self.state[p], group["betas"]
        if "turns" not in state:  # new, or another optimiser's
            state.clear()
            state["turns"] = torch.zeros(())
            for moment in ("first", "second"):
                state[moment] = gradient.new_zeros(gradient.shape)
            for side in _turned_sides(gradient):
                state[f"spread{side}"] = (1 - beta2) * _gram_matrix(gradient, side)
                values = torch.linalg.eigh(state[f"spread{side}"].double())
                state[f"basis{side}"] = values.eigenvectors.flip(1).to(gradient).contiguous()
                processes.broadcast_([state[f"basis{side}"]])
            return
        turns = int(state["turns"].add_(1))
        first = state["first"].lerp_(gradient, 1 - beta1)
        second = state["second"].lerp_(_turn(gradient, state).square_(), 1 - beta2)
        update = _turn(first, state).div_(second.sqrt().add_(group["eps"]))
        lr = group["lr"] * (1 - beta2**turns) ** 0.5 / (1 - beta1**turns)
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.sub_(_turn(update, state, back=True).view_as(p), alpha=lr)
        for side in _turned_sides(gradient):
            state[f"spread{side}"].lerp_(_gram_matrix(gradient, side), 1 - beta2)
            if turns % UPDATE_PERIOD == 0:
                _improve_basis(state, side)


def _turned_sides(matrix: Float[Tensor, "m n"]) -> list[int]:
    return [side for side in (0, 1) if matrix.shape[side] <= MAX_SIDE]


def _gram_matrix(matrix: Float[Tensor, "m n"], side: int) -> Float[Tensor, "s s"]:
    """Return G G^T of a matrix for side 0, or G^T G for side 1."""
    return matrix.T @ matrix if side else matrix @ matrix.T


def _turn(
    matrix: Float[Tensor, "m n"], state: dict[str, Tensor], back: bool = False
) -> Float[Tensor, "m n"]:
    """Return P^T G Q, the matrix in the eigenbasis; with `back`, the inverse P G Q^T."""
    for side in _turned_sides(matrix):
        basis = state[f"basis{side}"]
        turn = basis.T if back else basis
        matrix = matrix @ turn if side else turn.T @ matrix
    return matrix


def _improve_basis(state: dict[str, Tensor], side: int) -> None:
    """Take one step of power iteration; sort eigenvectors and V by decreasing eigenvalue."""
    basis = state[f"basis{side}"]
    product = state[f"spread{side}"] @ basis
    order = (basis * product).sum(0).argsort(descending=True)
    basis = torch.linalg.qr(product.index_select(1, order)).Q.contiguous()
    processes.broadcast_([order, basis])
    state["second"] = state["second"].index_select(side, order)
    state[f"basis{side}"] = basis
