"""Implementation of `limner edit`: change a picture, or a part of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from limner.commands.pictures import Sheet
from limner.commands.request import SamplingRequest
from limner.commands.task import Task, Work, able_task, open_work, with_stored_model
from limner.contract.editing import Completes, Edits, Follows
from limner.contract.errors import LimnerError
from limner.contract.image import Images, ImageSpec, to_uint8
from limner.data.picture_files import read_mask, read_pictures

_DEFAULT_STRENGTH = 0.6  # default without a mask
_MIN_REPORTED_ROUNDING = 0.05  # smallest rounding of the strength that is reported


def kept_row_count(spec: ImageSpec, keep: float) -> int:
    """Return how many rows are kept for a share of the height: at least 1, at most all but 1."""
    return max(1, min(round(keep * spec.height), spec.height - 1))


def complete(
    work: Work,
    *,
    keep: Annotated[float, Field(ge=0.05, le=0.95)] = 0.5,
    rounds: Annotated[int, Field(ge=1, le=1000)] | None = None,
) -> Iterator[Images]:
    """Keep a part of a picture, the top or what you do not brush, and repaint the rest.

    Args:
        keep: share of the height to keep, if nothing is brushed.
        rounds: how often the new part is improved, if kept pixels come after it.
    """
    assert isinstance(work.model, Completes)
    options: dict[str, Any] = {"rounds": rounds, "seed": list(work.seeds), **work.sampler}
    yield from work.model.complete(work.picture("image"), work.c, mask=_mask(work, keep), **options)


def _complete_count(work: Work, *, keep: float = 0.5, rounds: int | None = None) -> int:
    assert isinstance(work.model, Completes)
    return work.model.complete_count(_mask(work, keep), rounds, **work.sampler)


def _mask(work: Work, keep: float) -> Float[Tensor, "b 1 h w"]:
    """Return the mask of the part to paint: what was brushed, or the lower rows."""
    if "mask" in work.pictures:
        return work.picture("mask")
    return _lower(work.model.spec, keep).repeat(len(work.seeds), 1, 1, 1)


def edit(
    work: Work,
    *,
    strength: Annotated[float, Field(gt=0, le=1)] = _DEFAULT_STRENGTH,
    rounds: Annotated[int, Field(ge=1, le=100)] | None = None,
    feather: Annotated[int, Field(ge=0, le=64)] = 0,
) -> Iterator[Images]:
    """Change a picture as the prompt says, all of it or where you brush.

    Args:
        strength: how far to move from the picture; 1 repaints it completely.
        rounds: how often to repeat each step, so that the new part agrees with the kept part; by
            default 4 times where you brush, else once.
        feather: width in pixels of the blend around what you brush.
    """
    assert isinstance(work.model, Edits)
    options: dict[str, Any] = {"strength": strength, "seed": list(work.seeds), **work.sampler}
    if rounds is not None:
        if _missing_options(type(work.model)):
            raise LimnerError(f"{work.model.name} models take each step once; leave rounds out")
        options["rounds"] = rounds
    image = work.picture("image")
    if "mask" not in work.pictures:
        yield from work.model.edit(image, work.c, mask=None, **options)
        return
    mask, share = feather_mask(work.picture("mask"), feather)
    for x in work.model.edit(image, work.c, mask=mask, **options):
        is_blended = feather and x.shape == image.shape  # a preview may be smaller
        yield torch.lerp(image.to(x), x, share.to(x)) if is_blended else x


def feather_mask(
    mask: Float[Tensor, "b 1 h w"], pixels: int
) -> tuple[Float[Tensor, "b 1 h w"], Float[Tensor, "b 1 h w"]]:
    """Widen a mask, and return the weights that blend the painted picture in.

    >>> wider, share = feather_mask(torch.tensor([[[[0.0, 0, 0, 0, 0, 1, 1, 1]]]]), 2)
    >>> wider.flatten().tolist()
    [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    >>> [round(value, 2) for value in share.flatten().tolist()]
    [0.0, 0.0, 0.0, 0.33, 0.67, 1.0, 1.0, 1.0]

    Args:
        mask: 1 where to paint, 0 where to keep.
        pixels: width of the edge in pixels.

    Returns:
        the wider mask, and the weight of the painted picture: 1 in the mask, falling around it.
    """
    wider = share = mask
    for i in range(1, pixels + 1):
        wider = F.max_pool2d(wider, 3, 1, 1)
        share = torch.maximum(share, wider * (1 - i / (pixels + 1)))
    return wider, share


def _edit_count(
    work: Work, *, strength: float = _DEFAULT_STRENGTH, rounds: int | None = None, feather: int = 0
) -> int:
    del rounds, feather
    assert isinstance(work.model, Edits)
    return work.model.edit_count(strength, **work.sampler)


def _missing_options(model: type) -> Sequence[str]:
    assert issubclass(model, Edits)
    return () if "rounds" in signature(model.edit).parameters else ("rounds",)


def rounding_remark(work: Work, options: Mapping[str, Any]) -> str:
    """Report the effective strength if rounding to whole steps changes it; else return ""."""
    assert isinstance(work.model, Edits)
    strength: float = options.get("strength", _DEFAULT_STRENGTH)
    actual = work.model.effective_strength(strength, **work.sampler)
    if abs(actual - strength) < _MIN_REPORTED_ROUNDING:
        return ""
    known = work.model.sample_schema(work.model.config)["properties"]
    advice = "; give more sampler.steps" if "steps" in known else ""
    return f"strength {strength:g} is rounded to {actual:.2g} in whole steps{advice}"


EDIT = Task(
    "Change a picture",
    edit,
    Edits,
    refusal="cannot edit pictures; these can",
    example="limner train pixelcnn mnist",
    inputs={"image": True, "mask": False},
    frames=_edit_count,
    missing_options=_missing_options,
    remark=rounding_remark,
)
COMPLETE = Task(
    "Complete a picture",
    complete,
    Completes,
    inputs={"image": True, "mask": False},
    frames=_complete_count,
)


def edit_sheet(
    files: Sequence[Path],
    request: SamplingRequest,
    *,
    keep: float | None = None,
    mask: Path | None = None,
    strength: float | None = None,
    rounds: int | None = None,
    feather: int | None = None,
    device: str = "auto",
) -> tuple[Sheet, SamplingRequest]:
    """Repaint pictures, or parts of them, with a progress bar.

    Args:
        files: the pictures. Each gets a row of the sheet: the picture, the part that is kept (if
            any), and `request.n` variations.
        request: model, number of variations, seeds and options; one label or prompt for all.
            Without a model, the one stored in the first picture, if that can edit.
        keep: share of the height to keep, from the top; at least one row, at most all but one.
        mask: a picture file that is light where to repaint.
        strength: how far to move from the repainted pixels, in (0, 1]; for models that edit. By
            default 0.6, or 1 if a part of the picture is kept.
        rounds: how often each step is repeated, or a completion improved; by default the number
            that the model sets.
        feather: width in pixels of the blend around the repainted part.
        device: device to run on.

    Returns:
        the sheet, and the request with every option written out.

    Raises:
        LimnerError: the model cannot do this, or a file is not a picture.
    """
    if not files:
        raise LimnerError("no picture to edit is given; type limner edit IMAGE -m MODEL")
    if keep is not None and mask is not None:
        raise LimnerError("give --keep or --mask, not both")
    without_instructions = replace(EDIT, excluded=Follows)
    request = with_stored_model(request, files[0], without_instructions, COMPLETE)
    work = open_work(request, device, single=True)
    if isinstance(work.model, Follows):
        raise LimnerError(
            f"{work.model.name} models change a whole picture by instructions; give --instruct "
            "'make the dog blue', and leave --prompt, --mask and --keep out"
        )
    task, spec = able_task(work.model, EDIT, COMPLETE), work.model.spec
    inputs = read_pictures(files, spec)
    work, region = work.for_each(inputs), None
    options: dict[str, Any]
    if task is EDIT:
        if mask is not None or keep is not None:
            region = read_mask(mask, spec) if mask else _lower(spec, keep or 0)
            work = replace(work, pictures={**work.pictures, "mask": region})
        default = _DEFAULT_STRENGTH if region is None else 1.0
        options = {"strength": strength or default, "rounds": rounds, "feather": feather or 0}
        if feather and region is None:
            raise LimnerError("--feather blends the edge of a part; give --mask or --keep, too")
    elif feather is not None:
        raise LimnerError(
            f"{work.model.name} models fit the new part exactly to the kept pixels; leave "
            "--feather out"
        )
    elif strength is not None:
        raise LimnerError(
            f"{work.model.name} models repaint a part without using its old pixels; leave "
            "--strength out"
        )
    else:
        options = {"keep": 0.5 if keep is None else keep, "rounds": rounds}
        region = read_mask(mask, spec) if mask else _lower(spec, options["keep"])
        if mask:
            work = replace(work, pictures={**work.pictures, "mask": region})
    (images,) = task.finish(work, **options)
    columns = [to_uint8(inputs)[:, None]]
    if region is not None:
        columns.append(to_uint8(inputs * (1 - region))[:, None])
    grid = torch.cat([*columns, images.unflatten(0, (-1, request.n))], 1)
    sheet = Sheet(grid.flatten(0, 1), grid.shape[1], task="edit")
    return sheet, request.with_sampler(work.sampler)


def _lower(spec: ImageSpec, keep: float) -> Float[Tensor, "1 1 h w"]:
    """Return a mask that is 1 in the rows that are not kept."""
    mask = torch.ones(1, 1, spec.height, spec.width)
    mask[:, :, : kept_row_count(spec, keep)] = 0
    return mask
