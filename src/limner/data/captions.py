"""Captions of scenes, in varied wordings."""

import random
from functools import partial

from limner.data.composition import Scene, Thing, draw_below, draw_name, draw_word
from limner.data.grounds import GROUNDS
from limner.data.sprites import Object

_NUMBERS = {2: ("two", "2"), 3: ("three", "3"), 4: ("four", "4")}
_RELATIONS = {
    "left of": ("to the left of", "left of", "on the left of", "to the left of"),
    "right of": ("to the right of", "right of", "on the right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under", "beneath"),
    "on top of": ("on top of", "standing on"),
    "inside": ("inside", "in"),
}
_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
STYLE_PHRASES = {
    "3d": ("{}, in 3d", "a 3d picture of {}"),
    "flat": ("{}, in flat style", "a flat drawing of {}", "{}, flat"),
    "line": ("a line drawing of {}", "{}, line drawing", "{}, in line style"),
    "noto": ("{}, in noto style", "{}, noto", "a noto emoji of {}"),
}
_SENTENCES = ("a picture of {}", "an emoji of {}", "{}.")
_SIZES = {"big": ("big", "large", "big"), "small": ("small", "tiny", "little")}


def article(words: str) -> str:
    """Put "a" or "an" in front of words.

    >>> article("apple"), article("hourglass"), article("unicorn")
    ('an apple', 'an hourglass', 'a unicorn')
    """
    vowel = words[0] in "aeiou" and not words.startswith(("uni", "eu"))
    return f"{'an' if vowel or words.startswith('hour') else 'a'} {words}"


def caption(scene: Scene, objects: dict[str, Object], rng: random.Random) -> str:
    """Write a caption of a scene; details that are not its subject may be left out.

    Args:
        scene: scene with all positions.
        objects: name -> object.
        rng: random generator; only its `random()` is used.
    """
    text = _subject(scene, objects, rng)
    if rng.random() < (0.2 if scene.ground == "white" else 0.6):
        text += " " + draw_word(GROUNDS[scene.ground].words, rng)
    if scene.style != "3d" or draw_below(10, rng) == 0:
        return draw_word(STYLE_PHRASES[scene.style], rng).format(text)
    return text if draw_below(10, rng) else draw_word(_SENTENCES, rng).format(text)


def _subject(scene: Scene, objects: dict[str, Object], rng: random.Random) -> str:
    """Describe the objects and their relation."""
    noun, things = partial(_noun, scene, objects, rng), scene.things
    if scene.skill == "counting":
        word, figure = _NUMBERS[len(things)]
        return f"{figure if draw_below(5, rng) == 0 else word} {noun(things[0], len(things))}"
    if scene.relation is not None:
        kind, i, j = scene.relation
        if kind in _OPPOSITE and draw_below(2, rng):
            kind, i, j = _OPPOSITE[kind], j, i
        first, second = article(noun(things[i])), article(noun(things[j]))
        return f"{first} {draw_word(_RELATIONS[kind], rng)} {second}"
    if len(things) == 1:
        words = noun(things[0])
        return article(words) if draw_below(8, rng) else words
    nouns = [article(noun(thing)) for thing in things]
    if draw_below(2, rng):
        nouns.reverse()
    conjunction = draw_name({" and ": 0.75, " next to ": 0.1, " with ": 0.15}, rng)
    return ", ".join(nouns[:-1]) + (conjunction if len(nouns) == 2 else " and ") + nouns[-1]


def _noun(
    scene: Scene, objects: dict[str, Object], rng: random.Random, thing: Thing, count: int = 1
) -> str:
    """Describe a thing, with its colour if that is unusual or the subject of the scene."""
    obj = objects[thing.name]
    words = [obj.name if count == 1 else obj.plural]
    colour_matters = scene.skill in ("colours", "attribution") or not thing.natural
    if thing.colour and (colour_matters or rng.random() < 0.15):
        words.insert(0, thing.colour)
    if thing.size:
        words.insert(0, draw_word(_SIZES[thing.size], rng))
    return " ".join(words)
