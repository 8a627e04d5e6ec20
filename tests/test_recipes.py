"""Every recipe is valid: data, options, model and sampler options exist."""

from pathlib import Path

import pytest
import torch

from limner.contract.image import ImageSpec
from limner.contract.layout import layout_spec
from limner.contract.model import GenerativeModel
from limner.contract.text import text_spec
from limner.data.hints import REDUCED_HINTS, hint_spec
from limner.data.scenes import Scenes
from limner.data.sources import PAIRS, domains, find_source
from limner.training.recipe import Recipe

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*/*.toml"))


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_is_valid(file):
    recipe = Recipe.read(file)
    command = f"limner train recipes/{file.parent.name}/{file.name}"
    assert command in recipe.about, "its header must state the command"
    data, options = dict(recipe.data), recipe.options()
    address, two = data.pop("source"), False
    if address.partition(":")[0] in PAIRS:
        two, (address, extra) = True, domains(address, data)[1]
        data |= extra
    source = find_source(address, data)
    if isinstance(source, Scenes) and not source.emoji:
        pixels = source.open(address).pixels(torch.arange(40))
        assert tuple(pixels.shape) == (40, 3, *(source.shape or ()))
    if options.init:
        return  # its nested models come from other runs' files
    shape = (3, *source.shape) if source.shape else (1, 28, 28)
    labels = () if getattr(source, "label", "none") == "none" else ("one", "two")
    levels = 2 if source.binarise else source.levels
    text = text_spec(source.tokens) if source.text else None
    hint = layout_spec(("dog", "cat"), 4) if data.get("hint") == "objects" else None
    if source.hint in REDUCED_HINTS:
        hint = hint_spec(source.hint, ImageSpec(*shape), source.reduction)
    hint = ImageSpec(*shape) if two else hint
    model = recipe.build(ImageSpec(*shape, levels, labels, text=text, hint=hint))
    if isinstance(model, GenerativeModel):
        model.sampler_options(recipe.sampler)
