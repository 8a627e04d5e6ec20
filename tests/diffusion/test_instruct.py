"""Instruct: equals its base before training, and is guided as in equation 3."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from limner.contract.checkpoint import load, save_model
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, ImageSpec
from limner.contract.noise import Noise
from limner.contract.registry import build
from limner.contract.text import text_spec
from limner.contract.upscaling import resize
from limner.data.hints import brightness, draw_hint, hint_spec
from limner.diffusion.flow_matching import FlowMatching
from limner.diffusion.instruct import Instruct, _FixedNoise
from limner.maths.denoisers import Clipped, Estimate, GuidedByPicture
from limner.nn.low_rank import LowRank

TEXT = ImageSpec(3, 8, 8, text=text_spec(5))
SPEC = replace(TEXT, hint=ImageSpec(3, 8, 8))
every_base = pytest.mark.parametrize("kind", ["flow-matching", "plain", "latent-diffusion"])
every_rank = pytest.mark.parametrize("rank", [0, 2])


def randomised(model):
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    return model


def base(kind="flow-matching"):
    torch.manual_seed(3)
    if kind == "latent-diffusion":
        stage = build("kl-autoencoder", replace(TEXT, text=None), channels=(8, 8), blocks=1)
        model = build(kind, TEXT, first_stage=stage, options={"channels": (8, 8)})
    elif kind == "plain":
        options = {"T": 20, "network": "plain", "variance": "learned", "blocks": 1}
        model = build("ddpm", TEXT, channels=(8, 16), **options)
    else:
        model = build(kind, TEXT, channels=(8, 16))
    return randomised(model).eval()


def conditions(n=2, image=True):
    noise = Noise.keyed(4, 1, range(n))
    text = 1 + noise.integers(50, 5)
    return Condition(text=text, image=noise.uniform(3, 8, 8) * 2 - 1 if image else None)


@every_base
@every_rank
@pytest.mark.parametrize("keep", [False, True])
def test_an_untrained_model_equals_its_base_bit_for_bit(kind, rank, keep):
    model = Instruct(SPEC, base(kind), rank=rank, keep=keep).eval()
    c = conditions()
    bare = replace(c, image=None)
    pair = model.sample(2, c, seed=1, steps=3), base(kind).sample(2, bare, seed=1, steps=3)
    assert torch.equal(*pair)


def test_keep_can_return_the_source_picture():
    """With m = 1, a = 1 / t and b = -1 / t, flow matching's D = x_t - t F is the source picture."""
    t = torch.full((2,), 0.4, dtype=torch.float64)
    model = Instruct(SPEC, base("flow-matching"), rank=2, keep=True).eval()
    model.keep.bias.data = torch.tensor([1.0, 2.5, -2.5]).repeat_interleave(
        len(model.keep.bias) // 3
    )
    c, x_t = conditions(), torch.randn(2, 3, 8, 8)
    estimate = model._instructed_base(x_t, t, model.with_source(c, 2)).x_hat
    torch.testing.assert_close(estimate, c.image, atol=1e-5, rtol=0)
    partial = replace(c, present=torch.tensor([True, False]))
    estimate = model._instructed_base(x_t, t, model.with_source(partial, 2)).x_hat
    torch.testing.assert_close(estimate[:1], c.image[:1], atol=1e-5, rtol=0)
    bare = base("flow-matching")(x_t, t, replace(c, image=None)).x_hat
    assert torch.equal(estimate[1:], bare[1:])
    without = model.with_source(replace(c, image=None), 2)
    assert torch.equal(model._instructed_base(x_t, t, without).x_hat, bare)


@every_base
def test_pixels_with_changes_below_the_tolerance_are_restored(kind):
    model, c = randomised(Instruct(SPEC, base(kind), rank=2)).eval(), conditions()
    expected = model.sample(2, c, seed=1, steps=2)
    assert torch.equal(model.sample(2, c, seed=1, steps=2, tolerance=1e9), c.image)
    assert torch.equal(model.sample(2, c, seed=1, steps=2, tolerance=1e-9), expected)
    condition = model.with_source(replace(c, present=torch.tensor([True, False])), 2)
    x = condition.image.clone()
    x[:, -1, 0, 1] += 0.6
    places = torch.zeros(1, *x.shape[2:])
    places[:, :2, :3] = 1
    assert torch.equal(
        model._change_mask(x, condition, 0.5), torch.stack([places, torch.ones_like(places)])
    )
    assert not model._change_mask(x, condition, 0.7)[0].any()
    bare = replace(c, image=None)
    pictures = model.sample(2, bare, seed=1, steps=2, tolerance=1e9)
    assert torch.equal(pictures, model.sample(2, bare, seed=1, steps=2))


