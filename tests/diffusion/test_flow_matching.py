"""Flow matching: coupling, distributions of time, straight lines, and a tiny trained model."""

import math
from itertools import pairwise

import pytest
import torch
from analytic import Fixed, Plain, one_step, pictures
from scipy.optimize import linear_sum_assignment
from scipy.stats import kstest, norm
from toy import SPEC, Recorder, batches, colours_are_right, one_thread, trained

from limner.contract.image import Batch, Condition, ImageSpec, from_levels
from limner.contract.noise import Noise
from limner.diffusion.flow_matching import FlowMatching
from limner.maths.dequantisation import Uniform
from limner.maths.samplers.ancestral import Ancestral
from limner.maths.samplers.ddim import DDIM
from limner.maths.samplers.euler import Euler
from limner.maths.samplers.heun import Heun
from limner.maths.schedules import LinearPath
from limner.testing.cases import toy_data

GREY = ImageSpec(1, 4, 4)


def test_the_network_predicts_the_direction_of_the_line():
    """x_t = (1 - t) x + t eps and u_t = eps - x, so x_t - t u_t = x; the label is 1000 t."""
    n = 16
    model = FlowMatching(SPEC, channels=(4,), condition_dropout=0.0)
    model.network = Recorder()
    batch = batches(0, n)
    (turn,) = model.turns(batch, 0, Noise.keyed(3, 5, torch.arange(n)))
    ((x_t, label, c),) = model.network.calls
    noise = Noise.keyed(3, 5, torch.arange(n))
    t = model.draw_times(noise)
    eps = noise.normal(*SPEC.shape)
    T = t.view(-1, 1, 1, 1)
    torch.testing.assert_close(x_t, ((1 - T) * batch.x + T * eps).float(), rtol=0, atol=1e-6)
    u_t = eps - batch.x
    assert float(turn.loss) == pytest.approx(float(u_t.square().mean()), rel=1e-6)
    torch.testing.assert_close((x_t - T * u_t).float(), batch.x, rtol=0, atol=1e-6)
    torch.testing.assert_close(label, 1000 * t)
    assert torch.equal(c.label, batch.c.label)


@pytest.mark.parametrize(
    ("law", "distribution"),
    [("uniform", lambda t: t), ("logit-normal", lambda t: norm.cdf(torch.logit(torch.tensor(t))))],
)
def test_training_times_follow_their_distribution(law, distribution):
    model = FlowMatching(GREY, channels=(4,), time=law)
    t = model.draw_times(Noise.keyed(0, 0, torch.arange(10_000)))
    assert 0 < float(t.min()) < float(t.max()) < 1
    assert kstest(t.numpy(), distribution).pvalue > 1e-3


@pytest.mark.parametrize("law", ["uniform", "logit-normal"])
def test_a_shift_multiplies_the_noise_in_training_and_sampling(law):
    """Every ratio sigma / alpha = t / (1 - t) becomes three times as large."""
    usual, shifted = (FlowMatching(GREY, channels=(4,), time=law, shift=s) for s in (1, 3))
    noise = [Noise.keyed(0, 0, torch.arange(500)) for _ in range(2)]
    for before, after in [
        (usual.draw_times(noise[0]), shifted.draw_times(noise[1])),
        (usual.schedule.times(12)[1:], shifted.schedule.times(12)[1:]),
    ]:
        torch.testing.assert_close(after / (1 - after), 3 * before / (1 - before))
    assert shifted.schedule.times(12)[0] == 1


def test_a_shift_does_not_change_codes():
    """An inverse needs short steps near the picture, independent of the sampling steps."""
    torch.manual_seed(0)
    usual, shifted = (FlowMatching(GREY, channels=(4,), shift=s).eval() for s in (1, 3))
    shifted.load_state_dict(usual.state_dict())
    x = torch.rand(4, 1, 4, 4) * 2 - 1
    assert torch.equal(shifted.encode(x), usual.encode(x))


