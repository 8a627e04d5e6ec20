"""What `limner style-mix` does: a matrix of pictures, each with the styles of two others."""

import re
from dataclasses import replace

import torch
from torch import Tensor

from limner.commands.sample import Sheet, Wish, open_model
from limner.contract.abilities import Mixes
from limner.contract.errors import LimnerError
from limner.contract.image import to_uint8
from limner.contract.model import SAMPLE_BATCH
from limner.runtime.allocator import keep_freed_memory
from limner.runtime.progress import painting_progress

PARTS = ("coarse", "middle", "fine")
"""Thirds of the layers: shape and pose; parts and their places; colours and texture."""


def style_mix(
    wish: Wish, rows: int, layers: str, *, device: str = "auto"
) -> tuple[Sheet, Wish, slice]:
    """A matrix of pictures: each is the one at the left, but for the styles of some layers, which
    come from the one above.

    Args:
        wish: which model, and how many columns; column j is drawn from seed + j, and row i from
            seed + n + i. One label or prompt is for all.
        rows: how many.
        layers: which come from above, see `chosen`.
        device: where.

    Returns:
        the sheet, whose first row and column are the sources, the wish with every option written
        out, and the layers.

    Raises:
        LimnerError: the model has no styles, or not these layers.
    """
    keep_freed_memory()
    model, options = open_model(wish, device)
    if not isinstance(model, Mixes):
        raise LimnerError(
            f"a {model.name} model has no styles to mix; stylegan2 has: "
            "limner train stylegan2 emoji data.size=32 makes one"
        )
    taken = chosen(layers, model.style_layers)
    c = wish.condition(model.spec)
    if len(c) > 1:
        raise LimnerError("give one label or prompt; it is for all pictures")
    above = list(range(wish.seed, wish.seed + wish.n))
    left = list(range(wish.seed + wish.n, wish.seed + wish.n + rows))
    pairs = [(seed, seed) for seed in above]
    for seed in left:
        pairs += [(seed, seed), *((other, seed) for other in above)]
    parts: list[Tensor] = []
    with painting_progress(len(pairs)) as advance:
        for first in range(0, len(pairs), SAMPLE_BATCH):
            some = pairs[first : first + SAMPLE_BATCH]
            others, seeds = map(list, zip(*some))
            parts.append(model.mix(others, taken, c, seed=seeds, **options).cpu())
            advance(len(some))
    painted = torch.cat(parts)
    corner = torch.ones_like(painted[:1])
    shown = to_uint8(torch.cat([corner, painted]))
    return Sheet(shown, [], wish.n + 1), replace(wish, sampler=options), taken


def chosen(layers: str, count: int) -> slice:
    """Layers by name or number.

    Args:
        layers: coarse, middle or fine, each a third of them; or numbers from 0, as 3 or 2-5.
        count: how many there are.

    Raises:
        LimnerError: neither, or numbers beyond the last one.
    """
    if layers in PARTS:
        third = PARTS.index(layers)
        first, end = (round(count * edge / 3) for edge in (third, third + 1))
        return slice(first, end)
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", layers)
    if not found:
        raise LimnerError(f"'{layers}' names no layers; type {', '.join(PARTS)}, or as in 2-5")
    first, last = int(found[1]), int(found[2] or found[1])
    if not first <= last < count:
        raise LimnerError(f"this model has the layers 0 to {count - 1}, not {layers}")
    return slice(first, last + 1)
