"""StyleGAN2 against closed forms, scipy and stylegan2_pytorch's convolution."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from scipy.signal import upfirdn
from torch import nn

from limner import Condition, ImageSpec, Noise, build
from limner.contract.errors import LimnerError
from limner.contract.image import Batch
from limner.gans.augmentation import (
    Augmentation,
    Chances,
    colours,
    placements,
    recolour,
    resample,
    rotation,
    translation,
)
from limner.gans.losses import r1
from limner.gans.modulation import Conv, EqualisedLinear, ModulatedConv, activate
from limner.gans.resampling import blur, downsample, upsample
from limner.gans.stylegan2 import StyleGAN2, path_lengths
from limner.gans.stylegan2_networks import Critic, CriticBlock, deviation, normalise
from limner.training.estimate import count_flops
from limner.training.recipe import Recipe

SPEC = ImageSpec(3, 14, 28, labels=("a", "b"), frequencies=(0.5, 0.5))
PLAIN = ImageSpec(1, 16, 16)
SMALL = {"latent": 5, "style": 6, "depth": 2, "channels": 3, "most_channels": 5}


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return Noise.keyed(seed, 0, range(shape[0])).normal(*shape[1:], dtype=torch.float64)


def model_of(spec: ImageSpec = SPEC, **options: object) -> StyleGAN2:
    torch.manual_seed(0)
    model = build("stylegan2", spec, **SMALL | options)
    assert isinstance(model, StyleGAN2)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn_like(p)  # so that no noise strength or bias stays 0
    return model


def calibrated(spec: ImageSpec = SPEC, **options: object) -> StyleGAN2:
    model = model_of(spec, **options).eval()
    with torch.no_grad():
        model.calibrate(iter([drawn_batch(8, spec)]))
    return model


def drawn_batch(n: int, spec: ImageSpec = SPEC) -> Batch:
    noise = Noise.keyed(3, 0, range(n))
    x = noise.uniform(*spec.shape) * 2 - 1
    return Batch(x, Condition(label=noise.integers(2)) if spec.labels else Condition())


# --- modulated convolutions ---------------------------------------------------------------------


def grouped(layer: ModulatedConv, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """Return equations 1 and 3 written out, with weights and a group for each picture."""
    b, c, h, w = x.shape
    weights = s[:, None, :, None, None] * layer.weight * layer.scale
    if layer.demodulate:
        weights = weights / (weights.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt()
    y = F.conv2d(x.reshape(1, b * c, h, w), weights.flatten(0, 1), padding=1, groups=b)
    return y.view(b, -1, h, w)


@pytest.mark.parametrize("demodulate", [True, False])
def test_scaling_inputs_and_outputs_equals_scaling_weights(demodulate: bool):
    torch.manual_seed(0)
    layer = ModulatedConv(4, 3, 3, 5, demodulate=demodulate).double()
    x, w = numbers(6, 4, 5, 7), numbers(6, 5, seed=1)
    expected = grouped(layer, x, layer.affine(w))
    torch.testing.assert_close(layer(x, w), expected, rtol=1e-12, atol=1e-12)
    single = torch.cat([layer(x[i : i + 1], w[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(layer(x, w), single, rtol=1e-12, atol=1e-12)


def test_the_modulated_convolution_equals_stylegan2_pytorchs():
    """Values of `Conv2DMod(3, 2, 3)` of stylegan2_pytorch 1.9.0, which modulates with y + 1.

    They are copied here because that package asserts at its import that CUDA is available.
    """
    layer = ModulatedConv(3, 2, 3, 1).double()
    layer.scale = 1.0
    with torch.no_grad():
        layer.weight.copy_(torch.arange(54, dtype=torch.float64).sin().view(2, 3, 3, 3))
    x = (0.7 * torch.arange(120, dtype=torch.float64)).cos().view(2, 3, 4, 5)
    y = torch.tensor([[0.3, -0.4, 1.2], [-2.0, 0.5, 0.1]], dtype=torch.float64)
    output = layer.convolve(x, y + 1)
    expected = [[0.7715106140531756, 0.4253015718858796], [-0.7237601058325042, -2.315150807910953]]
    sums = [[-0.23073847909500222, 0.4429469706029236], [-0.13347586709495385, 0.5336433489495749]]
    torch.testing.assert_close(output[:, :, 1, 2], torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(output.sum((2, 3)), torch.tensor(sums, dtype=torch.float64))


def test_demodulated_maps_of_white_noise_have_unit_variance():
    torch.manual_seed(0)
    layer = ModulatedConv(8, 6, 3, 4).double()
    x, w = numbers(1, 8, 60, 60).expand(2, -1, -1, -1), 5 * numbers(2, 4, seed=1)
    output = layer(x, w)[:, :, 1:-1, 1:-1]
    torch.testing.assert_close(output.std((2, 3)), torch.ones(2, 6).double(), rtol=0.07, atol=0)


def test_doubling_is_a_transposed_convolution_then_the_filter():
    torch.manual_seed(0)
    layer = ModulatedConv(4, 3, 3, 5, doubling=True).double()
    x, w = numbers(2, 4, 5, 6), numbers(2, 5, seed=1)
    spaced = torch.zeros(2, 4, 11, 13, dtype=torch.float64)
    spaced[:, :, 1:-1:2, 1:-1:2] = x
    turned_round = ModulatedConv(4, 3, 3, 5).double()
    turned_round.load_state_dict(layer.state_dict())
    with torch.no_grad():
        turned_round.weight.copy_(layer.weight.flip(2, 3))
    expected = 4 * blur(turned_round(spaced, w), 1)
    assert layer(x, w).shape == (2, 3, 10, 12)
    torch.testing.assert_close(layer(x, w), expected)


# --- equalised rates ----------------------------------------------------------------------------


def test_equalised_layers_keep_unit_variance():
    torch.manual_seed(0)
    x = numbers(400, 50)
    assert EqualisedLinear(50, 60).double()(x).std().item() == pytest.approx(1, abs=0.05)
    assert EqualisedLinear(50, 60, 0.01).double()(x).std().item() == pytest.approx(1, abs=0.05)
    for rate in (1.0, 0.01):
        torch.testing.assert_close(
            EqualisedLinear(3, 2, rate, bias=1.5)(torch.zeros(3)), torch.full((2,), 1.5)
        )
    planes = numbers(4, 8, 30, 30)
    assert Conv(8, 9, 3).double()(planes)[..., 1:-1, 1:-1].std().item() == pytest.approx(1, abs=0.1)
    assert activate(numbers(1, 100_000)).square().mean().item() == pytest.approx(1.04, abs=0.02)


def test_a_rate_of_a_hundredth_learns_a_hundredth_as_fast():
    """Adam's first step changes a weight by lr for any gradient, and its effect by lr m."""
    changes = []
    for rate in (1.0, 0.01):
        torch.manual_seed(0)
        layer = EqualisedLinear(7, 1, rate).double()
        before = layer(numbers(1, 7))
        adam = torch.optim.Adam(layer.parameters(), lr=1e-4)
        layer(numbers(1, 7)).sum().backward()
        adam.step()
        changes.append((layer(numbers(1, 7)) - before).item())
    assert changes[1] == pytest.approx(0.01 * changes[0], rel=1e-3)


