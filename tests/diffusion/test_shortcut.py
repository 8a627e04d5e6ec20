"""Shortcut models on Gaussian numbers with known directions of every step."""

import math
from typing import Any

import pytest
import torch
from analytic import Gaussian
from torch import Tensor, nn

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, ImageSpec
from limner.contract.noise import Noise
from limner.contract.registry import build
from limner.diffusion.shortcut import Shortcut, dyadic, span
from limner.maths.schedules import LinearPath
from limner.testing.cases import toy_data

SPEC = ImageSpec(1, 2, 2)
LABELLED = ImageSpec(1, 4, 4, labels=("a", "b"))
DATA = Gaussian(LinearPath(), mean=0.2, variance=0.09)
TINY: dict[str, Any] = {"channels": (4,), "attention": 0}
STEPS = (1, 2, 3, 4, 7, 128)


class Exact(nn.Module):
    """The direction (x_t - x_{t-d}) / d of the probability flow; the velocity at d = 0."""

    shift = 0.0

    def forward(self, x_t: Tensor, label: Tensor, step_label: Tensor, c: Condition) -> Tensor:
        u = torch.empty_like(x_t)
        for i, (t, number) in enumerate(zip(label.double() / 1000, step_label.double())):
            d = 2 ** (number / 125 - 8) if number else torch.zeros(())
            s = t - d
            x = x_t[i : i + 1]
            if number:
                u[i] = (x - DATA.exact_flow(x, t, s))[0] / d
            else:
                u[i] = (x - DATA.expected(x, t, c))[0] / t
        return u + self.shift


def exact(spec: ImageSpec = SPEC, **options: Any) -> Shortcut:
    model = Shortcut(spec, **TINY, scale=1.0, **options)
    model.network = Exact()
    model.target = Mirror()
    return model.double().eval()


class Mirror(nn.Module):
    """A replacement of the average that calls the network itself."""

    def follow(self, network: nn.Module, step: int) -> None:
        pass

    def forward(self, network: nn.Module, *inputs: Any) -> Tensor:
        return network(*inputs)


@pytest.mark.parametrize("steps", STEPS)
def test_any_number_of_steps_ends_on_the_exact_flow(steps: int):
    eps = Noise.sampling(3, 9).normal(*SPEC.shape)
    x = exact().sample(9, seed=3, steps=steps, clip=False)
    ends = DATA.mean + math.sqrt(DATA.variance) * eps
    torch.testing.assert_close(x, ends.clamp(-1, 1), rtol=0, atol=1e-6)


def test_exact_directions_satisfy_self_consistency():
    model, n = exact(), 8
    t, d = torch.full((n,), 0.75).double(), torch.full((n,), 0.5).double()
    x_t = Noise.sampling(0, n).normal(*SPEC.shape, dtype=torch.float64)
    expected = model.two_steps(x_t, t, d, Condition())
    torch.testing.assert_close(model.direction(x_t, t, d, Condition()), expected)
    model.network.shift = 0.1
    difference = (
        model.direction(x_t, t, d, Condition()) - model.two_steps(x_t, t, d, Condition())
    ).abs()
    assert float(difference.max()) > 1e-3


def test_the_shortest_steps_learn_from_the_velocity():
    """Two Euler steps of 1/256 at d = 0 are nearly the step of 1/128."""
    model = exact()
    t, d = torch.full((4,), 0.5).double(), torch.full((4,), 1 / 128).double()
    x_t = Noise.sampling(0, 4).normal(*SPEC.shape, dtype=torch.float64)
    two, one = model.two_steps(x_t, t, d, Condition()), model.direction(x_t, t, d, Condition())
    assert 0 < float((two - one).abs().max()) < 2e-2


def test_exact_directions_have_a_consistency_loss_of_0():
    """The latter is E Var(eps - x | x_t) = E s^2 / (t^2 + (1 - t)^2 s^2)."""
    n = 4000
    eps = Noise.keyed(1, 0, torch.arange(n)).normal(*SPEC.shape, dtype=torch.float64)
    batch = Batch(DATA.mean + math.sqrt(DATA.variance) * eps, Condition())
    (turn,) = exact(share=0.5).turns(batch, 0, Noise.keyed(0, 0, torch.arange(n)))
    assert float(turn.logs["consistency"]) < 1e-4
    t = (torch.arange(10_000).double() + 0.5) / 10_000
    rest = DATA.variance / (t**2 + (1 - t) ** 2 * DATA.variance)
    assert float(turn.logs["velocity"]) == pytest.approx(float(rest.mean()), rel=0.05)
    assert float(turn.loss) == pytest.approx(float(rest.mean()) / 2, rel=0.1)


