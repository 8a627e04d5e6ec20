"""Estimate what a recipe costs in FLOPs, memory and time, from a few real training steps."""

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
from limner.data.two_domains import check_pairs
from limner.runtime import processes
from limner.training import optimisers
from limner.training.loop import Loop
from limner.training.recipe import Recipe
from limner.training.run import open_stream
from limner.training.sharding import local_shards, own_shard

_MIN_TIMED_STEPS = 3  # least number of steps


@dataclass(frozen=True)
class CostEstimate:
    """Estimated cost of a training run; `str` makes a table for people to read.

    Args:
        parameters: number of trained parameters of each player.
        frozen: number of parameters that are not trained.
        flops: operations for one image, forward and backward (a multiply-add counts as two).
        weights, gradients, moments, average: bytes of each, on one of several processes; weights
            and gradients count whole, as they are during a turn.
        activations: bytes that the largest turn of one micro-batch keeps for its backward pass;
            with `train.checkpointing`, without those of the block that is computed again.
        images_per_second: measured speed.
        images: number of images of the whole run.
        training: training options, as typed in a command.
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
        """Peak memory of a step, in bytes."""
        return self.weights + self.gradients + self.moments + self.average + self.activations

    @property
    def seconds(self) -> float:
        """Seconds of the whole run, without saving states and painting samples."""
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


def dry_run(
    recipe: Recipe, *, device: str = "auto", dataset: Dataset | None = None
) -> CostEstimate:
    """Take a few steps of a recipe, write nothing, and estimate the cost of the whole run.

    The estimate is the same on every process.

    Args:
        recipe: the recipe to estimate.
        device: device to train on.
        dataset: data set to use instead of the recipe's source.

    Raises:
        LimnerError: anything that would be wrong with the run.
    """
    torch_device = processes.device(device)
    processes.join(torch_device)
    options = recipe.options()
    stream = open_stream(recipe, dataset)
    model = recipe.build(stream.dataset.spec)
    check_sizes(model, stream.dataset)
    check_pairs(model, stream.dataset)
    loop = Loop(model, stream.batch, replace(options, compile=False), torch_device)
    loop.prepare()
    loop.advance()  # allocates the moments
    saved_bytes = _SavedBytes()
    optimizers = [player.optimizer for player in loop.players.values()]
    hooks = [optimizer.register_step_pre_hook(_forget_gradients) for optimizer in optimizers]
    with count_flops() as counter, saved_bytes:
        loop.advance()
    for hook in hooks:
        hook.remove()
    steps = max(_MIN_TIMED_STEPS, optimisers.period(options.optimizer))
    start = time.perf_counter()
    for _ in range(steps):
        loop.advance()
    elapsed = torch.tensor([time.perf_counter() - start], device=torch_device)
    seconds = float(processes.mean_(elapsed))
    images = options.batch * model.batches_per_round
    trained = {name: player.parameters for name, player in loop.players.items()}
    all_trained = {id(p): p for parameters in trained.values() for p in parameters}
    total = sum(p.numel() for p in model.parameters())
    moments = [value for p in loop.players.values() for value in p.state(own_shard).values()]
    return CostEstimate(
        parameters={
            name: sum(p.numel() for p in parameters) for name, parameters in trained.items()
        },
        frozen=total - sum(p.numel() for p in all_trained.values()),
        flops=counter.get_total_flops() * processes.size() / images,
        weights=_bytes([*model.parameters(), *model.buffers()]),
        gradients=max(_bytes(parameters) for parameters in trained.values()),
        moments=_bytes(local_shards(moments)),
        average=(1 + len(options.widths)) * _bytes(local_shards([*all_trained.values()]))
        + _bytes(list(model.buffers())),
        activations=saved_bytes.peak,
        images_per_second=steps * images / seconds,
        images=options.steps * images,
        training=" ".join(options.assignments()),
    )


def _forget_gradients(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Remove all gradients before the optimiser's step, so that its FLOPs are not counted."""
    optimizer.zero_grad()


def count_flops() -> FlopCounterMode:
    """Return a context manager that counts floating-point operations.

    Torch's own counter leaves out attention on CPUs, and counts the gradient of a grouped
    convolution as if it were not grouped; both are corrected here.
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
    """Return the FLOPs of a convolution's gradients: for each, as many as its forward pass."""
    transposed, output_mask = options[4], options[7]
    positions = math.prod((x if transposed else grad)[2:])
    return 2 * x[0] * positions * math.prod(weight) * (output_mask[0] + output_mask[1])


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_back(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


def _bytes(tensors: Sequence[Shaped[Tensor, "..."]]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


class _SavedTensor:
    """A tensor that a graph keeps; it calls a function when the graph releases it."""

    def __init__(self, tensor: Shaped[Tensor, "..."], on_release: Callable[[], None]) -> None:
        self.tensor = tensor
        self._on_release = on_release

    def __del__(self) -> None:
        self._on_release()


class _SavedBytes(AbstractContextManager["_SavedBytes"]):
    """Context manager that counts the bytes autograd keeps: each storage once, no parameters."""

    def __init__(self) -> None:
        self.peak = self._now = 0
        self._users: dict[int, int] = {}
        self._hooks = saved_tensors_hooks(self._pack, lambda saved: saved.tensor)

    def __enter__(self) -> "_SavedBytes":
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Shaped[Tensor, "..."]) -> _SavedTensor:
        storage = tensor.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        if tensor.is_leaf and tensor.requires_grad:
            return _SavedTensor(tensor, lambda: None)
        self._users[address] = self._users.get(address, 0) + 1
        if self._users[address] == 1:
            self._now += size
            self.peak = max(self.peak, self._now)
        return _SavedTensor(tensor, lambda: self._release(address, size))

    def _release(self, address: int, size: int) -> None:
        self._users[address] -= 1
        if not self._users[address]:
            del self._users[address]
            self._now -= size
