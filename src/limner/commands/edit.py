"""What `limner edit` does: a model paints a picture anew, or the part that is not to stay."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limner.commands.sample import Sheet, Wish, open_model
from limner.contract.abilities import Completes, Edits
from limner.contract.errors import LimnerError
from limner.contract.image import (
    Condition,
    Images,
    ImageSpec,
    from_levels,
    from_uint8,
    to_levels,
    to_uint8,
)
from limner.contract.model import SAMPLE_BATCH
from limner.contract.registry import models
from limner.data.decode import UndecodableError, reading, to_pixels
from limner.runtime.allocator import keep_freed_memory
from limner.runtime.progress import painting_progress


def read_picture(path: Path, spec: ImageSpec) -> Images:
    """A picture file as a model sees it, "1 c h w": its middle, in the size, colours and levels.

    Raises:
        LimnerError: there is no such file, or it is not a valid picture.
    """
    if not path.is_file():
        raise LimnerError(f"there is no file '{path}'")
    shape = {"channels": spec.channels, "height": spec.height, "width": spec.width}
    try:
        pixels = reading(lambda: path.open("rb"), partial(to_pixels, fit="crop", **shape))
    except UndecodableError as error:
        raise LimnerError(f"'{path}' is not a valid picture: {error}") from None
    return from_levels(to_levels(from_uint8(pixels[None]), spec.levels), spec.levels)


def read_mask(path: Path, spec: ImageSpec) -> Float[Tensor, "1 1 h w"]:
    """A mask from a picture file, cropped as pictures are: 1 where it is light, 0 where dark.

    Raises:
        LimnerError: as of `read_picture`; or the mask is dark everywhere.
    """
    mask = (read_picture(path, ImageSpec(1, spec.height, spec.width)) > 0).float()
    if not mask.any():
        raise LimnerError(f"the mask '{path}' is dark everywhere; make the part to repaint white")
    return mask


def edit(
    files: Sequence[Path],
    wish: Wish,
    *,
    keep: float | None = None,
    mask: Path | None = None,
    strength: float | None = None,
    rounds: int | None = None,
    device: str = "auto",
) -> tuple[Sheet, Wish]:
    """Paint pictures anew, or parts of them, with a progress bar.

    Args:
        files: a row of the sheet for each: the picture, what stays of it if only a part does, and
            `wish.n` ways to go on.
        wish: which model, how many, with which seeds and options; one label or prompt for all.
        keep: which share of the height stays, from above; at least a row, at most all but one.
        mask: a picture that is light where it is to be repainted.
        strength: how much of what is painted over may change, in (0, 1]; for models that edit. By
            default 0.6, and all of it where a part of the picture stays.
        rounds: how often each step is taken, for models that repaint; by default once.
        device: where.

    Returns:
        the sheet, and the wish with every option written out.

    Raises:
        LimnerError: the model cannot do this, or a file is no picture.
    """
    if not files:
        raise LimnerError("say which picture is to be edited: limner edit IMAGE -m MODEL")
    if keep is not None and mask is not None:
        raise LimnerError("give --keep or --mask, not both")
    keep_freed_memory()
    model, options = open_model(wish, device)
    if not isinstance(model, Completes | Edits):
        able = [name for name, of in models().items() if issubclass(of.model, Completes | Edits)]
        raise LimnerError(
            f"a {model.name} model cannot edit pictures; these can: {', '.join(able)}; limner "
            "train pixelcnn mnist makes one"
        )
    c = wish.condition(model.spec)
    if len(c) > 1:
        raise LimnerError("give one label or prompt; it is for all pictures")
    given = torch.cat([read_picture(file, model.spec) for file in files])
    if isinstance(model, Edits):
        kept = None if mask is None else read_mask(mask, model.spec)
        kept = kept if keep is None else _lower(model.spec, keep)
        share = strength or (0.6 if kept is None else 1.0)
        count = model.edit_count(share, **options)
        again = {} if rounds is None else {"rounds": rounds}
        if again and "rounds" not in signature(model.edit).parameters:
            raise LimnerError(f"a {model.name} model takes each step once; leave --rounds out")
        start = partial(_edited, model, kept, share, again)
    elif mask is not None or strength is not None or rounds is not None:
        raise LimnerError(
            f"a {model.name} model goes on from the upper part of a picture; give --keep alone"
        )
    else:
        kept = _lower(model.spec, 0.5 if keep is None else keep)
        count = model.frame_count(**options)
        start = partial(_completed, model, kept)
    image, seeds = given.repeat_interleave(wish.n, 0), wish.seeds() * len(given)
    painted: list[Tensor] = []
    with painting_progress(len(seeds)) as advance:
        for first in range(0, len(seeds), SAMPLE_BATCH):
            cut = slice(first, first + SAMPLE_BATCH)
            frames: list[Tensor] = []
            for frame in start(image[cut], c, seed=seeds[cut], **options):
                advance(len(seeds[cut]) / count)
                frames = [frame.cpu()]
            painted += frames
    columns = [given[:, None]]
    if kept is not None:
        columns.append((given * (1 - kept))[:, None])
    columns.append(torch.cat(painted).unflatten(0, (len(given), wish.n)))
    shown = torch.cat(columns, 1)
    return Sheet(to_uint8(shown.flatten(0, 1)), [], shown.shape[1]), replace(wish, sampler=options)


def _lower(spec: ImageSpec, keep: float) -> Float[Tensor, "1 1 h w"]:
    """1 in the rows that do not stay."""
    painted = torch.ones(1, 1, spec.height, spec.width)
    painted[:, :, : max(1, min(round(keep * spec.height), spec.height - 1))] = 0
    return painted


def _edited(
    model: Edits,
    mask: Tensor | None,
    strength: float,
    again: Mapping[str, int],
    image: Images,
    c: Condition,
    **options: Any,
) -> Iterator[Images]:
    masks = None if mask is None else mask.expand(len(image), -1, -1, -1)
    yield from model.edit(image, c, mask=masks, strength=strength, **again, **options)


def _completed(
    model: Completes, mask: Tensor, image: Images, c: Condition, **options: Any
) -> Iterator[Images]:
    rows = int((mask[0, 0, :, 0] == 0).sum())
    yield from model.complete(image[:, :, :rows], c, **options)
