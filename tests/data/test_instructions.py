"""Pairs of scenes that differ only as the instruction says."""

import re
from collections import Counter

import pytest
import torch

from limner.contract.errors import LimnerError
from limner.contract.image import from_uint8
from limner.contract.noise import Noise
from limner.contract.text import Tokenizer
from limner.data import open_data
from limner.data.captions import article
from limner.data.composition import is_held_out, is_test_composition
from limner.data.grounds import GROUNDS
from limner.data.instructions import InstructedScenes, Redrawing
from limner.data.scenes import draw_pixels, pixel_box

N, SIDE = 300, 32


@pytest.fixture(scope="module")
def data() -> InstructedScenes:
    dataset = open_data("instructions", size=SIDE, vocabulary=60)
    assert isinstance(dataset, InstructedScenes)
    return dataset


def test_kinds_have_their_shares(data):
    counts = Counter(data.instruction(i).kind for i in range(N))
    assert set(counts) == {"colour", "object", "add", "remove", "ground", "style"}
    assert all(abs(count - N / 6) < 4 * (N * 5 / 36) ** 0.5 for count in counts.values())
    subset = open_data("instructions", size=SIDE, vocabulary=60, kinds="colour=3,remove=1")
    counts = Counter(subset.instruction(i).kind for i in range(N))
    assert set(counts) == {"colour", "remove"}
    assert abs(counts["colour"] - 0.75 * N) < 4 * (N * 3 / 16) ** 0.5


@pytest.mark.parametrize("style", ["3d", "flat", "line", "noto"])
def test_in_one_style_only_some_kinds_of_instructions_are_possible(style: str):
    data = open_data("instructions", size=SIDE, vocabulary=6, style=style)
    assert isinstance(data, InstructedScenes)
    kinds = {"object", "add", "remove", "ground"} | ({"colour"} if style != "line" else set())
    assert {data.instruction(i).kind for i in range(N)} == kinds


def test_both_pictures_differ_where_the_instruction_says_and_nowhere_else(data):
    for i in range(N):
        edit = data.instruction(i)
        before, after = (draw_pixels(scene, data.spec) for scene in (edit.before, edit.after))
        difference = (before != after).any(0)
        assert difference.any(), edit.words
        if edit.kind in ("ground", "style"):
            continue
        old = [thing.box for thing in edit.before.things if thing not in edit.after.things]
        new = [thing.box for thing in edit.after.things if thing not in edit.before.things]
        assert len(old) + len(new) == (1 if edit.kind in ("add", "remove") else 2)
        for box in (*old, *new):
            left, top, right, bottom = pixel_box(box, SIDE)
            difference[max(top, 0) : bottom, max(left, 0) : right] = False
        assert not difference.any(), edit.words


def test_instructions_for_a_ground_or_a_style_change_nothing_else(data):
    for edit in map(data.instruction, range(N)):
        before, after = edit.before, edit.after
        if edit.kind == "ground":
            assert before.things == after.things and before.style == after.style
            assert before.ground != after.ground
            assert any(words in edit.words for words in GROUNDS[after.ground].words)
        elif edit.kind == "style":
            assert before.ground == after.ground and before.style != after.style
            assert [t.name for t in before.things] == [t.name for t in after.things]


def test_the_words_name_what_changes(data):
    for edit in map(data.instruction, range(N)):
        for form, word in re.findall(r"\b(an?) (\w+)", edit.words):
            assert article(word) == f"{form} {word}", edit.words
        if edit.kind == "colour":
            assert edit.changed_thing and f" {edit.changed_thing.colour}" in edit.words
            assert f"the {edit.changed_thing.name}" in edit.words
        if edit.kind in ("add", "object"):
            assert edit.changed_thing and edit.changed_thing.name in edit.words
        if edit.kind == "remove":
            assert edit.changed_thing and edit.changed_thing.name not in {
                t.name for t in edit.after.things
            }


