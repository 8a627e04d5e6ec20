"""Writing of sheets as PNG files with their settings."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from limner.commands.request import SamplingRequest
from limner.contract.atomic_files import write_durably
from limner.contract.errors import writing
from limner.data import png

Pictures = UInt8[Tensor, "n c h w"]
_DISPLAY_SIDE = 128  # small pictures are enlarged to about this side by repeating pixels
_GAP = 8


@dataclass(frozen=True)
class Sheet:
    """A sheet of painted pictures.

    Args:
        images: the pictures, row by row.
        columns: pictures in a row of the sheet.
        frames: frames of the sampling process, if requested.
        task: the task that made them, if the prompts and seeds of a request do not suffice.
    """

    images: Pictures
    columns: int
    frames: Sequence[Pictures] = ()
    task: str = ""


def write_sheet(
    sheet: Sheet,
    request: SamplingRequest,
    out: Path,
    *,
    separate: bool = False,
    enlarge: int | None = None,
    strip: bool = False,
    gif: bool = False,
    processing: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write a sheet as PNG files that store how they were made.

    Args:
        sheet: the painted pictures.
        request: the settings that they were painted with.
        out: the PNG file.
        separate: whether to write a file for each picture, NAME-0.png, NAME-1.png, ..., in place of
            one grid.
        enlarge: integer factor of the sides; if None, pictures get sides of about 128.
        strip: whether to write the frames as NAME-strip.png, too.
        gif: whether to write the frames as an animation, NAME.gif, too.
        processing: settings of later processing, stored in the files, too.

    Returns:
        the files.
    """
    scale = enlarge or max(1, _DISPLAY_SIDE // max(sheet.images.shape[-2:]))
    extra = dict(processing or {}) | ({"task": sheet.task} if sheet.task else {})
    settings = request.settings() | extra
    paths: list[Path] = []
    with writing(out):
        if separate:
            for i, image in enumerate(sheet.images):
                path = out.with_stem(f"{out.stem}-{i}")
                picture = png.grid(image[None], 1, scale=scale, gap=0)
                png.save_png(picture, path, request.for_picture(i).settings() | extra)
                paths.append(path)
        else:
            grid = _grid(sheet.images, sheet.columns, scale)
            png.save_png(grid, out, settings | _sheet(grid, len(sheet.images)))
            paths.append(out)
        if strip:
            path = out.with_stem(f"{out.stem}-strip")
            grid = png.strip(sheet.frames, scale=max(1, scale // 2))
            png.save_png(grid, path, settings | _sheet(grid, len(sheet.frames)))
            paths.append(path)
        if gif:
            path = out.with_suffix(".gif")
            stages = [_grid(frame, sheet.columns, scale) for frame in sheet.frames]
            write_durably(path, _animation(stages))
            paths.append(path)
    return paths


def _grid(images: Pictures, columns: int, scale: int) -> UInt8[Tensor, "c hh ww"]:
    return png.grid(images, columns, scale=scale, gap=_GAP if len(images) > 1 else 0)


def _sheet(grid: UInt8[Tensor, "c hh ww"], count: int) -> dict[str, Any]:
    """Return the setting that marks a file with several pictures: its width and height.

    A picture that is cropped from it has another size, and so is not taken for a sheet."""
    return {"sheet": [grid.shape[2], grid.shape[1]]} if count > 1 else {}


def _animation(frames: Sequence[UInt8[Tensor, "c h w"]]) -> bytes:
    """Return the bytes of a looping GIF."""
    images = [png.to_pil(frame).convert("RGB") for frame in frames]
    durations = [png.GIF_MS] * (len(images) - 1) + [10 * png.GIF_MS]
    file = io.BytesIO()
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)
    return file.getvalue()
