"""Precision and recall, density and coverage: known sets, ties, and reference implementations."""

from importlib.metadata import version

import pytest
import torch

from limner.contract.errors import LimnerError
from limner.evaluate.metrics import density_coverage as density_module
from limner.evaluate.metrics import neighbours
from limner.evaluate.metrics import precision_recall as precision_module
from limner.evaluate.metrics.density_coverage import DensityAndCoverage
from limner.evaluate.metrics.precision_recall import PrecisionAndRecall
from limner.evaluate.metrics.statistics import (
    combine_intervals,
    random_order,
    student_quantile,
    wilson_interval,
)


def drawn(n: int, d: int, seed: int, mean: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, dtype=torch.float64, generator=generator) + mean


def precision_recall(*arguments: object) -> PrecisionAndRecall:
    """Return precision and recall without their intervals."""
    return PrecisionAndRecall(*(x.value for x in precision_module.precision_recall(*arguments)))


def density_coverage(*arguments: object) -> DensityAndCoverage:
    return DensityAndCoverage(*(x.value for x in density_module.density_coverage(*arguments)))


def line(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


@pytest.mark.parametrize("k", [1, 3, 5])
def test_equal_sets_have_precision_and_recall_1(k: int):
    x = drawn(60, 8, 0)
    assert precision_recall(x, x, k) == (1, 1)
    density, coverage = density_coverage(x, x, k)
    assert density == pytest.approx((k + 1) / k), (
        "each ball must contain its own point and k others"
    )
    assert coverage == 1


def test_sets_far_apart_score_0():
    x, y = drawn(60, 8, 0), drawn(60, 8, 1, mean=50)
    assert precision_recall(x, y) == (0, 0)
    assert density_coverage(x, y) == (0, 0)


def test_one_repeated_real_point_has_precision_1_but_low_recall():
    x = drawn(60, 8, 0)
    result = precision_recall(x, x[7].expand(60, 8))
    assert result.precision == 1
    assert result.recall == pytest.approx(1 / 60)
    assert density_coverage(x, x[7].expand(60, 8)).coverage < 0.5


def test_points_on_a_line_have_known_values():
    """Balls of the real points (k = 1): [-1, 1], [0, 2], [1, 7] and [4, 20]; of the fakes:
    [0.5, 1.5], [1, 2], [1.5, 14.5] and [8, 24]."""
    real, fake = line(0, 1, 4, 12), line(1, 1.5, 8, 16)
    result = precision_recall(real, fake, 1)
    assert result == (1, 3 / 4), "point 0 must not lie in a fake ball"
    density, coverage = density_coverage(real, fake, 1)
    assert density == (3 + 2 + 1 + 1) / 4, "point 1 must lie in three balls, on the border of two"
    assert coverage == 1


@pytest.mark.parametrize("k", [1, 5])
def test_values_equal_those_of_prdc(k: int, capsys: pytest.CaptureFixture[str]):
    from prdc import compute_prdc

    x, y = drawn(150, 6, 0), drawn(130, 6, 1, mean=0.3)
    expected = compute_prdc(x.numpy(), y.numpy(), k)
    assert "Num real" in capsys.readouterr().out
    values = {**precision_recall(x, y, k)._asdict(), **density_coverage(x, y, k)._asdict()}
    assert 0.05 < values["recall"] < 0.99
    assert 0.05 < values["coverage"] < 0.99
    assert values == pytest.approx(expected, rel=1e-9), f"prdc {version('prdc')}"


def test_values_equal_those_of_torch_fidelity():
    """torch-fidelity takes the fakes as the first set."""
    from torch_fidelity.metric_prc import prc_features_to_metric

    x, y = drawn(150, 6, 0), drawn(130, 6, 1, mean=0.5)
    peer = prc_features_to_metric(y, x, prc_neighborhood=3, verbose=False)
    result = precision_recall(x, y)
    name = f"torch-fidelity {version('torch-fidelity')}"
    assert result.precision != result.recall
    assert result.precision == pytest.approx(peer["precision"], rel=1e-6), name  # peer: float32
    assert result.recall == pytest.approx(peer["recall"], rel=1e-6), name


@pytest.mark.parametrize("block", [1, 64, 1000])
def test_block_size_changes_nothing(block: int, monkeypatch: pytest.MonkeyPatch):
    x, y = drawn(70, 6, 0), drawn(50, 6, 1, mean=0.3)
    # Ties at 0 and at larger distances.
    x, y = torch.cat([x, y[:20], x[:5]]), torch.cat([y, x[:20], y[:3]])
    expected = precision_recall(x, y), density_coverage(x, y)
    monkeypatch.setattr(neighbours, "_BLOCK_DISTANCES", block)
    assert (precision_recall(x, y), density_coverage(x, y)) == expected


def test_rotation_shift_and_scale_change_nothing():
    """Copies are included: points then lie exactly on the radius of balls."""
    x, y = drawn(70, 6, 0), drawn(70, 6, 1, mean=0.3)
    x, y = torch.cat([x, y[:30]]), torch.cat([y, x[:30]])
    rotation = torch.linalg.qr(drawn(6, 6, 2))[0]
    pair = [1e-3 * z @ rotation + 50 for z in (x, y)]
    assert precision_recall(*pair) == precision_recall(x, y)
    assert density_coverage(*pair) == density_coverage(x, y)


def test_sets_of_one_repeated_point_are_equal_or_disjoint():
    """prdc's open balls of radius 0 would be empty here."""
    one, other = torch.full((20, 3), 0.1), torch.full((20, 3), 0.2)
    assert precision_recall(one, one) == (1, 1)
    assert density_coverage(one, one).coverage == 1
    assert precision_recall(one, other) == (0, 0)
    assert density_coverage(one, other) == (0, 0)
    assert precision_recall(drawn(20, 3, 0, mean=9), one) == (0, 0)


def test_invalid_features_are_refused():
    x = drawn(20, 3, 0)
    with pytest.raises(LimnerError, match="recall with k = 3 needs at least 4 images, not 3"):
        precision_recall(x, x[:3])
    with pytest.raises(LimnerError, match="coverage with k = 5 needs at least 6 images, not 5"):
        density_coverage(x[:5], x)
    with pytest.raises(LimnerError, match="needs at least 1 image, not 0"):
        density_coverage(x, x[:0])
    assert 0 <= density_coverage(x, x[:1]).coverage < 1
    for call in (precision_recall, density_coverage):
        with pytest.raises(LimnerError, match="k must be at least 1, not 0"):
            call(x, x, 0)
        with pytest.raises(LimnerError, match="of 20 of 20 images are NaN or infinite"):
            call(x, x / 0)


@pytest.mark.usefixtures("unchecked_shapes")
def test_different_numbers_of_features_are_refused():
    for call in (precision_recall, density_coverage):
        with pytest.raises(LimnerError, match="3 features cannot be compared with 4"):
            call(drawn(20, 3, 0), drawn(20, 4, 0))


def in_balls(points: torch.Tensor, centres: torch.Tensor, k: int) -> torch.Tensor:
    """Return whether each point lies in the ball of each centre."""
    radii = torch.cdist(centres, centres).sort(1).values[:, k]
    return torch.cdist(points, centres) <= radii + 1e-9


def variance_over_other_sets(terms: torch.Tensor) -> float:
    """Compute 19/20 sum_g sum_{i != j} d_gi d_gj / n (n - 1); row 0 of the terms has no group."""
    change, n = terms[1:] - terms[1:].mean(0), terms.shape[1]
    products = change.T @ change
    return max(0.0, 19 / 20 * float(products.sum() - products.trace()) / (n * (n - 1)))


def test_intervals_equal_jackknives_from_sets_without_each_group():
    real, fake = drawn(60, 2, 0), drawn(70, 2, 1, mean=0.8)
    group, other_group = random_order(60, 0) % 20, random_order(70, 1) % 20
    reals = [real] + [real[group != g] for g in range(20)]
    fakes = [fake] + [fake[other_group != g] for g in range(20)]
    t, wilson = student_quantile(19), wilson_interval

    terms = torch.stack([in_balls(fake, version, 3).any(1).double() for version in reals])
    share, half = float(terms[0].mean()), t * variance_over_other_sets(terms) ** 0.5
    limits = wilson(share, 70), (share - half, share + half)
    precision = precision_module.precision_recall(real, fake, 3).precision
    assert precision == pytest.approx(combine_intervals(share, limits))

    counts = torch.stack([in_balls(fake, version, 3).sum(1) / 3 for version in reals]).double()
    variance = float(counts[0].var()) / 70 + variance_over_other_sets(counts)
    result = density_module.density_coverage(real, fake, 3)
    assert result.density.value == pytest.approx(float(counts[0].mean()))
    assert result.density.high - result.density.value == pytest.approx(1.959964 * variance**0.5)

    terms = torch.stack([in_balls(version, real, 3).any(0).double() for version in fakes])
    share = float(terms[0].mean())
    shares = torch.stack(
        [in_balls(fake, version, 3).any(0).double().mean() for version in reals[1:]]
    )
    own = max(0.0, 19 * float(shares.var(correction=0)) - float(terms[0].var()) / 60)
    half = t * (variance_over_other_sets(terms) + own) ** 0.5
    limits = wilson(share, 60), (share - half, share + half)
    assert own > 0 and result.coverage == pytest.approx(combine_intervals(share, limits))


def test_an_interval_is_narrow_where_all_points_or_nearly_all_lie_inside():
    """Also if some would not without a group of the other set."""
    pairs = [(drawn(100, 2, seed), drawn(100, 2, seed + 50) / 2) for seed in range(12)]
    estimates = [precision_module.precision_recall(*pair).precision for pair in pairs]
    sets = [(drawn(50, 8, seed), drawn(50, 8, seed + 50) / 2) for seed in range(12)]
    estimates += [density_module.density_coverage(*pair).coverage for pair in sets]
    assert max(estimate.value for estimate in estimates) == 1
    assert sum(0.9 < estimate.value < 1 for estimate in estimates) > 2
    assert all(estimate.low > 0.7 for estimate in estimates if estimate.value > 0.9)
