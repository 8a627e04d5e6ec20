"""Pairs of scenes: nothing differs but what the instruction says."""

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
from limner.data.composition import held_out, kept_back
from limner.data.grounds import GROUNDS
from limner.data.instructions import InstructedScenes, Redrawing
from limner.data.scenes import drawn_pixels, pixel_box

N, SIDE = 300, 32


@pytest.fixture(scope="module")
def data() -> InstructedScenes:
    found = open_data("instructions", size=SIDE, vocabulary=60)
    assert isinstance(found, InstructedScenes)
    return found


def test_kinds_have_their_shares(data):
    counts = Counter(data.instruction(i).kind for i in range(N))
    assert set(counts) == {"colour", "object", "add", "remove", "ground", "style"}
    assert all(abs(count - N / 6) < 4 * (N * 5 / 36) ** 0.5 for count in counts.values())
    some = open_data("instructions", size=SIDE, vocabulary=60, kinds="colour=3,remove=1")
    counts = Counter(some.instruction(i).kind for i in range(N))
    assert set(counts) == {"colour", "remove"}
    assert abs(counts["colour"] - 0.75 * N) < 4 * (N * 3 / 16) ** 0.5


@pytest.mark.parametrize("style", ["3d", "flat", "line", "noto"])
def test_in_one_style_the_instructions_are_those_that_it_has(style: str):
    data = open_data("instructions", size=SIDE, vocabulary=6, style=style)
    assert isinstance(data, InstructedScenes)
    kinds = {"object", "add", "remove", "ground"} | ({"colour"} if style != "line" else set())
    assert {data.instruction(i).kind for i in range(N)} == kinds


def test_both_pictures_differ_where_the_instruction_says_and_nowhere_else(data):
    for i in range(N):
        told = data.instruction(i)
        before, after = (drawn_pixels(scene, data.spec) for scene in (told.before, told.after))
        changed = (before != after).any(0)
        assert changed.any(), told.words
        if told.kind in ("ground", "style"):
            continue
        old = [thing.box for thing in told.before.things if thing not in told.after.things]
        new = [thing.box for thing in told.after.things if thing not in told.before.things]
        assert len(old) + len(new) == (1 if told.kind in ("add", "remove") else 2)
        for box in (*old, *new):
            left, top, right, bottom = pixel_box(box, SIDE)
            changed[max(top, 0) : bottom, max(left, 0) : right] = False
        assert not changed.any(), told.words


def test_a_ground_or_a_style_is_all_that_they_change(data):
    for told in map(data.instruction, range(N)):
        before, after = told.before, told.after
        if told.kind == "ground":
            assert before.things == after.things and before.style == after.style
            assert before.ground != after.ground
            assert any(words in told.words for words in GROUNDS[after.ground].words)
        elif told.kind == "style":
            assert before.ground == after.ground and before.style != after.style
            assert [t.name for t in before.things] == [t.name for t in after.things]


def test_the_words_name_what_changes(data):
    for told in map(data.instruction, range(N)):
        for said, word in re.findall(r"\b(an?) (\w+)", told.words):
            assert article(word) == f"{said} {word}", told.words
        if told.kind == "colour":
            assert told.changed and f" {told.changed.colour}" in told.words
            assert f"the {told.changed.name}" in told.words
        if told.kind in ("add", "object"):
            assert told.changed and told.changed.name in told.words
        if told.kind == "remove":
            assert told.changed and told.changed.name not in {t.name for t in told.after.things}


def test_places_of_what_is_added_are_where_they_say(data):
    sides = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "bottom": (1, 1)}
    seen = set()
    for told in map(data.instruction, range(N)):
        if told.kind != "add":
            continue
        box = told.changed.box
        middle = (box.left + box.right) / 2 - 0.5, (box.top + box.bottom) / 2 - 0.5
        for side, (axis, sign) in sides.items():
            if told.words.endswith(side):
                seen.add(side)
                assert sign * middle[axis] > 0
                assert abs(middle[axis]) >= abs(middle[1 - axis])
    assert seen == {*sides}


def test_training_never_sees_what_is_held_out(data):
    for told in map(data.instruction, range(N)):
        for scene in (told.before, told.after):
            if len(scene.things) == 2 and scene is told.after:
                assert not held_out(scene) and not kept_back(scene)


def test_a_batch_is_the_scene_after_the_words_and_the_scene_before(data):
    numbers = torch.arange(8)
    x = data.images(numbers, Noise.sampling(0, 8))
    hints = data.hints(numbers, numbers, 0)
    words = data.captions(numbers, Noise.sampling(0, 8))
    for i in range(8):
        told = data.instruction(i)
        assert torch.equal(x[i], from_uint8(drawn_pixels(told.after, data.spec)[None])[0])
        assert torch.equal(hints[i], from_uint8(drawn_pixels(told.before, data.spec)[None])[0])
        assert words[i] == told.words
    other = open_data("instructions", size=SIDE, vocabulary=60)
    assert other.digest == data.digest
    assert [other.instruction(i) for i in (5, 3)] == [data.instruction(i) for i in (5, 3)]
    assert open_data("instructions", size=SIDE, vocabulary=60, kinds="add").digest != data.digest


def test_single_emoji_are_drawn_in_another_style():
    """Both pictures are of one emoji, and the second is in the style that the words say."""
    data = open_data("instructions", size=SIDE, vocabulary=60, emoji=0.5)
    assert isinstance(data, InstructedScenes) and data.single is not None
    said = {
        "3d": r"\b3d\b", "flat": r"\bflat\b", "line": r"\bline\b", "noto": r"\bnoto\b",
    }  # fmt: skip
    emoji = [i for i in range(N) if isinstance(data.instruction(i), Redrawing)]
    assert abs(len(emoji) - N / 2) < 4 * (N / 4) ** 0.5
    seen = set()
    drawn = torch.tensor(emoji[:40])
    before, after = data.hints(drawn, drawn, 0), data.images(drawn, Noise.sampling(0, len(drawn)))
    for row, told in enumerate(map(data.instruction, drawn.tolist())):
        (old_style, old), (style, new) = (
            data.single.name(each).split("/") for each in (told.before, told.after)
        )
        assert old == new and old_style != style
        assert [name for name, word in said.items() if re.search(word, told.words)] == [style]
        pixels = data.single.pixels(torch.tensor([told.before, told.after]))
        assert torch.equal(from_uint8(pixels), torch.stack([before[row], after[row]]))
        seen.add(style)
    assert seen == {*said}
    assert all(data.scene(i) is None for i in emoji)
    again = open_data("instructions", size=SIDE, vocabulary=60, emoji=0.5)
    assert [again.instruction(i) for i in emoji[:9]] == [data.instruction(i) for i in emoji[:9]]
    plain = open_data("instructions", size=SIDE, vocabulary=60)
    assert plain.single is None and plain.digest != data.digest
    held = open_data("instructions", size=SIDE, vocabulary=60, emoji=1.0, split="held-out")
    assert {e.group for e in held.single.entries}.isdisjoint(e.group for e in data.single.entries)


def test_every_word_of_an_instruction_has_a_token(data):
    tokenizer = Tokenizer(data.spec.text)
    for told in map(data.instruction, range(N)):
        reading = tokenizer.read(told.words)
        assert not reading.unknown and not reading.rest, told.words


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
def test_what_cannot_be_is_said(options, message):
    with pytest.raises(LimnerError, match=message):
        open_data("instructions", size=SIDE, vocabulary=30, **options).instruction(0)
