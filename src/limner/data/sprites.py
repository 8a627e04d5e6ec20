"""The bundled objects of scenes, with transparency, in any colour and size.

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
from limner.data.recolouring import COLOUR_VALUES, Colour, nearest_name, recolour

STYLES = ("3d", "flat", "line", "noto")
"""The artists: Fluent Emoji in three styles, and Noto Emoji."""
_KEPT, _KEPT_SIZED = 6000, 4000  # cached sprites: in full size, and resized


@dataclass(frozen=True)
class Object:
    """An object of the vocabulary.

    Args:
        name: name in simple words, without an article.
        plural: plural of the name.
        ruling: style -> dominant colour of the picture; None if there are several, so that the
            picture cannot be recoloured.
        natural: style -> name of that colour; None without a name.
    """

    name: str
    plural: str
    ruling: dict[str, Colour | None]
    natural: dict[str, str | None]

    def __hash__(self) -> int:
        return hash(self.name)

    def colours(self, style: str) -> tuple[str, ...]:
        """Return the colours that it can have in a style."""
        return tuple(COLOUR_VALUES) if self.ruling[style] else ()


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
    """Return a sha256 of the vocabulary and its pictures."""
    return hashlib.sha256(_asset("objects.jsonl") + _asset("sprites.zip")).hexdigest()


@cache
def objects() -> tuple[Object, ...]:
    """Return the whole vocabulary, the most common objects first."""
    rows = map(json.loads, _asset("objects.jsonl").decode().splitlines())
    things = []
    for row in rows:
        ruling = {s: None if c is None else Colour(*c) for s, c in row["colours"].items()}
        natural = {s: None if c is None else nearest_name(c) for s, c in ruling.items()}
        things.append(Object(row["name"], row["plural"], ruling, natural))
    return tuple(things)


@cache
def object_numbers() -> dict[str, int]:
    """Return name -> number of each object in the whole vocabulary."""
    return {thing.name: number for number, thing in enumerate(objects())}


def vocabulary(selection: int | str) -> tuple[Object, ...]:
    """Select objects of the vocabulary.

    Args:
        selection: "all", a number of the most common objects, or names separated by commas.

    Raises:
        LimnerError: there are too few or too many objects, or a name is unknown.
    """
    all_objects = objects()
    if selection == "all":
        return all_objects
    if isinstance(selection, int) or selection.strip().isdecimal():
        count = int(selection)
        if not 2 <= count <= len(all_objects):
            raise LimnerError(
                f"data.vocabulary={count}: give a number from 2 to {len(all_objects)}, or names"
            )
        return all_objects[:count]
    names = list(dict.fromkeys(name.strip().lower() for name in selection.split(",")))
    by_name = {thing.name: thing for thing in all_objects}
    for name in names:
        if name not in by_name:
            raise unknown("object", name, by_name, "data.vocabulary")
    if len(names) < 2:
        raise LimnerError("data.vocabulary has one object; scenes need at least two")
    return tuple(by_name[name] for name in names)


@lru_cache(_KEPT)
def _sprite(name: str, style: str, colour: str | None) -> Image.Image:
    """Return an object in its own or another colour, in full size.

    Colours are premultiplied by alpha, as resizing requires."""
    data = _archive().read(f"{style}/{name.replace(' ', '-')}.webp")
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    if colour is None:
        return image.convert("RGBa")
    ruling = next(thing for thing in objects() if thing.name == name).ruling[style]
    assert ruling is not None, "only objects with a dominant colour can be recoloured"
    pixels = recolour(np.asarray(image), ruling, COLOUR_VALUES[colour])
    return Image.fromarray(pixels).convert("RGBa")


@lru_cache(_KEPT_SIZED)
def sprite(name: str, style: str, colour: str | None, height: int, width: int) -> Image.Image:
    """Return an object in RGBA.

    Args:
        name: name of the object.
        style: one of `STYLES`.
        colour: one of `COLOUR_VALUES`; None for its own colours.
        height, width: size in pixels.
    """
    picture = _sprite(name, style, colour).resize((width, height), Image.Resampling.BOX)
    return picture.convert("RGBA")


@cache
def aspect(name: str, style: str) -> float:
    """Return width / height of an object."""
    image = _sprite(name, style, None)
    return image.width / image.height
