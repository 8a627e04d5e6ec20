"""Distributions of pixels against independent computations, and sampling."""

import itertools
import math

import pytest
import torch
from scipy import stats

from limner.contract.image import ImageSpec
from limner.maths.pixel_distributions import (
    Bernoulli,
    Categorical,
    DiscretisedLogisticMixture,
    Gaussian,
    draw,
    softmax_distribution,
)

LAWS = [
    Bernoulli(1),
    Bernoulli(3),
    Categorical(1, 256),
    Categorical(3, 4),
    Gaussian(1, 256),
    Gaussian(2, 5),
    DiscretisedLogisticMixture(1, 2, 3),
    DiscretisedLogisticMixture(1, 256, 5),
    DiscretisedLogisticMixture(3, 4, 2),
]
named = pytest.mark.parametrize("law", LAWS, ids=lambda law: f"{type(law).__name__}-{law.channels}")


def random_theta(law, n: int, scale: float = 2.0):
    return scale * torch.randn(n, law.size, dtype=torch.float64)


@named
@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_the_masses_of_all_values_sum_to_one(law, scale):
    theta = random_theta(law, 7, scale)
    values = torch.tensor(list(itertools.product(range(law.levels), repeat=law.channels)))
    log_p = law.log_prob(theta[:, None].expand(-1, len(values), -1), values.expand(7, -1, -1))
    assert bool(log_p.isfinite().all())
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(7, dtype=torch.float64))


@named
def test_the_chain_rule_holds_channel_by_channel(law):
    """log p(k) = sum_c log p(k_c | k_<c), and each conditional probability sums to one."""
    theta, k = random_theta(law, 50), torch.randint(law.levels, (50, law.channels))
    total = torch.zeros(50, dtype=torch.float64)
    for channel in range(law.channels):
        unread = k.clone()
        unread[:, channel:] = 0
        log_p = law.log_probs(theta, unread, channel)
        torch.testing.assert_close(log_p.logsumexp(-1), torch.zeros(50, dtype=torch.float64))
        total += log_p.gather(-1, k[:, channel, None]).squeeze(-1)
    torch.testing.assert_close(total, law.log_prob(theta, k))


@named
def test_float32_and_its_gradients_stay_finite(law):
    """This holds for extreme outputs of a network and for every level."""
    theta = (40 * torch.randn(400, law.size)).requires_grad_()
    k = torch.randint(law.levels, (400, law.channels))
    law.log_prob(theta, k).sum().backward()
    assert theta.grad is not None
    assert bool(theta.grad.isfinite().all())


