"""Autoguidance: its formula, its guides, and the errors of unsuitable guides."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from analytic import Gaussian, pictures

from limner.contract.bundled import AVERAGE_FILE
from limner.contract.checkpoint import save_model
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, ImageSpec
from limner.contract.model import GenerativeModel
from limner.contract.noise import Noise
from limner.contract.options import names_a_file
from limner.contract.registry import build
from limner.data.dataset import Dataset
from limner.diffusion.denoising_model import DenoisingModel
from limner.diffusion.flow_matching import FlowMatching
from limner.diffusion.latent_diffusion import LatentDiffusion
from limner.diffusion.meanflow import MeanFlow
from limner.diffusion.shortcut import Shortcut
from limner.evaluate.picture_sets import PaintedPictures, RealPictures
from limner.maths.denoisers import Autoguided, Guided
from limner.maths.schedules import LinearPath
from limner.testing.cases import toy_data
from limner.training.loop import Loop, TrainOptions
from limner.training.state import save_state

SPEC = ImageSpec(1, 4, 4, labels=("a", "b"))


class Squares(Dataset):
    """Eight pictures of two classes, in memory."""

    def __init__(self) -> None:
        self.spec, self.labels = SPEC, torch.arange(8) % 2

    def __len__(self) -> int:
        return 8

    def pixels(self, indices: torch.Tensor) -> torch.Tensor:
        return (30 * indices).to(torch.uint8)[:, None, None, None].expand(-1, *SPEC.shape)


def random_model(seed: int, channels: tuple[int, ...] = (4,)) -> FlowMatching:
    torch.manual_seed(seed)
    model = FlowMatching(SPEC, channels=channels, attention=0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model.eval()


def test_guidance_removes_the_shared_error_of_both_versions():
    """D has an error e and G an error 2 e in the same direction: at scale 2, the error is 0."""
    right, t = Gaussian(LinearPath(), mean=0.2, variance=0.3), torch.tensor(0.6).double()
    D, G = (Gaussian(LinearPath(), mean=0.2 + error, variance=0.3) for error in (0.1, 0.2))
    x, c = pictures(-0.4, 0.3), Condition()
    x_hat = Autoguided(D, G, 2.0)(x, t, c).x_hat
    torch.testing.assert_close(x_hat, right(x, t, c).x_hat)
    assert torch.equal(Autoguided(D, G, 1.0)(x, t, c).x_hat, D(x, t, c).x_hat)
    torch.testing.assert_close(Autoguided(D, G, 0.0)(x, t, c).x_hat, G(x, t, c).x_hat)


def test_autoguidance_combines_with_classifier_free_guidance():
    """x_hat = A(null) + s (A(c) - A(null)), A = G + w (D - G)."""
    D, G, w, s = random_model(0), random_model(1), 1.7, 2.5
    x, t = Noise.sampling(0, 2).normal(*SPEC.shape), torch.tensor(0.5).double()
    c = Condition(label=torch.tensor([0, 1]))
    x_hat = Guided(Autoguided(D, G, w), s)(x, t, c).x_hat
    A = {}
    for name, condition in (("c", c), ("null", c.null())):
        good, bad = (m(x, t, condition).x_hat for m in (D, G))
        A[name] = bad + w * (good - bad)
    torch.testing.assert_close(x_hat, A["null"] + s * (A["c"] - A["null"]), rtol=1e-4, atol=1e-5)


def test_a_smaller_run_guides(tmp_path: Path):
    model, small = random_model(0, (8,)), random_model(1)
    save_model(small, tmp_path / "model.safetensors")
    c, options = Condition(label=torch.tensor([0, 1])), {"seed": 3, "steps": 3}
    guided = model.sample(2, c, guide=str(tmp_path), guide_scale=3.0, **options)
    assert not torch.allclose(guided, model.sample(2, c, **options), atol=1e-3)
    itself = model.sample(2, c, guide=str(tmp_path), guide_scale=1.0, **options)
    assert torch.equal(itself, model.sample(2, c, **options))
    worse = model.sample(2, c, guide=str(tmp_path), guide_scale=0.0, **options)
    torch.testing.assert_close(worse, small.sample(2, c, **options), rtol=0, atol=1e-5)


def test_a_guide_that_was_trained_on_is_read_again(tmp_path: Path):
    """Its file is newer, and pictures painted with the older one are not those of an evaluation."""
    model, file = random_model(0), tmp_path / "model.safetensors"
    real = RealPictures(Squares())

    def paint() -> tuple[torch.Tensor, str]:
        options = {"steps": 2, "guide": str(tmp_path), "guide_scale": 3.0}
        generated = PaintedPictures(
            model, real, 2, seed=0, options=options, name="a model", fingerprint="its hash"
        )
        assert generated.named_models.keys() == {"guide"}
        return generated.pictures(torch.arange(2)), generated.fingerprint

    results = list[tuple[torch.Tensor, str]]()
    for seed in (1, 2):
        save_model(random_model(seed), file)
        os.utime(file, (seed, seed))
        results.append(paint())
        repeat, key = paint()
        assert torch.equal(repeat, results[-1][0]) and key == results[-1][1]
    (first, before), (second, after) = results
    assert not torch.equal(first, second)
    assert before != after


def test_an_earlier_training_state_guides(tmp_path: Path):
    model = FlowMatching(SPEC, channels=(4,), attention=0)
    options = TrainOptions(steps=4, batch=4, lr=1e-2)
    loop = Loop(model, lambda first, n: toy_data(SPEC, first, n), options)
    loop.advance()
    state = save_state(tmp_path, loop.step, loop.state(), 2)
    weights = [p.clone() for p in loop.average.parameters()]
    for _ in range(3):
        loop.advance()
    later = save_state(tmp_path, loop.step, loop.state(), 2)
    average = loop.average
    assert isinstance(average, DenoisingModel)
    guide = average.guide_of(str(state))
    assert all(torch.equal(a, b) for a, b in zip(weights, guide.parameters()))
    assert not all(torch.equal(a, b) for a, b in zip(weights, average.parameters()))
    (state / AVERAGE_FILE).write_bytes((later / AVERAGE_FILE).read_bytes())
    guide = average.guide_of(str(state))
    assert all(torch.equal(a, b) for a, b in zip(average.parameters(), guide.parameters()))
    with pytest.raises(LimnerError, match="is a state of another model"):
        random_model(0, (8,)).guide_of(str(state))


def test_an_earlier_state_guides_a_denoiser_of_latents(tmp_path: Path):
    stage = build("kl-autoencoder", ImageSpec(1, 8, 8), channels=(4, 4), blocks=1)
    options = {"channels": (4, 4), "attention": 0}
    model = build("latent-diffusion", ImageSpec(1, 8, 8), first_stage=stage, options=options)
    assert isinstance(model, LatentDiffusion)
    loop = Loop(model, lambda first, n: toy_data(model.spec, first, n), TrainOptions(batch=4))
    loop.prepare()
    loop.advance()
    state = save_state(tmp_path, loop.step, loop.state(), 2)
    average = loop.average
    assert isinstance(average, LatentDiffusion)
    before = average.sample(1, seed=1, steps=2)
    with torch.no_grad():
        for p in average.denoiser.parameters():
            p.add_(0.3 * torch.randn_like(p))
    worse = average.sample(1, seed=1, steps=2, guide=str(state), guide_scale=0.0)
    torch.testing.assert_close(worse, before, rtol=0, atol=1e-5)


def test_a_guide_of_another_latent_space_is_refused(tmp_path: Path):
    options = {"channels": (4, 4), "attention": 0}

    def over(seed: int) -> LatentDiffusion:
        torch.manual_seed(seed)
        stage = build("kl-autoencoder", ImageSpec(1, 8, 8), channels=(4, 4), blocks=1)
        model = build("latent-diffusion", ImageSpec(1, 8, 8), first_stage=stage, options=options)
        assert isinstance(model, LatentDiffusion)
        return model.eval()

    model, other = over(0), over(1)
    save_model(other, tmp_path / "other")
    with pytest.raises(LimnerError, match="latent maps of another first stage"):
        model.sample(1, steps=2, guide=str(tmp_path / "other"))
    other.first_stage.load_state_dict(model.first_stage.state_dict())
    save_model(other, tmp_path / "same")
    assert model.sample(1, steps=2, guide=str(tmp_path / "same")).isfinite().all()


def test_unsuitable_guides_are_refused(tmp_path: Path):
    model = random_model(0)
    with pytest.raises(LimnerError, match="guide_scale needs a guide"):
        model.sample(1, guide_scale=2.0)
    other = FlowMatching(ImageSpec(1, 8, 8), channels=(4,))
    save_model(other, tmp_path / "model.safetensors")
    with pytest.raises(LimnerError, match="holds no denoising model of the same data"):
        model.sample(1, guide=str(tmp_path))
    for kind in (Shortcut, MeanFlow):
        with pytest.raises(LimnerError, match=r"sampler\.guide needs a sampler"):
            kind(SPEC, channels=(4,), attention=0).sample(1, guide=str(tmp_path))


@pytest.mark.parametrize("kind", ["instruct", "controlnet"])
def test_a_guide_that_needs_a_hint_is_refused(tmp_path: Path, kind: str):
    spec = replace(SPEC, hint=ImageSpec(1, 4, 4))
    model = build(kind, spec, base=random_model(0)).eval()
    assert isinstance(model, GenerativeModel)
    save_model(build(kind, spec, base=random_model(1)), tmp_path / "model.safetensors")
    c = Condition(label=torch.tensor([0]), image=torch.zeros(1, 1, 4, 4))
    with pytest.raises(LimnerError, match="and the denoiser inside it takes none"):
        model.sample(1, c, guide=str(tmp_path), steps=2)


@pytest.mark.parametrize("kind", ["dmd2", "distilled"])
def test_a_student_is_refused_as_a_guide(tmp_path: Path, kind: str):
    student = build(kind, SPEC, teacher=random_model(1))
    assert isinstance(student, GenerativeModel)
    save_model(student, tmp_path / "model.safetensors")
    with pytest.raises(LimnerError, match="is a student, and only its teacher could guide"):
        random_model(0).sample(1, guide=str(tmp_path), steps=2)


def test_the_schema_marks_the_guide_as_a_file():
    properties = FlowMatching.sample_schema()["properties"]
    assert [name for name, schema in properties.items() if names_a_file(schema)] == ["guide"]
