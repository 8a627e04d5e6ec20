"""Implementation of `limner reconstruct` and `limner interpolate`, which use a model's codes."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from limner.commands.arguments import is_option
from limner.commands.pictures import Sheet
from limner.commands.request import SamplingRequest
from limner.commands.task import Task, Work, able_task, open_work
from limner.contract.bundled import find_model
from limner.contract.codes import Encodes
from limner.contract.errors import LimnerError
from limner.contract.image import Images, from_uint8, to_uint8
from limner.data.picture_files import read_pictures
from limner.data.sources import source_types
from limner.evaluate.subject import open_reference, open_subject
from limner.runtime.progress import say

_PICTURES_PER_ROW = 8
_COORDINATES = 8  # numbers of a code that are varied for a single picture
_MAX_DEVIATIONS = 3.0  # standard deviations from 0 to each end


def reconstruct(work: Work) -> Iterator[Images]:
    """Reconstruct a picture from its code alone."""
    assert isinstance(work.model, Encodes)
    x = work.pictures["image"]
    yield work.model.reconstruct(x, work.c.rows(slice(len(x))))


def interpolate(work: Work, *, steps: Annotated[int, Field(ge=2, le=16)] = 8) -> Iterator[Images]:
    """Interpolate from one picture to another through their codes.

    Args:
        steps: pictures on the path, both ends included.
    """
    assert isinstance(work.model, Encodes)
    a, b = work.pictures["image"], work.pictures["other"]
    yield work.model.interpolate(a, b, steps, work.c.rows(slice(len(a)))).flatten(0, 1)


RECONSTRUCT = Task(
    "Reconstruct",
    reconstruct,
    Encodes,
    refusal="have no codes; these have",
    example="limner train vae mnist",
    inputs={"image": True},
    several=False,
)
INTERPOLATE = replace(
    RECONSTRUCT,
    title="Interpolate",
    function=interpolate,
    inputs={"image": True, "other": True},
    shows="path",
)


def reconstruct_sheet(
    files: Sequence[Path], request: SamplingRequest, *, device: str = "auto"
) -> tuple[Sheet, SamplingRequest, float]:
    """Show pictures, and below each its reconstruction from the model's code.

    Args:
        files: the pictures; if empty, `request.n` pictures of the model's training data,
            held-out ones if there are any.
        request: the model; one label or prompt for all files.
        device: device to run on.

    Returns:
        the sheet, the request without sampler options (none are used), and the mean squared error
        of a pixel's channel on the scale [-1, 1].

    Raises:
        LimnerError: the model has no codes, or a file is not a picture.
    """
    work = _work_of(files, request, device)
    x = work.pictures["image"]
    x_hat = torch.cat([*RECONSTRUCT.start(work, {})]).cpu()
    error = float((x_hat - x).square().mean())
    columns = min(len(x), _PICTURES_PER_ROW)
    rows = [part for pair in zip(x.split(columns), x_hat.split(columns)) for part in pair]
    if len(x) % columns:  # a last row that is not full
        blank = x.new_ones(columns - len(x) % columns, *x.shape[1:])
        rows[-2:] = [torch.cat([row, blank]) for row in rows[-2:]]
    sheet = Sheet(to_uint8(torch.cat(rows)), columns, task="reconstruct")
    return sheet, request.with_sampler({}), error


def interpolate_sheet(
    files: Sequence[Path], request: SamplingRequest, steps: int, *, device: str = "auto"
) -> tuple[Sheet, SamplingRequest]:
    """Show paths between codes, or, for one picture, the effect of the numbers of its code.

    Args:
        files: Two or more: one row per path from a picture to the next, with both pictures at its
            ends. One: one row for each of the eight numbers of its code that change it most, from
            -3 to 3 standard deviations. Empty: `request.n` paths between pictures of the model's
            training data, or fewer if there are not enough.
        request: the model; one label or prompt for all.
        steps: pictures on each path, or values of each number.
        device: device to run on.

    Raises:
        LimnerError: the model has no codes, a file is not a picture, or the data have only one.
    """
    work = _work_of(files, request if files else replace(request, n=2 * request.n), device)
    x, c, request = work.pictures["image"], work.c, request.with_sampler({})
    if len(files) == 1:
        assert isinstance(work.model, Encodes)
        values = torch.linspace(-_MAX_DEVIATIONS, _MAX_DEVIATIONS, steps).tolist()
        pictures = work.model.traverse(x, _COORDINATES, values, c)
        return Sheet(to_uint8(pictures.flatten(0, 1)).cpu(), steps, task="interpolate"), request
    if len(x) < 2:
        raise LimnerError("the training data have one picture; give two picture files to connect")
    end = len(x) // 2 * 2  # the data may have fewer pictures than requested
    a, b = (x[:-1], x[1:]) if files else (x[:end:2], x[1:end:2])
    c = c if files else c.rows(slice(0, end, 2))
    (path,) = INTERPOLATE.finish(replace(work, c=c, pictures={"image": a, "other": b}), steps=steps)
    ends, path = [to_uint8(x)[:, None] for x in (a, b)], path.unflatten(0, (len(a), steps))
    targets, outputs = (pair.flatten(0, 1) for pair in (torch.cat(ends, 1), path[:, [0, -1]]))
    error = from_uint8(targets) - from_uint8(outputs)
    say(f"the ends of the paths have a mean squared error of {float(error.square().mean()):.2g}")
    rows = torch.cat([ends[0], path, ends[1]], 1)
    return Sheet(rows.flatten(0, 1), steps + 2, task="interpolate"), request


def _work_of(files: Sequence[Path], request: SamplingRequest, device: str) -> Work:
    """Return the work for given pictures, or else for some of the data with their conditions."""
    if not files and (request.prompts or request.labels):
        raise LimnerError(
            "labels and prompts need picture files; give some, or leave labels and prompts out"
        )
    for file in files:
        if is_option(str(file)):
            raise LimnerError(f"encoding uses no sampler options; leave {file} out")
    work = open_work(replace(request, n=1), device, single=True)
    able_task(work.model, RECONSTRUCT)
    if files:
        return replace(work, pictures={"image": read_pictures(files, work.model.spec)})
    subject = open_subject(find_model(request.model), {}, torch.device("cpu"))
    source = subject.data.get("source", "")
    if not source_types(source):
        raise LimnerError(
            f"limner cannot open the training data of {subject.name}; give picture files"
        )
    try:
        reference = open_reference(source, {}, subject)
    except LimnerError as error:
        raise LimnerError(f"{error}; for data that moved, give picture files") from None
    real = (reference.held_out or reference.real).first(request.n)
    numbers = torch.arange(len(real))
    c = real.condition(numbers, work.model.spec)
    return replace(work, c=c, pictures={"image": real.images(numbers)})