def test_restored_and_painted_pixels_are_blended_at_their_border(monkeypatch):
    """Places of a latent map are larger than pixels; their weights are interpolated."""
    model, c = randomised(Instruct(SPEC, base("latent-diffusion"))).eval(), conditions()
    painted = model.sample(2, c, seed=1, steps=2)
    mask = torch.zeros(2, 1, *model.denoiser.spec.shape[1:])
    mask[..., : mask.shape[-1] // 2] = 1
    monkeypatch.setattr(Instruct, "_change_mask", staticmethod(lambda x, c, tolerance: mask))
    picture = model.sample(2, c, seed=1, steps=2, tolerance=0.5)
    assert mask.shape[-2:] == (2, 2)
    weight = torch.tensor([1, 1, 0.875, 0.625, 0.375, 0.125, 0, 0])
    inside = painted.abs() < 1  # others were clamped
    expected = torch.lerp(c.image, painted, weight)
    assert inside.float().mean() > 0.3
    torch.testing.assert_close(picture[inside], expected[inside], atol=1e-5, rtol=0)


def test_low_rank_weights_keep_their_strides():
    """Other strides of 1 x 1 kernels make convolutions add in another order."""
    network = torch.nn.Conv2d(8, 4, 1).to(memory_format=torch.channels_last)
    weight = LowRank(network, 2).changed_weights(network)["weight"]
    assert weight.stride() == network.weight.stride() != (8, 1, 1, 1)
    assert torch.equal(weight, network.weight)


@every_base
def test_the_source_picture_has_an_effect_after_training(kind):
    model = Instruct(SPEC, base(kind)).eval()
    randomised(model.source)
    c = conditions()
    other = replace(c, image=-c.image)
    text_only = replace(c, image=None)
    pictures = [model.sample(2, condition, seed=1, steps=3) for condition in (c, other, text_only)]
    assert not torch.allclose(pictures[0], pictures[1], atol=1e-3)
    absent = replace(c, present=torch.zeros(2, dtype=torch.bool))
    assert torch.equal(model.sample(2, absent, seed=1, steps=3), pictures[2])


@every_rank
def test_only_the_intended_weights_are_trained(rank):
    model = Instruct(SPEC, base(), rank=rank).train()
    c = conditions(4)
    batch = Batch(Noise.keyed(0, 1, range(4)).uniform(3, 8, 8) * 2 - 1, c)
    before = {name: p.clone() for name, p in model.named_parameters()}
    parameters = list(model.players()["instructed"].parameters())
    optimiser = torch.optim.SGD(parameters, lr=1e-2)
    for step in range(2):
        for turn in model.turns(batch, step, Noise.keyed(0, 2, range(4))):
            optimiser.zero_grad()
            turn.loss.backward()
            optimiser.step()
    names = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert "source.weight" in names
    of_base = {name for name in names if name.startswith("base.")}
    assert bool(of_base) == (rank == 0)
    if rank:
        assert any(name.startswith("change.B") for name in names)


def test_guidance_with_two_scales_is_equation_3():
    """The denoiser returns a different number for each part of a condition."""

    class Denoiser:
        schedule = base().schedule
        evaluations = 0

        def __call__(self, x_t, t, c):
            self.evaluations += len(x_t)
            text = (c.text > 0).any(1).double() * 10
            image = c.present.double() * c.image.double().mean((1, 2, 3))
            number = 1 + text + image * (2 + text)
            return Estimate(number.view(-1, 1, 1, 1).expand(len(x_t), 3, 8, 8))

    c = replace(conditions(), present=torch.ones(2, dtype=torch.bool))
    x, t, null = torch.zeros(2, 3, 8, 8), torch.tensor(0.5), c.null()
    both, neither = (Denoiser()(x, t, condition).x_hat for condition in (c, null))
    with_picture = Denoiser()(x, t, replace(null, image=c.image, present=c.present)).x_hat
    for s_T, s_I, count in ((7.5, 1.5, 6), (1.0, 1.5, 6), (3.0, 1.0, 4), (1.0, 1.0, 2)):
        D = Denoiser()
        x_hat = GuidedByPicture(D, s_T, picture_scale=s_I)(x, t, c).x_hat
        expected = neither + s_I * (with_picture - neither) + s_T * (both - with_picture)
        assert torch.allclose(x_hat, expected, atol=1e-9)
        assert D.evaluations == count


@torch.no_grad()
def test_sampling_is_guided_by_instruction_and_picture():
    model, c = randomised(Instruct(SPEC, base(), rank=2)).eval(), conditions()
    options = {"scale": 7.5, "image_scale": 1.5, "interval": (0.1, 5.0), "rescale": 0.7, "steps": 2}
    plan = model.plan(**options)
    D = plan.D.denoiser
    assert isinstance(plan.D, Clipped) and isinstance(D, GuidedByPicture)
    assert isinstance(D.denoiser, FlowMatching)
    assert (D.scale, D.picture_scale, D.interval, D.rescale) == (7.5, 1.5, (0.1, 5.0), 0.7)
    noise = Noise.sampling(1, 2)
    picture = plan.end(model.first(noise), model.with_source(c, 2), noise)
    sample = model.sample(2, c, seed=1, **options)
    torch.testing.assert_close(sample, picture, atol=1e-4, rtol=0)
    assert isinstance(Instruct(SPEC, base("latent-diffusion")).plan().D, GuidedByPicture)


def test_a_picture_always_has_one_latent_map():
    model = Instruct(SPEC, base("latent-diffusion")).eval()
    x = conditions(2).image[[0, 1, 0]]
    maps = model.with_source(Condition(image=x), 3).image
    assert torch.equal(maps[0], maps[2])
    torch.testing.assert_close(model.with_source(Condition(image=x[1:2]), 1).image, maps[1:2])
    fixed, noise = _FixedNoise(x), Noise.sampling(0, 1)
    for _ in range(2):
        assert torch.equal(fixed.normal(2, 4), noise.normal(2, 4).expand(3, 2, 4))


@every_base
def test_edits_keep_pixels_and_use_the_picture_before(kind):
    model, c = Instruct(SPEC, base(kind)).eval(), conditions()
    randomised(model.source)
    x, mask = conditions().image.flip(0), torch.zeros(2, 1, 8, 8)
    mask[..., :4] = 1
    edited, bare = (
        list(model.edit(x, condition, mask=mask, steps=3, rounds=1))[-1]
        for condition in (c, replace(c, image=None))
    )
    torch.testing.assert_close(edited[..., 4:], x[..., 4:], atol=1e-5, rtol=0)
    assert (edited - bare)[..., :4].abs().amax() > 1e-3


def test_attention_maps_are_of_the_changed_base():
    model, x, c = Instruct(SPEC, base()).eval(), conditions(2).image, conditions()
    assert torch.equal(
        model.attention_maps(x, c), model.base.attention_maps(x, replace(c, image=None))
    )
    randomised(model.source)
    maps = model._instructed_base.attention_maps(x, model.with_source(c, 2))
    assert torch.equal(model.attention_maps(x, c), maps)
    assert (maps - model.base.attention_maps(x, replace(c, image=None))).abs().max() > 1e-4


def test_training_hides_instruction_picture_and_both_equally_often():
    model = Instruct(SPEC, base(), hidden=0.2).train()
    received = []
    view = model._instructed_base

    class Recorder:
        def turns(self, batch, step, noise):
            received.append(batch.c)
            yield from view.turns(batch, step, noise)

    n = 4000
    text = torch.ones(n, 5, dtype=torch.long)
    c = Condition(torch.zeros(n, dtype=torch.long), text, torch.zeros(n, 3, 8, 8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Instruct, "_instructed_base", Recorder())
        for condition in (c, replace(c, present=torch.zeros(n, dtype=torch.bool))):
            batch = Batch(torch.zeros(n, 3, 8, 8), condition)
            next(model.turns(batch, 0, Noise.keyed(0, 1, range(n))))
    text, image = (received[0].text > 0).any(1), received[0].present
    shares = [(a == text) & (b == image) for a in (True, False) for b in (True, False)]
    shares = [share.double().mean().item() for share in shares]
    # The tolerance is 4 standard deviations.
    assert shares == pytest.approx([0.4, 0.2, 0.2, 0.2], abs=0.025)
    assert torch.equal(received[0].label < 0, ~text)
    assert not received[1].present.any()
    assert Instruct(SPEC, base()).hidden == 0.05


def test_it_is_the_same_after_saving(tmp_path):
    model = Instruct(SPEC, base(), rank=2)
    randomised(model.source)
    save_model(model, tmp_path)
    pictures = [m.sample(2, conditions(), seed=0, steps=2) for m in (model, load(tmp_path))]
    assert torch.equal(*pictures)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        (TEXT, {}, "these data have no pictures before"),
        (SPEC, {"hidden": 0.34}, "at most 0.33"),
        (replace(SPEC, hint=ImageSpec(2, 8, 8)), {}, "give data.channels=3"),
        (replace(SPEC, height=16, width=16), {}, "give data.size=8"),
        (replace(SPEC, height=8, width=16), {}, "give data.size=8 data.channels=3"),
        (
            replace(SPEC, channels=1, hint=ImageSpec(1, 8, 8)),
            {},
            "give data.size=8 data.channels=3",
        ),
        (replace(SPEC, text=text_spec(9)), {}, "give data.tokens=5"),
    ],
)
def test_unsuitable_data_and_options_are_refused(spec, options, message):
    with pytest.raises(LimnerError, match=message):
        Instruct(spec, base(), **options)


