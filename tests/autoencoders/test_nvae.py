"""NVAE compared with quadrature, singular values and sums computed by hand."""

import math
import subprocess
import sys
from typing import Any

import pytest
import torch

from limner.autoencoders.importance_bound import Normal
from limner.autoencoders.nvae import NVAE, Group
from limner.autoencoders.nvae_cells import (
    GenerativeCell,
    SpectralNorms,
    SqueezeExcitation,
    kernels,
    norms,
)
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, ImageSpec, from_levels
from limner.contract.noise import Noise

SPEC = ImageSpec(1, 5, 6, levels=2)
TINY: dict[str, Any] = {"channels": (4, 6), "groups": (1, 2), "latent": 2}


def perturbed_model(spec: ImageSpec = SPEC, scale: float = 0.3, **options: Any) -> Any:
    """Return a float64 model with perturbed weights and calibrated batch norms."""
    torch.manual_seed(0)
    model: Any = NVAE(spec, **(TINY | options)).double()
    with torch.no_grad():
        for p in model.parameters():
            p += scale * torch.randn_like(p)
    model.calibrate(iter([Batch(pictures(16, spec), Condition())]))
    return model.eval()


def pictures(n: int, spec: ImageSpec = SPEC) -> torch.Tensor:
    return from_levels(torch.randint(spec.levels, (n, *spec.shape)), spec.levels).double()


@torch.no_grad()
@pytest.mark.parametrize("label", [None, 1])
def test_the_bound_tends_to_the_marginal_by_quadrature(label: int | None):
    """Two groups of one number: p(x) = int p(x | z(e)) N(e; 0, 1) de on a grid, because the codes
    of the prior are standard normal. The probabilities of all pictures sum to one. The bound
    approaches log p(x) from below."""
    spec = ImageSpec(1, 1, 2, levels=2, labels=() if label is None else ("a", "b"))
    c = Condition() if label is None else Condition(torch.tensor([label]))
    model = perturbed_model(spec, channels=(3,), groups=(2,), latent=1)
    if label is not None:
        model.conditioner.label.weight.mul_(0.1)  # so that q is not far from the posterior
    all_levels = torch.cartesian_prod(*[torch.arange(2)] * 2).view(-1, 1, 1, 2)
    axis = torch.linspace(-7, 7, 141, dtype=torch.float64)
    e = torch.cartesian_prod(axis, axis)
    ink = model.decode(e, c.repeat(len(e)))[:, 0, 0].add(1).div(2)  # p of 1 at both pixels
    k = all_levels[:, 0, 0, None, :].expand(-1, len(e), -1)
    p = torch.where(k == 1, ink, 1 - ink).prod(-1)
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(e).sum(1).exp()
    marginal = (p * prior).sum(1) * (axis[1] - axis[0]) ** 2
    assert float(marginal.sum()) == pytest.approx(1, abs=1e-6)
    x = from_levels(all_levels, 2).double()
    R, k = 300, 10
    rows = x.repeat(R, 1, 1, 1)
    nats = model.log_prob(rows, c, noise=Noise.sampling(0, len(rows)), k=k).nats.view(R, -1)
    bound = nats.logsumexp(0) - math.log(R)  # the bound of R k draws
    torch.testing.assert_close(bound, marginal.log(), atol=0.1, rtol=0)
    gap = nats.mean(0) - marginal.log()
    assert bool((gap <= 3 * nats.std(0) / math.sqrt(R)).all())


