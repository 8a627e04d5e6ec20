"""The distribution of scenes: objects, colours, sizes, counts, positions and ground.

A `Scene` is drawn from random numbers alone, before any picture. The subject, one of GenEval's six
skills, is drawn first, then what it needs.

Reference: Ghosh, Hajishirzi, Schmidt (2023). GenEval. arXiv:2310.11513.
"""

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

from limner.contract.errors import LimnerError
from limner.data.grounds import GROUNDS, PLAIN
from limner.data.sprites import Object, aspect

SKILL_SHARES = {
    "single": 0.22,
    "two": 0.14,
    "counting": 0.16,
    "colours": 0.14,
    "position": 0.18,
    "attribution": 0.12,
    "several": 0.04,
}
"""Subjects of scenes and their default shares: GenEval's six, and three or four things."""
MAX_THINGS = 4
"""Largest number of objects in a scene."""
STYLE_SHARES = {"3d": 0.5, "noto": 0.25, "flat": 0.15, "line": 0.1}
OPEN_CONTAINERS = ("basket", "bucket", "bathtub", "shopping cart", "box", "trash can", "paper cup")
"""Objects that others can be inside of, with the upper half sticking out."""
FRAME_CONTAINERS = ("television", "picture frame", "mirror", "window", "laptop")
"""Objects that others can be shown inside of."""
RELATIONS = {
    "left of": 0.23,
    "right of": 0.23,
    "above": 0.21,
    "below": 0.21,
    "on top of": 0.08,
    "inside": 0.04,
}
"""Relations in scenes about position, and their default shares."""
_HELD_OUT_SHARE = 0.1  # share of colour-object pairs, object-object pairs, and objects for counting
_TEST_SHARE = 0.05  # share of compositions
COLOUR_COUNTS = {"colours": 1, "attribution": 2}
"""Skills about colours -> number of objects they need that can have any colour."""
_MAX_TRIES = 20_000  # most draws for one scene
_MARGIN = 0.03  # free border, as a share of the side


Shapes = Sequence[tuple[float, float]]
Rounding = Callable[[float], int]


class Box(NamedTuple):
    """A box in shares of the picture's side: x to the right, y down."""

    left: float
    top: float
    right: float
    bottom: float


EMPTY_BOX = Box(0, 0, 0, 0)


@dataclass(frozen=True)
class Thing:
    """One object of a scene.

    Args:
        name: name of the object.
        colour: its dominant colour; None without one.
        natural: whether it is drawn in the artist's own colours.
        size: "big" or "small" if the caption may say so.
        box: its position.
    """

    name: str
    colour: str | None
    natural: bool = True
    size: str | None = None
    box: Box = EMPTY_BOX


@dataclass(frozen=True)
class Scene:
    """An exact description of the contents of a picture.

    Args:
        skill: one of `SKILL_SHARES`.
        style: artist of all objects.
        ground: one of `GROUNDS`.
        shade: number of the variant of the ground.
        things: the objects; later ones are drawn over earlier ones.
        relation: (kind, i, j), the position of thing i relative to thing j; None without one.
        caption: its caption.
    """

    skill: str
    style: str
    ground: str
    shade: int
    things: tuple[Thing, ...]
    relation: tuple[str, int, int] | None = None
    caption: str = ""

    @property
    def composition(self) -> str:
        """Everything except positions and caption; it determines the split."""
        things = sorted(f"{thing.colour} {thing.size} {thing.name}" for thing in self.things)
        relation = ""
        if self.relation is not None:
            kind, i, j = self.relation
            relation = f"{self.things[i].name} {kind} {self.things[j].name}"
        return "; ".join([self.style, self.ground, *things, relation])