def test_grey_and_smaller_source_pictures_are_converted():
    model = Instruct(replace(SPEC, hint=ImageSpec(1, 4, 4)), base()).eval()
    randomised(model.source)
    small = conditions().image[:, :1, ::2, ::2]
    image = model.with_source(Condition(image=small), 2).image
    assert image.shape == (2, 3, 8, 8)
    assert torch.equal(image[:, 0], image[:, 2])
    assert torch.allclose(image[:, 0].mean((1, 2)), small.mean((1, 2, 3)), atol=1e-6)


def test_larger_source_pictures_are_reduced_as_in_pillow():
    model, image = (
        Instruct(replace(SPEC, hint=ImageSpec(1, 24, 24)), base()),
        torch.rand(1, 1, 24, 24),
    )
    expected = Image.fromarray(image[0, 0].numpy()).resize((8, 8), Image.Resampling.BILINEAR)
    fitted = model.fit_input(image)[0, 0]
    torch.testing.assert_close(fitted, torch.from_numpy(np.array(expected)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 8, 8), (3, 16, 16)])
def test_pictures_are_changed_if_those_before_had_another_shape_in_training(shape):
    model = Instruct(replace(SPEC, hint=ImageSpec(*shape)), base()).eval()
    randomised(model.source)
    picture, text = conditions(2).image, replace(conditions(1), image=None)
    before = resize(picture, *shape[1:])
    if shape[0] == 1:
        before = (before * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    *_, changed = model.follow(picture, text, seed=3, steps=2)
    c = replace(text.repeat(2), image=before)
    torch.testing.assert_close(changed, model.sample(2, c, seed=3, steps=2))


@pytest.mark.parametrize("kind", ["edges", "line", "lowres", "bicubic"])
def test_hints_that_training_computed_are_computed_from_pictures_that_are_changed(kind):
    hint = replace(hint_spec(kind, SPEC), height=4, width=4) if kind == "lowres" else None
    model = Instruct(replace(SPEC, hint=hint or hint_spec(kind, SPEC)), base()).eval()
    randomised(model.source)
    picture, text = conditions(2).image, replace(conditions(1), image=None)
    before = draw_hint(kind, picture, model.spec.hint.shape[1:])
    assert before.std() > 0
    *_, changed = model.follow(picture, text, seed=3, steps=2)
    c = replace(text.repeat(2), image=before)
    torch.testing.assert_close(changed, model.sample(2, c, seed=3, steps=2))


@pytest.mark.parametrize("name", ["edges", "line"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_before_of_a_domain_with_the_name_of_a_hint_are_not_drawn(name, channels):
    """As in paired:edges,photos: the pictures that a person gives are such pictures already."""
    pair = replace(SPEC, domain="photos", hint=ImageSpec(channels, 8, 8, domain=name))
    model = Instruct(pair, base()).eval()
    randomised(model.source)
    picture, text = conditions(2).image, replace(conditions(1), image=None)
    before = picture if channels == 3 else brightness(picture)
    *_, changed = model.follow(picture, text, seed=3, steps=2)
    c = replace(text.repeat(2), image=before)
    torch.testing.assert_close(changed, model.sample(2, c, seed=3, steps=2))


def test_hints_that_need_the_positions_of_objects_are_not_made_from_pictures():
    for kind in ("mask", "boxes"):
        model = Instruct(replace(SPEC, hint=hint_spec(kind, SPEC)), base())
        text = replace(conditions(1), image=None)
        with pytest.raises(LimnerError, match=rf"changes hints \({kind}\).*sample --hint FILE"):
            next(model.follow(torch.zeros(1, 3, 8, 8), text))


def test_each_picture_has_its_instruction_and_its_seed_and_none_is_hidden():
    model = randomised(Instruct(SPEC, base())).eval()
    picture, c = conditions(3).image, replace(conditions(3), image=None)
    hidden = replace(c, image=picture, present=torch.zeros(3, dtype=torch.bool))
    (only,) = model.follow(picture, hidden, seed=[5, 9, 2], preview=False, steps=2)
    for i, seed in enumerate((5, 9, 2)):
        rows = slice(i, i + 1)
        *frames, alone = model.follow(picture[rows], c.rows(rows), seed=seed, steps=2)
        assert len(frames) == 2
        torch.testing.assert_close(only[rows], alone, atol=1e-5, rtol=1e-5)
    with pytest.raises(LimnerError, match="this model edits 3 x 8 x 8 pictures, not 3 x 9 x 8"):
        next(model.follow(torch.zeros(3, 3, 9, 8), c))


@pytest.mark.parametrize("pairing", ["independent", "optimal"])
def test_it_couples_the_pictures_of_a_batch_if_its_base_does(pairing):
    flow = build("flow-matching", TEXT, channels=(8,), attention=0, pairing=pairing)
    assert Instruct(SPEC, flow).couples_batch == flow.couples_batch == (pairing == "optimal")


def test_a_plan_alone_has_the_picture_before_and_no_tolerance():
    model, c = randomised(Instruct(SPEC, base())).eval(), conditions()
    noise, options = Noise.sampling(1, 2), {"steps": 2, "scale": 2.0, "image_scale": 1.5}
    with torch.no_grad():
        plan, condition = model.base_plan(c, 2, **options)
        picture = plan.end(model.first(noise), condition, noise)
    torch.testing.assert_close(picture, model.sample(2, c, seed=1, **options), atol=1e-4, rtol=0)
    assert torch.equal(model.base_condition(c, 2).image, model.with_source(c, 2).image)
    assert model.base_condition(replace(c, image=None), 2).present.tolist() == [False, False]
    with pytest.raises(LimnerError, match=r"give sampler\.tolerance=0"):
        model.base_plan(c, 2, tolerance=0.1)


def test_a_picture_of_another_shape_is_refused():
    model = Instruct(SPEC, base())
    c = replace(conditions(), image=torch.zeros(2, 1, 8, 8))
    with pytest.raises(LimnerError, match="conditioning"):
        model.sample(2, c, steps=2)
    with pytest.raises(LimnerError, match="no instruction"):
        next(model.follow(torch.zeros(1, 3, 8, 8), Condition()))


@pytest.mark.parametrize("kind", ["shortcut", "meanflow"])
def test_a_base_that_takes_the_length_of_a_step_is_refused(kind):
    with pytest.raises(LimnerError, match=f"{kind} models take the length of a step"):
        Instruct(SPEC, build(kind, TEXT, channels=(8,), attention=0))


def test_a_reflow_model_cannot_be_trained_as_a_base():
    with pytest.raises(LimnerError, match="not from pictures; give the flow-matching model"):
        Instruct(SPEC, build("reflow", TEXT, teacher=base())).prepare(iter(()))
