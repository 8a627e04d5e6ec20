"""Scenes: pure functions of seed and number, with captions that name only what is there."""

import hashlib
import io
import itertools
import random
import re
import zipfile
from collections import Counter, defaultdict
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
import torch
from PIL import Image

from limner.contract.errors import LimnerError
from limner.contract.noise import Noise
from limner.data import Stream, open_data
from limner.data.captions import article
from limner.data.composition import (
    FRAME_CONTAINERS,
    SKILL_SHARES,
    Box,
    Composer,
    Scene,
    Thing,
    is_held_out,
    is_test_composition,
)
from limner.data.grounds import GROUNDS, PLAIN
from limner.data.pictures import raise_error
from limner.data.recolouring import (
    COLOUR_VALUES,
    dominant_colour,
    nearest_name,
    recolour,
    rgb,
    to_oklab,
)
from limner.data.scenes import Scenes, draw_scene, masks, pixel_box
from limner.data.sprites import STYLES, aspect, objects, sprite, vocabulary

MANY = range(400)


@pytest.fixture(scope="module")
def scenes():
    return open_data("scenes", size=64)


def scenes_of(data, numbers=MANY):
    return [data.scene(i) for i in numbers]


def test_a_picture_depends_only_on_seed_and_number(scenes):
    other = open_data("scenes", size=64)
    numbers = torch.tensor([5, 2**39, 17])
    batch = other.pixels(torch.tensor([99, 17]))
    assert torch.equal(scenes.pixels(numbers), other.pixels(numbers))
    assert torch.equal(scenes.pixels(torch.tensor([17]))[0], batch[1])
    reseeded = open_data("scenes", size=64, seed=1)
    assert [s.caption for s in scenes_of(scenes, range(20))] != [
        s.caption for s in scenes_of(reseeded, range(20))
    ]


def test_the_vocabulary_is_large_and_every_artist_drew_all_of_it():
    assert len(objects()) >= 300
    assert all(set(thing.ruling) == {*STYLES} for thing in objects())
    assert sum(thing.ruling["3d"] is not None for thing in objects()) > 250
    assert len({thing.name for thing in objects()} | {t.plural for t in objects()}) > 800


@pytest.mark.parametrize("grid", [0, 12, 16, 25])
def test_nothing_overlaps_or_leaves_the_picture_unless_requested(grid):
    for scene in scenes_of(open_data("scenes", size=64, grid=grid)):
        boxes = [thing.box for thing in scene.things]
        margin = -1e-9 if grid else 0.03 - 1e-9
        assert all(margin <= b.left < b.right <= 1 - margin for b in boxes), scene
        assert all(margin <= b.top < b.bottom <= 1 - margin for b in boxes), scene
        if scene.relation and scene.relation[0] in ("on top of", "inside"):
            continue
        for a, b in itertools.combinations(boxes, 2):
            are_apart = a.right < b.left or b.right < a.left or a.bottom < b.top or b.bottom < a.top
            assert are_apart, scene
    data = open_data("scenes", size=64, skills="two", overlap=1.0)
    count = sum(
        a.left < b.right and b.left < a.right and a.top < b.bottom and b.top < a.bottom
        for a, b in ([thing.box for thing in scene.things] for scene in scenes_of(data, range(200)))
    )
    assert count > 10


def test_stacked_things_stay_off_the_border():
    data = open_data("scenes", size=64, skills="position", relations="on top of")
    for scene in scenes_of(data, range(150)):
        assert all(min(t.box) >= 0.03 - 1e-9 and max(t.box) <= 0.97 + 1e-9 for t in scene.things)


