"""The dominant colour of a picture, and recolouring.

Colours are compared and moved in OKLCh: lightness L from 0 to 1, chroma C (0 is grey), hue h. Steps
of equal size there look about equally large (Ottosson (2020), A perceptual color space for image
processing, https://bottosson.github.io/posts/oklab).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8


class Colour(NamedTuple):
    """A colour in OKLCh; the hue in degrees."""

    lightness: float
    chroma: float
    hue: float


COLOUR_VALUES = {
    "red": Colour(0.58, 0.22, 27),
    "orange": Colour(0.74, 0.18, 55),
    "yellow": Colour(0.87, 0.17, 95),
    "green": Colour(0.66, 0.19, 143),
    "blue": Colour(0.57, 0.19, 258),
    "purple": Colour(0.50, 0.22, 305),
    "pink": Colour(0.77, 0.15, 352),
    "brown": Colour(0.42, 0.08, 48),
    "black": Colour(0.24, 0.01, 270),
    "white": Colour(0.94, 0.005, 270),
    "gray": Colour(0.62, 0.01, 270),
}
"""Name -> colour."""
_GREY_CHROMA = 0.035  # chroma below which no hue is visible
_HUE_WIDTH = 35.0  # degrees around the dominant hue that belong to it
_TINTED_CHROMA = 0.06  # chroma below which a hue counts as tinted grey
_MAX_COLOUR_DISTANCE = 0.014  # largest distance to a colour at which its name applies

_RGB_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    dtype=np.float32,
)
_LMS_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ],
    dtype=np.float32,
)
_LMS_TO_RGB = np.linalg.inv(_RGB_TO_LMS.astype(np.float64)).astype(np.float32)
_LAB_TO_LMS = np.linalg.inv(_LMS_TO_LAB.astype(np.float64)).astype(np.float32)
_LEVELS = np.arange(256, dtype=np.float32) / 255
_LINEAR_LEVELS = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4)


def to_oklab(rgb: UInt8[np.ndarray, "... 3"]) -> Float[np.ndarray, "... 3"]:
    """Convert sRGB to (L, a, b)."""
    return np.cbrt(_LINEAR_LEVELS[rgb] @ _RGB_TO_LMS.T) @ _LMS_TO_LAB.T


def from_oklab(lab: Float[np.ndarray, "... 3"]) -> UInt8[np.ndarray, "... 3"]:
    """Convert (L, a, b) to the nearest sRGB, channel by channel."""
    linear = np.clip((lab @ _LAB_TO_LMS.T) ** 3 @ _LMS_TO_RGB.T, 0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * curved).astype(np.uint8)


def rgb(colour: Colour) -> tuple[int, int, int]:
    """Convert a colour to sRGB."""
    angle = np.deg2rad(colour.hue)
    a, b = colour.chroma * np.cos(angle), colour.chroma * np.sin(angle)
    red, green, blue = from_oklab(np.array([colour.lightness, a, b], dtype=np.float32)).tolist()
    return red, green, blue


def nearest_name(colour: Colour) -> str | None:
    """Return the name of a colour; None if no name is near enough, such as for beige."""

    def distance(name: str) -> float:
        other = COLOUR_VALUES[name]
        turn = np.deg2rad(colour.hue - other.hue)
        chroma = colour.chroma**2 + other.chroma**2
        chroma -= 2 * colour.chroma * other.chroma * np.cos(turn)
        return float(2 * chroma + 0.5 * (colour.lightness - other.lightness) ** 2)

    name = min(COLOUR_VALUES, key=distance)
    return name if distance(name) < _MAX_COLOUR_DISTANCE else None


def dominant_colour(rgba: UInt8[np.ndarray, "h w 4"]) -> Colour | None:
    """Return the dominant colour of a picture; None if there are several.

    A hue is dominant if most of the chroma is within 35 degrees of it, on at least a fifth of the
    surface (such as the paint of a car), or on half of it for a weak hue. Grey is dominant if few
    pixels have a hue and the picture is even and light.
    """
    lab, surface = to_oklab(rgba[..., :3]), rgba[..., 3].astype(np.float32) / 255
    chroma, hue = np.hypot(lab[..., 1], lab[..., 2]), _hue(lab)
    area, hued = surface.sum(), surface * (chroma > _GREY_CHROMA)
    histogram = np.histogram(hue, bins=72, range=(-180, 180), weights=hued * chroma)[0]
    sums = np.array([np.roll(histogram, 3 - i)[:7].sum() for i in range(72)])
    centre = 5.0 * int(sums.argmax()) - 177.5
    dominant = hued * (np.abs(_turn(hue - centre)) < _HUE_WIDTH)
    strength = float((dominant * chroma).sum() / max(dominant.sum(), 1))
    if hued.sum() < 0.3 * area or strength < _TINTED_CHROMA:
        light = float((surface * lab[..., 0]).sum() / area)
        spread = float((surface * (lab[..., 0] - light) ** 2).sum() / area) ** 0.5
        return Colour(light, 0.0, 0.0) if light > 0.6 and spread < 0.13 else None
    share, vividness = dominant.sum() / area, (dominant * chroma).sum() / (hued * chroma).sum()
    if share < 0.22 or vividness < 0.6 or (strength < 0.1 and share < 0.5):
        return None
    weight = dominant / dominant.sum()
    centre += float((weight * _turn(hue - centre)).sum())
    return Colour(float((weight * lab[..., 0]).sum()), strength, centre)


def recolour(
    rgba: UInt8[np.ndarray, "h w 4"], was: Colour, colour: Colour
) -> UInt8[np.ndarray, "h w 4"]:
    """Replace the dominant colour of a picture.

    Args:
        rgba: the picture; its transparency is kept.
        was: its dominant colour, as returned by `dominant_colour`.
        colour: the new colour.
    """
    lab = to_oklab(rgba[..., :3])
    light, chroma, hue = lab[..., 0], np.hypot(lab[..., 1], lab[..., 2]), _hue(lab)
    if was.chroma > 0:
        distance = np.abs(_turn(hue - was.hue))
        share = np.clip(chroma / _GREY_CHROMA - 0.5, 0, 1) * np.clip((55 - distance) / 20, 0, 1)
        new_chroma = colour.chroma * np.clip(chroma / was.chroma, 0, 1.3)
        angle = np.deg2rad(colour.hue + 0.4 * np.clip(_turn(hue - was.hue), -30, 30))
    else:
        share = np.clip((light - 0.35) / 0.3, 0, 1) * np.clip(2 - chroma / _GREY_CHROMA, 0, 1)
        new_chroma, angle = np.full_like(chroma, colour.chroma), np.deg2rad(colour.hue)
    # Shading is kept, but compressed for new colours near black or white.
    scale = min(colour.lightness, 1 - colour.lightness) / 0.4
    new_light = colour.lightness + (light - was.lightness) * np.clip(scale, 0.35, 1)
    target = np.stack([new_light, new_chroma * np.cos(angle), new_chroma * np.sin(angle)], -1)
    result = lab + share[..., None] * (target - lab)
    return np.concatenate([from_oklab(result.astype(np.float32)), rgba[..., 3:]], -1)


def _hue(lab: Float[np.ndarray, "... 3"]) -> Float[np.ndarray, "..."]:
    return np.rad2deg(np.arctan2(lab[..., 2], lab[..., 1]))


def _turn(degrees: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Wrap an angle to between -180 and 180 degrees."""
    return (degrees + 180) % 360 - 180
