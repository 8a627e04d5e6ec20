"""Weights in eight bits: each row of a matrix or kernel has its own scale.

    w_ij ~ s_i q_ij,    q_ij = round(w_ij / s_i) in -127 .. 127,    s_i = max_j |w_ij| / 127

The error of a weight is at most s_i / 2. Vectors stay in half precision: they are few, and their
errors matter more.

If the weights of a row are small whole multiples of a step (`tools/round_weights.py` makes such
rows), it keeps that step, with only the error of float32. If this is true of all rows of a tensor,
its q are Huffman-coded, in about as many bits as their entropy, and stored under the tensor's name
with its shape. The same applies to the columns of a matrix; their scales are then a row.
"""

import math
import re
import zlib
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int8, UInt8
from torch import Tensor

_SCALE, _CODE_PREFIX = "@scale", "@coded:"
_MIN_WEIGHTS = 1024  # smallest number of weights that is worth packing, unless they are rounded
# Shorter rows get a scale per column, because a scale per row would save little.
_MIN_ROW_LENGTH = 8
_LEVELS = 127
_SHAPE_PATTERN = r"[1-9][0-9]{0,8}(x[1-9][0-9]{0,8}){1,7}"
_MAX_MULTIPLE = 63  # largest multiple of a step
_INTEGER_TOLERANCE = 1e-3  # tolerance of a whole number


def pack(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights as they are stored in eight bits, with their scales."""
    packed: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if not weight.is_floating_point():
            packed[name] = weight
        elif weight.dim() < 2:
            packed[name] = weight.half()
        else:
            is_thin = weight.dim() == 2 and weight.shape[1] < _MIN_ROW_LENGTH
            tensors = _pack_weight(name, weight, across=is_thin)
            if weight.dim() == 2 and weight.isfinite().all():
                other = _pack_weight(name, weight, across=not is_thin)
                tensors = min(tensors, other, key=_bytes) if any(map(is_coded, other)) else tensors
            if weight.numel() < _MIN_WEIGHTS:
                half = {name: weight.half()}
                tensors = min(half, tensors, key=_bytes) if any(map(is_coded, tensors)) else half
            packed |= tensors
    return packed


def _pack_weight(name: str, weight: Tensor, *, across: bool) -> dict[str, Tensor]:
    """Return a weight with a scale for each row, or for each column if `across`; Huffman-coded if
    that is smaller."""
    rows = weight.float().flatten(1)
    rows = rows.T if across else rows
    scale, is_small = _steps(rows)
    q = (rows / torch.where(scale > 0, scale, 1.0)[:, None]).round().to(torch.int8)
    q = (q.T if across else q).reshape(weight.shape)
    plain = {name: q, name + _SCALE: scale[None] if across else scale}
    if not is_small:
        return plain
    coded = {_coded_name(name, q): _encode(q), name + _SCALE: plain[name + _SCALE]}
    return min(plain, coded, key=_bytes)


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _steps(rows: Float[Tensor, "n m"]) -> tuple[Float[Tensor, "n"], bool]:
    """Return the largest step of each row that makes all its weights small whole multiples, or else
    the step for 127 levels; and whether all rows have the former."""
    largest = rows.abs().amax(1)
    steps, remaining = largest / _LEVELS, largest > 0
    for levels in range(1, _MAX_MULTIPLE + 1):
        multiples = rows[remaining] / (largest[remaining] / levels)[:, None]
        is_whole = ((multiples - multiples.round()).abs() < _INTEGER_TOLERANCE).all(1)
        indices = remaining.nonzero().squeeze(1)[is_whole]
        steps[indices], remaining[indices] = largest[indices] / levels, False
    return steps, not remaining.any()


def _coded_name(name: str, q: Tensor) -> str:
    return f"{name}{_CODE_PREFIX}{'x'.join(map(str, q.shape))}"


def _encode(q: Int8[Tensor, "..."]) -> UInt8[Tensor, "n"]:
    """Huffman-code whole numbers, without a search for repetitions."""
    coder = zlib.compressobj(9, strategy=zlib.Z_HUFFMAN_ONLY)
    content = coder.compress(q.cpu().contiguous().numpy().tobytes()) + coder.flush()
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _decode(content: Tensor, shape: Sequence[int]) -> Int8[Tensor, "..."]:
    """Decode whole numbers, and never more than the shape has.

    Raises:
        ValueError: the coded numbers are damaged.
    """
    count = math.prod(shape)
    if content.dtype != torch.uint8 or count > 8 * content.numel():  # a number takes at least a bit
        raise ValueError("its coded weights are broken: they do not fit their shape")
    decoder = zlib.decompressobj()
    try:
        q = decoder.decompress(content.cpu().numpy().tobytes(), count + 1)
    except zlib.error as error:
        raise ValueError(f"its coded weights are broken: {error}") from None
    if len(q) != count or not decoder.eof:
        raise ValueError("its coded weights are broken: they are cut short")
    return torch.frombuffer(bytearray(q), dtype=torch.int8).view(*shape)


def is_coded(name: str) -> bool:
    """Return whether the weights of a name in a file are Huffman-coded."""
    return _CODE_PREFIX in name


def is_scale(name: str) -> bool:
    """Return whether a name in a file is the name of other weights' scales."""
    return name.endswith(_SCALE)


def weight_shape(name: str, shape: Sequence[int]) -> Sequence[int]:
    """Return the shape of the weights under a name in a file; that of the stored tensor if they are
    not coded.

    Raises:
        ValueError: the name has no valid shape.
    """
    _, mark, sides = name.partition(_CODE_PREFIX)
    if not mark:
        return shape
    if not re.fullmatch(_SHAPE_PATTERN, sides, re.ASCII):
        raise ValueError(f"its coded weights have no shape {sides[:40]!r}")
    return [int(side) for side in sides.split("x")]


def unpack(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights that `pack` stored; weights that are not packed are unchanged.

    Raises:
        ValueError: the stored weights are damaged.
    """
    weights: dict[str, Tensor] = {}
    for stored_name, weight in stored.items():
        if stored_name.endswith(_SCALE):
            continue
        name, mark, _ = stored_name.partition(_CODE_PREFIX)
        if mark:
            weight = _decode(weight, weight_shape(stored_name, ()))
        scale = stored.get(name + _SCALE)
        if name in weights or (mark and scale is None):
            raise ValueError(f"its weights '{name[:80]}' are there twice, or without a scale")
        if scale is not None:
            if scale.shape == weight.shape[:1]:
                scale = scale.view(-1, *[1] * (weight.dim() - 1))
            elif weight.dim() != 2 or scale.shape != (1, weight.shape[1]):
                raise ValueError(f"its weights '{name[:80]}' have another number of scales")
            weight = weight * scale
        weights[name] = weight
    return weights