def test_a_critics_block_divides_the_sum_of_its_paths_by_the_root_of_2():
    block, x = CriticBlock(3, 5).double(), numbers(2, 3, 8, 6)
    h = activate(block.second(activate(block.first(x))))
    expected = (h + block.skip(downsample(x))) / math.sqrt(2)
    torch.testing.assert_close(block(x), expected)


def test_normalised_z_lies_on_a_sphere():
    z = normalise(3 * numbers(4, 9))
    torch.testing.assert_close(z.square().mean(1), torch.ones(4).double())
    model = model_of()
    c = Condition(label=torch.tensor([0, 1, 1]))
    z = numbers(3, 5).float()
    torch.testing.assert_close(model.mapping(z, c), model.mapping(7 * z, c))


# --- resampling ---------------------------------------------------------------------------------

TAPS = [0.125, 0.375, 0.375, 0.125]


def test_the_vector_of_a_condition_is_normalised_like_z():
    mapping, z = model_of().mapping, numbers(4, 5).float()
    vector = numbers(4, 5, seed=1).float()
    torch.testing.assert_close(mapping.style_of(z, 7 * vector), mapping.style_of(z, vector))


def test_resampling_equals_scipy():
    x = numbers(1, 1, 6, 10)
    up = x[0, 0].numpy()
    for axis in (0, 1):
        up = upfirdn([2 * t for t in TAPS], up, up=2, axis=axis)
    torch.testing.assert_close(upsample(x)[0, 0], torch.from_numpy(up)[1:13, 1:21])
    down = F.pad(x, (1, 1, 1, 1))[0, 0].numpy()
    for axis in (0, 1):
        down = upfirdn(TAPS, down, axis=axis)
    valid = torch.from_numpy(down)[3:-3, 3:-3]
    torch.testing.assert_close(blur(x, 1)[0, 0], valid)
    torch.testing.assert_close(downsample(x)[0, 0], valid[::2, ::2])


