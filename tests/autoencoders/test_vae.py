"""The variational autoencoder compared with closed forms, quadrature and its theorems."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

from limner.autoencoders import importance_bound
from limner.autoencoders.importance_bound import (
    Draws,
    Normal,
    importance_weighted_bound,
    standard_normal,
)
from limner.autoencoders.vae import VAE
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, ImageSpec, from_levels
from limner.contract.noise import Noise
from limner.maths.pixel_distributions import PixelDistribution

SPEC = ImageSpec(1, 2, 3, levels=129)  # values k / 64 - 1, exact in float32
SIGMA = 0.3


class Density(PixelDistribution):
    """N(theta, sigma^2) at the values of the levels: the pixels of probabilistic PCA."""

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__(channels, levels)
        self.size = channels
        self.log_sigma = torch.tensor(math.log(SIGMA), dtype=torch.float64)

    def log_prob(
        self, theta: Float[Tensor, "*at p"], k: Int[Tensor, "*at c"]
    ) -> Float[Tensor, "*at"]:
        v = (2 * k.double() - (self.levels - 1)) / (self.levels - 1)
        return torch.distributions.Normal(theta, self.log_sigma.exp()).log_prob(v).sum(-1)

    def log_probs(self, theta, k, channel):
        raise AssertionError("levels must not be sampled")


def linear(W: Tensor | None = None, m: Tensor | None = None) -> tuple[Any, Any]:
    """Return probabilistic PCA (Tipping, Bishop, 1999) as a VAE, and its p(x).

    x = W z + m + SIGMA e has the exact posterior q = N(M^-1 W^T (x - m), SIGMA^2 M^-1) with
    M = W^T W + SIGMA^2, which is diagonal for orthogonal columns. p(x) = N(m, W W^T + SIGMA^2)."""
    D = SPEC.dimensions
    generator = torch.Generator().manual_seed(1)
    if W is None or m is None:
        columns = torch.linalg.qr(torch.randn(D, 2, generator=generator, dtype=torch.float64)).Q
        W = columns * torch.tensor([0.9, 0.5])
        m = 0.1 * torch.randn(D, generator=generator, dtype=torch.float64)
    model: Any = VAE(SPEC, latent=2, hidden=()).double()
    model.law = Density(1, SPEC.levels)
    model.decoder = type(model.decoder)(SPEC, 2, (), 1, 0).double()
    M = W.square().sum(0) + SIGMA**2
    encoder, decoder = (part.perceptron.layers[0] for part in (model.encoder, model.decoder))
    with torch.no_grad():
        decoder.weight.copy_(W)
        decoder.bias.copy_(m)
        encoder.weight.zero_()
        encoder.weight[:2] = (W / M).T
        encoder.bias[:2] = -(W / M).T @ m
        encoder.bias[2:] = (SIGMA / M.sqrt()).log()
    covariance = W @ W.T + SIGMA**2 * torch.eye(D, dtype=torch.float64)
    return model, torch.distributions.MultivariateNormal(m, covariance)


def some_pictures(n: int, spec: ImageSpec = SPEC) -> Tensor:
    return from_levels(torch.randint(spec.levels, (n, *spec.shape)), spec.levels)


def test_with_the_exact_posterior_every_importance_weight_is_the_probability():
    model, p = linear()
    x = some_pictures(9).double()
    exact = p.log_prob(x.flatten(1))
    for k in (1, 2, 50):
        nats, kind, _ = model.log_prob(x, noise=Noise.sampling(k, 9), k=k)
        torch.testing.assert_close(nats, exact, rtol=0, atol=1e-9)
        assert kind == "lower"
    turn = next(model.turns(Batch(x, Condition()), 0, Noise.sampling(0, 9)))
    per_picture = turn.logs["reconstruction"] + turn.logs["kl"]
    assert math.isfinite(float(per_picture))


@torch.no_grad()
def test_a_wrong_posterior_costs_its_kl_and_more_draws_recover_some_of_it():
    """E ELBO = log p - KL(q || posterior) <= E L_5 <= E L_50 <= log p, in standard errors."""
    model, p = linear()
    x, shift, wider = some_pictures(1).double(), 0.5, 0.4
    right = model.posterior(x)
    with torch.no_grad():
        bias = model.encoder.perceptron.layers[0].bias
        bias[:2] += shift
        bias[2:] += wider
    wrong = model.posterior(x)
    gap = float(wrong.kl(right).sum())
    exact, n = float(p.log_prob(x.flatten(1))), 4000
    many = x.expand(n, -1, -1, -1)
    bounds = {}
    for k in (1, 5, 50):
        nats, _, terms = model.log_prob(many, noise=Noise.sampling(10**6 * k, n), k=k)
        bounds[k] = float(nats.mean()), 3 * float(nats.std()) / math.sqrt(n)
        elbo = -terms["reconstruction"] - terms["KL"]
        error = 3 * float(elbo.std()) / math.sqrt(n)
        assert float(elbo.mean()) == pytest.approx(exact - gap, abs=error), "for any k"
        prior = standard_normal(wrong.mean)
        torch.testing.assert_close(terms["KL"], wrong.kl(prior).sum(1).expand(n))
    assert bounds[1][0] == pytest.approx(exact - gap, abs=bounds[1][1])
    assert bounds[1][0] + bounds[1][1] < bounds[5][0] - bounds[5][1]
    assert bounds[5][0] + bounds[5][1] < bounds[50][0] - bounds[50][1]
    assert bounds[50][0] <= exact + bounds[50][1]
    assert exact - bounds[50][0] < gap / 10
    turn = next(model.turns(Batch(many, Condition()), 0, Noise.sampling(3, n)))
    nats = -float(turn.logs["bits_per_dim"]) * SPEC.dimensions * math.log(2)
    assert nats == pytest.approx(exact - gap, abs=bounds[1][1])  # the KL is analytic, not sampled


@torch.no_grad()
@pytest.mark.parametrize(("pixels", "levels"), [("bernoulli", 2), ("logistic", 5), ("gaussian", 5)])
def test_the_bound_tends_to_the_marginal_by_quadrature(pixels, levels):
    """A code of one number: compute p(x) = int p(x | z) N(z; 0, 1) dz with the trapezoidal rule.
    These probabilities sum to one over all pictures."""
    spec = ImageSpec(1, 1, 2, levels=levels)
    model: Any = VAE(spec, latent=1, hidden=(3,), pixels=pixels).double()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.5 * torch.randn_like(p)
        last = model.encoder.perceptron.layers[-1]
        last.weight.mul_(0.3)
        last.bias[1] = 0.3  # a wide q, so that weights are bounded
    all_levels = torch.cartesian_prod(*[torch.arange(levels)] * 2).view(-1, 1, 1, 2)
    x = from_levels(all_levels, levels).double()
    z = torch.linspace(-9, 9, 2001, dtype=torch.float64)
    theta = model.decoder(z[:, None])
    k = all_levels.permute(0, 2, 3, 1)[:, None].expand(-1, len(z), -1, -1, -1)
    log_p = model.law.log_prob(theta.expand(len(x), *theta.shape), k).sum((-2, -1))
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(z)
    marginal = (log_p + prior).exp().sum(1) * (z[1] - z[0])
    assert float(marginal.sum()) == pytest.approx(1, abs=1e-6)
    R, k = 200, 20
    rows = x.repeat(R, 1, 1, 1)
    nats = model.log_prob(rows, noise=Noise.sampling(0, len(rows)), k=k).nats.view(R, -1)
    bound = nats.logsumexp(0) - math.log(R)  # the bound of R k draws
    torch.testing.assert_close(bound, marginal.log(), atol=0.1, rtol=0)
    gap = nats.mean(0) - marginal.log()
    assert bool((gap <= 3 * nats.std(0) / math.sqrt(R)).all())


@torch.no_grad()
def test_an_edit_samples_from_the_conditional_distribution():
    """A code of one number: p(x_2 | x_1) by the trapezoidal rule, compared with 3000 chains."""
    spec, n = ImageSpec(1, 1, 2, levels=4), 3000
    model: Any = VAE(spec, latent=1, hidden=(3,)).double()
    for p in model.parameters():
        p += 0.7 * torch.randn_like(p)
    last = model.encoder.perceptron.layers[-1]
    last.weight.mul_(0.3)
    last.bias[1] = 0.3  # a wide q, which soon proposes every code
    k = torch.cartesian_prod(*[torch.arange(4)] * 2)
    e = torch.linspace(-6, 6, 401, dtype=torch.float64)[:, None]
    theta = model.theta(e, Condition())[:, None].expand(-1, 16, -1, -1, -1)
    log_p = model.law.log_prob(theta, k.view(1, 16, 1, 2, 1)).sum((-2, -1))
    p = (log_p + standard_normal(e).log_prob(e).sum(1)[:, None]).logsumexp(0).softmax(0).view(4, 4)
    right = p[1] / p[1].sum()
    image = from_levels(torch.tensor([1, 3]).expand(n, 1, 1, 2), 4).double()
    mask = torch.tensor([0.0, 1.0]).expand(n, 1, 1, 2)
    edit_options = {"mask": mask, "rounds": 40, "preview": False}
    (x,) = model.edit(image, output="draw", **edit_options)
    assert torch.equal(x[..., 0], image[..., 0].float())
    counts = torch.bincount(((x[..., 1] + 1) * 1.5).round().long().flatten(), minlength=4)
    chi_square = float(((counts - n * right) ** 2 / (n * right)).sum())
    assert chi_square < 20, f"{chi_square} with 3 degrees of freedom: {counts / n}, not {right}"
    assert float((right - p.sum(0)).abs().sum()) > 0.1, "the kept pixel carries information"
    (mean,) = model.edit(image, **edit_options)
    expected = float((right * (torch.arange(4) / 1.5 - 1)).sum())
    assert float(mean[..., 1].mean()) == pytest.approx(expected, abs=0.03)


def test_an_edit_accepts_every_code_if_all_have_the_same_weight(monkeypatch):
    """As for an exact q, where w = p(x); how small the weight is has no effect."""
    model: Any = VAE(ImageSpec(1, 4, 4), latent=3, hidden=(8,)).eval()
    monkeypatch.setattr(model, "log_weights", lambda x, z, c: torch.full((len(x),), -50.0))
    mask = torch.ones(2, 1, 4, 4)
    frames = list(model.edit(torch.zeros(2, 1, 4, 4), mask=mask, rounds=12))
    assert all(not torch.equal(a, b) for a, b in pairwise(frames))


@pytest.mark.parametrize("pixels", ["logistic", "gaussian"])
def test_under_bfloat16_the_kl_and_the_pixel_means_stay_in_float32(pixels: str):
    model: Any = VAE(ImageSpec(1, 4, 4), latent=8, channels=(8,), pixels=pixels)
    x = some_pictures(4, model.spec)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        q = model.posterior(x)
        theta = model.theta(q.mean, Condition())
        _, _, terms = model.log_prob(x, noise=Noise.sampling(0, 4), k=1)
    assert q.mean.dtype == theta.dtype == torch.float32
    expected = q.kl(standard_normal(q.mean)).double().sum(1)
    torch.testing.assert_close(terms["KL"], expected, rtol=1e-6, atol=1e-6)
    assert not torch.equal(theta, theta.bfloat16().float()), "it is not rounded to bfloat16"


def test_the_strength_of_an_edit_sets_how_far_the_code_moves():
    model: Any = VAE(ImageSpec(1, 4, 4), latent=3, hidden=(8,)).eval()
    x = some_pictures(3, model.spec)
    *_, first, last = frames = list(model.edit(x, strength=0.6, seed=2))
    assert len(frames) == model.edit_count(0.6)
    z, eps = model.encode(x), Noise.sampling(2, 3).normal(3)
    torch.testing.assert_close(last, model.decode(0.8 * z + 0.6 * eps).detach().clamp(-1, 1))
    assert not torch.equal(first, last)
    mask = torch.zeros(3, 1, 4, 4)
    mask[:, :, 2:] = 1
    frames = list(model.edit(x, mask=mask, rounds=30, seed=2))
    assert len(frames) == model.edit_count()
    assert all(torch.equal(frame[:, :, :2], x[:, :, :2]) for frame in frames)
    (single,) = model.edit(x[1:2], mask=mask[1:2], rounds=30, seed=3, preview=False)
    torch.testing.assert_close(single, frames[-1][1:2])
    for wrong, message in (
        ({"rounds": 3}, "leave rounds out"),
        ({"mask": mask, "temperature": 0.5}, "leave temperature out"),
        ({"strength": 2.0}, "strength=2 is not"),
    ):
        with pytest.raises(LimnerError, match=message):
            next(model.edit(x, **wrong))


def test_with_a_mask_the_strength_sets_the_rounds_and_where_they_start(monkeypatch):
    model: Any = VAE(ImageSpec(1, 4, 4), latent=3, hidden=(8,)).eval()
    x, calls = some_pictures(3, model.spec), []

    def chain(x, mask, c, noise, steps, **options):
        calls.append((x, mask, steps))
        yield from [x] * steps

    monkeypatch.setattr(model, "chain", chain)
    mask = torch.full((3, 1, 4, 4), 0.4)
    mask[:, :, 2:] = 0.6
    for strength in (0.3, 1.0):
        list(model.edit(x, mask=mask, rounds=20, strength=strength, seed=2))
    (own, region, few), (new, _, many) = calls
    assert (few, many) == (6, 20)
    assert torch.equal(own, x), "below 1 it starts from the picture"
    assert torch.equal(region, mask.round())
    assert torch.equal(new[:, :, :2], x[:, :, :2]) and not torch.equal(new[:, :, 2:], x[:, :, 2:])


def test_the_kl_matches_torch_and_appendix_b():
    q = Normal(*torch.randn(2, 4, 3, dtype=torch.float64))
    p = Normal(*torch.randn(2, 4, 3, dtype=torch.float64))
    theirs = [torch.distributions.Normal(n.mean, n.log_deviation.exp()) for n in (q, p)]
    torch.testing.assert_close(q.kl(p), torch.distributions.kl_divergence(*theirs))
    variance = (2 * q.log_deviation).exp()
    appendix = 0.5 * (q.mean.square() + variance - 1 - variance.log())
    torch.testing.assert_close(q.kl(standard_normal(q.mean)), appendix)
    z = torch.randn(4, 3, dtype=torch.float64)
    torch.testing.assert_close(q.log_prob(z), theirs[0].log_prob(z))
    torch.testing.assert_close(q.draw(z), q.mean + z * variance.sqrt())


def test_the_bound_computed_in_parts_is_the_same(monkeypatch):
    """Draws are processed in parts that fit into memory, and are the same bit for bit."""
    model = VAE(ImageSpec(1, 4, 4), latent=3, channels=(8,)).double()
    x = some_pictures(5, model.spec).double()
    expected = model.log_prob(x, noise=Noise.sampling(0, 5), k=13).nats
    monkeypatch.setattr(importance_bound, "_MAX_DECODED_VALUES", 5 * 16 * 4)  # 4, 4, 4, 1
    torch.testing.assert_close(model.log_prob(x, noise=Noise.sampling(0, 5), k=13).nats, expected)
    sizes: list[int] = []

    def draws(g: int) -> Draws:
        sizes.append(g)
        return Draws(torch.zeros(g, 5), {"KL": torch.full((g, 5), 2.0)})

    nats, _, terms = importance_weighted_bound(draws, 13, 16, 5)
    assert nats.tolist() == [0.0] * 5 and terms["KL"].tolist() == [2.0] * 5
    assert sizes == [4, 4, 4, 1]


def test_warm_up_beta_and_free_bits():
    """Compute the loss by hand: reconstruction + weight sum_j max(lambda, mean KL_j)."""
    x = some_pictures(6, ImageSpec(1, 4, 4))
    batch, D = Batch(x, Condition()), 16

    def nats(step: int, **options: Any) -> tuple[float, float, Tensor]:
        torch.manual_seed(0)
        model = VAE(ImageSpec(1, 4, 4), latent=3, channels=(8,), **options)
        turn = next(model.turns(batch, step, Noise.keyed(0, 0, range(6))))
        q = model.posterior(x)
        kl = q.kl(standard_normal(q.mean)).mean(0).detach()
        reconstruction = float(turn.logs["reconstruction"])
        assert float(turn.logs["kl"]) == pytest.approx(float(kl.sum()), rel=1e-5)
        bits = float(turn.logs["bits_per_dim"]) * D * math.log(2)
        assert bits == pytest.approx(reconstruction + float(kl.sum()), rel=1e-5)
        return float(turn.loss.detach()) * D * math.log(2), reconstruction, kl

    for step, options, weight in (
        (0, {}, 1.0),
        (0, {"warmup": 10}, 0.1),
        (4, {"warmup": 10, "beta": 2.0}, 1.0),
        (99, {"warmup": 10}, 1.0),
        (0, {"beta": 0.0}, 0.0),
    ):
        loss, reconstruction, kl = nats(step, **options)
        assert loss == pytest.approx(reconstruction + weight * float(kl.sum()), rel=1e-5)
    bits = float(kl.median())  # some below, some above
    loss, reconstruction, kl = nats(0, free_bits=bits)
    assert loss == pytest.approx(reconstruction + float(kl.clamp(min=bits).sum()), rel=1e-5)
    assert float(kl.clamp(min=bits).sum()) > float(kl.sum())
    assert VAE(SPEC, latent=2, channels=(8,), free_bits=0.1).couples_batch
    assert not VAE(SPEC, latent=2, channels=(8,)).couples_batch
    for warmup in (0, 10):
        assert VAE(SPEC, latent=2, channels=(8,), warmup=warmup).loss_compares == (not warmup)


def test_iwae_has_the_weighted_gradient():
    """Burda et al., equation 14: sum_i w~_i grad log w_i with the normalised weights w~. With one
    draw, the loss is the ELBO with a sampled KL."""
    torch.manual_seed(3)
    model: Any = VAE(SPEC, latent=2, hidden=(4,), objective="iwae", k=5).double()
    x, noise = some_pictures(3).double(), Noise.keyed(0, 0, range(3))
    turn = next(model.turns(Batch(x, Condition()), 0, Noise.keyed(0, 0, range(3))))
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(turn.loss, parameters)
    vector, levels, q = model._levels_and_posterior(x, Condition())
    log_p, prior, posterior = model._terms(levels, vector, q, model._draws(5, noise))
    log_w = log_p + prior - posterior
    weights = log_w.detach().softmax(0)
    bit = SPEC.dimensions * math.log(2)
    expected = torch.autograd.grad(-(weights * log_w).sum(0).mean() / bit, parameters)
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b)
    bound = (log_w.logsumexp(0) - math.log(5)).mean()
    assert float(turn.loss.detach()) == pytest.approx(-float(bound.detach()) / bit)


def pca_pictures(n: int) -> Tensor:
    """Return pictures sampled from probabilistic PCA and rounded to levels."""
    _, p = linear()
    levels = ((p.sample((n,)).clamp(-1, 1) + 1) * 64).round().long()
    return from_levels(levels.view(n, *SPEC.shape), SPEC.levels).double()


def use_exact_draws(model: Any, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the draws +-sqrt(2) e_1, +-sqrt(2) e_2: for a quadratic function, their mean is the
    expectation."""
    model.k = 4
    points = math.sqrt(2) * torch.cat([torch.eye(2), -torch.eye(2)]).double()
    monkeypatch.setattr(model, "_draws", lambda g, noise: points[:, None].expand(g, n, 2))


