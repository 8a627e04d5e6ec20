"""`scenes`: captioned pictures without repetition, composed of bundled objects, with ground truth.

Picture i of seed s depends on i and s alone. A scene has one to four objects of a vocabulary of a
few hundred, with colours, sizes, counts and relations, on a plain ground or in a simple setting, by
one of four artists. The position of each object is known exactly. The splits:

    train      compositions of pairs that training may see, except one composition in twenty
    test       the rest of these: new compositions of pairs that training has seen
    held-out   scenes with something that training never sees: one in ten pairs of objects, pairs of
               object and colour, and counted objects
"""

import hashlib
import io
import json
import random
from bisect import bisect
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from pydantic import Field
from torch import Tensor

from limner.contract.errors import LimnerError, unknown
from limner.contract.image import Images, ImageSpec
from limner.contract.layout import COLOURS, NO_OBJECT, Objects, layout_spec, write_layout
from limner.contract.noise import Noise
from limner.contract.options import Natural, Share
from limner.contract.text import text_spec
from limner.data.captions import caption
from limner.data.composition import (
    COLOUR_COUNTS,
    MAX_THINGS,
    RELATIONS,
    SKILL_SHARES,
    STYLE_SHARES,
    Box,
    Composer,
    Scene,
    Thing,
)
from limner.data.dataset import Dataset, View
from limner.data.emoji import Emoji
from limner.data.grounds import ground
from limner.data.hints import hint_spec
from limner.data.pictures import Entry, Listing, Pictures, Report, Source
from limner.data.sprites import Object, digest, object_numbers, sprite, vocabulary

ENDLESS_LENGTH = 2**40
"""Default number of pictures."""
_DEFAULT_SIZE = 128
_UNHASHED_OPTIONS = ("buckets", "reduction", "hint", "levels_by", "count")  # see `_digest`
_LISTING_LENGTH = 1000  # pictures in a listing
CACHED_SCENES = 4096
"""Number of scenes that are cached, for their pictures and captions."""


@dataclass(frozen=True, kw_only=True)
class Scenes(Source):
    """`scenes`: any number of composed pictures with captions and exact ground truth.

    Args:
        split: "train", "test", "held-out" or "all".
        seed: random seed; another seed gives other pictures.
        count: number of pictures; 0 for endless data.
        vocabulary: "all", a number of the most common objects, or names, as in "dog,cat,apple".
        skills: subjects of scenes with shares, as in "single=1,counting=2"; all by default.
        relations: relations in scenes about position, with shares in the same form.
        style: one artist, or "all".
        emoji: share of the pictures that show a single bundled emoji, by any artist.
        overlap: share of the scenes in which objects may overlap.
        grid: 16 puts objects at multiples of a sixteenth of the side, with a longer side of an even
            number of sixteenths, which networks learn sooner; objects without room shrink, and one
            on top of or inside another ignores the grid; below 14, a big and a small object may
            have the same size; 0 allows any positions and sides.
        size: side of the pictures in pixels; 128 if it is not given.
        hint: as in every source; also "mask", white on objects; "boxes", white on their boxes, each
            in a black frame; and "objects", the list of objects with positions, for detectors, see
            `limner.contract.layout`.
    """

    split: Literal["train", "test", "held-out", "all"] = "train"
    seed: Natural = 0
    count: Natural = 0
    vocabulary: int | str = "all"
    skills: str = ""
    relations: str = ""
    style: Literal["3d", "flat", "line", "noto", "all"] = "all"
    emoji: Share = 0.0
    overlap: Share = 0.0
    grid: Annotated[int, Field(ge=12, le=64)] | Literal[0] = 0
    text: bool = True
    tokens: Annotated[int, Field(ge=1, le=256)] = 32

    def listing(self, report: Report) -> Listing:
        """List the first thousand pictures as files, with their skills as classes."""
        data = self.open("scenes")

        def entry(index: int) -> Entry:
            scene, number = data.scene(index), torch.tensor([index])
            captions = data.captions(number, Noise.sampling(0, 1))
            label = scene.skill if scene else "emoji"
            return Entry(f"scene {index}", partial(_png, data, number), label, tuple(captions))

        labels = (*data.composer.skills, *(("emoji",) if self.emoji else ()))
        count = min(_LISTING_LENGTH, self.count or _LISTING_LENGTH)
        return Listing([entry(index) for index in range(count)], labels)

    def open(self, typed: str) -> "ComposedScenes":
        """Open the data set."""
        return ComposedScenes(self, typed)

    def shares(self) -> dict[str, float]:
        """Return the share of each skill."""
        return read_shares(self.skills, SKILL_SHARES, "skill", "data.skills")