@named
def test_float32_has_the_likelihood_of_float64_and_bfloat16_that_of_float32(law):
    """Also where a bin is short compared with the scale, so that its ends differ in few digits."""
    theta = torch.randn(50, law.size)
    if isinstance(law, Gaussian | DiscretisedLogisticMixture):
        theta[:, law.size // 2 :] += 5
    k = torch.randint(law.levels, (50, law.channels))
    log_p = law.log_prob(theta, k)
    assert log_p.dtype == torch.float32
    torch.testing.assert_close(log_p.double(), law.log_prob(theta.double(), k), rtol=1e-5, atol=0)
    half = theta.bfloat16()
    assert torch.equal(law.log_prob(half, k), law.log_prob(half.float(), k))
    for channel in range(law.channels):
        log_p = law.log_probs(half, k, channel)
        assert torch.equal(log_p, law.log_probs(half.float(), k, channel))
    assert torch.equal(law.mean(half), law.mean(half.float()))


@pytest.mark.parametrize("C", [3, 4])
def test_a_logistic_mixture_equals_scipys(C):
    """Salimans et al., equations 1 to 3, with scipy's logistic distribution function."""
    L, M = 256, 4
    law = DiscretisedLogisticMixture(C, L, M)
    for theta in random_theta(law, 5, 1.0):
        logit, mean, log_scale, a = (
            part.numpy() for part in theta.view(-1, M).split((1, C, C, C * (C - 1) // 2), 0)
        )
        a = iter(torch.tensor(a).tanh().numpy())
        k = torch.randint(L, (C,))
        v = 2 * k.numpy() / (L - 1) - 1
        mu = [mean[c] + sum(next(a) * v[d] for d in range(c)) for c in range(C)]
        mass = torch.tensor(logit[0]).softmax(0).numpy()
        for c in range(C):
            with_scale = stats.logistic(mu[c], torch.tensor(log_scale[c]).exp().numpy())
            upper = 1.0 if k[c] == L - 1 else with_scale.cdf(v[c] + 1 / (L - 1))
            lower = 0.0 if k[c] == 0 else with_scale.cdf(v[c] - 1 / (L - 1))
            mass = mass * (upper - lower)
        log_p = float(law.log_prob(theta, k))
        assert log_p == pytest.approx(float(torch.tensor(mass.sum()).log()), rel=1e-8)


def test_a_gaussian_bin_equals_scipys():
    L, law = 9, Gaussian(1, 9)
    for theta in random_theta(law, 5, 1.0):
        normal = stats.norm(float(theta[0]), float(theta[1].exp()))
        edges = [-float("inf"), *((2 * k + 1) / (L - 1) - 1 for k in range(L - 1)), float("inf")]
        expected = torch.tensor(
            [normal.cdf(b) - normal.cdf(a) for a, b in itertools.pairwise(edges)]
        )
        log_p = law.log_probs(theta, torch.zeros(1, dtype=torch.long), 0)
        torch.testing.assert_close(log_p.exp(), expected, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize(
    ("law", "known"),
    [(Gaussian(1, 256), stats.norm), (DiscretisedLogisticMixture(1, 256, 1), stats.logistic)],
)
def test_scales_are_at_least_exp_minus_7_and_at_most_exp_7(law, known):
    """As in the code of Salimans et al. (2017). The mean is at the upper end of the bin of 127."""
    for log_scale, used in ((-9.0, -7.0), (-6.5, -6.5), (6.5, 6.5), (9.0, 7.0)):
        theta = torch.tensor([0.0] * (law.size - 1) + [log_scale], dtype=torch.float64)
        centred = known(0, math.exp(used))
        expected = math.log(centred.cdf(0) - centred.cdf(-2 / 255))
        assert float(law.log_prob(theta, torch.tensor([127]))) == pytest.approx(expected, abs=1e-8)


def test_two_levels_need_one_logit():
    law = softmax_distribution(ImageSpec(3, 1, 1, levels=2))
    assert isinstance(law, Bernoulli)
    assert law.size == 3
    assert softmax_distribution(ImageSpec(3, 1, 1)).size == 3 * 256
    theta, k = random_theta(law, 9), torch.randint(2, (9, 3))
    expected = torch.distributions.Bernoulli(logits=theta).log_prob(k.double()).sum(-1)
    torch.testing.assert_close(law.log_prob(theta, k), expected)


def test_draws_follow_the_distribution_and_are_monotone_in_u():
    log_p = torch.tensor([0.1, 0.0, 0.4, 0.5]).log()
    n = 10_000
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    k = draw(log_p.expand(n, -1), u)
    assert torch.bincount(k, minlength=4).tolist() == [1000, 0, 4000, 5000]
    assert bool((k.diff() >= 0).all())
    ends = draw(log_p.expand(2, -1), torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64))
    assert ends.tolist() == [0, 3]


@named
def test_draws_are_the_levels_at_which_the_cumulative_distribution_passes_u(law):
    theta, u = random_theta(law, 200), torch.rand(200, law.channels, dtype=torch.float64)
    k = law.sample(theta, u)
    for channel in range(law.channels):
        log_p = law.log_probs(theta, k, channel)
        assert torch.equal(k[:, channel], draw(log_p, u[:, channel]))


def test_extreme_uniform_numbers_draw_no_improbable_levels():
    log_p = torch.tensor([-torch.inf, 0.0, -torch.inf])
    ends = draw(log_p.expand(2, -1), torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64))
    assert ends.tolist() == [1, 1]
    theta = torch.tensor([[30.0, 0.0], [-30.0, 0.0]])  # the first or the last of three levels
    assert Gaussian(1, 3).sample(theta, torch.tensor([[0.0], [1 - 2**-24]])).tolist() == [[2], [0]]


def test_draws_are_exact_to_many_digits():
    """A number next to the cumulative distribution tells its two levels apart, also if the
    log-probabilities are in float32."""
    log_p = torch.randn(256).log_softmax(0)
    ends = log_p.double().softmax(0).cumsum(0)[:-1]
    levels = torch.arange(255)
    for shift, k in ((-1e-12, levels), (1e-12, levels + 1)):
        assert torch.equal(draw(log_p.expand(255, -1), ends + shift), k)


def test_temperature_and_top_p_change_the_distribution():
    p = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    n = 9000
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n

    def counts(**options):
        return torch.bincount(draw(p.log().expand(n, -1), u, **options), minlength=4) / n

    torch.testing.assert_close(
        counts(temperature=0.5), (p**2 / (p**2).sum()).float(), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(
        counts(top_p=0.5), torch.tensor([0, 0, 3 / 7, 4 / 7]), atol=1e-3, rtol=0
    )
    assert counts(top_p=0.39).tolist() == [0, 0, 0, 1]
    k = draw(torch.zeros(n, 64), u, top_p=0.5)
    assert torch.equal(k.unique(), torch.arange(32)), "of equal levels the first are kept"


@named
def test_the_mean_is_the_sum_over_levels_and_the_mean_of_draws(law):
    """Channel by channel; without dependent channels it is also the mean of draws."""
    theta = random_theta(law, 3, 1.0)
    levels = torch.arange(law.levels, dtype=torch.float64)
    values = (2 * levels - (law.levels - 1)) / (law.levels - 1)
    mean = law.mean(theta.view(3, 1, -1)).view(3, -1)
    k = ((mean + 1) * (law.levels - 1) / 2).round().long()
    for channel in range(law.channels):
        expected = law.log_probs(theta, k, channel).exp() @ values
        torch.testing.assert_close(mean[:, channel], expected)
    if isinstance(law, DiscretisedLogisticMixture) and law.channels > 1:
        return
    n = 4_000
    u = torch.rand(3, n, law.channels, dtype=torch.float64)
    draws = values[law.sample(theta[:, None].expand(-1, n, -1), u)]
    error = (draws.mean(1) - mean).abs()
    assert bool((error <= 4 * draws.std(1) / n**0.5 + 1e-9).all())


@named
def test_the_mean_of_a_diverged_network_is_not_a_number(law):
    theta = torch.full((2, 1, law.size), torch.nan)
    assert bool(law.mean(theta).isnan().all())


def test_draws_of_dependent_channels_follow_their_joint_distribution():
    law = DiscretisedLogisticMixture(3, 2, 2)
    theta, n = random_theta(law, 1, 1.0), 40_000
    u = torch.rand(n, 3, dtype=torch.float64)
    k = law.sample(theta.expand(n, -1), u)
    values = torch.tensor(list(itertools.product(range(2), repeat=3)))
    p = law.log_prob(theta.expand(8, -1), values).exp()
    frequencies = torch.bincount(k @ torch.tensor([4, 2, 1]), minlength=8) / n
    assert float((frequencies - p).abs().max()) <= 4 * (0.25 / n) ** 0.5
