"""GigaGAN against closed forms, brute force and gigagan-pytorch's kernel selection."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from limner import Condition, ImageSpec, Noise, build
from limner.contract.errors import LimnerError
from limner.contract.image import Batch
from limner.contract.text import text_condition, text_spec
from limner.gans.gigagan import GigaGAN
from limner.gans.gigagan_networks import AdaptiveConv, L2Attention, WordVectors, l2_attention
from limner.gans.losses import discriminate
from limner.gans.modulation import ModulatedConv, equalise
from limner.gans.multi_scale_critic import (
    MultiScaleCritic,
    critic_loss,
    matching_loss,
    mean_loss,
    other_rows,
    penalty,
    picture_scales,
    steepness,
)
from limner.gans.style_model import Other
from limner.nn.attention import Attention

PEER_AT = [[0.5436333726882827, 0.6617202439772513], [0.06904834434461962, -2.6014226904067352]]
PEER_SUMS = [[-0.3371887310245136, 0.39384626743951295], [-0.279657258143707, 0.5132308305069657]]
PEER_GATHERED = [[1.0284926605622373, 0.760814939591492], [0.10601720002818871, 1.1206451221993339]]
PLAIN = ImageSpec(1, 16, 16)
LABELLED = ImageSpec(3, 16, 16, labels=("a", "b"), frequencies=(0.5, 0.5))
SAID = ImageSpec(3, 16, 16, text=text_spec(6))
SMALL = {"latent": 5, "style": 6, "depth": 2, "channels": 4, "most_channels": 6, "kernels": (2, 2)}


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return Noise.keyed(seed, 0, range(shape[0])).normal(*shape[1:], dtype=torch.float64)


def model_of(spec: ImageSpec = SAID, **options: object) -> GigaGAN:
    with torch.random.fork_rng([]), torch.no_grad():
        torch.manual_seed(0)
        model = build("gigagan", spec, **SMALL | options)
        assert isinstance(model, GigaGAN)
        for p in model.parameters():
            p += 0.3 * torch.randn_like(p)  # so that no weight stays 0
    return model.eval()


@cache
def cached_model(spec: ImageSpec = SAID) -> GigaGAN:
    """Return a cached model for tests that do not change it."""
    model = model_of(spec)
    with torch.no_grad():
        model.calibrate(iter([drawn_batch(8, spec)]))
    return model


def drawn_batch(n: int, spec: ImageSpec = SAID) -> Batch:
    noise = Noise.keyed(3, 0, range(n))
    x = noise.uniform(*spec.shape) * 2 - 1
    text = text_condition(spec, WORDS[:n]).text if spec.text else None
    return Batch(x, Condition(noise.integers(2) if spec.labels else None, text))


WORDS = ["a cat", "two dogs", "a red car", "a cup", "a green tree", "the sun", "a bus", "a moon"]


# --- kernels chosen from a bank -----------------------------------------------------------------


@pytest.mark.parametrize("doubling", [False, True])
def test_a_bank_of_one_kernel_equals_a_modulated_convolution(doubling: bool):
    torch.manual_seed(0)
    plain = ModulatedConv(4, 3, 3, 5, doubling=doubling).double()
    adaptive = AdaptiveConv(4, 3, 3, 5, bank=1, doubling=doubling).double()
    adaptive.load_state_dict(
        plain.state_dict()
        | {"weight": plain.weight[None]}
        | {k: v for k, v in adaptive.state_dict().items() if k.startswith("choose")}
    )
    x, w = numbers(3, 4, 5, 7), numbers(3, 5, seed=1)
    torch.testing.assert_close(adaptive(x, w), plain(x, w), rtol=1e-12, atol=1e-12)


def test_kernels_are_mixed_then_modulated_then_normalised():
    """Equation 1, with the kernel of each picture written out."""
    torch.manual_seed(0)
    layer = AdaptiveConv(4, 3, 3, 5, bank=3).double()
    x, w = numbers(6, 4, 5, 7), 2 * numbers(6, 5, seed=1)
    output = layer(x, w)
    choice, s = layer.choose(w).softmax(1), layer.affine(w)
    assert choice.std(0).min() > 0.05, "styles must choose different kernels"
    for i in range(6):
        kernel = sum(a * k for a, k in zip(choice[i], layer.weight * layer.scale))
        kernel = kernel * s[i][None, :, None, None]
        kernel = kernel / (kernel.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        expected = F.conv2d(x[i : i + 1], kernel, padding=1)
        torch.testing.assert_close(output[i : i + 1], expected, rtol=1e-10, atol=1e-10)


def test_the_adaptive_convolution_equals_gigagan_pytorchs():
    """Values of `AdaptiveConv2DMod(3, 2, 3, num_conv_kernels=2)` of gigagan-pytorch 0.3.0 (MIT),
    which modulates with mod + 1. They are copied here because that package needs open_clip.
    """
    layer = AdaptiveConv(3, 2, 3, 1, bank=2).double()
    layer.scale = 1.0
    mod = torch.tensor([[0.3, -0.4, 1.2], [-2.0, 0.5, 0.1]], dtype=torch.float64)
    with torch.no_grad():
        weight = torch.arange(108, dtype=torch.float64).sin().view(2, 2, 3, 3, 3)
        layer.weight.copy_(weight)
    x = (0.7 * torch.arange(120, dtype=torch.float64)).cos().view(2, 3, 4, 5)
    logits = torch.tensor([[0.5, -0.5], [2.0, 1.0]], dtype=torch.float64)
    layer.affine, layer.choose = _Rows(mod + 1), _Rows(logits)
    output = layer(x, numbers(2, 1))
    torch.testing.assert_close(output[:, :, 1, 2], torch.tensor(PEER_AT, dtype=torch.float64))
    torch.testing.assert_close(output.sum((2, 3)), torch.tensor(PEER_SUMS, dtype=torch.float64))


class _Rows(nn.Module):
    """A module that returns fixed rows."""

    def __init__(self, rows: torch.Tensor) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        return self.rows


def test_equalised_layers_compute_the_same():
    torch.manual_seed(0)
    layer = Attention(8, token_dim=5)
    nn.init.normal_(layer.out.weight)
    x, tokens = numbers(2, 8, 3, 4).float(), numbers(2, 6, 5, seed=1).float()
    before = layer(x, tokens)
    equalise(layer)
    torch.testing.assert_close(layer(x, tokens), before)
    assert not any(isinstance(part, nn.Linear) for part in layer.modules())


# --- attention by distances ---------------------------------------------------------------------


def test_attention_with_distances_has_its_formula():
    torch.manual_seed(0)
    layer = L2Attention(6, style=4, head_dim=3).double()
    assert layer.heads == 2
    x, w = numbers(2, 5, 6), numbers(2, 4, seed=1)
    output = layer.gather(x, w)
    for b in range(2):
        rows = torch.cat([layer.query(x[b]), layer.style(w[b : b + 1])])
        gathered = []
        for n in range(5):
            for part in (slice(0, 3), slice(3, 6)):
                distances = (rows[n, part] - rows[:, part]).square().sum(1) / math.sqrt(8 * 3)
                weights = torch.exp(-distances) / torch.exp(-distances).sum()
                gathered.append(weights @ rows[:, part])
        expected = layer.out(torch.stack(gathered).view(5, 6))
        torch.testing.assert_close(output[b], expected, rtol=1e-10, atol=1e-10)


def test_the_output_of_attention_is_added_at_a_scale_of_0_3():
    layer, x = L2Attention(6).double(), numbers(2, 6, 2, 3)
    values = layer.gather(x.flatten(2).mT).mT.view_as(x)
    torch.testing.assert_close(layer(x), x + 0.3 * values)


def test_the_attention_equals_gigagan_pytorchs():
    """Values of `SelfAttention(4, dim_head=2, heads=2)` of gigagan-pytorch 0.3.0, without its norm;
    it divides by sqrt(d), and has separate values and a null key.
    """
    q, v = ((f * torch.arange(24, dtype=torch.float64)).sin().view(1, 2, 6, 2) for f in (0.9, 0.7))
    null = torch.tensor([[[0.3, -0.2]], [[-0.5, 0.8]]], dtype=torch.float64)[None]
    k, v = torch.cat([null, q], 2), torch.cat([2 * null, v], 2)
    output = l2_attention(8**0.25 * q, 8**0.25 * k, v)
    torch.testing.assert_close(output.sum(2)[0], torch.tensor(PEER_GATHERED, dtype=torch.float64))


def steepest(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> float:
    """Return the largest singular value of the Jacobian, computed with power iteration."""
    J = torch.autograd.functional.jacobian(function, x).view(x.numel(), x.numel())
    v = numbers(1, x.numel(), seed=5)[0]
    for _ in range(100):
        v = F.normalize(J.T @ (J @ v), dim=0)
    return (J @ v).norm().item()


def lipschitz(n: int) -> float:
    """Return the bound for u -> sum_m softmax_m(-|u_n - u_m|^2) u_m: sqrt(n) (4 phi^-1(n - 1) + 1),
    where phi(x) = x exp(x + 1) (theorem 3.2 of arXiv:2006.04710 with one head and W = 1).
    """
    from scipy.special import lambertw

    return math.sqrt(n) * (4 * float(lambertw((n - 1) / math.e).real) + 1)


def test_distances_make_attention_lipschitz_and_dot_products_do_not():
    n, d = 6, 3
    scale = (8 * d) ** -0.25

    def by_distance(u: torch.Tensor) -> torch.Tensor:
        q = u[None, None] / scale
        return scale * l2_attention(q, q, q)[0, 0]

    def by_product(u: torch.Tensor) -> torch.Tensor:
        return (u @ u.T).softmax(1) @ u

    start = numbers(n, d)
    near = torch.cat([start[:3], -start[:3]])  # points with equal dot products
    near[::3] = 0.0
    slopes = {
        f: [steepest(f, size * near) for size in (1, 4, 16, 64)] for f in (by_distance, by_product)
    }
    assert max(slopes[by_distance]) < lipschitz(n)
    assert slopes[by_product][-1] > 1000 * slopes[by_distance][-1]
    growth = slopes[by_product][-1] / slopes[by_product][-2]
    assert growth == pytest.approx(16, rel=0.1), "the slope must grow with the square of the inputs"
    for seed in range(5):
        for size in (0.3, 1.0, 3.0):
            assert steepest(by_distance, size * numbers(n, d, seed=seed)) < lipschitz(n)


# --- the critic ---------------------------------------------------------------------------------


def critic_of(spec: ImageSpec, scales: int = 3, **options: object) -> MultiScaleCritic:
    return model_of(spec, scales=scales, **options).critic


def test_scales_are_independent():
    """A scale's scores have a gradient only with respect to the picture at their own scale."""
    critic = critic_of(PLAIN)
    pictures = [x.requires_grad_() for x in picture_scales(drawn_batch(4, PLAIN).x, 3)]
    scores = critic(pictures, Condition())
    assert [len(scale) for scale in scores] == [2, 1, 1]  # scores at 8 and 4; at 4; at 4
    assert [score.shape[1] for score in scores[0]] == [64, 1]
    for i, j in itertools.product(range(3), range(3)):
        total = torch.cat([score.flatten() for score in scores[i]]).sum()
        (slope,) = torch.autograd.grad(total, pictures[j], retain_graph=True, allow_unused=True)
        moves = slope is not None and bool(slope.abs().max() > 0)
        assert moves == (i == j)


