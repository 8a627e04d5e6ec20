"""One word of a scene's caption changed, and the scene that the new caption is of.

    object    another object stands in its place, in the same colour if the caption says one
    colour    an object whose colour the caption says has another one

Both captions have the same wording. Counted objects are left alone, for several would change.
"""

import random
from dataclasses import dataclass, replace
from typing import Literal

from limner.data.captions import caption
from limner.data.composition import Box, Scene, Thing, below
from limner.data.grounds import GROUNDS
from limner.data.recolouring import COLOURS
from limner.data.sprites import Object, aspect

EditKind = Literal["object", "colour"]


@dataclass(frozen=True)
class SceneEdit:
    """A scene before and after one word of its caption changed.

    Args:
        kind: of the word.
        before, after: the scenes, with captions.
        place: of the thing that changes, among the things of both.
    """

    kind: EditKind
    before: Scene
    after: Scene
    place: int

    @property
    def old(self) -> Thing:
        """The thing before the change."""
        return self.before.things[self.place]

    @property
    def new(self) -> Thing:
        """The thing after the change; it lies within the box of the old one."""
        return self.after.things[self.place]


def draw_edit(scene: Scene, objects: dict[str, Object], key: str) -> SceneEdit | None:
    """An edit of a scene; None where no word can change.

    Args:
        scene: any.
        objects: that may stand in it, by their names.
        key: of the random numbers; the same key gives the same edit and the same wording.
    """
    if scene.skill == "counting":
        return None

    def written(place: int, thing: Thing) -> str:
        """The caption with one thing described otherwise."""
        things = (*scene.things[:place], thing, *scene.things[place + 1 :])
        return caption(replace(scene, things=things), objects, random.Random(f"{key}/wording"))

    before = replace(scene, caption=written(0, scene.things[0]))
    possible: dict[EditKind, list[tuple[int, list[Thing]]]] = {"object": [], "colour": []}
    for place, thing in enumerate(scene.things):
        other = next(colour for colour in COLOURS if colour != thing.colour)
        told = bool(thing.colour) and before.caption != written(place, replace(thing, colour=other))
        if new := other_objects(scene, place, told, objects):
            possible["object"].append((place, new))
        if told and (new := other_colours(scene, place, objects)):
            possible["colour"].append((place, new))
    chance = random.Random(f"{key}/edit")
    kinds: list[EditKind] = [kind for kind, places in possible.items() if places]
    if not kinds:
        return None
    kind = kinds[below(len(kinds), chance)]
    place, things = possible[kind][below(len(possible[kind]), chance)]
    new, old = things[below(len(things), chance)], scene.things[place]
    # What is natural stays, so that the caption draws the same wording.
    said = replace(old, name=new.name, colour=new.colour if kind == "colour" else old.colour)
    things = (*scene.things[:place], new, *scene.things[place + 1 :])
    after = replace(scene, things=things, caption=written(place, said))
    return SceneEdit(kind, before, after, place)


def other_objects(scene: Scene, place: int, told: bool, objects: dict[str, Object]) -> list[Thing]:
    """What may stand in place of a thing.

    Args:
        scene: with the thing.
        place: of the thing.
        told: whether its colour is said, which the new one then needs to have, too.
        objects: by their names.
    """
    if scene.relation and scene.relation[0] == "inside" and place == scene.relation[2]:
        return []  # few objects have an inside
    old, hidden = scene.things[place], GROUNDS[scene.ground].colours
    names = {thing.name for thing in scene.things}
    found: list[Thing] = []
    for name, drawn in objects.items():
        natural = drawn.natural[scene.style]
        colour = old.colour if told else natural
        if name in names or colour in hidden or (told and not drawn.colours(scene.style)):
            continue
        box = fitted(old.box, aspect(name, scene.style))
        found.append(replace(old, name=name, colour=colour, natural=colour == natural, box=box))
    return found


def other_colours(scene: Scene, place: int, objects: dict[str, Object]) -> list[Thing]:
    """A thing in each colour that it can have, and that nothing else in the scene has."""
    old = scene.things[place]
    drawn = objects[old.name]
    taken = {thing.colour for thing in scene.things} | {*GROUNDS[scene.ground].colours}
    return [
        replace(old, colour=colour, natural=colour == drawn.natural[scene.style])
        for colour in drawn.colours(scene.style)
        if colour not in taken
    ]


def fitted(box: Box, ratio: float) -> Box:
    """The largest box of a ratio of width to height within another, around the same centre."""
    width, height = box.right - box.left, box.bottom - box.top
    wide = min(width, height * ratio)
    high = wide / ratio
    left, top = box.left + (width - wide) / 2, box.top + (height - high) / 2
    return Box(left, top, left + wide, top + high)
