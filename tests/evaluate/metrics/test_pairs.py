"""Functions that metrics of pairs share: PSNR, and measures of pictures and their counterparts."""

import math
from dataclasses import replace
from typing import cast, get_args

import pytest
import torch

from limner.evaluate.metric import Redrawn, metrics
from limner.evaluate.metrics.counterpart import Counterpart
from limner.evaluate.metrics.pairs import PairObserver, psnr
from limner.evaluate.passes import Observations, Observer
from limner.evaluate.picture_sets import PictureSet, RealPictures
from limner.evaluate.report import SUBJECT
from limner.evaluate.subject import Reference
from limner.testing.metric_checks import Law, setting_of_law


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


class Observed:
    """Given measures of pairs, and random features."""

    def of(self, pictures: PictureSet, observer: Observer) -> dict[str, torch.Tensor]:
        if isinstance(observer, PairObserver):
            return {"PSNR": torch.arange(len(pictures), dtype=torch.float64)}
        return {"features": torch.randn(len(pictures), 3)}


@pytest.mark.usefixtures("unchecked_shapes")
def test_only_the_first_picture_for_each_real_one_counts():
    law = setting_of_law(metrics()["counterpart"], dict.fromkeys(get_args(Redrawn), 0))
    real = law.reference.first(4)
    metric = Counterpart(replace(law, against=Reference(real, None, real)))
    metric.__dict__["rows"] = {SUBJECT: law.subject.first(10)}
    numbers = {number.name: number for number in metric.numbers(cast(Observations, Observed()))}
    assert (numbers["PSNR"].value, numbers["PSNR"].n) == (1.5, 4)
    assert numbers["distance"].n == numbers["R@1 of 4"].n == 4