@torch.no_grad()
def test_the_terms_of_a_likelihood_sum_to_the_elbo():
    """The terms are the KL of each group and the reconstruction. The KL of the first group has a
    closed form. All terms together are E log p(x | z) p(z) / q(z | x), the expectation of the bound
    with one draw."""
    model, x = perturbed_model(), pictures(1)
    terms = model.log_prob(x, noise=Noise.sampling(0, 1), k=2).terms
    assert [*terms] == ["reconstruction", "KL 1 (2 x 2)", "KL 2 (3 x 3)", "KL 3 (3 x 3)"]
    prior = Normal(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2))
    group, features = model.groups[0], model._features(x, [])[0]
    s, _ = group.before(model.constant, torch.zeros_like(prior.mean))
    q = group.approximate_posterior(features, s, prior)
    torch.testing.assert_close(terms["KL 1 (2 x 2)"], q.kl(prior).sum()[None].double())
    n = 4000
    many = x.expand(n, -1, -1, -1)
    one = model.log_prob(many, noise=Noise.sampling(0, n), k=1).nats
    _, _, terms = model.log_prob(many, noise=Noise.sampling(n, n), k=3)
    total = one.mean() + torch.stack([*terms.values()]).sum(0).mean()
    assert abs(float(total)) < 3 * float(one.std()) / math.sqrt(n)


@torch.no_grad()
def test_an_edit_samples_from_the_conditional_distribution():
    """Two groups of one number: compare p(x_2 | x_1) on a grid of codes with 4000 chains."""
    spec, n = ImageSpec(1, 1, 2, levels=2), 4000
    model = perturbed_model(spec, 0.7, channels=(3,), groups=(2,), latent=1)
    axis = torch.linspace(-6, 6, 121, dtype=torch.float64)
    e = torch.cartesian_prod(axis, axis)
    ink = model.decode(e)[:, 0, 0].add(1).div(2)
    prior = Normal(torch.zeros(2), torch.zeros(2)).log_prob(e).sum(1).exp()
    right = float((ink.prod(1) * prior).sum() / (ink[:, 0] * prior).sum())
    prior_share = float((ink[:, 1] * prior).sum() / prior.sum())
    image = torch.tensor([1.0, -1.0]).double().expand(n, 1, 1, 2)
    mask = torch.tensor([0.0, 1.0]).expand(n, 1, 1, 2)
    (x,) = model.edit(image, mask=mask, rounds=30, preview=False, output="draw")
    share, error = float((x[..., 1] > 0).double().mean()), math.sqrt(right * (1 - right) / n)
    assert abs(share - right) < 4 * error, (
        f"{share}, not {right}; {prior_share} without the kept pixel"
    )
    assert abs(right - prior_share) > 5 * error, "the kept pixel carries information"


def test_the_kl_of_residual_normals_is_equation_2():
    s, features = torch.randn(2, 3, 4, 3, 3, dtype=torch.float64)
    group = Group(4, 2, 1, first=False).double()
    s, p = group.before(s, torch.zeros(3, 2, 3, 3, dtype=torch.float64))
    q = group.approximate_posterior(features, s, p)
    d_mean, log_d = q.mean - p.mean, q.log_deviation - p.log_deviation
    variance, wider = (2 * p.log_deviation).exp(), (2 * log_d).exp()
    torch.testing.assert_close(q.kl(p), 0.5 * (d_mean**2 / variance + wider - wider.log() - 1))


def test_kl_and_ratio_agree_in_expectation():
    """The analytic KL terms equal the mean of log q / p over many draws."""
    model, n = perturbed_model(), 3000
    x = pictures(1).expand(n, -1, -1, -1)
    with torch.no_grad():
        _, kl, ratio = model._terms(x, [], model._draws(1, Noise.sampling(0, n))[0])
    difference = kl.sum(0) - ratio
    assert abs(float(difference.mean())) <= 3 * float(difference.std()) / math.sqrt(n)


def test_encode_returns_the_means_and_decode_uses_them():
    model, x = perturbed_model(), pictures(4)
    with torch.no_grad():
        features = model._features(x, [])
        theta = model._down(
            x.new_zeros(4, model._size),
            [],
            lambda i, g, s, p, _: g.approximate_posterior(features[i], s, p).mean,
        )
        z = model.encode(x)
        torch.testing.assert_close(model._down(z, [], _prior), theta)
    assert z.shape == (4, 2 * (2 * 2) + 2 * 2 * (3 * 3))
    expected = model.law.mean(theta).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(model.reconstruct(x), expected)


