"""Prompt-to-prompt: against attention computed by hand, and what it must leave alone."""

from dataclasses import replace

import pytest
import torch

import limner
import limner.diffusion.prompt_to_prompt as module
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, ImageSpec
from limner.contract.rewording import Rewording, aligned
from limner.contract.text import prompted, text_spec
from limner.maths.denoisers import Estimate
from limner.maths.schedules import LinearPath
from limner.nn.attention import Attention

SPEC = ImageSpec(3, 8, 8, text=text_spec(8))
MODELS = ["flow-matching", "edm", "ddpm", "latent-diffusion", "classifier-free"]


@pytest.fixture(scope="module")
def models():
    """A model of each kind with large random weights, so that words matter."""

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
        for layer in model.modules():  # whose looks differ much from place to place
            if isinstance(layer, Attention) and layer.null is not None:
                torch.nn.init.normal_(layer.query.weight, std=3.0)
        return model

    return {name: built(name) for name in MODELS}


def change(before: str, after: str, **options) -> tuple[Condition, Condition, Rewording]:
    both = prompted(SPEC, [before, after])
    rows = [[int(token) for token in row if token] for row in both.text]
    length = both.text.shape[1]
    alignment = aligned(*rows, length)
    told = Rewording(alignment, options.pop("gains", torch.ones(length)), **options)
    return both.rows(slice(0, 1)), both.rows(slice(1, 2)), told


