"""BigGAN against closed forms and pytorch_pretrained_biggan's blocks."""

import math
from statistics import NormalDist

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrize import remove_parametrizations

from limner import Condition, ImageSpec, Noise, build
from limner.contract.errors import LimnerError
from limner.contract.image import Batch
from limner.contract.noise import Purpose
from limner.gans.biggan import BigGAN, overlaps, truncate
from limner.gans.biggan_networks import (
    TRUNCATIONS,
    ConditionalNorm,
    CriticBlock,
    GeneratorBlock,
    SelfAttention,
    normalise_layer,
)
from limner.gans.losses import hinge

SPEC = ImageSpec(1, 16, 20, labels=("a", "b"), frequencies=(0.5, 0.5))
SMALL = {"latent": 7, "embedding": 3, "channels": 3}


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return Noise.keyed(seed, 0, range(shape[0])).normal(*shape[1:], dtype=torch.float64)


def model_of(spec: ImageSpec = SPEC, **options: object) -> BigGAN:
    torch.manual_seed(0)
    model = build("biggan", spec, **SMALL | options)
    assert isinstance(model, BigGAN)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.2 * torch.randn_like(p)
    return model


def drawn_batch(n: int, seed: int = 3) -> Batch:
    noise = Noise.keyed(seed, 0, range(n))
    return Batch(noise.uniform(*SPEC.shape) * 2 - 1, Condition(label=noise.integers(2)))


def plain(network: nn.Module) -> nn.Module:
    """Remove spectral norm from a network; return it."""
    for layer in network.modules():
        if nn.utils.parametrize.is_parametrized(layer):
            remove_parametrizations(layer, "weight")
    return network


def put_sines(weights: list[torch.Tensor], first: int) -> None:
    for w in weights:
        values = torch.arange(first, first + w.numel(), dtype=torch.float64).sin()
        w.data.copy_(values.view(w.shape))
        first += w.numel()


def cosines() -> torch.Tensor:
    return (0.7 * torch.arange(2 * 16 * 4 * 6, dtype=torch.float64)).cos().view(2, 16, 4, 6)


# --- parts --------------------------------------------------------------------------------------


def test_attention_equals_pytorch_pretrained_biggans():
    """Values of its `SelfAttn(16)`, release 0.1.1, without spectral norm."""
    layer = plain(SelfAttention(16)).double()
    parts = (layer.g, layer.o, layer.phi, layer.theta)
    put_sines([layer.gamma, *(part.weight for part in parts)], 1)
    output = layer(cosines())
    expected = [
        [-0.33400579666287855, -0.3620520427608751, 1.0177648111557773],
        [-1.7077660352702786, 0.019617959407469354, 2.059376373207765],
    ]
    torch.testing.assert_close(output[:, :3, 1, 2], torch.tensor(expected, dtype=torch.float64))
    sums = torch.tensor([-27.763607453659233, -29.07418123939347], dtype=torch.float64)
    torch.testing.assert_close(output.sum((1, 2, 3)), sums)


def test_new_attention_is_the_identity():
    x = cosines().float()
    assert torch.equal(SelfAttention(16)(x), x)