def test_a_scale_has_the_scores_of_a_critic_without_other_scales():
    critic = critic_of(LABELLED)
    x, c = drawn_batch(4, LABELLED)
    pictures = picture_scales(x, 3)
    scores = critic(pictures, c)
    blank = [torch.zeros_like(p) for p in pictures]
    for i in range(3):
        single = critic([*blank[:i], pictures[i], *blank[i + 1 :]], c)
        for score, expected in zip(scores[i], single[i]):
            torch.testing.assert_close(score, expected)


def test_pictures_are_compared_with_their_own_batch():
    critic, x = critic_of(PLAIN), drawn_batch(8, PLAIN).x
    joint = critic(picture_scales(x, 3), Condition(), batches=2)
    separate = [critic(picture_scales(part, 3), Condition()) for part in x.split(4)]
    for i, scale in enumerate(joint):
        for j, score in enumerate(scale):
            expected = torch.cat([first_or_second[i][j] for first_or_second in separate])
            torch.testing.assert_close(score, expected)


def test_r1_with_random_signs_is_the_mean_over_scores():
    """All patterns of signs together give exactly the mean of |d s_p / d x|^2."""
    weights = numbers(1, 4, 6)[0]

    def linear(pictures):
        return [[pictures[0].flatten(1) @ weights.T]]

    x = numbers(1, 1, 2, 3)
    expected = weights.square().sum(1).mean()
    n = 4000
    streams = Noise.keyed(0, 0, range(n))
    (result,) = steepness(linear, [x.expand(n, -1, -1, -1)], streams)
    assert result.item() == pytest.approx(expected.item(), rel=0.05)
    patterns = itertools.product((-1.0, 1.0), repeat=4)
    sums = [(torch.tensor(e).double() @ weights / 2).square().sum() for e in patterns]
    torch.testing.assert_close(torch.stack(sums).mean(), expected)


