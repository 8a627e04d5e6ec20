"""Implementation of `limner sample`: paint from words, classes, a hint, or nothing."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from limner.commands.pictures import Sheet
from limner.commands.request import SamplingRequest
from limner.commands.sheets.reword import reword_frames
from limner.commands.task import Task, Work, open_work
from limner.contract.editing import Follows
from limner.contract.image import Images

_PICTURES_PER_ROW = 8


def paint(work: Work) -> Iterator[Images]:
    """Paint pictures from a prompt, a class, another picture, or nothing."""
    if work.changes:
        for images in reword_frames(work, work.changes):
            yield images.chunk(2)[1]
        return
    c = replace(work.c, image=work.picture("hint")) if "hint" in work.pictures else work.c
    yield from work.model.watch(len(work.seeds), c, seed=list(work.seeds), **work.sampler)


def _without_picture(work: Work, options: Mapping[str, Any]) -> str:
    if isinstance(work.model, Follows) and "hint" not in work.pictures:
        return "no picture is given to change; type limner edit PICTURE --instruct ..."
    return ""


PAINT = Task("New picture", paint, remark=_without_picture)


def paint_sheet(
    request: SamplingRequest, *, device: str = "auto", forming: bool = False, separate: bool = False
) -> tuple[Sheet, SamplingRequest]:
    """Paint a sheet with a progress bar.

    Args:
        request: model, prompts, seeds and options.
        device: device to run on.
        forming: whether to keep frames of the sampling process.
        separate: whether each picture gets a file, whose settings name its own class.

    Returns:
        the sheet, and the request with every option written out.
    """
    work = open_work(request, device)
    frames = PAINT.finish(work, forming=forming)
    columns = (
        request.n
        if len(work.seeds) > request.n or request.n <= _PICTURES_PER_ROW
        else _PICTURES_PER_ROW
    )
    if separate:
        request = request.with_all_classes(work.model.spec)
    return Sheet(frames[-1], columns, frames if forming else ()), request.with_sampler(work.sampler)
