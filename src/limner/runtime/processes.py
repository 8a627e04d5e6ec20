"""Many processes as one: the parts of torch.distributed that the training loop needs.

`torchrun --nproc-per-node N ...` sets RANK, WORLD_SIZE and LOCAL_RANK; without them every function
here is the identity. Processes communicate with gloo on CPUs and with NCCL on GPUs.
"""

import atexit
import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as torch_dist
from jaxtyping import Shaped
from torch import Tensor

from limner.contract.devices import find_device
from limner.contract.errors import LimnerError


def device(name: str = "auto") -> torch.device:
    """Return the device of this process.

    Args:
        name: "auto" for a GPU if there is one, or torch's name for a device ("cpu", "cuda:1").

    Raises:
        LimnerError: it is another kind of device, or this machine has no such device.
    """
    torch_device = find_device(name)
    if torch_device.type == "cuda" and torch_device.index is None:
        return find_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    return torch_device


def join(device: torch.device) -> None:
    """Join the processes that torchrun started, until this process exits.

    The group is joined only once: torchrun's store keeps the addresses of a group that was left,
    and a process that joins a second group sometimes waits for them forever.

    Raises:
        LimnerError: torchrun restarted the processes with a store that it used before.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or torch_dist.is_initialized():
        return
    if has_restarted() and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise LimnerError(
            "torchrun restarts with the addresses of lost processes; type "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before it; now type: limner resume RUN"
        )
    import torch.distributed.fsdp  # if imported later, its functions' defaults would keep the group

    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch_dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    atexit.register(leave)


def meet(device: torch.device, folder: Path, begun: bool) -> bool:
    """Join, check that a folder is the same for all processes, and return whether any was
    restarted.

    Args:
        device: the device of this process.
        folder: the folder that all processes must share.
        begun: whether it already has its contents.

    Returns:
        whether any torchrun has restarted; each one knows only of the processes that it lost
        itself.

    Raises:
        LimnerError: the folder is not the same on all machines; or see `join`.
    """
    join(device)
    if not same(int(begun), device):
        raise LimnerError(
            f"{folder} is not the same folder on all machines; give one on a disk that all of "
            "them share"
        )
    return anyone(has_restarted(), device)


def leave() -> None:
    """Leave the group; its threads end with the last reference to it.

    They must end before Python does: a thread that frees a tensor later kills the process.
    """
    if torch_dist.is_initialized():
        torch_dist.destroy_process_group()
        time.sleep(0.1)  # caches of sharded tensors keep the group; let its threads become idle


def size() -> int:
    """Return the number of processes."""
    return torch_dist.get_world_size() if torch_dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return torch_dist.get_rank() if torch_dist.is_initialized() else 0


def has_restarted() -> bool:
    """Return whether torchrun restarted its processes on this machine after it lost one of them.

    It does not know of processes that another machine lost.
    """
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def may_restart() -> bool:
    """Return whether torchrun restarts these processes when it loses one."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


def first() -> bool:
    """Return whether this is the process that writes files and messages."""
    return rank() == 0


def mean_(flat: Shaped[Tensor, "n"]) -> Shaped[Tensor, "n"]:
    """Average over all processes, in place; the result has the same bits on each of them."""
    if size() > 1:
        torch_dist.all_reduce(flat)
        flat /= size()
    return flat


def mean_of_known(flat: Shaped[Tensor, "n"]) -> Shaped[Tensor, "n"]:
    """Return the mean of each number over the processes on which it is not NaN."""
    known = ~flat.isnan()
    sums = sum_(torch.cat([flat.masked_fill(~known, 0), known.to(flat)]))
    total, count = sums.chunk(2)
    return total / count


def anyone(flag: bool, device: torch.device) -> bool:
    """Return whether the flag is true on any process."""
    if size() == 1:
        return flag
    highest = torch.tensor([float(flag)], device=device)
    torch_dist.all_reduce(highest, torch_dist.ReduceOp.MAX)
    return bool(highest.item())