def test_straight_paths_are_exact_in_any_number_of_steps():
    """If all data are one picture m, F = (x_t - m) / t, and one step is exact."""
    m = torch.linspace(-0.9, 0.9, 16).view(1, 1, 4, 4)

    class Straight(torch.nn.Module):
        def forward(self, x, label, c):
            return (x - m) / (label / 1000).view(-1, 1, 1, 1).to(x)

    model = FlowMatching(GREY, channels=(4,))
    model.network = Straight()
    for sampler in ("euler", "heun", "dpm++", "ddim", "ancestral"):
        for steps in (1, 2, 7):
            x = model.sample(2, sampler=sampler, steps=steps)
            torch.testing.assert_close(x, m.expand(2, 1, 4, 4), rtol=0, atol=1e-5)


def test_the_first_loss_is_the_variance_of_the_direction():
    """A new network returns F = 0: E |eps - x|^2 = 1 + E x^2."""
    n = 2000
    x = 0.5 * torch.ones(n, 1, 4, 4)
    model = FlowMatching(GREY, channels=(4,))
    (turn,) = model.turns(Batch(x, Condition()), 0, Noise.keyed(0, 0, torch.arange(n)))
    assert float(turn.loss.detach()) == pytest.approx(1.25, abs=4 * math.sqrt(3 / x.numel()))


def test_a_tiny_one_learns_the_colour_of_each_class():
    with one_thread():
        torch.manual_seed(0)
        model = trained(FlowMatching(SPEC, channels=(16,)))
        assert colours_are_right(model)
        assert colours_are_right(model, sampler="euler", steps=25, scale=1.5)


def test_optimal_pairing_is_the_optimal_assignment_within_a_class():
    spec = ImageSpec(1, 4, 4, labels=("one", "two"))
    batch = toy_data(spec, 0, 24)
    batch = Batch(batch.x, Condition(label=torch.arange(24) % 2))
    independent = FlowMatching(spec, channels=(4,)).draw_noise(batch, Noise.sampling(0, 24))
    assert torch.equal(independent, Noise.sampling(0, 24).normal(1, 4, 4))
    model = FlowMatching(spec, channels=(4,), pairing="optimal")
    assert model.couples_batch
    eps = model.draw_noise(batch, Noise.sampling(0, 24))
    for label in range(2):
        rows = batch.c.label == label
        x, noise, paired = (part[rows].flatten(1) for part in (batch.x, independent, eps))
        cost = torch.cdist(x, noise).square()
        i, j = linear_sum_assignment(cost.numpy())
        torch.testing.assert_close(paired, noise[j])
        assert cost[i, j].sum() < cost.trace()  # cheaper than the random pairs


def test_optimal_pairing_ignores_captioned_pictures():
    x = torch.randn(8, 1, 4, 4)
    model = FlowMatching(GREY, channels=(4,), pairing="optimal")
    independent = Noise.sampling(0, 8).normal(1, 4, 4)
    eps = model.draw_noise(Batch(x, Condition(text=torch.arange(8)[:, None])), Noise.sampling(0, 8))
    assert torch.equal(eps, independent)
    free = model.draw_noise(Batch(x, Condition()), Noise.sampling(0, 8))
    _, j = linear_sum_assignment(torch.cdist(x.flatten(1), independent.flatten(1)).square().numpy())
    torch.testing.assert_close(free, independent[j])


@pytest.mark.parametrize(("pairing", "slope"), [("independent", 0.0), ("optimal", 0.5)])
def test_optimal_pairs_of_numbers_are_sorted_and_one_step_is_exact(pairing, slope):
    """For x ~ N(m, s^2) at t = 1, eps - u_t = E[x | eps] is m + s eps with optimal pairs (sorted
    numbers) and m with independent pairs. The mean of u_t is E eps - m in both cases."""
    n, m, s = 128, 0.2, 0.5
    x = m + s * Noise.sampling(1000, n).normal(1, 1, 1)
    model = FlowMatching(ImageSpec(1, 1, 1), channels=(4,), patch=1, pairing=pairing)
    eps = model.draw_noise(Batch(x, Condition()), Noise.sampling(0, n)).flatten()
    x, independent = x.flatten(), Noise.sampling(0, n).normal(1, 1, 1).flatten()
    assert float((eps - x).mean()) == pytest.approx(float((independent - x).mean()), abs=1e-6)
    if pairing == "optimal":
        assert torch.equal(eps[x.argsort()], independent.sort().values)
    joint = torch.cov(torch.stack([eps, x]))
    assert float(joint[0, 1] / joint[0, 0]) == pytest.approx(slope, abs=3 * s / math.sqrt(n))


