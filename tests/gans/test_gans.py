"""Adversarial training: objectives, penalties, calibration and remarks, against closed forms."""

import math
from pathlib import Path
from statistics import NormalDist

import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import nn

from limner import Condition, ImageSpec, Noise, build
from limner.contract.errors import LimnerError
from limner.contract.image import Batch
from limner.contract.noise import Purpose
from limner.data.png import save_png
from limner.evaluate.metrics.modes import modes
from limner.gans.adversarial_model import GAME_LOSS, INITIAL_PROBLEM_LINES, PROBLEM_LINES, variety
from limner.gans.dcgan import DCGAN
from limner.gans.losses import (
    OBJECTIVES,
    discriminate,
    gradient,
    gradient_penalty,
    minimax,
    non_saturating,
    r1,
    wasserstein,
)
from limner.runtime.log import read_log
from limner.training.estimate import count_flops
from limner.training.log_curves import _panels
from limner.training.loop import Loop, TrainOptions
from limner.training.recipe import Recipe
from limner.training.run import train

DATA, MODEL = NormalDist(0.0, 1.0), NormalDist(1.0, 1.5)


def drawn(normal: NormalDist, n: int = 20_000) -> torch.Tensor:
    """Return evenly spaced quantiles, over which means are accurate expectations."""
    return torch.tensor([normal.inv_cdf((i + 0.5) / n) for i in range(n)], dtype=torch.float64)


def log_density(normal: NormalDist, x: torch.Tensor) -> torch.Tensor:
    return torch.distributions.Normal(normal.mean, normal.stdev).log_prob(x)


def best_score(x: torch.Tensor) -> torch.Tensor:
    """Return the logit of D* = p / (p + q)."""
    return log_density(DATA, x) - log_density(MODEL, x)


def test_the_best_critic_is_p_over_p_plus_q():
    real, fake = drawn(DATA), drawn(MODEL)
    for bend in (torch.sin, torch.cos, torch.tanh):
        amount = torch.zeros((), dtype=torch.float64, requires_grad=True)
        scores = [best_score(x) + amount * bend(x) for x in (real, fake)]
        (slope,) = torch.autograd.grad(discriminate(*scores), amount)
        assert abs(slope) < 1e-4
        worse = [best_score(x) + 0.1 * bend(x) for x in (real, fake)]
        assert discriminate(*worse) > discriminate(best_score(real), best_score(fake))


def test_the_value_is_twice_the_jensen_shannon_divergence_minus_log_4():
    value = -discriminate(best_score(drawn(DATA)), best_score(drawn(MODEL)))
    x = torch.linspace(-15, 15, 60_001, dtype=torch.float64)
    p, q = log_density(DATA, x).exp(), log_density(MODEL, x).exp()
    middle = (p + q) / 2
    kl = [torch.trapezoid(torch.xlogy(a, a) - torch.xlogy(a, middle), x) for a in (p, q)]
    assert value.item() == pytest.approx(sum(kl).item() - math.log(4), abs=1e-4)


@pytest.mark.parametrize("score", [-12.0, -3.0, 0.0, 3.0])
def test_the_minimax_gradient_vanishes_with_a_certain_critic(score: float):
    s = torch.tensor([score], dtype=torch.float64, requires_grad=True)
    D = 1 / (1 + math.exp(-score))
    assert torch.autograd.grad(minimax(s), s)[0].item() == pytest.approx(-D)
    assert torch.autograd.grad(non_saturating(s), s)[0].item() == pytest.approx(D - 1)


def test_objectives_have_their_formulas():
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 1.0])
    values = {
        "minimax": (
            math.log1p(math.exp(-2)) / 2 + math.log1p(math.exp(-0.5)) / 2
            + math.log1p(math.exp(-3)) / 2 + math.log1p(math.e) / 2,
            -(math.log1p(math.exp(-3)) + math.log1p(math.e)) / 2,
        ),
        "least-squares": ((1 + 0.25) / 4 + (9 + 1) / 4, (16 + 0) / 4),
        "hinge": (0.25 + 1.0, 1.0),
    }  # fmt: skip
    for name, (critic, generator) in values.items():
        assert OBJECTIVES[name].critic(real, fake).item() == pytest.approx(critic), name
        assert OBJECTIVES[name].generator(fake).item() == pytest.approx(generator), name
    assert wasserstein(real, fake).item() == pytest.approx(-1 - 1.25)
    assert OBJECTIVES["non-saturating"].critic is OBJECTIVES["minimax"].critic
    expected = (math.log1p(math.exp(3)) + math.log1p(math.exp(-1))) / 2
    assert non_saturating(fake).item() == pytest.approx(expected)