def test_objects_are_added_where_the_words_say(data):
    sides = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "bottom": (1, 1)}
    seen_sides = set()
    for edit in map(data.instruction, range(N)):
        if edit.kind != "add":
            continue
        box = edit.changed_thing.box
        middle = (box.left + box.right) / 2 - 0.5, (box.top + box.bottom) / 2 - 0.5
        for side, (axis, sign) in sides.items():
            if edit.words.endswith(side):
                seen_sides.add(side)
                assert sign * middle[axis] > 0
                assert abs(middle[axis]) >= abs(middle[1 - axis])
    assert seen_sides == {*sides}


def test_no_target_in_training_is_held_out(data):
    for target in (data.instruction(i).after for i in range(N)):
        assert not is_held_out(target) and not is_test_composition(target), target


def test_a_batch_has_the_scene_after_the_words_and_the_scene_before(data):
    numbers = torch.arange(8)
    x = data.images(numbers, Noise.sampling(0, 8))
    hints = data.hints(numbers, numbers, 0)
    words = data.captions(numbers, Noise.sampling(0, 8))
    for i in range(8):
        edit = data.instruction(i)
        assert torch.equal(x[i], from_uint8(draw_pixels(edit.after, data.spec)[None])[0])
        assert torch.equal(hints[i], from_uint8(draw_pixels(edit.before, data.spec)[None])[0])
        assert words[i] == edit.words
    other = open_data("instructions", size=SIDE, vocabulary=60)
    assert other.digest == data.digest
    assert [other.instruction(i) for i in (5, 3)] == [data.instruction(i) for i in (5, 3)]
    assert open_data("instructions", size=SIDE, vocabulary=60, kinds="add").digest != data.digest


def test_single_emoji_are_drawn_in_another_style():
    """Both pictures show the same emoji; the second has the style that the words name."""
    data = open_data("instructions", size=SIDE, vocabulary=60, emoji=0.5)
    assert isinstance(data, InstructedScenes) and data.single is not None
    patterns = {
        "3d": r"\b3d\b", "flat": r"\bflat\b", "line": r"\bline\b", "noto": r"\bnoto\b",
    }  # fmt: skip
    emoji = [i for i in range(N) if isinstance(data.instruction(i), Redrawing)]
    assert abs(len(emoji) - N / 2) < 4 * (N / 4) ** 0.5
    styles = set()
    numbers = torch.tensor(emoji[:40])
    before, after = (
        data.hints(numbers, numbers, 0),
        data.images(numbers, Noise.sampling(0, len(numbers))),
    )
    for row, edit in enumerate(map(data.instruction, numbers.tolist())):
        (old_style, old), (style, new) = (
            data.single.name(each).split("/") for each in (edit.before, edit.after)
        )
        assert old == new and old_style != style
        assert [name for name, word in patterns.items() if re.search(word, edit.words)] == [style]
        pixels = data.single.pixels(torch.tensor([edit.before, edit.after]))
        assert torch.equal(from_uint8(pixels), torch.stack([before[row], after[row]]))
        styles.add(style)
    assert styles == {*patterns}
    assert all(data.scene(i) is None for i in emoji)
    other = open_data("instructions", size=SIDE, vocabulary=60, emoji=0.5)
    assert [other.instruction(i) for i in emoji[:9]] == [data.instruction(i) for i in emoji[:9]]
    plain = open_data("instructions", size=SIDE, vocabulary=60)
    assert plain.single is None and plain.digest != data.digest
    held_out_data = open_data("instructions", size=SIDE, vocabulary=60, emoji=1.0, split="held-out")
    assert {e.group for e in held_out_data.single.entries}.isdisjoint(
        e.group for e in data.single.entries
    )


def test_every_word_of_an_instruction_has_a_token(data):
    tokenizer = Tokenizer(data.spec.text)
    for edit in map(data.instruction, range(N)):
        reading = tokenizer.read(edit.words)
        assert not reading.unknown and not reading.rest, edit.words


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": "paint"}, "paint"),
        ({"hint": "edges"}, "no data.hint"),
        ({"emoji": 0.1, "style": "line"}, "emoji are in one style only; give data.style=all"),
        ({"style": "line", "kinds": "colour"}, "can be changed by 'colour'"),
        ({"style": "flat", "kinds": "style"}, "can be changed by 'style'"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(LimnerError, match=message):
        open_data("instructions", size=SIDE, vocabulary=30, **options).instruction(0)