def test_a_grid_determines_places_and_sizes():
    """Longer sides are an even number of cells; corners lie on the grid."""
    counts = Counter()
    for scene in scenes_of(open_data("scenes", size=64, grid=16)):
        if scene.relation and scene.relation[0] in ("on top of", "inside"):
            continue
        for box in (thing.box for thing in scene.things):
            assert 16 * box.left == round(16 * box.left), scene
            assert 16 * box.top == round(16 * box.top), scene
            counts[round(16 * max(box.right - box.left, box.bottom - box.top), 6)] += 1
    common = sum(counts[cells] for cells in (4, 6, 8, 10, 12, 14))
    assert common > 0.9 * counts.total()  # where there is no room, everything shrinks
    assert min(counts[cells] for cells in (4, 6, 8, 10, 12)) >= 5
    with pytest.raises(LimnerError, match="grid"):
        open_data("scenes", grid=5)


@pytest.mark.parametrize("grid", [0, 16])
def test_relations_hold_for_the_boxes(grid):
    kinds = Counter()
    for scene in scenes_of(open_data("scenes", size=64, grid=grid), range(900)):
        if scene.relation is None:
            continue
        kind, i, j = scene.relation
        a, b = scene.things[i].box, scene.things[j].box
        middle = (b.left + b.right) / 2, (b.top + b.bottom) / 2
        kinds[kind] += 1
        assert {
            "left of": a.right < b.left,
            "right of": a.left > b.right,
            "above": a.bottom < b.top,
            "below": a.top > b.bottom,
            "on top of": a.top < b.top and abs(a.bottom - b.top) < 0.03,
            "inside": a.left >= b.left and a.right <= b.right and a.top < b.bottom,
        }[kind], scene
        if kind == "inside" and scene.things[j].name in FRAME_CONTAINERS:
            assert a.left < middle[0] < a.right
    assert min(kinds[kind] for kind in ("left of", "right of", "above", "below")) > 15
    assert kinds["on top of"] > 3 and kinds["inside"] > 1


def test_captions_name_what_is_there(scenes):
    for scene in scenes_of(scenes):
        names = {objects_by_name[t.name] for t in scene.things}
        for thing in names:
            noun = thing.plural if scene.skill == "counting" else thing.name
            assert re.search(rf"\b{re.escape(noun)}\b", scene.caption), scene
        if scene.skill in ("colours", "attribution"):
            for thing in scene.things:
                assert thing.colour is None or f"{thing.colour} {thing.name}" in scene.caption
        for thing in scene.things:  # a colour that is not natural is always named
            assert thing.natural or thing.colour in scene.caption, scene
        if scene.style != "3d":
            assert re.search(rf"\b{scene.style}\b", scene.caption), scene


objects_by_name = {thing.name: thing for thing in objects()}


def test_captions_have_right_articles_and_vary(scenes):
    text = " ".join(scene.caption for scene in scenes_of(scenes, range(1000)))
    for before, word in re.findall(r"\b(an?) (\w+)", text):
        assert article(word) == f"{before} {word}"
    for form in ("a picture of", "in noto style", "line drawing", "left of", "next to"):
        assert form in text
    assert re.search(r"\bthree \w+", text) and re.search(r"\b3 \w+", text)


def test_shares_of_skills_styles_and_grounds():
    data = open_data("scenes", size=32, skills="single=1,counting=3")
    counts = Counter(scene.skill for scene in scenes_of(data))
    assert counts["counting"] / len(MANY) == pytest.approx(0.75, abs=0.07)
    all_scenes = scenes_of(open_data("scenes", size=32))
    assert {scene.skill for scene in all_scenes} == {*SKILL_SHARES}
    assert {scene.style for scene in all_scenes} == {*STYLES}
    assert {scene.ground for scene in all_scenes} == {*GROUNDS}
    numbers = {len(scene.things) for scene in all_scenes if scene.skill == "counting"}
    assert numbers == {2, 3, 4}


