"""Weights in eight bits: each row of a matrix or kernel by a scale of its own.

    w_ij ~ s_i q_ij,    q_ij = round(w_ij / s_i) in -127 .. 127,    s_i = max_j |w_ij| / 127

The error of a weight is at most s_i / 2. Vectors, which are few and whose errors matter more, stay
in half precision.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

_SCALE = "@scale"
_SMALLEST = 1024  # weights of a tensor that is worth packing
_LEVELS = 127


def pack(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as they are stored in eight bits, with their scales beside them."""
    packed: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if not weight.is_floating_point():
            packed[name] = weight
        elif weight.dim() < 2 or weight.numel() < _SMALLEST:
            packed[name] = weight.half()
        else:
            rows = weight.float().flatten(1)
            scale = rows.abs().amax(1) / _LEVELS
            safe = torch.where(scale > 0, scale, 1.0)
            packed[name] = (rows / safe[:, None]).round().to(torch.int8).view(weight.shape)
            packed[name + _SCALE] = scale
    return packed


def unpack(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights from what `pack` made of them; whatever is not packed, as it is."""
    weights: dict[str, Tensor] = {}
    for name, weight in stored.items():
        if name.endswith(_SCALE):
            continue
        scale = stored.get(name + _SCALE)
        if scale is not None:
            weight = weight * scale.view(-1, *[1] * (weight.dim() - 1))
        weights[name] = weight
    return weights
