"""Computation in bfloat16 on devices that support it, and in float32 on others.

Most processors older than 2022 have no bfloat16 arithmetic; their emulation takes about eight times
as long as float32.
"""

import torch


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device computes in bfloat16 at least as fast as in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    is_available = torch.backends.mkldnn.is_available()
    return is_available and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # pyright: ignore


def autocast(device: torch.device, dtype: str, *, caches: bool = False) -> torch.autocast:
    """Return a context in which networks with float32 weights compute in a given type.

    Args:
        device: the device of the networks.
        dtype: "float32", or "bfloat16", which means float32 if the device does not support it.
        caches: whether weights are converted only once, for networks that do not change. Torch
            keeps converted weights until the outermost autocast ends, so a training within another
            autocast would compute with the weights of its first step.
    """
    half = dtype == "bfloat16" and has_bfloat16(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=half, cache_enabled=caches)
