"""Uploads and files of pictures: every upload is decoded, reduced to a limit and encoded again.

The server uses Pillow directly, because the decoder of training data needs torch. Only raster
formats are tried; a file's size in pixels is checked before its pixels are decoded.
"""

import io
import json
import threading
import warnings
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from limner.contract.errors import LimnerError
from limner.runtime.allocator import release_memory
from limner.studio.common_files import CommonFiles
from limner.studio.parameters import read_parameters
from limner.studio.settings import MAX_UPLOAD_PIXELS
from limner.studio.tables import Painted

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF")
_MAX_SIDE = 1024  # models use fewer pixels
_MAX_SETTINGS_LETTERS = 20_000  # letters
_DECODE_LOCK = threading.Lock()
"""Held while a picture is decoded, because one of 32 megapixels takes 128 MiB."""


def store_upload(content: bytes, folder: Path) -> Painted:
    """Store an uploaded picture as a PNG without metadata; its settings are read, not stored.

    Raises:
        LimnerError: the file is not a raster picture, is damaged, or has too many pixels.
    """
    with _DECODE_LOCK:
        try:
            image, settings = _decode(content)
        finally:
            release_memory()
    file = io.BytesIO()
    image.save(file, "PNG")
    name = CommonFiles(folder).keep(file.getvalue())
    return Painted(name, image.width, image.height, settings)


def _decode(content: bytes) -> tuple[Image.Image, dict[str, Any]]:
    hint = "send a PNG, JPEG, WebP, GIF, BMP or AVIF file"
    if not content:
        raise LimnerError(f"the file is empty; {hint}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.init()
            formats = [name for name in _FORMATS if name in Image.OPEN]
            with Image.open(io.BytesIO(content), formats=formats) as image:
                if image.width * image.height > MAX_UPLOAD_PIXELS:
                    raise Image.DecompressionBombError
                settings = _settings(image)
                image.draft("RGB", (2 * _MAX_SIDE, 2 * _MAX_SIDE))
                image.load()
                return _flat(ImageOps.exif_transpose(_shrink(image))), settings
    except (LimnerError, MemoryError):
        raise
    except Image.DecompressionBombError:
        megapixels = MAX_UPLOAD_PIXELS >> 20
        raise LimnerError(
            f"the picture has too many pixels; send at most {megapixels} megapixels"
        ) from None
    except Exception:  # a damaged file can make a decoder raise anything
        raise LimnerError(f"that is not a valid picture; {hint}") from None


def _shrink(image: Image.Image) -> Image.Image:
    """Reduce a picture to the largest side, before any copy is made, in a mode for averaging."""
    if image.mode.startswith("I") or image.mode == "F":
        raise LimnerError("the picture has more than 8 bits a channel; save it with 8")
    if max(image.size) <= _MAX_SIDE:
        return image
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode == "P":
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    image.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return image


def _flat(image: Image.Image) -> Image.Image:
    """Convert a picture to RGB, with transparent parts on white."""
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


def _settings(image: Image.Image) -> dict[str, Any]:
    """Return the settings in a PNG of limner, or of a program that writes the text `parameters`."""
    text, parameters = image.info.get("limner"), image.info.get("parameters")
    if text is None and isinstance(parameters, str) and len(parameters) <= _MAX_SETTINGS_LETTERS:
        return read_parameters(parameters.replace("\0", ""))
    if not isinstance(text, str) or len(text) > _MAX_SETTINGS_LETTERS:
        return {}
    try:
        settings = json.loads(text)
        json.dumps(settings, allow_nan=False)
    except (ValueError, RecursionError):
        return {}
    return settings if isinstance(settings, dict) and "\\u0000" not in text else {}


def resize_png(path: Path, width: int) -> bytes:
    """Return a picture as a PNG of another width: reduced smoothly, or enlarged pixel by pixel.

    Raises:
        LimnerError: the file is gone or damaged.
    """
    image = _load(path)
    height = max(1, round(image.height * width / image.width))
    resampling = Image.Resampling.BICUBIC if width < image.width else Image.Resampling.NEAREST
    file = io.BytesIO()
    image.resize((width, min(height, 4 * width)), resampling).save(file, "PNG")
    return file.getvalue()


def is_sound(path: Path) -> bool:
    """Whether a picture's file exists and can be decoded."""
    try:
        _load(path)
    except LimnerError:
        return False
    return True


def _load(path: Path) -> Image.Image:
    """Read a stored file.

    Raises:
        LimnerError: the file is gone or damaged.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.load()
            return image
    except MemoryError:
        raise
    except Exception:  # a damaged file can make a decoder raise anything
        raise LimnerError("this picture's file is gone or damaged") from None