def pictures(n: int, seed: int = 0) -> torch.Tensor:
    return Noise.keyed(seed, 0, range(n)).normal(2, 3, 3, dtype=torch.float64)


@pytest.mark.parametrize("length", [0.4, 1.3])
def test_the_penalty_of_a_linear_critic_has_a_closed_form(length: float):
    """It is two-sided: slopes below 1 are penalised, too."""
    w = (length * pictures(1, 7) / pictures(1, 7).norm()).requires_grad_()
    norm = torch.linalg.vector_norm(w)

    def critic(x: torch.Tensor) -> torch.Tensor:
        return (w * x).sum((1, 2, 3)) + 5

    mix = Noise.keyed(1, 0, range(6)).uniform(dtype=torch.float64)
    penalty = gradient_penalty(critic, pictures(6), pictures(6, 1), mix)
    assert penalty.item() == pytest.approx((norm.item() - 1) ** 2, rel=1e-6)
    (slope,) = torch.autograd.grad(penalty, w)
    torch.testing.assert_close(slope, (2 * (norm - 1) * w / norm).detach(), rtol=1e-5, atol=1e-8)
    assert r1(critic, pictures(6)).item() == pytest.approx(norm.item() ** 2, rel=1e-6)


def test_the_penalty_is_taken_between_real_and_generated_pictures():
    A = Noise.keyed(2, 0, range(18)).normal(18, dtype=torch.float64)
    A = A + A.T

    def critic(x: torch.Tensor) -> torch.Tensor:
        return 0.5 * torch.einsum("bi,ij,bj->b", x.flatten(1), A, x.flatten(1))

    real, fake = pictures(5), pictures(5, 1)
    torch.testing.assert_close(gradient(critic, real).flatten(1), real.flatten(1) @ A)
    mix = torch.tensor([0.0, 1.0, 0.25, 0.5, 0.9], dtype=torch.float64)
    points = mix[:, None] * real.flatten(1) + (1 - mix)[:, None] * fake.flatten(1)
    expected = ((points @ A).norm(dim=1) - 1).square().mean()
    result = gradient_penalty(critic, real, fake, mix)
    assert result.item() == pytest.approx(expected.item(), rel=1e-6)
    assert r1(critic, real).item() == pytest.approx(
        (real.flatten(1) @ A).square().sum(1).mean().item(), rel=1e-6
    )


