"""Fully sharded data parallelism: between turns, each process keeps its shard of every weight.

    for each turn:   gather the weights, compute the loss, free the weights
                     gather the weights, compute gradients, sum them into shards, free both
    then:            each process updates its shards of the weights, moments and averages

By blocks, the same is done for each block of layers separately, while it computes, so that no
device has to hold all weights at the same time.

Rajbhandari et al. (2019). ZeRO: memory optimizations toward training trillion parameter models.
arXiv:1910.02054; torch's `fully_shard`. A model's turns are generators, so the sharded module is
one whose forward pass is a single turn. All processes must exchange gradients of the same weights,
so a weight that only some processes use gets a zero gradient on the others. By blocks, all
processes must use the same weights of each block.
"""

import copy
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor, nn

from limner.contract.checkpoint import current_name
from limner.contract.errors import LimnerError
from limner.contract.model import Learner, Turn
from limner.runtime import processes
from limner.training.checkpointing import blocks


class Rows(Protocol):
    """A tensor in files, not in memory."""

    def rows(self, start: int, stop: int) -> Tensor:
        """Read the rows from start to stop."""
        ...

    def whole(self) -> Tensor:
        """Read all rows."""
        ...


class Sharding:
    """Sharding of a model's weights among the processes, which changes the model in place.

    Args:
        model: model on any device; it is moved to `device`. Its kernels become contiguous. Weights
            of a single number, or in float64, stay whole on each process.
        device: device to train on.
        by_blocks: whether to gather each block of layers separately.
    """

    def __init__(self, model: Learner, device: torch.device, by_blocks: bool) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        self._model = model
        self._place = torch.device("cpu") if by_blocks else device
        self._skeleton = copy.deepcopy(model, {id(p): _nowhere(p) for p in model.parameters()})
        for p in model.parameters():
            p.data = p.data.contiguous()
        fsdp: dict[str, Any] = {
            "mesh": init_device_mesh(device.type, (processes.size(),)),
            "reshard_after_forward": True,
            "ignored_params": {
                p for p in model.parameters() if not p.ndim or p.dtype != torch.float32
            },
        }
        turns = _Turns(model, by_blocks)
        for number, block in enumerate(_own_blocks(model) if by_blocks else ()):
            check = _WeightCheck(model)
            block.register_forward_pre_hook(check.notice)
            block.register_forward_hook(check.check)
            fully_shard(block, **fsdp)  # its hooks run outside these two, and inside the next one
            hook = partial(turns.notice, number)
            block.register_forward_pre_hook(hook, prepend=True)
        self._turns: Any = fully_shard(turns, **fsdp)
        model.to(device)

    def next_turn(self, game: Iterator[Turn]) -> Turn | None:
        """Gather the weights, and return a game's next turn, or None at its end.

        Raises:
            LimnerError: the model changes its own weights, which would be lost; it uses other
                blocks here than on other processes; or it uses a block's weights outside the block.
        """
        with self._weights_at_hand():
            return self._turns(game)

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of a turn's loss.

        Raises:
            LimnerError: see `next_turn`.
        """
        with self._weights_at_hand():
            loss.backward()

    @contextmanager
    def _weights_at_hand(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if _MIXED_TENSORS_MESSAGE not in str(error):
                raise
            raise LimnerError(
                f"model {self._model.name} uses weights of its blocks of layers outside these "
                "blocks, so they cannot be gathered one by one; give train.parallel=fsdp"
            ) from None

    def sharded_copy(self, shared: Mapping[int, nn.Parameter]) -> Learner:
        """Return a copy with this process's shards, which therefore cannot compute.

        Args:
            shared: weights that the copy shares with the model, by their ids.
        """
        return self._copy_with(
            lambda p: shared[id(p)] if id(p) in shared else nn.Parameter(own_shard(p))
        )

    def whole_model(self) -> Learner:
        """Return a copy with all weights, as `whole_copy`; to be called on every process."""
        device = self._place
        return self._copy_with(lambda p: nn.Parameter(whole(p).to(device))).to(device)

    def take(self, values: Learner) -> None:
        """Take over the weights and buffers of a model that is the same on all processes."""
        with torch.no_grad():
            for p, value in zip(self._model.parameters(), values.parameters()):
                p.copy_(shard_like(value.detach(), p))
            for buffer, value in zip(self._model.buffers(), values.buffers()):
                buffer.copy_(value)

    def whole_copy(self, model: Learner) -> Learner:
        """Return a copy of a sharded model with all weights; to be called on every process.

        By blocks, the copy is in main memory, because a device may be too small for it.
        """
        return gathered_copy(model, self._place)

    def _copy_with(self, weight: Callable[[nn.Parameter], nn.Parameter]) -> Learner:
        clone = copy.deepcopy(self._skeleton)
        old, new = clone.parameters(), self._model.parameters()
        with_weights(clone, {id(b): weight(p) for b, p in zip(old, new, strict=True)})
        for buffer, value in zip(clone.buffers(), self._model.buffers(), strict=True):
            buffer.data = value.detach().clone()
        return clone


_MIXED_TENSORS_MESSAGE = "mixed torch.Tensor and DTensor"


def _nowhere(p: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(p.detach().to("meta"), requires_grad=p.requires_grad)


def _own_blocks(model: Learner) -> list[nn.Module]:
    """Return the blocks of a model that share no weight with layers outside of them."""
    uses = _uses(model)
    pairs = [(block, _uses(block)) for block in blocks(model)]
    return [
        block for block, counts in pairs if counts and all(uses[p] == n for p, n in counts.items())
    ]


def _uses(module: nn.Module) -> Counter[int]:
    """Count how often each weight, by its id, occurs in a module."""
    modules = (m for _, m in module.named_modules(remove_duplicate=False))
    return Counter(id(p) for m in modules for p in m._parameters.values() if p is not None)


class _WeightCheck:
    """Hooks that check that a block does not change its gathered weights."""

    def __init__(self, model: Learner) -> None:
        self._model = model
        self._before: list[int] = []

    def notice(self, block: nn.Module, args: object) -> None:
        """Remember the weights' versions, before the block computes."""
        self._before = [p._version for p in block.parameters()]

    def check(self, block: nn.Module, args: object, output: object) -> None:
        """Compare the weights' versions, after the block has computed.

        Raises:
            LimnerError: the weights changed, which would be lost.
        """
        if self._before != [p._version for p in block.parameters()]:
            raise _changes_itself(self._model)