class Paired(Plain):
    """The denoiser x of x_t = (1 - t) x + t eps with x = s eps, as for sorted pairs of numbers."""

    schedule, s = LinearPath(), 0.5

    def expected(self, x_t, t, c):
        return self.s * x_t / ((1 - t) * self.s + t)


@pytest.mark.parametrize(
    ("sampler", "kept"), [(Euler(), 1.0), (Heun(), 1.0), (DDIM(0.5), 0.69), (Ancestral(), 0.36)]
)
def test_optimal_pairs_lose_variance_to_samplers_that_draw_noise(sampler, kept):
    """The numbers in the documentation: each step is affine in x and in a normal z."""
    variance = 1.0
    for t, s in pairwise(LinearPath().times(100)):
        gain, deviation = (
            float(one_step(sampler, Paired(), pictures(x), t, s, Fixed(1, z)).x)
            for x, z in ((1.0, 0.0), (0.0, 1.0))
        )
        variance = gain**2 * variance + deviation**2
    assert variance / Paired.s**2 == pytest.approx(kept, abs=0.005)


class Normal(torch.nn.Module):
    """The velocity if all numbers of a picture are independent, N(m, s^2)."""

    m, s = 0.2, 0.6

    def forward(self, x, label, c):
        t = (label / 1000).view(-1, 1, 1, 1)
        variance = (1 - t) ** 2 * self.s**2 + t**2
        return -self.m + (t - (1 - t) * self.s**2) / variance * (x - (1 - t) * self.m)


@pytest.mark.parametrize(("divergence", "kind"), [("exact", "lower"), ("hutchinson", "estimate")])
def test_the_likelihood_is_the_density_times_the_size_of_the_bins(divergence, kind):
    """Hutchinson's estimate is exact for a diagonal Jacobian."""
    levels, n = 5, 6
    spec = ImageSpec(1, 4, 4, levels=levels)
    model = FlowMatching(spec, channels=(4,)).double()
    model.network = Normal()
    k = Noise.sampling(1, n).integers(levels, 1, 4, 4)
    x = from_levels(k, levels).double()
    likelihood = model.log_prob(
        x, noise=Noise.sampling(0, n), divergence=divergence, tolerance=1e-7
    )
    assert likelihood.kind == kind
    y, _ = Uniform(levels)(x, noise=Noise.sampling(0, n))
    point = x + 2 * (y * levels - k - 0.5) / (levels - 1)  # a point in the bin of its level
    density = torch.distributions.Normal(Normal.m, Normal.s).log_prob(point).sum((1, 2, 3))
    expected = density + 16 * math.log(2 / (levels - 1))
    torch.testing.assert_close(likelihood.nats, expected, rtol=0, atol=1e-5)


def test_small_pictures_use_exact_divergence_and_their_own_condition():
    spec = ImageSpec(1, 4, 4, labels=("one", "two"))
    model = FlowMatching(spec, channels=(4,)).double().eval()
    for p in model.parameters():
        p.data += 0.02 * torch.randn_like(p)
    x = toy_data(spec, 0, 3).x.double()
    c = Condition(label=torch.tensor([0, 1, -1]))
    likelihood = model.log_prob(x, c, noise=Noise.sampling(0, 3), tolerance=1e-2)
    assert likelihood.kind == "lower"
    assert "exact divergence" in model.likelihood_protocol()
    for i in range(3):
        one = slice(i, i + 1)
        noise = Noise.sampling(i, 1)
        single = model.log_prob(x[one], c.rows(one), noise=noise, tolerance=1e-2).nats
        torch.testing.assert_close(single, likelihood.nats[one], rtol=1e-9, atol=1e-6)
    assert (
        FlowMatching(SPEC, channels=(4,)).likelihood_protocol().endswith("Hutchinson's divergence")
    )
