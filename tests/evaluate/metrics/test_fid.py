"""The Frechet distance: closed forms, invariances, bias, and reference implementations."""

import math
import warnings
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from limner.contract.errors import LimnerError
from limner.evaluate.metrics.fid import (
    distance_of_features,
    distance_of_pairs,
    extrapolate,
    floor,
    frechet_distance,
    limit,
)
from limner.evaluate.metrics.statistics import Moments

MANY = 10**9  # number of images at which moments equal those of the distribution


def law(mean: torch.Tensor, covariance: torch.Tensor) -> Moments:
    return Moments(MANY, mean.double(), covariance.double() * (MANY - 1))


def mix(d: int) -> torch.Tensor:
    """Return a matrix that makes features correlated with different variances."""
    axes = torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(d))
    return torch.logspace(0, -1, d, dtype=torch.float64)[:, None] * torch.linalg.qr(axes)[0]


def drawn(n: int, d: int, seed: int, scale: float = 1.0, mean: float = 0.0) -> torch.Tensor:
    """Return n features from N(mean, scale^2 mix' mix)."""
    x = torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return scale * x @ mix(d) + mean


def sqrtm(product: np.ndarray) -> np.ndarray:
    root = linalg.sqrtm(product)
    assert np.abs(np.imag(root)).max() < 1e-6
    return np.real(root)


@pytest.mark.parametrize("d", [1, 5])
def test_isotropic_distributions(d: int):
    """|m_1 - m_2|^2 + d (s_1 - s_2)^2."""
    a = law(torch.full((d,), 2.0), 9 * torch.eye(d))
    b = law(torch.full((d,), -1.0), 4 * torch.eye(d))
    assert frechet_distance(a, b) == pytest.approx(9 * d + d, rel=1e-12)
    assert frechet_distance(b, a) == pytest.approx(10 * d, rel=1e-12)


def test_commuting_covariances():
    """sum (sqrt l - sqrt k)^2 for any common eigenvectors; some eigenvalues may be 0."""
    axes = torch.linalg.qr(drawn(4, 4, 0))[0]
    for values in (([1.0, 2, 3, 4], [4.0, 3, 2, 1]), ([1.0, 2, 0, 0], [0.0, 3, 2, 0])):
        one, other = torch.tensor(values, dtype=torch.float64)
        a, b = (law(torch.zeros(4), axes @ v.diag() @ axes.T) for v in (one, other))
        expected = float((one.sqrt() - other.sqrt()).square().sum())
        assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_two_by_two_matrices_against_scipys_matrix_root():
    one, other = torch.tensor([[2.0, 0.7], [0.7, 1]]), torch.tensor([[1.0, -0.4], [-0.4, 3]])
    root = sqrtm((one.double() @ other.double()).numpy())
    expected = 7 - 2 * np.trace(root)
    a, b = (law(torch.zeros(2), covariance) for covariance in (one, other))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(3, 40),
    m=st.integers(3, 40),
    factor=st.floats(0.1, 10),
    shift=st.floats(-100, 100),
)
def test_it_is_invariant_to_rotation_and_shift_and_quadratic_in_scale(seed, n, m, factor, shift):
    d = 12  # between, below and above n and m
    x, y = drawn(n, d, seed), drawn(m, d, seed + 1, scale=1.3, mean=0.2)
    rotation = torch.linalg.qr(drawn(d, d, seed + 2))[0]
    expected = distance_of_features(x, y)
    distance = distance_of_features(factor * x @ rotation + shift, factor * y @ rotation + shift)
    assert distance == pytest.approx(factor**2 * expected, rel=1e-8, abs=1e-8)
    assert distance_of_features(y, x) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(("n", "d"), [(200, 16), (10, 16), (16, 16), (2, 16), (17, 16)])
def test_the_distance_from_itself_is_0(n: int, d: int):
    x = drawn(n, d, 0)
    assert 0 <= distance_of_features(x, x) < 1e-8
    assert 0 <= frechet_distance(Moments.of(x), Moments.of(x)) < 1e-8


def test_all_formulas_for_the_trace_of_the_root_agree():
    """Cholesky and symmetric eigenvalues, scipy's matrix root, eigenvalues of the product, and the
    nuclear norm of the centred features."""
    x, y = drawn(300, 64, 0), drawn(400, 64, 1, scale=1.5, mean=0.3)
    distance = frechet_distance(Moments.of(x), Moments.of(y))
    assert distance_of_features(x, y) == distance
    one, other = (np.cov(z.numpy(), rowvar=False) for z in (x, y))
    total = float((x.mean(0) - y.mean(0)).square().sum()) + np.trace(one) + np.trace(other)
    assert distance == pytest.approx(total - 2 * np.trace(sqrtm(one @ other)), rel=1e-9)
    product = np.linalg.eigvals(one @ other).astype(complex)
    assert distance == pytest.approx(total - 2 * np.sqrt(product).real.sum(), rel=1e-9)
    nuclear = torch.linalg.svdvals((x - x.mean(0)) @ (y - y.mean(0)).T).sum()
    nuclear = float(nuclear) / math.sqrt((len(x) - 1) * (len(y) - 1))
    assert distance == pytest.approx(total - 2 * nuclear, rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(30, 40), (30, 64), (65, 20), (200, 30), (2, 3)])
