"""Cascades: reduction, noise levels, a frozen base, exact upsamplers, and a tiny trained one."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from toy import SPEC, batches, colours_are_right, one_thread

from limner.contract.abilities import Attends
from limner.contract.editing import Edits, Rewords
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, TextSpec
from limner.contract.model import GenerativeModel
from limner.contract.noise import Noise
from limner.contract.registry import build
from limner.contract.rewording import Rewording, align_tokens
from limner.contract.upscaling import resize
from limner.diffusion.cascade import Cascade
from limner.diffusion.flow_matching import FlowMatching
from limner.training.loop import Loop, TrainOptions

LOW = SPEC.with_size(4, 4)


def base() -> FlowMatching:
    return FlowMatching(LOW, channels=(16,), patch=1)


def cascade(**options) -> Cascade:
    return Cascade(SPEC, base(), options={"channels": [8]}, **options)


def low_batches(first: int, n: int) -> Batch:
    x, c = batches(first, n)
    return Batch(resize(x, 4, 4), c)


def trained(model: GenerativeModel, data=batches, steps: int = 120) -> GenerativeModel:
    loop = Loop(model, data, TrainOptions(steps=steps, batch=32, lr=6e-3, ema=0.98))
    loop.prepare()
    for _ in range(steps):
        loop.advance()
    return loop.average


class Enlarger(torch.nn.Module):
    """A network that returns the velocity towards the low-resolution picture, enlarged by 2."""

    def forward(self, x, label, c):
        m = F.interpolate(c.image[:, :-1], scale_factor=2, mode="nearest")
        return (x - m) / (label / 1000).view(-1, 1, 1, 1).to(x)


class Recorder(torch.nn.Module):
    """A network that returns 0 and records the conditions."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def forward(self, x, label, c):
        self.seen.append(c)
        return self.weight * x


def test_a_constant_picture_is_reduced_to_itself():
    for value in (-1.0, 0.3, 1.0):
        x = torch.full((2, 3, 12, 12), value)
        torch.testing.assert_close(resize(x, 4, 4), torch.full((2, 3, 4, 4), value))


def test_resizing_averages_details_finer_than_the_low_resolution():
    stripes = torch.tensor([1.0, -1.0]).repeat(16).expand(1, 1, 32, 32)
    assert float(resize(stripes, 8, 8)[..., 2:-2].abs().max()) < 0.05


def test_the_level_plane_states_the_level_of_the_noise():
    n, model = 4000, cascade(augmentation=0.4)
    z, level = torch.zeros(n, 3, 4, 4), 0.4 * torch.arange(n) / (n - 1)
    image = model.with_hint(Condition(), z, level, Noise.keyed(0, 0, range(n))).image
    noisy, plane = image[:, :3], image[:, 3]
    torch.testing.assert_close(plane, (level / 0.2 - 1)[:, None, None].expand(n, 4, 4))
    assert torch.equal(noisy[0], z[0])
    assert plane[0].unique().tolist() == [-1]
    assert float((noisy[1:] / level[1:, None, None, None]).std()) == pytest.approx(1, abs=0.01)


def test_without_augmentation_the_low_resolution_is_unchanged():
    model, z = cascade(augmentation=0.0), torch.rand(2, 3, 4, 4)
    image = model.with_hint(Condition(), z, torch.zeros(2), Noise.keyed(0, 0, range(2))).image
    assert torch.equal(image, torch.cat([z, -torch.ones(2, 1, 4, 4)], 1))
    assert model.sample(1, steps=1, upsampler_steps=1).isfinite().all()


def test_training_hides_the_label_but_never_the_low_resolution():
    n, model = 400, cascade(condition_dropout=0.5, augmentation=0.0)
    model.upsampler.network = Recorder()
    Loop(model, batches, TrainOptions(batch=n)).advance()
    (c,) = model.upsampler.network.seen
    assert 0.4 < float((c.label == -1).float().mean()) < 0.6
    assert c.present is None
    torch.testing.assert_close(c.image[:, :3], resize(batches(0, n).x, 4, 4))


def test_training_draws_levels_uniformly_up_to_the_augmentation():
    n, model = 2000, cascade(augmentation=0.2)
    model.upsampler.network = Recorder()
    next(model.turns(batches(0, n), 0, Noise.keyed(0, 0, range(n))))
    plane = model.upsampler.network.seen[0].image[:, 3, 0, 0]
    assert float(plane.min()) >= -1
    assert float(plane.max()) <= 1
    assert float(plane.mean()) == pytest.approx(0, abs=0.05)
    assert float(plane.std()) == pytest.approx(3**-0.5, abs=0.03)


