"""Base class of optimisers for whole matrices, in which AdamW updates everything else."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class ByMatrix(torch.optim.AdamW, ABC):
    """AdamW, except for matrices and kernels that a subclass updates in its own way.

    Args:
        parameters: parameters to update, at least one, or groups of parameters.
        lr: learning rate of all parameters.
        betas: decay rates of AdamW's moments.
        weight_decay: strength of the weight decay of all parameters.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter] | Sequence[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
    ) -> None:
        super().__init__(parameters, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; the gradients of matrices become None."""
        loss = torch.enable_grad()(closure)() if closure else None
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and p.dim() >= 2 and self.takes(len(p), p[0].numel()):
                    self.update(p, p.grad, group)
                    p.grad = None
        super().step()
        return loss

    @abstractmethod
    def takes(self, rows: int, columns: int) -> bool:
        """Return whether `update` is for a matrix (or kernel as (out, in k k)) of this size."""

    @abstractmethod
    def update(self, p: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        """Update a matrix or kernel with its gradient and the options of its group."""