def test_the_norm_equals_pytorch_pretrained_biggans():
    """Values of its `BigGANBatchNorm(3, 4)` with the statistics of one truncation."""
    layer = plain(ConditionalNorm(3, 4)).double()
    put_sines([layer.bias.weight, layer.gain.weight], 0)
    layer.means[2] = torch.tensor([0.1, 0.2, 0.3])
    layer.variances[2] = torch.tensor([2.0, 0.5, 1.5])
    y = torch.tensor([[0.3, -0.2, 1.0, 0.5], [-1.0, 0.4, 0.1, 0.7]], dtype=torch.float64)
    output = layer(cosines()[:, :3], y, TRUNCATIONS[2])
    expected = [
        [1.8007280943151813, -0.6655011127521697, -0.9563944290147207],
        [-0.38422111477511944, -0.20672155082107768, -1.6758621773346507],
    ]
    sums = torch.tensor([-10.702479407776233, -11.412715617832696], dtype=torch.float64)
    torch.testing.assert_close(output[:, :, 1, 2], torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(output.sum((1, 2, 3)), sums)


def test_the_block_equals_pytorch_pretrained_biggans():
    """Values of its `GenBlock(16, 8, 4, reduction_factor=1, up_sample=True, n_stats=2, eps=1e-4)`.

    That block has convolutions of 1 x 1 around these two, which are set to the identity. The input
    of the last one is raised by 1000 and its output lowered again, so that ReLU keeps all values.
    """
    block = plain(GeneratorBlock(16, 8, 4)).double()
    norm_weights = [w for norm in block.norm for w in (norm.gain.weight, norm.bias.weight)]
    put_sines([*norm_weights, *(w for conv in block.conv for w in (conv.weight, conv.bias))], 1)
    for norm in block.norm:
        channels = torch.arange(norm.means.shape[1], dtype=torch.float64)
        norm.means[2], norm.variances[2] = channels.cos(), 1.5 + channels.sin()
    with torch.no_grad():
        block.skip.weight.copy_(torch.eye(8, 16)[:, :, None, None])  # its skip drops channels
        block.skip.bias.zero_()
    y = torch.tensor([[0.3, -0.2, 1.0, 0.5], [-1.0, 0.4, 0.1, 0.7]], dtype=torch.float64)
    output = block(cosines(), y, TRUNCATIONS[2])
    expected = [
        [2.0408992431558084, -3.969969643524803, 8.494685356513571],
        [6.813502316696236, -2.482962851193438, -0.30397500654838916],
    ]
    sums = torch.tensor([421.7142664674776, 6.334020133606884], dtype=torch.float64)
    torch.testing.assert_close(output[:, :3, 1, 2], torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(output.sum((1, 2, 3)), sums)


def test_without_gains_the_norm_equals_batch_norm():
    layer = plain(ConditionalNorm(4, 3)).double()
    x, y = 3 + 2 * numbers(6, 4, 5, 5), numbers(6, 3, seed=1)
    put_sines([layer.gain.weight, layer.bias.weight], 1)
    modulated = layer(x, y, None)
    with torch.no_grad():
        layer.gain.weight.zero_()
        layer.bias.weight.zero_()
    usual = F.batch_norm(x, None, None, training=True, eps=1e-4)
    torch.testing.assert_close(layer(x, y, None), usual)
    assert not torch.allclose(modulated, usual, atol=0.1)


def test_statistics_are_interpolated_between_truncations():
    layer = ConditionalNorm(2, 3)
    with torch.no_grad():
        layer.means.copy_(torch.arange(len(TRUNCATIONS)).float()[:, None].expand(-1, 2))
    for t, expected in ((0.01, 0.0), (0.25, 0.0), (0.75, 1.5), (1.0, 2.0), (3.0, 4.5), (4.0, 5.0)):
        assert layer.at(t)[0][0].item() == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(5, 7), (6, 3, 3, 3), (9, 2)])
def test_the_largest_singular_value_is_one(shape: tuple[int, ...]):
    torch.manual_seed(0)
    layer = nn.Linear(shape[1], shape[0]) if len(shape) == 2 else nn.Conv2d(shape[1], shape[0], 3)
    layer = normalise_layer(layer)
    with torch.no_grad():
        layer.parametrizations["weight"].original.copy_(3 * torch.randn(shape))
    layer.train()
    for _ in range(100):
        weight = layer.weight  # each access is a step of power iteration
    top = torch.linalg.svdvals(weight.detach().flatten(1))[0].item()
    assert top == pytest.approx(1, abs=1e-3)


def test_new_weights_are_orthogonal_with_an_overlap_of_0():
    torch.manual_seed(0)
    model = build("biggan", SPEC, **SMALL)
    wide, tall = normalise_layer(nn.Conv2d(8, 6, 3)), normalise_layer(nn.Linear(3, 7))
    assert overlaps(nn.Sequential(wide)).item() == pytest.approx(0, abs=1e-5)
    assert overlaps(model.generator) > 0  # some layers have more rows than columns
    for layer in (wide, tall):
        original = layer.parametrizations["weight"].original
        with torch.no_grad():
            original.copy_(torch.randn_like(original))
        w = original.detach().flatten(1)
        expected = ((w @ w.T) * (1 - torch.eye(len(w)))).square().sum()
        with torch.autocast("cpu", torch.bfloat16):
            result = overlaps(nn.Sequential(layer))
        assert result.item() == pytest.approx(expected.item(), rel=1e-5)


def test_blocks_equal_a_direct_computation():
    torch.manual_seed(0)
    block = plain(GeneratorBlock(4, 3, 2)).double()
    x, y = numbers(3, 4, 4, 6), numbers(3, 2, seed=1)
    h = F.interpolate(block.norm[0](x, y, None).relu(), scale_factor=2)
    h = block.conv[1](block.norm[1](block.conv[0](h), y, None).relu())
    expected = h + F.interpolate(block.skip(x), scale_factor=2)
    assert block(x, y, None).shape == (3, 3, 8, 12)
    torch.testing.assert_close(block(x, y, None), expected)
    past_first = block.skip(F.interpolate(x, scale_factor=2))
    torch.testing.assert_close(block(x, y, None), h + past_first)
    for first in (False, True):  # a picture has no ReLU before it
        halves = plain(CriticBlock(4, 5, first=first, halving=True)).double()
        h = halves.conv[1](halves.conv[0](x if first else x.relu()).relu())
        expected = F.avg_pool2d(h + halves.skip(x), 2)
        torch.testing.assert_close(halves(x), expected)
    same = CriticBlock(4, 4, first=False, halving=False)
    assert same.skip is None


