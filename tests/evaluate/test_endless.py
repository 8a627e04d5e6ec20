"""Endless data sets are evaluated with their first pictures, in limited memory."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scenes import SPEC, Eye, Painter, Shades
from torch import Tensor

from limner.contract.noise import Noise
from limner.evaluate import picture_sets
from limner.evaluate.evaluation import evaluate
from limner.evaluate.picture_sets import RealPictures

MOST = 256


class Endless(Shades):
    """A data set with an unlimited number of pictures."""

    endless = True
    digest = "endless"

    def __init__(self, *, training: bool = True) -> None:
        super().__init__(MOST, training=training)
        self.labels, self.spec = None, replace(SPEC, labels=())

    def __len__(self) -> int:
        return 2**40

    def pixels(self, indices: Tensor) -> Tensor:
        return super().pixels(indices % MOST)

    def captions(self, indices: Tensor, noise: Noise) -> list[str]:
        return [SPEC.labels[i] for i in (indices % len(SPEC.labels)).tolist()]


@pytest.fixture(autouse=True)
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path))
    monkeypatch.setattr(picture_sets, "_MAX_ENDLESS_PICTURES", MOST)


def test_every_metric_uses_the_first_pictures():
    real = Endless(training=False)
    report = evaluate(
        Painter(SPEC), real, training=Endless(), n=128, extractor=Eye(), device="cpu", quiet=True
    )
    assert report.against.pictures == MOST
    assert "never shows a picture twice" in report.left_out["memorisation"]
    assert "captions of scenes" in report.left_out["composition"]
    assert report.number("R@1", "nearest in training") is None
    assert report.number("KD") is not None
    assert any("of the endless pictures" in remark for remark in report.remarks)
    assert max(real.seen) < MOST


def test_the_first_pictures_do_not_depend_on_n():
    real = RealPictures(Endless())
    assert len(real) == MOST
    numbers = torch.arange(5)
    assert torch.equal(real.pictures(numbers), real.first(5).pictures(numbers))
    assert torch.equal(real.indices(numbers), numbers)
