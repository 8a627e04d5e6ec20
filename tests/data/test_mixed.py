"""Several sources as one: each picture with its own conditions, each source with its share."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from limner.contract.errors import LimnerError
from limner.contract.noise import Noise
from limner.data import Stream, open_data
from limner.data.dataset import View
from limner.training.options import TrainOptions
from limner.training.recipe import Recipe
from limner.training.validation import with_held_out


def shades(root: Path, first: int, n: int, label: str = "") -> str:
    (root / label).mkdir(parents=True, exist_ok=True)
    for i in range(first, first + n):
        Image.new("RGB", (16, 16), (i, i, i)).save(root / label / f"{i}.png")
        (root / label / f"{i}.txt").write_text(f"shade {i}")
    return f"folder:{root}"


@pytest.fixture
def two(tmp_path) -> list[str]:
    return [shades(tmp_path / "a", 0, 5), shades(tmp_path / "b", 100, 7)]


def test_each_picture_keeps_its_own_caption_hint_and_name(two):
    data = open_data(two, text=True, hint="lowres")
    assert len(data) == 12
    indices = torch.tensor([11, 0, 5, 4, 5])
    values = [106, 0, 100, 4, 100]
    assert data.pixels(indices)[:, 0, 0, 0].tolist() == values
    noise = Noise.sampling(0, 5)
    assert data.captions(indices, noise) == [f"shade {value}" for value in values]
    assert data.name(11) == f"{two[1]} 106.png"
    batch = Stream(data, 3).batch(0, 50)
    assert torch.allclose(batch.c.image.mean((1, 2, 3)), batch.x.mean((1, 2, 3)), atol=1e-6)
    texts = Stream(data, 3).captions(torch.arange(50))
    assert texts == [
        f"shade {v}" for v in ((batch.x[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()
    ]


def test_pictures_are_cropped_and_mirrored_as_in_their_own_source(two):
    options = {"size": 8, "load_size": 16, "hint": "lowres"}
    for source in two:
        for file in Path(source.partition(":")[2]).glob("*.png"):
            pixels = np.random.default_rng(int(file.stem)).integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(file)
    data, parts = open_data(two, **options), [open_data(source, **options) for source in two]
    indices, noise = torch.tensor([11, 0, 5]), Noise.sampling(0, 3)
    view = View(torch.tensor([False, True, True]), torch.tensor([[0.1, 0.9], [0.6, 0.3], [0, 0.5]]))
    x, hints = data.images(indices, noise, view), data.hints(indices, indices, 0, view)
    for row, (part, index) in enumerate([(1, 6), (0, 0), (1, 0)]):
        own = slice(row, row + 1)
        own_view, number = View(view.mirrored[own], view.corner[own]), torch.tensor([index])
        assert torch.equal(x[own], parts[part].images(number, noise.rows(own), own_view))
        assert torch.equal(hints[own], parts[part].hints(number, indices[own], 0, own_view))


def test_shares_are_the_weights_and_each_source_has_its_epochs(two):
    data = open_data(two, weights=[0.9, 0.1])
    indices = Stream(data, 1).indices(torch.arange(10_000))
    assert int((indices < 5).sum()) == 9_000
    assert data.digest != open_data(two, weights=[0.8, 0.2]).digest
    first = indices[indices < 5][:1800].view(-1, 5).sort(1).values
    assert (first == torch.arange(5)).all(), "every picture once in each epoch of its source"


def test_classes_are_mixed_at_the_weights(tmp_path):
    for name, first in (("a", 0), ("b", 100)):
        shades(tmp_path / name, first, 3, "cat")
        shades(tmp_path / name, first + 10, 1 if name == "a" else 3, "dog")
    data = open_data([f"folder:{tmp_path / name}" for name in "ab"], weights=[1, 3])
    assert data.labels.tolist() == [0, 0, 0, 1, 0, 0, 0, 1, 1, 1]
    assert data.spec.frequencies == pytest.approx((0.25 * 0.75 + 0.75 * 0.5, 0.25 * 0.25 + 0.375))


def test_an_endless_source_is_mixed_with_a_finite_one(two):
    options = {"size": 16, "text": True, "tokens": 32, "weights": [0.5, 0.5], "vocabulary": 20}
    data = open_data(["scenes", two[0]], **options)
    indices = Stream(data, 1).indices(torch.arange(1000))
    assert int((indices % 2 == 1).sum()) == 500
    assert {*(indices[indices % 2 == 1] // 2).tolist()} == {*range(5)}
    assert torch.equal(Stream(data, 1).batch(40, 20).x, Stream(data, 1).batch(0, 60).x[40:])
    overview = Stream(data).preview(4)
    assert (overview.x[1] == overview.x[1].flatten()[0]).all(), "the second is a plain shade"


def test_sources_that_do_not_agree_are_refused_in_one_line(two, tmp_path):
    def open_mixture(*sources: str, **options: object):
        return open_data(list(sources), **options)

    with pytest.raises(LimnerError, match=r"are 3, 16, 16 .*the pictures of scenes are 3, 32, 32"):
        open_mixture(two[0], "scenes", **{"b.size": 32})
    with pytest.raises(LimnerError, match=r"as 32 tokens.* as none; give data.text=true"):
        open_mixture("scenes", two[0], size=16)
    with pytest.raises(LimnerError, match=r"have the classes .*activities.* classes none"):
        open_mixture("emoji", two[0], size=16)
    with pytest.raises(
        LimnerError, match=r"have edges as conditioning .* none as .*; give data.hint"
    ):
        open_mixture(*two, **{"a.hint": "edges"})
    for options in ({"a.flip": True}, {"levels": 4, "a.levels_by": "floor"}):
        with pytest.raises(LimnerError, match="differ in one of the options"):
            open_mixture(*two, **options)
    with pytest.raises(LimnerError, match=r"data.weights=1,-1: give a positive number for each"):
        open_mixture(*two, weights=[1, -1])
    with pytest.raises(LimnerError, match=r"'data.vocabulry'; did you mean 'data.vocabulary'"):
        open_mixture("scenes", two[0], vocabulry=3)
    with pytest.raises(LimnerError, match="there is no folder"):
        open_mixture(two[0], f"folder:{tmp_path}/nothing")


def test_a_recipe_takes_a_list_and_options_of_one_source(two, tmp_path):
    file = tmp_path / "r.toml"
    file.write_text(f'[model]\nname = "ddpm"\n[data]\nsource = ["{two[0]}", "{two[1]}"]\n')
    recipe = Recipe.read(file, ["data.weights=3,1", "data.a.flip=true", "data.b.flip=true"])
    assert recipe.data["source"] == f"mixed:{two[0]},{two[1]}"
    data = open_data(**recipe.data)
    assert data.flip
    other = Recipe.of("ddpm", "emoji", [f"data.source={two[0]},{two[1]}", "data.weights=3,1"])
    assert open_data(**other.data, flip=True).digest == data.digest


def test_pictures_are_held_out_from_every_source(two):
    section = {"source": f"mixed:{two[0]},{two[1]}"}
    section = with_held_out(section, TrainOptions(steps=2, validation=4))
    assert section["holdout"] == 0.05
    held_out = open_data(**section | {"holdout": 0.5, "a.split": "test", "b.split": "test"})
    training = open_data(**section | {"holdout": 0.5})
    assert len(held_out) + len(training) == 12
    assert not held_out.training


def test_more_sources_than_letters_are_refused():
    with pytest.raises(LimnerError, match="a mixture has at most 26 sources, not 27"):
        open_data(["emoji"] * 27, size=8)


@pytest.mark.parametrize("weights", [["a", "b"], "ab", [1, math.nan], [1, math.inf], [1, -1], 3])
def test_weights_that_are_not_positive_numbers_are_refused(two, weights: object):
    with pytest.raises(LimnerError, match=r"data.weights=.*: give a positive number for each of"):
        open_data(two, weights=weights)