def test_it_equals_the_nuclear_norm_with_fewer_images_than_features(n: int, m: int):
    """The covariances are singular, but the nuclear norm does not need them."""
    d = 64
    x, y = drawn(n, d, 0), drawn(m, d, 1, scale=1.5, mean=0.3)
    a, b = ((z - z.mean(0)) / math.sqrt(len(z) - 1) for z in (x, y))
    nuclear = torch.linalg.svdvals(a @ b.T).sum()
    total = (x.mean(0) - y.mean(0)).square().sum() + a.square().sum() + b.square().sum()
    expected = float(total - 2 * nuclear)
    assert distance_of_features(x, y) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(Moments.of(x), Moments.of(y)) == pytest.approx(expected, rel=1e-9)


def test_constant_and_repeated_features():
    """Constant and copied units make covariances singular for any number of images."""
    x, y = drawn(300, 8, 0), drawn(300, 8, 1, scale=1.5, mean=0.3)
    expected = distance_of_features(x, y)
    wide = [torch.cat([z, z, torch.full((300, 3), 0.1, dtype=torch.float64)], 1) for z in (x, y)]
    assert distance_of_features(*wide) == pytest.approx(2 * expected, rel=1e-9)


def test_a_model_with_one_picture():
    """The distance is that of the means plus the variance of the other set."""
    y = drawn(100, 8, 1)
    for n in (100, 5):
        x = torch.full((n, 8), 0.3, dtype=torch.float64)
        expected = float((0.3 - y.mean(0)).square().sum() + y.var(0).sum())
        assert distance_of_features(x, y) == pytest.approx(expected, rel=1e-9)
        assert distance_of_features(x, x) == pytest.approx(0, abs=1e-20)


Theirs = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], float]


def of_pytorch_fid() -> Theirs:
    from pytorch_fid.fid_score import calculate_frechet_distance

    return calculate_frechet_distance


def of_clean_fid() -> Theirs:
    from cleanfid.fid import frechet_distance as theirs

    return theirs


def of_torch_fidelity() -> Theirs:
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    def theirs(m1, s1, m2, s2) -> float:
        one, other = {"mu": m1, "sigma": s1}, {"mu": m2, "sigma": s2}
        return fid_statistics_to_metric(one, other, False)["frechet_inception_distance"]

    return theirs


def of_torchmetrics() -> Theirs:
    from torchmetrics.image.fid import _compute_fid

    return lambda *parts: float(_compute_fid(*map(torch.from_numpy, parts)))


@pytest.mark.parametrize(
    ("package", "peer"),
    [
        ("pytorch-fid", of_pytorch_fid),
        ("clean-fid", of_clean_fid),
        ("torch-fidelity", of_torch_fidelity),
        ("torchmetrics", of_torchmetrics),
    ],
)
@pytest.mark.parametrize("d", [3, 128])
def test_it_equals_reference_implementations(package: str, peer: Callable[[], Theirs], d: int):
    x, y = drawn(600, d, 0), drawn(500, d, 1, scale=1.5, mean=0.3)
    parts = [f(z.numpy()) for z in (x, y) for f in (lambda z: z.mean(0), lambda z: np.cov(z.T))]
    with warnings.catch_warnings():  # scipy warns that sqrtm's `disp` is deprecated
        warnings.filterwarnings("ignore", message="The `disp` argument", append=False)
        expected = peer()(*parts)
    distance = frechet_distance(Moments.of(x), Moments.of(y))
    assert distance == pytest.approx(expected, rel=1e-9), f"{package} {version(package)}"


@pytest.mark.parametrize(("d", "n", "m"), [(32, 1000, 1000), (64, 1000, 5000)])
def test_the_floor_is_the_mean_distance_of_equal_distributions(d: int, n: int, m: int):
    pairs = ((drawn(n, d, 2 * i), drawn(m, d, 2 * i + 1)) for i in range(20))
    mean = np.mean([distance_of_features(x, y) for x, y in pairs])
    assert mean == pytest.approx(floor(mix(d).T @ mix(d), n, m), rel=0.05)
    estimate = floor(drawn(n, d, 0).T.cov(), n, m)
    assert mean == pytest.approx(estimate, rel=0.1), "a sample's covariance must suffice"