def test_r1_of_each_scale_trains_all_weights_behind_a_slope():
    critic = critic_of(PLAIN)
    real = picture_scales(drawn_batch(4, PLAIN).x, 3)
    slopes = steepness(lambda p: critic(p, Condition()), real, Noise.keyed(0, 0, range(4)))
    assert len(slopes) == 3 and min(slope.item() for slope in slopes) > 0
    h, w = 1e-3, critic.blocks[0].first.weight

    def steep() -> torch.Tensor:
        noise = Noise.keyed(0, 0, range(4))
        return torch.stack(steepness(lambda p: critic(p, Condition()), real, noise)).sum()

    critic.double()
    real = [x.double() for x in real]
    (slope,) = torch.autograd.grad(steep(), w)
    direction = slope / slope.norm()
    with torch.no_grad():
        w += h * direction
        up = steep()
        w -= 2 * h * direction
        down = steep()
    assert (up - down).item() / (2 * h) == pytest.approx(slope.norm().item(), rel=1e-2)


@pytest.mark.parametrize("step", [0, 1, 2])
def test_turns_are_critic_then_r1_if_due_then_generator(step: int):
    model = model_of(r1_every=2, gamma=3.0, matching=0.4)
    batch, noise = drawn_batch(4), Noise.keyed(0, step, range(4))
    turns = list(model.turns(batch, step, noise))
    assert [t.of for t in turns] == ["critic", *["critic"] * (step % 2 == 0), "generator"]
    critics = turns[0]
    total = critics.logs["critic.game.loss"] + 0.4 * critics.logs["matching"]
    torch.testing.assert_close(critics.loss.detach(), total)


