"""Functions that metrics of pairs share: PSNR, and measures of pictures and their counterparts."""

import math

import pytest
import torch

from limner.evaluate.metrics.pairs import PairObserver, psnr
from limner.evaluate.picture_sets import RealPictures
from limner.testing.metric_checks import Law


def test_psnr_in_decibels():
    x = torch.full((3, 1, 4, 4), 100, dtype=torch.uint8)
    true = x.clone()
    true[0] += 10
    true[1, 0, 0, 0] += 40  # a mean square of 40^2 / 16 = 10^2
    values = psnr(x, true)
    assert values[:2].tolist() == pytest.approx([20 * math.log10(255 / 10)] * 2, abs=1e-5)
    assert values[2] == pytest.approx(100)


def test_each_picture_is_compared_with_the_real_one_of_its_number():
    real, other = (RealPictures(Law(8, seed)) for seed in (0, 1))
    numbers = torch.tensor([2, 0])

    def first_difference(x: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        return (x.double() - true.double()).flatten(1)[:, 0]

    observer = PairObserver(real, {"PSNR": psnr, "first": first_difference})
    values = observer.look(other, numbers, other.pictures(numbers))
    assert list(values) == ["PSNR", "first"]
    expected = other.pictures(numbers)[:, 0, 0, 0].double() - real.pictures(numbers)[:, 0, 0, 0]
    assert expected.any() and torch.equal(values["first"], expected)
    assert PairObserver(real, {"PSNR": psnr}).fingerprint != observer.fingerprint