def test_resampling_keeps_the_mean_and_is_its_own_adjoint():
    ones = torch.ones(1, 2, 12, 12, dtype=torch.float64)
    for result in (upsample(ones), downsample(ones), blur(ones, 2)):
        torch.testing.assert_close(
            result[..., 2:-2, 2:-2], torch.ones_like(result)[..., 2:-2, 2:-2]
        )
    x, y = numbers(2, 3, 4, 6), numbers(2, 3, 8, 12, seed=1)
    product = (upsample(x) * y).sum().item()
    assert product == pytest.approx(4 * (x * downsample(y)).sum().item())


# --- the critic ---------------------------------------------------------------------------------


def test_deviation_equals_a_direct_computation():
    x = torch.tensor([0.0, 1.0, 2.0, 10.0, 0.0, 3.0, 2.0, 14.0]).view(8, 1, 1, 1)
    x = torch.cat([x, 3 * x], dim=1).expand(8, 2, 2, 1)
    result = deviation(x)
    even, odd = [0.0, 2.0, 0.0, 2.0], [1.0, 10.0, 3.0, 14.0]
    for group, first in ((even, 0), (odd, 1)):
        std = torch.tensor(group).std(correction=0).item()
        torch.testing.assert_close(result[first::2], torch.full((4, 1, 2, 1), 2 * std))
    assert deviation(x[:6]).unique().numel() == 2  # 6 pictures: 2 groups of 3
    assert deviation(x[:1]).max() < 2e-4


def test_pictures_are_compared_with_their_own_batch():
    critic, x = model_of(PLAIN).critic, drawn_batch(8, PLAIN).x
    separate = torch.cat([critic(x[:4], Condition()), critic(x[4:], Condition())])
    torch.testing.assert_close(critic(x, Condition(), 2), separate)
    assert not torch.allclose(critic(x, Condition()), separate)


def test_a_condition_enters_the_critic_as_a_projection():
    critic = model_of().critic
    assert isinstance(critic, Critic)
    x = drawn_batch(1).x.expand(3, -1, -1, -1)
    scores = critic(x, Condition(label=torch.tensor([-1, 0, 1])))
    h: list[torch.Tensor] = []
    critic.score.register_forward_hook(lambda layer, args, output: h.append(args[0]))
    plain = critic(x, Condition(label=torch.tensor([0, 0, 0])))
    assert critic.conditioner.label is not None
    v = critic.conditioner.label.weight
    expected = (v[2] - v[1]) @ h[0][1] / math.sqrt(v.shape[1])
    assert (scores[2] - plain[1]).item() == pytest.approx(expected.item(), rel=1e-3)


# --- regularisation -----------------------------------------------------------------------------


def test_path_lengths_of_a_linear_map():
    """They are |A^T y| / sqrt(pixels); the mean square over y is |A|^2 / pixels."""
    A = numbers(12, 4)

    def paint(w: torch.Tensor) -> torch.Tensor:
        return (w.mean(1) @ A.T).view(-1, 3, 2, 2)

    w = numbers(5000, 2, 4, seed=1).requires_grad_()
    y = numbers(5000, 3, 2, 2, seed=2)
    lengths = path_lengths(paint, w, y)
    # Half of the map goes through each of two layers.
    exact = (y.flatten(1) @ A / 2).norm(dim=1) / math.sqrt(4)
    torch.testing.assert_close(lengths, exact)
    expected = A.square().sum() / 4 / 4
    assert lengths.square().mean().item() == pytest.approx(expected.item(), rel=0.05)


