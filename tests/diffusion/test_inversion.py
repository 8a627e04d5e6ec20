"""Inversion: denoising models encode pictures as noise, and edit pictures."""

import pytest
import torch
from analytic import Gaussian
from torch import nn

from limner.contract.bundled import load
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, ImageSpec
from limner.contract.registry import build
from limner.diffusion.ddpm import DDPM
from limner.diffusion.denoising_model import DenoisingModel
from limner.diffusion.edm import EDM
from limner.diffusion.flow_matching import FlowMatching
from limner.maths.denoisers import Estimate

SPEC = ImageSpec(1, 4, 4)
MODELS = {
    "ddpm": lambda: DDPM(SPEC, channels=(4,), schedule="cosine", prediction="x"),
    "edm": lambda: EDM(SPEC, channels=(4,)),
    "line": lambda: FlowMatching(SPEC, channels=(4,)),
}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


class Optimal(nn.Module):
    """A network that makes a model's D the exact denoiser of Gaussian pictures."""

    def __init__(self, model: DenoisingModel, mean: float, variance: float) -> None:
        super().__init__()
        self.model = [model]
        self.D = Gaussian(model.schedule, mean, variance)

    def forward(self, x, label, c):
        (model,) = self.model
        t = label.double() / 1000
        if isinstance(model, EDM):
            t = (label.double() / 250).exp()
        k = model.parametrisation(*model.schedule(t))
        skip, out, inn = (v.view(-1, 1, 1, 1) for v in k)
        x_t = x / inn
        return (self.D.expected(x_t, t, c) - skip * x_t) / out


def optimal(make) -> DenoisingModel:
    model = make().double().eval()
    model.network = Optimal(model, 0.1, 0.2)
    return model


@every_model
@torch.no_grad()
def test_a_code_is_the_noise_that_the_flow_maps_to_the_picture(make):
    """The flow of Gaussian pictures shifts and scales, up to the error of first-order steps."""
    model = optimal(make)
    x = 0.1 + 0.2**0.5 * torch.randn(5, *SPEC.shape).double()
    z = model.encode(x)
    torch.testing.assert_close(model.decode(z), x, rtol=0, atol=1e-2)
    expected = ((x - 0.1) / 0.2**0.5).flatten(1)
    assert float((z - expected).abs().max()) < 0.2 * float(expected.abs().max())
    fresh = torch.randn(3, SPEC.dimensions).double()
    torch.testing.assert_close(model.encode(model.decode(fresh)), fresh, rtol=0, atol=0.05)


def test_traversing_single_noise_coordinates_is_refused():
    model = DDPM(SPEC, channels=(4,))
    with pytest.raises(LimnerError, match="give two pictures"):
        model.traverse(torch.zeros(1, *SPEC.shape))


class TwoPixels(DDPM):
    """The exact denoiser of two normal pixels of deviation 0.2 and correlation 0.95."""

    def __call__(self, x_t, t, c):
        alpha, sigma = (float(level) for level in self.schedule(t.flatten()[0]))
        S = 0.2**2 * torch.tensor([[1, 0.95], [0.95, 1]], dtype=torch.float64)
        K = alpha * S @ torch.linalg.inv(alpha**2 * S + sigma**2 * torch.eye(2))
        return Estimate((x_t.flatten(1) @ K.to(x_t)).view_as(x_t))


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_by_default_painted_pixels_agree_with_kept_pixels(sampler: str):
    """The mean of the right pixel is 0.95 times the left one."""
    model = TwoPixels(ImageSpec(1, 1, 2), channels=(4,), attention=0, patch=1)
    image = torch.tensor([0.3, -0.3]).expand(2000, 1, 1, 2)
    mask = torch.tensor([0.0, 1.0]).expand(2000, 1, 1, 2)
    walk_options = {"sampler": sampler, "steps": 50, "clip": False, "preview": False}
    means = [
        float(list(model.edit(image, mask=mask, **options, **walk_options))[-1][..., 1].mean())
        / 0.3
        / 0.95
        for options in ({}, {"rounds": 1})
    ]
    assert means[0] > 0.8 and means[1] < 0.65, means


@every_model
@pytest.mark.parametrize("rounds", [1, 3])
def test_kept_pixels_are_exact_and_painted_ones_have_the_datas_distribution(make, rounds):
    """Pixels are independent, so the kept ones must not change the distribution of the others."""
    model = optimal(make).float()
    model.network = Optimal(model, 0.1, 0.02)
    image = torch.full((200, *SPEC.shape), -0.9)
    mask = torch.zeros(200, 1, 4, 4)
    mask[:, :, 2:] = 1
    *frames, last = model.edit(image, mask=mask, rounds=rounds, sampler="ancestral", steps=200)
    assert len(frames) == 200 == model.edit_count(1.0, steps=200) - 1
    assert torch.equal(last[:, :, :2], image[:, :, :2])
    pixels = last[:, :, 2:]
    assert float(pixels.mean()) == pytest.approx(0.1, abs=0.02)
    assert float(pixels.var()) == pytest.approx(0.02, rel=0.25)


