"""Decoding of picture files to 8-bit grey or RGB, upright, on white.

    file -> `read_with` (format and limits checked, nothing decoded) -> `flatten` (first frame,
    upright, on white, 8 bits) -> `resize_to_fit` (the requested size) -> uint8 "c h w"

No file is trusted: only raster formats are tried, sizes are limited before decoding, and any error
of a decoder becomes an `UndecodableError` with a reason.
"""

import io
import math
from collections.abc import Callable
from functools import cache
from typing import IO, Literal, NamedTuple, TypeVar, cast

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from limner.contract.errors import LimnerError, first_line

PIXEL_CAP = 64 * 2**20
"""Largest number of pixels of a picture; 64 megapixels decode to 256 MB."""
BYTE_CAP = 256 * 2**20
"""Largest number of bytes of a file."""
EXTENSIONS = frozenset((
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".dib", ".avif",
    ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff", ".jp2", ".j2k", ".tga", ".ico",
))  # fmt: skip
UNSUPPORTED_EXTENSIONS = frozenset((
    ".heic", ".heif", ".svg", ".psd", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".jxl",
))  # fmt: skip
"""Suffixes of picture formats that are not read."""
UNSUPPORTED_REASON = "pictures of this format are not read; save it as PNG or JPEG"
# EPS, PDF, WMF and the like are left out, because their decoders run other programs.
_FORMATS = ("PNG", "JPEG", "MPO", "PPM", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000")
_FORMATS += ("ICO", "TGA")  # TGA has no signature, so it is tried last
_ORIENTATION_TAG = 0x0112  # EXIF tag
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Orientation -> transposition that undoes it; from 5 on, width and height are swapped."""
_SIXTEEN_BITS = 65535

Fit = Literal["crop", "pad", "stretch"]
Half = Literal["left", "right"]
Opener = Callable[[], IO[bytes]]
T = TypeVar("T")


class UndecodableError(Exception):
    """Error for a file that is not a valid picture; the message is the reason."""


class PictureHeader(NamedTuple):
    """Properties of a picture, read before decoding; width and height when upright."""

    width: int
    height: int
    mode: str
    format: str
    rotated: bool
    animated: bool


@cache
def _formats() -> list[str]:
    """Return the formats that the installed Pillow supports."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def read_with(opener: Opener, use: Callable[[Image.Image], T]) -> T:
    """Open a picture file, check its size, and return the result of `use` on it.

    Raises:
        UndecodableError: the file is empty, not a picture, too large or damaged.
    """
    try:
        opened: object = opener()
        if not hasattr(opened, "read"):
            kind = type(opened).__name__
            raise UndecodableError(f"its function open returns {kind}, not a file opened as 'rb'")
        with cast("IO[bytes]", opened) as stream:
            try:
                image = Image.open(stream, formats=_formats())
            except UnidentifiedImageError:
                stream.seek(0)
                raise UndecodableError(
                    "not a picture" if stream.read(1) else "empty file"
                ) from None
            with image:
                if image.width * image.height > PIXEL_CAP:
                    size, cap = f"{image.width} x {image.height}", PIXEL_CAP >> 20
                    raise UndecodableError(f"{size} pixels; the limit is {cap} megapixels")
                return use(image)
    except (UndecodableError, MemoryError):
        raise
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise UndecodableError(first_line(error)) from error


def check_pixels(option: str, size: tuple[int, int] | int | None) -> None:
    """Check that a size, (height, width) or the side of a square, is within the pixel limit.

    Raises:
        LimnerError: it has more pixels.
    """
    height, width = (size, size) if isinstance(size, int) else size or (1, 1)
    if height * width > PIXEL_CAP:
        raise LimnerError(
            f"data.{option}: {height} x {width} pixels are too many; the limit is "
            f"{PIXEL_CAP >> 20} megapixels, so give at most {math.isqrt(PIXEL_CAP)}"
        )


def header(image: Image.Image) -> PictureHeader:
    """Return the properties of an opened picture."""
    orientation = _orientation(image)
    width, height = image.size[::-1] if orientation >= 5 else image.size
    animated = getattr(image, "is_animated", False)
    return PictureHeader(width, height, image.mode, image.format or "", orientation > 1, animated)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 (upright) if it is missing or damaged."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # a picture with damaged metadata is still valid
        return 1
    return value if value in _TRANSPOSITIONS else 1


def is_grey(mode: str) -> bool:
    """Whether a picture of this mode is grey, at any depth, with or without transparency."""
    return mode in ("1", "L", "LA", "La", "I") or mode.startswith("I;16")


def flatten(image: Image.Image, ground: str = "white") -> Image.Image:
    """Return the first frame, upright, composited on a ground colour, in mode L or RGB."""
    grey = is_grey(image.mode)
    image.load()
    if (orientation := _orientation(image)) in _TRANSPOSITIONS:
        image = image.transpose(_TRANSPOSITIONS[orientation])
    image = _eight_bits(image)
    if image.mode == "F":
        raise UndecodableError("floating-point pixels; save it with 8 or 16 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, ground), rgba)
    return image.convert("L" if grey else "RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return a picture of 16-bit grey values in mode L, or LA if one value is transparent."""
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > _SIXTEEN_BITS:
        raise UndecodableError("grey values beyond 16 bits; save it with 8 or 16 bits")
    grey = Image.fromarray(((values + 128) // 257).astype(np.uint8))  # 65535 = 257 * 255
    if (clear := image.info.get("transparency")) is not None:
        grey.putalpha(Image.fromarray((255 * (values != clear)).astype(np.uint8)))
    return grey


def _in_srgb(image: Image.Image) -> Image.Image:
    """Convert a picture to sRGB if its colour profile is another."""
    image.load()
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK", "P", "PA"):
        return image
    try:
        input_profile = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(input_profile):
            return image
        mode = "RGBA" if image.has_transparency_data else "RGB"
        plain = image if image.mode == "CMYK" else image.convert(mode)
        srgb = ImageCms.createProfile("sRGB")
        result = ImageCms.profileToProfile(plain, input_profile, srgb, outputMode=mode)
    except (ImageCms.PyCMSError, OSError):  # ignore a broken profile
        return image
    assert result is not None
    orientation = _orientation(image)  # the conversion drops it
    return (
        result.transpose(_TRANSPOSITIONS[orientation]) if orientation in _TRANSPOSITIONS else result
    )


def upright_frame(image: Image.Image) -> UInt8[Tensor, "k h w"]:
    """Return the current frame of an opened picture, upright and in its original size.

    It has three channels, or a fourth with alpha if the picture is transparent anywhere.
    """
    if not image.has_transparency_data:
        picture = flatten(_in_srgb(image)).convert("RGB")
    else:
        image = _in_srgb(image)
        orientation = _orientation(image)
        picture = (
            image.transpose(_TRANSPOSITIONS[orientation])
            if orientation in _TRANSPOSITIONS
            else image
        )
        picture = _eight_bits(picture).convert("RGBA")
        if picture.getchannel("A").getextrema()[0] == 255:  # fully opaque
            picture = picture.convert("RGB")
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def resize_to_fit(image: Image.Image, height: int, width: int, fit: Fit) -> Image.Image:
    """Resize a picture with antialiasing: centre crop, pad with white, or stretch."""
    size, bicubic = (width, height), Image.Resampling.BICUBIC
    if image.size == size:
        return image
    if fit == "crop":
        return ImageOps.fit(image, size, bicubic)
    if fit == "pad":
        return ImageOps.pad(image, size, bicubic, color="white")
    return image.resize(size, bicubic)


def to_pixels(
    image: Image.Image,
    channels: int,
    height: int,
    width: int,
    fit: Fit,
    half: Half | None = None,
    ground: str = "white",
) -> UInt8[Tensor, "c h w"]:
    """Convert an opened picture, or one half of it, to sRGB pixels of a given shape."""
    image = flatten(_in_srgb(image), ground)
    if half:
        middle = image.width // 2
        left, right = (0, middle) if half == "left" else (image.width - middle, image.width)
        image = image.crop((left, 0, right, image.height))
    image = resize_to_fit(image.convert("L" if channels == 1 else "RGB"), height, width, fit)
    return torch.from_numpy(np.array(image)).view(height, width, channels).permute(2, 0, 1)