def test_an_orthogonal_map_has_equal_path_lengths_and_no_gradient():
    Q = nn.Parameter(torch.linalg.qr(numbers(6, 6)).Q)
    w = numbers(7, 1, 6, seed=1).requires_grad_()
    y = F.normalize(numbers(7, 6, seed=2)).view(7, 1, 2, 3)
    lengths = path_lengths(lambda w: (w[:, 0] @ Q.T).view(-1, 1, 2, 3), w, y)
    torch.testing.assert_close(lengths, torch.full((7,), 1 / math.sqrt(6), dtype=torch.float64))
    penalty = (lengths - lengths.detach().mean()).square().mean()
    (slope,) = torch.autograd.grad(penalty, Q)
    assert slope.abs().max() < 1e-12


@pytest.mark.parametrize("step", [0, 1, 2, 4])
def test_regularisation_is_lazy(step: int):
    model = model_of(r1_every=2, path_every=4, gamma=3.0)
    batch, noise = drawn_batch(6), Noise.keyed(0, step, range(6))
    turns = list(model.turns(batch, step, noise))
    players = [
        "critic",
        *["critic"] * (step % 2 == 0),
        "generator",
        *["generator"] * (step % 4 == 0),
    ]
    assert [turn.of for turn in turns] == players
    if step % 2 == 0:
        assert turns[0].logs["critic.game.loss"] == turns[0].loss
        steep = turns[1].logs["r1"].item()
        assert turns[1].loss.item() == pytest.approx(2 * 3.0 / 2 * steep)
        assert steep == pytest.approx(r1(lambda x: model.critic(x, batch.c), batch.x).item())


def test_lazy_regularisation_has_the_same_expectation():
    """Every 16th step 16 times as strong equals a term at every step, over 16 steps."""
    penalties = {}
    for every in (1, 16):
        model = model_of(r1_every=every, path_every=0, gamma=2.0)
        batch = drawn_batch(4)
        losses = []
        for step in range(16):
            turns = list(model.turns(batch, step, Noise.keyed(0, step, range(4))))
            losses += [turn.loss.item() for turn in turns if "r1" in turn.logs]
        penalties[every] = sum(losses)
    assert penalties[16] == pytest.approx(penalties[1], rel=1e-5)


def test_the_mean_path_length_is_a_slow_average():
    model = model_of(r1_every=0, path_every=1)
    average = 0.0
    for step in range(3):
        turns = list(model.turns(drawn_batch(4), step, Noise.keyed(0, step, range(4))))
        average += 0.01 * (turns[-1].logs["path_length"].item() - average)
        assert model.path_length.item() == pytest.approx(average, rel=1e-5)


# --- styles -------------------------------------------------------------------------------------


def test_training_mixes_two_styles_at_a_random_layer():
    model = model_of(PLAIN)
    n = 2000
    w = model.mixed_styles(Condition(), Noise.keyed(0, 0, range(n)))
    is_first = (w == w[:, :1]).all(2)
    crossings = is_first.sum(1)
    # One style comes first, then the other in all later layers.
    assert bool((is_first.long().diff(dim=1) <= 0).all())
    shares = crossings.bincount(minlength=model.style_layers + 1) / n
    assert shares[0] == 0
    assert shares[-1].item() == pytest.approx(0.1, abs=0.03)
    inner = shares[1:-1]
    torch.testing.assert_close(inner, torch.full_like(inner, 0.9 / len(inner)), atol=0.04, rtol=0)


def test_truncation_moves_to_the_class_mean_and_skips_fine_layers():
    model = calibrated()
    c = Condition(label=torch.tensor([0, 1, 0]))

    def styles(psi: float, cutoff: int | None = None) -> torch.Tensor:
        return model.styles(c, Noise.sampling(0, 3), psi, cutoff)

    full, mean = styles(1.0), styles(0.0)
    assert torch.equal(full, styles(0.3, 0))
    torch.testing.assert_close(mean, model.w_mean[[1, 2, 1]][:, None].expand_as(mean))
    torch.testing.assert_close(styles(0.25), torch.lerp(mean, full, 0.25))
    part = styles(0.0, 3)
    assert torch.equal(part[:, :3], mean[:, :3]) and torch.equal(part[:, 3:], full[:, 3:])