def test_the_elbo_is_stationary_at_the_most_likely_linear_model(monkeypatch):
    """Tipping, Bishop, equation 7: W = U (L - SIGMA^2)^(1/2) with the largest variances L. There
    the ELBO equals the likelihood, and its gradient is zero."""
    n = 300
    x = pca_pictures(n)
    flat = x.flatten(1)
    variances, directions = torch.linalg.eigh(torch.cov(flat.T, correction=0))
    W = directions[:, -2:] * (variances[-2:] - SIGMA**2).sqrt()
    model, p = linear(W, flat.mean(0))
    use_exact_draws(model, n, monkeypatch)
    turn = next(model.turns(Batch(x, Condition()), 0, Noise.keyed(0, 0, range(n))))
    bit = SPEC.dimensions * math.log(2)
    assert float(turn.loss.detach()) * bit == pytest.approx(-float(p.log_prob(flat).mean()))
    for slope in torch.autograd.grad(turn.loss, list(model.parameters())):
        assert float(slope.abs().max()) < 1e-6


def test_a_trained_linear_model_is_probabilistic_pca(monkeypatch):
    """Tipping, Bishop, equations 4 and 8: from other weights and another sigma, training reaches
    the maximum likelihood. There sigma^2 is the mean of the variances that are left out."""
    n, D = 300, SPEC.dimensions
    x = pca_pictures(n)
    model, _ = linear()
    use_exact_draws(model, n, monkeypatch)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.2 * torch.randn_like(p)
    sigma = model.law.log_sigma.fill_(math.log(0.6)).requires_grad_()
    training = torch.optim.LBFGS(
        [*model.parameters(), sigma], max_iter=100, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        training.zero_grad()
        turn = next(model.turns(Batch(x, Condition()), 0, Noise.keyed(0, 0, range(n))))
        turn.loss.backward()
        return turn.loss

    training.step(loss)
    variances = torch.linalg.eigvalsh(torch.cov(x.flatten(1).T, correction=0))
    left = float(variances[:-2].mean())
    assert float(sigma.detach().exp() ** 2) == pytest.approx(left, rel=0.005)
    log_sum = float(variances[-2:].log().sum())
    maximum = -0.5 * (D * math.log(2 * math.pi) + log_sum + (D - 2) * math.log(left) + D)
    nats = -float(loss().detach()) * D * math.log(2)
    assert nats == pytest.approx(maximum, rel=0.005)
    assert nats <= maximum + 1e-9


def test_the_posterior_becomes_the_prior_if_the_decoder_ignores_the_code():
    """Posterior collapse: only the KL is left of the objective, and its minimum is 0. The bound
    with any number of draws is then the likelihood without a code."""
    torch.manual_seed(0)
    model: Any = VAE(SPEC, latent=2, hidden=()).double()
    with torch.no_grad():
        for p in model.encoder.parameters():
            p += 0.3 * torch.randn_like(p)
        model.decoder.perceptron.layers[0].weight.zero_()
    model.decoder.requires_grad_(False)
    x = some_pictures(32).double()
    training = torch.optim.LBFGS(
        model.encoder.parameters(), max_iter=60, line_search_fn="strong_wolfe"
    )
    kl = list[float]()

    def loss() -> Tensor:
        training.zero_grad()
        turn = next(model.turns(Batch(x, Condition()), 0, Noise.keyed(0, 0, range(32))))
        turn.loss.backward()
        kl.append(float(turn.logs["kl"]))
        return turn.loss

    training.step(loss)
    assert kl[0] > 1 and 0 <= kl[-1] < 1e-6
    with torch.no_grad():
        nats = [model.log_prob(x, noise=Noise.sampling(0, 32), k=k).nats for k in (1, 20)]
    torch.testing.assert_close(nats[0], nats[1], rtol=0, atol=0.01)


def test_draws_follow_the_pixel_distribution_given_code_and_label():
    spec = replace(ImageSpec(1, 2, 2, levels=2), labels=("a", "b"))
    model: Any = VAE(spec, latent=2, hidden=(4,))
    with torch.no_grad():
        for p in model.parameters():
            p += 0.5 * torch.randn_like(p)
    label = Condition(label=torch.zeros(1, dtype=torch.long))
    n = 4000
    mean = next(model.watch(n, label))
    draws = next(model.watch(n, label, output="draw"))
    assert draws.unique().tolist() == [-1, 1]
    error = (draws.mean(0) - mean.mean(0)).abs()
    assert float(error.max()) <= 4 / math.sqrt(n)
    assert not torch.equal(draws[0], draws[1])
    cold = model.sample(3, label, temperature=0.0)
    torch.testing.assert_close(cold[0], model.decode(torch.zeros(1, 2), label)[0].detach())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pixels": "bernoulli"}, "data.binarise=dynamic"),
        ({"objective": "iwae", "beta": 2.0}, "no KL term of its own"),
        ({"k": 0}, "model.k=0"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(LimnerError, match=message):
        VAE(SPEC, **options)


def test_the_protocol_names_the_bound():
    assert VAE(SPEC, importance_samples=50).likelihood_protocol() == "IW-50"
    assert VAE(SPEC, importance_samples=1).likelihood_protocol() == "ELBO, one draw"