def read_shares(typed: str, usual: dict[str, float], what: str, option: str) -> dict[str, float]:
    """Read shares as they are typed: in "a=2,b", a has two thirds; default shares if empty."""
    if not typed:
        return dict(usual)
    shares = dict[str, float]()
    for part in typed.split(","):
        name, equals, share = (piece.strip() for piece in part.partition("="))
        if name not in usual:
            raise unknown(what, name, usual, option)
        if name in shares:
            raise LimnerError(f"{option}: {name} is given twice; give it once")
        try:
            shares[name] = float(share) if equals else 1.0
        except ValueError:
            shares[name] = -1.0
        if not 0 < shares[name] < float("inf"):
            raise LimnerError(
                f"{option}: the share of {name} is not a positive number; give {name}=1"
            )
    return shares


class ComposedScenes(Dataset):
    """Scenes, composed on demand.

    Args:
        source: source with the options.
        typed: the source as it was typed.
    """

    def __init__(self, source: Scenes, typed: str) -> None:
        self.size = _side(source)
        self.options, self.source = source, typed
        self.endless = not source.count
        self.training = source.split in ("train", "all")
        objects = vocabulary(source.vocabulary)
        self.objects = {thing.name: thing for thing in objects}
        self.composer = _composer(source, objects)
        self.single = _single_emoji(source, self.size) if source.emoji else None
        if self.single:
            self._edges = list(accumulate(self.single.weights.tolist()))  # pyright: ignore
        self.spec = _spec(source, self.size)
        self.floors = source.levels_by == "floor"
        self.digest = self._digest()
        self._scenes: OrderedDict[int, Scene | int] = OrderedDict()

    def _digest(self) -> str:
        """Return a hash of everything that determines the pictures.

        Options added later are included only with non-default values, so that old hashes stay
        valid.
        """
        source = self.options
        options = {k: v for k, v in vars(source).items() if k not in _UNHASHED_OPTIONS}
        options |= {"hint": source.hint}
        options |= {"levels_by": "floor"} if self.floors else {}
        options |= {"count": source.count} if source.count else {}
        single = self.single.digest if self.single else None
        content = [digest(), single, options, [*self.objects], self.spec.to_json()]
        return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()

    def __len__(self) -> int:
        return self.options.count or ENDLESS_LENGTH

    def scene(self, index: int) -> Scene | None:
        """Return the scene of picture `index`; None for a single emoji."""
        item = self._item(index)
        return item if isinstance(item, Scene) else None

    def _item(self, index: int) -> Scene | int:
        """Return a scene, or the number of an emoji."""
        cached = self._scenes.get(index)
        if cached is not None:
            return cached
        rng = random.Random(f"{self.options.seed}/{index}")
        item: Scene | int
        if self.single and rng.random() < self.options.emoji:
            item = min(bisect(self._edges, rng.random() * self._edges[-1]), len(self.single) - 1)
        else:
            scene = self.composer.draw(self.options.split, rng)
            item = replace(scene, caption=caption(scene, self.objects, rng))
        self._scenes[index] = item
        if len(self._scenes) > CACHED_SCENES:
            self._scenes.popitem(last=False)
        return item

    def pixels(self, indices: Int[Tensor, "b"]) -> UInt8[Tensor, "b c h w"]:
        """Compose pictures."""
        return self._draw_pixels(self._item(index) for index in indices.tolist())

    def _draw_pixels(self, items: Iterable[Scene | int]) -> UInt8[Tensor, "b c h w"]:
        """Draw scenes, and emoji given by their numbers."""
        pictures: list[UInt8[Tensor, "c h w"]] = []
        for item in items:
            if isinstance(item, Scene):
                pictures.append(draw_pixels(item, self.spec))
            else:
                assert self.single is not None
                pictures.append(self.single.pixels(torch.tensor([item]))[0])
        return torch.stack(pictures)

    def captions(self, indices: Int[Tensor, "b"], noise: Noise) -> list[str]:
        """Return one caption of each picture; `noise` chooses among those of emoji."""
        captions = []
        for row, index in enumerate(indices.tolist()):
            item = self._item(index)
            if isinstance(item, Scene):
                captions.append(item.caption)
            else:
                assert self.single is not None
                row_noise = noise.rows(slice(row, row + 1))
                captions += self.single.captions(torch.tensor([item]), row_noise) or [""]
        return captions

    def hints(
        self,
        indices: Int[Tensor, "b"],
        numbers: Int[Tensor, "b"],
        seed: int,
        view: View | None = None,
        x: Images | None = None,
    ) -> Float[Tensor, "b k hh ww"] | None:
        """Return exact hints for "mask", "boxes" and "objects"; else see `Dataset.hints`."""
        kind = self.options.hint
        if kind == "objects":
            return self.truth(indices)
        if kind not in ("mask", "boxes"):
            return super().hints(indices, numbers, seed, view, x)
        draw = draw_mask if kind == "mask" else draw_boxes
        scenes = [self.scene(index) for index in indices.tolist()]
        pixels = torch.stack([draw(scene, self.size) for scene in scenes if scene is not None])
        return 2.0 * pixels[:, None] - 1

    def truth(self, indices: Int[Tensor, "b"]) -> Images:
        """Return the objects with positions, see `limner.contract.layout`."""
        n = len(indices)
        kind, colour = torch.full((2, n, MAX_THINGS), NO_OBJECT)
        box = torch.zeros(n, MAX_THINGS, 4)
        for row, index in enumerate(indices.tolist()):
            scene = self.scene(index)
            for place, thing in enumerate(scene.things if scene else ()):
                kind[row, place] = object_numbers()[thing.name]
                if thing.colour is not None:
                    colour[row, place] = COLOURS.index(thing.colour)
                box[row, place] = torch.tensor(thing.box)
        return write_layout(Objects(kind, colour, box), len(object_numbers()))

    def name(self, index: int) -> str:
        """Return the index as text."""
        return str(index)


