"""`instructions`: pairs of scenes, each with the instruction that turns one into the other.

    colour    "make the dog blue"
    object    "replace the dog with a cat"
    add       "add a tree on the left"
    remove    "remove the car"
    ground    "put it on a black background"
    style     "draw it in flat style"

The scene before is the conditioning picture, and the scene after is the target. Both are composed,
so the pair is exact: only what the instruction says differs. With `data.emoji`, a share of the
pairs are single emoji, drawn by two of the artists.

Reference: Brooks, Holynski, Efros (2023). InstructPix2Pix. arXiv:2211.09800; their pairs were
painted by a model.
"""

import hashlib
import random
from bisect import bisect
from collections import OrderedDict
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal, get_args

from jaxtyping import Float, Int, UInt8
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import Images, ImageSpec, from_uint8
from limner.contract.noise import Noise
from limner.data.captions import article
from limner.data.composition import (
    Scene,
    Thing,
    draw_below,
    draw_name,
    draw_word,
    is_held_out,
    is_test_composition,
)
from limner.data.dataset import View
from limner.data.grounds import GROUNDS
from limner.data.pictures import Pictures
from limner.data.scene_edits import largest_box, other_colours, other_objects
from limner.data.scenes import CACHED_SCENES, ComposedScenes, Scenes, read_shares
from limner.data.sprites import STYLES, Object, aspect

InstructionKind = Literal["colour", "object", "add", "remove", "ground", "style"]
_SHARES = dict.fromkeys(get_args(InstructionKind), 1.0)
_WORDS: dict[InstructionKind, tuple[str, ...]] = {
    "colour": (
        "make the {old} {colour}",
        "turn the {old} {colour}",
        "paint the {old} {colour}",
        "the {old} should be {colour}",
    ),
    "object": (
        "replace the {old} with {new}",
        "turn the {old} into {new}",
        "change the {old} to {new}",
        "{new} in place of the {old}",
    ),
    "add": ("add {new}{place}", "put {new}{place}", "draw {new}{place}"),
    "remove": ("remove the {old}", "take the {old} away", "delete the {old}", "without the {old}"),
    "ground": ("put it {ground}", "{ground}", "now {ground}"),
    "style": ("{style}", "draw it {style}", "now {style}"),
}
_STYLES = {
    "3d": ("in 3d", "as a 3d picture"),
    "flat": ("in flat style", "as a flat drawing"),
    "line": ("as a line drawing", "in line style"),
    "noto": ("in noto style", "as a noto emoji"),
}
_MIDDLE_DISTANCE = 0.08  # largest distance from the middle for "in the middle"
_MAX_TRIES = 1000  # most scenes drawn for one instruction


@dataclass(frozen=True)
class Instruction:
    """An instruction to change a scene.

    Args:
        kind: kind of change.
        before, after: the scenes.
        words: the text of the instruction.
        changed_thing: the thing that is new, changed or removed; None if the whole scene changes.
    """

    kind: InstructionKind
    before: Scene
    after: Scene
    words: str
    changed_thing: Thing | None = None


@dataclass(frozen=True)
class Redrawing:
    """An instruction to draw a single emoji in another style.

    Args:
        before, after: numbers of the pictures among the emoji.
        words: the text of the instruction.
    """

    before: int
    after: int
    words: str


@dataclass(frozen=True, kw_only=True)
class Instructions(Scenes):
    """`instructions`: pairs of scenes, each with the instruction that turns one into the other.

    Args:
        kinds: kinds of instructions with shares, as in "colour=2,remove=1"; by default, equal
            shares of all kinds that the style has.
        emoji: share of the pairs that show a single bundled emoji, in two styles.
    """

    kinds: str = ""

    def open(self, typed: str) -> "InstructedScenes":
        """Open the data set."""
        return InstructedScenes(self, typed)


