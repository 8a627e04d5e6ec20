"""What `limner edit` does: the upper part of a picture stays, and a model paints the rest anew."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from limner.allocator import keep_freed_memory
from limner.data.decode import UndecodableError, reading, to_pixels
from limner.errors import LimnerError
from limner.image import Images, ImageSpec, from_levels, from_uint8, to_levels, to_uint8
from limner.model import SAMPLE_BATCH, Completes
from limner.painting import Sheet, Wish, open_model
from limner.progress import painting_progress


def read_picture(path: Path, spec: ImageSpec) -> Images:
    """A picture file as a model sees it, "1 c h w": its middle, in the size, colours and levels.

    Raises:
        LimnerError: there is no such file, or it is no sound picture.
    """
    if not path.is_file():
        raise LimnerError(f"there is no file '{path}'")
    shape = {"channels": spec.channels, "height": spec.height, "width": spec.width}
    try:
        pixels = reading(lambda: path.open("rb"), partial(to_pixels, fit="crop", **shape))
    except UndecodableError as error:
        raise LimnerError(f"'{path}' is no sound picture: {error}") from None
    return from_levels(to_levels(from_uint8(pixels[None]), spec.levels), spec.levels)


def complete(
    files: Sequence[Path], wish: Wish, keep: float, *, device: str = "auto"
) -> tuple[Sheet, Wish]:
    """Go on from the upper part of pictures, with a progress bar.

    Args:
        files: a row of the sheet for each: the picture, what stays of it, and `wish.n` ways to go
            on.
        wish: which model, how many, with which seeds and options; one label or prompt for all.
        keep: which share of the height stays, at least a row, and at most all but one.
        device: where.

    Returns:
        the sheet, and the wish with every option written out.

    Raises:
        LimnerError: the model cannot go on from a part, or a file is no picture.
    """
    if not files:
        raise LimnerError("say which picture is to be gone on from: limner edit IMAGE -m MODEL")
    keep_freed_memory()
    model, options = open_model(wish, device)
    if not isinstance(model, Completes):
        raise LimnerError(
            f"a {model.name} model cannot go on from a part of a picture; autoregressive ones can: "
            "limner train pixelcnn mnist makes one"
        )
    c = wish.condition(model.spec)
    if len(c) > 1:
        raise LimnerError("give one label or prompt; it is for all pictures")
    given = torch.cat([read_picture(file, model.spec) for file in files])
    rows = max(1, min(round(keep * model.spec.height), model.spec.height - 1))
    upper, seeds = given[:, :, :rows].repeat_interleave(wish.n, 0), wish.seeds() * len(given)
    count, painted = model.frame_count(**options), list[Tensor]()
    with painting_progress(len(seeds)) as advance:
        for first in range(0, len(seeds), SAMPLE_BATCH):
            cut = slice(first, first + SAMPLE_BATCH)
            frames: list[Tensor] = []
            for frame in model.complete(upper[cut], c, seed=seeds[cut], **options):
                advance(len(seeds[cut]) / count)
                frames = [frame.cpu()]
            painted += frames
    kept = given.clone()
    kept[:, :, rows:] = 0
    done = torch.cat(painted).unflatten(0, (len(given), wish.n))
    shown = torch.cat([given[:, None], kept[:, None], done], 1).flatten(0, 1)
    return Sheet(to_uint8(shown), [], wish.n + 2), replace(wish, sampler=options)
