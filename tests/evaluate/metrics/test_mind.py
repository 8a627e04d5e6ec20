"""The Monge distance: closed forms, other implementations, and coverage of the intervals."""

import math
from importlib.metadata import version

import numpy as np
import ot
import pytest
import torch
import torch.nn.functional as F

from limner.contract.errors import LimnerError
from limner.evaluate.metrics import mind as module
from limner.evaluate.metrics.fid import distance_of_features
from limner.evaluate.metrics.kid import kid
from limner.evaluate.metrics.mind import DIRECTIONS, directions, floor, mind


def drawn(n: int, d: int, seed: int, mean: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, dtype=torch.float64, generator=generator) + mean


def test_a_shift_has_three_times_its_squared_length():
    x, v = drawn(200, 30, 0), drawn(1, 30, 1)
    length = float(v.square().sum())
    projection = float((directions(30) @ v.T).square().mean()) * 30
    estimate = mind(x, x + v)
    assert estimate.value == pytest.approx(3 * projection, rel=1e-10)
    assert estimate.value == pytest.approx(3 * length, rel=3 * math.sqrt(2 / DIRECTIONS))


@pytest.mark.parametrize("mean", [0.5, 1.0])
def test_two_gaussians_with_many_pictures_match_the_closed_form(mean: float):
    """N(0, I) against N(m, 4 I): along u, (u'm)^2 + (2 - 1)^2, hence 3 (|m|^2 + d)."""
    d, n = 8, 20_000
    estimate = mind(drawn(n, d, 0), 2 * drawn(n, d, 1) + mean)
    assert estimate.value == pytest.approx(3 * (d * mean**2 + d), rel=0.03)


def test_in_one_dimension_it_equals_the_wasserstein_distance():
    x, y = drawn(60, 1, 0), drawn(60, 1, 1, mean=0.7)
    assert mind(x, y).value == pytest.approx(3 * ot.wasserstein_1d(x, y, p=2).item(), rel=1e-10)


@pytest.mark.parametrize(("n", "d"), [(10, 3), (150, 40)])
def test_values_equal_those_of_pot_with_the_same_directions(n: int, d: int):
    x, y = drawn(n, d, 0), drawn(n, d, 1, mean=0.3)
    u = directions(d, 5)
    assert torch.allclose(u.norm(dim=1), torch.ones(DIRECTIONS, dtype=torch.float64))
    distance = ot.sliced_wasserstein_distance(x.numpy(), y.numpy(), projections=u.T.numpy(), p=2)
    assert mind(x, y, 5).value == pytest.approx(3 * d * distance**2, rel=1e-10), version("pot")
    exact = 3 * d * ot.emd2([], [], ot.dist(x.numpy(), y.numpy())) / d
    assert mind(x, y).value <= exact, "a projected distance cannot exceed the exact one"


GOLDEN = {(50, 16): 11.876805067062378, (300, 64): 23.705124378204346}
"""Values of `mind_features_to_metric` of torch-fidelity 0.5.0, unreleased (5e211a9 of 2026-05-11),
in float32, with seed 2020 and 1,000 projections."""


@pytest.mark.parametrize("size", GOLDEN)
def test_values_equal_those_of_torch_fidelity(size: tuple[int, int], monkeypatch):
    n, d = size
    generator = torch.Generator().manual_seed(2020)
    u = F.normalize(torch.randn(1000, d, generator=generator), dim=1).double()
    monkeypatch.setattr(module, "directions", lambda d, seed=0: u)
    estimate = mind(drawn(n, d, 0), drawn(n, d, 1, mean=0.3))
    assert estimate.value == pytest.approx(GOLDEN[size], rel=1e-6)


def test_order_and_dtype_change_nothing_and_it_is_symmetric(monkeypatch: pytest.MonkeyPatch):
    x, y = drawn(80, 12, 0).float(), drawn(80, 12, 1, mean=0.4).float()
    expected = mind(x, y)
    assert mind(x.flip(0), y[torch.randperm(80)]) == pytest.approx(expected, rel=1e-10)
    assert mind(y, x) == pytest.approx(expected, rel=1e-10)
    assert mind(x.double(), y.double()) == expected
    monkeypatch.setattr(module, "_BATCH_DIRECTIONS", 7)
    assert mind(x, y) == pytest.approx(expected, rel=1e-10)
    assert mind(x, y, seed=1).value == pytest.approx(expected.value, rel=0.1)


def test_it_distinguishes_distributions_with_equal_moments():
    """FD cannot distinguish normal numbers from two points at plus and minus one deviation."""
    n, d = 1500, 6
    x = drawn(n, d, 0)
    y = drawn(n, d, 1).sign()
    other = drawn(n, d, 2)
    different, equal = mind(x, y), mind(x, other)
    assert different.low > 2 * equal.high
    assert different.low > 3 * floor(x, n)
    assert distance_of_features(x, y) < 2 * distance_of_features(x, other) + 0.02
    assert kid(x, y).low < 0.02


@pytest.mark.parametrize(("n", "d", "mean"), [(100, 5, 0.0), (100, 5, 0.4), (200, 20, 0.2)])
def test_intervals_contain_the_mean_value_at_n_pictures(n: int, d: int, mean: float):
    estimates = [mind(drawn(n, d, 2 * i), drawn(n, d, 2 * i + 1, mean)) for i in range(60)]
    values = np.array([e.value for e in estimates])
    assert sum(e.low <= values.mean() <= e.high for e in estimates) >= 52
    error = np.mean([(e.high - e.low) / 2 for e in estimates]) / 1.98
    assert 0.8 * values.std() < error < 1.6 * values.std()
    assert all(0 <= e.low <= e.value <= e.high for e in estimates)


@pytest.mark.parametrize("d", [3, 20])
def test_the_floor_is_the_mean_of_two_sets_of_one_distribution(d: int):
    n = 200
    expected = np.mean([mind(drawn(n, d, 2 * i), drawn(n, d, 2 * i + 1)).value for i in range(40)])
    for m, tolerance in ((5 * n, 0.15), (2 * n, 0.2), (n, 0.25)):
        value = np.mean([floor(drawn(m, d, 10**6 + i), n) for i in range(4)])
        assert value == pytest.approx(expected, rel=tolerance), f"from {m} pictures"


def test_the_floor_beyond_half_of_the_reference_falls_as_1_over_n():
    x = drawn(40, 3, 0)
    assert [floor(x, n) for n in (40, 100)] == pytest.approx([floor(x, 20) / 2, floor(x, 20) / 5])


def test_equal_sets_have_distance_0():
    x = drawn(50, 4, 0)
    assert mind(x, x.flip(0)) == pytest.approx((0, 0, 0), abs=1e-12)
    constant = torch.full((20, 3), 0.5)
    assert mind(constant, constant) == pytest.approx((0, 0, 0), abs=1e-12)


@pytest.mark.usefixtures("unchecked_shapes")
def test_invalid_features_are_refused():
    x = drawn(20, 3, 0)
    with pytest.raises(LimnerError, match="MIND needs at least 10 images, not 9"):
        mind(x, x[:9])
    with pytest.raises(LimnerError, match="MIND compares equally many images, not 20 with 19"):
        mind(x, x[:19])
    with pytest.raises(LimnerError, match="of 1 of 20 images are NaN or infinite, so MIND has no"):
        mind(x, x.index_fill(0, torch.tensor(3), torch.nan))
    with pytest.raises(LimnerError, match="the floor of MIND needs at least 20 images, not 19"):
        floor(x[:19], 10)