def test_training_contains_no_held_out_scenes_and_the_splits_are_disjoint():
    parts = {
        split: scenes_of(open_data("scenes", size=32, split=split), range(150))
        for split in ("train", "test", "held-out")
    }
    assert [open_data("scenes", split=split).training for split in (*parts, "all")] == [
        True, False, False, True,
    ]  # fmt: skip
    assert not any(is_held_out(scene) or is_test_composition(scene) for scene in parts["train"])
    assert all(not is_held_out(scene) and is_test_composition(scene) for scene in parts["test"])
    assert all(is_held_out(scene) for scene in parts["held-out"])
    train, test = ({s.composition for s in parts[split]} for split in ("train", "test"))
    assert not train & test
    all_scenes = scenes_of(open_data("scenes", size=32, split="all", skills="attribution"))
    share = sum(map(is_held_out, all_scenes)) / len(all_scenes)
    assert share == pytest.approx(1 - 0.9 * 0.91**2, abs=0.05)  # a pair, and two colours


def test_one_counted_object_in_ten_is_held_out():
    data = open_data("scenes", size=64, split="all", skills="counting")
    natural = [scene for scene in scenes_of(data, range(1000)) if scene.things[0].natural]
    held = {(scene.things[0].name, is_held_out(scene)) for scene in natural}
    assert len(held) == len({name for name, _ in held}) > 300
    assert sum(is_held for _, is_held in held) / len(held) == pytest.approx(0.1, abs=0.04)


def test_masks_and_boxes_match_the_drawing(scenes):
    selected = [
        scene for scene in scenes_of(scenes) if scene.ground == "white" and scene.style == "line"
    ]
    assert len(selected) > 8
    for scene in selected:
        visible = masks(scene, 64)
        ink = torch.tensor(list(draw_scene(scene, 64).convert("L").tobytes())).view(64, 64) < 128
        assert (ink & ~visible.any(0)).float().mean() < 0.01
        for thing, mask in zip(scene.things, visible):
            left, top, right, bottom = pixel_box(thing.box, 64)
            inside = torch.zeros_like(mask)
            inside[max(top, 0) : bottom, max(left, 0) : right] = True
            assert not (mask & ~inside).any()
        assert (visible.long().sum(0) <= 1).all()


def test_relations_have_their_shares():
    data = open_data("scenes", skills="position", relations="inside=3,on top of")
    kinds = [data.scene(i).relation[0] for i in range(400)]
    assert {*kinds} == {"inside", "on top of"}
    assert kinds.count("inside") / 400 == pytest.approx(0.75, abs=0.07)
    with pytest.raises(LimnerError, match="unknown relation 'insid'; did you mean 'inside'"):
        open_data("scenes", relations="insid")


def test_the_digest_of_the_same_scenes_never_changes():
    """Otherwise runs that an earlier version started could not be resumed."""
    digests = [open_data(kind, size=64, grid=16).digest for kind in ("scenes", "instructions")]
    assert [digest[:12] for digest in digests] == ["daad7856bb52", "fd5383644c40"]


def test_the_same_seed_always_gives_the_same_scenes():
    """Otherwise the pictures would change although their digest stays the same."""
    rare = {"split": "all", "skills": "position,several", "relations": "inside,on top of"}
    text = []
    for options in ({}, {"grid": 16, "overlap": 0.5}, {"split": "test", "style": "3d"}, rare):
        data = open_data("scenes", size=64, seed=1, **options)
        numbers = range(40 if options.get("split") == "test" else 300)
        text += [repr(rounded(scene)) for scene in scenes_of(data, numbers)]
    digest = hashlib.sha256("\n".join(text).encode()).hexdigest()
    assert digest[:12] == "2f0789486554"


def rounded(scene):
    boxes = [Box(*(round(x, 6) for x in thing.box)) for thing in scene.things]
    things = [replace(thing, box=box) for thing, box in zip(scene.things, boxes)]
    return replace(scene, things=tuple(things))