class InstructedScenes(ComposedScenes):
    """Scenes after an instruction, with the scenes before it as conditioning pictures.

    Args:
        source: source with the options.
        typed: the source as it was typed.
    """

    paired = True

    def __init__(self, source: Instructions, typed: str) -> None:
        for name in ("hint", "overlap"):
            if getattr(source, name):
                raise LimnerError(f"instructions have no data.{name}; leave it out")
        super().__init__(source, typed)
        self.kinds = read_shares(source.kinds, _SHARES, "instruction", "data.kinds")
        if not source.kinds and source.style != "all":
            del self.kinds["style"]  # there is only one
            if source.style == "line":
                del self.kinds["colour"]
        before = ImageSpec(*self.spec.shape, self.spec.levels, domain="before")
        self.spec = replace(self.spec, hint=before)
        content = f"{self.digest} {source.kinds}"
        self.digest = hashlib.sha256(content.encode()).hexdigest()
        self._instructions: OrderedDict[int, Instruction | Redrawing] = OrderedDict()
        if self.single:
            self._other_styles, weights = _style_variants(self.single)
            if not any(weights):
                raise LimnerError("emoji are in one style only; give data.style=all")
            self._edges = [*accumulate(weights)]

    def instruction(self, index: int) -> Instruction | Redrawing:
        """Return instruction `index`, with both scenes, or both pictures of an emoji."""
        instruction = self._instructions.get(index)
        if instruction is None:
            instruction = self._draw_instruction(index)
            self._instructions[index] = instruction
            if len(self._instructions) > CACHED_SCENES:
                self._instructions.popitem(last=False)
        return instruction

    def _draw_instruction(self, index: int) -> Instruction | Redrawing:
        rng = random.Random(f"instructions/{self.options.seed}/{index}")
        if self.single and rng.random() < self.options.emoji:
            before = bisect(self._edges, rng.random() * self._edges[-1])
            others = self._other_styles[before]
            after = others[draw_below(len(others), rng)]
            style = draw_word(_STYLES[_style(self.single, after)], rng)
            return Redrawing(before, after, draw_word(_WORDS["style"], rng).format(style=style))
        kind = draw_name(self.kinds, rng)
        split, minimum = self.options.split, 2 if kind == "add" else 1
        for _ in range(_MAX_TRIES):
            scene = self.composer.draw(split, rng)
            if scene.skill == "counting" or len(scene.things) < minimum:
                continue
            instruction = draw_instruction(kind, scene, self.objects, self.composer.styles, rng)
            if instruction and (
                split != "train"
                or not (is_held_out(instruction.after) or is_test_composition(instruction.after))
            ):
                return instruction
        raise LimnerError(
            f"no scene of these objects and skills can be changed by '{kind}'; give others "
            f"(data.vocabulary, data.skills), or leave {kind} out of data.kinds"
        )

    def scene(self, index: int) -> Scene | None:
        """Return the target scene; None for a single emoji."""
        instruction = self.instruction(index)
        return instruction.after if isinstance(instruction, Instruction) else None

    def pixels(self, indices: Int[Tensor, "b"]) -> UInt8[Tensor, "b c h w"]:
        """Compose the pictures after the instructions."""
        return self._draw_pixels(self.instruction(i).after for i in indices.tolist())

    def captions(self, indices: Int[Tensor, "b"], noise: Noise) -> list[str]:
        """Return the instructions."""
        return [self.instruction(i).words for i in indices.tolist()]

    def hints(
        self,
        indices: Int[Tensor, "b"],
        numbers: Int[Tensor, "b"],
        seed: int,
        view: View | None = None,
        x: Images | None = None,
    ) -> Float[Tensor, "b k hh ww"]:
        """Return the pictures before the instructions."""
        return from_uint8(self._draw_pixels(self.instruction(i).before for i in indices.tolist()))


def _style(emoji: Pictures, number: int) -> str:
    """Return the artist of an emoji, from the folder of its file."""
    return emoji.name(number).split("/")[0]


def _style_variants(emoji: Pictures) -> tuple[list[list[int]], list[float]]:
    """Return for each emoji its numbers in other styles, and its sampling weight."""
    by_name: dict[str, list[int]] = {}
    for number in range(len(emoji)):
        by_name.setdefault(emoji.name(number).split("/")[1], []).append(number)
    others = [
        [j for j in by_name[emoji.name(i).split("/")[1]] if j != i] for i in range(len(emoji))
    ]
    assert emoji.weights is not None
    return others, [w * bool(numbers) for w, numbers in zip(emoji.weights.tolist(), others)]


