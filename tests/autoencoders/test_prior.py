"""The learned prior of a VAE: its density, its samples, and its standard normal start."""

import math
from typing import Any

import pytest
import torch
from scipy.stats import kstest

from limner.autoencoders.importance_bound import standard_normal
from limner.autoencoders.prior import Prior
from limner.autoencoders.vae import VAE
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, ImageSpec, from_levels
from limner.contract.noise import Noise

SPEC = ImageSpec(1, 2, 3, levels=5)


def perturbed(prior: Prior) -> Prior:
    for p in prior.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return prior.double().requires_grad_(False)


def some_pictures(n: int) -> torch.Tensor:
    return from_levels(torch.randint(SPEC.levels, (n, *SPEC.shape)), SPEC.levels)


def test_the_density_integrates_to_one_and_matches_its_draws():
    """Integrate in two dimensions with the midpoint rule. Compare the first number of the draws
    with the marginal of the density, using a Kolmogorov-Smirnov test."""
    prior = perturbed(Prior.realnvp(2))
    z = prior.code(Noise.sampling(0, 5000).normal(2, dtype=torch.float64))
    side, reach = 200, 1.4 * float(z.abs().max())
    centres = reach * (2 * (torch.arange(side, dtype=torch.float64) + 0.5) / side - 1)
    density = prior.log_prob(torch.cartesian_prod(centres, centres)).exp().view(side, side)
    area = (2 * reach / side) ** 2
    assert float(density.sum() * area) == pytest.approx(1, abs=1e-3)
    assert abs(float(z.mean())) > 0.05 or abs(float(z.std()) - 1) > 0.05  # not standard normal
    mass_below = torch.cat([torch.zeros(1), (density.sum(1) * area).cumsum(0)])
    edges = torch.linspace(-reach, reach, side + 1, dtype=torch.float64)

    def cumulative(v: Any) -> Any:
        k = torch.searchsorted(edges, torch.as_tensor(v)).clamp(1, side)
        fraction = (torch.as_tensor(v) - edges[k - 1]) / (edges[k] - edges[k - 1])
        return (mass_below[k - 1] + fraction * (mass_below[k] - mass_below[k - 1])).numpy()

    assert kstest(z[:, 0].numpy(), cumulative).pvalue > 1e-3


@pytest.mark.parametrize("latent", [2, 5])
def test_codes_and_normal_numbers_are_one_to_one(latent):
    prior = perturbed(Prior.realnvp(latent))
    e = torch.randn(7, latent, dtype=torch.float64)
    torch.testing.assert_close(prior.to_normal(prior.code(e)), e)
    J = torch.autograd.functional.jacobian(lambda z: prior.to_normal(z[None])[0], prior.code(e)[0])
    log_normal = -0.5 * (e[0].square().sum() + latent * math.log(2 * math.pi))
    expected = log_normal + torch.linalg.slogdet(J).logabsdet
    torch.testing.assert_close(prior.log_prob(prior.code(e))[0], expected)


def test_it_starts_as_the_standard_normal_prior():
    """The densities are equal and, with the same weights, so are bounds, codes and pictures."""
    z = torch.randn(3, 4, 6, dtype=torch.float64)
    normal = standard_normal(z).log_prob(z).sum(-1)
    for prior in (Prior.normal(), Prior.realnvp(6).double()):
        torch.testing.assert_close(prior.log_prob(z), normal)
    plain = VAE(SPEC, latent=4, hidden=(5,))
    learned = VAE(SPEC, latent=4, hidden=(5,), prior="realnvp")
    learned.load_state_dict(plain.state_dict(), strict=False)
    x = some_pictures(6)
    bounds = [m.log_prob(x, noise=Noise.sampling(1, 6), k=8).nats for m in (plain, learned)]
    torch.testing.assert_close(*bounds)
    torch.testing.assert_close(plain.encode(x), learned.encode(x))
    torch.testing.assert_close(plain.sample(3), learned.sample(3))


def test_the_bound_and_the_loss_use_its_density_and_samples_pass_through_it():
    model = VAE(SPEC, latent=2, hidden=(4,), prior="realnvp", beta=0.5, k=3).double()
    perturbed(model.prior)
    x, D = some_pictures(5).double(), SPEC.dimensions
    turn = next(model.turns(Batch(x, Condition()), 0, Noise.keyed(0, 0, range(5))))
    epsilon = model._draws(3, Noise.keyed(0, 0, range(5)))
    vector, levels, q = model._levels_and_posterior(x, Condition())
    z = q.draw(epsilon)
    kl = (q.log_prob(z).sum(-1) - model.prior.log_prob(z)).mean()
    log_p = model._log_likelihood(levels, vector, z)
    expected = (0.5 * kl - log_p.mean()) / (D * math.log(2))
    torch.testing.assert_close(turn.loss, expected)
    torch.testing.assert_close(turn.logs["kl"], kl.detach())
    log_w = log_p + model.prior.log_prob(z) - q.log_prob(z).sum(-1)
    nats = model.log_prob(x, noise=Noise.keyed(0, 0, range(5)), k=3).nats
    one, _, terms = model.log_prob(x, noise=Noise.keyed(0, 0, range(5)), k=1)
    torch.testing.assert_close(terms["reconstruction"] + terms["KL"], -one.double())
    torch.testing.assert_close(nats, log_w.logsumexp(0) - math.log(3))
    e = Noise.sampling(4, 2).normal(2, dtype=torch.float64)
    means = model.law.mean(model.decoder(model.prior.code(e))).permute(0, 3, 1, 2)
    torch.testing.assert_close(model.sample(2, seed=4), means.detach().float())
    torch.testing.assert_close(model.encode(x), model.prior.to_normal(q.mean))


def test_it_learns_the_distribution_of_the_codes():
    """Two clusters of fixed codes: the learned prior fits them far better than the standard normal
    one. Each parameter of the prior has a gradient."""
    torch.manual_seed(0)
    prior = Prior.realnvp(2)
    side = 2.0 * (2 * (torch.rand(2000, 1) < 0.5) - 1)
    z = torch.cat([side + 0.2 * torch.randn(2000, 1), 0.2 * torch.randn(2000, 1)], 1)
    optimiser = torch.optim.Adam(prior.parameters(), lr=3e-3)
    for i in range(150):
        loss = -prior.log_prob(z[torch.randint(1500, (128,))]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if i == 1:  # after one step no last layer is all zeros
            assert all(p.grad is not None and bool(p.grad.any()) for p in prior.parameters())
    held_out = z[1500:]
    with torch.no_grad():
        learned = float(prior.log_prob(held_out).mean())
    normal = float(Prior.normal().log_prob(held_out).mean())
    optimum = 2 * (-math.log(0.2) - 0.5 * math.log(2 * math.pi * math.e)) - math.log(2)
    assert normal + 2 < learned < optimum + 0.1


def test_options_that_a_learned_prior_does_not_support_are_refused():
    with pytest.raises(LimnerError, match=r"model\.latent=2"):
        VAE(SPEC, latent=1, hidden=(4,), prior="realnvp")
    with pytest.raises(LimnerError, match=r"leave model\.free_bits out"):
        VAE(SPEC, latent=2, hidden=(4,), prior="realnvp", free_bits=0.1)