def test_everything_can_be_seen_on_its_ground(scenes):
    """White on white is allowed, because white is the usual ground."""
    for scene in scenes_of(scenes):
        ground = GROUNDS[scene.ground]
        assert not {thing.colour for thing in scene.things} & {*ground.colours}, scene
        assert ground.light or scene.style != "line", scene
    assert all(GROUNDS[name].colours == ((name,) if name != "white" else ()) for name in PLAIN)


@pytest.mark.parametrize("grid", [0, 14, 16])
def test_sizes_in_captions_are_those_of_the_boxes(grid):
    """A big thing of two is larger than the small one; one alone is larger than any without."""
    sides = defaultdict(list)
    data = open_data("scenes", size=64, skills="single,two", grid=grid)
    for scene in scenes_of(data):
        by_size = {t.size: max(t.box.right - t.box.left, t.box.bottom - t.box.top)
                   for t in scene.things}  # fmt: skip
        if scene.skill == "two":
            assert by_size.keys() in ({None}, {"big", "small"}), scene
            assert by_size.get("big", 1) > 1.3 * by_size.get("small", 0), scene
        else:
            sides[scene.things[0].size].append(next(iter(by_size.values())))
    assert max(sides["small"]) < min(sides[None]) + 1e-9
    assert max(sides[None]) < min(sides["big"])


def test_things_in_a_scene_can_be_told_apart():
    data = open_data("scenes", size=64, split="all", skills="two,position,attribution,several")
    for scene in scenes_of(data, range(600)):
        things = scene.things
        assert len({thing.name for thing in things}) == len(things), scene
        assert len(things) in ((3, 4) if scene.skill == "several" else (2,)), scene
        if scene.skill == "attribution":
            assert things[0].colour != things[1].colour, scene
        for thing in things:
            natural = objects_by_name[thing.name].natural[scene.style]
            assert thing.natural == (thing.colour == natural), scene


def test_without_containers_nothing_is_inside_and_with_one_it_is_the_outer_thing():
    options = {"size": 64, "split": "all", "skills": "position", "relations": "inside"}
    data = open_data("scenes", vocabulary="dog,cat", **options)
    assert {scene.relation[0] for scene in scenes_of(data, range(50))} == {"above"}
    data = open_data("scenes", vocabulary="dog,basket", **options)
    for scene in scenes_of(data, range(50)):
        kind, i, j = scene.relation
        assert (kind, scene.things[i].name, scene.things[j].name) == ("inside", "dog", "basket")


def test_a_composition_is_everything_but_places_and_wording(scenes):
    things = (Thing("dog", "brown"), Thing("cat", "gray", size="big"))
    scene = Scene("position", "3d", "white", 5, things, ("left of", 0, 1), "a dog left of a cat")
    box = Box(0.1, 0.2, 0.3, 0.4)
    moved = tuple(replace(thing, box=box) for thing in things)
    assert replace(scene, things=moved, shade=6, caption="").composition == scene.composition
    swapped = replace(scene, things=things[::-1], relation=("left of", 1, 0))
    assert swapped.composition == scene.composition
    others = [
        replace(scene, style="flat"),
        replace(scene, ground="sea"),
        replace(scene, relation=None),
        replace(scene, relation=("above", 0, 1)),
        replace(scene, relation=("left of", 1, 0)),
        replace(scene, things=(replace(things[0], colour="red"), things[1])),
        replace(scene, things=(replace(things[0], name="cow"), things[1])),
        replace(scene, things=(replace(things[0], size="small"), things[1])),
    ]
    assert len({other.composition for other in (scene, *others)}) == 9


def test_levels_are_rounded_down_if_requested():
    near, floor = (
        open_data("scenes", size=16, levels=4, levels_by=by) for by in ("round", "floor")
    )
    assert near.digest != floor.digest
    numbers, noise = torch.arange(3), Noise.sampling(0, 3)
    pixels = near.pixels(numbers).double()
    for data, level in ((near, (3 * pixels / 255).round()), (floor, (pixels / 64).floor())):
        torch.testing.assert_close(data.images(numbers, noise).double(), 2 * level / 3 - 1)


