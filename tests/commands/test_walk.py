"""`limner walk` starts and ends at the pictures of its seeds, and refuses some models."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from limner.__main__ import main
from limner.commands.request import SamplingRequest
from limner.commands.sheets.walk import walk_sheet
from limner.contract.checkpoint import load, save_model
from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec, to_uint8
from limner.contract.model import GenerativeModel
from limner.contract.noise import Blend
from limner.contract.registry import build
from limner.data.png import read_settings

SPEC = ImageSpec(1, 8, 8, labels=("one", "two"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("walking") / "model"
    torch.manual_seed(0)
    save_model(build("edm", SPEC, channels=(4,)), folder)
    return str(folder)


def test_the_path_starts_and_ends_at_the_pictures_of_its_seeds(model: str):
    sheet, request = walk_sheet(SamplingRequest(model, seed=3, sampler={"steps": 2}), 7, 4)
    assert sheet.columns == len(sheet.images) == 4 and request.sampler["steps"] == 2
    loaded_model = load(model)
    assert isinstance(loaded_model, GenerativeModel)
    between = [Blend(3, 7, math.sin(angle)) for angle in (math.pi / 6, math.pi / 3)]
    path = to_uint8(loaded_model.sample(4, seed=[3, *between, 7], steps=2)).int()
    assert (sheet.images.int() - path).abs().max() <= 1
    assert len(sheet.images.unique(dim=0)) == 4
    with pytest.raises(LimnerError, match="give one label"):
        walk_sheet(SamplingRequest(model, labels=("all",)), 7, 4)


@pytest.mark.parametrize("other", [7, 2**64 + 7])
def test_a_path_between_equal_seeds_is_refused(model: str, other: int):
    """In its middle, the noise would have twice the variance."""
    with pytest.raises(LimnerError, match=f"7 and {other} give the same picture; give two others"):
        walk_sheet(SamplingRequest(model, seed=7), other, 4)


def test_as_a_command(model: str, tmp_path: Path, monkeypatch, capsys):
    out = tmp_path / "way.png"
    arguments = ["limner", "walk", "-m", model, "--steps", "3", "--seed", "2", "-o", str(out)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--label", "two", "sampler.steps=2"])
    with pytest.raises(SystemExit) as error:
        main()
    captured = capsys.readouterr()
    assert not error.value.code and captured.out == f"{out}\n", captured.err
    settings = read_settings(out)
    assert settings is not None
    assert settings["seed"] == 2 and settings["labels"] == ["two"]
    with pytest.raises(LimnerError, match=r"limner walk made .* alone cannot repeat it"):
        SamplingRequest.read(out)


def test_models_that_draw_pixel_by_pixel_are_refused(tmp_path: Path):
    save_model(build("pixelcnn", ImageSpec(1, 6, 5, levels=2), h=4, blocks=1, top=4), tmp_path)
    with pytest.raises(LimnerError, match=r"pixelcnn models draw pixel by pixel.*: .*edm"):
        walk_sheet(SamplingRequest(str(tmp_path)), 7, 4)


def test_models_that_need_an_input_picture_are_refused(tmp_path: Path):
    plain = ImageSpec(1, 16, 16)
    save_model(build("cut", replace(plain, hint=plain), channels=4, blocks=1), tmp_path)
    with pytest.raises(LimnerError, match=r"paints from an input picture.*; give another model"):
        walk_sheet(SamplingRequest(str(tmp_path)), 7, 4)


def test_the_size_is_that_of_the_pictures(model: str, tmp_path: Path, monkeypatch):
    out = tmp_path / "wide.png"
    arguments = ["--size", "8x16", "--steps", "2", "-o", str(out), "sampler.steps=1"]
    monkeypatch.setattr(sys, "argv", ["limner", "walk", "-m", model, *arguments])
    with pytest.raises(SystemExit) as error:
        main()
    assert not error.value.code and (read_settings(out) or {})["size"] == "8x16"
