"""The bundled controls: objects are painted at the position in the hint."""

import pytest
import torch

from limner.contract.bundled import load
from limner.contract.image import Condition
from limner.contract.text import text_condition
from limner.diffusion.controlnet import ControlNet
from limner.evaluate.metrics.adherence import foreground_mask

SIDE = 128
OPTIONS = {"steps": 8, "scale": 3.0, "sampler": "dpm++", "seed": 0}


def hint(name: str, left: int) -> torch.Tensor:
    """Return a box or the outline of a disc in the upper half, starting at column `left`."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    if name == "scenes-layout":
        mask = (y >= 16) & (y < 64) & (x >= left) & (x < left + 48)
    else:
        mask = ((y - 40.0).square() + (x - left - 24.0).square()).sqrt().sub(22).abs() < 3
    return 2.0 * mask[None, None] - 1


@pytest.mark.parametrize("name", ["scenes-sketch", "scenes-layout"])
def test_an_object_is_painted_where_the_hint_is(name: str):
    model = load(name)
    assert isinstance(model, ControlNet)
    text = text_condition(model.spec, ["a red apple on a white background"] * 2).text
    hints = torch.cat([hint(name, 8), hint(name, 72)])
    masks = foreground_mask(model.sample(2, Condition(text=text, image=hints), **OPTIONS)).float()
    for picture, (first, last) in zip(masks, ((0, 64), (64, SIDE))):
        assert picture.sum() > 200
        assert picture[8:72, first:last].sum() / picture.sum() > 0.8