def test_a_fixed_number_of_scenes_repeats_every_epoch():
    few, endless = (open_data("scenes", size=16, count=count) for count in (6, 0))
    assert (len(few), few.endless, endless.endless) == (6, False, True)
    assert few.digest != endless.digest
    epochs = Stream(few).indices(torch.arange(18)).view(3, 6)
    assert all(sorted(epoch.tolist()) == [*range(6)] for epoch in epochs)
    assert torch.equal(few.pixels(torch.arange(6)), endless.pixels(torch.arange(6)))


def test_endless_data_are_the_same_in_any_batch_and_have_a_preview(scenes):
    stream = Stream(scenes, 5)
    whole, parts = stream.batch(10, 6), [stream.batch(10, 2), stream.batch(12, 4)]
    assert torch.equal(whole.x, torch.cat([part.x for part in parts]))
    assert torch.equal(whole.c.text, torch.cat([part.c.text for part in parts]))
    assert len(set(stream.indices(torch.arange(1000)).tolist())) == 1000
    assert len(stream.preview(12).x) == 12


def test_single_emoji_are_mixed_in_with_their_share():
    data = open_data("scenes", size=16, emoji=0.5)
    is_single = [data.scene(i) is None for i in range(400)]
    assert sum(is_single) / 400 == pytest.approx(0.5, abs=0.07)
    batch = Stream(data, 0).batch(0, 32)
    assert batch.x.shape == (32, 3, 16, 16) and batch.c.text.any(1).all()
    singles = torch.tensor([i for i in range(400) if is_single[i]])
    assert len({*data.captions(singles, Noise.sampling(0, len(singles)))}) > 100
    listing = Scenes(size=16, count=9, skills="two", emoji=0.5).listing(raise_error)
    assert listing.labels == ("two", "emoji")
    assert {entry.label for entry in listing.entries} == {"two", "emoji"}


def test_the_files_of_a_listing_are_the_pictures_with_their_skills_and_captions():
    options = {"size": 16, "style": "line"}
    listing = Scenes(**options, count=1200).listing(raise_error)
    data = open_data("scenes", **options)
    assert len(listing.entries) == 1000
    assert listing.labels == ("single", "two", "counting", "position", "several")
    for i in (0, 999):
        entry, scene = listing.entries[i], data.scene(i)
        assert (entry.name, entry.label) == (f"scene {i}", scene.skill)
        assert entry.captions == (scene.caption,)
        picture = torch.from_numpy(np.array(Image.open(entry.open()))).permute(2, 0, 1)
        assert torch.equal(picture, data.pixels(torch.tensor([i]))[0])
    assert len(Scenes(size=16, count=7).listing(raise_error).entries) == 7


def test_recolouring_moves_the_ruling_hue_and_keeps_the_rest():
    def lab(colour):
        return to_oklab(np.array(rgb(colour), dtype=np.uint8))

    assert {name: nearest_name(colour) for name, colour in COLOUR_VALUES.items()} == {
        n: n for n in COLOUR_VALUES
    }
    picture = np.zeros((8, 8, 4), dtype=np.uint8)
    picture[..., 3] = 255
    picture[:5, :, :3] = rgb(COLOUR_VALUES["red"])
    picture[5:, :, :3] = 20
    hue = dominant_colour(picture)
    assert nearest_name(hue) == "red"
    blue = recolour(picture, hue, COLOUR_VALUES["blue"])
    assert np.abs(lab(COLOUR_VALUES["blue"]) - to_oklab(blue[0, 0, :3])).max() < 0.03
    assert (blue[5:] == picture[5:]).all() and (blue[..., 3] == 255).all()
    picture[:3, :, :3] = rgb(COLOUR_VALUES["green"])
    assert dominant_colour(picture) is None