@pytest.mark.parametrize("penalised", ["penalty", "r1"])
def test_penalties_are_differentiated_through_the_gradient(penalised: str):
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Flatten(), nn.Linear(18, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    real, fake, mix = pictures(4), pictures(4, 1), torch.full((4,), 0.3, dtype=torch.float64)

    def value() -> torch.Tensor:
        return r1(critic, real) if penalised == "r1" else gradient_penalty(critic, real, fake, mix)

    weight = critic[1].weight
    (slope,) = torch.autograd.grad(value(), weight)
    step = 1e-5
    for place in ((0, 0), (3, 11)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[place] += sign * step
            values.append(value().item())
            with torch.no_grad():
                weight[place] -= sign * step
        numeric = (values[0] - values[1]) / (2 * step)
        assert slope[place].item() == pytest.approx(numeric, rel=1e-5, abs=1e-8)


def test_a_penalised_critic_estimates_the_wasserstein_distance():
    torch.manual_seed(0)
    real = torch.tensor([-1.0, -0.5, 0.0, 2.0]).view(-1, 1, 1, 1)
    fake = torch.tensor([0.5, 1.5, 2.5, 3.0]).view(-1, 1, 1, 1)
    critic = nn.Sequential(nn.Flatten(), nn.Linear(1, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1))
    adam = torch.optim.Adam(critic.parameters(), lr=5e-3, betas=(0.0, 0.9))
    for step in range(500):
        mix = Noise.keyed(0, step, range(16)).uniform()
        pairs = real.repeat_interleave(4, 0), fake.repeat(4, 1, 1, 1)
        loss = wasserstein(critic(real), critic(fake))
        adam.zero_grad()
        (loss + 10 * gradient_penalty(critic, *pairs, mix)).backward()
        adam.step()
    estimate = -wasserstein(critic(real), critic(fake)).item()
    distance = wasserstein_distance(real.flatten().numpy(), fake.flatten().numpy())
    assert 0.8 * distance < estimate < 1.15 * distance


def test_a_regularised_game_finds_all_modes_of_a_ring():
    """Eight Gaussians of deviation 0.05; a point within three deviations belongs to a mode."""
    torch.manual_seed(0)
    angle = torch.arange(8) * math.pi / 4
    corners = torch.stack([angle.cos(), angle.sin()], 1)
    hidden = [nn.Linear(64, 64), nn.LeakyReLU(0.2)]
    generator = nn.Sequential(
        nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)
    )
    critic = nn.Sequential(
        nn.Flatten(), nn.Linear(2, 64), nn.LeakyReLU(0.2), *hidden, nn.Linear(64, 1)
    )
    adams = [torch.optim.Adam(p.parameters(), 2e-3, (0.0, 0.99)) for p in (generator, critic)]

    def paint(noise: Noise) -> torch.Tensor:
        return generator(noise.normal(4)).view(-1, 2, 1, 1)

    for step in range(600):
        noise = Noise.keyed(0, step, range(64))
        real = (corners[noise.integers(8)] + 0.05 * noise.normal(2)).view(-1, 2, 1, 1)
        on_fake = critic(paint(noise).detach())
        adams[1].zero_grad()
        (discriminate(critic(real), on_fake) + 0.05 * r1(critic, real)).backward()
        adams[1].step()
        adams[0].zero_grad()
        non_saturating(critic(paint(noise))).backward()
        adams[0].step()
    with torch.no_grad():
        distances = torch.cdist(paint(Noise.keyed(1, 0, range(1000))).flatten(1), corners)
    is_near = distances.amin(1) < 0.15
    assert modes(distances.argmin(1)[is_near], 8).covered_count == 8
    assert is_near.float().mean() > 0.2


SPEC = ImageSpec(1, 9, 12, labels=("a", "b"), frequencies=(0.5, 0.5))
SMALL = {"latent": 4, "channels": 4}


def drawn_batch(n: int) -> Batch:
    noise = Noise.keyed(3, 0, range(n))
    return Batch(noise.uniform(1, 9, 12) * 2 - 1, Condition(label=noise.integers(2)))


def model_of(name: str, **options: object) -> DCGAN:
    torch.manual_seed(0)
    model = build(name, SPEC, **SMALL, **options)
    assert isinstance(model, DCGAN)
    return model


@pytest.mark.parametrize("name", ["gan", "wgan", "wgan-gp"])
def test_the_critic_is_trained_k_times_on_fresh_pictures(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    model = model_of(name, critic_steps=3)
    assert model.batches_per_round == 3
    inputs: list[torch.Tensor] = []
    forward = model.critic.forward

    def watched(x: torch.Tensor, c: Condition) -> torch.Tensor:
        inputs.extend(x.detach().split(4))  # real and generated pictures may come in one batch
        return forward(x, c)

    monkeypatch.setattr(model.critic, "forward", watched)
    batch = drawn_batch(12)
    turns = list(model.turns(batch, 0, Noise.keyed(0, 0, range(12))))
    assert [turn.of for turn in turns] == ["critic"] * 3 + ["generator"]
    for i in range(3):
        assert any(torch.equal(x, batch.x[4 * i : 4 * i + 4]) for x in inputs)
    real = {x[0].sum().item() for x in batch.x.split(4)}
    paintings = [x for x in inputs if x[0].sum().item() not in real]
    assert len({x.sum().item() for x in paintings}) == len(paintings)  # no latent z is used twice


def test_weights_are_clipped_after_each_update():
    model = model_of("wgan", clip=0.003, critic_steps=2)
    players = []
    for turn in model.turns(drawn_batch(8), 0, Noise.keyed(0, 0, range(8))):
        if players:
            largest = max(w.abs().max().item() for w in model.critic.parameters())
            assert largest == pytest.approx(0.003)
        players.append(turn.of)
        with torch.no_grad():
            for w in model.critic.parameters():
                w.add_(1.0)
    assert players == ["critic", "critic", "generator"]


def test_the_logged_distance_is_the_critics_difference_of_means():
    model = model_of("wgan-gp", critic_steps=1)
    batch, noise = drawn_batch(6), Noise.keyed(0, 0, range(6))
    turn = next(iter(model.turns(batch, 0, noise)))
    with torch.no_grad():
        fake = model.paint(Noise.keyed(0, 0, range(6)), batch.c)
        expected = model.critic(batch.x, batch.c).mean() - model.critic(fake, batch.c).mean()
    assert turn.logs["wasserstein"].item() == pytest.approx(expected.item(), abs=1e-6)
    penalised = -turn.logs["wasserstein"] + 10 * turn.logs["penalty"]
    assert turn.loss.item() == pytest.approx(penalised.item(), rel=1e-5)


def test_the_penalty_of_a_gan_is_that_of_real_and_of_generated_pictures():
    model, batch = model_of("gan", norm="none", gamma=3.0, critic_steps=1), drawn_batch(6)
    turn = next(iter(model.turns(batch, 0, Noise.keyed(0, 0, range(6)))))
    fake = model.paint(Noise.keyed(0, 0, range(6)), batch.c).detach()
    penalties = [r1(lambda x: model.critic(x, batch.c), x) for x in (batch.x, fake)]
    expected = turn.logs[GAME_LOSS] + 3.0 / 2 * (penalties[0] + penalties[1])
    torch.testing.assert_close(turn.loss, expected)


def test_operations_of_a_penalty_can_be_counted():
    """Counters add hooks to the inputs of networks, which fails for leaf tensors."""
    model = model_of("wgan-gp", critic_steps=1)
    with count_flops() as counter:
        list(model.turns(drawn_batch(4), 0, Noise.keyed(0, 0, range(4))))
    assert counter.get_total_flops() > 0


def test_without_batch_norm_a_score_depends_only_on_its_picture():
    batch = drawn_batch(6)
    for norm in ("layer", "none"):
        model = model_of("wgan-gp", norm=norm).train()
        scores, single = model.critic(*batch), model.critic(*batch.rows(slice(2, 3)))
        torch.testing.assert_close(scores[2:3], single)
    with pytest.raises(LimnerError, match="norm"):
        model_of("wgan-gp", norm="batch")


def test_a_condition_enters_dcgans_critic_as_a_scaled_projection():
    """s(x, c) - s(x) = v(c) . h(x) / sqrt(d)."""
    spec = ImageSpec(1, 8, 8, labels=("a", "b"))
    critic = build("gan", spec, **SMALL, norm="none").critic
    x, c = torch.randn(3, 1, 8, 8), Condition(label=torch.tensor([0, 1, 1]))
    h = critic.layers(x).movedim(1, -1).flatten(1)
    v = critic.conditioner.label(c.label + 1)
    expected = critic.last(h)[:, 0] + (v * h).sum(1) / math.sqrt(h.shape[1])
    torch.testing.assert_close(critic(x, c), expected)


@pytest.mark.parametrize("name", ["gan", "wgan-gp", "stylegan2", "biggan"])
def test_critics_use_the_channels_last_layout(name: str):
    """This holds for every input, since mixed layouts make a step a fifth slower."""
    model = build(name, ImageSpec(1, 16, 16), **SMALL)
    # The loop sets the layout of the weights.
    Loop(model, lambda first, n: drawn_batch(n), TrainOptions())
    layouts: list[bool] = []

    def check_layout(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        layouts.extend(
            x.is_contiguous(memory_format=torch.channels_last)
            for x in inputs
            if isinstance(x, torch.Tensor) and x.ndim == 4 and min(x.shape[1:]) > 1
        )

    critic = model.players()["critic"]
    for layer in critic.modules():
        layer.register_forward_pre_hook(check_layout)
    critic(torch.zeros(4, 1, 16, 16), Condition())
    assert len(layouts) > 2 and all(layouts)


@pytest.mark.parametrize("size", [(8, 8), (9, 12), (28, 28), (31, 17), (64, 64)])
def test_pictures_of_any_size_are_generated(size: tuple[int, int]):
    model = build("gan", ImageSpec(3, *size), **SMALL)
    assert isinstance(model, DCGAN)
    assert model.sample(2).shape == (2, 3, *size)
    assert model.critic(model.sample(2), Condition()).shape == (2,)


def test_too_small_pictures_are_refused():
    with pytest.raises(LimnerError, match="at least 8 x 8"):
        build("gan", ImageSpec(3, 7, 32))


def test_calibration_sets_the_statistics_of_generated_pictures():
    model = model_of("gan")
    batches = [drawn_batch(16) for _ in range(4)]
    with torch.no_grad():
        for norm in (m for m in model.generator.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.running_mean.fill_(7.0)  # pyright: ignore
    model.eval().calibrate(iter(batches))
    norm = next(m for m in model.generator.modules() if isinstance(m, nn.BatchNorm2d))
    assert norm.momentum == 0.1 and not norm.training
    means = []
    for i, (_, c) in enumerate(batches):
        numbers = range(16 * i, 16 * (i + 1))
        z = Noise.keyed(0, Purpose.CALIBRATION, numbers).normal(4)
        label_vector = model.generator.conditioner(c, 16).vector
        h = model.generator.first(torch.cat([z, label_vector], 1))
        means.append(h.unflatten(1, (-1, norm.num_features)).mean((0, 1)))
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0), rtol=1e-4, atol=1e-6)


def line(**numbers: float | None) -> dict[str, float | None]:
    return {"D(real)": 0.99, "D(fake)": 0.01, "critic.loss": 0.5, "variety": 0.9} | numbers


def test_a_remark_reports_once_that_the_critic_has_won():
    model = model_of("gan")
    low_loss = {"critic.loss": 0.02}
    rows = [line() for _ in range(3)] + [line(**low_loss) for _ in range(PROBLEM_LINES - 1)]
    assert model.remarks(rows) == []
    (remark,) = model.remarks([*rows, line(**low_loss)])
    assert "the critic has won (D(real) = 0.99, D(fake) = 0.01)" in remark
    assert model.remarks([*rows, line(**low_loss), line(**low_loss)]) == []
    assert model.remarks([line(**low_loss)] * PROBLEM_LINES) != []  # holds from the first line on
    # A negative loss is a distance, not a cross-entropy.
    assert model.remarks([*rows, line(**{"critic.loss": -0.02})]) == []
    assert model.remarks([*rows, line(**{"critic.loss": None})]) == []
    game_line = line(**{"critic.game.loss": 0.02})  # the critic's loss includes the penalty
    assert model.remarks([line()] + [game_line] * PROBLEM_LINES) != []
    assert model.remarks([line(**low_loss | {"critic.game.loss": 0.5})] * PROBLEM_LINES) == []
    hinge = {"s(real)": 1.25, "s(fake)": -1.5, "critic.loss": 0.0}
    (remark,) = model.remarks([hinge] * PROBLEM_LINES)
    assert "the critic has won (s(real) = 1.2, s(fake) = -1.5)" in remark
    assert model.remarks([{"wasserstein": 0.01, "critic.loss": 0.01}] * PROBLEM_LINES) == []


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_d_is_logged_only_for_objectives_with_probabilities(
    objective: str, monkeypatch: pytest.MonkeyPatch
):
    model = model_of("gan", objective=objective)
    scores = iter([torch.tensor([2.0, 0.0]), torch.tensor([-1.0, 0.5])])
    monkeypatch.setattr(model.critic, "forward", lambda x, c: next(scores).requires_grad_())
    logs = next(iter(model.turns(drawn_batch(2), 0, Noise.keyed(0, 0, range(2))))).logs
    values = {name: value.item() for name, value in logs.items() if name != "variety"}
    D = [(1 / (1 + math.exp(-2)) + 0.5) / 2, (1 / (1 + math.e) + 1 / (1 + math.exp(-0.5))) / 2]
    expected = {"s(real)": 1.0, "s(fake)": -0.25}
    if objective in ("minimax", "non-saturating"):
        expected = dict(zip(("D(real)", "D(fake)"), D))
    assert values == pytest.approx(expected)


def test_the_wasserstein_objective_requires_a_lipschitz_critic():
    with pytest.raises(LimnerError, match=r"model\.objective"):
        model_of("gan", objective="wasserstein")


def test_a_remark_reports_mode_collapse():
    model = model_of("wgan-gp")
    low_variety = line(variety=0.1)
    (remark,) = model.remarks([line(), *[low_variety] * PROBLEM_LINES])
    assert "between generated pictures is only 0.1 times that between real ones" in remark
    assert model.remarks([line(), *[low_variety] * (PROBLEM_LINES - 1)]) == []
    assert (
        model.remarks([low_variety] * PROBLEM_LINES) == []
    )  # the generator has not started to paint
    assert model.remarks([low_variety] * INITIAL_PROBLEM_LINES) != []
    assert model.remarks([{"wasserstein": 3.0}] * PROBLEM_LINES) == []


def test_a_remark_reports_lost_modes():
    model = model_of("wgan-gp")
    key = "evaluate.modes (lenet)"
    rows = [line(**{key: count}) for count in (90.0, 400.0, 201.0)]
    assert model.remarks(rows) == []
    rows.append(line(**{key: 199.0}))
    (remark,) = model.remarks(rows)
    assert "a classifier finds 199 of them, and found 400 before" in remark
    assert "try fewer train.steps, or a smaller train.lr" in remark
    assert model.remarks([*rows, line()]) == []  # nothing was counted at this line
    assert model.remarks([*rows, line(**{key: 150.0})]) == []  # it was reported before


def test_coverage_is_logged_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The recipe's [evaluate] section requests it; it is drawn next to the players' numbers."""
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "pics").mkdir()
    for i, x in enumerate(torch.rand(12, 1, 8, 8).mul(255).to(torch.uint8)):
        save_png(x, tmp_path / "pics" / f"{i}.png")
    options = ["train.steps=4", "train.batch=4", "train.log_every=2", "train.samples=0"]
    options += ["model.channels=4", "evaluate.every=8", "evaluate.n=12", "evaluate.metrics=modes"]
    train(Recipe.of("gan", f"folder:{tmp_path / 'pics'}", options), tmp_path / "run")
    rows = read_log(tmp_path / "run")
    assert [row["images"] for row in rows if 1 <= row["evaluate.modes (lenet)"] <= 10] == [8, 16]
    assert {"D(real)", "D(fake)", "critic.norm", "generator.norm", "variety"} <= rows[0].keys()
    panels = _panels(rows)
    assert panels["modes (lenet)"] == ["evaluate.modes (lenet)"]
    assert (tmp_path / "run" / "curves.png").stat().st_size > 0


def test_variety_is_the_ratio_of_median_nearest_distances():
    # Distances 1, 1, 2, 4 have the median 1.
    real = torch.tensor([0.0, 1.0, 3.0, 7.0]).view(4, 1, 1, 1)
    assert variety(real, 3 * real).item() == pytest.approx(3.0)
    few = torch.tensor([0.0, 5.0, 0.0, 5.0]).view(4, 1, 1, 1)
    assert variety(real, few).item() == 0
    assert variety(real[:1], few[:1]).item() == 1


@pytest.mark.parametrize("name", ["gan", "wgan", "wgan-gp", "stylegan2"])
def test_all_gans_log_the_variety_of_their_pictures(name: str):
    torch.manual_seed(0)
    model = build(name, ImageSpec(1, 8, 8), latent=4, channels=4)
    batch = Batch(Noise.keyed(3, 0, range(10)).uniform(1, 8, 8) * 2 - 1, Condition())
    turn = next(iter(model.turns(batch, 0, Noise.keyed(0, 0, range(10)))))
    assert 0 < turn.logs["variety"] < 2
    assert model.remarks([{"variety": 0.01}] * INITIAL_PROBLEM_LINES)