def test_calibration_finds_mean_and_spread_of_styles_per_class():
    model = calibrated()
    z = Noise.keyed(9, 0, range(20_000)).normal(5)
    with torch.no_grad():
        for label in (0, 1):
            w = model.mapping(z, Condition(label=torch.full((20_000,), label)))
            error = (w.mean(0) - model.w_mean[label + 1]).abs().max().item()
            assert error < 5 * w.std(0).max().item() / math.sqrt(1024)
        c = drawn_batch(8).c.repeat(2500)
        w = model.mapping(z, c)
    code = (w - model.w_mean[0]) @ torch.linalg.inv(model.w_axes)
    torch.testing.assert_close(code.T.cov(), torch.eye(6), atol=0.2, rtol=0)


def test_mixing_with_itself_changes_nothing_and_layers_are_from_coarse_to_fine():
    model = calibrated()
    c = Condition(label=torch.tensor([1]))
    original, other = model.sample(3, c, seed=[0, 1, 2]), model.sample(3, c, seed=[7, 8, 9])
    assert torch.equal(model.mix([0, 1, 2], slice(0, 2), c, seed=[0, 1, 2]), original)
    assert torch.equal(model.mix([7, 8, 9], slice(0, 0), c, seed=[0, 1, 2]), original)
    with torch.no_grad():
        for layer in model.synthesis.modules():
            if hasattr(layer, "noise_strength"):
                layer.noise_strength.zero_()
    original, other = model.sample(3, c, seed=[0, 1, 2]), model.sample(3, c, seed=[7, 8, 9])
    mixed_styles = model.mix([7, 8, 9], slice(0, None), c, seed=[0, 1, 2])
    torch.testing.assert_close(mixed_styles, other)
    last = model.mix([7, 8, 9], slice(model.style_layers - 1, None), c, seed=[0, 1, 2])
    assert not torch.equal(last, original) and not torch.equal(last, other)


def test_mixing_draws_labels_like_sampling():
    model = calibrated()
    assert torch.equal(model.mix([3, 4], slice(1, 3), seed=[3, 4]), model.sample(2, seed=[3, 4]))


def test_its_own_picture_is_reconstructed():
    model = calibrated(PLAIN)
    with torch.no_grad():
        x = model.decode(0.7 * numbers(2, 6).float()).clamp(-1, 1)
        code = model.encode(x)
        reconstruction = model.decode(code).clamp(-1, 1)
    far = (x[0] - x[1]).square().mean()
    assert (reconstruction - x).square().mean() < 0.003 * far
    assert not code.requires_grad
    assert model.reconstruct(x).shape == x.shape


# --- sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(4, 4), (28, 28), (32, 32), (14, 28), (24, 40), (7, 9)])
def test_pictures_of_many_sizes_are_generated(size: tuple[int, int]):
    model = model_of(ImageSpec(3, *size))
    x = model.sample(2)
    assert x.shape == (2, 3, *size)
    assert model.critic(x, Condition()).shape == (2,)
    assert len(list(model.watch(1))) == model.frame_count()


@pytest.mark.parametrize(("size", "near"), [((30, 30), 32), ((3, 9), 4), ((28, 30), 28)])
def test_other_sizes_are_refused_with_the_next_valid_size(size: tuple[int, int], near: int):
    with pytest.raises(LimnerError, match=f"type data.size={near}"):
        build("stylegan2", ImageSpec(3, *size), **SMALL)


# --- augmentation -------------------------------------------------------------------------------


def augment_with(p: float, n: int = 500, seed: int = 0) -> Chances:
    return Chances(torch.tensor(p), Noise.keyed(seed, 0, range(n)))


def test_with_probability_0_nothing_changes():
    x = numbers(5, 3, 8, 12).float()
    result = Augmentation(0.6, 1, 4)(x, Noise.keyed(0, 0, range(5)))
    torch.testing.assert_close(result, x, rtol=0, atol=1e-6)
    assert Augmentation(0.0, 1, 4)(x, Noise.keyed(0, 0, range(5))) is x


def test_whole_pixel_transforms_are_exact():
    x = numbers(2, 1, 6, 6)
    quarter = rotation(torch.full((2,), math.pi / 2))
    torch.testing.assert_close(resample(x, quarter), torch.rot90(x, 1, (2, 3)), atol=1e-5, rtol=0)
    right = resample(x, translation(torch.full((2,), 2.0), torch.full((2,), -1.0)))
    torch.testing.assert_close(right[:, :, 1:, :4], x[:, :, :5, 2:])
    torch.testing.assert_close(right[:, :, 1:, 4], x[:, :, :5, 4])  # mirrored at column 5
    half = resample(x, translation(torch.full((2,), 0.5), torch.zeros(2)))
    torch.testing.assert_close(half[..., :5], (x[..., :5] + x[..., 1:]) / 2)