def test_gamma_falls_with_the_number_of_pixels():
    model = model_of(gamma=3.0, scales=2)
    real, noise = picture_scales(drawn_batch(4).x, 2), Noise.keyed(0, 0, range(4))
    c = drawn_batch(4).c
    slopes = steepness(lambda p: model.critic(p, c), real, noise)
    result = penalty(model.critic, real, c, 3.0, Noise.keyed(0, 0, range(4)))
    expected = (3 / 2 * slopes[0] + 3 / 8 * slopes[1]) / 2
    assert result.item() == pytest.approx(expected.item(), rel=1e-4)


# --- matching -----------------------------------------------------------------------------------


def test_captions_are_exchanged_with_different_ones():
    text = text_condition(SAID, ["a cat", "a cat", "", "a dog"]).text
    other, differs = other_rows(Condition(text=text))
    assert differs.tolist() == [False, False, True, True]
    assert torch.equal(other.text, text[[1, 2, 3, 0]])
    _, differs = other_rows(Condition(label=torch.tensor([0, 0, 1, -1])))
    assert differs.tolist() == [False, True, False, True]
    assert other_rows(Condition(label=torch.tensor([1])))[1].tolist() == [False]


def test_the_matching_loss_uses_only_exchanged_captions():
    scores = [[numbers(4, 3), numbers(4, 1, seed=1)], [numbers(4, 2, seed=2)]]
    differs = torch.tensor([True, False, True, False])
    maps = [score for scale in scores for score in scale]
    expected = torch.stack([F.softplus(score[[0, 2]]).mean() for score in maps]).mean()
    torch.testing.assert_close(matching_loss(scores, differs), expected)
    assert matching_loss(scores, torch.zeros(4, dtype=torch.bool)) == 0


