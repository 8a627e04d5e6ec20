"""The kernel distance: a closed form, unbiasedness, blocks, and reference implementations."""

from importlib.metadata import version

import numpy as np
import pytest
import torch

from limner.contract.errors import LimnerError
from limner.evaluate.metrics import kid as kid_module
from limner.evaluate.metrics.kid import kid
from limner.evaluate.metrics.statistics import DRAWS, IntervalEstimate, bootstrap_samples, expand


def drawn(n: int, d: int, seed: int, mean: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, dtype=torch.float64, generator=generator) + mean


def kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def all_pairs(x: torch.Tensor, y: torch.Tensor) -> float:
    """Return the distance as three means over all pairs without pairs of an image with itself."""
    inner = [kernel(z, z)[~torch.eye(len(z), dtype=torch.bool)].mean() for z in (x, y)]
    return float(sum(inner) - 2 * kernel(x, y).mean())


@pytest.mark.parametrize(("n", "m", "d"), [(10, 10, 1), (150, 230, 5), (230, 99, 3)])
def test_the_value_is_the_mean_over_all_pairs(n: int, m: int, d: int):
    x, y = drawn(n, d, 0), drawn(m, d, 1, mean=0.4)
    assert kid(x, y).value == pytest.approx(all_pairs(x, y), rel=1e-11)
    assert kid(y, x).value == pytest.approx(all_pairs(x, y), rel=1e-11)


def test_block_size_and_dtype_change_nothing(monkeypatch: pytest.MonkeyPatch):
    x, y = drawn(230, 4, 0).float(), drawn(170, 4, 1, mean=0.4).float()
    expected = kid(x, y)
    assert kid(x.double(), y.double()) == expected
    monkeypatch.setattr(kid_module, "_TILE", 17)
    assert kid(x, y) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("a", [0.0, 0.7])
def test_its_mean_equals_the_closed_form(a: float):
    """N(0, 1) against N(a, 1) in one dimension: 3a^2 + 3a^4 + (a^3 + 3a)^2. At a = 0 it is
    negative as often as positive."""
    expected = 3 * a**2 + 3 * a**4 + (a**3 + 3 * a) ** 2
    pairs = [(drawn(40, 1, 2 * i), drawn(40, 1, 2 * i + 1, mean=a)) for i in range(2000)]
    distances = np.array([all_pairs(x, y) for x, y in pairs])
    assert abs(distances.mean() - expected) < 3 * distances.std() / np.sqrt(len(distances))
    if not a:
        assert 0.3 < (distances < 0).mean() < 0.8
    values = np.array([kid(x, y).value for x, y in pairs[:5]])
    np.testing.assert_allclose(values, distances[:5], rtol=1e-10)


@pytest.mark.parametrize("d", [16, 64])
def test_values_equal_reference_implementations_on_one_subset(d: int):
    from cleanfid.fid import kernel_distance
    from torch_fidelity.metric_kid import kernel_mmd
    from torchmetrics.image.kid import poly_mmd

    x, y = drawn(300, d, 0), drawn(300, d, 1, mean=0.4)
    distance = kid(x, y).value
    options = {"kid_kernel": "poly", "kid_kernel_poly_degree": 3, "kid_kernel_poly_coef0": 1}
    references = {
        "torch-fidelity": float(kernel_mmd(x.numpy(), y.numpy(), **options)),
        "torchmetrics": float(poly_mmd(x, y)),
        "clean-fid": kernel_distance(x.numpy(), y.numpy(), num_subsets=1, max_subset_size=300),
    }
    for package, value in references.items():
        assert distance == pytest.approx(value, rel=1e-9), f"{package} {version(package)}"


def test_the_interval_equals_a_bootstrap():
    """With fewer than 100 images each image is a group: the bootstrap draws images."""
    x, y = drawn(20, 2, 0), drawn(30, 2, 1, mean=0.4)
    groups = [kid_module._groups(n, seed) for n, seed in ((20, 0), (30, 1))]
    draws = [bootstrap_samples(n, seed) for n, seed in ((20, 0), (30, DRAWS))]
    values = []
    for i, j in zip(*draws):
        # Images of the drawn groups; pairs of an image with itself do not count.
        (a, b) = (z[group.argsort()][index] for z, group, index in zip((x, y), groups, (i, j)))
        inner = [kernel(z, z)[index[:, None] != index].mean() for z, index in ((a, i), (b, j))]
        values.append(float(sum(inner) - 2 * kernel(a, b).mean()))
    low, high = np.quantile(values, [0.025, 0.975])
    expected = expand(IntervalEstimate(all_pairs(x, y), low, high), 20)
    assert expected.low < low and high < expected.high
    assert kid(x, y) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("mean", "least"), [(0.0, 38), (0.4, 34)])
def test_intervals_contain_the_truth(mean: float, least: int):
    """95 % of them for different distributions, more for equal ones."""
    d = 3
    # E k(x, y) = 1 + 3 m + 3 E (x'y / d)^2 + E (x'y / d)^3, with moments of independent numbers
    big = [drawn(4000, d, 10**6), drawn(4000, d, 10**6 + 1, mean=mean)]
    expected = all_pairs(*big) if mean else 0.0
    estimates = [
        kid(drawn(150, d, 2 * i), drawn(120, d, 2 * i + 1, mean), seed=i) for i in range(40)
    ]
    assert sum(e.low <= expected <= e.high for e in estimates) >= least
    assert all(e.low <= e.value <= e.high for e in estimates)
    assert sum(e.low > 0 for e in estimates) == (0 if not mean else pytest.approx(35, abs=5))


def test_equal_sets_have_a_distance_of_at_most_0():
    x = drawn(200, 4, 0)
    assert kid(x, x).value < 0, "only pairs across the sets include an image with itself"
    constant = torch.full((200, 4), 0.5)
    assert kid(constant, constant) == pytest.approx((0, 0, 0), abs=1e-12)
    assert kid(constant, x).low > 0


def test_invalid_features_are_refused():
    x = drawn(20, 3, 0)
    with pytest.raises(LimnerError, match="KID needs at least 10 images, not 9"):
        kid(x, x[:9])
    with pytest.raises(LimnerError, match="of 1 of 20 images are NaN or infinite, so KID has no"):
        kid(x, x.index_fill(0, torch.tensor(3), torch.nan))


@pytest.mark.usefixtures("unchecked_shapes")
def test_different_numbers_of_features_are_refused():
    with pytest.raises(LimnerError, match="3 features cannot be compared with 4"):
        kid(drawn(20, 3, 0), drawn(20, 4, 0))
