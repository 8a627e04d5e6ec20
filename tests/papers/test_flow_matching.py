"""Flow matching: its coupling, its laws of time, straight lines, and a tiny one."""

import math

import pytest
import torch
from scipy.stats import kstest, norm
from toy import SPEC, Recorder, batches, colours_are_right, one_thread, trained

from limner.flows.flow_matching import FlowMatching
from limner.image import Batch, Condition, ImageSpec
from limner.noise import Noise

GREY = ImageSpec(1, 4, 4)


def test_the_network_sees_the_line_and_is_asked_for_its_direction():
    """x_t = (1 - t) x + t eps and u_t = eps - x, so that x_t - t u_t = x; told 1000 t."""
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
def test_training_times_follow_their_law(law, distribution):
    model = FlowMatching(GREY, channels=(4,), time=law)
    t = model.draw_times(Noise.keyed(0, 0, torch.arange(10_000)))
    assert 0 < float(t.min()) < float(t.max()) < 1
    assert kstest(t.numpy(), distribution).pvalue > 1e-3


def test_a_constant_velocity_is_followed_exactly_in_any_number_of_steps():
    """Where all data are one picture m, F = (x_t - m) / t, and one step is as good as many."""
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
    """F = 0 at first: E |eps - x|^2 = 1 + E x^2."""
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