def _png(data: ComposedScenes, number: Int[Tensor, "1"]) -> io.BytesIO:
    """Return a picture as a PNG file in memory."""
    pixels = data.pixels(number)[0].permute(1, 2, 0).squeeze(-1).numpy()
    Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
    file.seek(0)
    return file


def _side(source: Scenes) -> int:
    """Check the options, and return the side of the pictures.

    Raises:
        LimnerError: pictures are not square or too small, or scenes do not have an option.
    """
    height, width = source.shape or (_DEFAULT_SIZE, _DEFAULT_SIZE)
    if height != width or height < 16:
        raise LimnerError(
            f"scenes are square with sides of at least 16 pixels; give data.size={_DEFAULT_SIZE}"
        )
    if source.flip:
        raise LimnerError("scenes have no data.flip, as captions say left and right; leave it out")
    for option in ("binarise", "load_size", "half"):
        if getattr(source, option):
            raise LimnerError(f"scenes have no data.{option}; leave it out")
    if source.emoji and source.hint in ("mask", "boxes"):
        raise LimnerError(f"single emoji have no hint {source.hint}; give data.emoji=0")
    return height


def _composer(source: Scenes, objects: Sequence[Object]) -> Composer:
    """Return the generator of scenes; line style has no skills about colours by default."""
    styles = dict(STYLE_SHARES) if source.style == "all" else {source.style: 1.0}
    skills = source.shares()
    if source.style == "line" and not source.skills:
        skills = {name: share for name, share in skills.items() if name not in COLOUR_COUNTS}
    relations = read_shares(source.relations, RELATIONS, "relation", "data.relations")
    return Composer(objects, skills, styles, source.overlap, relations, source.grid)