def test_the_upsampler_sees_the_same_condition_without_guidance():
    model = cascade()
    model.upsampler.network = Recorder()
    label = torch.tensor([0, 1])
    model.sample(2, Condition(label=label), steps=1, scale=3.0, upsampler_steps=2)
    assert model.upsampler.network.seen
    for c in model.upsampler.network.seen:
        assert torch.equal(c.label, label)
        assert c.present is None
        assert c.image[:, 3].unique().tolist() == [-0.5]  # a quarter of the augmentation


def test_training_does_not_change_the_base():
    model = cascade()
    before = {k: v.clone() for k, v in model.base.state_dict().items()}
    initial = {k: v.clone() for k, v in model.upsampler.state_dict().items()}
    average = trained(model, steps=3)
    for frozen in (model.base, average.base):
        assert not frozen.training
        for name, value in frozen.state_dict().items():
            assert torch.equal(value, before[name]), name
    assert any(not torch.equal(v, initial[k]) for k, v in model.upsampler.state_dict().items())
    assert model.parameter_count() == sum(p.numel() for p in model.upsampler.parameters())


def test_a_perfect_upsampler_gives_the_base_picture_enlarged():
    model = cascade()
    model.upsampler.network = Enlarger()
    options = {"steps": 2, "level": 0.0}
    small = list(model.watch(3, **options))[2]
    for walk, steps in (("euler", 1), ("heun", 3), ("ancestral", 5)):
        x = model.sample(3, upsampler_sampler=walk, upsampler_steps=steps, **options)
        torch.testing.assert_close(x, small, rtol=0, atol=1e-5)
    blurred = model.sample(3, steps=2, level=0.4, upsampler_steps=1)
    assert float((blurred - small).abs().mean()) > 0.05


def test_the_frames_show_both_stages():
    model = cascade().eval()
    frames = list(model.watch(2, seed=4, steps=3, upsampler_steps=5))
    assert len(frames) == model.frame_count(steps=3, upsampler_steps=5) == 4 + 6
    assert len(list(model.watch(2))) == model.frame_count() == 16 + 16
    small = list(model.base.watch(2, seed=4, steps=3))
    for frame, z in zip(frames, small):
        assert torch.equal(frame[..., ::2, ::2], z)
        assert torch.equal(frame[..., 1::2, 1::2], z)
    assert not torch.equal(frames[-1][..., ::2, ::2], frames[-1][..., 1::2, 1::2])
    assert len(list(model.watch(2, preview=False))) == 1


def test_any_model_with_hints_enlarges_and_is_prepared_on_its_own_inputs():
    inputs = []
    model = cascade(upsampler="edm")
    assert model.upsampler.name == "edm"
    prepared = model.upsampler.prepare
    model.upsampler.prepare = lambda data: prepared(inputs.append(b) or b for b in data)
    loop = Loop(model, batches, TrainOptions(batch=8))
    loop.prepare()
    x = torch.cat([batches(8 * i, 8).x for i in range(16)])
    assert float(loop.model.upsampler.sigma_data) == pytest.approx(float(x.std()), rel=1e-3)
    assert {b.c.image.shape for b in inputs} == {(8, 4, 4, 4)}
    assert model.sample(1, steps=1, upsampler_steps=2).shape == (1, 3, 8, 8)


@pytest.mark.parametrize("upsampler", ["sr3", "srgan", "gigagan-upsampler"])
def test_upsamplers_without_a_noise_level_are_refused(upsampler: str):
    with pytest.raises(LimnerError, match="upsampler=flow-matching"):
        cascade(upsampler=upsampler)


@pytest.mark.parametrize("upsampler", ["reflow", "controlnet"])
def test_upsamplers_that_need_another_model_are_refused(upsampler: str):
    with pytest.raises(LimnerError, match="need another trained model, and a cascade"):
        cascade(upsampler=upsampler)