def last(walk):
    *_, picture = walk
    return picture


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_same_words_change_nothing(models, name, scale):
    model, seeds = models[name], [3, 4]
    told = change("a red dog", "a red dog")
    pair = last(model.reword(*told, seed=seeds, steps=4, scale=scale))
    assert torch.equal(pair[:2], pair[2:])
    painted = model.sample(2, told[0], seed=seeds, steps=4, scale=scale)
    torch.testing.assert_close(pair[:2], painted, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_without_sharing_the_second_is_the_painting_of_the_second_prompt(models, name):
    model = models[name]
    told = change("a red dog", "two blue cats", cross=0, own=0, local=0)
    pair = last(model.reword(*told, seed=5, steps=4))
    painted = (model.sample(1, c, seed=5, steps=4) for c in told[:2])
    torch.testing.assert_close(pair, torch.cat([*painted]), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(pair[:1], pair[1:], atol=1e-2)


def watched(model, told, **options):
    """The attention of each layer in the first evaluation, as it reaches the values."""
    seen: dict[str, torch.Tensor] = {}
    layers = [m for m in model.modules() if isinstance(m, Attention) and m.site[:4] != "text"]

    class Watched(module._SharingDenoiser):
        def cross(self, site, weights):
            changed = super().cross(site, weights)
            seen.setdefault(site, (weights, changed))
            return changed

        def own(self, site, weights):
            changed = super().own(site, weights)
            seen.setdefault(site, (weights, changed))
            return changed

    original, module._SharingDenoiser = module._SharingDenoiser, Watched
    try:
        last(model.reword(*told, steps=2, **options))
    finally:
        module._SharingDenoiser = original
    assert len(seen) == len({layer.site for layer in layers})
    return seen


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_attention_is_shared_as_computed_by_hand(models, scale):
    """Replacement and refinement at once, and the weight of a word."""
    gains = torch.tensor([1.0, 1.0, 2.0, 1.0, 1.0])
    told = change("a red dog", "a blue dog here now", cross=1, own=1, gains=gains)
    for site, (given, changed) in watched(models["flow-matching"], told, scale=scale).items():
        assert len(given) == (4 if scale != 1 else 2)
        assert torch.equal(changed[0], given[0]) and torch.equal(changed[2:], given[2:])
        first, second = given[0], given[1]
        if site.endswith("self"):
            assert torch.equal(changed[1], first)
            continue
        nothing, a, colour, dog = first.unbind(-1)[:4]
        by_hand = torch.stack([nothing, a, colour, 2 * dog, second[..., 4], second[..., 5]], -1)
        torch.testing.assert_close(changed[1], by_hand)


def test_a_gain_of_0_is_the_word_out_of_sight_and_of_1_nothing(models):
    told = change("a red dog", "a red dog", gains=torch.tensor([1.0, 0.0, 1.0]), local=0)
    for site, (given, changed) in watched(models["edm"], told).items():
        if site.endswith("cross"):
            assert changed[1, ..., 2].abs().max() == 0 and given[1, ..., 2].min() > 0


@pytest.mark.parametrize("name", MODELS)
def test_a_picture_stays_exactly_where_nobody_looks_at_the_change(models, name):
    """The blend: outside of the places that look, both are the same to the last bit."""
    model = models[name]
    told = change("a red dog", "a blue dog", local=0.97, cross=0, own=0)
    pair = last(model.reword(*told, seed=2, steps=5))
    free = last(model.reword(*told[:2], replace(told[2], local=0), seed=2, steps=5))
    kept, anyway = (float((p[0] == p[1]).all(0).float().mean()) for p in (pair, free))
    assert not torch.equal(pair[0], pair[1])
    if name != "latent-diffusion":  # whose decoder spreads what changes
        assert kept > 0.5 and kept > 2 * anyway


@pytest.mark.parametrize("name", MODELS)
def test_a_given_picture_is_kept_if_its_words_are(models, name):
    model = models[name]
    x = torch.rand(1, 3, 8, 8) * 2 - 1
    told = change("a red dog", "a red dog", local=0)
    pair = last(model.reword(*told, image=x, seed=[1, 2], steps=4, scale=2.0))
    kept = x.repeat(2, 1, 1, 1) if name != "latent-diffusion" else pair[:2]  # of two codes
    torch.testing.assert_close(pair, kept.repeat(2, 1, 1, 1), atol=1e-5, rtol=1e-5)
    left = model.reconstruct_for_edit(x.repeat(2, 1, 1, 1), seed=[1, 2])
    torch.testing.assert_close(left, kept, atol=1e-5, rtol=1e-5)
    other = change("a red dog", "two cats", local=0)
    changed = last(model.reword(*other, image=x, seed=[1, 2], steps=4, scale=2.0))
    torch.testing.assert_close(changed[:2], pair[:2], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(changed[2:], pair[2:], atol=1e-2)
    assert not torch.allclose(changed[2], changed[3], atol=1e-3)  # seeds differ


def test_a_closed_walk_over_a_linear_denoiser_is_the_difference_of_means():
    """D = x_t/alpha shifted by the prompt: z ends at x + shift, whatever the steps."""

    class Shift:
        schedule = LinearPath()

        def __call__(self, x_t, t, c):
            return Estimate(x_t * 0 + c.image)

    shift = torch.tensor([0.0, 0.5]).view(2, 1, 1, 1)
    x = torch.rand(1, 1, 1, 1)
    noise = limner.Noise.sampling([0, 0], 2)
    times = LinearPath().times(7)
    *_, both = module._followed(Shift(), x, times, Condition(image=shift), noise, True)
    torch.testing.assert_close(both, torch.cat([x, x + 0.5]))


def test_hooks_are_gone_afterwards_and_another_painting_between_is_itself(models):
    model = models["flow-matching"]
    told = change("a red dog", "a blue dog")
    alone = model.sample(1, told[0], seed=9, steps=2)
    walk = model.reword(*told, seed=1, steps=3)
    next(walk)
    assert torch.equal(model.sample(1, told[0], seed=9, steps=2), alone)
    walk.close()
    assert all(m.edit is None for m in model.modules() if isinstance(m, Attention))


def test_a_model_that_looks_at_no_words_says_so():
    told = change("a dog", "a cat")
    blind = limner.build("flow-matching", SPEC, channels=(8, 16), attention=0)
    with pytest.raises(LimnerError, match=r"no cross-attention to words"):
        last(blind.reword(*told))
    seeing = limner.build("flow-matching", SPEC, channels=(8, 16))
    for wrong, message in (
        ({"strength": 0.0}, "strength=0 is not"),
        ({"image": torch.zeros(1, 3, 4, 4)}, "edits 3 x 8 x 8 pictures"),
        ({"image": torch.zeros(3, 3, 8, 8), "seed": [1, 2]}, "3 pictures for 2 seeds"),
    ):
        with pytest.raises(LimnerError, match=message):
            last(seeing.reword(*told, **wrong))
    with pytest.raises(LimnerError, match="no word to change"):
        last(blind.reword(Condition(), Condition(), told[2]))
