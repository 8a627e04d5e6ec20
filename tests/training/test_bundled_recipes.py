"""Recipes that come with limner, by name."""

from pathlib import Path

import pytest

from limner.commands.train import _recipe
from limner.contract.errors import LimnerError
from limner.training.bundled_recipes import bundled_recipes, recipe_file
from limner.training.recipe import Recipe

FILES = sorted((Path(__file__).parents[2] / "recipes").glob("*/*.toml"))


def test_every_recipe_has_a_name_of_its_own():
    assert sorted(bundled_recipes().values()) == FILES
    assert len({path.stem for path in FILES}) == len(FILES)


def test_a_recipe_is_found_by_its_name_or_file():
    name, file = "ddpm-mnist", bundled_recipes()["ddpm-mnist"]
    assert recipe_file(f"recipe:{name}") == recipe_file(str(file)) == file
    assert recipe_file("ddpm") is None
    with pytest.raises(LimnerError, match=r"did you mean 'ddpm-mnist'\?.*limner recipes lists all"):
        recipe_file("recipe:ddpm-mnits")
    found, run = _recipe([f"recipe:{name}", "train.steps=3"])
    assert found == Recipe.read(file, ["train.steps=3"]) and run == name
    with pytest.raises(LimnerError, match="emoji' is neither a recipe nor a model and a source"):
        _recipe([f"recipe:{name}", "emoji"])
