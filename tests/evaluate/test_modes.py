"""Modes: StackedMNIST's count and divergence."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from limner.errors import LimnerError
from limner.evaluate.modes import modes, stacked


def test_a_uniform_model_covers_all_modes_and_reads_the_floor():
    """Oracle of StackedMNIST: 1,000 modes, and a divergence of (K - 1) / 2N."""
    digits = torch.randint(10, (26_000, 3), generator=torch.Generator().manual_seed(0))
    found = modes(stacked(digits), 1000)
    assert found.covered == found.of == 1000
    assert found.floor == pytest.approx(0.0192, abs=1e-4)
    assert found.divergence == pytest.approx(found.floor, rel=0.15)


def test_the_divergence_is_scipys():
    classes = torch.tensor([0, 0, 0, 1, 1, 3])
    counts = np.array([3, 2, 0, 1])
    found = modes(classes, 4)
    assert found.covered == 3
    assert found.divergence == pytest.approx(stats.entropy(counts, [0.25] * 4), rel=1e-12)


def test_the_extremes():
    assert modes(torch.arange(20) % 5, 5).divergence == pytest.approx(0, abs=1e-12)
    collapsed = modes(torch.full((20,), 3), 5)
    assert (collapsed.covered, collapsed.divergence) == (1, pytest.approx(math.log(5)))
    assert modes(torch.zeros(1, dtype=torch.int64), 1)[:3] == (1, 1, 0)


def test_three_digits_are_a_mode():
    digits = torch.cartesian_prod(*[torch.arange(10)] * 3)
    assert torch.equal(stacked(digits), torch.arange(1000))


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(LimnerError, match="at least 1 picture, not 0"):
        modes(torch.zeros(0, dtype=torch.int64), 10)
    for wrong in (-1, 10):
        with pytest.raises(LimnerError, match=r"are not of the 10 modes 0 \.\. 9"):
            modes(torch.tensor([3, wrong]), 10)
        with pytest.raises(LimnerError, match=r"are the digits 0 \.\. 9"):
            stacked(torch.tensor([[0, 1, wrong]]))