@cache
def _share(*parts: str) -> float:
    """Return a number in [0, 1) that depends on names alone."""
    digest = hashlib.blake2b("/".join(("limner-scenes", *parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def is_held_out(scene: Scene) -> bool:
    """Whether a scene has something that training never sees.

    This is a pair of objects, a pair of object and colour, or a counted object."""
    names = {thing.name for thing in scene.things}
    for thing in scene.things:
        if not thing.natural and _share("colour", str(thing.colour), thing.name) < _HELD_OUT_SHARE:
            return True
    if scene.skill == "counting":
        return _share("counting", scene.things[0].name) < _HELD_OUT_SHARE
    pairs = ((a, b) for a in names for b in names if a < b)
    return any(_share("pair", a, b) < _HELD_OUT_SHARE for a, b in pairs)


def is_test_composition(scene: Scene) -> bool:
    """Whether training never sees a composition, although it sees each of its parts."""
    return _share("composition", scene.composition) < _TEST_SHARE


class Composer:
    """A generator of scenes.

    Args:
        vocabulary: the objects to use.
        skills: share of each skill.
        styles: share of each artist.
        overlap: share of the scenes in which objects may overlap.
        relations: share of each relation; the default shares if None.
        grid: positions are multiples of 1 / grid, and sides an even number of cells; 0 for any
            positions.

    Raises:
        LimnerError: a skill needs more objects that can be recoloured than there are.
    """

    def __init__(
        self,
        vocabulary: Sequence[Object],
        skills: dict[str, float],
        styles: dict[str, float],
        overlap: float = 0.0,
        relations: dict[str, float] | None = None,
        grid: int = 0,
    ) -> None:
        self.vocabulary = vocabulary
        self.skills, self.styles, self.overlap = skills, styles, overlap
        self.relations = relations or RELATIONS
        self.grid = grid
        names = {thing.name for thing in vocabulary}
        self._containers = [name for name in (*OPEN_CONTAINERS, *FRAME_CONTAINERS) if name in names]
        self._by_name = {thing.name: thing for thing in vocabulary}
        self._coloured = {
            style: [thing for thing in vocabulary if thing.colours(style)] for style in styles
        }
        most = max(map(len, self._coloured.values()))
        for skill, needed in COLOUR_COUNTS.items():
            if skill in skills and most < needed:
                raise LimnerError(
                    f"skill {skill} needs {needed} objects that take another colour, but there "
                    f"are {most}; choose other objects, or another style than line"
                )

    def draw(self, split: str, rng: random.Random) -> Scene:
        """Draw a scene of a split, without a caption.

        Args:
            split: "train", "test", "held-out" or "all".
            rng: random generator; only its `random()` is used.
        """
        for _ in range(_MAX_TRIES):
            scene = self._contents(rng)
            unseen = split != "all" and is_held_out(scene)
            if split == "held-out" and not unseen:
                continue
            if split in ("train", "test") and (
                unseen or is_test_composition(scene) != (split == "test")
            ):
                continue
            return self._place(scene, rng)
        raise LimnerError(
            f"no scene of these objects and skills is in split '{split}'; give more of them "
            "(data.vocabulary, data.skills)"
        )

    def _contents(self, rng: random.Random) -> Scene:
        skill, style = draw_name(self.skills, rng), draw_name(self.styles, rng)
        needed = COLOUR_COUNTS.get(skill, 0)
        while len(self._coloured[style]) < needed:
            style = draw_name(self.styles, rng)
        relation, size = None, None
        if skill == "single":
            size = (None, None, None, "big", "small")[draw_below(5, rng)]
            things = [self._thing(style, rng, 0.25, size)]
        elif skill == "colours":
            things = [self._thing(style, rng, 1.0)]
        elif skill == "counting":
            things = [self._thing(style, rng, 0.25)] * (2 + draw_below(3, rng))
        else:
            count = 3 + draw_below(2, rng) if skill == "several" else 2
            count = min(count, len(self.vocabulary))
            rate = {"attribution": 1.0, "position": 0.2}.get(skill, 0.25)
            things = self._different(count, style, rng, rate)
            if skill == "position":
                kind = draw_name(self.relations, rng)
                if kind == "inside" and not self._containers:
                    kind = "above"
                if kind == "inside":
                    container = self._containers[draw_below(len(self._containers), rng)]
                    if things[0].name == container:
                        things.reverse()
                    things[1] = self._with_own_colour(self._by_name[container], style)
                relation = kind, 0, 1
            elif skill == "two" and draw_below(5, rng) == 0:
                big = draw_below(2, rng)
                things[big] = replace(things[big], size="big")
                things[1 - big] = replace(things[1 - big], size="small")
        return Scene(
            skill, style, self._ground(style, things, rng), draw_below(1 << 16, rng),
            tuple(things), relation,
        )  # fmt: skip

    def _thing(self, style: str, rng: random.Random, rate: float, size: str | None = None) -> Thing:
        """Draw an object, recoloured with probability `rate`; if 1, a colourable one."""
        candidates = self._coloured[style] if rate == 1 else self.vocabulary
        obj = candidates[draw_below(len(candidates), rng)]
        natural, colours = obj.natural[style], obj.colours(style)
        if not colours or rng.random() >= rate:
            return Thing(obj.name, natural, size=size)
        colour = colours[draw_below(len(colours), rng)]
        return Thing(obj.name, colour, colour == natural, size)

    def _with_own_colour(self, obj: Object, style: str) -> Thing:
        return Thing(obj.name, obj.natural[style])

    def _different(self, count: int, style: str, rng: random.Random, rate: float) -> list[Thing]:
        """Draw things with different names, and different colours if all are coloured."""
        things: list[Thing] = []
        while len(things) < count:
            new = self._thing(style, rng, rate)
            alike = any(t.name == new.name or (rate == 1 and t.colour == new.colour)
                        for t in things)  # fmt: skip
            if not alike:
                things.append(new)
        return things

    def _ground(self, style: str, things: list[Thing], rng: random.Random) -> str:
        """A ground on which everything can be seen; white is usual even for what is white."""
        colours = {thing.colour for thing in things}
        while True:
            u = rng.random()
            if u < 0.4:
                ground = "white"
            elif u < 0.78:
                ground = PLAIN[1 + draw_below(len(PLAIN) - 1, rng)]
            else:
                settings = tuple(name for name in GROUNDS if name not in PLAIN)
                ground = settings[draw_below(len(settings), rng)]
            hidden = colours & {*GROUNDS[ground].colours}
            if not hidden and (style != "line" or GROUNDS[ground].light):
                return ground

    def _place(self, scene: Scene, rng: random.Random) -> Scene:
        """Return the scene with a position for each thing."""
        sizes = [_cells(_side(scene, thing, rng), self.grid) for thing in scene.things]
        shapes = [_shape(thing.name, scene.style, s) for thing, s in zip(scene.things, sizes)]
        kind = scene.relation[0] if scene.relation else None
        if kind in ("left of", "above", "right of", "below"):
            horizontal = kind in ("left of", "right of")
            boxes = _in_line(shapes, horizontal, rng, self.grid)
            if kind in ("right of", "below"):
                boxes = _in_line(shapes[::-1], horizontal, rng, self.grid)[::-1]
        elif kind == "on top of":
            boxes = _stack(shapes, rng)
        elif kind == "inside":
            return _nest(scene, rng)
        else:
            may_overlap = rng.random() < self.overlap
            boxes = _scatter(shapes, rng, may_overlap, self.grid)
        things = tuple(replace(thing, box=box) for thing, box in zip(scene.things, boxes))
        return replace(scene, things=things)


def draw_name(shares: dict[str, float], rng: random.Random) -> str:
    """Draw a name with probabilities proportional to the shares."""
    rest = rng.random() * sum(shares.values())
    for name, share in shares.items():
        rest -= share
        if rest < 0:
            return name
    return next(reversed(shares))  # rounding


def draw_below(n: int, rng: random.Random) -> int:
    """Draw an integer from 0 to n - 1; only `random()` is the same in all Python versions."""
    return int(n * rng.random())


def draw_word(words: tuple[str, ...], rng: random.Random) -> str:
    """Draw one of several words, all equally likely."""
    return words[draw_below(len(words), rng)]


def _between(low: float, high: float, rng: random.Random) -> float:
    return low + (high - low) * rng.random()


def _side(scene: Scene, thing: Thing, rng: random.Random) -> float:
    """Draw the longer side of a thing."""
    if len(scene.things) == 1:
        low, high = {"big": (0.75, 0.9), "small": (0.2, 0.3)}.get(thing.size or "", (0.4, 0.7))
    elif len(scene.things) == 2:
        low, high = {"big": (0.45, 0.55), "small": (0.2, 0.26)}.get(thing.size or "", (0.3, 0.44))
    else:
        low, high = (0.27, 0.4) if len(scene.things) == 3 else (0.25, 0.36)
    return _between(low, high, rng)


def _cells(side: float, grid: int) -> float:
    """Round a side down to an even number of cells, at least four."""
    return max(4, 2 * int(side * grid / 2)) / grid if grid else side


def _snap(box: Box, grid: int, x: Rounding = round, y: Rounding = round) -> Box:
    """Move the upper left corner of a box to the grid, inside the picture."""
    if not grid:
        return box
    width, height = box.right - box.left, box.bottom - box.top
    left = min(x(box.left * grid), int((1 - width) * grid)) / grid
    top = min(y(box.top * grid), int((1 - height) * grid)) / grid
    return _at(left, top, (width, height))


def _shape(name: str, style: str, side: float) -> tuple[float, float]:
    """Return (width, height) of a thing, given its longer side."""
    ratio = aspect(name, style)
    return (side, side / ratio) if ratio > 1 else (side * ratio, side)


def _at(x: float, y: float, shape: tuple[float, float]) -> Box:
    return Box(x, y, x + shape[0], y + shape[1])


def _in_line(shapes: Shapes, horizontal: bool, rng: random.Random, grid: int) -> list[Box]:
    """Place the first of two things to the left of the second, or above it, with a gap."""
    lengths = [shape[0] if horizontal else shape[1] for shape in shapes]
    space = 1 - 2 * _MARGIN - sum(lengths)
    gap = min(max(_between(0.04, 0.2, rng), 1 / grid if grid else 0), space)
    start = _MARGIN + rng.random() * (space - gap)
    starts = start, start + lengths[0] + gap
    breadths = [shape[1] if horizontal else shape[0] for shape in shapes]
    middle = _between(max(breadths) / 2 + _MARGIN, 1 - max(breadths) / 2 - _MARGIN, rng)
    boxes = []
    for shape, first, t, rounding in zip(shapes, starts, breadths, (math.floor, math.ceil)):
        shift = 0.06 * (2 * rng.random() - 1)
        second = min(max(middle - t / 2 + shift, _MARGIN), 1 - t - _MARGIN)
        box = _at(first, second, shape) if horizontal else _at(second, first, shape)
        boxes.append(_snap(box, grid, **{"x" if horizontal else "y": rounding}))
    return boxes


def _stack(shapes: Shapes, rng: random.Random) -> list[Box]:
    """Place the first thing on top of the second."""
    (top_w, top_h), (low_w, low_h) = shapes
    height = top_h + 0.96 * low_h
    y = _between(_MARGIN, 1 - _MARGIN - height, rng)
    widest = max(top_w, low_w)
    middle = _between(_MARGIN + widest / 2, 1 - _MARGIN - widest / 2, rng)
    top = middle - top_w / 2 + 0.2 * (low_w / 2) * (2 * rng.random() - 1)
    top = min(max(top, _MARGIN), 1 - _MARGIN - top_w)
    return [_at(top, y, shapes[0]), _at(middle - low_w / 2, y + top_h - 0.04 * low_h, shapes[1])]


def _nest(scene: Scene, rng: random.Random) -> Scene:
    """Place the first thing inside the second, with the upper half outside or within a frame."""
    inner, outer = scene.things
    width, height = _shape(outer.name, scene.style, _between(0.5, 0.65, rng))
    is_frame = outer.name in FRAME_CONTAINERS
    x = _between(_MARGIN, 1 - _MARGIN - width, rng)
    side = 0.5 * min(width, height) if is_frame else 0.75 * width
    inner_w, inner_h = _shape(inner.name, scene.style, min(side, 0.4))
    if is_frame:
        y = _between(_MARGIN, 1 - _MARGIN - height, rng)
        middle = y + (0.4 if outer.name == "laptop" else 0.5) * height
        box = _at(x + (width - inner_w) / 2, middle - inner_h / 2, (inner_w, inner_h))
    else:
        overhang = 0.65 * inner_h
        y = _between(_MARGIN + overhang, 1 - _MARGIN - height, rng)
        box = _at(x + (width - inner_w) / 2, y - overhang + 0.12 * height, (inner_w, inner_h))
    things = [replace(inner, box=box), replace(outer, box=_at(x, y, (width, height)))]
    if not is_frame:
        return replace(scene, things=tuple(things))
    return replace(scene, things=tuple(things[::-1]), relation=("inside", 1, 0))


def _scatter(shapes: Shapes, rng: random.Random, may_overlap: bool, grid: int) -> list[Box]:
    """Place things without overlap, unless it is allowed; shrink them if there is no room."""
    factor = 1.0
    while True:
        for _ in range(100 if grid else 12):
            boxes: list[Box] = []
            for w, h in shapes:
                shape = w * factor, h * factor
                x = _between(_MARGIN, 1 - _MARGIN - shape[0], rng)
                y = _between(_MARGIN, 1 - _MARGIN - shape[1], rng)
                box = _snap(_at(x, y, shape), grid)
                if not may_overlap and any(_touch(box, other) for other in boxes):
                    break
                boxes.append(box)
            else:
                return boxes
        factor *= 0.95


def _touch(a: Box, b: Box) -> bool:
    gap = 0.02
    return (
        a.left < b.right + gap
        and b.left < a.right + gap
        and a.top < b.bottom + gap
        and b.top < a.bottom + gap
    )
