"""The players of a training game."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limner.contract.checkpoint import current_name
from limner.contract.errors import LimnerError, unknown
from limner.contract.model import Learner
from limner.training import optimisers
from limner.training.options import TrainOptions
from limner.training.sharding import in_groups, shard_like, whole
from limner.training.torch_errors import is_out_of_memory


class Player:
    """A trained part of the model, with its optimiser."""

    def __init__(
        self, name: str, parameters: dict[str, nn.Parameter], options: TrainOptions
    ) -> None:
        settings = options.player(name)
        self.name = name
        self.names = list(parameters)
        self.parameters = list(parameters.values())
        self.lr = settings.lr or options.lr
        self.optimizer = optimisers.optimizer(
            options.optimizer,
            in_groups(self.parameters),
            lr=self.lr,
            betas=settings.betas or options.betas,
            weight_decay=options.weight_decay
            if settings.weight_decay is None
            else settings.weight_decay,
        )

    def take_step(self, lr: float, clip: float, norm: Tensor) -> None:
        """Update the weights with their present gradients.

        Args:
            lr: learning rate of this step.
            clip: maximum gradient norm; 0 = no clipping.
            norm: norm of all gradients.

        Raises:
            LimnerError: memory ran out, for example when the moments are allocated.
        """
        for group in self.optimizer.param_groups:
            if clip:
                nn.utils.clip_grads_with_norm_(group["params"], clip, norm)
            group["lr"] = lr
        try:
            self.optimizer.step()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise LimnerError(
                f"out of memory in the update of the weights of player '{self.name}', where a "
                "smaller batch does not help; try a smaller model"
            ) from None

    def state(self, copied: Callable[[Tensor], Tensor] = whole) -> dict[str, Tensor]:
        """Return the optimiser's moments by parameter name, each copied with `copied`."""
        return {
            f"{self.name}/{name}/{key}": copied(value)
            for name, p in zip(self.names, self.parameters)
            for key, value in self.optimizer.state.get(p, {}).items()
        }

    def restore(self, moments: Mapping[str, Any]) -> None:
        """Restore moments from `state`, in the memory layout of their parameters."""
        self.optimizer.state.clear()
        parameters = dict(zip(self.names, self.parameters))
        for path, value in moments.items():
            prefix, _, key = path.rpartition("/")
            if prefix.startswith(f"{self.name}/"):
                name = current_name(prefix.removeprefix(f"{self.name}/"), parameters)
                like = parameters[name] if value.shape == parameters[name].shape else value
                moment = torch.empty_like(like, dtype=value.dtype, device=parameters[name].device)
                self.optimizer.state[parameters[name]][key] = moment.detach().copy_(
                    shard_like(value, moment)
                )


def players_of(model: Learner, options: TrainOptions) -> dict[str, Player]:
    """Return the players of a model, each with its trainable parameters and its own optimiser.

    Raises:
        LimnerError: there are none, one has nothing to train, or an option names an unknown part.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    parts, description = model.players(), f"model '{model.name or type(model).__name__}'"
    if not parts:
        raise LimnerError(
            f"{description} has no players; return its trained parts by name from `players`, as "
            "{'generator': self.generator}"
        )
    for part in options.frozen:
        if not any(_is_of(name, [part]) for name in names.values()):
            raise unknown("part", part, _parts(names.values()), "train.frozen")
    for name in options.players or {}:
        if name not in parts:
            raise unknown("player", name, parts, description)
    players = {}
    for name, part in parts.items():
        trainable = [p for p in part.parameters() if p.requires_grad]
        parameters = {
            names[id(p)]: p for p in trainable if not _is_of(names[id(p)], options.frozen)
        }
        if not parameters:
            frozen = ",".join(options.frozen)
            remedy = (
                f"freeze fewer of its parts than train.frozen={frozen}"
                if frozen
                else "register its layers as attributes, without requires_grad_(False)"
            )
            raise LimnerError(f"player '{name}' of {description} has nothing to train; {remedy}")
        players[name] = Player(name, parameters, options)
    return players


def _is_of(name: str, parts: Iterable[str]) -> bool:
    """Return whether a weight with this full name is in one of the parts, e.g. "text.layers"."""
    return any(f".{part}." in f".{name}." for part in parts)


def _parts(names: Iterable[str]) -> list[str]:
    """Return the parts of weights' full names: single ones, and pairs of adjacent ones."""
    all_parts = set[str]()
    for name in names:
        parts = [part for part in name.split(".")[:-1] if not part.isdigit()]
        all_parts.update(parts, map(".".join, itertools.pairwise(parts)))
    return sorted(all_parts)
