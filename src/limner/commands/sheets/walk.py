"""Implementation of `limner walk`: interpolate between the pictures of two seeds."""

import math
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from limner.commands.pictures import Sheet
from limner.commands.request import SamplingRequest
from limner.commands.task import Task, Work, able_task, open_work
from limner.contract.editing import Completes
from limner.contract.errors import LimnerError
from limner.contract.image import Images
from limner.contract.noise import Blend


def walk(
    work: Work,
    *,
    other_seed: Annotated[int, Field(ge=0, le=2**31)] = 100,
    steps: Annotated[int, Field(ge=2, le=16)] = 8,
) -> Iterator[Images]:
    """Interpolate from the picture of one seed to the picture of another.

    Args:
        other_seed: seed of the last picture; the first one has the main seed.
        steps: number of pictures, both ends included.
    """
    if (other_seed - work.seed) % 2**64 == 0:  # a blend of equal seeds has too much variance
        raise LimnerError(
            f"the seeds {work.seed} and {other_seed} give the same picture; give two others"
        )
    amounts = [math.sin(i / (steps - 1) * math.pi / 2) for i in range(steps)]
    between = [Blend(work.seed, other_seed, amount) for amount in amounts[1:-1]]
    seeds = [work.seed, *between, other_seed]
    yield from work.model.watch(steps, work.c.rows(slice(1)), seed=seeds, **work.sampler)


def _frame_count(work: Work, **options: int) -> int:
    del options
    return work.model.frame_count(**work.sampler)


WALK = Task(
    "From seed to seed",
    walk,
    excluded=Completes,  # no interpolation of what is drawn pixel by pixel
    refusal="draw pixel by pixel and cannot interpolate between seeds; these can",
    example="limner train edm emoji data.size=16",
    several=False,
    fits=lambda spec: spec.hint is None,  # a path has no input picture
    frames=_frame_count,
    shows="path",
)


def walk_sheet(
    request: SamplingRequest, other_seed: int, steps: int, *, device: str = "auto"
) -> tuple[Sheet, SamplingRequest]:
    """Paint the pictures on the path from a request's seed to another, side by side.

    Args:
        request: model, first seed and options; one label or prompt for all.
        other_seed: seed of the last picture.
        steps: number of pictures, both ends included.
        device: device to run on.

    Raises:
        LimnerError: the model draws pixel by pixel, and cannot interpolate between seeds; it needs
            an input picture; or the two seeds are equal.
    """
    work = open_work(request, device, single=True)
    task = able_task(work.model, WALK)
    if work.model.condition == "required" and work.model.spec.hint is not None:
        raise LimnerError(
            f"'{request.model}' paints from an input picture, which a path does not have; give "
            "another model"
        )
    (images,) = task.finish(work, other_seed=other_seed, steps=steps)
    return Sheet(images, steps, task="walk"), request.with_sampler(work.sampler)
