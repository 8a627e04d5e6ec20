"""SR3: its loss and condition in closed form, noise levels, and larger pictures."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, ImageSpec
from limner.contract.noise import Noise
from limner.contract.registry import build
from limner.diffusion.sr3 import SR3
from limner.maths.denoisers import Estimate
from limner.maths.schedules import linear_betas

SPEC = ImageSpec(3, 16, 16, hint=ImageSpec(3, 4, 4))


def sr3(**options) -> SR3:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = build("sr3", SPEC, channels=(8, 16), T=20, **options)
    assert isinstance(model, SR3)
    return model


def batch(n: int) -> Batch:
    noise = Noise.sampling(0, n)
    x = noise.uniform(3, 16, 16) * 2 - 1
    return Batch(x, Condition(image=F.adaptive_avg_pool2d(x, 4)))


@pytest.mark.parametrize("prediction", ["epsilon", "v", "x"])
def test_the_loss_is_equation_6(prediction: str):
    """The network gets the noisy picture, the enlarged small picture, and 1000 sqrt(g)."""
    model, data = sr3(prediction=prediction), batch(5)
    inputs = {}

    def network(x, label, c):
        inputs.update(x=x, label=label, image=c.image)
        return 0.3 * x

    model.network.forward = network
    (turn,) = model.turns(data, 0, Noise.sampling(7, 5))
    noise = Noise.sampling(7, 5)
    noise.uniform()  # the level of augmentation, unused here
    k, share = noise.integers(20) + 1, None
    share = noise.uniform(dtype=torch.float64)
    bar = torch.cat([torch.ones(1, dtype=torch.float64), (1 - linear_betas(20)).cumprod(0)])
    g = bar[k - 1] + share * (bar[k] - bar[k - 1])
    eps = noise.normal(3, 16, 16)
    root, rest = (v.float().view(-1, 1, 1, 1) for v in (g.sqrt(), (1 - g).sqrt()))
    noisy = root * data.x + rest * eps
    torch.testing.assert_close(inputs["x"], noisy, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(inputs["label"], 1000 * g.sqrt())
    enlarged = F.interpolate(data.c.image, scale_factor=4, mode="bicubic")
    assert torch.equal(inputs["image"], enlarged)
    target = {"epsilon": eps, "v": root * eps - rest * data.x, "x": data.x}[prediction]
    torch.testing.assert_close(turn.loss, (0.3 * noisy - target).square().mean())


def test_noise_levels_are_uniform_between_steps():
    """Each of the T intervals of g is drawn equally often, and uniformly inside."""
    model = sr3()
    t = model.draw_times(Noise.sampling(0, 20_000))
    g = model.schedule(t)[0].square()
    bar = torch.cat([torch.ones(1, dtype=torch.float64), (1 - linear_betas(20)).cumprod(0)])
    step = torch.searchsorted(-bar, -g).clamp(1, 20)
    counts = torch.bincount(step, minlength=21)[1:]
    assert float((counts / 1000 - 1).abs().max()) < 0.15
    position = (bar[step - 1] - g) / (bar[step - 1] - bar[step])
    assert abs(float(position.mean()) - 0.5) < 0.01 and abs(float(position.var()) * 12 - 1) < 0.05


def test_the_augmentation_level_is_a_separate_plane():
    model, data = sr3(augmentation=0.2), batch(4)
    e = model.example(data, Noise.sampling(3, 4))
    noise = Noise.sampling(3, 4)
    s = 0.2 * noise.uniform()
    noisy = data.c.image + s.view(-1, 1, 1, 1) * noise.normal(3, 4, 4)
    plane = (2 * s / 0.2 - 1).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    expected = F.interpolate(torch.cat([noisy, plane], 1), scale_factor=4, mode="bicubic")
    torch.testing.assert_close(e.c.image, expected)
    with pytest.raises(LimnerError, match=r"level=0\.3 is above"):
        model.sample(1, data.c.rows(slice(0, 1)), level=0.3)


def test_training_hides_labels_but_never_the_small_picture():
    spec = replace(SPEC, labels=("a", "b"))
    model = build("sr3", spec, channels=(8, 16), words_dropout=0.5)
    data = batch(200)
    c = replace(data.c, label=torch.ones(200, dtype=torch.long))
    e = model.example(Batch(data.x, c), Noise.sampling(0, 200))
    assert 70 < int((e.c.label == -1).sum()) < 130
    assert e.c.image.shape == (200, 3, 16, 16) and e.c.present is None


@pytest.mark.parametrize("augmentation", [0.0, 0.2])
def test_edits_and_codes_use_the_small_picture_as_in_training(augmentation):
    model, data, images = sr3(augmentation=augmentation).eval(), batch(2), []

    def network(x, label, c):
        images.append(c.image)
        return 0.3 * x

    model.network.forward = network
    list(model.edit(data.x, data.c, steps=2))
    model.encode(data.x, data.c)
    model.decode(data.x.flatten(1), data.c)
    enlarged = F.interpolate(data.c.image, scale_factor=4, mode="bicubic")
    assert images
    for image in images:
        torch.testing.assert_close(image[:, :3], enlarged)
        assert image.shape[1] == (4 if augmentation else 3) and (image[:, 3:] == -1).all()


def test_a_larger_picture_is_denoised_in_blended_tiles():
    """With a pixelwise denoiser, tiles and the whole picture give the same result."""
    model = sr3().eval()
    plain = lambda x_t, t, c: Estimate(0.5 * x_t.tanh() + 0.5 * c.image)  # noqa: E731
    model.__class__ = type("Pixelwise", (SR3,), {"__call__": staticmethod(plain)})
    small = F.interpolate(batch(2).c.image, (10, 19), mode="bilinear")
    tiled = model.upscale(small, steps=5)
    assert tiled.shape == (2, 3, 40, 76)
    model.spec = ImageSpec(3, 40, 76, hint=ImageSpec(3, 10, 19))
    expected = model.upscale(small, steps=5)
    torch.testing.assert_close(tiled, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("option", [{"interval": (0.3, 5.0)}, {"rescale": 0.5}])
def test_guidance_options_are_refused(option):
    with pytest.raises(
        LimnerError, match=r"sampler\.\w+ belongs to guidance with a prompt or a class"
    ):
        sr3().sample(1, batch(1).c, steps=2, **option)
    with pytest.raises(LimnerError, match=r"sampler\.\w+ belongs to guidance"):
        [*sr3().edit(batch(1).x, batch(1).c, steps=2, **option)]


def test_an_edit_has_no_noise_on_the_small_picture():
    with pytest.raises(LimnerError, match=r"level .* which edits and exported graphs do not"):
        [*sr3(augmentation=0.2).edit(batch(1).x, batch(1).c, steps=2, level=0.1)]


@pytest.mark.parametrize("hint", [None, ImageSpec(3, 16, 16), ImageSpec(3, 4, 8)])
def test_data_without_small_pictures_are_refused(hint):
    with pytest.raises(LimnerError, match=r"data\.(hint|size)"):
        build("sr3", replace(SPEC, hint=hint))
