"""The bundled objects that scenes are composed of, cut out, in any colour and size.

`tools/build_sprites.py` makes the archive: a few hundred objects, each drawn by several artists.
"""

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files

import numpy as np
from PIL import Image

from limner.contract.errors import LimnerError, unknown
from limner.data.recolouring import COLOURS, Colour, nearest, recoloured

STYLES = ("3d", "flat", "line", "noto")
"""The artists: Fluent Emoji in three styles, and Noto Emoji."""
_KEPT, _KEPT_SIZED = 6000, 4000  # sprites in memory: as drawn or recoloured, and reduced


@dataclass(frozen=True)
class Object:
    """An object of the vocabulary.

    Args:
        name: in simple words, without an article.
        plural: of it.
        ruling: the colour that rules each artist's picture; None where several do, and the picture
            cannot take another.
        natural: the name of that colour; None where it has none.
    """

    name: str
    plural: str
    ruling: dict[str, Colour | None]
    natural: dict[str, str | None]

    def __hash__(self) -> int:
        return hash(self.name)

    def colours(self, style: str) -> tuple[str, ...]:
        """What colours it can have, as an artist drew it."""
        return tuple(COLOURS) if self.ruling[style] else ()


@cache
def _asset(name: str) -> bytes:
    """A bundled file."""
    asset = files("limner.data") / "assets" / name
    if not asset.is_file():
        raise LimnerError(
            f"the bundled sprites are missing (limner/data/assets/{name}); reinstall limner, "
            "or build them with python tools/build_sprites.py"
        )
    return asset.read_bytes()


@cache
def _archive() -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(_asset("sprites.zip")))


@cache
def digest() -> str:
    """A sha256 of the vocabulary and its pictures."""
    return hashlib.sha256(_asset("objects.jsonl") + _asset("sprites.zip")).hexdigest()


@cache
def objects() -> tuple[Object, ...]:
    """The whole vocabulary; the most common first."""
    rows = map(json.loads, _asset("objects.jsonl").decode().splitlines())
    found = []
    for row in rows:
        ruling = {s: None if c is None else Colour(*c) for s, c in row["colours"].items()}
        natural = {s: None if c is None else nearest(c) for s, c in ruling.items()}
        found.append(Object(row["name"], row["plural"], ruling, natural))
    return tuple(found)


@cache
def object_numbers() -> dict[str, int]:
    """The number of each object of the whole vocabulary, by its name."""
    return {thing.name: number for number, thing in enumerate(objects())}


def vocabulary(asked: int | str) -> tuple[Object, ...]:
    """Some of the objects.

    Args:
        asked: "all", how many of the most common ones, or names separated by commas.

    Raises:
        LimnerError: too few, too many, or an unknown name.
    """
    known = objects()
    if asked == "all":
        return known
    if isinstance(asked, int) or asked.strip().isdecimal():
        count = int(asked)
        if not 2 <= count <= len(known):
            raise LimnerError(
                f"data.vocabulary={count}: give a number from 2 to {len(known)}, or names"
            )
        return known[:count]
    names = list(dict.fromkeys(name.strip().lower() for name in asked.split(",")))
    by_name = {thing.name: thing for thing in known}
    for name in names:
        if name not in by_name:
            raise unknown("object", name, by_name, "data.vocabulary")
    if len(names) < 2:
        raise LimnerError("data.vocabulary: scenes are composed of at least two objects")
    return tuple(by_name[name] for name in names)


@lru_cache(_KEPT)
def _sprite(name: str, style: str, colour: str | None) -> Image.Image:
    """An object as it was drawn, or in another colour; colours are multiplied by the opacity, as
    reducing needs them."""
    data = _archive().read(f"{style}/{name.replace(' ', '-')}.webp")
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    if colour is None:
        return image.convert("RGBa")
    ruling = next(thing for thing in objects() if thing.name == name).ruling[style]
    assert ruling is not None, "only objects that one colour rules take another"
    pixels = recoloured(np.asarray(image), ruling, COLOURS[colour])
    return Image.fromarray(pixels).convert("RGBa")


@lru_cache(_KEPT_SIZED)
def sprite(name: str, style: str, colour: str | None, height: int, width: int) -> Image.Image:
    """An object in RGBA.

    Args:
        name: of the object.
        style: one of `STYLES`, in which it was drawn.
        colour: one of `COLOURS`; None for the colours that it was drawn in.
        height, width: in pixels.
    """
    picture = _sprite(name, style, colour).resize((width, height), Image.Resampling.BOX)
    return picture.convert("RGBA")


@cache
def aspect(name: str, style: str) -> float:
    """Width / height of an object."""
    image = _sprite(name, style, None)
    return image.width / image.height