def test_the_matching_loss_separates_shuffled_captions():
    """Generated pictures equal the real ones, so only matching can be learned."""
    torch.manual_seed(0)
    spec = ImageSpec(1, 8, 8, labels=("dark", "light"))
    gaps = {}
    for weight in (0.0, 1.0):
        torch.manual_seed(1)
        critic = MultiScaleCritic(spec, [8, 8], scales=1, attention=0, condition=8)
        adam = torch.optim.Adam(critic.parameters(), lr=1e-2, betas=(0.0, 0.99))
        c = Condition(label=torch.arange(16) % 2)
        for step in range(40):
            grain = Noise.keyed(0, step, range(16)).normal(1, 8, 8)
            x = (c.label[:, None, None, None] - 0.5) + 0.1 * grain
            loss, mismatch, *_ = critic_loss(critic, [x], [x], c, weight)
            adam.zero_grad()
            (loss + weight * mismatch).backward()
            adam.step()
        right = critic([x], c)[0][0].mean()
        wrong = critic([x], replace(c, label=1 - c.label))[0][0].mean()
        gaps[weight] = (right - wrong).item()
    assert gaps[1.0] > 2
    assert gaps[1.0] > 10 * abs(gaps[0.0])


def test_critic_losses_are_means_over_scales_and_sizes():
    critic = critic_of(SAID)
    (x, c), fake = drawn_batch(4), numbers(4, 3, 16, 16).float().clamp(-1, 1)
    loss, mismatch, *_ = critic_loss(critic, picture_scales(x, 3), picture_scales(fake, 3), c, 1.0)
    real_scores, fake_scores = critic(picture_scales(x, 3), c), critic(picture_scales(fake, 3), c)
    losses = [
        discriminate(a, b)
        for on_real, on_fake in zip(real_scores, fake_scores)
        for a, b in zip(on_real, on_fake)
    ]
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    other = c.rows(torch.tensor([1, 2, 3, 0]))
    expected = sum(
        mean_loss(lambda score: F.softplus(score).mean(), critic(picture_scales(p, 3), other))
        for p in (x, fake)
    )
    torch.testing.assert_close(mismatch, expected)


# --- styles and words ---------------------------------------------------------------------------


