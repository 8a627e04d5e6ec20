"""Typicality: exact p-values, both tails, AUROC against scipy's rank test."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from limner.contract.errors import LimnerError
from limner.contract.noise import Noise
from limner.evaluate.typicality import auroc, oddness, p_values, typicality


def normal(n: int, seed: int = 0) -> torch.Tensor:
    return Noise.sampling(seed, 1).normal(n, dtype=torch.float64)[0]


@pytest.mark.parametrize("n", [1, 2, 9, 199])
def test_p_values_have_their_exact_distribution(n: int):
    """Leaving out each of n + 1 real pictures in turn gives the exact distribution of p."""
    scores = normal(n + 1)
    p = torch.stack(
        [p_values(scores[i : i + 1], scores[torch.arange(n + 1) != i])[0] for i in range(n + 1)]
    )
    for a in p.unique().tolist():
        probability = float((p <= a + 1e-12).double().mean())
        assert probability <= a + 1e-12
        if a < 1:
            assert probability == pytest.approx(a, abs=1e-12), "the p-value must be exact"


def test_ties_only_make_p_larger():
    scores = torch.tensor([1.0, 1, 1, 2, 2, 3])
    for i in range(6):
        rest = scores[torch.arange(6) != i]
        p = float(p_values(scores[i : i + 1], rest))
        distinct = float(p_values(scores[i : i + 1] + 1e-6 * (i - 2.5), rest))
        assert p >= distinct


def test_both_tails_count_and_are_distinguished():
    real = normal(999)
    for s, verdict, text in (
        (0.0, "typical", "as likely as real pictures are"),
        (-2.2, "unlikely", "less likely than 98"),
        (2.2, "likely", "likelier than 98"),
        (-80.0, "far too unlikely", "than all 999 real pictures, by"),
        (80.0, "far too likely", "not typical"),
    ):
        result = typicality(s, real)
        assert result.verdict == verdict and text in result.sentence(), (s, result)
    low, high = typicality(-80.0, real), typicality(80.0, real)
    assert low.p == high.p == 2 / 1000
    assert low.percentile == 0 and high.percentile == 100
    assert low.beyond == pytest.approx(-80 - float(real.min()))
    assert high.beyond == pytest.approx(80 - float(real.max()))


def test_the_mode_of_a_normal_distribution_is_not_typical():
    """log p(x) = -(|x|^2 + D log 2 pi) / 2 has its maximum at 0, far from all draws."""
    D = 300
    x = Noise.sampling(3, 500).normal(D, dtype=torch.float64)
    constant = D * math.log(2 * math.pi)
    real = -(x.square().sum(1) + constant) / 2
    assert typicality(-constant / 2, real).verdict == "far too likely"
    shell = -(D + constant) / 2  # mean of log p, the negative entropy
    assert typicality(shell, real).verdict == "typical"
    doubled = -((2 * x).square().sum(1) + constant) / 2
    assert {typicality(float(s), real).verdict for s in doubled} == {"far too unlikely"}


def test_oddness_has_the_order_of_p_and_no_ties_beyond_real_pictures():
    real = normal(99)
    s = torch.cat([torch.linspace(-9, 9, 401).double(), torch.tensor([-math.inf, 1e30])])
    scores, p = oddness(s, real), p_values(s, real)
    assert not ((scores[:, None] > scores) & (p[:, None] > p)).any()
    below = s < real.min()
    assert below.sum() > 100 and len(scores[below].unique()) == below.sum()
    assert scores.max() < 1


def test_a_picture_of_probability_zero_has_a_verdict():
    assert typicality(-math.inf, normal(300)).verdict == "far too unlikely"


def test_few_real_pictures_give_no_strong_verdict():
    result = typicality(1e6, normal(50))
    assert result.verdict == "likely" and "too few to say more" in result.sentence()
    assert "too few" in typicality(1e6, normal(5)).sentence()


@pytest.mark.parametrize("s", [math.nan, math.inf])
def test_scores_that_are_not_finite_and_empty_sets_are_refused(s: float):
    with pytest.raises(LimnerError, match="finite"):
        typicality(s, normal(9))
    with pytest.raises(LimnerError, match="there are none"):
        typicality(0.0, normal(9)[:0])


@given(st.lists(st.integers(0, 6), min_size=1), st.lists(st.integers(0, 6), min_size=1))
def test_auroc_equals_the_u_of_the_rank_test(odd: list[int], real: list[int]):
    """U / (m n) of scipy 1.17's mannwhitneyu, with many ties."""
    expected = mannwhitneyu(odd, real, method="asymptotic").statistic / (len(odd) * len(real))
    assert auroc(torch.tensor(odd).double(), torch.tensor(real).double()) == pytest.approx(
        expected, abs=1e-12
    )


def test_auroc_of_two_normal_distributions_has_its_closed_form():
    shift = 1.0  # Phi(shift / sqrt 2)
    expected = 0.5 * (1 + math.erf(shift / 2))
    assert auroc(normal(4000, 1) + shift, normal(4000, 2)) == pytest.approx(expected, abs=0.02)


def test_auroc_of_an_empty_set_is_an_error():
    with pytest.raises(LimnerError, match="AUROC"):
        auroc(torch.zeros(0), torch.zeros(3))
