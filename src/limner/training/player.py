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
from limner.training.sharding import in_groups, shared_out, whole
from limner.training.torch_errors import is_out_of_memory


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

    def take_step(self, lr: float, clip: float, norm: Tensor) -> None:
        """Update the weights by the gradients at hand, whose norm is known.

        Args:
            lr: the learning rate.
            clip: the largest norm; 0 does not clip.
            norm: of all gradients.

        Raises:
            LimnerError: memory ran out, as it may when the moments are made.
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
                f"out of memory where the weights of player '{self.name}' are updated, which a "
                "smaller batch does not change; try a smaller model"
            ) from None

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
            where, _, key = path.rpartition("/")
            if where.startswith(f"{self.name}/"):
                name = current_name(where.removeprefix(f"{self.name}/"), own)
                like = own[name] if value.shape == own[name].shape else value
                kept = torch.empty_like(like, dtype=value.dtype, device=own[name].device)
                self.optimizer.state[own[name]][key] = kept.detach().copy_(shared_out(value, kept))


def players_of(model: Learner, options: TrainOptions) -> dict[str, Player]:
    """Each player's trainable parameters by their full names, with an optimiser of its own."""
    names = {id(p): name for name, p in model.named_parameters()}
    parts, called = model.players(), f"model '{model.name or type(model).__name__}'"
    for part in options.frozen:
        if not any(_is_of(name, [part]) for name in names.values()):
            raise unknown("part", part, _parts(names.values()), "train.frozen")
    for name in options.players or {}:
        if name not in parts:
            raise unknown("player", name, parts, called)
    players = {}
    for name, part in parts.items():
        learnt = [p for p in part.parameters() if p.requires_grad]
        own = {names[id(p)]: p for p in learnt if not _is_of(names[id(p)], options.frozen)}
        if not own:
            frozen = ",".join(options.frozen)
            remedy = f"; leave something of it out of train.frozen={frozen}" if frozen else ""
            raise LimnerError(f"player '{name}' of {called} has nothing to train{remedy}")
        players[name] = Player(name, own, options)
    return players


def _is_of(name: str, parts: Iterable[str]) -> bool:
    """Whether a weight of this full name is of one of the parts, such as "text.layers"."""
    return any(f".{part}." in f".{name}." for part in parts)


def _parts(names: Iterable[str]) -> list[str]:
    """The parts that full names of weights have, one after another or two together."""
    found = set[str]()
    for name in names:
        parts = [part for part in name.split(".")[:-1] if not part.isdigit()]
        found.update(parts, map(".".join, itertools.pairwise(parts)))
    return sorted(found)
