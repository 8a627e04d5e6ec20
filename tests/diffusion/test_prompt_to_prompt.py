"""Prompt-to-prompt: against directly computed attention, and parts that must not change."""

from dataclasses import replace

import pytest
import torch

import limner
import limner.diffusion.prompt_to_prompt as module
from limner.contract.abilities import Attends
from limner.contract.editing import Edits, Rewords
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, ImageSpec
from limner.contract.rewording import Rewording, align_tokens
from limner.contract.text import text_condition, text_spec
from limner.diffusion.sampling import Plan
from limner.maths.denoisers import Estimate
from limner.maths.samplers.ddim import DDIM
from limner.maths.schedules import LinearPath
from limner.nn.attention import Attention

SPEC = ImageSpec(3, 8, 8, text=text_spec(8))
MODELS = ["flow-matching", "edm", "ddpm", "latent-diffusion", "classifier-free"]


@pytest.fixture(scope="module")
def models():
    """Build a model of each kind with large random weights, so that words have an effect."""

    def built(name: str):
        options = {"channels": (8, 16), "attention": 2}
        if name == "latent-diffusion":
            stage = limner.build("kl-autoencoder", replace(SPEC, text=None), channels=(8, 16))
            options = {"first_stage": stage, "options": {"channels": (8, 16), "attention": 2}}
        torch.manual_seed(0)
        model = limner.build(name, SPEC, **options).eval()
        for p in model.parameters():
            if p.ndim > 1:
                torch.nn.init.normal_(p, std=0.15)
        for layer in model.modules():  # so that attention differs between places
            if isinstance(layer, Attention) and layer.null is not None:
                torch.nn.init.normal_(layer.query.weight, std=3.0)
        return model

    return {name: built(name) for name in MODELS}


def change(before: str, after: str, **options) -> tuple[Condition, Condition, Rewording]:
    both = text_condition(SPEC, [before, after])
    rows = [[int(token) for token in row if token] for row in both.text]
    length = both.text.shape[1]
    alignment = align_tokens(*rows, length)
    arguments = Rewording(alignment, options.pop("gains", torch.ones(length)), **options)
    return both.rows(slice(0, 1)), both.rows(slice(1, 2)), arguments