def _prior(i: int, group: Any, s: Any, p: Normal, epsilon: Any) -> Any:
    return p.draw(epsilon)


def test_only_the_pictures_own_pixels_count():
    """The last doubling gives 6 x 6, which is cut to 5 x 6: the row that is cut off does not enter
    the likelihood."""
    model = perturbed_model()
    with torch.no_grad():
        model.conv_out.weight.zero_()
        model.conv_out.bias.zero_()
        log_p, _, _ = model._terms(pictures(2), [], model._draws(1, Noise.sampling(0, 2))[0])
    assert log_p.tolist() == pytest.approx([-30 * math.log(2)] * 2)


def test_spectral_norms_are_the_largest_singular_values():
    torch.manual_seed(2)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 8, 5, groups=8), torch.nn.Conv2d(3, 8, 3)
    ).double()
    measure: Any = SpectralNorms(kernels(network)).double()
    assert {name: u.shape for name, u in measure.named_buffers()} == {
        "u_8x27": (2, 8, 1),
        "u_8x25": (1, 8, 1),
    }
    for _ in range(20):
        measure.settle(kernels(network))
    total = measure(kernels(network))
    weights = kernels(network)
    exact = torch.stack([torch.linalg.matrix_norm(w.flatten(1), 2) for w in weights]).sum()
    torch.testing.assert_close(total, exact)
    for a, b in zip(torch.autograd.grad(total, weights), torch.autograd.grad(exact, weights)):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


COMPILED = """
import torch
from limner.autoencoders.nvae_cells import SpectralNorms, kernels

network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 8, 5, groups=8))
measure = SpectralNorms(kernels(network))
compiled = torch.compile(measure, backend="aot_eager", fullgraph=True)
compiled(kernels(network)).backward()
"""


def test_spectral_norms_compile_to_one_graph():
    # in a process of its own, because here every function is wrapped by the type checker
    subprocess.run([sys.executable, "-c", COMPILED], check=True)


def test_a_generative_cell_is_depthwise_and_starts_near_the_identity():
    cell = GenerativeCell(4, 6)
    assert [tuple(k.shape) for k in kernels(cell)] == [(24, 4, 1, 1), (24, 1, 5, 5), (4, 24, 1, 1)]
    x = torch.randn(8, 4, 6, 6)
    assert 0 < float((cell(x) - x).detach().std()) < 0.2


def test_excitations_depend_on_the_means_of_channels_alone():
    layer, x = SqueezeExcitation(6), torch.rand(2, 6, 4, 4) + 1
    other = 2 * x.mean((2, 3), keepdim=True) - x
    torch.testing.assert_close(layer(x) / x, layer(other) / other)
    assert not torch.allclose(layer(x) / x, layer(2 * x) / (2 * x), atol=1e-3)


def test_warm_up_balances_groups_and_ends_at_the_bound():
    model, x = perturbed_model(warmup=10, spectral=0.0).train(), pictures(8)
    assert not model.loss_compares and NVAE(SPEC, **TINY, warmup=0).loss_compares
    bit = SPEC.dimensions * math.log(2)

    def turn(step: int) -> tuple[float, float, torch.Tensor]:
        result = next(model.turns(Batch(x, Condition()), step, Noise.keyed(0, 0, range(8))))
        with torch.no_grad():
            noise = Noise.keyed(0, 0, range(8))
            log_p, kl, _ = model._terms(x, [], model._draws(1, noise)[0])
        assert float(result.logs["bits_per_dim"]) * bit == pytest.approx(
            float(kl.sum(0).mean() - log_p.mean())
        )
        return float(result.loss.detach()) * bit, -float(log_p.mean()), kl.mean(1)

    loss, reconstruction, kl = turn(10)
    assert loss == pytest.approx(reconstruction + float(kl.sum()))
    loss, reconstruction, kl = turn(4)
    per_number = (kl + 0.01) / torch.tensor([8.0, 18.0, 18.0])
    gamma = per_number / per_number.mean()
    assert loss == pytest.approx(reconstruction + 0.5 * float((gamma * kl).sum()))
    assert float(gamma.mean()) == pytest.approx(1)
    streams, weight = [Noise.keyed(0, 0, range(8)) for _ in range(2)], model.constant
    (slope,) = torch.autograd.grad(
        next(model.turns(Batch(x, Condition()), 4, streams[0])).loss * bit, weight
    )
    log_p, kl, _ = model._terms(x, [], model._draws(1, streams[1])[0])
    (expected,) = torch.autograd.grad(0.5 * (gamma * kl.mean(1)).sum() - log_p.mean(), weight)
    torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-5)  # gamma has no gradient


