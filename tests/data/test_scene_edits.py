"""Edits of one word of a caption: the rest of the caption and of the picture is kept."""

import re

import numpy as np
import pytest

from limner.data import open_data
from limner.data.captions import article
from limner.data.grounds import GROUNDS
from limner.data.scene_edits import SceneEdit, draw_edit
from limner.data.scenes import ComposedScenes, draw_scene, pixel_box

N, SIDE = 120, 32


@pytest.fixture(scope="module")
def data() -> ComposedScenes:
    scenes = open_data("scenes", split="test", size=SIDE, vocabulary=60, overlap=0.3)
    assert isinstance(scenes, ComposedScenes)
    return scenes


@pytest.fixture(scope="module")
def edits(data: ComposedScenes) -> list[SceneEdit]:
    drawn_edits = [draw_edit(data.scene(i), data.objects, f"0/{i}") for i in range(N)]
    result = [edit for edit in drawn_edits if edit]
    assert len(result) > 0.6 * N
    assert {edit.kind for edit in result} == {"object", "colour"}
    return result


def test_an_edit_depends_only_on_its_key(data, edits):
    scenes = [data.scene(i) for i in range(N)]
    repeat = [draw_edit(scene, data.objects, f"0/{i}") for i, scene in enumerate(scenes)]
    assert [edit for edit in repeat if edit] == edits
    other = [draw_edit(scene, data.objects, f"1/{i}") for i, scene in enumerate(scenes)]
    assert [edit for edit in other if edit] != edits


def test_counted_objects_are_not_edited(data):
    scenes = [data.scene(i) for i in range(N)]
    counted = [scene for scene in scenes if scene.skill == "counting"]
    assert counted and not any(draw_edit(scene, data.objects, "0") for scene in counted)


def test_captions_differ_by_one_word_and_have_right_articles(edits):
    def bare(caption: str) -> str:
        return re.sub(r"\b(a|an) ", "", caption)

    for edit in edits:
        before, after = bare(edit.before.caption), bare(edit.after.caption)
        is_colour = edit.kind == "colour"
        old = str(edit.old.colour) if is_colour else edit.old.name
        new = str(edit.new.colour) if is_colour else edit.new.name
        places = [match.span() for match in re.finditer(rf"\b{old}\b", before)]
        assert after in [before[:a] + new + before[b:] for a, b in places], edit.after.caption
        for form, word in re.findall(r"\b(an?) (\w+)", edit.after.caption):
            assert article(word) == f"{form} {word}", edit.after.caption


def test_the_new_object_or_colour_is_possible(data, edits):
    for edit in edits:
        others = [t for i, t in enumerate(edit.before.things) if i != edit.place]
        new, definition = edit.new, data.objects[edit.new.name]
        assert new.colour not in GROUNDS[edit.before.ground].colours
        assert new.natural == (new.colour == definition.natural[edit.before.style])
        if edit.kind == "colour":
            assert (new.name, new.box) == (edit.old.name, edit.old.box)
            assert new.colour not in {edit.old.colour, *(t.colour for t in others)}
            assert new.colour in definition.colours(edit.before.style)
        else:
            assert new.name not in {edit.old.name, *(t.name for t in others)}
            assert new.natural or new.colour in definition.colours(edit.before.style)
        assert [t for i, t in enumerate(edit.after.things) if i != edit.place] == others


def test_a_replacement_has_the_colour_in_the_caption(edits):
    replacements = [edit for edit in edits if edit.kind == "object" and not edit.old.natural]
    assert replacements
    assert all(edit.new.colour == edit.old.colour for edit in replacements)


def test_pictures_differ_only_within_the_box(edits):
    for edit in edits[:40]:
        before, after = (np.asarray(draw_scene(s, SIDE), int) for s in (edit.before, edit.after))
        differs = np.abs(before - after).sum(2) > 0
        left, top, right, bottom = pixel_box(edit.old.box, SIDE)
        differs[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1] = False
        assert not differs.any(), edit
