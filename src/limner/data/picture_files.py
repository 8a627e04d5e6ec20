"""Reading of picture files: for a model, in its size, or whole."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import Images, ImageSpec, from_levels, from_uint8, to_levels
from limner.data import png
from limner.data.decode import (
    EXTENSIONS,
    UNSUPPORTED_EXTENSIONS,
    UNSUPPORTED_REASON,
    UndecodableError,
    read_with,
    to_pixels,
    upright_frame,
)
from limner.data.files import folder_files

_ANIMATED_FORMATS = ("GIF", "WEBP", "PNG")  # formats with animations


def read_pictures(files: Path | str | Sequence[Path | str], spec: ImageSpec) -> Images:
    """Read one or several picture files for a model, "b c h w" in [-1, 1]; see `read_picture`."""
    paths = [files] if isinstance(files, (str, Path)) else files
    if not paths:
        raise LimnerError("no picture file is given; give some, as ['picture.png']")
    return torch.cat([read_picture(path, spec) for path in paths])


def read_picture(file: Path | str, spec: ImageSpec) -> Images:
    """Read a picture file for a model, "1 c h w": cropped, in the model's size, colours and levels.

    Raises:
        LimnerError: there is no such file, it is not a valid picture, or it is a sheet of several.
    """
    return _read(Path(file), spec, "white")


def _read(path: Path, spec: ImageSpec, ground: str) -> Images:
    """See `read_picture`; transparent parts get the colour `ground`."""
    sheet = (read_own_settings(path) or {}).get("sheet")
    opener = partial(path.open, "rb")
    shape = {"channels": spec.channels, "height": spec.height, "width": spec.width}
    try:
        if sheet and sheet == [*read_with(opener, lambda image: image.size)]:
            raise LimnerError(
                f"'{path}' shows several pictures side by side; crop one and give that, or "
                "paint with limner sample --separate"
            )
        pixels = read_with(opener, partial(to_pixels, fit="crop", ground=ground, **shape))
    except UndecodableError as error:
        raise _not_a_picture(path, error) from None
    return from_levels(to_levels(from_uint8(pixels[None]), spec.levels), spec.levels)


def _not_a_picture(path: Path, error: UndecodableError) -> LimnerError:
    """Return the error for a file that cannot be decoded, with the reason."""
    if path.suffix.lower() in UNSUPPORTED_EXTENSIONS:
        return LimnerError(f"'{path}': {UNSUPPORTED_REASON}")
    return LimnerError(f"cannot read '{path}': {error}")


def read_own_settings(path: Path) -> dict[str, Any] | None:
    """Return the settings that limner stored in a picture; None for any other file.

    Raises:
        LimnerError: there is no such file.
    """
    _check_file(path)
    try:
        return png.read_settings(path)
    except LimnerError:  # another format than the name says, or a file that decoding will refuse
        return None


def _check_file(path: Path) -> None:
    """Check that a path is a file.

    Raises:
        LimnerError: it is a folder, or there is none.
    """
    if path.is_dir():
        raise LimnerError(f"'{path}' is a folder; give a picture in it")
    if not path.is_file():
        raise LimnerError(f"there is no file '{path}'")


def picture_files(paths: Sequence[Path]) -> list[Path]:
    """Return the files, with each folder replaced by the pictures in it.

    Raises:
        LimnerError: a folder has no pictures.
    """
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        inside = [path / name for name in folder_files(path).names]
        pictures = [file for file in inside if file.suffix.lower() in EXTENSIONS]
        if not pictures:
            raise LimnerError(f"'{path}' contains no pictures; give another folder, or files")
        files += pictures
    return files


class Animation(NamedTuple):
    """The frames of a picture file in their original size; most files have one frame.

    Args:
        frames: colour pictures, with or without alpha as the fourth channel.
        milliseconds: duration of each frame.
        loop: number of repetitions; 0 repeats without end.
        format: Pillow's name of the file format.
    """

    frames: UInt8[Tensor, "n c h w"]
    milliseconds: Sequence[int] = (0,)
    loop: int = 0
    format: str = "PNG"

    @property
    def suffix(self) -> str:
        """Suffix of the file to write; a single picture becomes a PNG."""
        return f".{self.format.lower()}" if len(self.frames) > 1 else ".png"


def read_whole(file: Path | str) -> Images:
    """Read a picture file in its original size, "1 k h w", in colour, with alpha if it has any.

    Raises:
        LimnerError: there is no such file, or it is not a valid picture.
    """
    return from_uint8(read_frames(Path(file)).frames[:1])


def read_frames(path: Path) -> Animation:
    """Read all frames of a GIF, WebP or PNG file, or the first frame of another picture file.

    Raises:
        LimnerError: there is no such file, or it is not a valid picture.
    """
    _check_file(path)
    try:
        return read_with(lambda: path.open("rb"), _frames)
    except UndecodableError as error:
        raise _not_a_picture(path, error) from None


def _frames(image: Image.Image) -> Animation:
    kind = image.format or "PNG"
    count = getattr(image, "n_frames", 1) if kind in _ANIMATED_FORMATS else 1
    frames: list[UInt8[Tensor, "k h w"]] = []
    durations: list[int] = []
    for i in range(count):
        image.seek(i)
        frames.append(upright_frame(image))
        durations.append(round(image.info.get("duration", png.GIF_MS)) if count > 1 else 0)
    if any(len(frame) == 4 for frame in frames):
        frames = [frame if len(frame) == 4 else _opaque(frame) for frame in frames]
    loop = image.info.get("loop", 1 if kind == "GIF" else 0)
    return Animation(torch.stack(frames), durations, loop, kind)


def _opaque(frame: UInt8[Tensor, "3 h w"]) -> UInt8[Tensor, "4 h w"]:
    return torch.cat([frame, torch.full_like(frame[:1], 255)])


def read_mask(path: Path, spec: ImageSpec) -> Float[Tensor, "1 1 h w"]:
    """Read a mask from a picture file, cropped like pictures.

    Returns:
        1 where the file is light, 0 where it is dark or transparent.

    Raises:
        LimnerError: see `read_picture`; or the mask is dark everywhere.
    """
    mask = (_read(path, ImageSpec(1, spec.height, spec.width), "black") > 0).float()
    if not mask.any():
        raise LimnerError(f"the mask '{path}' is dark everywhere; make the part to repaint white")
    return mask
