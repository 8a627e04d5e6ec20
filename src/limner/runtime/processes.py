"""Many processes as one: what the loop needs of torch.distributed, and nothing else.

`torchrun --nproc-per-node N ...` sets RANK, WORLD_SIZE and LOCAL_RANK; without them everything here
is the identity. Processes talk over gloo on CPUs and over NCCL on GPUs.
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
    """This process's device.

    Args:
        name: "auto" for a GPU where there is one, or what torch calls it ("cpu", "cuda:1").

    Raises:
        LimnerError: it is another device, or this machine has none such.
    """
    found = find_device(name)
    if found.type == "cuda" and found.index is None:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return found


def join(device: torch.device) -> None:
    """Become one of the processes that torchrun started, until this one exits.

    The group is joined once: torchrun's store keeps the addresses of a group that was left, and who
    joins a second one waits for them forever, now and then.

    Raises:
        LimnerError: torchrun started the processes anew, with a store that it had before.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or torch_dist.is_initialized():
        return
    if restarted() and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise LimnerError(
            "torchrun restarts with the addresses of lost processes; type "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before it; now type: limner resume RUN"
        )
    import torch.distributed.fsdp  # imported later, it keeps the group, as functions' default

    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch_dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    atexit.register(leave)


def meet(device: torch.device, folder: Path, begun: bool) -> bool:
    """Join, see that all processes find the same in a folder, and whether any was started anew.

    Args:
        device: this process's.
        folder: which all are to share.
        begun: whether it holds what it is to hold.

    Returns:
        whether any torchrun has restarted; each counts its own losses alone.

    Raises:
        LimnerError: the folder is not the same on all machines; or see `join`.
    """
    join(device)
    if not same(int(begun), device):
        raise LimnerError(
            f"{folder} is another folder on one machine than on another; give one on a disk that "
            "all of them see"
        )
    return anyone(restarted(), device)


def leave() -> None:
    """Give up the group, whose threads end with the last that refers to it.

    They must end before Python does: one that then still lets go of a tensor kills the process.
    """
    if torch_dist.is_initialized():
        torch_dist.destroy_process_group()
        time.sleep(0.1)  # sharded tensors' caches keep the group: its threads become idle


def size() -> int:
    """How many processes work together."""
    return torch_dist.get_world_size() if torch_dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is."""
    return torch_dist.get_rank() if torch_dist.is_initialized() else 0


def restarted() -> bool:
    """Whether this machine's torchrun started its processes anew after it had lost one of them; of
    those that another machine lost it does not know.
    """
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def may_restart() -> bool:
    """Whether torchrun starts these processes anew when it loses one."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


def first() -> bool:
    """Whether this is the process that writes files and speaks."""
    return rank() == 0


def mean_(flat: Shaped[Tensor, "n"]) -> Shaped[Tensor, "n"]:
    """The mean over all processes, in place, the same bits on each of them."""
    if size() > 1:
        torch_dist.all_reduce(flat)
        flat /= size()
    return flat


def mean_of_known(flat: Shaped[Tensor, "n"]) -> Shaped[Tensor, "n"]:
    """The mean of each number over the processes on which it is not NaN."""
    known = ~flat.isnan()
    both = sum_(torch.cat([flat.masked_fill(~known, 0), known.to(flat)]))
    total, count = both.chunk(2)
    return total / count


def anyone(flag: bool, device: torch.device) -> bool:
    """Whether the flag is up on any process."""
    if size() == 1:
        return flag
    raised = torch.tensor([float(flag)], device=device)
    torch_dist.all_reduce(raised, torch_dist.ReduceOp.MAX)
    return bool(raised.item())


def same(number: int, device: torch.device) -> bool:
    """Whether a whole number is the same on all processes."""
    if size() == 1:
        return True
    extremes = torch.tensor([number, -number], device=device)
    torch_dist.all_reduce(extremes, torch_dist.ReduceOp.MAX)
    return bool(extremes.sum() == 0)


def average_gradients_(
    parameters: Sequence[torch.nn.Parameter], loss: Shaped[Tensor, ""]
) -> Shaped[Tensor, ""]:
    """Replace each gradient, and return the loss, by the mean over all processes, in one message.

    A parameter without gradient counts as zero where another process has one for it (text dropped
    from every row here, but not there), and stays without where nobody has.
    """
    if size() == 1:
        return loss
    has = [float(p.grad is not None) for p in parameters]
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    head = torch.tensor(has, dtype=torch.float32, device=loss.device)
    flat = torch.cat([head, loss.float().view(1), *(p.float().flatten() for p in parts)])
    mean_(flat)
    start = len(has) + 1
    for p, count in zip(parameters, flat[: len(has)].tolist()):
        if count:
            mean = flat[start : start + p.numel()].view_as(p)
            p.grad = torch.empty_like(p).copy_(
                mean
            )  # fused optimisers want the parameter's strides
        start += p.numel()
    return flat[len(has)]


def sum_(flat: Shaped[Tensor, "n"]) -> Shaped[Tensor, "n"]:
    """The sum over all processes, in place."""
    if size() > 1:
        torch_dist.all_reduce(flat)
    return flat


def average_buffers_(module: torch.nn.Module) -> None:
    """Make a module's saved buffers alike on all processes, in one message.

    Numbers become their means: batch norm's statistics and running means of losses follow each
    process's own share of a batch, and their mean follows the whole batch. What is true on one
    process becomes true on all. Buffers that are not part of a saved model, such as pools of
    earlier paintings, stay each process's own.
    """
    if size() == 1:
        return
    saved = module.state_dict(keep_vars=True)
    own = [
        buffer
        for name, buffer in module.named_buffers()
        if name in saved and (buffer.is_floating_point() or buffer.dtype == torch.bool)
    ]
    if not own:
        return
    mean = mean_(torch.cat([buffer.double().flatten() for buffer in own]))
    for buffer, part in zip(own, mean.split([buffer.numel() for buffer in own])):
        buffer.copy_((part != 0 if buffer.dtype == torch.bool else part).view_as(buffer))


def broadcast_(tensors: Sequence[Shaped[Tensor, "..."]]) -> None:
    """Give every process the first one's values, in place."""
    if size() == 1:
        return
    for tensor in tensors:
        contiguous = tensor.contiguous()
        torch_dist.broadcast(contiguous, 0)
        tensor.copy_(contiguous)


def values_of_all(tensor: Shaped[Tensor, "..."]) -> list[Shaped[Tensor, "..."]]:
    """Copies of every process's tensor, of one shape, in the order of the processes."""
    own = tensor.detach().clone(memory_format=torch.contiguous_format)
    if size() == 1:
        return [own]
    found = [torch.empty_like(own) for _ in range(size())]
    torch_dist.all_gather(found, own)
    return found


def broadcast_text(text: str, device: torch.device) -> str:
    """The first process's text, on every process."""
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
    """Wait until every process is here."""
    if size() > 1:
        torch_dist.barrier()
