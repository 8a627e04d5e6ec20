"""Fully sharded data parallelism: between turns, each process keeps its share of every weight.

    for each turn:   gather the weights, compute the loss, let go of them
                     gather the weights, compute gradients, sum them into shares, let go of both
    then:            each process updates its shares, and those of the moments and averages

Rajbhandari et al. (2019). ZeRO: memory optimizations toward training trillion parameter models.
arXiv:1910.02054; torch's `fully_shard`. A model's turns are generators, so what is sharded is a
module whose forward pass is one turn. A weight that is used on some processes only gets a gradient
of zero on the others, for all must exchange the same ones.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor, nn

from limner.contract.checkpoint import current_name
from limner.contract.errors import LimnerError
from limner.contract.model import Learner, Turn
from limner.runtime import processes


class Rows(Protocol):
    """A tensor that is not in memory."""

    def rows(self, start: int, stop: int) -> Tensor:
        """The rows from start to stop."""
        ...

    def whole(self) -> Tensor:
        """All rows."""
        ...


class Sharding:
    """A model whose weights are shared out among the processes, from now on.

    Args:
        model: on its device. Its kernels become contiguous; weights of a single number, or in
            float64, stay whole on each process.
    """

    def __init__(self, model: Learner) -> None:
        from torch.distributed.fsdp import fully_shard

        self._model = model
        for p in model.parameters():
            p.data = p.data.contiguous()
        kept = {p for p in model.parameters() if not p.ndim or p.dtype != torch.float32}
        turns = _Turns(model)
        self._turns: Any = fully_shard(turns, reshard_after_forward=True, ignored_params=kept)

    def next_turn(self, game: Iterator[Turn]) -> Turn | None:
        """A game's next turn, computed with all weights at hand; None at its end.

        Raises:
            LimnerError: the model changes its own weights, which would be lost.
        """
        return self._turns(game)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """All weights at hand, which may be changed in place, alike on each process."""
        self._turns.unshard()
        yield
        values = {name: p.detach().clone() for name, p in self._model.named_parameters()}
        self._turns.reshard()
        with torch.no_grad():
            for name, p in self._model.named_parameters():
                p.copy_(shared_out(values[name], p))


class _Turns(nn.Module):
    """A forward pass is one turn of a game."""

    def __init__(self, model: Learner) -> None:
        super().__init__()
        self.model = model

    def forward(self, game: Iterator[Turn]) -> Turn | None:
        before = [p._version for p in self.model.parameters()]
        turn = next(game, None)
        if before != [p._version for p in self.model.parameters()]:
            raise LimnerError(
                f"model {self.model.name} changes its weights itself, which train.parallel=fsdp "
                "would lose; give train.parallel=ddp"
            )
        if turn is None:
            return None
        weights = [p for p in self.model.parameters() if p.requires_grad]
        leaves = _leaves(turn.loss)
        used = torch.tensor([float(id(p) in leaves) for p in weights], device=turn.loss.device)
        elsewhere = processes.sum_(used.clone()) > used
        idle = [
            p.sum()
            for p, other in zip(weights, elsewhere.tolist())
            if other and id(p) not in leaves
        ]
        return turn._replace(loss=turn.loss + 0 * sum(idle))


def _leaves(loss: Tensor) -> set[int]:
    """The ids of all tensors whose gradient a backward pass accumulates."""
    ahead: list[Any] = [loss.grad_fn]
    seen, found = set[Any](), set[int]()
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        ahead += [following for following, _ in node.next_functions]
    return found


def sharded(model: Learner, parallel: str, optimizer: str) -> Sharding | None:
    """A model's weights shared out, where that is asked for and there is another process.

    Raises:
        LimnerError: an optimiser that needs whole weights.
    """
    if parallel == "ddp" or processes.size() == 1:
        return None
    if optimizer == "muon":
        raise LimnerError(
            "train.optimizer=muon needs whole matrices, which train.parallel=fsdp has not; give "
            "train.optimizer=adamw"
        )
    return Sharding(model)


def whole(tensor: Tensor) -> Tensor:
    """A copy of a tensor with all of its shares, to be asked for on every process."""
    return tensor.full_tensor() if is_share(tensor) else tensor.detach().clone()


def own_share(tensor: Tensor) -> Tensor:
    """A copy of what this process has of a tensor, which stays a share if it is one."""
    return tensor.detach().clone()


def first_row(share: Any) -> int:
    """The number of a share's first row in the whole tensor."""
    rows = -(-share.shape[0] // share.device_mesh.size())
    return min(rows * share.device_mesh.get_local_rank(), share.shape[0])


def shared_out(tensor: Tensor | Rows, like: Tensor | None) -> Tensor:
    """This process's share of a tensor that is the same on every process, if `like` is one; of one
    that lies in files, only the rows that are needed are read.
    """
    if not is_share(like):
        return tensor if isinstance(tensor, Tensor) else tensor.whole()
    from torch.distributed.tensor import DTensor, distribute_tensor

    mesh, placements = like.device_mesh, like.placements
    if isinstance(tensor, Tensor):
        there = tensor.to(like.device, like.dtype)
        return distribute_tensor(there, mesh, placements, src_data_rank=None)
    first = first_row(like)
    rows = tensor.rows(first, first + len(like.to_local())).to(like.device, like.dtype)
    shape = {"shape": like.shape, "stride": like.stride()}
    return DTensor.from_local(rows, mesh, placements, run_check=False, **shape)


def all_shared_out(
    tensors: Mapping[str, Tensor | Rows], like: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The same of many, by their names or earlier ones; those without a counterpart are whole."""
    return {
        name: shared_out(tensor, like.get(current_name(name, like)))
        for name, tensor in tensors.items()
    }


def shares(tensors: list[Tensor]) -> list[Tensor]:
    """What this process has of each tensor; changing it changes the tensor."""
    return [t.to_local() if is_share(t) else t for t in tensors]


def is_share(tensor: Any) -> TypeGuard[Any]:
    """Whether a tensor is one of torch's distributed ones, whose module takes long to import."""
    return hasattr(tensor, "full_tensor")


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The norm of all gradients, of which some may be shares."""
    parts = [[g for g in gradients if is_share(g) == shared] for shared in (True, False)]
    norms = [whole(nn.utils.get_total_norm(part)) for part in parts if part]
    return norms[0] if len(norms) == 1 else torch.stack(norms).norm()


def in_groups(parameters: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    """Weights as optimisers take them: those that are shares apart from the rest."""
    parts = [[p for p in parameters if is_share(p) == shared] for shared in (True, False)]
    return [{"params": part} for part in parts if part]


def gathered_copy(model: Learner) -> Learner:
    """A copy of a model with all weights here, to be asked for on every process."""
    found, known = copy.deepcopy(model), dict[int, nn.Parameter]()
    for module in found.modules():
        for name, p in [*module.named_parameters(recurse=False, remove_duplicate=False)]:
            if id(p) not in known:
                known[id(p)] = nn.Parameter(whole(p), requires_grad=p.requires_grad)
            module.register_parameter(name, known[id(p)])
    return found
