"""Activation checkpointing: a block keeps only its input, and is computed again for its gradient.

The blocks are the members of a network's lists and sequences of layers. When a block is computed
again, it draws the same random numbers, and has the same weights and buffers as before, such as the
vectors of spectral norm. Afterwards all buffers are restored, such as the statistics of batch norm.
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
    """Activation checkpointing of a model's blocks, which from now on keep only their inputs.

    Args:
        model: model to train.

    Raises:
        LimnerError: it has no blocks.
    """

    def __init__(self, model: Learner) -> None:
        self._model = model
        self._blocks = [_RecomputingForward(block) for block in blocks(model)]
        if not self._blocks:
            raise _has_none(model)

    def check(self) -> None:
        """Check that the blocks were used through `forward`.

        Raises:
            LimnerError: none was; the model calls other methods of its blocks.
        """
        if not any(block.was_called for block in self._blocks):
            raise _has_none(self._model)


def _has_none(model: Learner) -> LimnerError:
    return LimnerError(
        f"model '{model.name}' has no blocks that can be computed twice; leave "
        "train.checkpointing out, and give train.micro_batches=2 to save memory"
    )


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the members of a network's lists that contain layers, none within another."""
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


class _RecomputingForward:
    """Forward pass that replaces a block's own; a copy of the block gets a copy of this one."""

    def __init__(self, block: nn.Module) -> None:
        self.block, self.was_called = block, False
        block.forward = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        forward = type(self.block).forward
        if not torch.is_grad_enabled():
            return forward(self.block, *args, **kwargs)
        self.was_called = True
        state = _ForwardState(self.block, [*args, *kwargs.values()])
        return checkpoint(
            forward,
            self.block,
            *args,
            use_reentrant=False,
            context_fn=lambda: (contextlib.nullcontext(), state),
            **kwargs,
        )


class _ForwardState:
    """Context manager that restores a block's state of its forward pass while it is recomputed.

    Args:
        block: block before its forward pass, with the weights in use and its buffers.
        arguments: those of the forward pass; a `Noise` among them is reset to the same draw.
    """

    def __init__(self, block: nn.Module, arguments: Sequence[Any]) -> None:
        tables: list[dict[str, Any]] = [
            table for m in block.modules() for table in (m._parameters, m._buffers)
        ]
        self._tensors = [(table, name, table[name]) for table in tables for name in table]
        buffers = block.buffers() if block.training else ()
        self._values = [(buffer, buffer.clone()) for buffer in buffers]
        self._draws = [(noise, noise.draws) for noise in arguments if isinstance(noise, Noise)]
        self._undo = ExitStack()

    def __enter__(self) -> None:
        for table, name, tensor in self._tensors:
            self._undo.callback(table.__setitem__, name, table[name])
            table[name] = tensor
        for buffer, value in self._values:
            self._undo.callback(_overwrite, buffer, buffer.clone())
            _overwrite(buffer, value)
        for noise, draws in self._draws:
            self._undo.callback(setattr, noise, "draws", noise.draws)
            noise.draws = draws

    def __exit__(self, *error: object) -> None:
        self._undo.close()


def _overwrite(buffer: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        buffer.copy_(value)
