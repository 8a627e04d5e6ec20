"""`limner translate`: pictures next to their translations there and back, and folders."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from limner.__main__ import main
from limner.commands.request import SamplingRequest
from limner.commands.sheets.sample import paint_sheet
from limner.commands.sheets.translate import TRANSLATE, bundled_translator, translate_sheet
from limner.commands.task import Work
from limner.contract.abilities import Translates
from limner.contract.checkpoint import load, save_model
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, ImageSpec, to_uint8
from limner.contract.registry import build
from limner.data.picture_files import read_picture
from limner.data.png import read_settings

A = ImageSpec(1, 16, 16, domain="ink")
SPEC = ImageSpec(3, 16, 16, hint=A, domain="paint")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("translating")
    torch.manual_seed(0)
    sizes = {"channels": 4, "critic_channels": 4}
    for name, options in {"cyclegan": {"blocks": 1, "pool": 0}, "pix2pix": {}}.items():
        save_model(build(name, SPEC, **sizes, **options), folder / name)
    save_model(build("gan", A, latent=4, channels=4), folder / "gan")
    return {path.name: str(path) for path in folder.iterdir()}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    (folder / "note.txt").write_text("no picture")
    return folder


def test_a_row_is_the_picture_its_translation_and_the_way_back(models, pictures: Path):
    files = [pictures / "0.png", pictures / "1.png"]
    model = load(models["cyclegan"])
    assert isinstance(model, Translates)
    for domain, inverse, source in (("paint", "A", A), ("A", "B", SPEC)):
        sheet, pixels, _ = translate_sheet(files, SamplingRequest(models["cyclegan"]), domain)
        x = torch.cat([read_picture(file, source) for file in files])
        y = model.translate(x, domain)
        assert sheet.columns == 3 and torch.equal(pixels, to_uint8(y))
        rows = torch.stack([x.expand(-1, 3, -1, -1), y.expand(-1, 3, -1, -1),
                            model.translate(y, inverse).expand(-1, 3, -1, -1)], 1)  # fmt: skip
        assert torch.equal(sheet.images, to_uint8(rows.flatten(0, 1)))
    sheet, _, _ = translate_sheet(files, SamplingRequest(models["pix2pix"], seed=4), "B")
    assert sheet.columns == 2


def test_each_picture_is_translated_in_its_colours_with_its_own_seed(
    models, pictures: Path, monkeypatch
):
    model = load(models["cyclegan"])
    assert isinstance(model, Translates)
    calls = []

    def spy(self, x, to="B", *, seed=0):
        calls.append((x, to, seed))
        return torch.zeros(len(x), 3 if to == "B" else 1, 16, 16)

    monkeypatch.setattr(type(model), "translate", spy)
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    for to in ("B", "A"):
        TRANSLATE.finish(Work(model, Condition(), [5], {"image": x}), to=to)
    (grey, _, first), (colour, _, second) = calls
    torch.testing.assert_close(grey, x.mean(1, keepdim=True))
    assert torch.equal(colour, x) and first == second == [5, 6]
    files = [pictures / "0.png", pictures / "1.png"]
    translate_sheet(files, SamplingRequest(models["cyclegan"], seed=4), "B")
    assert [(to, seed) for _, to, seed in calls[2:]] == [("B", [4, 5]), ("A", [4, 5])]


def test_what_cannot_be_translated_is_refused(models, pictures: Path):
    with pytest.raises(LimnerError, match=r"gan models do not translate; these do: .*cyclegan"):
        translate_sheet([pictures / "0.png"], SamplingRequest(models["gan"]), "B")
    with pytest.raises(LimnerError, match=r"translate only to B \(paint\)"):
        translate_sheet([pictures / "0.png"], SamplingRequest(models["pix2pix"]), "ink")
    with pytest.raises(LimnerError, match="no pictures to translate"):
        translate_sheet([], SamplingRequest(models["pix2pix"]), "B")
    with pytest.raises(LimnerError, match="type limner translate FILE -m MODEL"):
        paint_sheet(SamplingRequest(models["cyclegan"]))


def test_without_a_model_the_bundled_one_for_the_domain_translates(pictures, monkeypatch):
    file = pictures / "0.png"
    _, flat, request = translate_sheet([file], SamplingRequest(), "Flat")
    assert request.model is not None and request.model == bundled_translator("flat")
    _, same, _ = translate_sheet([file], SamplingRequest(request.model), "flat")
    assert torch.equal(flat, same)
    with pytest.raises(LimnerError, match=r"unknown domain 'flut'; did you mean 'flat'.*-m RUN"):
        translate_sheet([file], SamplingRequest(), "flut")
    with pytest.raises(LimnerError, match="unknown domain ' '; known: 3d, flat"):
        translate_sheet([file], SamplingRequest(), " ")
    with pytest.raises(LimnerError, match="unknown domain 'flet'; did you mean 'flat'"):
        translate_sheet([file], SamplingRequest(), "flat", source="flet")
    with pytest.raises(LimnerError, match=r"no bundled model translates flat to line, only 3d to "):
        translate_sheet([file], SamplingRequest(), "line", source="flat")
    monkeypatch.setattr("limner.commands.sheets.translate.bundled_models", dict)
    with pytest.raises(LimnerError, match="no model that translates is bundled"):
        translate_sheet([file], SamplingRequest(), "flat")


@pytest.mark.parametrize(
    ("source", "to", "name"),
    [
        ("3d", "flat", "3d-to-flat"),
        ("3d", "line", "3d-to-line"),
        ("flat", "3d", "flat-to-3d"),
        ("Line", "3d", "line-to-3d"),
        ("line", "B", "line-to-3d"),
        ("", "3D", "flat-to-3d"),
        (" Flat", "B", "flat-to-3d"),
        ("B", "A", "cyclegan"),
        ("3d", " Flat ", "3d-to-flat"),
    ],
)
def test_the_source_selects_the_bundled_model(source: str, to: str, name: str):
    assert bundled_translator(to, source) == name


def test_a_model_of_your_own_knows_its_source(models, pictures: Path):
    files = [pictures / "0.png"]
    _, first, _ = translate_sheet(files, SamplingRequest(models["cyclegan"]), "paint", source="Ink")
    _, second, _ = translate_sheet(files, SamplingRequest(models["cyclegan"]), "paint", source="A")
    assert torch.equal(first, second)
    with pytest.raises(LimnerError, match=r"to B \(paint\) from A \(ink\), not from 'paint'"):
        translate_sheet(files, SamplingRequest(models["cyclegan"]), "paint", source="paint")


def test_the_page_offers_a_target_only_if_there_are_two_directions(models):
    for name, fields in (("cyclegan", {"to"}), ("pix2pix", set())):
        assert TRANSLATE.schema(type(load(models[name])))["properties"].keys() == fields


def command(monkeypatch, *arguments: str) -> object:
    monkeypatch.setattr(sys, "argv", ["limner", "translate", *arguments])
    with pytest.raises(SystemExit) as error:
        main()
    return error.value.code


def test_as_a_command(models, pictures: Path, tmp_path: Path, monkeypatch, capsys):
    out = tmp_path / "sheet.png"
    arguments = [str(pictures), "-m", models["cyclegan"], "--to", "ink"]
    assert not command(monkeypatch, *arguments, "-o", str(out))
    assert capsys.readouterr().out == f"{out}\n" and read_settings(out)["model"]
    assert not command(monkeypatch, *arguments, "-o", str(tmp_path / "all"))
    assert sorted(p.name for p in (tmp_path / "all").iterdir()) == ["0.png", "1.png", "2.png"]
    with Image.open(tmp_path / "all" / "0.png") as image:
        assert image.size == (16, 16) and image.mode == "L"
    twice = [str(pictures / "0.png"), str(shutil.copytree(pictures, tmp_path / "copy"))]
    assert command(monkeypatch, *twice, *arguments[1:], "-o", str(tmp_path / "both")) == 2
    assert "two of the pictures have the same name" in capsys.readouterr().err
    assert not (tmp_path / "both").exists()
    (tmp_path / "empty").mkdir()
    assert command(monkeypatch, str(tmp_path / "empty"), "-m", models["cyclegan"]) == 2
    assert "contains no pictures" in capsys.readouterr().err


def test_the_translated_files_are_kept(models, pictures: Path, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "mine"
    shutil.copytree(pictures, folder)
    contents = {file.name: file.read_bytes() for file in folder.iterdir()}
    arguments = [str(folder), "-m", models["cyclegan"]]
    assert not command(monkeypatch, *arguments, "-o", str(folder))
    assert all((folder / name).read_bytes() == content for name, content in contents.items())
    assert {file.name for file in folder.iterdir()} - contents.keys() == {
        "0-2.png",
        "1-2.png",
        "2-2.png",
    }
    (tmp_path / "file").write_text("no folder")
    assert command(monkeypatch, *arguments, "-o", str(tmp_path / "file")) == 2
    assert "cannot write" in capsys.readouterr().err
