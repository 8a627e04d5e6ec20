"""What the Python interface says of arguments that cannot be: one line, before any work."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from limner.contract.errors import LimnerError
from limner.contract.image import Condition, ImageSpec
from limner.contract.noise import Noise
from limner.contract.registry import build
from limner.contract.text import prompted, text_spec

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


@pytest.mark.parametrize(
    ("part", "given", "said"),
    [
        ("label", 3, "label is class numbers.*as label=.*not int64 of 0 dimensions"),
        ("label", "cat", "not str"),
        ("label", [1.0, 2.0], "not float32 of 1 dimension$"),
        ("label", torch.eye(2, dtype=torch.int64), "not int64 of 2 dimensions"),
        ("label", torch.tensor([True, False]), "not bool of 1 dimension"),
        ("label", ["cat"], "not list"),
        ("text", "a red apple", "limner.prompted makes them of words.*not str"),
        ("text", [1, 2], "not int64 of 1 dimension"),
        ("image", BYTES, "from_uint8 makes them.*not uint8 of 4 dimensions"),
        ("weight", [1, 2], "not int64 of 1 dimension"),
    ],
)
def test_what_is_no_part_of_a_condition_is_one_line(part: str, given: Any, said: str):
    with pytest.raises(LimnerError, match=said) as raised:
        Condition(**{part: given})
    assert "\n" not in str(raised.value)


def test_words_alone_are_no_condition(vae):
    noise = Noise.sampling(0, 2)
    for c in ("a red apple", [1, 2], None):
        for call in (
            lambda c=c: vae.sample(2, c),
            lambda c=c: next(vae.watch(2, c)),
            lambda c=c: vae.reconstruct(BYTES.float(), c),
            lambda c=c: vae.log_prob(BYTES.float(), c, noise=noise),
        ):
            with pytest.raises(LimnerError, match=r"is not a limner.Condition; .*prompted"):
                call()


@pytest.mark.parametrize("prompts", [None, [], [None], 3])
def test_prompts_are_texts(prompts: Any):
    with pytest.raises(LimnerError, match="is no text; give one"):
        prompted(ImageSpec(1, 8, 8, text=text_spec()), prompts)


def test_a_label_by_its_number():
    spec = ImageSpec(1, 8, 8, labels=("cat", "dog"))
    assert spec.label_index(1) == 1
    with pytest.raises(LimnerError, match="label 2 is not one of 0 to 1"):
        spec.label_index(2)


def test_no_pictures_are_one_line(vae, cyclegan):
    for call in (vae.reconstruct, cyclegan.translate):
        with pytest.raises(LimnerError, match="pictures must be at least 1, not 0"):
            call(torch.zeros(0, *(cyclegan if call == cyclegan.translate else vae).spec.shape))
