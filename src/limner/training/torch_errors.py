"""What torch's errors mean, which it says in words alone."""

import torch
import torch.distributed


def differentiates_twice(error: RuntimeError) -> bool:
    """Whether a compiled network was asked for gradients of gradients."""
    return any(words in str(error) for words in ("double backward", "donated buffer"))


def is_of_compiler(error: RuntimeError) -> bool:
    """Whether a network could not be compiled."""
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))


def is_lost_process(error: RuntimeError) -> bool:
    """Whether another process, with which this one works, is gone."""
    return isinstance(error, torch.distributed.DistBackendError) or "gloo" in str(error)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out, on a GPU or a CPU."""
    said = str(error).lower()
    words = ("not enough memory", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(each in said for each in words)
