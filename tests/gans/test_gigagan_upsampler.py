"""GigaGAN's upsampler: its initial output, its inputs, and its losses."""

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F

from limner import Condition, ImageSpec, Noise, build
from limner.contract.errors import LimnerError
from limner.contract.image import Batch
from limner.contract.text import text_condition, text_spec
from limner.gans.gigagan_upsampler import GigaGANUpsampler, distance, double
from limner.gans.multi_scale_critic import picture_scales

SPEC = ImageSpec(3, 32, 32, hint=ImageSpec(3, 8, 8))
SAID = replace(SPEC, text=text_spec(6))
SMALL = {"latent": 5, "style": 6, "depth": 2, "channels": 4, "most_channels": 6, "kernels": (2, 2)}


def model_of(spec: ImageSpec = SPEC, *, moved: bool = True, **options: object) -> GigaGANUpsampler:
    with torch.random.fork_rng([]), torch.no_grad():
        torch.manual_seed(0)
        model = build("gigagan-upsampler", spec, **SMALL | options)
        assert isinstance(model, GigaGANUpsampler)
        for p in model.parameters():
            if moved:
                p += 0.3 * torch.randn_like(p)  # so that no weight stays 0
    return model.eval()


@cache
def cached_model(spec: ImageSpec = SPEC) -> GigaGANUpsampler:
    """Return a cached model for tests that do not change it."""
    return model_of(spec)


def drawn_batch(n: int, spec: ImageSpec = SPEC) -> Batch:
    noise = Noise.keyed(3, 0, range(n))
    x = noise.uniform(*spec.shape) * 2 - 1
    captions = ["a cat", "two dogs", "a red car", "a cup"][:n]
    text = text_condition(spec, captions).text if spec.text else None
    return Batch(x, Condition(text=text, image=F.avg_pool2d(x, 4)))


def test_a_new_model_is_the_bicubic_filter():
    model = model_of(moved=False)
    small = drawn_batch(2).c.image
    outputs = model.larger_sizes(small, Condition(), torch.zeros(2), Noise.keyed(0, 0, range(2)))
    assert [y.shape[2] for y in outputs] == [32, 16]
    torch.testing.assert_close(outputs[1], double(small))
    torch.testing.assert_close(outputs[0], double(double(small)))


