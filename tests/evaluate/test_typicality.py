"""Typicality: p-values that hold exactly, both tails, AUROC against scipy's rank test."""

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
def test_each_rank_is_equally_likely_so_that_p_below_a_happens_in_a_at_most(n: int):
    """One of n + 1 real pictures is taken out, each in turn: the law of p, exactly."""
    scores = normal(n + 1)
    p = torch.stack(
        [p_values(scores[i : i + 1], scores[torch.arange(n + 1) != i])[0] for i in range(n + 1)]
    )
    for a in p.unique().tolist():
        happens = float((p <= a + 1e-12).double().mean())
        assert happens <= a + 1e-12
        if a < 1:
            assert happens == pytest.approx(a, abs=1e-12), "no test could be sharper"


def test_ties_only_make_p_larger():
    scores = torch.tensor([1.0, 1, 1, 2, 2, 3])
    for i in range(6):
        rest = scores[torch.arange(6) != i]
        p = float(p_values(scores[i : i + 1], rest))
        apart = float(p_values(scores[i : i + 1] + 1e-6 * (i - 2.5), rest))
        assert p >= apart


def test_both_tails_count_and_are_told_apart():
    real = normal(999)
    for s, verdict, words in (
        (0.0, "typical", "as likely as real pictures are"),
        (-2.2, "unlikely", "less likely than 98"),
        (2.2, "likely", "likelier than 98"),
        (-80.0, "far too unlikely", "than all 999 real pictures, by"),
        (80.0, "far too likely", "not typical"),
    ):
        found = typicality(s, real)
        assert found.verdict == verdict and words in found.sentence(), (s, found)
    low, high = typicality(-80.0, real), typicality(80.0, real)
    assert low.p == high.p == 2 / 1000
    assert low.percentile == 0 and high.percentile == 100
    assert low.beyond == pytest.approx(-80 - float(real.min()))
    assert high.beyond == pytest.approx(80 - float(real.max()))


def test_the_origin_is_likelier_than_all_draws_of_a_normal_law_and_not_typical():
    """The closed form: log p(x) = -(|x|^2 + D log 2 pi) / 2 has its maximum where no draw is."""
    D = 300
    x = Noise.sampling(3, 500).normal(D, dtype=torch.float64)
    constant = D * math.log(2 * math.pi)
    real = -(x.square().sum(1) + constant) / 2
    assert typicality(-constant / 2, real).verdict == "far too likely"
    shell = -(D + constant) / 2  # the mean of log p, minus the entropy
    assert typicality(shell, real).verdict == "typical"
    doubled = -((2 * x).square().sum(1) + constant) / 2
    assert {typicality(float(s), real).verdict for s in doubled} == {"far too unlikely"}


def test_oddness_orders_as_p_does_and_goes_on_beyond_all_real_pictures():
    real = normal(99)
    s = torch.cat([torch.linspace(-9, 9, 401).double(), torch.tensor([-math.inf, 1e30])])
    odd, p = oddness(s, real), p_values(s, real)
    assert not ((odd[:, None] > odd) & (p[:, None] > p)).any()
    left = s < real.min()
    assert left.sum() > 100 and len(odd[left].unique()) == left.sum()
    assert odd.max() < 1


def test_a_picture_of_probability_zero_has_a_verdict():
    assert typicality(-math.inf, normal(300)).verdict == "far too unlikely"


def test_few_real_pictures_allow_no_strong_verdict():
    found = typicality(1e6, normal(50))
    assert found.verdict == "likely" and "too few to say more" in found.sentence()
    assert "too few" in typicality(1e6, normal(5)).sentence()


@pytest.mark.parametrize("s", [math.nan, math.inf])
def test_what_has_no_place_among_them_is_an_error(s: float):
    with pytest.raises(LimnerError, match="finite"):
        typicality(s, normal(9))
    with pytest.raises(LimnerError, match="there are none"):
        typicality(0.0, normal(9)[:0])


@given(st.lists(st.integers(0, 6), min_size=1), st.lists(st.integers(0, 6), min_size=1))
def test_auroc_is_the_rank_tests_u(odd: list[int], real: list[int]):
    """scipy 1.17, mannwhitneyu: U / (m n), with many ties."""
    expected = mannwhitneyu(odd, real, method="asymptotic").statistic / (len(odd) * len(real))
    assert auroc(torch.tensor(odd).double(), torch.tensor(real).double()) == pytest.approx(
        expected, abs=1e-12
    )


def test_auroc_of_two_normal_laws_has_its_closed_form():
    shift = 1.0  # Phi(shift / sqrt 2)
    expected = 0.5 * (1 + math.erf(shift / 2))
    assert auroc(normal(4000, 1) + shift, normal(4000, 2)) == pytest.approx(expected, abs=0.02)


def test_auroc_of_nothing_is_an_error():
    with pytest.raises(LimnerError, match="AUROC"):
        auroc(torch.zeros(0), torch.zeros(3))