def draw_instruction(
    kind: InstructionKind | str,
    scene: Scene,
    objects: dict[str, Object],
    styles: dict[str, float],
    rng: random.Random,
) -> Instruction | None:
    """Draw an instruction for a scene, or for "add" one that results in it; None if impossible.

    Args:
        kind: kind of instruction.
        scene: scene of things with different names.
        objects: name -> object that may be in it.
        styles: style -> share of the available artists.
        rng: random generator; only its `random()` is used.
    """
    if kind == "ground":
        after = _on_other_ground(scene, rng)
        slots = {"ground": draw_word(GROUNDS[after.ground].words, rng)}
        return _instruction("ground", scene, after, slots, None, rng)
    if kind == "style":
        after = _in_other_style(scene, objects, styles, rng)
        slots = {"style": draw_word(_STYLES[after.style], rng)} if after else {}
        return after and _instruction("style", scene, after, slots, None, rng)
    place = draw_below(len(scene.things), rng)
    thing = scene.things[place]
    others = (*scene.things[:place], *scene.things[place + 1 :])
    if kind in ("add", "remove"):
        if scene.relation and scene.relation[0] in ("inside", "on top of"):
            return None  # the other object would hang in the air
        rest = replace(scene, things=others, relation=None)
        if kind == "add":
            slots = {"new": article(_noun(thing)), "place": _where(thing)}
            return _instruction("add", rest, scene, slots, thing, rng)
        return _instruction("remove", scene, rest, {"old": thing.name}, thing, rng)
    if kind == "colour":
        candidates = other_colours(scene, place, objects) if thing.colour else []
        candidates = [new for new in candidates if new.colour != thing.colour]
    else:
        candidates = other_objects(scene, place, False, objects)
    if not candidates:
        return None
    new = candidates[draw_below(len(candidates), rng)]
    after = replace(scene, things=(*scene.things[:place], new, *scene.things[place + 1 :]))
    slots = {"old": thing.name, "colour": str(new.colour), "new": article(new.name)}
    final_kind: InstructionKind = "colour" if kind == "colour" else "object"
    return _instruction(final_kind, scene, after, slots, new, rng)


def _instruction(
    kind: InstructionKind,
    before: Scene,
    after: Scene,
    slots: dict[str, str],
    changed_thing: Thing | None,
    rng: random.Random,
) -> Instruction:
    words = draw_word(_WORDS[kind], rng).format(**slots)
    return Instruction(kind, before, after, words, changed_thing)


def _noun(thing: Thing) -> str:
    return thing.name if thing.natural or not thing.colour else f"{thing.colour} {thing.name}"


def _where(thing: Thing) -> str:
    """Return words for the position of a thing, to follow its name."""
    x, y = (thing.box.left + thing.box.right) / 2, (thing.box.top + thing.box.bottom) / 2
    dx, dy = abs(x - 0.5), abs(y - 0.5)
    if max(dx, dy) < _MIDDLE_DISTANCE:
        return " in the middle"
    if dx >= dy:
        return " on the left" if x < 0.5 else " on the right"
    return " at the top" if y < 0.5 else " at the bottom"


def _on_other_ground(scene: Scene, rng: random.Random) -> Scene:
    colours = {thing.colour for thing in scene.things}
    names = [
        name
        for name, ground in GROUNDS.items()
        if name != scene.ground
        and not colours & {*ground.colours}
        and (scene.style != "line" or ground.light)
    ]
    return replace(scene, ground=names[draw_below(len(names), rng)])


def _in_other_style(
    scene: Scene, objects: dict[str, Object], styles: dict[str, float], rng: random.Random
) -> Scene | None:
    """Return the scene drawn by another artist; None if there is none who can draw it.

    Natural things take the artist's own colours, and others keep their colour."""
    scenes: list[Scene] = []
    for style in STYLES:
        if style == scene.style or style not in styles:
            continue
        things = [_restyle(style, thing, objects[thing.name]) for thing in scene.things]
        hidden = {thing.colour for thing in things if thing} & {*GROUNDS[scene.ground].colours}
        is_light = style != "line" or GROUNDS[scene.ground].light
        if all(things) and not hidden and is_light:
            scenes.append(replace(scene, style=style, things=tuple(t for t in things if t)))
    return scenes[draw_below(len(scenes), rng)] if scenes else None


def _restyle(style: str, thing: Thing, obj: Object) -> Thing | None:
    box = largest_box(thing.box, aspect(thing.name, style))
    if thing.natural:
        return replace(thing, colour=obj.natural[style], box=box)
    if thing.colour not in obj.colours(style):
        return None
    return replace(thing, natural=thing.colour == obj.natural[style], box=box)
