"""SRGAN: its initial output, losses in closed form, pixel shuffling and tiles."""

import pytest
import torch
import torch.nn.functional as F

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, ImageSpec, to_uint8
from limner.contract.noise import Noise
from limner.contract.registry import build
from limner.gans.srgan import SRGAN, crop_both, prime_factors


def srgan(factor: int = 4, moved: float = 0.0, **options) -> SRGAN:
    spec = ImageSpec(3, 8 * factor, 8 * factor, hint=ImageSpec(3, 8, 8))
    with torch.random.fork_rng([]), torch.no_grad():
        torch.manual_seed(0)
        model = build("srgan", spec, channels=8, blocks=2, critic_channels=4, **options)
        for p in model.parameters():
            p += moved * torch.randn_like(p)
    assert isinstance(model, SRGAN)
    return model


def pictures(n: int, side: int) -> torch.Tensor:
    return Noise.sampling(0, n).uniform(3, side, side) * 2 - 1


@pytest.mark.parametrize("factor", [2, 3, 4, 6])
def test_a_new_model_is_the_bicubic_filter(factor):
    model, x = srgan(factor), pictures(2, 8)
    expected = F.interpolate(x, scale_factor=factor, mode="bicubic").clamp(-1, 1)
    torch.testing.assert_close(model.upscale(x), expected)
    torch.testing.assert_close(model.sample(2, Condition(image=x)), expected)


def test_a_factor_is_split_into_its_primes():
    assert [prime_factors(n) for n in (2, 8, 12, 7)] == [[2], [2, 2, 2], [2, 2, 3], [7]]


def test_the_losses_have_the_documented_formulas():
    model = srgan(adversarial=0.3, likeness=0.7, moved=0.1)
    data = Batch(pictures(4, 32), Condition(image=pictures(4, 8)))
    critic, generator = model.turns(data, 0, Noise.sampling(0, 4))
    assert (critic.of, generator.of) == ("critic", "generator")
    fake = model.generator(data.c.image)
    on_real, on_fake = model.critic(data.x).sigmoid(), model.critic(fake).sigmoid()
    expected = -(on_real.log().mean() + (1 - on_fake).log().mean()) / 2
    torch.testing.assert_close(critic.loss, expected)
    error = (fake - data.x).abs().mean()
    features = [[*model.critic.features(x)][:-1] for x in (data.x, fake)]
    feature_error = sum((a - b).abs().mean() for a, b in zip(*features)) / len(features[0])
    torch.testing.assert_close(
        generator.loss,
        error + 0.7 * feature_error - 0.3 * on_fake.log().mean(),
        rtol=1e-5,
        atol=1e-6,
    )


def test_augmentation_adds_noise_of_a_uniform_deviation(monkeypatch):
    model, n = srgan(augmentation=0.5), 400
    inputs: list[torch.Tensor] = []
    monkeypatch.setattr(
        model.generator, "forward", lambda x: inputs.append(x) or x.new_zeros(n, 3, 32, 32)
    )
    list(model.turns(Batch(torch.zeros(n, 3, 32, 32), Condition(image=torch.zeros(n, 3, 8, 8))),
                     0, Noise.keyed(0, 0, range(n))))  # fmt: skip
    deviation = inputs[0].std((1, 2, 3)) / 0.5
    quantiles = deviation.quantile(torch.tensor([0.1, 0.5, 0.9]))
    torch.testing.assert_close(quantiles, torch.tensor([0.1, 0.5, 0.9]), rtol=0, atol=0.07)


def test_without_weights_there_is_no_critic():
    model = srgan()
    assert [*model.players()] == ["generator"] and not hasattr(model, "critic")
    data = Batch(pictures(4, 32), Condition(image=pictures(4, 8)))
    (turn,) = model.turns(data, 0, Noise.sampling(0, 4))
    torch.testing.assert_close(turn.loss, (model.generator(data.c.image) - data.x).abs().mean())


def test_training_beats_the_bicubic_filter():
    """Sharp squares of 4 x 4 pixels, each of which is one small pixel."""
    model = srgan()
    x = pictures(8, 8).sign()
    data = Batch(F.interpolate(x, scale_factor=4), Condition(image=x))
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for step in range(60):
        (turn,) = model.turns(data, step, Noise.sampling(0, 8))
        optimiser.zero_grad()
        turn.loss.backward()
        optimiser.step()
        losses.append(turn.loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_tiles_equal_the_whole_picture_within_one_level(monkeypatch):
    """The margin of a tile covers the receptive field of two blocks."""
    model, x = srgan(moved=0.05), pictures(1, 90)
    expected = to_uint8(model.upscale(x)).int()
    monkeypatch.setattr("limner.gans.srgan._TILE_SIDE", 56)
    tiled = to_uint8(model.upscale(x)).int()
    assert int((tiled - expected).abs().max()) <= 1
    model.__class__.margin = 0
    try:
        seams = to_uint8(model.upscale(x)).int()
    finally:
        model.__class__.margin = 16
    assert int((seams - expected).abs().max()) > 1, "without a margin, seams must be visible"


def test_a_crop_is_the_same_part_of_both_pictures():
    small = pictures(6, 8)
    large = small.repeat_interleave(4, 2).repeat_interleave(4, 3)
    a, b = crop_both(small, large, 3, Noise.sampling(2, 6))
    assert a.shape == (6, 3, 3, 3) and b.shape == (6, 3, 12, 12)
    assert torch.equal(a.repeat_interleave(4, 2).repeat_interleave(4, 3), b)
    single, _ = crop_both(small[2:3], large[2:3], 3, Noise.sampling(4, 1))
    assert torch.equal(single, a[2:3]), "each picture must have its own crop"
    full = crop_both(small, large, 9, Noise.sampling(0, 6))
    assert torch.equal(full[0], small) and torch.equal(full[1], large)


@pytest.mark.parametrize(("side", "options"), [(16, {"critic_layers": 3}), (4, {})])
def test_a_critic_too_deep_for_the_pictures_is_refused(side, options):
    half = side // 2
    spec = ImageSpec(1, side, side, hint=ImageSpec(1, half, half))
    with pytest.raises(LimnerError, match=f"are too many for {side} pixels a side; give fewer"):
        build("srgan", spec, channels=8, blocks=1, adversarial=0.1, **options)
    assert build("srgan", spec, channels=8, blocks=1, **options), (
        "a model without a critic must be accepted"
    )


@pytest.mark.parametrize(("side", "layers"), [(6, None), (12, 2), (16, 2)])
def test_the_deepest_critic_that_fits_has_a_score(side, layers):
    spec = ImageSpec(1, side, side, hint=ImageSpec(1, side // 2, side // 2))
    model = build("srgan", spec, channels=8, blocks=1, adversarial=0.1, critic_layers=layers)
    assert isinstance(model, SRGAN) and model.critic(torch.zeros(2, *spec.shape)).numel() >= 2
