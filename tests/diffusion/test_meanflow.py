"""MeanFlow on Gaussian numbers with known average velocities."""

import math
from typing import Any

import pytest
import torch
from analytic import Gaussian
from torch import Tensor, nn

from limner.contract.image import Batch, Condition, ImageSpec
from limner.contract.noise import Noise
from limner.diffusion.meanflow import MeanFlow
from limner.maths.schedules import LinearPath
from limner.testing.cases import toy_data
from limner.training.loop import Loop, TrainOptions

SPEC = ImageSpec(1, 2, 2)
LABELLED = ImageSpec(1, 8, 8, labels=("a", "b"))
DATA = Gaussian(LinearPath(), mean=0.2, variance=0.09)
TINY: dict[str, Any] = {"channels": (8,)}


class Exact(nn.Module):
    """The average velocity (z_t - z_r) / (t - r) of the probability flow; its limit for r = t."""

    def forward(self, z: Tensor, label: Tensor, step: Tensor, c: Condition) -> Tensor:
        t, r = label, label - step
        # z_r = m_r + (s_r / s_t) (z - m_t); the quotient is written without dividing by t - r.
        s_t, s_r = (((1 - u) ** 2 * DATA.variance + u**2).sqrt().view(-1, 1, 1, 1) for u in (t, r))
        slope = ((1 + DATA.variance) * (t + r) - 2 * DATA.variance).view(-1, 1, 1, 1)
        return -DATA.mean + slope / (s_t + s_r) / s_t * (z - DATA.mean * (1 - t).view(-1, 1, 1, 1))


def exact() -> MeanFlow:
    model = MeanFlow(SPEC, channels=(4,), scale=1.0)
    model.network = Exact()
    return model.double().eval()


def random_points(n: int) -> tuple[Tensor, Tensor, Tensor]:
    noise = Noise.sampling(0, n)
    ends = torch.stack([noise.uniform(dtype=torch.float64) for _ in range(2)])
    return noise.normal(*SPEC.shape, dtype=torch.float64), ends.amin(0), ends.amax(0)


def test_the_average_velocity_ends_on_the_flow():
    z, r, t = random_points(12)
    u = exact().average_velocity(z, r, t, Condition())
    z_r = z - (t - r).view(-1, 1, 1, 1) * u
    for i in range(12):
        row = slice(i, i + 1)
        torch.testing.assert_close(z_r[row], DATA.exact_flow(z[row], t[i], r[i]))


def test_the_exact_average_velocity_satisfies_the_identity():
    """u = v - (t - r) du/dt, with v = E[eps - x | z_t]."""
    model, (z, r, t) = exact(), random_points(12)
    v = (z - DATA.expected(z, t, Condition())) / t.view(-1, 1, 1, 1)
    torch.testing.assert_close(model.average_velocity(z, t, t, Condition()), v)
    slope = model.derivative(z, v, r, t, Condition())
    stretch = (t - r).view(-1, 1, 1, 1)
    u = model.average_velocity(z, r, t, Condition())
    torch.testing.assert_close(v - stretch * slope, u)
    assert float((v - u).abs().max()) > 0.1
    h = 1e-6
    ahead = model.average_velocity(z + h * v, r, t + h, Condition())
    behind = model.average_velocity(z - h * v, r, t - h, Condition())
    torch.testing.assert_close(slope, (ahead - behind) / (2 * h), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 3])
def test_one_step_samples_it_exactly(steps: int):
    eps = Noise.sampling(3, 9).normal(*SPEC.shape)
    x = exact().sample(9, seed=3, steps=steps, clip=False)
    ends = DATA.mean + math.sqrt(DATA.variance) * eps
    torch.testing.assert_close(x, ends.clamp(-1, 1), rtol=0, atol=1e-6)
    x = exact().sample(9, seed=3, sampler="heun", steps=40, clip=False)
    torch.testing.assert_close(x, ends.clamp(-1, 1), rtol=0, atol=2e-3)


def test_the_training_target_is_unbiased():
    """E[v - (t - r) du/dt | z_t] = u, so u - target has mean 0 for the exact u. With p = 0, the
    gradient of the loss with respect to a constant added to u is 0, but not for another u."""
    n = 20_000
    streams = torch.arange(n)
    eps = Noise.keyed(1, 0, streams).normal(*SPEC.shape, dtype=torch.float64)
    batch = Batch(DATA.mean + math.sqrt(DATA.variance) * eps, Condition())
    model = MeanFlow(SPEC, channels=(4,), scale=1.0, share=1.0, power=0.0).double()
    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)

    class Shifted(Exact):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, z: Tensor, label: Tensor, step: Tensor, c: Condition) -> Tensor:
            return self.factor * super().forward(z, label, step, c) + shift

    slopes = []
    for factor in (1.0, 1.2):
        model.network = Shifted(factor)
        (turn,) = model.turns(batch, 0, Noise.keyed(0, 0, streams))
        (slope,) = torch.autograd.grad(turn.loss, shift)
        slopes.append(abs(float(slope)))
    assert slopes[0] < 0.03 < 0.05 < slopes[1]