def same(number: int, device: torch.device) -> bool:
    """Return whether a whole number is the same on all processes."""
    if size() == 1:
        return True
    extremes = torch.tensor([number, -number], device=device)
    torch_dist.all_reduce(extremes, torch_dist.ReduceOp.MAX)
    return bool(extremes.sum() == 0)


def average_gradients_(
    parameters: Sequence[torch.nn.Parameter], loss: Shaped[Tensor, ""]
) -> Shaped[Tensor, ""]:
    """Average the gradients over all processes, in place, and return the mean loss, in one message.

    If a parameter has no gradient here, but has one on another process, it counts as zero (for
    example because text was dropped from every row here, but not there). If no process has one, it
    stays without.
    """
    if size() == 1:
        return loss
    has_gradient = [float(p.grad is not None) for p in parameters]
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    head = torch.tensor(has_gradient, dtype=torch.float32, device=loss.device)
    flat = torch.cat([head, loss.float().view(1), *(p.float().flatten() for p in parts)])
    mean_(flat)
    start = len(has_gradient) + 1
    for p, count in zip(parameters, flat[: len(has_gradient)].tolist()):
        if count:
            mean = flat[start : start + p.numel()].view_as(p)
            p.grad = torch.empty_like(p).copy_(
                mean
            )  # fused optimisers need the parameter's strides
        start += p.numel()
    return flat[len(has_gradient)]


def sum_(flat: Shaped[Tensor, "n"]) -> Shaped[Tensor, "n"]:
    """Sum over all processes, in place."""
    if size() > 1:
        torch_dist.all_reduce(flat)
    return flat


def average_buffers_(module: torch.nn.Module) -> None:
    """Make the saved buffers of a module equal on all processes, in one message.

    Numbers are averaged: batch norm's statistics and running means of losses depend on each
    process's share of a batch, and their mean on the whole batch. A flag that is true on one
    process becomes true on all. Buffers that are not saved with the model, such as pools of earlier
    pictures, stay different.
    """
    if size() == 1:
        return
    saved = module.state_dict(keep_vars=True)
    buffers = [
        buffer
        for name, buffer in module.named_buffers()
        if name in saved and (buffer.is_floating_point() or buffer.dtype == torch.bool)
    ]
    if not buffers:
        return
    mean = mean_(torch.cat([buffer.double().flatten() for buffer in buffers]))
    for buffer, part in zip(buffers, mean.split([buffer.numel() for buffer in buffers])):
        buffer.copy_(part.view_as(buffer))  # a mean that is not 0 makes a flag true


def broadcast_(tensors: Sequence[Shaped[Tensor, "..."]]) -> None:
    """Give all processes the values of the first one, in place."""
    if size() == 1:
        return
    for tensor in tensors:
        contiguous = tensor.contiguous()
        torch_dist.broadcast(contiguous, 0)
        tensor.copy_(contiguous)


def values_of_all(tensor: Shaped[Tensor, "..."]) -> list[Shaped[Tensor, "..."]]:
    """Return copies of the tensors of all processes, of one shape, in the order of the
    processes."""
    value = tensor.detach().clone(memory_format=torch.contiguous_format)
    if size() == 1:
        return [value]
    values = [torch.empty_like(value) for _ in range(size())]
    torch_dist.all_gather(values, value)
    return values


def broadcast_text(text: str, device: torch.device) -> str:
    """Return the text of the first process, on every process."""
    if size() == 1:
        return text
    content = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).to(device)
    length = torch.tensor([len(content)], device=device)
    broadcast_([length])
    if not first():
        content = torch.zeros(int(length), dtype=torch.uint8, device=device)
    broadcast_([content])
    return bytes(content.cpu().numpy()).decode()


def barrier() -> None:
    """Wait until every process arrives here."""
    if size() > 1:
        torch_dist.barrier()