def test_the_regularisation_is_norms_plus_scales():
    x = pictures(8)
    losses, plain = [], perturbed_model(spectral=0.0).train()
    for spectral in (0.0, 0.5):
        plain.spectral = spectral
        turn = next(plain.turns(Batch(x, Condition()), 10**6, Noise.keyed(0, 0, range(8))))
        losses.append(float(turn.loss.detach()) * SPEC.dimensions * math.log(2))
    scales = sum(float(part.weight.detach().abs().max()) for part in norms(plain))
    largest = sum(float(torch.linalg.matrix_norm(k.detach().flatten(1), 2)) for k in kernels(plain))
    assert losses[1] - losses[0] <= 0.5 * (scales + largest) + 1e-6
    assert losses[1] - losses[0] >= 0.5 * (scales + 0.5 * largest)


def test_calibration_takes_the_mean_over_batches():
    """The encoder's first batch norm takes the batches' means, whatever it held before."""
    model = perturbed_model()
    batches = [Batch(pictures(8), Condition()) for _ in range(3)]
    first = model.up[0][0][0].residual[0]
    first.running_mean.fill_(7.0)
    model.calibrate(iter(batches))
    with torch.no_grad():
        features = [model.downsample[0](batch.x) for batch in batches]
    means = torch.stack([h.mean((0, 2, 3)) for h in features]).mean(0)
    variances = torch.stack([h.var((0, 2, 3)) for h in features]).mean(0)
    torch.testing.assert_close(first.running_mean, means)
    torch.testing.assert_close(first.running_var, variances)
    assert first.momentum == 0.05
    assert not any(part.training for part in norms(model))


@pytest.mark.parametrize("scale", [10.0, 100.0])
def test_large_weights_stay_finite(scale):
    """Losses, gradients, likelihoods and samples stay finite for any output of the networks."""
    model = perturbed_model(ImageSpec(1, 5, 6), scale=scale, components=2).float().train()
    batch = Batch(pictures(6, model.spec).float(), Condition())
    turn = next(model.turns(batch, 0, Noise.keyed(0, 0, range(6))))
    turn.loss.backward()
    assert bool(turn.loss.isfinite())
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    model.eval()
    assert bool(model.log_prob(batch.x, noise=Noise.sampling(0, 6), k=3).nats.isfinite().all())
    assert bool(model.sample(4).isfinite().all())


def test_temperature_zero_decodes_the_most_probable_code():
    model = perturbed_model()
    x = model.sample(3, temperature=0.0)
    assert torch.equal(x[0], x[1])
    assert not torch.equal(*model.sample(2))
    with torch.no_grad():
        torch.testing.assert_close(
            x[:1], model.decode(x.new_zeros(1, model._size).double()).float()
        )
    assert model.sample(2, output="draw").unique().tolist() == [-1, 1]


def test_more_groups_than_resolutions_are_refused():
    with pytest.raises(LimnerError, match="a number for 1 to 2 resolutions"):
        NVAE(SPEC, channels=(4, 4), groups=(1, 1, 1))