def test_at_truncation_0_all_seeds_have_the_mean_style():
    model = model_of()
    for layer in model.synthesis.modules():
        if hasattr(layer, "noise_strength"):
            layer.noise_strength.data.zero_()
    cat, dogs = (text_condition(SAID, [text]) for text in WORDS[:2])
    x = model.sample(3, cat, psi=0.0)
    torch.testing.assert_close(x, x[:1].expand_as(x))
    assert not torch.allclose(model.sample(1, dogs, psi=0.0), x[:1])
    assert not torch.allclose(model.sample(2, cat)[1], x[1])


def test_mixing_with_itself_changes_nothing_and_layers_use_their_prompt():
    model = cached_model()
    c = text_condition(SAID, ["a cat"])
    original = model.sample(2, c, seed=[0, 1])
    assert torch.equal(model.mix([0, 1], slice(0, 3), c, seed=[0, 1]), original)
    assert torch.equal(model.mix([7, 8], slice(0, 0), c, seed=[0, 1]), original)
    dogs = text_condition(SAID, ["two dogs"])
    assert torch.equal(model.mix([0, 1], slice(0, 0), c, of=dogs, seed=[0, 1]), original)
    full_mix = model.mix([0, 1], slice(0, None), c, of=dogs, seed=[0, 1])
    assert torch.equal(full_mix, model.sample(2, dogs, seed=[0, 1]))
    fine, coarse = (
        model.mix([0, 1], layers, c, of=dogs, seed=[0, 1]) for layers in (slice(4, 6), slice(0, 2))
    )
    assert not torch.equal(fine, original) and not torch.equal(fine, full_mix)
    assert not torch.equal(coarse, fine)


def test_a_prompt_in_fine_layers_does_not_change_coarse_sizes():
    model = cached_model()
    cat, dogs = (text_condition(SAID, [text]).rows(torch.zeros(2).long()) for text in WORDS[:2])
    noise = Noise.sampling(0, 2)
    w = model.styles(cat, noise, 1.0, None)
    plain, mixed = (
        [*model.paint_sizes(w, cat, Noise.sampling(5, 2), other)]
        for other in (None, Other(noise, dogs, slice(4, 6)))
    )
    assert torch.equal(plain[0], mixed[0]) and torch.equal(plain[1], mixed[1])
    assert not torch.equal(plain[2], mixed[2])


def test_a_path_between_prompts_starts_and_ends_at_them():
    model = cached_model()
    cat, car = text_condition(SAID, ["a cat"]), text_condition(SAID, ["a red car"])
    path = model.prompt_path(cat, car, 5, seed=3)
    torch.testing.assert_close(path[:1], model.sample(1, cat, seed=3), atol=1e-5, rtol=0)
    torch.testing.assert_close(path[-1:], model.sample(1, car, seed=3), atol=1e-5, rtol=0)
    steps = path.diff(dim=0).abs().mean((1, 2, 3))
    assert steps.max() < 0.8 * (path[-1] - path[0]).abs().mean()
    with pytest.raises(LimnerError, match="two texts"):
        model.prompt_path(cat, Condition(), 3)


def test_codes_are_styles_relative_to_the_prompts_mean():
    model = cached_model()
    c = text_condition(SAID, ["a cat", "a red car"])
    with torch.no_grad():
        z = 0.7 * numbers(2, 6).float()
        w = model.centre(c, 2) + z @ model.w_axes
        expected = model.synthesis(w[:, None].expand(-1, 6, -1), words_of(model, c), None)
    torch.testing.assert_close(model.decode(z, c), expected)
    assert not torch.allclose(model.centre(c, 2)[0], model.centre(c, 2)[1])


def test_a_picture_of_a_prompt_has_a_code(monkeypatch):
    monkeypatch.setattr("limner.gans.style_model._SEARCH_STEPS", 2)
    model, c = cached_model(), text_condition(SAID, ["a cat", "a red car"])
    x = model.sample(2, c, seed=1)
    code = model.encode(x, c)
    assert code.shape == (2, 6) and code.isfinite().all()
    torch.testing.assert_close(
        model.encode(x[1:], c.rows(slice(1, 2))), code[1:], rtol=0, atol=0.01
    )