# --- the model ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("latent", "chunks"), [(7, [3, 2, 2]), (9, [3, 3, 3]), (3, [1, 1, 1])])
def test_z_is_hierarchical(latent: int, chunks: list[int]):
    model = model_of(latent=latent)
    assert model.generator.chunks == chunks
    vectors: list[torch.Tensor] = []
    for block in model.generator.blocks:
        block.register_forward_pre_hook(lambda block, args: vectors.append(args[1]))
    z, c = numbers(2, latent).float(), Condition(label=torch.tensor([0, 1]))
    model.generator(z, c, 1.0)
    label_vector = model.generator.conditioner(c, 2).vector
    first = chunks[0]
    for vector, chunk in zip(vectors, z[:, first:].split(chunks[1:], 1)):
        torch.testing.assert_close(vector, torch.cat([chunk, label_vector], 1))


def test_too_few_latent_numbers_are_refused():
    with pytest.raises(LimnerError, match="z has a chunk for each of 3 sizes"):
        model_of(latent=2)


def test_the_losses_are_hinge_and_orthogonal_regularisation():
    model = model_of(beta=0.5, critic_steps=2).eval()
    turns = []
    scores: list[torch.Tensor] = []
    model.critic.register_forward_hook(lambda layer, args, output: scores.extend(output.split(4)))
    for turn in model.turns(drawn_batch(8), 0, Noise.keyed(0, 0, range(8))):
        turns.append(turn)
    assert [turn.of for turn in turns] == ["critic", "critic", "generator"]
    assert turns[0].loss.item() == pytest.approx(hinge(scores[0], scores[1]).item())
    expected = -scores[-1].mean() + 0.5 * overlaps(model.generator)
    assert turns[2].loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_critic_adds_up_features_over_all_pixels():
    model = model_of()
    features: list[torch.Tensor] = []
    model.critic.blocks[-1].register_forward_hook(lambda *args: features.append(args[2]))
    model.critic.score.register_forward_hook(lambda *args: features.append(args[1][0]))
    model.critic(*drawn_batch(3))
    torch.testing.assert_close(features[1], features[0].relu().sum((2, 3)))


def test_a_condition_enters_the_critic_as_a_projection():
    critic = model_of().critic.eval()
    x = drawn_batch(1).x.expand(3, -1, -1, -1)
    h: list[torch.Tensor] = []
    critic.score.register_forward_hook(lambda layer, args, output: h.append(args[0]))
    scores = critic(x, Condition(label=torch.tensor([0, 1, 1])))
    v = critic.conditioner.label.weight
    expected = (v[2] - v[1]) @ h[0][0]
    assert (scores[1] - scores[0]).item() == pytest.approx(expected.item(), rel=1e-3)


@pytest.mark.parametrize("t", [0.3, 1.0, 2.0])
def test_truncated_numbers_have_a_truncated_normal_distribution(t: float):
    """The distribution is that of a normal number within t of 0, monotone in z."""
    normal = NormalDist()
    z = torch.tensor([normal.inv_cdf((i + 0.5) / 2000) for i in range(2000)], dtype=torch.float64)
    truncated = truncate(z[None], t)[0]
    assert truncated.abs().max() <= t and bool((truncated.diff() > 0).all())
    mass = normal.cdf(t) - normal.cdf(-t)
    for point in (-0.9 * t, -0.2 * t, 0.5 * t):
        share = (normal.cdf(point) - normal.cdf(-t)) / mass
        assert (truncated <= point).double().mean().item() == pytest.approx(share, abs=1e-3)
    assert truncate(z[None], 4.0).std().item() == pytest.approx(1, abs=2e-3)


def test_calibration_finds_the_statistics_of_each_truncation():
    model = model_of().eval()
    batches = [drawn_batch(16, seed) for seed in range(3)]
    with torch.no_grad():
        model.calibrate(iter(batches))
        first = model.generator.blocks[0].norm[0]
        for i, t in enumerate(TRUNCATIONS):
            means = []
            for number in range(3):
                numbers = range(16 * number, 16 * (number + 1))
                z = truncate(Noise.keyed(0, Purpose.CALIBRATION, numbers).normal(7), t)
                means.append(model.generator.first(z[:, :3]).unflatten(1, (12, -1)).mean((0, 2)))
            torch.testing.assert_close(
                first.means[i], torch.stack(means).mean(0), rtol=1e-4, atol=1e-6
            )
    spread = first.variances.mean(1)
    assert bool((spread.diff() > 0).all())  # less truncation gives more different pictures
    assert not first.norm.training


def test_less_truncation_gives_more_variety():
    model = model_of().eval()
    with torch.no_grad():
        model.calibrate(iter([drawn_batch(32)]))
    c = Condition(label=torch.tensor([1]))
    spread = [model.sample(16, c, truncation=t).std(0).mean().item() for t in (0.25, 1.0, 4.0)]
    assert spread[0] < spread[1] < spread[2]


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (31, 17), (32, 32)])
@pytest.mark.parametrize("attention", [0, 1, 5])
def test_pictures_of_any_size_are_generated(size: tuple[int, int], attention: int):
    model = build("biggan", ImageSpec(3, *size), attention=attention, **SMALL)
    assert isinstance(model, BigGAN)
    x = model.sample(2)
    assert x.shape == (2, 3, *size) and math.isfinite(x.sum().item())
    assert model.critic(x, Condition()).shape == (2,)
