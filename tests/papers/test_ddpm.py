"""DDPM: its times and labels, its sampling options, and what a tiny one learns."""

import math

import pytest
import torch
from toy import SPEC, Recorder, batches, colours_are_right, one_thread, trained

from limner.diffusion.ddpm import DDPM
from limner.errors import LimnerError
from limner.image import Batch, Condition, ImageSpec
from limner.noise import Noise

GREY = ImageSpec(1, 4, 4)


def tiny(**config) -> DDPM:
    return DDPM(GREY, channels=(4,), **config)


def test_training_visits_each_of_the_T_steps_alike_and_no_other():
    model, n = tiny(T=10), 20_000
    k = model.draw_times(Noise.keyed(0, 0, torch.arange(n))) * 10
    counts = torch.stack([(k == step).sum() for step in range(1, 11)])
    assert int(counts.sum()) == n
    expected = n / 10
    assert float(((counts - expected) ** 2 / expected).sum()) < 27.9  # chi-squared, 9 df, 1 in 1000


def test_the_network_is_told_the_number_of_the_step():
    model = DDPM(SPEC, channels=(4,))
    model.network = Recorder()
    next(model.turns(batches(0, 64), 0, Noise.keyed(0, 0, torch.arange(64))))
    ((_, label, _),) = model.network.calls
    k = model.draw_times(Noise.keyed(0, 0, torch.arange(64))) * 1000
    assert torch.equal(label, k)
    assert torch.equal(k, k.round())
    assert 1 <= int(k.min()) < int(k.max()) <= 1000


def test_a_new_network_predicts_no_noise_so_the_loss_is_the_noises_variance():
    """F = 0 at first: E |eps - 0|^2 = 1."""
    n = 2000
    model = tiny()
    x = torch.zeros(n, 1, 4, 4)
    batch = Batch(x, Condition())
    (turn,) = model.turns(batch, 0, Noise.keyed(0, 0, torch.arange(n)))
    assert float(turn.loss.detach()) == pytest.approx(1, abs=3 * math.sqrt(2 / x.numel()))


@pytest.mark.parametrize(
    ("options", "evaluations"),
    [
        ({}, 250),
        ({"steps": 1000}, 1000),
        ({"sampler": "ddim", "steps": 10}, 10),
        ({"sampler": "euler", "steps": 10}, 10),
        ({"sampler": "heun", "steps": 10}, 19),
        ({"sampler": "dpm++", "steps": 10}, 10),
    ],
)
def test_steps_cost_so_many_evaluations(options, evaluations):
    model = tiny()
    model.network = Recorder()
    model.sample(2, **options)
    assert len(model.network.calls) == evaluations
    assert float(model.network.calls[0][1][0]) == 1000  # from the last step, pure noise


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eta": 0.5}, "the sampler ancestral has no option eta; it belongs to ddim"),
        (
            {"sampler": "ddim", "churn": 1.0},
            "the sampler ddim has no option churn; it belongs to heun",
        ),
        ({"sampler": "heun", "churn": 1.0}, "churn is for models whose time is sigma"),
        ({"sampler": "ddmi"}, "sampler option sampler='ddmi'"),
        ({"step": 10}, "did you mean 'steps'"),
        ({"steps": 0}, "sampler option steps=0"),
        ({"eta": 1.5}, "sampler option eta=1.5"),
    ],
)
def test_an_option_that_cannot_be_is_refused(options, message):
    with pytest.raises(LimnerError, match=message):
        tiny().sample(1, **options)


def test_every_frame_but_the_last_is_a_sketch_of_the_picture():
    model = tiny(T=20)
    frames = list(model.watch(2, steps=5))
    assert len(frames) == 6
    assert torch.equal(frames[-1], model.sample(2, steps=5))
    assert len(list(model.watch(2, steps=5, preview=False))) == 1


def test_the_last_step_draws_no_noise_and_is_the_last_sketch():
    frames = list(tiny(T=20).watch(2, steps=20))
    assert torch.equal(frames[-1], frames[-2])


def test_a_tiny_one_learns_the_colour_of_each_class():
    with one_thread():
        torch.manual_seed(0)
        model = DDPM(SPEC, channels=(16,), T=50, schedule="cosine", prediction="v")
        model = trained(model)
        assert colours_are_right(model, steps=50)
        assert colours_are_right(model, sampler="ddim", steps=15, scale=2.0)