@every_model
def test_low_strength_stays_near_the_picture_and_full_strength_does_not(make):
    model = optimal(make).float()
    image = torch.full((64, *SPEC.shape), 0.8)
    means = []
    for strength in (0.1, 0.5, 1.0):
        *frames, last = model.edit(image, strength=strength, sampler="ddim", steps=20)
        assert len(frames) + 1 == model.edit_count(strength, steps=20)
        means.append(float(last.mean()))
    near, between, far = means
    assert near == pytest.approx(0.8, abs=0.1) and far == pytest.approx(0.1, abs=0.1)
    assert far < between < near


def test_a_seed_has_the_same_edit_in_any_batch_and_wrong_strengths_are_refused():
    model = MODELS["ddpm"]()
    image = torch.zeros(3, *SPEC.shape)
    (*_, all_three) = model.edit(image, strength=0.5, seed=4, steps=6)
    (*_, second) = model.edit(image[1:2], strength=0.5, seed=5, steps=6)
    torch.testing.assert_close(all_three[1:2], second, rtol=0, atol=1e-5)
    for wrong, message in (
        ({"strength": 0.0}, "strength=0 "),
        ({"strength": 1.5}, r"strength=1\.5"),
        ({"rounds": 0}, "rounds=0"),
        ({"interval": (5.0, 0.3)}, "as in 0.3,5"),
    ):
        with pytest.raises(LimnerError, match=message):
            next(model.edit(image, **wrong))
    with pytest.raises(LimnerError, match=r"strength=0\.5 asks for a part .* more sampler\.steps"):
        list(model.edit(image, strength=0.5, steps=1))
    assert len(list(model.edit(image, steps=1))) == 2, "one step must suffice at full strength"
    (*_, of_double) = model.edit(image.double(), strength=0.5, seed=4, steps=6)
    assert torch.equal(of_double, all_three)
    with pytest.raises(LimnerError, match="edits 1 x 4 x 4 pictures, not 1 x 6 x 6"):
        next(model.edit(torch.zeros(1, 1, 6, 6)))
    with pytest.raises(LimnerError, match="a mask must be 1 x 4 x 4"):
        next(model.edit(image, mask=torch.ones(3, 1, 2, 2)))


def test_a_cascade_edits_in_both_stages_and_keeps_unmasked_pixels():
    low, high = ImageSpec(3, 4, 4), ImageSpec(3, 8, 8)
    base = build("ddpm", low, channels=(4,), T=10)
    model = build("cascade", high, base=base, options={"channels": (4,)})
    image = torch.rand(2, 3, 8, 8) * 2 - 1
    mask = torch.zeros(2, 1, 8, 8)
    mask[:, :, :, 5:] = 1
    options = {"steps": 4, "upsampler_steps": 3}
    *frames, last = model.edit(image, mask=mask, **options)
    assert len(frames) + 1 == model.edit_count(**options)
    torch.testing.assert_close(last[..., :5], image[..., :5], rtol=0, atol=1e-5)
    assert not torch.equal(last[..., 5:], image[..., 5:])
    for wrong, message in (({"strength": 0.0}, "strength=0 "), ({"level": 9.0}, "level=9")):
        with pytest.raises(LimnerError, match=message):
            list(model.edit(image, **wrong))
    vae = build("vae", low)
    with pytest.raises(LimnerError, match="vae models within a cascade cannot edit"):
        list(build("cascade", high, base=vae, options={"channels": (4,)}).edit(image))


def test_an_edit_takes_guidance():
    spec = ImageSpec(1, 4, 4, labels=("one", "two"))
    model = DDPM(spec, channels=(4,), T=10)
    c = Condition(label=torch.tensor([1]))
    (*_, edited) = model.edit(torch.zeros(2, 1, 4, 4), c, scale=3.0, steps=4)
    assert edited.shape == (2, 1, 4, 4)


@torch.no_grad()
def test_codes_avoid_times_that_amplify_errors():
    """At the end of the cosine schedule, alpha in x_hat = (x_t - sigma eps) / alpha is 5e-5."""
    model = load("ddpm")
    x = -torch.ones(1, *model.spec.shape)
    x[:, :, 6:22, 13:16] = 1.0
    z = model.encode(x)
    assert 0.5 < float(z.std()) < 1.2, "the code of a likely picture must have about unit deviation"
    assert float((model.decode(z) - x).square().mean()) < 1e-3


def test_encoding_takes_at_least_one_step():
    """The only step is taken even if it leads to nearly pure noise, which amplifies errors."""
    model = DDPM(SPEC, channels=(4,), T=1, schedule="sigmoid").eval()
    assert model.reconstruct(torch.zeros(2, *SPEC.shape)).isfinite().all()
