"""The examples run as a person would run them."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from analytic import Gaussian, pictures, trajectory

import limner
from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec
from limner.contract.options import json_schema
from limner.maths.samplers.sampler import SAMPLERS
from limner.maths.schedules import LinearPath
from limner.testing.__main__ import main

EXAMPLES = Path(__file__).parent.parent / "examples"


def run_checks(file: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Check what a file registers, in a folder, as a person would."""
    return subprocess.run(
        [sys.executable, "-m", "limner.testing", file],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_the_paper_example_is_short_passes_its_checks_and_learns(tmp_path: Path):
    guide = EXAMPLES / "new_paper.py"
    assert len(guide.read_text(encoding="utf-8").splitlines()) < 80
    result = run_checks(str(guide), tmp_path)
    assert result.returncode == 0, result.stderr
    for promise in (1, 2, 3, 4, 5, 6, 8, 9, 10, 11):
        assert f"nice-grey: {promise}. " in result.stdout
    first, last = re.findall(r" (\d+\.\d\d)\b", result.stdout.splitlines()[-1])
    assert float(last) < 7.5 < float(first)


def test_the_paper_example_passes_the_tests_of_a_bundled_model(monkeypatch):
    """Copied into a family's folder, it breaks no test: its options are described, it refuses data
    that it would ignore, and `print` shows its mathematics."""
    monkeypatch.setattr(limner, "register", lambda *_, **__: lambda model: model, raising=False)
    model = runpy.run_path(str(EXAMPLES / "new_paper.py"))["Nice"]
    options = json_schema(model, skip=("spec",))["properties"]
    assert options and all(option.get("description") for option in options.values())
    with pytest.raises(LimnerError, match="take no labels; leave them out"):
        model(ImageSpec(1, 8, 8, labels=("a", "b")))
    assert len(repr(model(ImageSpec(1, 8, 8), width=8)).splitlines()) == 2


def test_the_metric_example_is_short_and_passes_its_checks(tmp_path: Path):
    guide = EXAMPLES / "new_metric.py"
    assert len(guide.read_text(encoding="utf-8").splitlines()) < 70
    result = run_checks(str(guide), tmp_path)
    assert result.returncode == 0, result.stderr
    assert [line[:9] for line in result.stdout.splitlines()] == [
        f"vendi: {i}." for i in range(1, 6)
    ]


def test_the_sampler_example_is_short_and_passes_its_checks(tmp_path: Path):
    guide = EXAMPLES / "new_sampler.py"
    assert len(guide.read_text(encoding="utf-8").splitlines()) < 60
    result = run_checks(str(guide), tmp_path)
    assert result.returncode == 0, result.stderr
    assert [line[:11] for line in result.stdout.splitlines()] == [
        f"ralston: {i}." for i in range(1, 4)
    ]


def test_the_sampler_example_is_at_least_of_second_order(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(SAMPLERS, "_classes", SAMPLERS.classes)
    ralston = runpy.run_path(str(EXAMPLES / "new_sampler.py"))["Ralston"]
    D, x = Gaussian(LinearPath()), pictures(1.3)
    for sampler in (ralston(), ralston(place=0.5)):
        errors: list[float] = []
        for steps in (64, 128):
            times = torch.linspace(1, 0.1, steps + 1, dtype=torch.float64)
            end = trajectory(sampler, D, x, times)[-1]
            errors.append(float((end - D.exact_flow(x, times[0], times[-1])).abs().max()))
        assert errors[0] / errors[1] > 3.5


def test_the_paper_example_fails_if_its_likelihood_is_wrong(tmp_path: Path):
    """The check must detect a missing dequantisation constant."""
    guide = (EXAMPLES / "new_paper.py").read_text(encoding="utf-8")
    wrong = guide.replace(" - D * math.log(L)", "")
    assert wrong != guide
    (tmp_path / "wrong.py").write_text(wrong, encoding="utf-8")
    result = run_checks("wrong.py", tmp_path)
    assert result.returncode == 1
    assert "compressed below their entropy" in result.stderr


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [("none.py", None, "there is no Python file"), ("empty.py", "", "registers no model")],
)
def test_a_file_without_a_model_is_refused(tmp_path, file, text, message, monkeypatch, capsys):
    if text is not None:
        (tmp_path / file).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main([file]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda file: file.name)
def test_an_example_has_a_docstring(example: Path):
    assert example.read_text(encoding="utf-8").startswith('"""')