def test_each_change_is_made_with_its_probability():
    for p in (0.0, 0.3):
        transforms = placements(augment_with(p, 4000), 16, 16)
        unchanged = (transforms - torch.eye(3)).abs().amax((1, 2)) < 1e-5
        # Mirror, quarter turns, shift in whole pixels, size, two rotations, aspect ratio, shift.
        expected = (1 - p / 2) * (1 - 3 * p / 4) * (1 - p * 24 / 25) * (1 - p) ** 4
        assert unchanged.float().mean().item() == pytest.approx(expected, abs=0.03)
        tinted = colours(augment_with(p, 4000))
        unchanged = (tinted - torch.eye(4)).abs().amax((1, 2)) < 1e-5
        expected = (1 - p) ** 4 * (1 - p / 2)
        assert unchanged.float().mean().item() == pytest.approx(expected, abs=0.03)


def test_colour_changes_keep_their_axes():
    """Hue, saturation and luma keep the axis of greys; contrast and brightness are affine."""
    m = colours(augment_with(1.0, 300))
    grey = torch.tensor([1.0, 1.0, 1.0, 0.0])
    mapped = m @ grey
    torch.testing.assert_close(mapped[:, :1].expand(-1, 3), mapped[:, :3], rtol=1e-3, atol=1e-4)
    x = numbers(300, 1, 4, 4).float()
    mono, colour = recolour(x, m), recolour(x.expand(-1, 3, -1, -1), m).mean(1, keepdim=True)
    torch.testing.assert_close(mono, colour, rtol=1e-3, atol=1e-4)


def test_r1_is_differentiated_through_augmentation():
    """The gradient is that of the unaugmented picture, and is differentiable."""
    model = model_of(augment=0.5, gamma=1.0)
    model.augmentation.p.fill_(1.0)
    batch = drawn_batch(4)
    noise = Noise.keyed(0, 0, range(4))
    steep = model.steepness(*batch, noise)
    x = batch.x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(
        model.augmented_scores(x, batch.c, Noise.keyed(0, 0, range(4))).sum(), x
    )
    assert steep.item() == pytest.approx(slope.square().sum().item() / 4, rel=1e-4)
    weight = model.critic.from_picture.weight
    assert torch.autograd.grad(steep, weight)[0].abs().max() > 0


def test_the_probability_follows_the_signs_of_real_scores():
    augment = Augmentation(0.6, images=100, every=2)
    sure, unsure = torch.ones(10), torch.tensor([1.0] * 7 + [-1.0] * 3)  # r_t = 1 and 0.4
    values = []
    for step, scores in enumerate([sure, sure, sure, sure, sure, unsure, unsure, unsure]):
        augment.update(scores, step)
        values.append(round(augment.p.item(), 3))
    assert values == [0.0, 0.2, 0.2, 0.4, 0.4, 0.6, 0.6, 0.4]
    for step in range(40):
        augment.update(unsure, step)
    assert augment.p.item() == 0


# --- the recipe ---------------------------------------------------------------------------------


def test_the_recipe_corrects_adam_for_lazy_regularisation():
    """lr' = c lr and beta' = beta^c with c = k / (k + 1) compensate one more update in k steps."""
    file = Path(__file__).parents[2] / "recipes" / "gans" / "stylegan2-emoji32.toml"
    recipe = Recipe.read(file)
    options, model = recipe.options(), recipe.model
    for player, k in (("critic", model["r1_every"]), ("generator", model["path_every"])):
        player_options, c = options.player(player), k / (k + 1)
        assert player_options.lr == pytest.approx(c * options.lr, rel=1e-5)
        assert player_options.betas == pytest.approx([beta**c for beta in options.betas], rel=1e-5)


def test_operations_of_a_step_can_be_counted():
    """Counters add hooks to the inputs of layers, which fails for views of parameters."""
    model = model_of(PLAIN)
    with count_flops() as counter:
        list(model.turns(drawn_batch(4, PLAIN), 1, Noise.keyed(0, 1, range(4))))
    assert counter.get_total_flops() > 0
