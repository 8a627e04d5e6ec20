"""The Inception Score: identities, bias, and reference implementations on the same logits."""

import math
from importlib.metadata import version

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limner.contract.errors import LimnerError
from limner.evaluate.metrics.inception_score import Predictions, Score, inception_score


def logits(n: int, k: int, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(n, k, generator=torch.Generator().manual_seed(n + k))


def one_hot(classes: torch.Tensor, k: int) -> torch.Tensor:
    """Return logits of a certain classifier: other classes' probabilities underflow to 0."""
    return 1e4 * torch.nn.functional.one_hot(classes, k).double()


@settings(max_examples=100)
@given(seed=st.integers(0, 2**31), k=st.integers(2, 12), n=st.integers(1, 30))
def test_sharpness_times_diversity_is_the_divergence(seed: int, k: int, n: int):
    """S D = exp E KL(c(y|x) || c(y)), all within their bounds, for Dirichlet draws."""
    torch.manual_seed(seed)
    c = torch.distributions.Dirichlet(torch.full((k,), 0.3, dtype=torch.float64)).sample((n,))
    c = c.clamp(min=1e-300)
    S, D, IS = Predictions.of(c.log()).score
    c = c / c.sum(1, keepdim=True)
    divergence = (c * (c.log() - c.mean(0).log())).sum(1).mean()
    assert pytest.approx(float(divergence.exp()), rel=1e-12) == IS
    assert IS == S * D
    assert 1 / k - 1e-12 <= S <= 1 + 1e-12
    assert 1 - 1e-12 <= D <= k + 1e-9
    assert 1 - 1e-12 <= IS <= k + 1e-9


def test_extreme_classifiers_have_known_scores():
    k = 7
    uniform = inception_score(torch.zeros(70, k), splits=1).mean
    assert uniform == pytest.approx((1 / k, k, 1), rel=1e-12)
    constant = inception_score(one_hot(torch.full((70,), 2), k)).mean
    assert constant == pytest.approx((1, 1, 1), rel=1e-12)
    balanced = inception_score(one_hot(torch.arange(70) % k, k), splits=1).mean
    assert balanced == pytest.approx((1, k, k), rel=1e-12)


def test_a_perfect_generator_scores_below_the_number_of_classes():
    """Its classes are uniform and certain, but not equally frequent in the N pictures of a split:
    about K exp(-(K - 1) / 2N).
    """
    classes = torch.randint(10, (100_000,), generator=torch.Generator().manual_seed(0))
    score = inception_score(one_hot(classes, 10), splits=1000).mean.inception_score
    assert score == pytest.approx(10 * math.exp(-9 / 200), rel=2e-3)


@pytest.mark.parametrize("splits", [1, 3, 10])
def test_scores_equal_those_of_torch_fidelity(splits: int):
    from torch_fidelity.metric_isc import isc_features_to_metric

    x = logits(257, 11)
    score = inception_score(x, splits, seed=None)
    reference = isc_features_to_metric(x, splits, shuffle=False)
    name = f"torch-fidelity {version('torch-fidelity')}"
    mean, deviation = reference["inception_score_mean"], reference["inception_score_std"]
    assert score.mean.inception_score == pytest.approx(mean, rel=1e-10), name
    assert score.deviation.inception_score == pytest.approx(deviation, rel=1e-9, abs=1e-12), name


@pytest.mark.filterwarnings("ignore:Metric `InceptionScore` will save all:UserWarning")
def test_scores_equal_those_of_torchmetrics():
    """torchmetrics divides the variance by splits - 1 and shuffles with the global generator."""
    from torchmetrics.image.inception import InceptionScore

    x = logits(300, 11).double()
    peer = InceptionScore(feature=torch.nn.Identity(), splits=10)
    peer.set_dtype(torch.float64)
    peer.update(x)
    torch.manual_seed(5)
    mean, deviation = map(float, peer.compute())
    torch.manual_seed(5)
    score = inception_score(x[torch.randperm(300)], splits=10, seed=None)
    name = f"torchmetrics {version('torchmetrics')}"
    assert score.mean.inception_score == pytest.approx(mean, rel=1e-9), name
    assert score.deviation.inception_score * math.sqrt(10 / 9) == pytest.approx(deviation, rel=1e-9)


def test_merged_parts_equal_the_whole():
    x = logits(100, 5)
    expected = inception_score(x, splits=1)
    assert expected.splits == (expected.mean,)
    assert expected.deviation == Score(0, 0, 0)
    parts = [Predictions.of(rows) for rows in x.split(7)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    assert merged.score == pytest.approx(expected.mean, rel=1e-12)
    ten = inception_score(x)
    assert len(ten.splits) == 10
    assert ten.mean.diversity == pytest.approx(sum(s.diversity for s in ten.splits) / 10)


def test_the_shuffle_depends_only_on_the_seed():
    x = one_hot(torch.arange(100) // 10, 10)
    assert inception_score(x, seed=None).mean.inception_score == pytest.approx(1)
    shuffled = inception_score(x)
    assert shuffled.mean.inception_score > 5
    torch.manual_seed(1)
    assert inception_score(x) == shuffled
    assert inception_score(x, seed=1) != shuffled


def test_invalid_logits_are_refused():
    with pytest.raises(LimnerError, match="in 10 splits needs as many images, not 9"):
        inception_score(logits(9, 3))
    with pytest.raises(LimnerError, match="in 10 splits needs as many images, not 0"):
        inception_score(logits(0, 3))
    with pytest.raises(LimnerError, match="at least 1 split, not 0"):
        inception_score(logits(9, 3), splits=0)
    x = logits(20, 3)
    x[3] = torch.nan
    with pytest.raises(LimnerError, match="of 1 of 2 images are NaN or infinite"):
        inception_score(x, seed=None)
    with pytest.raises(LimnerError, match="3 classes cannot be added to 4"):
        Predictions.of(logits(2, 3)).merge(Predictions.of(logits(2, 4)))