def _changes_itself(model: Learner) -> LimnerError:
    return LimnerError(
        f"model {model.name} changes its weights itself, and sharding would lose the changes; give "
        "train.parallel=ddp"
    )


class _Turns(nn.Module):
    """Module whose forward pass is one turn of a game.

    Args:
        model: model that plays the game.
        by_blocks: whether its blocks are gathered separately. All processes must then gather the
            same blocks; this is checked before each block in the first turn, and after each later
            turn.
    """

    def __init__(self, model: Learner, by_blocks: bool = False) -> None:
        super().__init__()
        self.model, self._by_blocks, self._first = model, by_blocks, True
        self._gathered_blocks: list[int] = []

    def notice(self, number: int, block: nn.Module, args: object) -> None:
        """Record a block, before its weights are gathered.

        Raises:
            LimnerError: another process gathers another block.
        """
        self._gathered_blocks.append(number)
        if self._first:
            self._all_alike(number)

    def _all_alike(self, number: int) -> None:
        if not processes.same(number, self.model.device):
            raise LimnerError(
                f"model {self.model.name} uses other blocks on one process than on another, and "
                "all processes must gather the same ones; give train.parallel=fsdp"
            )

    def forward(self, game: Iterator[Turn]) -> Turn | None:
        versions = [p._version for p in self.model.parameters()]
        self._gathered_blocks.clear()
        turn = next(game, None)
        if self._by_blocks:
            self._all_alike(-1 - zlib.crc32(repr(self._gathered_blocks).encode()))
            self._first = False
        if versions != [p._version for p in self.model.parameters()]:
            raise _changes_itself(self.model)
        if turn is None:
            return None
        weights = [p for p in self.model.parameters() if p.requires_grad]
        leaves = _leaves(turn.loss)
        is_used = torch.tensor([float(id(p) in leaves) for p in weights], device=turn.loss.device)
        is_used_elsewhere = processes.sum_(is_used.clone()) > is_used
        terms = [
            p.sum()
            for p, other in zip(weights, is_used_elsewhere.tolist())
            if other and id(p) not in leaves
        ]
        return turn._replace(loss=turn.loss + 0 * sum(terms))


def _leaves(loss: Tensor) -> set[int]:
    """Return the ids of all tensors whose gradient a backward pass accumulates."""
    stack: list[Any] = [loss.grad_fn]
    seen, ids = set[Any](), set[int]()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            ids.add(id(node.variable))
        stack += [next_node for next_node, _ in node.next_functions]
    return ids


