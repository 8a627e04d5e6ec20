"""The bound of variational diffusion on known distributions, and its learned schedule."""

import math

import pytest
import torch
from analytic import Fixed
from torch import nn
from toy import SPEC, batches, one_thread, trained

from limner.contract.errors import LimnerError
from limner.contract.image import Condition, ImageSpec
from limner.contract.noise import Noise
from limner.diffusion.vdm import VDM, Way

FOUR = ImageSpec(1, 1, 1, levels=4)
P = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
VALUES = torch.linspace(-1, 1, 4, dtype=torch.float64)
ENTROPY = -float((P * P.log()).sum())  # 1.27985


def prior(values: torch.Tensor) -> float:
    """Return E KL(N(alpha x, sigma^2) || N(0, 1)) at the start of sampling."""
    last = 1 / (1 + math.exp(-5))  # sigma^2
    return 0.5 * ((1 - last) * float((P * values**2).sum()) + last - 1 - math.log(last))


PRIOR = prior(VALUES)


class Optimal(nn.Module):
    """eps_hat = (z - alpha E[x | z]) / sigma for x of four values with known probabilities."""

    def __init__(self, values: torch.Tensor = VALUES) -> None:
        super().__init__()
        self.values = values

    def forward(self, z, label, c):
        g = (label.double() / 50).view(-1, 1, 1, 1)
        alpha, sigma = (-g).sigmoid().sqrt(), g.sigmoid().sqrt()
        z = z.double()
        log_p = P.log() - (z[..., None] - alpha[..., None] * self.values).square() / (
            2 * sigma[..., None] ** 2
        )
        x_hat = (log_p.softmax(-1) * self.values).sum(-1)
        return (z - alpha * x_hat) / sigma


