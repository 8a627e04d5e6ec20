"""Recipes that are bundled with limner, by name."""

from pathlib import Path

import pytest

from limner.commands.recipes import _first_sentence
from limner.commands.train import _recipe
from limner.contract.errors import LimnerError
from limner.training.bundled_recipes import bundled_recipes, recipe_file
from limner.training.recipe import Recipe

FILES = sorted((Path(__file__).parents[2] / "recipes").glob("*/*.toml"))


def test_every_recipe_has_a_unique_name():
    assert sorted(bundled_recipes().values()) == FILES
    assert len({path.stem for path in FILES}) == len(FILES)


def test_a_recipe_is_found_with_its_name_or_file():
    name, file = "ddpm-mnist", bundled_recipes()["ddpm-mnist"]
    assert recipe_file(f"recipe:{name}") == recipe_file(str(file)) == file
    assert recipe_file("ddpm") is None
    with pytest.raises(LimnerError, match=r"did you mean 'ddpm-mnist'\?.*limner recipes lists all"):
        recipe_file("recipe:ddpm-mnits")
    recipe, run = _recipe([f"recipe:{name}", "train.steps=3"])
    assert recipe == Recipe.read(file, ["train.steps=3"]) and run == name
    with pytest.raises(LimnerError, match="emoji' is neither a recipe nor a model and a source"):
        _recipe([f"recipe:{name}", "emoji"])


def test_the_name_or_path_of_a_bundled_recipe_leads_to_it(tmp_path: Path):
    with pytest.raises(LimnerError, match=r"no recipe .*mnist\.toml; .*: type recipe:ddpm-mnist$"):
        _recipe([str(tmp_path / "recipes/diffusion/ddpm-mnist.toml")])
    with pytest.raises(LimnerError, match=r"is a recipe; type limner train recipe:ddpm-mnist$"):
        _recipe(["ddpm-mnist"])
    with pytest.raises(LimnerError, match=r"no recipe mine\.toml; limner recipes lists"):
        _recipe(["mine.toml"])


def test_the_list_shows_the_first_sentence_of_a_recipe_whole():
    about = Recipe.read(bundled_recipes()["shortcut-mnist"]).about
    assert _first_sentence(about).endswith("by digit: 1, 2, 4, ... 128 steps from one training")
    assert _first_sentence("Glow of digits; 2 scales. Small.\nCommand:  x") == "Glow of digits"
