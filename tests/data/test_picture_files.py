"""Picture files for a model, and its painting options, as a program reads them."""

import pytest
import torch
from PIL import Image

import limner
from limner.contract.image import ImageSpec


def test_pictures_are_read_in_the_size_and_colours_of_a_model(tmp_path):
    files = [tmp_path / "wide.png", str(tmp_path / "grey.png")]
    Image.new("RGB", (30, 20), (255, 0, 0)).save(files[0])
    Image.new("L", (8, 8), 51).save(files[1])
    x = limner.read_pictures(files, ImageSpec(3, 8, 8))
    expected = torch.tensor([[1.0, -1.0, -1.0], [-0.6, -0.6, -0.6]])
    torch.testing.assert_close(x, expected[:, :, None, None].expand(2, 3, 8, 8))
    limner.sheet(x[:1]).save(tmp_path / "again.png")
    assert torch.equal(limner.read_pictures([tmp_path / "again.png"], ImageSpec(3, 8, 8)), x[:1])


def test_one_file_is_a_batch_of_one_and_none_is_an_error(tmp_path):
    Image.new("L", (8, 8), 51).save(tmp_path / "grey.png")
    spec = ImageSpec(3, 8, 8)
    assert limner.read_pictures(str(tmp_path / "grey.png"), spec).shape == (1, 3, 8, 8)
    with pytest.raises(limner.LimnerError, match="no picture file is given"):
        limner.read_pictures([], spec)


def test_the_painting_options_are_those_of_the_recipe(tmp_path):
    model = limner.build("flow-matching", ImageSpec(1, 8, 8), channels=(8,), attention=0)
    recipe = limner.Recipe.of("flow-matching", "mnist", ["sampler.steps=7", "sampler.scale=2"])
    limner.save_model(model, tmp_path / "model.safetensors", recipe=recipe.sections())
    options = limner.painting_options(tmp_path)
    assert options == {"steps": 7, "scale": 2}
    assert limner.load(tmp_path).sampler_options(options)["steps"] == 7
    with pytest.raises(limner.LimnerError, match="no run, model folder or model file"):
        limner.painting_options("nothing-here")
