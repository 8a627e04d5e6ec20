"""Weights in eight bits: each row of a matrix or kernel by a scale of its own.

    w_ij ~ s_i q_ij,    q_ij = round(w_ij / s_i) in -127 .. 127,    s_i = max_j |w_ij| / 127

The error of a weight is at most s_i / 2. Vectors, which are few and whose errors matter more, stay
in half precision.

A row whose weights are few whole multiples of a step (`tools/round_weights.py` makes such) keeps
that step, without an error. Where all rows of a tensor do, its q are stored by Huffman's code, in
about as many bits as their entropy, under the tensor's name with its shape.
"""

import math
import zlib
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int8, UInt8
from torch import Tensor

_SCALE, _CODED = "@scale", "@coded:"
_SMALLEST = 1024  # weights of a tensor that is worth packing
_LEVELS = 127
_FEW = 63  # multiples of a step
_WHOLE = 1e-3  # how near to a whole number


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
            scale, few = _steps(rows)
            safe = torch.where(scale > 0, scale, 1.0)
            q = (rows / safe[:, None]).round().to(torch.int8).view(weight.shape)
            packed |= {_coded_name(name, q): _coded(q)} if few else {name: q}
            packed[name + _SCALE] = scale
    return packed


def _steps(rows: Float[Tensor, "n m"]) -> tuple[Float[Tensor, "n"], bool]:
    """The largest step of which each row has few whole multiples, or that of 127 levels; and
    whether all have few.
    """
    largest = rows.abs().amax(1)
    steps, open = largest / _LEVELS, largest > 0
    for levels in range(1, _FEW + 1):
        multiples = rows[open] / (largest[open] / levels)[:, None]
        whole = ((multiples - multiples.round()).abs() < _WHOLE).all(1)
        found = open.nonzero().squeeze(1)[whole]
        steps[found], open[found] = largest[found] / levels, False
    return steps, not open.any()


def _coded_name(name: str, q: Tensor) -> str:
    return f"{name}{_CODED}{'x'.join(map(str, q.shape))}"


def _coded(q: Int8[Tensor, "..."]) -> UInt8[Tensor, "n"]:
    """Whole numbers by Huffman's code, without a search for repetitions."""
    coder = zlib.compressobj(9, strategy=zlib.Z_HUFFMAN_ONLY)
    content = coder.compress(q.contiguous().numpy().tobytes()) + coder.flush()
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _decoded(content: UInt8[Tensor, "n"], shape: Sequence[int]) -> Int8[Tensor, "..."]:
    """The numbers again, and no more than there are.

    Raises:
        ValueError: they are damaged.
    """
    count = math.prod(shape)
    try:
        q = zlib.decompressobj().decompress(content.numpy().tobytes(), count)
        return torch.frombuffer(bytearray(q), dtype=torch.int8).view(*shape)
    except (zlib.error, RuntimeError) as error:
        raise ValueError(f"its coded weights are broken: {error}") from None


def weight_shape(name: str, shape: Sequence[int]) -> Sequence[int]:
    """The shape of the weights that a file has under a name; none of what only goes with others."""
    if name.endswith(_SCALE):
        return ()
    coded = name.partition(_CODED)[2]
    return [int(side) for side in coded.split("x")] if coded else shape


def unpack(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights from what `pack` made of them; whatever is not packed, as it is."""
    weights: dict[str, Tensor] = {}
    for kept, weight in stored.items():
        if kept.endswith(_SCALE):
            continue
        name, _, coded = kept.partition(_CODED)
        if coded:
            weight = _decoded(weight, weight_shape(kept, ()))
        scale = stored.get(name + _SCALE)
        if scale is not None:
            weight = weight * scale.view(-1, *[1] * (weight.dim() - 1))
        weights[name] = weight
    return weights
