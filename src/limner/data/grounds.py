"""Grounds of scenes: plain colours, and a few simple settings."""

import random
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from limner.data.recolouring import Colour, rgb


class Ground(NamedTuple):
    """The ground of a scene.

    Args:
        words: phrases for it, which follow the objects in a caption.
        light: whether black lines are visible on it.
        colours: colours of objects that are hard to see on it.
    """

    words: tuple[str, ...]
    light: bool
    colours: tuple[str, ...] = ()


_PLAIN = {
    "white": Colour(1.0, 0.0, 0),
    "black": Colour(0.19, 0.005, 270),
    "gray": Colour(0.78, 0.005, 270),
    "red": Colour(0.60, 0.17, 25),
    "orange": Colour(0.80, 0.12, 62),
    "yellow": Colour(0.92, 0.11, 98),
    "green": Colour(0.80, 0.11, 145),
    "blue": Colour(0.72, 0.11, 250),
    "purple": Colour(0.62, 0.12, 305),
    "pink": Colour(0.87, 0.07, 355),
    "brown": Colour(0.50, 0.07, 55),
}
_COLOUR_WORDS = (
    "on {a} {colour} background",
    "on {a} {colour} background",
    "on {colour}",
    "against {a} {colour} background",
)


def _colour_phrases(colour: str) -> tuple[str, ...]:
    a = "an" if colour == "orange" else "a"
    return tuple(words.format(a=a, colour=colour) for words in _COLOUR_WORDS)


GROUNDS = {
    **{
        name: Ground(
            _colour_phrases(name), colour.lightness > 0.7, () if name == "white" else (name,)
        )
        for name, colour in _PLAIN.items()
    },
    "grass": Ground(("on the grass", "on green grass", "in a meadow"), True, ("green",)),
    "sea": Ground(("in the sea", "in the water", "at sea"), True, ("blue",)),
    "night sky": Ground(("in the night sky", "at night", "under the stars"), False, ("black",)),
    "snow": Ground(("in the snow", "on the snow"), True, ("white",)),
    "beach": Ground(("on the beach", "on the sand"), True),
}
"""Name -> ground."""
PLAIN = tuple(_PLAIN)
"""Names of the plain grounds."""
_VARIANTS = 24  # variants of each ground, with different shades and horizons


@lru_cache(2048)
def ground(name: str, variant: int, size: int) -> Image.Image:
    """Return a ground as a square picture, which is cached and must not be drawn on.

    Args:
        name: one of `GROUNDS`.
        variant: any number; variants differ in shade and horizon.
        size: side in pixels.
    """
    rng = random.Random(f"{name}/{variant % _VARIANTS}")
    if name in _PLAIN:
        return Image.new("RGB", (size, size), _shade(_PLAIN[name], rng, name == "white"))
    return _SETTINGS[name](rng, size)


def _shade(colour: Colour, rng: random.Random, is_white: bool = False) -> tuple[int, int, int]:
    if is_white:
        return 255, 255, 255
    light = colour.lightness + 0.05 * (2 * rng.random() - 1)
    return rgb(colour._replace(lightness=light, hue=colour.hue + 12 * (rng.random() - 0.5)))


def _bands(
    upper: Colour, lower: Colour, horizon: float, rng: random.Random, size: int, wave: float
) -> Image.Image:
    """Draw a sky above a ground, with a slightly curved horizon, at twice the size."""
    side = 2 * size
    image = Image.new("RGB", (side, side), _shade(upper, rng))
    x = np.linspace(0, 1, 33)
    y = horizon + wave * np.sin(2 * np.pi * (x * (0.5 + rng.random()) + rng.random()))
    edge = [(side * float(a), side * float(b)) for a, b in zip(x, y)]
    ImageDraw.Draw(image).polygon([*edge, (side, side), (0, side)], fill=_shade(lower, rng))
    return image


def _grass(rng: random.Random, size: int) -> Image.Image:
    sky, grass = Colour(0.90, 0.05, 235), Colour(0.74, 0.15, 138)
    image = _bands(sky, grass, 0.35 + 0.3 * rng.random(), rng, size, 0.03)
    return image.resize((size, size), Image.Resampling.BOX)


def _beach(rng: random.Random, size: int) -> Image.Image:
    sky, sand = Colour(0.86, 0.08, 225), Colour(0.88, 0.07, 85)
    image = _bands(sky, sand, 0.4 + 0.25 * rng.random(), rng, size, 0.02)
    return image.resize((size, size), Image.Resampling.BOX)


def _snow(rng: random.Random, size: int) -> Image.Image:
    sky, snow = Colour(0.80, 0.05, 240), Colour(0.97, 0.008, 240)
    image = _bands(sky, snow, 0.4 + 0.25 * rng.random(), rng, size, 0.03)
    draw, side = ImageDraw.Draw(image), 2 * size
    for _ in range(14):
        x, y, r = side * rng.random(), side * rng.random(), side * 0.009
        draw.ellipse((x - r, y - r, x + r, y + r), fill="white")
    return image.resize((size, size), Image.Resampling.BOX)


def _sea(rng: random.Random, size: int) -> Image.Image:
    sky, sea = Colour(0.91, 0.04, 225), Colour(0.62, 0.13, 240)
    image = _bands(sky, sea, 0.2 + 0.25 * rng.random(), rng, size, 0.01)
    draw, side = ImageDraw.Draw(image), 2 * size
    crest = rgb(Colour(0.72, 0.10, 235))
    for _ in range(9):
        x, y = side * rng.random(), side * (0.5 + 0.5 * rng.random())
        width = side * (0.08 + 0.08 * rng.random())
        draw.arc((x, y, x + width, y + width / 3), 180, 360, fill=crest, width=max(2, side // 64))
    return image.resize((size, size), Image.Resampling.BOX)


def _night(rng: random.Random, size: int) -> Image.Image:
    side = 2 * size
    top, low = (np.array(rgb(Colour(light, 0.07, 272))) for light in (0.22, 0.36))
    rows = top + np.linspace(0, 1, side)[:, None] * (low - top)
    pixels = np.broadcast_to(rows[:, None], (side, side, 3)).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    draw = ImageDraw.Draw(image)
    for _ in range(26):
        x, y, r = (
            side * rng.random(),
            side * rng.random(),
            side * (0.004 + 0.005 * rng.random()),
        )
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(250, 246, 220))
    return image.resize((size, size), Image.Resampling.BOX)


_SETTINGS = {
    "grass": _grass,
    "sea": _sea,
    "night sky": _night,
    "snow": _snow,
    "beach": _beach,
}
