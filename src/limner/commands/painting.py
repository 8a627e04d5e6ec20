"""What `limner sample` does: pictures from words, classes, another picture, or nothing."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from limner.commands.pictures import Sheet
from limner.commands.reword import reworded
from limner.commands.task import Task, Work, open_work
from limner.commands.wish import Wish
from limner.contract.editing import Follows
from limner.contract.image import Images

_ROW = 8  # so many pictures stand in one row


def paint(work: Work) -> Iterator[Images]:
    """Pictures from a prompt, a class, another picture, or nothing."""
    if work.changes:
        for both in reworded(work, work.changes):
            yield both.chunk(2)[1]
        return
    c = replace(work.c, image=work.given("hint")) if "hint" in work.pictures else work.c
    yield from work.model.watch(len(work.seeds), c, seed=list(work.seeds), **work.sampler)


def _without_picture(work: Work, options: Mapping[str, Any]) -> str:
    if isinstance(work.model, Follows) and "hint" not in work.pictures:
        return "there is no picture to change; limner edit PICTURE --instruct ... changes one"
    return ""


PAINT = Task("New picture", paint, remark=_without_picture)


def paint_sheet(wish: Wish, *, device: str = "auto", forming: bool = False) -> tuple[Sheet, Wish]:
    """Paint a sheet with a progress bar.

    Args:
        wish: what.
        device: where.
        forming: whether to keep frames of how the pictures form.

    Returns:
        the sheet, and the wish with every option written out.
    """
    work = open_work(wish, device)
    frames = PAINT.finish(work, forming=forming)
    columns = wish.n if len(work.seeds) > wish.n or wish.n <= _ROW else _ROW
    return Sheet(frames[-1], columns, frames if forming else ()), wish.filled(work.sampler)