def test_a_loss_without_pictures_is_nan_and_not_0():
    batch = Batch(torch.zeros(4, *SPEC.shape), Condition())
    (turn,) = exact(share=0.0).turns(batch, 0, Noise.keyed(0, 0, range(4)))
    assert turn.logs["consistency"].isnan() and turn.logs["velocity"].isfinite()


def test_only_the_shortest_steps_are_guided():
    class OfLabel(nn.Module):
        def forward(self, x_t: Tensor, label: Tensor, step_label: Tensor, c: Condition) -> Tensor:
            assert c.label is not None
            return torch.ones_like(x_t) * (1.0 + c.label).view(-1, 1, 1, 1)

    model = Shortcut(LABELLED, **TINY, scale=3.0)
    model.network, model.target = OfLabel(), Mirror()
    c = Condition(label=torch.tensor([0, 1, 1, -1]))
    t, d = torch.ones(4).double(), torch.tensor([1 / 128, 1 / 128, 0.5, 1 / 128]).double()
    mean_direction = model.two_steps(torch.zeros(4, *LABELLED.shape), t, d, c).mean((1, 2, 3))
    assert mean_direction.tolist() == [3.0, 6.0, 2.0, 0.0], "0 + 3 (1 - 0), 0 + 3 (2 - 0), 2, 0"


def test_targets_use_an_average_that_is_updated_once_per_step():
    model = Shortcut(LABELLED, **TINY, decay=0.5)
    first = {k: v.clone() for k, v in model.memory().items()}
    batch, noise = toy_data(LABELLED, 0, 4), Noise.keyed(0, 0, range(4))
    next(model.turns(batch, 0, noise))
    before = [p.detach().clone() for p in model.network.parameters()]
    for p in model.network.parameters():
        p.data += 1
    for step in (1, 1, 1):
        next(model.turns(batch, step, noise))
    averages = list(model.target.buffers())[: len(before)]
    for old, average in zip(before, averages):
        torch.testing.assert_close(average, old + 1 - 1 / 11)  # beta = min(0.5, 1 / 11)
    assert first.keys() == model.memory().keys()
    assert not any(name.startswith("target") for name in model.state_dict())


def test_times_are_multiples_of_powers_of_one_half():
    assert dyadic(1).tolist() == [1, 0]
    assert dyadic(6).tolist() == [1, 0.75, 0.5, 0.375, 0.25, 0.125, 0]
    for steps in range(1, 129):
        times = dyadic(steps)
        d = times[:-1] - times[1:]
        assert len(d) == steps and float(times[-1]) == 0
        assert bool((d.log2() == d.log2().round()).all())
        assert bool((times[:-1] / d == (times[:-1] / d).round()).all())
    assert span(torch.tensor([0.0, 1 / 128, 1])).tolist() == [0, 125, 1000]


def test_a_sampler_ends_on_the_exact_flow_and_too_many_steps_are_refused():
    eps = Noise.sampling(3, 2).normal(*SPEC.shape)
    x = exact().sample(2, seed=3, sampler="heun", steps=40, clip=False)
    ends = DATA.mean + math.sqrt(DATA.variance) * eps
    torch.testing.assert_close(x, ends.clamp(-1, 1), rtol=0, atol=2e-3)
    with pytest.raises(LimnerError, match="trained for 1 to 128 steps; for more, name a sampler"):
        exact().sample(1, steps=129)
    with pytest.raises(LimnerError, match="has no option eta"):
        exact().sample(1, eta=0.5)


def test_an_empty_interval_is_refused():
    for name in ("shortcut", "meanflow"):
        with pytest.raises(LimnerError, match=r"interval=5,0\.3"):
            build(name, ImageSpec(1, 4, 4), channels=(8,)).sample(
                1, scale=2.0, interval=(5.0, 0.3), steps=2
            )


def test_targets_have_no_dropout():
    model = Shortcut(LABELLED, **TINY, dropout=0.5)
    with torch.no_grad():
        for w in model.target.buffers():
            if w.is_floating_point():
                w.add_(0.2 * torch.randn_like(w))
    x, c = Noise.sampling(0, 2).normal(*LABELLED.shape), Condition(label=torch.tensor([0, 1]))
    t, d = torch.ones(2).double(), torch.tensor([0.5, 1 / 128]).double()
    results = []
    for training in (True, False):
        model.train(training)
        results.append(model.two_steps(x, t, d, c))
        assert model.network.training == training
    assert torch.equal(*results)
