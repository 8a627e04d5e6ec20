"""Edits of one word of a scene's caption, and the scene that matches the new caption.

    object    another object replaces one, in the same colour if the caption names the colour
    colour    an object gets another colour, if the caption names its colour

Both captions have the same wording. Counted objects are not changed, because several would change.
"""

import random
from dataclasses import dataclass, replace
from typing import Literal

from limner.data.captions import caption
from limner.data.composition import Box, Scene, Thing, draw_below
from limner.data.grounds import GROUNDS
from limner.data.recolouring import COLOUR_VALUES
from limner.data.sprites import Object, aspect

EditKind = Literal["object", "colour"]


@dataclass(frozen=True)
class SceneEdit:
    """A scene before and after a change of one word of its caption.

    Args:
        kind: kind of the word.
        before, after: the scenes, with captions.
        place: index of the changed thing in both scenes.
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
        """The thing after the change, inside the box of the old one."""
        return self.after.things[self.place]


def draw_edit(scene: Scene, objects: dict[str, Object], key: str) -> SceneEdit | None:
    """Draw an edit of a scene; None if no word can change.

    Args:
        scene: any scene.
        objects: name -> object that may be in it.
        key: key of the random numbers; the same key gives the same edit and the same wording.
    """
    if scene.skill == "counting":
        return None

    def write_caption(place: int, thing: Thing) -> str:
        """Write the caption with another thing at a place."""
        things = (*scene.things[:place], thing, *scene.things[place + 1 :])
        return caption(replace(scene, things=things), objects, random.Random(f"{key}/wording"))

    before = replace(scene, caption=write_caption(0, scene.things[0]))
    candidates: dict[EditKind, list[tuple[int, list[Thing]]]] = {"object": [], "colour": []}
    for place, thing in enumerate(scene.things):
        other = next(colour for colour in COLOUR_VALUES if colour != thing.colour)
        names_colour = bool(thing.colour) and before.caption != write_caption(
            place, replace(thing, colour=other)
        )
        if new := other_objects(scene, place, names_colour, objects):
            candidates["object"].append((place, new))
        if names_colour and (new := other_colours(scene, place, objects)):
            candidates["colour"].append((place, new))
    rng = random.Random(f"{key}/edit")
    kinds: list[EditKind] = [kind for kind, places in candidates.items() if places]
    if not kinds:
        return None
    kind = kinds[draw_below(len(kinds), rng)]
    place, things = candidates[kind][draw_below(len(candidates[kind]), rng)]
    new, old = things[draw_below(len(things), rng)], scene.things[place]
    # `natural` is unchanged, so that the caption draws the same wording.
    caption_thing = replace(
        old, name=new.name, colour=new.colour if kind == "colour" else old.colour
    )
    things = (*scene.things[:place], new, *scene.things[place + 1 :])
    after = replace(scene, things=things, caption=write_caption(place, caption_thing))
    return SceneEdit(kind, before, after, place)


def other_objects(scene: Scene, place: int, named: bool, objects: dict[str, Object]) -> list[Thing]:
    """Return the objects that may replace a thing.

    Args:
        scene: scene with the thing.
        place: index of the thing.
        named: whether the caption names its colour, which the new thing must then have, too.
        objects: name -> object.
    """
    if scene.relation and scene.relation[0] == "inside" and place == scene.relation[2]:
        return []  # few objects can contain others
    old, hidden = scene.things[place], GROUNDS[scene.ground].colours
    names = {thing.name for thing in scene.things}
    things: list[Thing] = []
    for name, obj in objects.items():
        natural = obj.natural[scene.style]
        colour = old.colour if named else natural
        if name in names or colour in hidden or (named and not obj.colours(scene.style)):
            continue
        box = largest_box(old.box, aspect(name, scene.style))
        things.append(replace(old, name=name, colour=colour, natural=colour == natural, box=box))
    return things


def other_colours(scene: Scene, place: int, objects: dict[str, Object]) -> list[Thing]:
    """Return a thing in each possible colour that nothing else in the scene has."""
    old = scene.things[place]
    obj = objects[old.name]
    taken = {thing.colour for thing in scene.things} | {*GROUNDS[scene.ground].colours}
    return [
        replace(old, colour=colour, natural=colour == obj.natural[scene.style])
        for colour in obj.colours(scene.style)
        if colour not in taken
    ]


def largest_box(box: Box, ratio: float) -> Box:
    """Return the largest box with a ratio of width to height inside another, with its centre."""
    width, height = box.right - box.left, box.bottom - box.top
    new_width = min(width, height * ratio)
    new_height = new_width / ratio
    left, top = box.left + (width - new_width) / 2, box.top + (height - new_height) / 2
    return Box(left, top, left + new_width, top + new_height)