def four_values(n: int) -> tuple[VDM, torch.Tensor]:
    model = VDM(FOUR, channels=(4,), patch=1)
    with torch.no_grad():
        model.way.weights.fill_(-40.0)  # a linear schedule
    model.network = Optimal()
    k = (torch.arange(n) * 10 // n).clamp(max=9)
    return model, VALUES[torch.tensor([0, 1, 1, 2, 2, 2, 3, 3, 3, 3])[k]].view(n, 1, 1, 1)


def test_a_linear_way_is_linear():
    model, _ = four_values(1)
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    g, slope = model.gamma(t)
    torch.testing.assert_close(g.detach(), -13.3 + 18.3 * t)
    torch.testing.assert_close(slope.detach(), torch.full_like(t, 18.3))


def bound(T: int, values: torch.Tensor = VALUES) -> float:
    """Return the bound in T steps: E (eps - eps_hat)^2 by quadrature over eps, plus the prior."""
    g = torch.linspace(-13.3, 5.0, T + 1, dtype=torch.float64)
    gamma = g[1:].view(T, 1, 1, 1)
    alpha, sigma = (-gamma).sigmoid().sqrt(), gamma.sigmoid().sqrt()
    eps = torch.linspace(-9, 9, 601, dtype=torch.float64)
    density = (-0.5 * eps**2).exp() / math.sqrt(2 * math.pi)
    total = prior(values)
    for p, value in zip(P, values):
        eps_hat = Optimal(values)(alpha * value + sigma * eps, 50 * g[1:], None)
        errors = torch.trapezoid(density * (eps - eps_hat) ** 2, eps).flatten()
        total += float(p * 0.5 * (g.diff().expm1() * errors).sum())
    return total


KNOWN = {10: 3.6828, 50: 1.5457, 200: 1.3405, 1000: 1.2919}


def test_the_bound_in_T_steps_falls_to_the_entropy():
    """For the values -3/4, -1/4, 1/4, 3/4, compared with independently computed nats."""
    values = 0.75 * VALUES
    bounds = {T: bound(T, values) for T in KNOWN}
    assert bounds == pytest.approx(KNOWN, abs=6e-5)
    assert min(bounds.values()) > ENTROPY == pytest.approx(1.27985, abs=5e-6)
    model, _ = four_values(1)
    priors = model.prior_term(values.view(4, 1, 1, 1)).detach()
    assert float(priors @ P) == pytest.approx(0.001057, abs=5e-7)
    assert prior(values) == pytest.approx(0.001057, abs=5e-7)


@pytest.mark.parametrize("T", [10, 60])
def test_the_bound_in_T_steps_on_four_values(T):
    """Computed with quadrature of each step: never below the entropy, and lower with more steps."""
    n = 1000
    model, x = four_values(n)
    nats = model.discrete_bound(x, noise=Noise.sampling(0, n), T=T)
    expected = bound(T)
    error = float(nats.std()) / math.sqrt(n)
    assert float(nats.mean()) == pytest.approx(expected, abs=3.5 * error)
    assert expected > ENTROPY and (expected < 1.6) == (T == 60)


@pytest.mark.parametrize("levels", [2, 4, 256])
@pytest.mark.parametrize("start", [-13.3, -8.0, -1.0])
def test_the_decoder_is_normalised_over_all_levels(levels, start):
    """Compared with the softmax over all levels of -(z_0 / alpha_0 - value)^2 / (2 deviation^2)."""
    model = VDM(ImageSpec(1, 4, 4, levels=levels), channels=(4,), start=start)
    values = torch.linspace(-1, 1, levels, dtype=torch.float64)
    x = values[torch.linspace(0, levels - 1, 48).round().long()].view(3, 1, 4, 4)
    eps = Noise.sampling(0, 3).normal(1, 4, 4, dtype=torch.float64)
    deviation = (model.bounds[0] / 2).exp()
    difference = (x + deviation * eps)[..., None] - values
    log_p = (-(difference**2) / (2 * deviation**2)).log_softmax(-1)
    expected = -log_p[(x[..., None] - values).abs() < 1e-9].view(3, 16).sum(1)
    nats = model.decoder_term(x, Noise.sampling(0, 3))
    torch.testing.assert_close(nats, expected, rtol=0, atol=1e-9)
    slopes = [torch.autograd.grad(term.sum(), model.bounds)[0] for term in (nats, expected)]
    torch.testing.assert_close(*slopes, rtol=0, atol=1e-9)


def test_the_bound_in_steps_of_a_new_network():
    """eps_hat is 0, and eps is the same number everywhere."""
    model, x = VDM(SPEC, channels=(4,), hidden=4), batches(0, 3).x
    nats = model.discrete_bound(x, noise=Fixed(3, 0.6), T=4)
    with torch.no_grad():
        g, _ = model.gamma(torch.linspace(0, 1, 5, dtype=torch.float64))
        steps = 0.5 * torch.expm1(g.diff()).sum() * 0.6**2 * SPEC.dimensions
        expected = steps + model.prior_term(x) + model.decoder_term(x, Fixed(3, 0.6))
    torch.testing.assert_close(nats, expected)


def test_the_continuous_bound_is_the_entropy_plus_the_prior_term():
    n = 4000
    model, x = four_values(n)
    nats, kind, _ = model.log_prob(x, noise=Noise.sampling(0, n), terms=64)
    assert kind == "lower"
    error = float(nats.std()) / math.sqrt(n)
    assert -float(nats.mean()) == pytest.approx(ENTROPY + PRIOR, abs=3.5 * error + 0.01)


def test_the_prior_term_of_four_values():
    model, x = four_values(10)
    assert float(model.prior_term(x).mean().detach()) == pytest.approx(PRIOR, rel=1e-9)


def test_the_way_rises_from_0_to_1_and_returns_its_slope():
    torch.manual_seed(0)
    way = Way(16)
    with torch.no_grad():
        for p in way.parameters():
            p += torch.randn_like(p)
    t = torch.linspace(0, 1, 101, dtype=torch.float64, requires_grad=True)
    u, slope = way(t)
    assert u[[0, -1]].tolist() == pytest.approx([0, 1])
    assert (u.diff() > 0).all()
    (expected,) = torch.autograd.grad(u.sum(), t, retain_graph=True)
    torch.testing.assert_close(slope, expected)
    assert float(slope.detach().std()) > 0.01, "the way must be curved"


def test_the_way_minimises_the_squared_bound_and_the_ends_the_bound():
    torch.manual_seed(0)
    model = VDM(SPEC, channels=(4,), hidden=4)
    batch, t = batches(0, 6), torch.linspace(0.1, 0.9, 6).double()

    def terms(steady):
        return model.terms(batch.x, Condition(), t, Noise.keyed(0, 0, range(6)), steady=steady)

    way = list(model.way.parameters())
    steady = torch.autograd.grad(terms(True).diffusion.sum(), [*way, model.bounds])
    plain = terms(False).diffusion
    square = torch.autograd.grad((plain.square() / SPEC.dimensions).sum(), way, retain_graph=True)
    for gradient, expected in zip(steady, square):
        torch.testing.assert_close(gradient, expected)
    (ends,) = torch.autograd.grad(plain.sum(), model.bounds)
    torch.testing.assert_close(steady[-1], ends)


def test_the_schedule_is_saved_and_can_be_inverted():
    torch.manual_seed(1)
    model = VDM(SPEC, channels=(4,), hidden=8)
    with torch.no_grad():
        model.bounds += torch.tensor([1.0, 2.0]).double()
        model.way.weights += 5
    reloaded = VDM(SPEC, channels=(4,), hidden=8)
    reloaded.load_state_dict(model.state_dict())
    t = torch.linspace(0.01, 1, 20).double()
    for one, other in zip(model.schedule(t), reloaded.schedule(t)):
        assert torch.equal(one, other)
    with torch.no_grad():
        alpha, sigma = model.schedule(t)
        torch.testing.assert_close(model.schedule.time_of(sigma / alpha), t, rtol=0, atol=1e-9)


def test_reconstruction_works_with_a_schedule_in_float64():
    model = VDM(ImageSpec(1, 4, 4), channels=(8,), hidden=4)
    assert model.bounds.dtype == torch.float64 and model.dtype == torch.float32
    x = 2 * torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)) - 1
    assert model.encode(x).dtype == torch.float32
    torch.testing.assert_close(model.reconstruct(x), x, rtol=0, atol=0.02)


def test_a_decreasing_noise_level_is_refused():
    with pytest.raises(LimnerError, match=r"model\.start=5 .* must be below model\.end=-5"):
        VDM(SPEC, channels=(4,), start=5.0, end=-5.0)


def test_the_bound_of_a_tiny_one_falls():
    with one_thread():
        torch.manual_seed(0)
        model, data = VDM(SPEC, channels=(16,), hidden=16), batches(0, 16)
        before = model.bits_per_dim(data.x, data.c, noise=Noise.sampling(0, 16)).nats.mean()
        model = trained(model, steps=100)
        after = model.bits_per_dim(data.x, data.c, noise=Noise.sampling(0, 16)).nats.mean()
        assert float(after) < 0.8 * float(before)
        assert model.sample(2, data.c.rows(slice(0, 2)), steps=3).shape == (2, *SPEC.shape)
