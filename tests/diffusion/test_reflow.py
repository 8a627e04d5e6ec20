"""Reflow on Gaussian numbers with known flows."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, ImageSpec
from limner.contract.noise import Noise
from limner.contract.registry import build
from limner.diffusion.flow_matching import FlowMatching
from limner.diffusion.reflow import Reflow, straightness

SPEC = ImageSpec(1, 2, 2)
MEAN, DEVIATION = 0.2, 0.25
TINY: dict[str, Any] = {"channels": (4,), "attention": 0}


class First(nn.Module):
    """E[eps - x | x_t] for x ~ N(MEAN, DEVIATION^2) and independent noise: curved paths."""

    def forward(self, x_t: Tensor, label: Tensor, c: Condition) -> Tensor:
        t = (label.double() / 1000).view(-1, 1, 1, 1).to(x_t)
        variance = (1 - t) ** 2 * DEVIATION**2 + t**2
        slope = (t - (1 - t) * DEVIATION**2) / variance
        return slope * (x_t - (1 - t) * MEAN) - MEAN


class Second(nn.Module):
    """eps - x for the pairs x = MEAN + DEVIATION eps of the first flow: straight paths."""

    def forward(self, x_t: Tensor, label: Tensor, c: Condition) -> Tensor:
        t = (label.double() / 1000).view(-1, 1, 1, 1).to(x_t)
        eps = (x_t - (1 - t) * MEAN) / ((1 - t) * DEVIATION + t)
        return (1 - DEVIATION) * eps - MEAN


def flows(**options: Any) -> tuple[FlowMatching, Reflow]:
    teacher = FlowMatching(SPEC, **TINY)
    teacher.network = First()
    student = Reflow(SPEC, teacher, substeps=64, **options)
    student.network = Second()
    return teacher.eval(), student.eval()


def test_pairs_are_noise_and_its_end_on_the_flow():
    """In one dimension the flow is the monotone map between both distributions."""
    _, student = flows()
    eps = Noise.sampling(0, 50).normal(*SPEC.shape)
    x = student.teacher_pictures(eps, Condition(), Noise.sampling(1, 50))
    torch.testing.assert_close(x, MEAN + DEVIATION * eps, rtol=0, atol=2e-3)


def test_pairs_are_made_with_the_scale_of_guidance():
    spec = ImageSpec(1, 2, 2, labels=("a", "b"))

    class OfLabel(nn.Module):
        def forward(self, x_t: Tensor, label: Tensor, c: Condition) -> Tensor:
            assert c.label is not None
            return (c.label + 1.0).view(-1, 1, 1, 1).expand_as(x_t)

    teacher = FlowMatching(spec, **TINY)
    teacher.network = OfLabel()
    eps, c = torch.zeros(2, 1, 2, 2), Condition(label=torch.tensor([0, 1]))
    for scale in (1.0, 3.0):
        student = Reflow(spec, teacher, substeps=3, scale=scale)
        x = student.teacher_pictures(eps, c, Noise.sampling(0, 2))
        expected = -scale * torch.tensor([1.0, 2.0])  # without a label, the velocity is 0
        torch.testing.assert_close(x, expected.view(2, 1, 1, 1).expand_as(x))


@pytest.mark.parametrize("goal", ["straight", "one-step"])
def test_the_straight_flow_has_no_loss_on_the_pairs_and_needs_one_step(goal):
    teacher, student = flows(goal=goal)
    batch = Batch(torch.zeros(64, *SPEC.shape), Condition())
    (turn,) = student.turns(batch, 0, Noise.sampling(0, 64))
    assert float(turn.loss) < 1e-5
    student.network = teacher.network
    (turn,) = student.turns(batch, 0, Noise.sampling(0, 64))
    assert float(turn.loss) > 1e-2, "the curved flow must have a loss"
    student.network = Second()
    eps = Noise.sampling(3, 9).normal(*SPEC.shape)
    x = student.sample(9, seed=3, clip=False)
    torch.testing.assert_close(x, (MEAN + DEVIATION * eps).clamp(-1, 1), rtol=0, atol=1e-5)
    assert student.frame_count() == 2


def test_straightness_is_that_of_the_paths():
    """z_t = (1 - t) MEAN + sqrt((1 - t)^2 DEVIATION^2 + t^2) eps; the second term is curved."""
    teacher, student = flows()
    noise = Noise.sampling(0, 4000)
    assert float(straightness(student, Condition(), noise=noise).max()) < 1e-8
    estimate = float(straightness(teacher, Condition(), noise=Noise.sampling(0, 4000)).mean())
    t = (torch.arange(4000).double() + 0.5) / 4000
    slope = (t - (1 - t) * DEVIATION**2) / ((1 - t) ** 2 * DEVIATION**2 + t**2).sqrt()
    right = float(((1 - DEVIATION) - slope).square().mean())
    assert estimate == pytest.approx(right, rel=0.1)
    assert math.isclose(float(slope.mean()), 1 - DEVIATION, abs_tol=1e-3)


def test_it_starts_as_its_teacher_and_refuses_unsuitable_ones():
    teacher = FlowMatching(SPEC, **TINY)
    student = Reflow(SPEC, teacher)
    options = {"sampler": "euler", "steps": 3, "seed": 1}
    assert torch.equal(student.sample(2, **options), teacher.sample(2, **options))
    second = Reflow(SPEC, student, goal="one-step")
    assert torch.equal(second.sample(2, **options), teacher.sample(2, **options))
    assert student.parameter_count() == teacher.parameter_count()
    with pytest.raises(LimnerError, match="only flows along lines can be straightened, not ddpm"):
        Reflow(SPEC, build("ddpm", SPEC, **TINY))
    with pytest.raises(LimnerError, match="meanflow models paint in few steps already"):
        Reflow(SPEC, build("meanflow", SPEC, **TINY))
    with pytest.raises(LimnerError, match="trained on other data"):
        Reflow(ImageSpec(1, 4, 4), teacher)
