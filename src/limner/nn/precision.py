"""Computing in bfloat16 where a device has it, and in float32 elsewhere.

Most processors older than 2022 have no arithmetic in bfloat16; what they do instead takes about
eight times as long as float32.
"""

import torch


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 at least as quickly as in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.backends.mkldnn.is_available()
    return found and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # pyright: ignore


def autocast(device: torch.device, dtype: str) -> torch.autocast:
    """A context in which networks compute in a type, their weights being float32.

    Args:
        device: of the networks.
        dtype: "float32", or "bfloat16", which is float32 where the device has none.
    """
    half = dtype == "bfloat16" and has_bfloat16(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=half)
