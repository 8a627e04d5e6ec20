"""One player of a training game."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limner.contract.checkpoint import current_name
from limner.training import optimisers
from limner.training.options import TrainOptions
from limner.training.sharding import in_groups, shared_out, whole


class Player:
    """A part of the model that is trained, with its optimiser."""

    def __init__(
        self, name: str, parameters: dict[str, nn.Parameter], options: TrainOptions
    ) -> None:
        own = options.player(name)
        self.name = name
        self.names = list(parameters)
        self.parameters = list(parameters.values())
        self.lr = own.lr or options.lr
        self.optimizer = optimisers.optimizer(
            options.optimizer,
            in_groups(self.parameters),
            lr=self.lr,
            betas=own.betas or options.betas,
            weight_decay=options.weight_decay if own.weight_decay is None else own.weight_decay,
        )

    def state(self, copied: Callable[[Tensor], Tensor] = whole) -> dict[str, Tensor]:
        """The optimiser's moments by parameter name, each copied so."""
        return {
            f"{self.name}/{name}/{key}": copied(value)
            for name, p in zip(self.names, self.parameters)
            for key, value in self.optimizer.state.get(p, {}).items()
        }

    def restore(self, moments: Mapping[str, Any]) -> None:
        """The inverse of `state`; moments lie in memory as their parameters do, as is expected."""
        self.optimizer.state.clear()
        own = dict(zip(self.names, self.parameters))
        for path, value in moments.items():
            player, name, key = path.split("/")
            if player == self.name:
                name = current_name(name, own)
                like = own[name] if value.shape == own[name].shape else value
                kept = torch.empty_like(like, dtype=value.dtype, device=own[name].device)
                self.optimizer.state[own[name]][key] = kept.detach().copy_(shared_out(value, kept))
