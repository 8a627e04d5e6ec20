"""The metric `modes`: number of modes and divergence, as on StackedMNIST."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec
from limner.contract.registry import build
from limner.data import open_data
from limner.data.dataset import Dataset
from limner.evaluate.evaluation import evaluate
from limner.evaluate.metric import NotApplicable, Setting
from limner.evaluate.metrics.modes import Modes, modes, stacked_modes
from limner.evaluate.picture_sets import RealPictures
from limner.evaluate.subject import Candidate, Reference


def test_a_uniform_model_covers_all_modes_and_has_the_floor():
    """Closed form for StackedMNIST: 1,000 modes, and a divergence of about (K - 1) / 2N."""
    digits = torch.randint(10, (26_000, 3), generator=torch.Generator().manual_seed(0))
    result = modes(stacked_modes(digits), 1000)
    assert result.covered_count == result.mode_count == 1000
    assert result.floor == pytest.approx(0.0193, abs=1e-4)
    assert result.divergence == pytest.approx(result.floor, rel=0.15)


@pytest.mark.parametrize(("n", "k"), [(1, 10), (100, 1000), (1000, 1000), (60, 10)])
def test_the_floor_is_the_mean_divergence_of_a_uniform_model(n: int, k: int):
    draw = torch.Generator().manual_seed(0)
    results = [modes(torch.randint(k, (n,), generator=draw), k) for _ in range(300)]
    mean = sum(result.divergence for result in results) / len(results)
    assert results[0].floor == pytest.approx(mean, rel=0.05)
    if n < 3:
        assert results[0].floor == pytest.approx(math.log(k))


def test_the_metric_finds_the_modes_of_real_digits(
    mnist: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """With three channels and with one, the classifier agrees with the labels."""
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path))
    n = 400
    data = open_data("stacked-mnist", split="test", label="class")
    report = evaluate(data, data, metrics=["modes"], n=n, quiet=True)
    labels = RealPictures(data, n).labels(torch.arange(n))
    assert labels is not None
    expected = modes(labels, 1000)
    assert report.number("modes").value == pytest.approx(expected.covered_count, rel=0.02)
    assert report.number("KL to uniform").value == pytest.approx(expected.divergence, rel=0.03)
    ones = open_data(mnist, split="test")
    report = evaluate(ones, ones, metrics=["modes"], n=100, quiet=True)
    number = report.number("modes")
    assert (number.value, number.unit) == (10, "of 10")
    assert report.number("KL to uniform").value < 0.1


def ring(n: int, spread: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the modes of n points around 8 corners of a ring of radius 1: the nearest corner of
    each point, and whether it lies within three deviations of 0.05.
    """
    angle = torch.arange(8) * math.pi / 4
    corners = torch.stack([angle.cos(), angle.sin()], 1)
    draw = torch.Generator().manual_seed(seed)
    points = corners[torch.randint(8, (n,), generator=draw)]
    points = points + spread * torch.randn(n, 2, generator=draw)
    distances = torch.cdist(points, corners)
    return distances.argmin(1), distances.amin(1) < 3 * 0.05


def test_a_ring_of_gaussians_has_eight_modes():
    """The true sampler covers all, and 1 - exp(-9 / 2) of its points are of high quality."""
    nearest, good = ring(20_000, 0.05)
    result = modes(nearest[good], 8)
    assert result.covered_count == result.mode_count == 8
    assert result.divergence == pytest.approx(result.floor, abs=4e-4)
    assert good.double().mean().item() == pytest.approx(1 - math.exp(-4.5), abs=3e-3)


def test_the_divergence_equals_scipys():
    classes = torch.tensor([0, 0, 0, 1, 1, 3])
    counts = np.array([3, 2, 0, 1])
    result = modes(classes, 4)
    assert result.covered_count == 3
    assert result.divergence == pytest.approx(stats.entropy(counts, [0.25] * 4), rel=1e-12)


def test_extreme_models_have_known_values():
    assert modes(torch.arange(20) % 5, 5).divergence == pytest.approx(0, abs=1e-12)
    collapsed = modes(torch.full((20,), 3), 5)
    assert (collapsed.covered_count, collapsed.divergence) == (1, pytest.approx(math.log(5)))
    assert modes(torch.zeros(1, dtype=torch.int64), 1) == (1, 1, 0, 0)


def test_three_digits_are_a_mode():
    digits = torch.cartesian_prod(*[torch.arange(10)] * 3)
    assert torch.equal(stacked_modes(digits), torch.arange(1000))


class Digits(Dataset):
    """Ten white pictures, each of another class."""

    spec = ImageSpec(1, 28, 28, labels=tuple("0123456789"))
    labels = torch.arange(10)

    def __len__(self) -> int:
        return 10

    def pixels(self, indices: torch.Tensor) -> torch.Tensor:
        return torch.full((len(indices), 1, 28, 28), 255, dtype=torch.uint8)


def test_only_for_a_model_that_is_given_the_digits_the_metric_must_be_named():
    real = RealPictures(Digits(), name="mnist test")
    against = Reference(real, None, real)
    setting = Setting(Candidate("pictures", ""), against, real, 0, torch.device("cpu"))
    assert len(Modes(setting, named=False).needs()) == 2
    model = build("flow-matching", Digits.spec, channels=(8, 8))
    setting = replace(setting, candidate=Candidate("model", "", model))
    with pytest.raises(NotApplicable, match="the model is given the digits to paint"):
        Modes(setting, named=False).needs()
    assert len(Modes(setting).needs()) == 2


def test_invalid_modes_are_refused():
    with pytest.raises(LimnerError, match="at least 1 picture, not 0"):
        modes(torch.zeros(0, dtype=torch.int64), 10)
    for index in (-1, 10):
        with pytest.raises(LimnerError, match=r"are not among the 10 modes 0 \.\. 9"):
            modes(torch.tensor([3, index]), 10)
        with pytest.raises(LimnerError, match=r"are the digits 0 \.\. 9"):
            stacked_modes(torch.tensor([[0, 1, index]]))