def test_a_recoloured_sprite_has_the_requested_colour():
    for name in ("red", "blue", "green"):
        pixels = np.asarray(sprite("apple", "3d", name, 64, 64))
        assert nearest_name(dominant_colour(pixels)) == name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocabulary": "dog,unicycle"}, "unknown object 'unicycle'"),
        ({"vocabulary": 1}, "from 2 to"),
        ({"vocabulary": 100_000}, "from 2 to"),
        ({"vocabulary": "dog"}, "at least two"),
        ({"skills": "juggling"}, "unknown skill 'juggling'"),
        ({"skills": "single=1,single=3"}, "data.skills: single is given twice; give it once"),
        ({"skills": "single=0"}, "positive"),
        ({"skills": "single=many"}, "positive"),
        ({"skills": "single=inf"}, "positive"),
        ({"skills": "single=nan"}, "positive"),
        ({"size": "32x64"}, "square"),
        ({"size": 15}, "at least 16"),
        ({"flip": True}, "left and right"),
        ({"binarise": "dynamic"}, "data.binarise"),
        ({"load_size": 20}, "data.load_size"),
        ({"half": "left"}, "data.half"),
        ({"split": "valid"}, "split"),
        ({"skills": "attribution", "style": "line"}, "line"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(LimnerError, match=message):
        open_data("scenes", **options)


def test_objects_are_named_in_any_case_and_counted_once():
    first, second = objects()[:2]
    named = f" {second.name.upper()} , {first.name},{second.name}"
    assert vocabulary(named) == (second, first)
    assert vocabulary(" 3 ") == objects()[:3] and vocabulary(len(objects())) == objects()


def test_only_an_object_with_a_dominant_colour_has_other_colours():
    for thing in objects():
        for style, colour in thing.ruling.items():
            assert thing.colours(style) == (tuple(COLOUR_VALUES) if colour else ())
            assert thing.natural[style] == (nearest_name(colour) if colour else None)


def test_a_small_sprite_is_the_mean_of_what_is_visible():
    """So its border has no colour of transparent pixels."""
    for thing in objects()[:12]:
        ratio = aspect(thing.name, "3d")
        sizes = (round(400 / ratio), 400), (1, 1)
        large, dot = (np.asarray(sprite(thing.name, "3d", None, *size)) for size in sizes)
        assert large.shape == (*sizes[0], 4) and large[..., 3].min() == 0
        large = large.astype(float).reshape(-1, 4)
        visible = np.average(large[:, :3], axis=0, weights=large[:, 3])
        assert np.abs(dot[0, 0, :3] - visible).max() < 4, thing.name
        assert abs(float(dot[0, 0, 3]) - large[:, 3].mean()) < 1


def test_the_aspect_of_an_object_is_that_of_its_picture():
    wide = max(objects(), key=lambda thing: aspect(thing.name, "noto")).name
    with zipfile.ZipFile(files("limner.data") / "assets" / "sprites.zip") as archive:
        data = archive.read(f"noto/{wide.replace(' ', '-')}.webp")
    width, height = Image.open(io.BytesIO(data)).size
    assert width > height and aspect(wide, "noto") == width / height


def test_a_small_vocabulary_contains_the_first_objects():
    assert [thing.name for thing in vocabulary(3)] == [thing.name for thing in objects()[:3]]
    data = open_data("scenes", size=32, vocabulary=12)
    assert {t.name for s in scenes_of(data, range(300)) for t in s.things} <= {
        thing.name for thing in objects()[:12]
    }


def test_a_composer_with_few_possibilities_terminates():
    few = vocabulary("ghost,skull")
    composer = Composer(few, {"two": 1.0}, {"3d": 1.0})
    assert len(composer.draw("all", random.Random("0")).things) == 2
    composer = Composer(few, {"several": 1.0}, {"3d": 1.0})
    assert len(composer.draw("all", random.Random("0")).things) == 2
