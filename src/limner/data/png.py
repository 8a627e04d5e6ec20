"""Picture files: grids, strips, and PNG files with their settings."""

import base64
import io
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from limner.contract.atomic_files import write_durably
from limner.contract.errors import LimnerError
from limner.contract.image import to_uint8

SETTINGS_KEY = "limner"
"""Keyword of the PNG text chunk with a picture's settings as JSON."""
GIF_MS = 80
"""Milliseconds per frame of an animation; the last is shown 10 times as long."""
_WHITE = 255


def grid(
    images: UInt8[Tensor, "n c h w"], columns: int | None = None, *, scale: int = 1, gap: int = 2
) -> UInt8[Tensor, "c hh ww"]:
    """Arrange images in rows on white.

    Args:
        images: at least one image.
        columns: images per row; None for about as many as rows.
        scale: integer factor of the sides; each pixel becomes a square.
        gap: width of the white gap between and around images, in pixels.
    """
    n, c, h, w = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    images = images.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    h, w = h * scale + gap, w * scale + gap
    sheet = images.new_full((c, math.ceil(n / columns) * h + gap, columns * w + gap), _WHITE)
    for i, image in enumerate(images):
        top, left = i // columns * h + gap, i % columns * w + gap
        sheet[:, top : top + h - gap, left : left + w - gap] = image
    return sheet


def strip(
    frames: Sequence[UInt8[Tensor, "n c h w"]], *, scale: int = 1, gap: int = 2
) -> UInt8[Tensor, "c hh ww"]:
    """Arrange the frames of n pictures: one row per picture, one column per frame."""
    rows = torch.stack(list(frames), dim=1).flatten(0, 1)
    return grid(rows, len(frames), scale=scale, gap=gap)


def sheet(x: Tensor, columns: int | None = None, *, scale: int = 1) -> Image.Image:
    """Arrange pictures as one picture of Pillow, which notebooks show.

    Args:
        x: the pictures, "b c h w" in [-1, 1].
        columns: pictures per row; None for about as many as rows.
        scale: integer factor of the sides; each pixel becomes a square.

    Raises:
        LimnerError: there are no pictures, or they are not in such a tensor.
    """
    if x.ndim != 4 or not x.is_floating_point() or not len(x):
        shape = " x ".join(map(str, x.shape))
        raise LimnerError(
            f"{x.dtype} of {shape or 'one number'} is no batch of pictures; give n x channels x "
            "height x width numbers in [-1, 1], or x[None] for one picture"
        )
    return to_pil(grid(to_uint8(x), columns, scale=scale, gap=2 if len(x) > 1 else 0))


def to_pil(image: UInt8[Tensor, "c h w"]) -> Image.Image:
    """Convert an image for Pillow; two channels become red and green."""
    pixels = image.cpu()
    if len(pixels) == 2:
        pixels = torch.cat([pixels, torch.zeros_like(pixels[:1])])
    if len(pixels) not in (1, 3, 4):
        raise LimnerError(f"an image file has 1, 3 or 4 channels, not {len(pixels)}")
    array = pixels.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array[:, :, 0] if len(pixels) == 1 else array)


def png(image: UInt8[Tensor, "c h w"], settings: Mapping[str, Any] | None = None) -> bytes:
    """Encode an image as a PNG file, with its settings.

    The settings are stored as JSON in an iTXt chunk `limner`, and in `parameters` in the form of
    other programs: the prompt, then "Steps: 20, Seed: 1, ...".
    """
    text = PngImagePlugin.PngInfo()
    if settings is not None:
        text.add_itxt(SETTINGS_KEY, json.dumps(settings, ensure_ascii=False, sort_keys=True))
        text.add_itxt("parameters", _parameters(settings))
    file = io.BytesIO()
    to_pil(image).save(file, "PNG", pnginfo=text)
    return file.getvalue()


def save_png(
    image: UInt8[Tensor, "c h w"], path: Path | str, settings: Mapping[str, Any] | None = None
) -> None:
    """Write a PNG file, completely or not at all; see `png`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, png(image, settings))


def read_settings(path: Path | str) -> dict[str, Any] | None:
    """Read the settings that `save_png` stored, or None; pixels are not decoded.

    Raises:
        LimnerError: there is no such file, or it is not a PNG file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=["PNG"]) as image:
                text = image.info.get(SETTINGS_KEY)
    except FileNotFoundError:
        raise LimnerError(f"there is no file {path}") from None
    except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        if isinstance(error, OSError) and error.strerror:  # from the system, not from the decoder
            raise LimnerError(f"cannot read {path}: {error.strerror}") from None
        raise LimnerError(f"{path} is not a valid PNG file ({error})") from None
    if not isinstance(text, str):
        return None
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return settings if isinstance(settings, dict) else None


def data_uri(image: UInt8[Tensor, "c h w"]) -> str:
    """Return an image as a data URI for `src` in a web page."""
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


def _parameters(settings: Mapping[str, Any]) -> str:
    """Return the common text form: a line with the prompt, then the rest as "Key: value"."""
    words = {"cfg": "CFG", "guidance": "CFG scale"}
    fields = (
        f"{words.get(key, key.replace('_', ' ').capitalize())}: {value}"
        for key, value in _flat(settings).items()
        if key != "prompt"
    )
    return f"{settings.get('prompt') or ''}\n{', '.join(fields)}".strip()


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value)
        elif value is not None:
            flat[key] = value
    return flat
