"""Classify torch's errors by their messages."""

import torch
import torch.distributed


def differentiates_twice(error: RuntimeError) -> bool:
    """Return whether the error is due to gradients of gradients in a compiled network."""
    reasons = ("double backward", "donated buffer", "a leaf Variable that requires grad")
    return any(reason in str(error) for reason in reasons)


def is_of_compiler(error: RuntimeError) -> bool:
    """Return whether the error means that a network could not be compiled."""
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))


def is_lost_process(error: RuntimeError) -> bool:
    """Return whether the error means that another process of the training is lost."""
    return isinstance(error, torch.distributed.DistBackendError) or "gloo" in str(error)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether the error means that memory ran out, on a GPU or a CPU."""
    message = str(error).lower()
    words = ("not enough memory", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(text in message for text in words)