def shard(model: Learner, parallel: str, optimizer: str, device: torch.device) -> Sharding | None:
    """Shard a model's weights if `parallel` requires it and there is more than one process.

    Raises:
        LimnerError: an optimiser that needs whole weights; or, by blocks, a model without blocks or
            with several players, whose penalties differentiate gradients.
    """
    if parallel == "ddp" or processes.size() == 1:
        return None
    if optimizer in ("muon", "soap"):
        raise LimnerError(
            f"train.optimizer={optimizer} needs whole matrices, and train.parallel={parallel} "
            "shards them; give train.parallel=ddp, or start a run with train.optimizer=adamw"
        )
    by_blocks = parallel == "fsdp-blocks"
    if by_blocks and (len(model.players()) > 1 or not _own_blocks(model)):
        reason = "several players" if len(model.players()) > 1 else "no blocks of layers"
        raise LimnerError(
            f"model {model.name} has {reason}, and train.parallel=fsdp-blocks is for models with "
            "one player and with blocks; give train.parallel=fsdp"
        )
    return Sharding(model, device, by_blocks)


def whole(tensor: Tensor) -> Tensor:
    """Return a copy of a tensor with all of its shards; to be called on every process."""
    return tensor.full_tensor() if is_shard(tensor) else tensor.detach().clone()


def own_shard(tensor: Tensor) -> Tensor:
    """Return a copy of this process's part of a tensor; a shard stays a shard."""
    return tensor.detach().clone()


def first_row(shard: Any) -> int:
    """Return the number of a shard's first row in the whole tensor."""
    rows = -(-shard.shape[0] // shard.device_mesh.size())
    return min(rows * shard.device_mesh.get_local_rank(), shard.shape[0])


def shard_like(tensor: Tensor | Rows, like: Tensor | None) -> Tensor:
    """Return this process's shard of a tensor if `like` is a shard, else the whole tensor.

    The tensor is the same on every process. Of a tensor in files, only the rows needed are read.
    """
    if not is_shard(like):
        return tensor if isinstance(tensor, Tensor) else tensor.whole()
    from torch.distributed.tensor import DTensor, distribute_tensor

    mesh, placements = like.device_mesh, like.placements
    if isinstance(tensor, Tensor):
        values = tensor.to(like.device, like.dtype)
        return distribute_tensor(values, mesh, placements, src_data_rank=None)
    first = first_row(like)
    rows = tensor.rows(first, first + len(like.to_local())).to(like.device, like.dtype)
    shape = {"shape": like.shape, "stride": like.stride()}
    return DTensor.from_local(rows, mesh, placements, run_check=False, **shape)


def shard_all_like(
    tensors: Mapping[str, Tensor | Rows], like: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Apply `shard_like` to named tensors; those without a counterpart in `like` stay whole.

    Counterparts are found by their current names or by earlier ones.
    """
    return {
        name: shard_like(tensor, like.get(current_name(name, like)))
        for name, tensor in tensors.items()
    }


def local_shards(tensors: list[Tensor]) -> list[Tensor]:
    """Return views of this process's part of each tensor; changing one changes the tensor."""
    return [t.to_local() if is_shard(t) else t for t in tensors]


def is_shard(tensor: Any) -> TypeGuard[Any]:
    """Return whether a tensor is a `DTensor`, without torch's module, which is slow to import."""
    return hasattr(tensor, "full_tensor")


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the norm of all gradients; some of them may be shards."""
    parts = [[g for g in gradients if is_shard(g) == shared] for shared in (True, False)]
    norms = [whole(nn.utils.get_total_norm(part)) for part in parts if part]
    return norms[0] if len(norms) == 1 else torch.stack(norms).norm()


def in_groups(parameters: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    """Return weights as an optimiser's parameter groups: shards in one, the rest in another."""
    parts = [[p for p in parameters if is_shard(p) == shared] for shared in (True, False)]
    return [{"params": part} for part in parts if part]


def gathered_copy(model: Learner, device: str | torch.device) -> Learner:
    """Return a copy of a model with all weights on a device; to be called on every process."""
    clone = copy.deepcopy(model)
    weights = {
        id(p): nn.Parameter(whole(p).to(device), requires_grad=p.requires_grad)
        for p in clone.parameters()
    }
    with_weights(clone, weights)
    return clone.to(device)


def with_weights(model: Learner, weights: Mapping[int, nn.Parameter]) -> None:
    """Replace a model's weights, given by the ids of the present ones; shared ones stay shared."""
    for module in model.modules():
        for name, p in [*module.named_parameters(recurse=False, remove_duplicate=False)]:
            module.register_parameter(name, weights[id(p)])