def test_guidance_in_training_is_applied_to_the_velocity():
    class OfLabel(nn.Module):
        def forward(self, z: Tensor, label: Tensor, step: Tensor, c: Condition) -> Tensor:
            assert c.label is not None and not step.any()
            return (10.0 + c.label).view(-1, 1, 1, 1) * torch.ones_like(z)

    model = MeanFlow(LABELLED, **TINY, scale=3.0)
    model.network = OfLabel()
    c, t = Condition(label=torch.tensor([0, 1, -1])), torch.full((3,), 0.5).double()
    v = torch.ones(3, *LABELLED.shape)
    guided = model.guided_velocity(v, v, t, c).mean((1, 2, 3))
    assert guided.tolist() == [3 * 1 - 2 * 9, 3 * 1 - 2 * 9, 1.0]


def test_times_are_logit_normal_with_the_papers_moments():
    """The best times of table 1d have logits from N(-0.4, 1)."""
    n = 20_000
    logits = MeanFlow(SPEC, channels=(4,)).draw_times(Noise.keyed(0, 0, torch.arange(n))).logit()
    assert float(logits.mean()) == pytest.approx(-0.4, abs=4 / math.sqrt(n))
    assert float(logits.std()) == pytest.approx(1, abs=4 / math.sqrt(2 * n))


@pytest.mark.parametrize("unit", [1000.0, 2.0])
def test_times_are_scaled_with_the_unit(unit: float):
    class InUnits(Exact):
        def forward(self, z: Tensor, label: Tensor, step: Tensor, c: Condition) -> Tensor:
            return super().forward(z, label / unit, step / unit, c)

    model = MeanFlow(SPEC, channels=(4,), scale=1.0, unit=unit).double()
    model.network = InUnits()
    z, r, t = random_points(5)
    torch.testing.assert_close(
        model.average_velocity(z, r, t, Condition()), exact().average_velocity(z, r, t, Condition())
    )


def test_a_smaller_unit_has_a_smaller_derivative():
    """With the same weights, slower features of time change u less."""
    z, r, t = (value.float() for value in random_points(64))
    sizes = []
    for unit in (1000.0, 1.0):
        torch.manual_seed(0)
        model = MeanFlow(SPEC, **TINY, unit=unit).eval()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * torch.randn_like(p))
        slope = model.derivative(z, torch.zeros_like(z), r.double(), t.double(), Condition())
        sizes.append(float(slope.square().mean().sqrt()))
    assert 0 < 50 * sizes[1] < sizes[0]


def test_with_power_1_the_gradient_is_that_of_the_log_of_the_error():
    """With p = 1, the gradient is that of the mean of log(error + 1e-3). With r = t, the error is
    that of flow matching."""
    model = MeanFlow(LABELLED, **TINY, scale=1.0, share=0.0).double()
    batch = toy_data(LABELLED, 0, 6)
    batch = Batch(batch.x.double(), batch.c)
    (turn,) = model.turns(batch, 0, Noise.keyed(0, 0, range(6)))
    noise = Noise.keyed(0, 0, range(6))
    eps = noise.normal(*LABELLED.shape)
    error = (eps - batch.x).square().flatten(1).mean(1)  # a new network returns u = 0
    assert float(turn.loss.detach()) == pytest.approx(float((error / (error + 1e-3)).mean()))
    assert float(turn.logs["velocity"]) == pytest.approx(float(error.mean()))


def test_training_in_bfloat16_is_finite_and_changes_every_weight(monkeypatch):
    monkeypatch.setattr("limner.nn.precision.has_bfloat16", lambda device: True)
    model = MeanFlow(LABELLED, **TINY, share=0.5)
    options = TrainOptions(steps=12, batch=8, lr=1e-2, dtype="bfloat16")
    loop = Loop(model, lambda first, n: toy_data(LABELLED, first, n), options)
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(12):
        logs = loop.advance()
        assert not loop.unlucky
        assert all(math.isfinite(value) for value in logs.values())
    assert all(bool((p != old).any()) for p, old in zip(model.parameters(), before))


def test_targets_have_no_dropout():
    model = MeanFlow(LABELLED, **TINY, dropout=0.5)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    z, c = Noise.sampling(0, 2).normal(*LABELLED.shape), Condition(label=torch.tensor([0, 1]))
    r, t = torch.full((2,), 0.2).double(), torch.full((2,), 0.8).double()
    results = []
    for training in (True, False):
        model.train(training)
        results.append((model.derivative(z, z, r, t, c), model.guided_velocity(z, z, t, c)))
        assert model.network.training == training
    assert all(map(torch.equal, *results))


def test_the_same_layers_compute_whatever_the_times():
    """Else sharded processes, each with few pictures, would not gather the same blocks."""
    model, plain = (MeanFlow(LABELLED, share=share, **TINY) for share in (0.5, 0.0))
    plain.load_state_dict(model.state_dict())
    calls, kinds = list[int](), set[bool]()
    model.network.register_forward_hook(lambda *_: calls.append(0))
    for i in range(8):
        data, noises = toy_data(LABELLED, i, 1), [Noise.keyed(0, 0, [i]) for _ in range(2)]
        [turn], [plain_turn] = (m.turns(data, 0, n) for m, n in zip((model, plain), noises))
        kinds.add(is_apart := bool(turn.logs["velocity"].isnan()))
        assert len(calls) == 3 * (i + 1) and (is_apart or turn.loss.equal(plain_turn.loss))
    assert kinds == {True, False}