def last_frame(walk):
    *_, picture = walk
    return picture


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_same_words_change_nothing(models, name, scale):
    model, seeds = models[name], [3, 4]
    arguments = change("a red dog", "a red dog")
    pair = last_frame(model.reword(*arguments, seed=seeds, steps=4, scale=scale))
    assert torch.equal(pair[:2], pair[2:])
    expected = model.sample(2, arguments[0], seed=seeds, steps=4, scale=scale)
    torch.testing.assert_close(pair[:2], expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_without_sharing_both_pictures_are_samples_of_their_prompts(models, name):
    model = models[name]
    arguments = change("a red dog", "two blue cats", cross_steps=0, self_steps=0, local=0)
    pair = last_frame(model.reword(*arguments, seed=5, steps=4))
    samples = (model.sample(1, c, seed=5, steps=4) for c in arguments[:2])
    torch.testing.assert_close(pair, torch.cat([*samples]), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(pair[:1], pair[1:], atol=1e-2)


def recorded_attention(model, arguments, **options):
    """Return the attention of each layer in the first evaluation, before and after sharing."""
    records: dict[str, torch.Tensor] = {}
    layers = [m for m in model.modules() if isinstance(m, Attention) and m.site[:4] != "text"]

    class Recorder(module._SharingDenoiser):
        def cross_attention(self, site, weights):
            shared = super().cross_attention(site, weights)
            records.setdefault(site, (weights, shared))
            return shared

        def self_attention(self, site, weights):
            shared = super().self_attention(site, weights)
            records.setdefault(site, (weights, shared))
            return shared

    original, module._SharingDenoiser = module._SharingDenoiser, Recorder
    try:
        last_frame(model.reword(*arguments, steps=2, **options))
    finally:
        module._SharingDenoiser = original
    assert len(records) == len({layer.site for layer in layers})
    return records


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_shared_attention_equals_a_direct_computation(models, scale):
    """Replacement, refinement and the weight of a word in one edit."""
    gains = torch.tensor([1.0, 1.0, 2.0, 1.0, 1.0])
    arguments = change("a red dog", "a blue dog here now", cross_steps=1, self_steps=1, gains=gains)
    for site, (original, shared) in recorded_attention(
        models["flow-matching"], arguments, scale=scale
    ).items():
        assert len(original) == (4 if scale != 1 else 2)
        assert torch.equal(shared[0], original[0]) and torch.equal(shared[2:], original[2:])
        first, second = original[0], original[1]
        if site.endswith("self"):
            assert torch.equal(shared[1], first)
            continue
        null, a, colour, dog = first.unbind(-1)[:4]
        expected = torch.stack([null, a, colour, 2 * dog, second[..., 4], second[..., 5]], -1)
        torch.testing.assert_close(shared[1], expected)


def test_a_word_without_a_source_keeps_its_own_attention():
    (_, _, arguments), weights = (
        change("red dog", "a red dog", cross_steps=1),
        torch.rand(2, 3, 4, 4),
    )
    first, second = weights[0].unbind(-1), weights[1].unbind(-1)
    shared = module.SharedAttention(arguments, 1).cross_attention("", weights)
    expected = torch.stack([first[0], second[1], first[1], first[2]], -1)
    assert torch.equal(shared, torch.stack([weights[0], expected]))


def attention_to(*places: tuple[int, int, int, float]) -> torch.Tensor:
    """Return the attention of two pictures of 3 x 12 places to three words: (picture, place, word,
    amount)."""
    weights = torch.zeros(2, 1, 36, 4)
    for picture, place, word, amount in places:
        weights[picture, 0, place, 1 + word] = amount
    return weights


def kept_places(shared: module.SharedAttention) -> list[int]:
    """Return the places where the second picture is blended with the first."""
    first, second = shared.blend(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 3, 12))
    assert not first.any()
    return (second == 0).flatten().nonzero().flatten().tolist()


NEXT_TO = {0: [0, 1, 12, 13], 35: [22, 23, 34, 35]}  # the first and the last place


def test_pictures_differ_next_to_places_that_attend_to_a_changed_word():
    """Each picture has its own maximum and its own word: "red" before, "now" after."""
    _, _, arguments = change("a red dog", "a dog now", cross_steps=0, local=0.5)
    shared = module.SharedAttention(arguments, 1)
    shared.start_evaluation(0.5)
    elsewhere = (0, 18, 2, 0.9), (1, 18, 1, 0.9)  # words that do not change
    shared.cross_attention("", attention_to((0, 0, 1, 0.8), (1, 35, 2, 0.2), *elsewhere))
    differing = NEXT_TO[0] + NEXT_TO[35]
    assert kept_places(shared) == [place for place in range(36) if place not in differing]


def test_attention_to_changed_words_is_added_up_over_the_steps():
    _, _, arguments = change("a red dog", "a blue dog", cross_steps=0, local=0.6)
    shared = module.SharedAttention(arguments, 1)
    shared.start_evaluation(0.1)
    shared.cross_attention("", attention_to((0, 0, 1, 0.3)))
    assert kept_places(shared) == [], "words have no places yet"
    shared.start_evaluation(0.3)
    shared.cross_attention("", attention_to((0, 35, 1, 0.3)))
    differing = NEXT_TO[0] + NEXT_TO[35]
    assert kept_places(shared) == [place for place in range(36) if place not in differing]


def test_progress_is_the_share_of_steps_that_are_done():
    class Still:
        schedule = LinearPath()

        def __call__(self, x_t, t, c):
            return Estimate(x_t)

    times = LinearPath().times(5)
    _, _, arguments = change("a red dog", "a blue dog", local=0)
    denoiser = module._SharingDenoiser(Still(), torch.nn.Identity(), arguments, times, 1)
    progress = []
    for t in times[:-1]:
        denoiser(torch.zeros(2, 1, 1, 1), t, Condition())
        progress.append(denoiser.progress)
    assert progress == pytest.approx([i / (len(times) - 1) for i in range(len(times) - 1)])


def test_a_gain_of_0_removes_the_attention_of_a_word(models):
    arguments = change("a red dog", "a red dog", gains=torch.tensor([1.0, 0.0, 1.0]), local=0)
    for site, (original, shared) in recorded_attention(models["edm"], arguments).items():
        if site.endswith("cross"):
            assert shared[1, ..., 2].abs().max() == 0 and original[1, ..., 2].min() > 0


@pytest.mark.parametrize("name", MODELS)
def test_local_blending_keeps_pixels_elsewhere_exactly(models, name):
    """Where attention to the changed word is low, both pictures are bit-identical."""
    model = models[name]
    arguments = change("a red dog", "a blue dog", local=0.97, cross_steps=0, self_steps=0)
    pair = last_frame(model.reword(*arguments, seed=2, steps=5))
    free = last_frame(model.reword(*arguments[:2], replace(arguments[2], local=0), seed=2, steps=5))
    local_share, free_share = (float((p[0] == p[1]).all(0).float().mean()) for p in (pair, free))
    assert not torch.equal(pair[0], pair[1])
    if name != "latent-diffusion":  # its decoder spreads changes
        assert local_share > 0.5 and local_share > 2 * free_share


@pytest.mark.parametrize("name", MODELS)
def test_a_given_picture_is_unchanged_if_no_word_changes(models, name):
    model = models[name]
    x = torch.rand(1, 3, 8, 8) * 2 - 1
    arguments = change("a red dog", "a red dog", local=0)
    pair = last_frame(model.reword(*arguments, image=x, seed=[1, 2], steps=4, scale=2.0))
    expected = x.repeat(2, 1, 1, 1) if name != "latent-diffusion" else pair[:2]  # two codes
    torch.testing.assert_close(pair, expected.repeat(2, 1, 1, 1), atol=1e-5, rtol=1e-5)
    reconstruction = model.reconstruct_for_edit(x.repeat(2, 1, 1, 1), seed=[1, 2])
    torch.testing.assert_close(reconstruction, expected, atol=1e-5, rtol=1e-5)
    other = change("a red dog", "two cats", local=0)
    edited = last_frame(model.reword(*other, image=x, seed=[1, 2], steps=4, scale=2.0))
    torch.testing.assert_close(edited[:2], pair[:2], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(edited[2:], pair[2:], atol=1e-2)
    assert not torch.allclose(edited[2], edited[3], atol=1e-3)  # seeds differ


def test_strength_has_an_effect_only_on_a_given_picture(models):
    model, arguments = models["flow-matching"], change("a red dog", "a blue dog")
    x = torch.rand(1, 3, 8, 8) * 2 - 1
    for image in (None, x):
        pairs = [
            last_frame(model.reword(*arguments, image=image, steps=4, strength=strength))
            for strength in (0.5, 1.0)
        ]
        assert torch.equal(*pairs) == (image is None)


def test_following_a_picture_adds_the_difference_of_means():
    """A denoiser that returns only the prompt's shift: z ends at x + shift in any steps."""

    class Shift:
        schedule = LinearPath()

        def __call__(self, x_t, t, c):
            return Estimate(x_t * 0 + c.image)

    shift = torch.tensor([0.0, 0.5]).view(2, 1, 1, 1)
    x = torch.rand(1, 1, 1, 1)
    noise = limner.Noise.sampling([0, 0], 2)
    times = LinearPath().times(7)
    *_, both = module._latent_pairs(Shift(), x, times, Condition(image=shift), noise, True)
    torch.testing.assert_close(both, torch.cat([x, x + 0.5]))


def test_the_difference_from_a_followed_picture_takes_ddims_steps():
    """With a linear denoiser, noise and picture cancel in it, and it starts from 0."""

    class Linear:
        schedule = LinearPath()

        def __call__(self, x_t, t, c):
            return Estimate(0.3 * x_t + c.image * t)

    shift, x = torch.tensor([0.0, 0.5]).view(2, 1, 1, 1), torch.rand(1, 1, 1, 1)
    noise, times = limner.Noise.sampling([0, 0], 2), LinearPath().times(7)
    *_, both = module._latent_pairs(Linear(), x, times, Condition(image=shift), noise, True)
    plan = Plan(DDIM(), Linear(), times)
    difference = plan.end(torch.zeros_like(x), Condition(image=shift[1:]), noise.rows(slice(0, 1)))
    torch.testing.assert_close(both, torch.cat([x, x + difference]))


def test_hooks_are_removed_and_do_not_affect_other_samples(models):
    model = models["flow-matching"]
    arguments = change("a red dog", "a blue dog")
    expected = model.sample(1, arguments[0], seed=9, steps=2)
    walk = model.reword(*arguments, seed=1, steps=3)
    next(walk)
    assert torch.equal(model.sample(1, arguments[0], seed=9, steps=2), expected)
    walk.close()
    assert all(m.edit is None for m in model.modules() if isinstance(m, Attention))


def test_models_without_cross_attention_and_wrong_inputs_are_refused():
    arguments = change("a dog", "a cat")
    blind = limner.build("flow-matching", SPEC, channels=(8, 16), attention=0)
    with pytest.raises(LimnerError, match=r"no cross-attention to words"):
        last_frame(blind.reword(*arguments))
    model = limner.build("flow-matching", SPEC, channels=(8, 16))
    for wrong, message in (
        ({"strength": 0.0}, "strength=0 is not"),
        ({"image": torch.zeros(1, 3, 4, 4)}, "edits 3 x 8 x 8 pictures"),
        ({"image": torch.zeros(3, 3, 8, 8), "seed": [1, 2]}, "3 pictures for 2 seeds"),
    ):
        with pytest.raises(LimnerError, match=message):
            last_frame(model.reword(*arguments, **wrong))
    with pytest.raises(LimnerError, match="no word to change"):
        last_frame(blind.reword(Condition(), Condition(), arguments[2]))


@pytest.mark.parametrize("attention", [0, 1])
def test_only_models_that_attend_to_words_can_change_and_map_them(attention: int):
    options = {"channels": (8, 16), "attention": attention}
    base = limner.build("flow-matching", SPEC, **options)
    stage = limner.build("kl-autoencoder", replace(SPEC, text=None), channels=(8, 16))
    hinted = replace(SPEC, hint=replace(SPEC, text=None))
    models = [
        base,
        limner.build("ddpm", SPEC, **options, network="plain"),
        limner.build("latent-diffusion", SPEC, first_stage=stage, options=options),
        limner.build("distilled", SPEC, teacher=base),
        limner.build("reflow", SPEC, teacher=base),
        limner.build("controlnet", hinted, base=base),
        limner.build("best-of-n", SPEC, base=base),
    ]
    for model in models:
        layers = [layer for layer in module._layers(model) if "cross" in layer.site]
        reads = any(not layer.site.startswith("reader") for layer in layers)
        for ability in (Rewords, Attends):
            assert model.has_ability(ability, model.config) == reads == bool(attention), model.name
        assert model.has_ability(Edits, model.config)