@pytest.mark.parametrize(("factor", "scales"), [(2, 1), (4, 2), (8, 3)])
def test_it_enlarges_by_powers_of_two(factor: int, scales: int):
    spec = replace(SPEC, hint=ImageSpec(3, 32 // factor, 32 // factor))
    model = model_of(spec)
    assert model.factor == factor and model.critic.scales == scales
    x = model.upscale(torch.zeros(1, 3, 9, 13))
    assert x.shape == (1, 3, 9 * factor, 13 * factor)


def test_other_data_are_refused():
    with pytest.raises(LimnerError, match=r"give data\.reduction=2"):
        build("gigagan-upsampler", ImageSpec(3, 24, 24, hint=ImageSpec(3, 8, 8)), **SMALL)
    with pytest.raises(LimnerError, match=r"data\.hint=lowres"):
        build("gigagan-upsampler", replace(SPEC, hint=ImageSpec(1, 8, 8)), **SMALL)
    with pytest.raises(LimnerError, match="enlarges pictures"):
        build("gigagan-upsampler", replace(SPEC, hint=None), **SMALL)
    with pytest.raises(LimnerError, match=r"at most 0\.1"):
        cached_model().sample(1, Condition(image=torch.zeros(1, 3, 8, 8)), level=0.2)


def test_pictures_are_halved_down_to_4_pixels():
    assert cached_model().enlarger.downs == 1
    assert model_of(downs=0).enlarger.downs == 0
    assert model_of(ImageSpec(3, 64, 64, hint=ImageSpec(3, 32, 32))).enlarger.downs == 3


def test_every_small_pixel_affects_all_output_pixels():
    """Because of the 4 x 4 level and attention, the whole picture determines each pixel."""
    model = cached_model()
    small = drawn_batch(1).c.image.requires_grad_()
    output = model.larger_sizes(small, Condition(), torch.zeros(1), Noise.keyed(0, 0, [0]))[0]
    (slope,) = torch.autograd.grad(output[0, :, 0, 0].sum(), small)
    assert (slope.abs().sum(1) > 0).all()


def test_noise_on_the_small_picture_has_its_level_as_an_input():
    model = model_of(augmentation=0.4)
    inputs: list[torch.Tensor] = []
    model.enlarger.conv_in.register_forward_hook(lambda layer, args, output: inputs.append(args[0]))
    n = 64
    small, level = torch.zeros(n, 3, 8, 8), torch.full((n,), 0.3)
    with torch.no_grad():
        model.larger_sizes(small, Condition(), level, Noise.keyed(0, 0, range(n)))
        model.larger_sizes(small, Condition(), 0 * level, Noise.keyed(0, 0, range(n)))
    assert inputs[0][:, :3].std().item() == pytest.approx(0.3, rel=0.03)
    torch.testing.assert_close(inputs[0][:, 3], torch.full((n, 8, 8), 0.5))
    assert torch.equal(inputs[1][:, :3], small) and (inputs[1][:, 3] == -1).all()


def test_more_noise_than_in_training_is_refused():
    small = drawn_batch(1).c.image
    with pytest.raises(LimnerError, match=r"level=5 is beyond this model's training"):
        cached_model().upscale(small, level=5.0)
    with pytest.raises(LimnerError, match=r"level=5 is beyond this model's training"):
        cached_model().sample(1, Condition(image=small), level=5.0)


def test_seed_and_caption_change_details():
    model = cached_model(SAID)
    c = Condition(image=drawn_batch(1).c.image)
    cat = replace(c, text=text_condition(SAID, ["a cat"]).text)
    dogs = replace(c, text=text_condition(SAID, ["two dogs"]).text)
    one, other = (model.sample(1, cat, seed=seed) for seed in (0, 1))
    assert not torch.equal(one, other)
    assert not torch.allclose(model.sample(1, dogs, seed=0), one)
    null = replace(cat, text=torch.zeros_like(cat.text))
    assert torch.equal(model.sample(1, null, seed=0), model.sample(1, c, seed=0))


@pytest.mark.parametrize("step", [1, 2])
def test_turns_are_critic_then_r1_if_due_then_generator(step: int):
    model = model_of(SAID, r1_every=2, likeness=3.0, words_dropout=0.0)
    batch = drawn_batch(4, SAID)
    turns = list(model.turns(batch, step, Noise.keyed(0, step, range(4))))
    assert [t.of for t in turns] == ["critic", *["critic"] * (step % 2 == 0), "generator"]
    weights = list(model.players()["generator"].parameters())
    critics = torch.autograd.grad(turns[0].loss, weights, allow_unused=True)
    assert all(slope is None for slope in critics)
    logs = turns[-1].logs
    total = logs["generator.game.loss"] + 3.0 * logs["distance"]
    torch.testing.assert_close(turns[-1].loss.detach(), total)
    assert turns[0].logs["matching"] > 0


def test_distance_is_a_mean_over_scales():
    a, b = (Noise.keyed(i, 0, range(2)).normal(3, 8, 8) for i in (0, 1))
    full, half = (a - b).abs().mean(), (F.avg_pool2d(a, 2) - F.avg_pool2d(b, 2)).abs().mean()
    torch.testing.assert_close(
        distance(picture_scales(a, 2), picture_scales(b, 2)), (full + half) / 2
    )


def test_training_hides_captions_but_never_the_small_picture():
    model = model_of(SAID, words_dropout=1.0)
    batch = drawn_batch(4, SAID)
    conditions = []
    model.mapping.conditioner.register_forward_hook(
        lambda _, args, output: conditions.append(args[0])
    )
    first = next(model.turns(batch, 1, Noise.keyed(0, 1, range(4))))
    assert all(not c.text.any() for c in conditions) and conditions
    assert first.logs["matching"] == 0, "captions must not be exchanged"
    assert not math.isnan(first.loss.item())


def test_half_precision_has_finite_losses_and_gradients():
    model = model_of(r1_every=1).train()
    grey = Batch(torch.zeros(4, 3, 32, 32), Condition(image=torch.zeros(4, 3, 8, 8)))
    with torch.autocast("cpu", torch.bfloat16):
        for turn in model.turns(grey, 0, Noise.keyed(0, 0, range(4))):
            assert turn.loss.isfinite()
            parameters = list(model.players()[turn.of].parameters())
            slopes = torch.autograd.grad(
                turn.loss, parameters, allow_unused=True, retain_graph=True
            )
            assert all(slope.isfinite().all() for slope in slopes if slope is not None)