def _spec(source: Scenes, side: int) -> ImageSpec:
    text = text_spec(source.tokens) if source.text else None
    spec = ImageSpec(source.channels or 3, side, side, source.levels, text=text)
    if source.hint == "objects":
        return replace(spec, hint=layout_spec([*object_numbers()], MAX_THINGS))
    if source.hint in ("mask", "boxes"):
        return replace(spec, hint=hint_spec(source.hint, spec))
    return spec


def _single_emoji(source: Scenes, size: int) -> Pictures:
    split = "train" if source.split in ("train", "all") else "held-out-concept"
    emoji = Emoji(split=split, style=source.style, label="none", size=size, text=source.text,
                  channels=source.channels or 3, levels=source.levels, people=0.3)  # fmt: skip
    pictures = emoji.open("emoji")
    assert isinstance(pictures, Pictures)
    return pictures


def draw_scene(scene: Scene, size: int) -> Image.Image:
    """Draw a scene as a picture of size x size."""
    canvas = ground(scene.ground, scene.shade, size).copy()
    for thing in scene.things:
        left, top, right, bottom = pixel_box(thing.box, size)
        picture = _picture(scene, thing, bottom - top, right - left)
        canvas.paste(picture, (left, top), picture)
    return canvas


def draw_pixels(scene: Scene, spec: ImageSpec) -> UInt8[Tensor, "c h w"]:
    """Draw a scene as pixels."""
    image = draw_scene(scene, spec.height)
    if spec.channels == 1:
        image = image.convert("L")
    return torch.from_numpy(np.array(image)).view(spec.height, spec.width, -1).permute(2, 0, 1)


def masks(scene: Scene, size: int) -> Bool[Tensor, "n h w"]:
    """Return a mask of each thing: pixels that it covers at least half, with nothing in front."""
    covered = np.zeros((len(scene.things), size, size), dtype=bool)
    for i, thing in enumerate(scene.things):
        left, top, right, bottom = pixel_box(thing.box, size)
        layer = Image.new("L", (size, size))
        layer.paste(_picture(scene, thing, bottom - top, right - left).getchannel("A"), (left, top))
        mask = np.asarray(layer) >= 128
        covered[:i] &= ~mask
        covered[i] = mask
    return torch.from_numpy(covered)


def draw_mask(scene: Scene, size: int) -> Bool[Tensor, "h w"]:
    """Return a mask of all things of a scene."""
    return masks(scene, size).any(0)


def draw_boxes(scene: Scene, size: int) -> Bool[Tensor, "h w"]:
    """Draw the boxes of a scene's things, with later ones in front.

    Each box has an empty frame around it, which separates boxes that touch.
    """
    mask, frame = torch.zeros(size, size, dtype=torch.bool), max(1, size // 64)
    for thing in scene.things:
        left, top, right, bottom = pixel_box(thing.box, size)
        mask[max(top - frame, 0) : bottom + frame, max(left - frame, 0) : right + frame] = False
        mask[top:bottom, left:right] = True
    return mask


def pixel_box(box: Box, size: int) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) in integer pixels, at least one wide and high."""
    left, top = round(size * box.left), round(size * box.top)
    width = max(1, round(size * (box.right - box.left)))
    height = max(1, round(size * (box.bottom - box.top)))
    return left, top, left + width, top + height


def _picture(scene: Scene, thing: Thing, height: int, width: int) -> Image.Image:
    colour = None if thing.natural else thing.colour
    return sprite(thing.name, scene.style, colour, height, width)
