"""The feature likelihood divergence: direct computations, the authors' values, and properties."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from limner.contract.errors import LimnerError
from limner.evaluate.metrics import fld as module
from limner.evaluate.metrics.fld import Mixture, fld
from limner.evaluate.metrics.statistics import random_order


def drawn(n: int, d: int, seed: int, mean: float = 0.0, spread: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, dtype=torch.float64, generator=generator) * spread + mean


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep training pictures in their order, without a shuffle."""
    monkeypatch.setattr(module, "random_order", lambda n, seed: torch.arange(n))


def sets(d: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return training, held-out and generated features; the generated ones are slightly wrong."""
    return drawn(300, d, 0), drawn(120, d, 1), drawn(100, d, 2, mean=0.2, spread=1.1)


GOLDEN = {
    (8, 0): (1.1852960836966409, -3.391419830288722),
    (8, 40): (8.24715117886321, -231.60249076299272),
    (64, 0): (4.8836970898738175, 1.5300847667045536),
    (64, 40): (6.27422502247359, -244.00963759549485),
}
"""FLD and gap of marcojira/fld 1.0.0 (commit ffbbf20), keyed by dimension d and number of copies
among 100 pictures, in float64 and without its shuffles. Its variances are still float32, which
affects the gap with copies."""


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize(("d", "copies"), GOLDEN)
def test_values_equal_those_of_the_authors(d: int, copies: int):
    train, held_out, generated = sets(d)
    result = fld(train, held_out, torch.cat([train[:copies], generated[: 100 - copies]]))
    value, gap = GOLDEN[d, copies]
    assert result.fld.value == pytest.approx(value, rel=1e-5)
    assert result.gap.value == pytest.approx(gap, rel=1e-2 if copies else 1e-6)


def test_the_mixture_weighs_all_gaussians_equally():
    mixture = Mixture(drawn(7, 3, 0), drawn(7, 1, 1)[:, 0])
    x = drawn(20, 3, 2)
    expected = sum(
        multivariate_normal(centre.numpy(), math.exp(log_variance)).pdf(x.numpy()) / 7
        for centre, log_variance in zip(*mixture)
    )
    np.testing.assert_allclose(mixture.log_prob(x), np.log(expected) / 3, rtol=1e-10)


def test_gradients_equal_those_of_autograd():
    squared, far = drawn(9, 5, 0).square(), drawn(9, 1, 1)[:, 0].square()
    around, wide = (
        drawn(5, 1, 2)[:, 0].requires_grad_(),
        torch.tensor(0.3).double().requires_grad_(),
    )
    d = 4

    def log_gaussian(squared: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
        return -squared / (2 * log_variance.exp()) - d / 2 * torch.log(
            2 * torch.pi * log_variance.exp()
        )

    parts = log_gaussian(squared, around) - math.log(5)
    expected = torch.cat([parts, log_gaussian(far, wide)[:, None]], 1).logsumexp(1)
    expected.sum().backward()
    log_p, gradient, other = module._with_gradients(squared, far, around.detach(), wide.detach(), d)
    for actual, reference in ((log_p, expected), (gradient, around.grad), (other, wide.grad)):
        assert reference is not None
        torch.testing.assert_close(actual, reference.detach())


def test_fitted_variances_are_near_the_maximum_likelihood():
    """Compare with scipy's optimum; much wider Gaussians are far less likely."""
    x, centres = drawn(400, 2, 0), drawn(6, 2, 1)
    mixture = Mixture.fit(centres, x)

    def loss(log_variance: np.ndarray) -> float:
        return -float(Mixture(centres, torch.from_numpy(log_variance)).log_prob(x).mean())

    best = minimize(loss, np.zeros(6)).fun
    assert loss(mixture.log_variance.numpy()) < best + 0.05
    assert loss(np.full(6, 2.0)) > best + 0.2


def test_real_pictures_have_a_value_of_about_0():
    d = 6
    results = [
        fld(drawn(400, d, 3 * i), drawn(200, d, 3 * i + 1), drawn(100, d, 3 * i + 2), seed=i)
        for i in range(12)
    ]
    assert sum(e.fld.low < 0 < e.fld.high for e in results) >= 7
    assert abs(np.mean([e.fld.value for e in results])) < 1.5
    assert abs(np.mean([e.real.value for e in results if e.real])) < 1.5
    assert all(abs(e.gap.value) < 15 for e in results)


def test_intervals_contain_values_of_other_pictures_of_the_same_model():
    """Two equal models, compared with the same held-out pictures, seldom differ significantly."""
    train, held_out = drawn(150, 8, 0), drawn(2000, 8, 1)
    results = [fld(train, held_out, drawn(50, 8, 2 + i)) for i in range(16)]
    for estimates in ([e.fld for e in results], [e.gap for e in results]):
        mean = np.mean([e.value for e in estimates])
        assert sum(e.low < mean < e.high for e in estimates) >= 14


@pytest.mark.parametrize(("parts", "groups"), [(7, 7), (50, 20)])
def test_a_mixture_without_a_group_equals_the_mixture_of_the_others(parts: int, groups: int):
    mixture, x = Mixture(drawn(parts, 3, 0), drawn(parts, 1, 1)[:, 0]), drawn(30, 3, 2)
    group = random_order(parts, 5) % groups
    for g, value in enumerate(mixture.mean_without_groups(x, seed=5)):
        others = Mixture(*(each[group != g] for each in mixture))
        assert float(value) == pytest.approx(float(others.log_prob(x).mean()))


def test_copies_of_training_pictures_are_penalised():
    d = 16
    train, held_out, new = drawn(600, d, 0), drawn(300, d, 1), drawn(200, d, 2)
    values = []
    for copies in (0, 50, 100, 200):
        result = fld(train, held_out, torch.cat([train[:copies], new[: 200 - copies]]))
        values.append(result.fld.value)
        if copies:
            assert result.gap.high < -50 < -15 < baseline.gap.low, copies
        else:
            baseline = result
    assert values == sorted(values) and values[-1] > 1000, values
    nearly = train[:200] + 1e-3 * drawn(200, d, 3)
    assert fld(train, held_out, nearly).fld.value > 1000
    assert baseline.fld.low < 5


def test_worse_or_less_varied_pictures_have_higher_values():
    d = 16
    train, held_out, good = drawn(600, d, 0), drawn(300, d, 1), drawn(200, d, 2)
    best = fld(train, held_out, good).fld
    assert fld(train, held_out, good + 1).fld.low > best.high, "shifted"
    assert fld(train, held_out, 3 * good).fld.low > best.high, "too large a variance"
    alike = good[:5].repeat(40, 1) + 0.05 * drawn(200, d, 4)
    assert fld(train, held_out, alike).fld.low > best.high, "variants of five pictures"


def test_order_and_block_size_change_nothing(monkeypatch: pytest.MonkeyPatch):
    train, held_out, generated = sets(8)
    expected = fld(train, held_out, generated)
    shuffled = fld(train, held_out.flip(0), generated[torch.randperm(100)])
    monkeypatch.setattr(module, "_BLOCK_DISTANCES", 900)
    blocks = fld(train.float().double(), held_out, generated)
    for one, same, other in zip(shuffled, blocks, expected):
        assert one.value == pytest.approx(other.value, rel=1e-4, abs=1e-4)
        assert same == pytest.approx(other, rel=1e-4, abs=1e-4)


def test_the_scale_of_features_and_constant_features_change_nothing():
    train, held_out, generated = sets(8)
    expected = fld(train, held_out, generated).fld

    def other(z: torch.Tensor) -> torch.Tensor:
        scaled = z * torch.logspace(-3, 3, 8, dtype=torch.float64) + 5
        return torch.cat([scaled, torch.full((len(z), 2), 7.0, dtype=torch.float64)], 1)

    estimate = fld(other(train), other(held_out), other(generated)).fld
    assert estimate == pytest.approx(expected, rel=1e-4)


def test_the_real_row_needs_enough_pictures():
    train, held_out, generated = sets(8)
    assert fld(train, held_out, generated).real is not None
    assert fld(train[:299], held_out, generated).real is None


def test_invalid_features_are_refused():
    train, held_out, generated = sets(3)
    with pytest.raises(LimnerError, match="FLD needs at least 10 images, not 9"):
        fld(train, held_out, generated[:9])
    with pytest.raises(LimnerError, match="FLD needs at least 10 images, not 9"):
        fld(train[:9], held_out, generated)
    with pytest.raises(LimnerError, match="held-out pictures have the same features, so FLD has"):
        fld(train, torch.ones_like(held_out), generated)
    with pytest.raises(LimnerError, match="of 1 of 100 images are NaN or infinite, so FLD has no"):
        fld(train, held_out, generated.index_fill(0, torch.tensor(3), torch.nan))
