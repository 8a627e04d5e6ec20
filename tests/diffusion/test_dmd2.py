"""DMD2 on Gaussian numbers: its gradient in closed form, and its optimum."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limner.contract.errors import LimnerError
from limner.contract.image import Condition, ImageSpec
from limner.contract.noise import Noise
from limner.contract.registry import build
from limner.diffusion.dmd2 import DMD2
from limner.diffusion.flow_matching import FlowMatching
from limner.testing.cases import toy_data

SPEC = ImageSpec(1, 4, 4)
MEAN, DEVIATION = 0.2, 0.25
TINY: dict[str, Any] = {"channels": (4,), "attention": 0}


class GaussianVelocity(nn.Module):
    """The velocity if every number of a picture is N(mean, deviation^2)."""

    def __init__(self, mean: float, deviation: float) -> None:
        super().__init__()
        self.mean, self.deviation = mean, deviation

    def forward(self, x_t: Tensor, label: Tensor, c: Condition) -> Tensor:
        t = (label.double() / 1000).view(-1, 1, 1, 1).to(x_t)
        variance = (1 - t) ** 2 * self.deviation**2 + t**2
        slope = (t - (1 - t) * self.deviation**2) / variance
        return slope * (x_t - (1 - t) * self.mean) - self.mean


def distilled(**options: Any) -> DMD2:
    teacher = FlowMatching(SPEC, **TINY)
    teacher.network = GaussianVelocity(MEAN, DEVIATION)
    return DMD2(SPEC, teacher, channels=(4,), **options)


def test_the_gradient_is_that_of_the_kl_divergence_at_a_noise_level():
    """s_fake - s_real = -(x_t - m_q) / v_q + (x_t - m_p) / v_p, and D = (x_t + sigma^2 s) / alpha,
    so D_fake - D_real = sigma^2 / alpha (s_fake - s_real)."""
    model, n = distilled(), 5
    model.score.network = GaussianVelocity(-0.3, 0.5)
    x = Noise.sampling(1, n).normal(*SPEC.shape, dtype=torch.float64)
    t = torch.full((n,), 0.4, dtype=torch.float64)
    gradient = model.gradient(x, t, Condition(), Noise.sampling(0, n))
    x_t = 0.6 * x + 0.4 * Noise.sampling(0, n).normal(*SPEC.shape)
    s = []
    for mean, deviation in ((-0.3, 0.5), (MEAN, DEVIATION)):
        s.append(-(x_t - 0.6 * mean) / (0.36 * deviation**2 + 0.16))
    x_real = (x_t + 0.16 * s[1]) / 0.6
    size = (x - x_real).abs().mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(gradient, 0.16 / 0.6 * (s[0] - s[1]) / size)
    model.score.network = model.teacher.network
    assert not model.gradient(x, t, Condition(), Noise.sampling(0, n)).any()


def test_matching_converges_to_the_teachers_distribution():
    """Train x = a + b eps with its exact score from N(-0.5, 0.6^2) to N(0.2, 0.25^2)."""
    model, n = distilled(weight=0.0), 64
    parameters = torch.tensor([-0.5, 0.6], dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([parameters], lr=0.02)
    for step in range(200):
        noise = Noise.keyed(0, step, range(n))
        mean, deviation = parameters.tolist()
        model.score.network = GaussianVelocity(mean, deviation)
        x = parameters[0] + parameters[1] * noise.normal(*SPEC.shape, dtype=torch.float64)
        gradient = model.gradient(x.detach(), model.teacher.draw_times(noise), Condition(), noise)
        adam.zero_grad()
        (x * gradient).mean().backward()
        adam.step()
    assert parameters.tolist() == pytest.approx([MEAN, DEVIATION], abs=0.05)


def test_an_untrained_generator_is_one_step_of_the_teacher():
    teacher = FlowMatching(SPEC, **TINY)
    for p in teacher.parameters():
        p.data += 0.1 * torch.randn_like(p)
    model = DMD2(SPEC, teacher, channels=(4,))
    one_step = teacher.sample(3, seed=2, sampler="euler", steps=1, clip=False)
    torch.testing.assert_close(model.sample(3, seed=2), one_step, rtol=0, atol=1e-6)


def test_the_generator_has_a_turn_at_every_fifth_step():
    model = distilled()
    model.teacher.network = FlowMatching(SPEC, **TINY).network
    model = DMD2(SPEC, model.teacher, channels=(4,), every=5)
    batch = toy_data(SPEC, 0, 4)

    def players_of(step: int) -> list[str | None]:
        return [turn.of for turn in model.turns(batch, step, Noise.keyed(0, step, range(4)))]

    assert players_of(0) == players_of(5) == ["score", "critic", "generator"]
    assert players_of(1) == players_of(4) == ["score", "critic"]
    _, critic, _ = model.turns(batch, 0, Noise.keyed(0, 0, range(4)))
    assert float(critic.loss.detach()) == pytest.approx(2 * math.log(2), abs=0.2)


def test_unsuitable_teachers_are_refused():
    with pytest.raises(LimnerError, match="only denoising models can teach, not vae"):
        DMD2(SPEC, build("vae", SPEC))
    with pytest.raises(LimnerError, match="the teacher was trained on other data"):
        DMD2(ImageSpec(1, 8, 8), FlowMatching(SPEC, **TINY))
    with pytest.raises(LimnerError, match=r"with model\.prediction=v or x"):
        DMD2(SPEC, build("ddpm", SPEC, **TINY))
    with pytest.raises(LimnerError, match="not from pictures; give the flow-matching model"):
        DMD2(SPEC, build("reflow", SPEC, teacher=FlowMatching(SPEC, **TINY)))
    with pytest.raises(LimnerError, match=r"shortcut models .* give model\.rank=0"):
        DMD2(SPEC, build("shortcut", SPEC, **TINY), channels=(4,), rank=2)
    assert DMD2(SPEC, build("meanflow", SPEC, **TINY), channels=(4,), rank=2).players()


@pytest.mark.parametrize(("side", "patch"), [(5, 1), (6, 1), (8, 2)])
def test_the_critic_has_patches_if_the_size_allows_them(side, patch):
    spec = ImageSpec(1, side, side)
    channels = (4,) if side == 5 else (4, 4)
    model = DMD2(spec, FlowMatching(spec, patch=1, **TINY), channels=channels)
    assert model.critic.patch == patch
    for turn in model.turns(toy_data(spec, 0, 2), 0, Noise.keyed(0, 0, range(2))):
        assert turn.loss.isfinite()
    if side == 5:
        with pytest.raises(LimnerError, match=r"\(data\.size=6, fewer model\.channels\)"):
            DMD2(spec, FlowMatching(spec, patch=1, **TINY), channels=(4, 4))


def test_the_gradient_uses_no_dropout():
    teacher = FlowMatching(SPEC, dropout=0.5, **TINY)
    with torch.no_grad():
        for p in teacher.parameters():
            p += 0.3 * torch.randn_like(p)
    model = DMD2(SPEC, teacher.eval(), channels=(4,)).train()
    x, t = torch.randn(3, *SPEC.shape), torch.full((3,), 0.5, dtype=torch.float64)
    assert not model.gradient(x, t, Condition(), Noise.sampling(0, 3)).any(), (
        "the gradient must be 0 if the score equals the teacher"
    )
    assert model.score.network.training


def test_couples_batch_follows_the_teacher():
    teachers = (
        FlowMatching(SPEC, pairing=pairing, **TINY) for pairing in ("independent", "optimal")
    )
    assert [DMD2(SPEC, teacher, channels=(4,)).couples_batch for teacher in teachers] == [
        False,
        True,
    ]


def test_averages_inside_the_score_are_part_of_the_training_state():
    model = DMD2(SPEC, build("shortcut", SPEC, **TINY), channels=(4,))
    score_memory, memory = model.score.memory(), model.memory()
    assert score_memory and all(
        memory[f"score.{name}"] is buffer for name, buffer in score_memory.items()
    )
    assert not any(name.startswith("teacher.") for name in memory)
