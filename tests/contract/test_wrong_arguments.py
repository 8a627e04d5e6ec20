"""What the Python interface says of arguments that cannot be: one line, before any work."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec
from limner.contract.noise import Noise
from limner.contract.registry import build

GREY = ImageSpec(1, 8, 8)
BYTES = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
MASK = torch.ones(2, 1, 8, 8)
pytestmark = pytest.mark.usefixtures("unchecked_shapes")


@pytest.fixture(scope="module")
def vae() -> Any:
    return build("vae", GREY, latent=2, channels=(4,)).eval()


@pytest.fixture(scope="module")
def ddpm() -> Any:
    return build("ddpm", GREY, channels=(8, 16), T=20).eval()


@pytest.fixture(scope="module")
def pixelcnn() -> Any:
    return build("pixelcnn", GREY, h=6, blocks=1, top=6).eval()


@pytest.fixture(scope="module")
def cyclegan() -> Any:
    spec = ImageSpec(1, 16, 16, hint=ImageSpec(1, 16, 16))
    return build("cyclegan", spec, channels=4, blocks=1).eval()


def test_pictures_as_bytes_are_refused_where_pictures_are_given(vae, ddpm, pixelcnn, cyclegan):
    noise = Noise.sampling(0, 2)
    calls: list[Callable[[Any], Any]] = [
        lambda x: vae.log_prob(x, noise=noise),
        lambda x: vae.reconstruct(x),
        lambda x: vae.interpolate(x.float(), x),
        lambda x: next(ddpm.edit(x, mask=MASK)),
        lambda x: next(pixelcnn.complete(x, mask=MASK)),
        lambda x: cyclegan.translate(x),
    ]
    for call in calls:
        for x in (BYTES, BYTES.long()):
            with pytest.raises(LimnerError, match=r"floats in \[-1, 1\], not u?int.*from_uint8"):
                call(x)


@pytest.mark.parametrize("mask", [2 * MASK - 3, 255 * MASK, MASK.bool(), MASK * torch.nan])
def test_a_mask_is_from_0_to_1(ddpm, pixelcnn, mask):
    for call in (ddpm.edit, pixelcnn.complete):
        with pytest.raises(LimnerError, match="a mask is of floats from 0"):
            next(call(BYTES.float(), mask=mask))
