"""Statistics: moments equal to numpy's, checks of features, intervals, seeded draws."""

from functools import reduce

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from scipy import stats

from limner.contract.errors import LimnerError
from limner.evaluate.metrics.statistics import (
    Moments,
    binomial_interval,
    binomial_law,
    bootstrap_samples,
    checked_features,
    checked_features_of_both,
    expand,
    mean_interval,
    percentiles,
    random_order,
    share_interval,
    standard_error,
    student_quantile,
    wilson_interval,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def assert_equal(moments: Moments, x: torch.Tensor) -> None:
    """Assert that moments equal numpy's mean and covariance (divided by n - 1) of all rows."""
    rows = x.double().numpy()
    expected = np.atleast_2d(np.cov(rows, rowvar=False))
    assert moments.n == len(rows)
    np.testing.assert_allclose(moments.mean.numpy(), rows.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(moments.covariance.numpy(), expected, rtol=1e-9, atol=1e-11)


@settings(max_examples=30)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=8).filter(lambda s: sum(s) > 1),
    d=st.integers(1, 5),
    offset=st.sampled_from([0.0, 1e3]),
    order=st.randoms(use_true_random=False),
)
def test_any_partition_in_any_order_gives_the_moments_of_the_whole(sizes, d, offset, order):
    """This includes float32 features with a mean of 1,000 deviations, where E[xx'] - mm' fails."""
    x = (normal(sum(sizes), d) + offset).float()
    parts = list(x.split(sizes))
    order.shuffle(parts)
    assert_equal(reduce(Moments.update, parts, Moments.empty(d)), x)
    assert_equal(reduce(Moments.merge, map(Moments.of, parts), Moments.empty(d)), x)


def test_a_part_can_be_subtracted():
    x = normal(50, 4) + 100
    moments = Moments.of(x)
    assert_equal(moments.without(Moments.of(x[:20])), x[20:])
    with pytest.raises(LimnerError, match="50 images cannot be removed from 50"):
        moments.without(moments)


def test_empty_moments_change_nothing():
    moments = Moments.of(normal(9, 3))
    assert Moments.empty(3).merge(moments) is moments
    assert moments.merge(Moments.empty(3)) is moments
    with pytest.raises(LimnerError, match="at least 2 images, not 0"):
        _ = Moments.empty(3).covariance
    with pytest.raises(LimnerError, match="at least 2 images, not 1"):
        _ = Moments.of(normal(1, 3)).covariance


def test_moments_are_saved_and_loaded():
    moments = Moments.of(normal(9, 3))
    copy = Moments.from_tensors(load(save(moments.tensors())))
    assert copy.n == moments.n
    assert torch.equal(copy.mean, moments.mean)
    assert torch.equal(copy.scatter, moments.scatter)


@pytest.mark.parametrize(
    "change",
    [
        {"n": torch.tensor(-1)},
        {"n": torch.tensor(9.0)},
        {"mean": torch.zeros(4, dtype=torch.float64)},
        {"mean": torch.zeros(3)},
        {"scatter": torch.full((3, 3), torch.nan, dtype=torch.float64)},
        {"scatter": torch.zeros(3, 2, dtype=torch.float64)},
    ],
)
def test_damaged_moments_are_refused(change: dict[str, torch.Tensor]):
    tensors = Moments.of(normal(9, 3)).tensors()
    with pytest.raises(LimnerError, match="these moments are damaged"):
        Moments.from_tensors(tensors | change)
    tensors.pop(next(iter(change)))
    with pytest.raises(LimnerError, match="have the tensors n, mean and scatter"):
        Moments.from_tensors(tensors)


def test_the_error_states_what_is_wrong_with_features():
    x = normal(5, 3)
    x[1, 2], x[3, 0] = torch.nan, -torch.inf
    with pytest.raises(LimnerError, match="of 2 of 5 images are NaN or infinite, so KID has no"):
        checked_features(x, 2, "KID")
    with pytest.raises(LimnerError, match="KID needs at least 2 images, not 1"):
        checked_features(normal(1, 3), 2, "KID")
    with pytest.raises(LimnerError, match="a mean needs at least 1 image, not 0"):
        Moments.of(normal(0, 3))
    with pytest.raises(LimnerError, match="a row of features for each image"):
        checked_features(normal(3, 0), 1, "KID")


