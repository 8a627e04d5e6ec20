"""Checks of `turns`, which must yield losses that a player can learn from, and of `remarks`."""

import itertools
from collections.abc import Generator, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import Batch
from limner.contract.model import Learner, Turn
from limner.contract.noise import Noise

_RUN_COLUMNS = ("step", "images", "images_per_second")
_PLAYER_COLUMNS = ("loss", "norm", "lr")
"""Names in a run's log that the training loop uses."""


def checked_turns(model: Learner, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
    """Yield the turns of a training step, after checking each.

    Args:
        model, batch, step, noise: as for `Learner.turns`.

    Raises:
        LimnerError: there is no turn, or one is not a `Turn`, has a loss without a gradient, or a
            log that is not a number or has a name of the training loop's, or is yielded within a
            `with`.
    """
    name = type(model).__name__
    game: object = model.turns(batch, step, noise)
    if not isinstance(game, Iterator):
        kind = type(game).__name__
        raise LimnerError(f"turns of {name} returns {kind}; write yield Turn(loss)")
    for number in itertools.count():
        modes = _modes(model)
        turn: object = next(game, None)
        if _modes(model) != modes:
            if isinstance(game, Generator):
                game.close()  # so that the `with` ends
            raise LimnerError(
                f"turns of {name} yields within a `with`, which then also applies to the "
                "training loop; compute the loss in it, and yield after it"
            )
        if turn is None:
            if number == 0:
                raise LimnerError(
                    f"turns of {name} yields nothing in step {step}; write yield Turn(loss)"
                )
            return
        if not isinstance(turn, Turn):
            raise LimnerError(
                f"turns of {name} yields {type(turn).__name__}; write yield Turn(loss)"
            )
        _check_turn(turn, f"turns of {name}")
        yield turn


def checked_remarks(model: Learner, rows: Sequence[Mapping[str, float | None]]) -> Sequence[str]:
    """Return a model's remarks on its log, after a check.

    Args:
        model, rows: as for `Learner.remarks`.

    Raises:
        LimnerError: they are not a list of texts.
    """
    remarks: object = model.remarks(rows)
    name, remedy = f"remarks of {type(model).__name__}", "return a list of texts"
    if not isinstance(remarks, list | tuple):
        raise LimnerError(f"{name} returns {type(remarks).__name__}; {remedy}, which may be empty")
    texts: list[str] = [each for each in remarks if isinstance(each, str)]
    if len(texts) < len(remarks):
        raise LimnerError(f"{name} returns a list with other things than texts; {remedy}")
    return texts


def _modes(model: Learner) -> tuple[bool, bool]:
    """Return the modes that a `with` around a yield would change for the caller, too."""
    return torch.is_grad_enabled(), torch.is_autocast_enabled(model.device.type)


def _check_turn(turn: Turn, name: str) -> None:
    loss: object = turn.loss
    if not isinstance(loss, Tensor):
        kind = type(loss).__name__
        raise LimnerError(f"{name} yields {kind} for a loss; give a scalar tensor")
    if loss.numel() != 1:
        shape = " x ".join(map(str, loss.shape))
        raise LimnerError(f"{name} yields a loss of {shape} numbers; give one, as loss.mean()")
    if loss.is_complex():
        raise LimnerError(f"{name} yields a complex loss; give a real number, as loss.real")
    if torch.is_grad_enabled() and not loss.requires_grad:
        raise LimnerError(
            f"{name} yields a loss without a gradient; leave out detach, item and no_grad, and "
            "register layers as attributes or in a ModuleList"
        )
    _check_logs(turn, name)


def _check_logs(turn: Turn, name: str) -> None:
    logs: object = turn.logs
    if not isinstance(logs, Mapping):
        kind = type(logs).__name__
        raise LimnerError(f"{name} yields {kind} as logs; give a dictionary of scalar tensors")
    taken = {*_RUN_COLUMNS, *_PLAYER_COLUMNS, *(f"{turn.of}.{part}" for part in _PLAYER_COLUMNS)}
    for key, value in turn.logs.items():
        if key in taken:
            raise LimnerError(f"{name} logs '{key}', as the training loop does; rename it")
        number: object = value
        if not isinstance(number, Tensor) or number.numel() != 1:
            kind = "many numbers" if isinstance(number, Tensor) else type(number).__name__
            raise LimnerError(
                f"{name} logs {kind} as '{key}'; give a tensor of one number, as value.detach()"
            )
