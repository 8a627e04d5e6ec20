"""What `limner reconstruct` and `limner interpolate` do: pictures through a model's codes."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from limner.commands.arguments import is_option
from limner.commands.pictures import Sheet, read_pictures
from limner.commands.task import Task, Work, able_task, open_work
from limner.commands.wish import Wish
from limner.contract.bundled import find_model
from limner.contract.codes import Encodes
from limner.contract.errors import LimnerError
from limner.contract.image import Images, from_uint8, to_uint8
from limner.evaluate.subject import open_reference, open_subject
from limner.runtime.progress import say

_ROW = 8  # pictures side by side
_COORDINATES = 8  # of a code, that one picture is shown with
_REACH = 3.0  # standard deviations that each goes from 0


def reconstruct(work: Work) -> Iterator[Images]:
    """What is left of a picture when only its code is kept."""
    assert isinstance(work.model, Encodes)
    x = work.pictures["image"]
    yield work.model.reconstruct(x, work.c.rows(slice(len(x))))


def interpolate(work: Work, *, steps: Annotated[int, Field(ge=2, le=16)] = 8) -> Iterator[Images]:
    """From one picture to another, through their codes.

    Args:
        steps: pictures on the way, both ends included.
    """
    assert isinstance(work.model, Encodes)
    a, b = work.pictures["image"], work.pictures["other"]
    yield work.model.interpolate(a, b, steps, work.c.rows(slice(len(a)))).flatten(0, 1)


RECONSTRUCT = Task(
    "Reconstruct",
    reconstruct,
    Encodes,
    lacks="have no codes; these have",
    example="limner train vae mnist",
    inputs={"image": True},
    several=False,
)
INTERPOLATE = replace(
    RECONSTRUCT,
    title="Interpolate",
    does=interpolate,
    inputs={"image": True, "other": True},
    shows="path",
)


def reconstruct_sheet(
    files: Sequence[Path], wish: Wish, *, device: str = "auto"
) -> tuple[Sheet, Wish, float]:
    """Pictures, and below each what a model makes of its code.

    Args:
        files: the pictures; none for `wish.n` of the data that the model was trained on, held-out
            ones where there are such.
        wish: which model; one label or prompt for all files.
        device: where.

    Returns:
        the sheet, the wish without options of a sampler, as none is used, and the mean squared
        error of a pixel's channel on the scale [-1, 1].

    Raises:
        LimnerError: the model has no codes, or a file is no picture.
    """
    work = _work_of(files, wish, device)
    x = work.pictures["image"]
    x_hat = torch.cat([*RECONSTRUCT.start(work, {})]).cpu()
    error = float((x_hat - x).square().mean())
    columns = min(len(x), _ROW)
    rows = [part for pair in zip(x.split(columns), x_hat.split(columns)) for part in pair]
    if len(x) % columns:  # a last row that is not full
        blank = x.new_ones(columns - len(x) % columns, *x.shape[1:])
        rows[-2:] = [torch.cat([row, blank]) for row in rows[-2:]]
    sheet = Sheet(to_uint8(torch.cat(rows)), columns, task="reconstruct")
    return sheet, wish.filled({}), error


def interpolate_sheet(
    files: Sequence[Path], wish: Wish, steps: int, *, device: str = "auto"
) -> tuple[Sheet, Wish]:
    """Paths between codes, or, of one picture, what the numbers of its code mean.

    Args:
        files: two or more: a row for each path from one to the next, between the pictures that it
            joins. One: a row for each of the eight numbers of its code that change it most, from -3
            to 3 standard deviations. None: `wish.n` paths between pictures of the data that the
            model was trained on.
        wish: which model; one label or prompt for all.
        steps: pictures on each path, or values of each number.
        device: where.

    Raises:
        LimnerError: the model has no codes, or a file is no picture.
    """
    work = _work_of(files, wish if files else replace(wish, n=2 * wish.n), device)
    x, c, wish = work.pictures["image"], work.c, wish.filled({})
    if len(files) == 1:
        assert isinstance(work.model, Encodes)
        values = torch.linspace(-_REACH, _REACH, steps).tolist()
        shown = work.model.traverse(x, _COORDINATES, values, c)
        return Sheet(to_uint8(shown.flatten(0, 1)).cpu(), steps, task="interpolate"), wish
    a, b = (x[:-1], x[1:]) if files else (x[::2], x[1::2])
    c = c if files else c.rows(slice(None, None, 2))
    (path,) = INTERPOLATE.finish(replace(work, c=c, pictures={"image": a, "other": b}), steps=steps)
    ends, path = [to_uint8(x)[:, None] for x in (a, b)], path.unflatten(0, (len(a), steps))
    given, found = (each.flatten(0, 1) for each in (torch.cat(ends, 1), path[:, [0, -1]]))
    lost = from_uint8(given) - from_uint8(found)
    say(f"the ends of the paths have a mean squared error of {float(lost.square().mean()):.2g}")
    rows = torch.cat([ends[0], path, ends[1]], 1)
    return Sheet(rows.flatten(0, 1), steps + 2, task="interpolate"), wish


def _work_of(files: Sequence[Path], wish: Wish, device: str) -> Work:
    """Pictures that are given, or else some of the data, and what they are of."""
    if not files and (wish.prompts or wish.labels):
        raise LimnerError("labels and prompts are for pictures that are given; give some")
    for file in files:
        if is_option(str(file)) and not file.exists():
            raise LimnerError(f"codes are made without options of a sampler; leave {file} out")
    work = open_work(replace(wish, n=1), device, single=True)
    able_task(work.model, RECONSTRUCT)
    if files:
        return replace(work, pictures={"image": read_pictures(files, work.model.spec)})
    subject = open_subject(find_model(wish.model), {}, torch.device("cpu"))
    real = open_reference(None, {}, subject).real.first(wish.n)
    numbers = torch.arange(len(real))
    c = real.condition(numbers, work.model.spec)
    return replace(work, c=c, pictures={"image": real.images(numbers)})