@pytest.mark.usefixtures("unchecked_shapes")
def test_different_features_are_not_compared():
    with pytest.raises(LimnerError, match="3 features cannot be compared with 4; take both from"):
        checked_features_of_both(normal(5, 3), normal(5, 4), (1, 1), "KID")
    for call in (Moments.merge, Moments.without):
        with pytest.raises(LimnerError, match="3 features cannot be compared with 4"):
            call(Moments.of(normal(5, 3)), Moments.of(normal(4, 4)))
    with pytest.raises(LimnerError, match="3 features cannot be compared with 4"):
        Moments.of(normal(5, 3)).update(normal(4, 4))


def test_features_are_copied_into_float64_without_their_gradient():
    x = torch.ones(3, 2, dtype=torch.bfloat16, requires_grad=True)
    assert checked_features(x, 1, "KID").dtype == torch.float64
    assert not checked_features(x, 1, "KID").requires_grad


def test_a_shuffle_is_a_permutation_of_its_seed():
    first, second = random_order(1000, 0), random_order(1000, 1)
    assert sorted(first.tolist()) == list(range(1000))
    assert torch.equal(first, random_order(1000, 0))
    assert not torch.equal(first, second)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.15, "shuffles of different seeds must differ"
    assert abs(np.corrcoef(first, range(1000))[0, 1]) < 0.15


def test_a_bootstrap_gives_the_standard_error_of_a_mean():
    x = normal(200)
    means = x[bootstrap_samples(200, 0)].mean(1)
    assert float(means.std()) == pytest.approx(float(x.std()) / 200**0.5, rel=0.1)
    value, low, high = percentiles(float(x.mean()), means)
    assert low < value < high
    assert high - low == pytest.approx(2 * 1.96 * float(x.std()) / 200**0.5, rel=0.1)


def test_equal_values_of_one_group_count_once():
    x, groups = normal(40), torch.arange(40).repeat(3)
    assert standard_error(x) == pytest.approx(float(x.std()) / 40**0.5)
    assert standard_error(x.repeat(3), groups) == pytest.approx(standard_error(x))
    assert mean_interval(x.repeat(3), groups=groups) == pytest.approx(mean_interval(x))
    correct = x > 0.3
    share = float(correct.double().mean())
    assert share_interval(correct) == pytest.approx((share, *wilson_interval(share, 40)))
    assert share_interval(correct.repeat(3), groups) == pytest.approx(share_interval(correct))
    assert share_interval(correct | True, groups[:40] // 20) == (1, *wilson_interval(1, 2))
    assert share_interval(correct, 0 * groups[:40]) == (share, *wilson_interval(share, 1))


def test_errors_of_groups_are_errors_of_their_means():
    """Three values for each of 30 things, with or without differences between the things."""
    group_effect, residual = normal(2000, 30, 1), normal(2000, 30, 3, seed=1)
    groups = torch.arange(30).repeat_interleave(3)
    for x in (group_effect + residual, 0 * group_effect + residual):
        sets = x.flatten(1)
        errors = [standard_error(row, groups) for row in sets[:200]]
        assert np.mean(errors) == pytest.approx(float(sets.mean(1).std()), rel=0.06)


def test_an_expanded_interval_of_a_mean_equals_students_t():
    x = normal(8)
    estimate = percentiles(float(x.mean()), x[bootstrap_samples(8, 0)].mean(1))
    _, low, high = expand(estimate, 8)
    students = mean_interval(x)
    assert estimate.high - estimate.low < 0.85 * (students.high - students.low)
    assert high - low == pytest.approx(students.high - students.low, rel=0.1)


@pytest.mark.parametrize("n", [2, 3, 10, 100])
def test_intervals_of_means_contain_the_truth_for_small_n(n: int):
    intervals = [mean_interval(x) for x in normal(1000 * n).view(1000, n)]
    assert 0.92 < sum(low < 0 < high for _, low, high in intervals) / 1000 < 0.98
    assert mean_interval(torch.tensor([0.0, 1.0]), minimum=0, maximum=1) == (0.5, 0, 1)


@pytest.mark.parametrize(("n", "p"), [(5, 0.5), (40, 0.05), (200, 0.01), (999, 0.3)])
def test_binomial_probabilities_and_percentiles_equal_scipys(n: int, p: float):
    np.testing.assert_allclose(
        binomial_law(n, p).numpy(), stats.binom.pmf(np.arange(n + 1), n, p), rtol=1e-9, atol=1e-300
    )
    assert binomial_interval(n, p) == tuple(stats.binom.ppf([0.025, 0.975], n, p).astype(int))


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 9, 19, 100])
def test_students_percentile_equals_scipys(degrees: int):
    assert student_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=1e-3)
