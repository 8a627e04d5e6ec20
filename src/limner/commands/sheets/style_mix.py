"""Implementation of `limner style-mix`: a grid of pictures, each with the styles of two others."""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field

from limner.commands.pictures import Sheet
from limner.commands.request import SamplingRequest
from limner.commands.sheets.sample import PAINT
from limner.commands.task import Task, Work, able_task, join_conditions, open_work
from limner.contract.abilities import Mixes
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, Images

PARTS = ("coarse", "middle", "fine")
"""Thirds of the layers: shape and pose; parts and their positions; colours and texture."""


def mix(
    work: Work,
    *,
    other: Annotated[int, Field(ge=0, le=2**31)] = 100,
    rows: Annotated[int, Field(ge=1, le=4)] = 3,
    columns: Annotated[int, Field(ge=1, le=4)] = 3,
    layers: Annotated[str, Field(json_schema_extra={"enum": [*PARTS]})] = "fine",
) -> Iterator[Images]:
    """Paint a grid: each picture is that of its row, with some layers' styles from its column.

    Args:
        other: seed of the first column, which gives the styles; the first row has the main seed.
        rows, columns: size of the grid, with one seed for each row and column.
        layers: styles to take: shape and pose, parts and positions, or colours and texture.
    """
    yield _mixtures(work, other, rows, columns, layers)


def _mixtures(
    work: Work, other: int, rows: int, columns: int, layers: str, of: Condition | None = None
) -> Images:
    """Paint the pictures of `mix`; the columns have the condition `of`, if given."""
    model, size = work.model, work.model.at_once
    assert isinstance(model, Mixes)
    layer_slice, parts = read_layers(layers, model.style_layers), list[Images]()
    seeds = [work.seed + i for i in range(rows) for _ in range(columns)]
    others = [other + j for _ in range(rows) for j in range(columns)]
    c = work.c.rows(slice(1))
    for first in range(0, len(seeds), size):
        cut = slice(first, first + size)
        parts.append(model.mix(others[cut], layer_slice, c, of=of, seed=seeds[cut], **work.sampler))
    return torch.cat(parts).float().clamp(-1, 1)


MIX = Task(
    "Mix styles",
    mix,
    Mixes,
    refusal="have no styles to mix; these have",
    example="limner train stylegan2 emoji data.size=32",
    several=False,
)


def style_mix_sheet(
    request: SamplingRequest,
    rows: int,
    layers: str,
    *,
    other_prompt: str | None = None,
    device: str = "auto",
) -> tuple[Sheet, SamplingRequest, slice]:
    """Paint a grid: each picture is the one to the left, with some styles from the one above.

    Args:
        request: model and number of columns. Column j is drawn from seed + j, row i from
            seed + n + i. One label or prompt is for all.
        rows: number of rows.
        layers: layers whose styles come from above, see `read_layers`.
        other_prompt: prompt for the pictures above; the request's own prompt if None.
        device: device to run on.

    Returns:
        the sheet, with the sources in its first row and column, the request with every option
        written out, and the layers.

    Raises:
        LimnerError: the model has no styles or not these layers, or one of two prompts is missing.
    """
    work = open_work(replace(request, n=request.n + rows), device, single=True)
    able_task(work.model, MIX)
    assert isinstance(work.model, Mixes)
    layer_slice = read_layers(layers, work.model.style_layers)
    row_work, other_c = work.rows(slice(request.n, None)), None
    if other_prompt is not None:
        if not request.prompts:
            raise LimnerError("--other-prompt is only for the pictures above; give --prompt, too")
        other_c = replace(request, prompts=(other_prompt,)).condition(work.model.spec)
        work = replace(work, c=join_conditions([other_c.repeat(request.n), row_work.c]))
    (sources,) = PAINT.finish(work)
    mix_task = replace(
        MIX, function=lambda work, **options: iter([_mixtures(work, **options, of=other_c)])
    )
    (mixtures,) = mix_task.finish(
        row_work, other=request.seed, rows=rows, columns=request.n, layers=layers
    )
    above, left = sources.split([request.n, rows])
    first = torch.cat([torch.full_like(sources[:1], 255), above])[None]
    others = torch.cat([left[:, None], mixtures.unflatten(0, (rows, request.n))], 1)
    images = torch.cat([first, others]).flatten(0, 1)
    sheet = Sheet(images, request.n + 1, task="style-mix")
    return sheet, request.with_sampler(work.sampler), layer_slice


def read_layers(layers: str, count: int) -> slice:
    """Return layers by name or number.

    Args:
        layers: coarse, middle or fine, each one third of the layers; or numbers from 0, such as 3
            or 2-5.
        count: number of layers.

    Raises:
        LimnerError: the name is unknown, or a number is too large.
    """
    if layers in PARTS:
        third = PARTS.index(layers)
        first, end = (round(count * edge / 3) for edge in (third, third + 1))
        return slice(first, end)
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", layers)
    if not match:
        raise LimnerError(
            f"'{layers}' names no layers; type {', '.join(PARTS)}, or numbers such as 2-5"
        )
    first, last = int(match[1]), int(match[2] or match[1])
    if not first <= last < count:
        raise LimnerError(f"this model has the layers 0 to {count - 1}, not {layers}")
    return slice(first, last + 1)
