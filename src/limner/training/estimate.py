"""What a recipe will cost in FLOPs, memory and time, measured on a few real steps beforehand."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from limner.data.buckets import check_sizes
from limner.data.dataset import Dataset
from limner.data.unpaired import check_pairs
from limner.runtime import processes
from limner.training import optimisers
from limner.training.loop import Loop
from limner.training.recipe import Recipe
from limner.training.run import open_stream

_TIMED_STEPS = 3  # at least


@dataclass(frozen=True)
class Estimate:
    """What training costs; `str` of it is a table for people.

    Args:
        parameters: of each player.
        frozen: parameters that are not trained.
        flops: operations for one image, forward and backward (a multiply-add is two).
        weights, gradients, moments, average: bytes.
        activations: bytes that the largest turn of one micro-batch keeps for its backward pass;
            with `train.checkpointing`, without those of the block that is computed again.
        images_per_second: measured.
        images: of the whole run.
        training: how it is trained, as it is typed.
    """

    parameters: dict[str, int]
    frozen: int
    flops: float
    weights: int
    gradients: int
    moments: int
    average: int
    activations: int
    images_per_second: float
    images: int
    training: str = ""

    @property
    def memory(self) -> int:
        """Bytes at the peak of a step."""
        return self.weights + self.gradients + self.moments + self.average + self.activations

    @property
    def seconds(self) -> float:
        """Of the whole run, without saving and painting samples."""
        return self.images / self.images_per_second

    def __str__(self) -> str:
        parts = ["weights", "gradients", "moments", "average", "activations"]
        memory = ", ".join(f"{part} {getattr(self, part) / 2**20:,.1f}" for part in parts)
        players = ", ".join(f"{name} {count:,}" for name, count in self.parameters.items())
        frozen = f", frozen {self.frozen:,}" if self.frozen else ""
        hours, rest = divmod(round(self.seconds), 3600)
        return "\n".join(
            (
                *([f"training     {self.training}"] if self.training else []),
                f"parameters   {players}{frozen}",
                f"computation  {self.flops / 1e9:,.3f} GFLOP an image, forward and backward",
                f"memory       {self.memory / 2**20:,.1f} MiB ({memory})",
                f"speed        {self.images_per_second:,.1f} images a second",
                f"time         {hours}:{rest // 60:02}:{rest % 60:02} for {self.images:,} images",
            )
        )


def dry_run(recipe: Recipe, *, device: str = "auto", dataset: Dataset | None = None) -> Estimate:
    """Take a few steps of a recipe, write nothing, and say what the whole run would cost: the same
    on every process that works on it.

    Args:
        recipe: what to train.
        device: where.
        dataset: in place of the recipe's source.

    Raises:
        LimnerError: whatever would be wrong with the run.
    """
    place = processes.device(device)
    processes.join(place)
    options = recipe.options()
    stream = open_stream(recipe, dataset)
    model = recipe.build(stream.dataset.spec)
    check_sizes(model, stream.dataset)
    check_pairs(model, stream.dataset)
    loop = Loop(model, stream.batch, replace(options, compile=False), place)
    loop.prepare()
    loop.advance()  # allocates the moments
    held = _Held()
    optimizers = [player.optimizer for player in loop.players.values()]
    idle = [each.register_step_pre_hook(_forget_gradients) for each in optimizers]
    with count_flops() as counter, held:
        loop.advance()
    for hook in idle:
        hook.remove()
    timed = max(_TIMED_STEPS, optimisers.period(options.optimizer))
    started = time.perf_counter()
    for _ in range(timed):
        loop.advance()
    took = torch.tensor([time.perf_counter() - started], device=place)
    seconds = float(processes.mean_(took))
    images = options.batch * model.batches_per_round
    trained = {name: player.parameters for name, player in loop.players.items()}
    all_trained = {id(p): p for own in trained.values() for p in own}
    total = sum(p.numel() for p in model.parameters())
    return Estimate(
        parameters={name: sum(p.numel() for p in own) for name, own in trained.items()},
        frozen=total - sum(p.numel() for p in all_trained.values()),
        flops=counter.get_total_flops() * processes.size() / images,
        weights=_bytes([*model.parameters(), *model.buffers()]),
        gradients=max(_bytes(own) for own in trained.values()),
        moments=_bytes([value for p in loop.players.values() for value in p.state().values()]),
        average=(1 + len(options.widths)) * _bytes(list(all_trained.values()))
        + _bytes(list(model.buffers())),
        activations=held.peak,
        images_per_second=timed * images / seconds,
        images=options.steps * images,
        training=" ".join(options.typed()),
    )


def _forget_gradients(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Leave an optimiser nothing to do, so that its products of matrices are not counted."""
    optimizer.zero_grad()


def count_flops() -> FlopCounterMode:
    """A context that counts operations.

    Torch's own count leaves out attention on CPUs, and takes the gradient of a grouped kernel for
    that of a whole one; both are put right here.
    """
    return FlopCounterMode(
        display=False,
        custom_mapping={
            torch.ops.aten.convolution_backward: _convolution_back,
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_back,
        },
    )


def _convolution_back(
    grad: Any, x: Any, weight: Any, *options: Any, out_shape: Any = None, **_: Any
) -> int:
    """As much as forward for each gradient that is wanted, the input's and the kernel's."""
    transposed, wanted = options[4], options[7]
    places = math.prod((x if transposed else grad)[2:])
    return 2 * x[0] * places * math.prod(weight) * (wanted[0] + wanted[1])


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_back(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


def _bytes(tensors: Sequence[Shaped[Tensor, "..."]]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


class _Kept:
    """A tensor that a graph keeps; it tells when the graph lets go of it."""

    def __init__(self, tensor: Shaped[Tensor, "..."], let_go: Callable[[], None]) -> None:
        self.tensor = tensor
        self._let_go = let_go

    def __del__(self) -> None:
        self._let_go()


class _Held(AbstractContextManager["_Held"]):
    """Counts the bytes that autograd keeps: each storage once, parameters not at all."""

    def __init__(self) -> None:
        self.peak = self._now = 0
        self._users: dict[int, int] = {}
        self._hooks = saved_tensors_hooks(self._pack, lambda kept: kept.tensor)

    def __enter__(self) -> "_Held":
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Shaped[Tensor, "..."]) -> _Kept:
        storage = tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if tensor.is_leaf and tensor.requires_grad:
            return _Kept(tensor, lambda: None)
        self._users[place] = self._users.get(place, 0) + 1
        if self._users[place] == 1:
            self._now += size
            self.peak = max(self.peak, self._now)
        return _Kept(tensor, lambda: self._released(place, size))

    def _released(self, place: int, size: int) -> None:
        self._users[place] -= 1
        if not self._users[place]:
            del self._users[place]
            self._now -= size
