"""Cleaning: exact pictures stay, errors that repeat with the patches go, edits keep the rest."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from test_cascade import SPEC, cascade

from limner.contract.errors import LimnerError
from limner.contract.image import Condition
from limner.contract.registry import build, entry
from limner.contract.rewording import Rewording, align_tokens
from limner.contract.text import text_condition, text_spec
from limner.diffusion.cascade import Cascade
from limner.diffusion.cleaning import clean_pictures, cleaning_passes
from limner.diffusion.sampling import Edit
from limner.maths.denoisers import Estimate
from limner.maths.schedules import (
    DiscreteSchedule,
    LinearPath,
    LogSNR,
    Schedule,
    VarianceExploding,
    linear_betas,
    zero_terminal,
)

LINE = LinearPath()
X = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8


class Exact:
    """A denoiser that undoes the scaling, adds an error, and records what it is given."""

    def __init__(self, schedule: Schedule = LINE, error=0.0):
        self.schedule, self.error = schedule, error
        self.times, self.images = [], []

    def __call__(self, x_t, t, c):
        self.times.append(float(t))
        self.images.append(c.image)
        return Estimate(x_t / float(self.schedule(t)[0]) + self.error)


def clean(D: Exact, passes: int, c: Condition = Condition()) -> list[torch.Tensor]:
    return list(clean_pictures(X, D, c, cleaning_passes(D.schedule, passes)))


@pytest.mark.parametrize("schedule", [LINE, LogSNR()])
@pytest.mark.parametrize("passes", [1, 3, 9])
def test_a_picture_that_the_denoiser_returns_unchanged_stays_to_its_edges(schedule, passes):
    frames = clean(Exact(schedule), passes)
    assert len(frames) == passes
    for frame in frames:
        torch.testing.assert_close(frame, X, rtol=0, atol=1e-6)


def test_the_times_fall_by_tenths_and_only_the_last_pass_is_shifted():
    D = Exact()
    clean(D, 3)
    assert D.times == pytest.approx([0.3, 0.2, 0.1, 0.1, 0.1, 0.1])


@pytest.mark.parametrize(
    "schedule",
    [
        LinearPath(3.0),
        LogSNR(),
        VarianceExploding(),
        DiscreteSchedule(linear_betas()),
        DiscreteSchedule(zero_terminal(linear_betas(20))),
        build("vdm", SPEC, **entry("vdm").tiny).schedule,
    ],
    ids=["shifted", "cosine", "edm", "ddpm", "terminal", "vdm"],
)
def test_the_noise_of_the_passes_is_the_same_with_every_schedule(schedule):
    passes = cleaning_passes(schedule, 9)
    ratios = [float(schedule(p.t)[1].detach()) / p.alpha for p in passes]
    assert ratios == pytest.approx([s / (10 - s) for s in range(9, 0, -1)], rel=1e-6)


def test_errors_that_repeat_every_two_pixels_with_a_mean_of_0_are_removed():
    error = torch.tensor([[0.05, -0.02], [0.03, -0.06]]).repeat(4, 4)
    once = clean(Exact(error=error), 1)[-1]
    inside = (once - X)[..., :-1, :-1]
    torch.testing.assert_close(inside, torch.zeros_like(inside), rtol=0, atol=1e-6)
    last = (once - X)[0, 0, -1, :-1]  # two of the four shifts move the last row out
    rows = error[1, :2].mean()
    torch.testing.assert_close(last, rows.expand(7), rtol=0, atol=1e-6)


def test_the_conditioning_image_is_shifted_with_the_picture():
    hint = F.avg_pool2d(X, 2)
    D = Exact()
    clean(D, 1, Condition(image=hint))
    first, right, down, both = D.images
    large = F.interpolate(hint, (8, 8), mode="bilinear", antialias=True)
    assert torch.equal(first, hint)  # the network enlarges it by itself
    assert torch.equal(right[..., 1:], large[..., :-1])
    assert torch.equal(right[..., 0], large[..., 0])
    assert torch.equal(down[..., 1:, :], large[..., :-1, :])
    assert torch.equal(both[..., 1:, 1:], large[..., :-1, :-1])


def test_values_beyond_the_range_of_colours_are_clamped():
    frame = clean(Exact(error=0.5), 1)[-1]
    torch.testing.assert_close(frame, (X + 0.5).clamp(max=1), rtol=0, atol=1e-6)


def test_a_cascade_cleans_its_picture_and_counts_and_shows_each_pass():
    model = cascade().eval()
    plain = {"steps": 2, "upsampler_steps": 2}
    assert torch.equal(model.sample(2, **plain), model.sample(2, clean=0, **plain))
    frames = list(model.watch(2, clean=3, **plain))
    assert len(frames) == model.frame_count(clean=3, **plain) == 3 + 3 + 3
    assert torch.equal(frames[5], model.sample(2, **plain))
    assert not torch.equal(frames[6], frames[5])
    assert torch.equal(frames[-1], model.sample(2, clean=3, **plain))
    assert len(list(model.watch(2, preview=False, clean=3, **plain))) == 1
    assert model.edit_count(1.0, clean=3, **plain) == model.edit_count(1.0, **plain) + 3


def test_an_edit_with_a_mask_changes_no_other_pixel():
    model, mask = cascade().eval(), torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 3:7] = 1
    options = {"mask": mask, "steps": 2, "upsampler_steps": 2, "clean": 2}
    *_, edited = model.edit(X[:1], **options)
    outside = mask.expand_as(edited) == 0
    assert torch.equal(edited[outside], X[:1][outside])
    assert not torch.equal(edited, X[:1])


def test_each_pass_sees_the_pixels_that_an_edit_keeps():
    given, mask = -X, torch.zeros(2, 1, 8, 8)
    mask[..., 2:, :] = 1
    mask[..., 2, :] = 0.25
    D, passes = Exact(error=0.1), cleaning_passes(LINE, 2)
    first, second = clean_pictures(X, D, Condition(), passes, Edit(given, mask))
    for before, after in ((X, first), (first, second)):
        estimate = (before + 0.1).clamp(max=1)
        assert torch.equal(after[..., :2, :], given[..., :2, :])
        half = 0.75 * given[..., 2, :] + 0.25 * estimate[..., 2, :]
        torch.testing.assert_close(after[..., 2, :], half, rtol=0, atol=1e-6)
        torch.testing.assert_close(after[..., 3:, :], estimate[..., 3:, :], rtol=0, atol=1e-6)


def test_a_mask_that_keeps_almost_all_changes_almost_nothing():
    model, mask = cascade().eval(), torch.full((1, 1, 8, 8), 0.01)
    *_, edited = model.edit(X[:1], mask=mask, steps=2, upsampler_steps=2, clean=2)
    assert 0 < float((edited - X[:1]).abs().max()) < 0.02


def test_a_change_of_words_counts_the_passes_only_where_it_takes_them():
    spec = replace(SPEC, labels=(), frequencies=(), text=text_spec(8))
    base = build("flow-matching", spec.with_size(4, 4), channels=(8, 16), attention=2)
    model = Cascade(spec, base, options={"channels": [8]}).eval()
    before, after = text_condition(spec, "red dog", print), text_condition(spec, "blue dog", print)
    assert before.text is not None
    length = before.text.shape[1]
    change = Rewording(align_tokens([1, 2], [1, 2], length), torch.ones(length))
    options = {"steps": 2, "upsampler_steps": 2, "clean": 3}
    for image, count in ((None, 3 + 3 + 3), (X[:1], 3 + 3)):
        frames = list(model.reword(before, after, change, image=image, seed=[0], **options))
        assert len(frames) == model.reword_count(image is not None, **options) == count


def test_an_upsampler_that_does_not_denoise_is_refused_before_the_base_paints(monkeypatch):
    model = cascade().eval()
    model.upsampler = build("gan", SPEC, **entry("gan").tiny)
    monkeypatch.setattr(model.base, "frames", None)
    message = "clean is for upsamplers that denoise pixels, and gan does not"
    with pytest.raises(LimnerError, match=message):
        model.sample(1, clean=1)
    with pytest.raises(LimnerError, match=message):
        model.frame_count(clean=1)


def test_the_schema_has_cleaning_if_the_upsampler_denoises():
    config = cascade().config
    assert "clean" in Cascade.sample_schema(config)["properties"]
    options = Cascade.sample_schema({**config, "upsampler": "gan"})["properties"]
    assert "clean" not in options and "level" in options