def words_of(model: GigaGAN, c: Condition) -> list[WordVectors]:
    signal = model.mapping.conditioner(c, len(c))
    return [WordVectors(signal.tokens, signal.mask)] * 3


def test_the_critic_gets_generated_pictures_at_all_scales():
    model = model_of(scales=2)
    c = drawn_batch(3).c
    shapes = [x.shape[2] for x in model.scales(c, Noise.keyed(0, 0, range(3)))]
    assert shapes == [16, 8]


# --- a judge ------------------------------------------------------------------------------------


def judged(**options: object) -> GigaGAN:
    judge = build("dual-encoder", SAID, channels=(8, 16), vector=8, words=8)
    return model_of(judge=judge, **options)


def test_the_judges_loss_is_the_cross_entropy_of_captions():
    model = judged()
    text = text_condition(SAID, WORDS[:3]).text
    x = drawn_batch(3).x
    judge = model.judge
    cosines = judge.cosines(judge.features(x), text)
    expected = F.cross_entropy(cosines / 0.07, torch.arange(3))
    torch.testing.assert_close(model.disagreement(x, text), expected)
    same = text[[0, 0, 0]]
    assert model.disagreement(x, same).item() == pytest.approx(math.log(3), rel=1e-4)


def test_the_judges_loss_ignores_pictures_without_caption():
    model, text = judged(), text_condition(SAID, WORDS[:4]).text
    text[2:] = 0
    x = drawn_batch(4).x.requires_grad_()
    loss = model.disagreement(x, text)
    torch.testing.assert_close(loss, model.disagreement(x[:2], text[:2]))
    (gradient,) = torch.autograd.grad(loss, x)
    assert [bool(row.any()) for row in gradient] == [True, True, False, False]
    assert float(model.disagreement(x, torch.zeros_like(text))) == 0


def test_the_judge_trains_the_generator_and_stays_frozen():
    model = judged()
    *_, last = model.turns(drawn_batch(3), 1, Noise.keyed(0, 1, range(3)))
    contrast = last.logs["contrast"] * model.contrast
    torch.testing.assert_close(last.loss.detach(), last.logs["generator.game.loss"] + contrast)
    trained = {id(p) for part in model.players().values() for p in part.parameters()}
    assert not trained & {id(p) for p in model.judge.parameters()}


def test_other_judges_are_refused():
    lenet = build("dual-encoder", replace(SAID, channels=1), channels=(8,), vector=8, words=8)
    with pytest.raises(LimnerError, match="other channels"):
        build("gigagan", SAID, judge=lenet, **SMALL)
    with pytest.raises(LimnerError, match=r"data\.text=true"):
        build("gigagan", replace(SAID, text=None), judge=judged().judge, **SMALL)
    with pytest.raises(LimnerError, match="do not compare pictures"):
        build("gigagan", SAID, judge=build("ddpm", SAID, channels=(8, 16)), **SMALL)


# --- half precision -----------------------------------------------------------------------------


def test_half_precision_has_finite_losses_and_gradients_at_any_score():
    """With equal pictures, queries are equal and scores are huge."""
    model = model_of(r1_every=1).train()
    with torch.no_grad():
        for head in model.critic.heads:
            head.plain.weight.mul_(1e4)
    _, c = drawn_batch(4)
    grey = Batch(torch.zeros(4, *SAID.shape), c)
    with torch.autocast("cpu", torch.bfloat16):
        turns = model.turns(grey, 0, Noise.keyed(0, 0, range(4)))
        for turn in turns:
            assert turn.loss.isfinite()
            parameters = list(model.players()[turn.of].parameters())
            slopes = torch.autograd.grad(
                turn.loss, parameters, allow_unused=True, retain_graph=True
            )
            assert all(slope.isfinite().all() for slope in slopes if slope is not None)
