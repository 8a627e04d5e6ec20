"""The metric `counterpart`: ranks against brute force, and a translator that changes nothing."""

import math
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from limner.contract.image import ImageSpec, to_uint8
from limner.data import open_data
from limner.evaluate.evaluation import evaluate
from limner.evaluate.metrics.counterpart import is_own_nearest
from limner.evaluate.metrics.cycle import CycleObserver
from limner.evaluate.metrics.pairs import psnr
from limner.evaluate.picture_sets import RealPictures, SourcePictures
from limner.evaluate.report import SUBJECT
from limner.gans.cyclegan import CycleGAN

N = 40


def test_a_counterpart_is_found_if_it_is_nearest_in_the_gallery():
    features = torch.randn(300, 16, generator=torch.Generator().manual_seed(0))
    assert is_own_nearest(features, 2 * features, 100).all()
    other = torch.randn(300, 16, generator=torch.Generator().manual_seed(1))
    chance = float(is_own_nearest(features, other, 100).double().mean())
    assert chance == pytest.approx(0.01, abs=4 * math.sqrt(0.01 / 300))
    few = is_own_nearest(features[:30], other[:30], 100)
    similarity = torch.cosine_similarity(features[:30, None], other[None, :30], dim=2)
    assert torch.equal(few, similarity.argmax(1) == torch.arange(30))
    assert not is_own_nearest(features, torch.ones(300, 16), 100).any()  # a tie is not a match


class Same(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Positive(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=0)


class Absolute(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


def test_a_cycle_starts_and_ends_in_its_own_domain():
    """From A: max(x, 0), then its absolute value; from B: |x|, then max(|x|, 0)."""
    options = {"size": 16, "split": "held-out-concept", "label": "none"}
    data = open_data("paired:emoji:style=3d,emoji:style=flat", **options)
    real, numbers = RealPictures(data), torch.arange(3)
    model = CycleGAN(data.spec, channels=4, blocks=1, critic_channels=4, pool=0)
    model.generators = nn.ModuleDict({"A": Absolute(), "B": Positive()})
    columns = CycleObserver(model, "").look(real, numbers, real.pictures(numbers))
    a, b = real.condition(numbers, data.spec).image, real.images(numbers)
    assert a is not None
    torch.testing.assert_close(columns["A"], (a.clamp(min=0) - a).flatten(1).mean(1))
    torch.testing.assert_close(columns["B"], (b.abs() - b).flatten(1).mean(1))


def test_a_translator_that_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    spec = ImageSpec(3, 16, 16)
    data = open_data("paired:emoji:style=3d,emoji:style=flat", size=16, split="held-out-concept")
    model = CycleGAN(
        ImageSpec(3, 16, 16, hint=spec), channels=4, blocks=1, critic_channels=4, pool=0
    )
    model.generators = nn.ModuleDict({"A": Same(), "B": Same()})
    report = evaluate(model, data, metrics=["counterpart", "cycle"], n=N, extractor="emoji-judge")
    rows = {number.row for number in report.numbers}
    subject = {n.name: n.value for n in report.numbers if n.row == SUBJECT}
    source = {n.name: n.value for n in report.numbers if n.row == "source"}
    assert source and source.items() <= subject.items()  # the model returns its source
    if find_spec("skimage"):
        assert "source, colours matched" in rows
    results = {number.name: number for number in report.numbers if number.row == SUBJECT}
    real, numbers = RealPictures(data), torch.arange(N)
    a = real.condition(numbers, data.spec).image
    assert a is not None
    expected = psnr(to_uint8(a), real.pictures(numbers)).mean()
    assert results["PSNR"].value == pytest.approx(float(expected), abs=1e-4)
    assert results["cycle error of A"].value == results["cycle error of B"].value == 0
    assert 0 < results["distance"].value < 0.5
    assert results["R@1 of 40"].value > 0.5


def test_a_source_picture_used_twice_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path))
    spec = ImageSpec(3, 16, 16, hint=ImageSpec(3, 16, 16))
    data = open_data("paired:emoji:style=3d,emoji:style=flat", size=16, split="held-out-concept")
    model = CycleGAN(spec, channels=4, blocks=1, critic_channels=4, pool=0)
    model.generators = nn.ModuleDict({"A": Same(), "B": Same()})
    report = evaluate(model, data, metrics=["counterpart"], n=120, extractor="emoji-judge")
    subject, source = (
        {n.name: (n.n, n.low, n.high) for n in report.numbers if n.row == row}
        for row in (SUBJECT, "source")
    )
    assert subject["PSNR"] == pytest.approx(source["PSNR"])
    assert {n for n, *_ in subject.values()} == {len(data)}


def test_matched_colours_have_the_mean_of_the_true_ones():
    pytest.importorskip("skimage")
    pair = "paired:emoji:style=3d,emoji:style=line"
    real = RealPictures(open_data(pair, size=16, split="held-out-concept"))
    source, matched = (SourcePictures(real, 8, each) for each in (False, True))
    numbers, target = torch.arange(8), real.pictures(torch.arange(100)).double()
    pixels = matched.pictures(numbers).double()
    assert not torch.equal(pixels, source.pictures(numbers).double())
    assert torch.allclose(pixels.mean((0, 2, 3)), target.mean((0, 2, 3)), atol=6)
    assert source.fingerprint != matched.fingerprint
