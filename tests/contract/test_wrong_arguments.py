"""The Python interface refuses invalid arguments in one line, before any work."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from limner.contract.checkpoint import load, save_model
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, ImageSpec
from limner.contract.noise import Noise
from limner.contract.registry import build
from limner.contract.text import text_condition, text_spec
from limner.data.hints import draw_hint

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


def test_pictures_as_bytes_are_refused(vae, ddpm, pixelcnn, cyclegan):
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
        with pytest.raises(LimnerError, match=r"and these go from 0 to 255; .*from_uint8 converts"):
            call(torch.linspace(0, 255, BYTES.numel()).view_as(BYTES))


@pytest.mark.parametrize("mask", [2 * MASK - 3, 255 * MASK, MASK.bool(), MASK * torch.nan])
def test_a_mask_must_be_from_0_to_1(ddpm, pixelcnn, mask):
    for call in (ddpm.edit, pixelcnn.complete):
        with pytest.raises(LimnerError, match="a mask must have floats from 0"):
            next(call(BYTES.float(), mask=mask))


@pytest.mark.parametrize(
    ("part", "given", "message"),
    [
        ("label", 3, "label must be class numbers.*as label=.*not int64 of 0 dimensions"),
        ("label", "cat", "not str"),
        ("label", [1.0, 2.0], "not float32 of 1 dimension$"),
        ("label", torch.eye(2, dtype=torch.int64), "not int64 of 2 dimensions"),
        ("label", torch.tensor([True, False]), "not bool of 1 dimension"),
        ("label", ["cat"], "not list"),
        ("text", "a red apple", "limner.text_condition reads words.*not str"),
        ("text", [1, 2], "not int64 of 1 dimension"),
        ("image", BYTES, "from_uint8 makes them.*not uint8 of 4 dimensions"),
        ("weight", [1, 2], "not int64 of 1 dimension"),
    ],
)
def test_an_invalid_part_of_a_condition_is_refused_in_one_line(part: str, given: Any, message: str):
    with pytest.raises(LimnerError, match=message) as error:
        Condition(**{part: given})
    assert "\n" not in str(error.value)


def test_words_alone_are_not_a_condition(vae):
    noise = Noise.sampling(0, 2)
    for c in ("a red apple", [1, 2], None):
        for call in (
            lambda c=c: vae.sample(2, c),
            lambda c=c: next(vae.watch(2, c)),
            lambda c=c: vae.reconstruct(BYTES.float(), c),
            lambda c=c: vae.log_prob(BYTES.float(), c, noise=noise),
        ):
            with pytest.raises(LimnerError, match=r"is not a limner.Condition; .*text_condition"):
                call()


@pytest.mark.parametrize("prompts", [None, [], [None], 3])
def test_prompts_that_are_not_text_are_refused(prompts: Any):
    with pytest.raises(LimnerError, match="is not text; give one"):
        text_condition(ImageSpec(1, 8, 8, text=text_spec()), prompts)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"height": 8.5}, "height=8.5 is not a whole number; give one, as height=3"),
        ({"channels": "1"}, "channels='1' is not a whole number"),
        ({"levels": None}, "levels=None is not a whole number"),
        ({"labels": "cat"}, "labels='cat' are not names; give text, as"),
        ({"labels": (0, 1)}, "are not names"),
        ({"labels": 10}, "are not names"),
    ],
)
def test_an_invalid_specification_is_refused_in_one_line(given: dict[str, Any], message: str):
    values: dict[str, Any] = {"channels": 1, "height": 8, "width": 8}
    with pytest.raises(LimnerError, match=message):
        ImageSpec(**values | given)


def test_a_specification_keeps_plain_numbers_and_tuples():
    values: dict[str, Any] = {"channels": np.int64(1), "labels": ["cat", "dog"]}
    spec = ImageSpec(**values, height=8, width=8)
    assert type(spec.channels) is int
    assert hash(spec) == hash(ImageSpec(1, 8, 8, labels=("cat", "dog")))


@pytest.mark.parametrize("spec", [(1, 8, 8), GREY.to_json(), None])
def test_a_model_is_built_from_a_specification_only(spec: Any):
    with pytest.raises(LimnerError, match="VAE takes the specification of the pictures first, not"):
        build("vae", spec)


@pytest.mark.parametrize("n", [2.0, "2", None])
def test_the_number_of_pictures_is_a_whole_number(vae, n: Any):
    with pytest.raises(LimnerError, match="pictures must be a whole number, not "):
        vae.sample(n)
    assert len(vae.sample(np.int64(2))) == 2


def test_a_likelihood_needs_a_stream_for_each_picture_and_pictures_without_nan(vae):
    with pytest.raises(LimnerError, match="1 random streams for 2 pictures; give one for each"):
        vae.log_prob(BYTES.float(), noise=Noise.sampling(0, 1))
    with pytest.raises(LimnerError, match="these go from nan to nan"):
        vae.log_prob(BYTES * torch.nan, noise=Noise.sampling(0, 2))


@pytest.mark.parametrize("noise", [None, 3, torch.zeros(2)])
def test_a_likelihood_says_what_noise_is(vae, noise: Any):
    with pytest.raises(LimnerError, match=r"no random streams; give noise=limner.Noise.sampling"):
        vae.log_prob(MASK, noise=noise)


@pytest.mark.parametrize("x", [127 * (MASK + 1), MASK * float("nan")])
def test_conditioning_images_far_outside_the_range_are_refused(cyclegan, x: torch.Tensor):
    x = x.repeat(1, 1, 2, 2)
    with pytest.raises(LimnerError, match=r"must be floats in \[-1, 1\], and these go from"):
        cyclegan.sample(2, Condition(image=x))


def test_sample_has_no_preview(vae):
    with pytest.raises(LimnerError, match="unknown sampler option 'preview'"):
        vae.sample(1, preview=False)


def test_a_mask_is_a_tensor_and_a_domain_a_name(ddpm, cyclegan):
    with pytest.raises(LimnerError, match="a mask must have floats from 0"):
        next(ddpm.edit(MASK - 1, mask=MASK.numpy()))
    with pytest.raises(LimnerError, match="'3' is not a domain"):
        cyclegan.translate(MASK, 3)


def test_codes_of_bytes_and_of_pictures_of_another_shape_are_refused(vae):
    with pytest.raises(LimnerError, match=r"floats in \[-1, 1\], not uint8; .*from_uint8"):
        vae.encode(BYTES)
    for x in (MASK[..., 1:], MASK[0]):
        with pytest.raises(LimnerError, match="codes of 1 x 8 x 8 pictures, not of"):
            vae.encode(x)


@pytest.mark.parametrize("name", ["glow", "realnvp", "vae"])
def test_pictures_in_float64_have_the_likelihoods_and_codes_of_float32(name: str):
    model: Any = build(name, GREY).eval()
    x = (MASK - 0.5) / 2
    for_each = [
        lambda x: model.log_prob(x, noise=Noise.sampling(0, 2)).nats,
        lambda x: model.encode(x),
    ]
    for compute in for_each:
        assert torch.equal(compute(x), compute(x.double()))


def test_a_number_of_coordinates_may_be_numpys(vae):
    x = MASK[:1]
    assert torch.equal(vae.traverse(x, np.int64(1)), vae.traverse(x, 1))
    assert torch.equal(vae.traverse(x, np.array([1])), vae.traverse(x, [1]))


def test_prompts_need_a_specification(vae):
    with pytest.raises(LimnerError, match="VAE is not a specification; give"):
        text_condition(vae, "a dog")


def test_only_models_of_limner_are_saved(tmp_path: Path):
    layer: Any = torch.nn.Linear(2, 2)
    with pytest.raises(LimnerError, match="Linear is not a model; give one"):
        save_model(layer, tmp_path)


def test_a_label_is_found_by_its_number():
    spec = ImageSpec(1, 8, 8, labels=("cat", "dog"))
    assert spec.label_index(1) == spec.label_index(np.int64(1)) == 1
    with pytest.raises(LimnerError, match="label=None is not a whole number"):
        spec.label_index(cast(Any, None))
    with pytest.raises(LimnerError, match="label 2 is not one of 0 to 1"):
        spec.label_index(2)


def test_an_empty_batch_is_refused_in_one_line(vae, cyclegan):
    for call in (vae.reconstruct, cyclegan.translate):
        with pytest.raises(LimnerError, match="pictures must be at least 1, not 0"):
            call(torch.zeros(0, *(cyclegan if call == cyclegan.translate else vae).spec.shape))


def test_pictures_that_a_path_connects_must_have_one_shape(vae):
    with pytest.raises(LimnerError, match="codes of 1 x 8 x 8 pictures, not of 1 x 4 x 4"):
        vae.interpolate(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 4, 4))


@pytest.mark.parametrize("moved", [{"coordinates": 0}, {"coordinates": []}, {"values": ()}])
def test_at_least_one_coordinate_must_be_moved(vae, moved: dict[str, Any]):
    with pytest.raises(LimnerError, match="at least one coordinate and one value"):
        vae.traverse(torch.zeros(1, 1, 8, 8), **moved)


def test_invalid_types_and_devices_for_saving_and_loading_are_refused(vae, tmp_path: Path):
    dtype: Any = "float16"
    with pytest.raises(LimnerError, match=r"give a type of torch, as torch.float16"):
        save_model(vae, tmp_path, dtype=dtype)
    save_model(vae, tmp_path)
    with pytest.raises(LimnerError, match="'gpu' is not a device; write auto, cpu"):
        load(tmp_path, "gpu")
    if not torch.cuda.is_available():
        with pytest.raises(LimnerError, match="no CUDA device that torch can use"):
            load(tmp_path, "cuda")


def test_an_unknown_hint_is_refused():
    kind: Any = "edge"
    with pytest.raises(LimnerError, match="unknown hint 'edge'; did you mean 'edges'"):
        draw_hint(kind, torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize("name", ["half", "bfloat16", "double"])
def test_weights_in_a_type_that_a_model_cannot_paint_in_are_refused(ddpm, vae, pixelcnn, name: str):
    dtype = getattr(torch, name)
    try:
        with pytest.raises(LimnerError, match=r"^the weights are .* type model.float\(\)"):
            ddpm.to(dtype).sample(1, steps=2)
        assert pixelcnn.to(dtype).sample(1).isfinite().all()
        if dtype == torch.float16:
            with pytest.raises(LimnerError, match="the weights are float16"):
                vae.to(dtype).sample(1)
    finally:
        for model in (ddpm, vae, pixelcnn):
            model.float()


def test_pictures_that_are_not_finite_are_refused(ddpm, vae):
    for model in (copy.deepcopy(ddpm), copy.deepcopy(vae)):
        with torch.no_grad():
            for p in model.parameters():
                p.fill_(torch.nan)
        with pytest.raises(LimnerError, match=r"not finite: the weights are damaged, or an option"):
            model.sample(1)
