"""Devices of this machine."""

import torch

from limner.contract.errors import LimnerError


def find_device(name: str | torch.device = "auto") -> torch.device:
    """Return a device, given its name.

    Args:
        name: "auto" for a GPU if there is one, or torch's name for a device ("cpu", "cuda:1").

    Raises:
        LimnerError: it is another kind of device, or this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise LimnerError(f"'{name}' is not a device; write auto, cpu, cuda or cuda:1") from None
    if device.type not in ("cpu", "cuda"):
        reason = ", because it has no float64" * (device.type == "mps")
        raise LimnerError(
            f"limner does not compute on '{name}'{reason}; write --device cpu or cuda, in Python "
            "device='cpu'"
        )
    if device.type == "cuda" and not torch.cuda.is_available():
        raise LimnerError(
            "this machine has no CUDA device that torch can use; write --device cpu, in Python "
            "device='cpu'"
        )
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise LimnerError(f"'{name}' is not there; this machine has cuda:0 to cuda:{count - 1}")
    return device