def test_a_cascade_requires_the_conditions_of_its_base():
    model = base()
    model.condition = "required"
    assert Cascade(SPEC, model).condition == "required"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (replace(LOW, channels=1), "other channels"),
        (replace(LOW, labels=("red", "green")), "other labels"),
        (replace(LOW, text=TextSpec(5, 10, "words", "")), "other text"),
        (replace(LOW, hint=LOW), "without conditioning images"),
        (LOW.with_size(6, 6), "6 x 6 to 8 x 8"),
        (LOW.with_size(8, 8), "at least 2"),
        (LOW.with_size(4, 2), "whole number"),
    ],
)
def test_a_base_that_does_not_fit_is_refused(spec, message, monkeypatch):
    other = base()
    monkeypatch.setattr(other, "spec", spec)
    with pytest.raises(LimnerError, match=message):
        Cascade(SPEC, other)


def test_the_schema_has_the_options_of_the_base():
    def options_of(base: str) -> list[str]:
        config = {"base": {"model": base, "config": {}}, "upsampler": "flow-matching"}
        return list(Cascade.sample_schema(config)["properties"])

    expected = ["upsampler_sampler", "upsampler_steps", "level", "clean"]
    assert sorted(options_of("distilled")) == sorted(options_of("glow")) == sorted(expected)
    assert {"steps", "scale", "guide", "clip", *expected} <= {*options_of("ddpm")}
    assert "clip" in options_of("ddpm") and "churn" in Cascade.sample_schema()["properties"]


def test_it_edits_if_both_stages_do_and_changes_words_if_the_base_does():
    def can(ability: type, base: str, upsampler: str = "flow-matching") -> bool:
        config = {"base": {"model": base, "config": {}}, "upsampler": upsampler}
        return Cascade.has_ability(ability, config)

    assert can(Edits, "edm") and can(Rewords, "edm") and can(Attends, "edm")
    assert can(GenerativeModel, "gan") and can(Rewords, "edm", "gan")
    assert not can(Edits, "gan") and not can(Edits, "edm", "gan")
    assert not can(Rewords, "gan") and not can(Attends, "gan")


def test_wrong_options_are_refused():
    model = cascade(augmentation=0.2)
    with pytest.raises(LimnerError, match=r"level=0\.3 .* at most 0\.2"):
        model.sample(1, level=0.3)
    with pytest.raises(LimnerError, match="upsampler_steps"):
        model.sample(1, upsampler_step=3)
    with pytest.raises(LimnerError, match="did you mean 'flow-matching'"):
        Cascade(SPEC, base(), upsampler="flow-match")
    with pytest.raises(LimnerError, match="base"):
        build("cascade", SPEC)


def test_a_tiny_one_enlarges_the_picture_of_its_base():
    with one_thread():
        torch.manual_seed(0)
        small = trained(base(), low_batches)
        torch.manual_seed(1)
        model = trained(Cascade(SPEC, small, options={"channels": [16], "patch": 1}))
        assert colours_are_right(model)
        frames = list(model.watch(32, Condition(label=torch.arange(32) % 2), seed=3))
        preview = frames[small.frame_count() - 1][..., ::2, ::2]
        difference = (resize(frames[-1], 4, 4) - preview).abs().mean((1, 2, 3))
        other = (resize(frames[-1], 4, 4) - preview.roll(1, 0)).abs().mean((1, 2, 3))
        assert float(difference.mean()) < 0.12 < 0.5 < float(other.mean())
        assert float(difference.max()) < 0.3


def test_rewording_a_given_picture_uses_both_stages():
    """The picture changes by the enlarged change of the base's picture, or not at all."""
    model, x = cascade(), torch.rand(1, 3, 8, 8) * 2 - 1

    class Moved(FlowMatching):
        def reword_frames(self, change, image, strength, n, c, *, noise, preview, **options):
            yield torch.cat([image, image + 0.25 * change.cross_steps]).repeat(n // 2, 1, 1, 1)

    model.base.__class__ = Moved
    model.upsampler.network = Enlarger()
    x = 0.5 * x  # so that nothing leaves [-1, 1]
    options = {"noise": Noise.sampling([5, 5], 2), "preview": False}
    for shift, steps in ((0.0, 3), (1.0, 1), (1.0, 4)):
        settings = model.sampler_options({"upsampler_steps": steps, "level": 0.0})
        change = Rewording(align_tokens([1], [2], 1), torch.ones(1), cross_steps=shift)
        *_, pair = model.reword_frames(change, x, 1.0, 2, Condition(), **options, **settings)
        torch.testing.assert_close(pair, torch.cat([x, x + 0.25 * shift]), rtol=0, atol=1e-5)
        assert shift or torch.equal(pair[0], pair[1])
    assert torch.equal(model.reconstruct_for_edit(x), x)
