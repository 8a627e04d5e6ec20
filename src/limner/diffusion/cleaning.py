"""Cleaning: denoise a finished picture again, to remove the grain that the network leaves in it.

A network never removes the noise of x_t completely. What it leaves is invisible at most steps, but
stays in the picture after the last one. A finished picture x contains little noise, yet the network
can be told that it contains more; then it removes the rest and, as far as it knows pictures, no
details:

    x <- D(alpha(t) x, t),   sigma / alpha = s / (1 - s),   s = 0.1 k, ..., 0.2, 0.1   for k passes

On flow matching's straight path s is the time t; on any other schedule, t is the time with the same
noise.

Jolicoeur-Martineau, Piche-Taillefer, Tachet des Combes, Mitliagkas (2020). Adversarial score
matching and improved sampling for image generation. arXiv:2009.05475: one further evaluation after
the last step. Here the time is larger than that of the noise which is left.

A U-Net on 2 x 2 patches makes errors that repeat with the patches. So the last pass is the mean of
four estimates, of the picture shifted by 0 or 1 pixels down and right, each shifted back. Coifman,
Donoho (1995). Translation-invariant de-noising. Wavelets and statistics, pages 125-150.

In an edit with a mask, the pixels that it keeps return after each pass, as after each step of the
sampler, so that the next pass fits the others to them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import Condition, Images
from limner.contract.model import GenerativeModel
from limner.diffusion.denoising_model import DenoisingModel
from limner.diffusion.sampling import Edit
from limner.maths.denoisers import Denoiser
from limner.maths.schedules import Schedule, Times

CleaningPasses = Annotated[int, Field(ge=0, le=9)]
_INTERVALS = 10  # the passes have the noise at the last of so many even steps of a straight path
_ALIGNMENTS = ((0, 0), (0, 1), (1, 0), (1, 1))  # of a picture with the network's 2 x 2 patches


class Pass(NamedTuple):
    """A pass of cleaning.

    Args:
        t: time whose noise the denoiser is told.
        alpha: the picture's factor at this time.
        shifts: how far the picture is shifted down and right, for each estimate.
    """

    t: Times
    alpha: float
    shifts: tuple[tuple[int, int], ...]


@torch.no_grad()
def cleaning_passes(schedule: Schedule, passes: int) -> list[Pass]:
    """Return a number of passes, at most 9, in their order."""
    s = torch.arange(passes, 0, -1, dtype=torch.float64) / _INTERVALS
    times = schedule.time_of(s / (1 - s))
    shifts = [((0, 0),)] * (passes - 1) + [_ALIGNMENTS]
    return [Pass(t, float(schedule(t)[0]), s) for t, s in zip(times, shifts, strict=True)]


def clean_pictures(
    x: Images,
    D: Denoiser,
    c: Condition,
    passes: Iterable[Pass],
    edit: Edit | None = None,
) -> Iterator[Images]:
    """Yield the picture after each pass, in [-1, 1].

    Args:
        x: finished pictures.
        D: the denoiser that painted them.
        c: condition of the pictures; a conditioning image is shifted with them.
        passes: see `cleaning_passes`.
        edit: the edit that painted them; where its mask is 0, its image is kept.
    """
    for t, alpha, shifts in passes:
        total, count = torch.zeros_like(x), torch.zeros_like(x[:1, :1])
        for shift in shifts:
            estimate = D(alpha * _shift(x, shift), t, _with_shift(c, x.shape[-2:], shift)).x_hat
            total = total + _shift_back(estimate.clamp(-1, 1).to(x), shift)
            count = count + _shift_back(torch.ones_like(count), shift)
        x = total / count
        if edit is not None and edit.mask is not None:
            x = torch.lerp(edit.image.to(x), x, edit.mask.to(x))
        yield x


def check_cleaning(model: GenerativeModel, passes: int | None) -> None:
    """Refuse passes of cleaning by a model that does not denoise pixels."""
    if passes and not isinstance(model, DenoisingModel):
        raise LimnerError(
            f"sampler.clean is for upsamplers that denoise pixels, and {model.name} does not; "
            "leave it out"
        )


def clean_frames(
    frames: Iterator[Images],
    model: GenerativeModel,
    c: Condition,
    passes: int | None,
    preview: bool,
    edit: Edit | None = None,
) -> Iterator[Images]:
    """Yield a model's frames, then the picture after each pass; without a preview only the last.

    Args:
        frames: frames of a model that paints.
        model: that model; if there are passes, it denoises pixels.
        c: condition of the pictures.
        passes: number of passes; with None or 0, the frames stay as they are.
        preview: whether to yield frames on the way.
        edit: the edit that the frames show, see `clean_pictures`.
    """
    if not passes:
        yield from frames
        return
    assert isinstance(model, DenoisingModel)  # see `check_cleaning`
    x = torch.empty(0)
    for x in frames:
        if preview:
            yield x
    plan = cleaning_passes(model.schedule, passes)
    for k, picture in enumerate(clean_pictures(x, model, c, plan, edit), 1):
        if preview or k == passes:
            yield picture


def _shift(x: Tensor, shift: tuple[int, int]) -> Tensor:
    """Shift down and right by pixels; the first row and column are repeated."""
    down, right = shift
    height, width = x.shape[-2:]
    return F.pad(x, (right, 0, down, 0), mode="replicate")[..., :height, :width]


def _shift_back(x: Tensor, shift: tuple[int, int]) -> Tensor:
    """Invert `_shift`, with zeros in the last row and column, which were shifted out."""
    down, right = shift
    return F.pad(x[..., down:, right:], (0, right, 0, down))


def _with_shift(c: Condition, size: tuple[int, int], shift: tuple[int, int]) -> Condition:
    """Return the condition with its image at the picture's size, shifted."""
    if c.image is None or shift == (0, 0):
        return c
    image = F.interpolate(c.image, size, mode="bilinear", antialias=True)
    return replace(c, image=_shift(image, shift))
