"""Activation checkpointing: a block keeps its input, and computes the rest once more for its
gradient.

The blocks are the members of a network's lists and sequences of layers. Computed again, a block
draws the same random numbers and has the weights and buffers that it had, such as the vectors of
spectral norm; afterwards all is as if nothing had happened, such as the statistics of batch norm.
So gradients are equal to the last bit.

Reference: Chen, Xu, Zhang, Guestrin (2016). Training deep nets with sublinear memory cost.
arXiv:1604.06174.
"""

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from limner.contract.errors import LimnerError
from limner.contract.model import Learner
from limner.contract.noise import Noise

_Lists = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


class Checkpointing:
    """The blocks of a model, which from now on keep their inputs alone.

    Args:
        model: in training.

    Raises:
        LimnerError: it has no blocks.
    """

    def __init__(self, model: Learner) -> None:
        self._model = model
        self._blocks = [_Recomputed(block) for block in blocks(model)]
        if not self._blocks:
            raise _has_none(model)

    def check(self) -> None:
        """See that blocks were used as such.

        Raises:
            LimnerError: none was: the model calls something else of theirs than `forward`.
        """
        if not any(block.used for block in self._blocks):
            raise _has_none(self._model)


def _has_none(model: Learner) -> LimnerError:
    return LimnerError(
        f"model '{model.name}' has no blocks that can be computed twice; leave "
        "train.checkpointing out, and give train.micro_batches=2 to save memory"
    )


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The members of a network's lists that have layers of their own, none within another."""
    for part in network.children():
        yield from _members(part) if isinstance(part, _Lists) else blocks(part)


def _members(layers: nn.Module) -> Iterator[nn.Module]:
    for member in layers.children():
        if not isinstance(member, _Lists):
            if any(True for _ in member.children()):
                yield member
        elif inner := [*_members(member)]:
            yield from inner
        elif isinstance(member, nn.Sequential) and len(member) > 1:
            yield member


class _Recomputed:
    """A block's forward pass, in place of its own.

    Copied with the block, it is that of the copy.
    """

    def __init__(self, block: nn.Module) -> None:
        self.block, self.used = block, False
        block.forward = self

    def __call__(self, *args: Any, **named: Any) -> Any:
        forward = type(self.block).forward
        if not torch.is_grad_enabled():
            return forward(self.block, *args, **named)
        self.used = True
        then = _Then(self.block, [*args, *named.values()])
        return checkpoint(
            forward,
            self.block,
            *args,
            use_reentrant=False,
            context_fn=lambda: (contextlib.nullcontext(), then),
            **named,
        )


class _Then:
    """A block as it was at its forward pass, for as long as it is computed again.

    Args:
        block: before its forward pass: whatever weights it works with, and its buffers.
        given: its arguments, of which noise goes on with each draw.
    """

    def __init__(self, block: nn.Module, given: Sequence[Any]) -> None:
        homes: list[dict[str, Any]] = [
            home for m in block.modules() for home in (m._parameters, m._buffers)
        ]
        self._tensors = [(home, name, home[name]) for home in homes for name in home]
        buffers = block.buffers() if block.training else ()
        self._values = [(buffer, buffer.clone()) for buffer in buffers]
        self._draws = [(noise, noise.draws) for noise in given if isinstance(noise, Noise)]
        self._undo = ExitStack()

    def __enter__(self) -> None:
        for home, name, tensor in self._tensors:
            self._undo.callback(home.__setitem__, name, home[name])
            home[name] = tensor
        for buffer, value in self._values:
            self._undo.callback(_set, buffer, buffer.clone())
            _set(buffer, value)
        for noise, draws in self._draws:
            self._undo.callback(setattr, noise, "draws", noise.draws)
            noise.draws = draws

    def __exit__(self, *error: object) -> None:
        self._undo.close()


def _set(buffer: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        buffer.copy_(value)
