"""What optimisers of whole matrices have in common: AdamW updates everything else."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class ByMatrix(torch.optim.AdamW, ABC):
    """AdamW, but for matrices and kernels that a subclass updates in its own way.

    Args:
        parameters: what it updates, at least one; or groups of such.
        lr: the learning rate of all.
        betas: AdamW's.
        weight_decay: the strength of the pull to zero, of all.
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
        """One update of everything that has a gradient; the matrices' gradients are used up."""
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
        """Whether a matrix, or a kernel as (out, in k k), is not AdamW's."""

    @abstractmethod
    def update(self, p: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        """Change such a parameter, by its gradient and the options of its group."""
