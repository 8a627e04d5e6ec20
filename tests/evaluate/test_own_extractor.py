"""Extractors that a package registers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from own_package import install_package
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec
from limner.evaluate.evaluation import evaluate
from limner.evaluate.extractors import choose
from limner.evaluate.extractors.choose import JUDGES, extractor, open_extractor, openers
from limner.evaluate.extractors.extractor import Features
from limner.testing.__main__ import main
from limner.testing.extractor_checks import check_extractor

PACKAGE = """
import torch
from limner.evaluate.extractors.choose import extractor
from limner.evaluate.extractors.extractor import Features

class Means:
    name, fingerprint, dim, classes = "channel-means", "1", 3, ()
    def __init__(self, power):
        self.power = power
    def __call__(self, images):
        means = images.float().expand(-1, 3, -1, -1).mean((2, 3))
        return Features(means**self.power)

@extractor("channel-means")
def open_means(device, weights, dtype):
    return Means(float(weights or 1))
"""


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what a test registers."""
    monkeypatch.setattr(choose, "_openers", dict(choose._openers))


def test_an_extractor_of_an_installed_package_is_found(tmp_path: Path, monkeypatch):
    install_package("their_means", PACKAGE, tmp_path, monkeypatch, choose)
    images = torch.full((2, 3, 4, 4), 9, dtype=torch.uint8)
    for weights, value in ((None, 9.0), ("2", 81.0)):
        opened = open_extractor("channel-means", ImageSpec(3, 4, 4), weights=weights)
        assert opened(images).features.tolist() == [[value] * 3] * 2


def test_metrics_use_an_extractor_of_an_installed_package(tmp_path: Path, monkeypatch):
    install_package("their_means", PACKAGE, tmp_path, monkeypatch, choose)
    report = evaluate(
        "emoji", against="emoji", metrics="fid", extractor="channel-means", n=50, device="cpu"
    )
    assert {each.extractor for each in report.numbers} == {"channel-means"}


def test_an_own_extractor_is_checked_when_it_is_opened():
    @extractor("nameless")
    def open_nameless(device: object, weights: object, dtype: object) -> object:
        return lambda images: Features(images.float().flatten(1))

    with pytest.raises(LimnerError, match="name of the extractor <lambda> is missing"):
        open_extractor("nameless", ImageSpec(3, 4, 4))


def test_a_taken_or_wrong_name_is_refused():
    def opener(device: object, weights: object, dtype: object) -> Tensor:
        return torch.zeros(1)

    for name in ("lenet", "lite0", "dinov2"):
        with pytest.raises(LimnerError, match=f"the extractor name '{name}' is taken"):
            extractor(name)(opener)
    with pytest.raises(LimnerError, match="write the extractor's name in lower case"):
        extractor("My Net")
    assert extractor("again")(opener) is extractor("again")(opener)
    assert [*openers()][-1] == "again"


@pytest.mark.parametrize("name", [*JUDGES, "lite0"])
def test_an_extractor_keeps_its_promises(name: str):
    assert len(check_extractor(name)) == 4


class Sums:
    """Sums of numbers, and faults that `fault` names."""

    name, dim, classes = "sums", 3, ()
    opened = 0

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.number = Sums.opened = Sums.opened + 1
        self.fingerprint = str(self.number) if fault == "fingerprint" else "1"

    def __call__(self, images: Tensor) -> Features:
        if self.fault == "colours" or (self.fault == "size" and images.shape[-1] != 32):
            raise LimnerError("it takes no such pictures")
        x = images.float().expand(-1, 3, -1, -1).mean((2, 3))
        match self.fault:
            case "batch":
                x = x - x.mean(0)
            case "scores":
                return Features(x, x - x.mean(0))
            case "infinite":
                x = x / 0
            case "same":
                x = x * 0
            case "double":
                x = x.double()
            case "dim":
                x = x[:, :2]
            case "opening":
                x = x + self.number
        return Features(x)


@pytest.mark.parametrize("opener", [lambda: Sums(""), Sums, Sums("")])
def test_what_cannot_open_an_extractor_is_refused(opener: Any):
    with pytest.raises(LimnerError, match="what opens the extractor own takes other arguments"):
        extractor("own")(opener)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("colours", "it refuses grey and RGB pictures: it takes no such pictures"),
        ("size", "it refuses pictures of a certain size"),
        ("dim", "the features of the extractor sums are 5 x 2"),
        ("infinite", "some features or scores are not finite"),
        ("double", "its output is torch.float64"),
        ("batch", "in a batch, features differ by"),
        ("scores", "in a batch, scores differ by"),
        ("fingerprint", "its fingerprint changes from"),
        ("opening", "3. Opened again, it has .*\n.*features differ by"),
        ("same", "two pictures have the same features"),
    ],
)
def test_a_wrong_extractor_is_found(fault: str, message: str):
    extractor("sums")(lambda device, weights, dtype: Sums(fault))
    with pytest.raises(AssertionError, match=message):
        check_extractor("sums")


def test_a_file_with_an_extractor_is_checked(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_means.py").write_text(PACKAGE, encoding="utf-8")
    assert main([str(tmp_path / "own_means.py")]) == 0
    assert [line[:16] for line in capsys.readouterr().out.splitlines()] == [
        f"channel-means: {i}" for i in range(1, 5)
    ]