def test_the_floor_of_unit_variances_in_closed_form():
    """(1/n + 1/m) (d + d (d + 1) / 4)."""
    expected = (1 / 100 + 1 / 50) * (6 + 6 * 7 / 4)
    assert floor(torch.eye(6, dtype=torch.float64), 100, 50) == pytest.approx(expected, rel=1e-12)
    half = floor(torch.eye(6, dtype=torch.float64), 100, math.inf)
    assert half == pytest.approx(expected / 3, rel=1e-12)
    assert floor(torch.zeros(6, 6, dtype=torch.float64), 100, 50) == 0
    with pytest.raises(LimnerError, match="of 6 features needs more than 6 images, not 6"):
        floor(torch.eye(6, dtype=torch.float64), 100, 6)


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 1.0), (0.2, 1.3)])
def test_the_limit_is_the_distance_of_the_distributions(mean: float, scale: float):
    """For equal and different distributions, it is the mean; 95 % of the intervals contain it."""
    d, n, sets = 12, 200, 30
    covariance = mix(d).T @ mix(d)
    truth = law(torch.full((d,), mean), scale**2 * covariance)
    reference = law(torch.zeros(d), covariance)
    expected = frechet_distance(truth, reference)
    samples = [drawn(n, d, i, scale, mean) for i in range(sets)]
    estimates = [extrapolate(x, reference, seed=i) for i, x in enumerate(samples)]
    assert sum(e.low <= expected <= e.high for e in estimates) >= 26
    values = np.array([e.value for e in estimates])
    assert abs(values.mean() - expected) < 3 * values.std() / math.sqrt(sets)
    biased = np.mean([frechet_distance(Moments.of(x), reference) for x in samples])
    assert biased - expected > 0.5 * floor(truth.covariance, n, math.inf)


def test_the_limit_does_not_depend_on_the_order_of_parts():
    x, reference = drawn(100, 4, 0), Moments.of(drawn(1000, 4, 1))
    parts = [Moments.of(rows) for rows in x.split(10)]
    assert limit(parts, reference) == pytest.approx(limit(parts[::-1], reference), rel=1e-9)
    assert extrapolate(x.float(), reference) == extrapolate(x.float(), reference)
    with pytest.raises(LimnerError, match="at least 5 parts, not 4"):
        limit(parts[:4], reference)
    with pytest.raises(LimnerError, match="of 4 features needs more than 8 images, not 5"):
        limit([Moments.of(row[None]) for row in x[:5]], reference)
    with pytest.raises(LimnerError, match="needs at least 20 images, not 12"):
        extrapolate(x[:12], reference)


def test_the_interval_of_pairs_contains_the_mean_distance():
    """60 sets of 40 pairs; the nominal share is 95 %."""
    torch.manual_seed(0)
    sets = [(x := torch.randn(40, 6), x + 0.5 * torch.randn(40, 6) + 0.2) for _ in range(60)]
    estimates = [distance_of_pairs(*pair, seed=i) for i, pair in enumerate(sets)]
    for estimate, pair in zip(estimates, sets):
        assert estimate.value == distance_of_features(*pair)
    mean = sum(estimate.value for estimate in estimates) / len(estimates)
    count = sum(estimate.low <= mean <= estimate.high for estimate in estimates)
    assert count >= 54
    widths = [estimate.high - estimate.low for estimate in estimates]
    values = torch.tensor([estimate.value for estimate in estimates])
    assert sum(widths) / len(widths) < 8 * float(values.std()), "the intervals are too wide"
    few = distance_of_pairs(*(x[:5] for x in sets[0]))
    assert few.low <= few.value <= few.high


def test_invalid_features_are_refused():
    x = drawn(9, 3, 0)
    with pytest.raises(LimnerError, match="the Frechet distance needs at least 2 images, not 1"):
        distance_of_features(x, x[:1])
    with pytest.raises(LimnerError, match="at least 2 images, not 1"):
        frechet_distance(Moments.of(x), Moments.of(x[:1]))
    with pytest.raises(LimnerError, match="of 9 of 9 images are NaN or infinite"):
        distance_of_features(x / 0, x)
    with pytest.raises(LimnerError, match="the sum of their squares overflows"):
        frechet_distance(Moments.of(1e200 * x), Moments.of(x))


@pytest.mark.usefixtures("unchecked_shapes")
def test_different_numbers_of_features_are_refused():
    with pytest.raises(LimnerError, match="3 features cannot be compared with 4"):
        frechet_distance(Moments.of(drawn(9, 3, 0)), Moments.of(drawn(9, 4, 0)))
    with pytest.raises(LimnerError, match="3 features cannot be compared with 4"):
        distance_of_features(drawn(9, 3, 0), drawn(9, 4, 0))
