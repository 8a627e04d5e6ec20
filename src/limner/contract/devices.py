"""Which devices this machine has."""

import torch

from limner.contract.errors import LimnerError


def find_device(name: str | torch.device = "auto") -> torch.device:
    """A device by its name.

    Args:
        name: "auto" for a GPU where there is one, or what torch calls it ("cpu", "cuda:1", "mps").

    Raises:
        LimnerError: torch knows no such device, or this machine has none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(name)
    except RuntimeError:
        raise LimnerError(f"'{name}' is not a device; write auto, cpu, cuda or cuda:1") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise LimnerError(
            "this machine has no CUDA device that torch can use; write --device cpu, in Python "
            "device='cpu'"
        )
    return found
