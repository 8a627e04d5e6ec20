"""`limner style-mix`: the layout of the matrix, and paths between style codes."""

import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image

from limner.__main__ import main
from limner.commands.request import SamplingRequest
from limner.commands.sheets import codes, style_mix
from limner.commands.task import Work
from limner.contract.abilities import Mixes
from limner.contract.checkpoint import load, save_model
from limner.contract.codes import Encodes
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, ImageSpec, to_uint8
from limner.contract.registry import build
from limner.contract.text import text_condition, text_spec
from limner.data.picture_files import read_picture
from limner.data.png import read_settings

SPEC = ImageSpec(1, 8, 8, labels=("one", "two"))
SMALL = {"latent": 3, "style": 4, "depth": 1, "channels": 3}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("mixing") / "model"
    torch.manual_seed(0)
    gan = build("stylegan2", SPEC, **SMALL)
    with torch.no_grad():
        for p in gan.parameters():
            p += 0.3 * torch.randn_like(p)
        label = torch.tensor([0, 1])
        gan.calibrate(iter([Batch(torch.zeros(2, *SPEC.shape), Condition(label=label))]))
    save_model(gan, folder)
    return str(folder)


def test_sources_are_in_the_first_row_and_column(model: str):
    request = SamplingRequest(model, labels=("two",), n=3, seed=5, sampler={"psi": 0.8})
    sheet, full, layers = style_mix.style_mix_sheet(request, 2, "fine")
    assert sheet.columns == 4 and layers == slice(3, 4)
    assert full.sampler == {"psi": 0.8}
    loaded_model = load(model)
    assert isinstance(loaded_model, Mixes)
    two = Condition(label=torch.tensor([1]))
    cells = sheet.images.unflatten(0, (3, 4))
    assert bool((cells[0, 0] == 255).all())
    assert torch.equal(cells[0, 1:], to_uint8(loaded_model.sample(3, two, seed=[5, 6, 7], psi=0.8)))
    assert torch.equal(cells[1:, 0], to_uint8(loaded_model.sample(2, two, seed=[8, 9], psi=0.8)))
    for i, j in ((0, 0), (1, 2)):
        mixed = loaded_model.mix([5 + j], slice(3, 4), two, seed=[8 + i], psi=0.8)
        assert torch.equal(cells[1 + i, 1 + j], to_uint8(mixed)[0])
        assert not torch.equal(cells[1 + i, 1 + j], cells[1 + i, 0])
        assert not torch.equal(cells[1 + i, 1 + j], cells[0, 1 + j])


def test_a_grid_of_the_studio_is_the_same_in_parts(model: str, monkeypatch):
    loaded_model = load(model)
    assert isinstance(loaded_model, Mixes)
    c, cells = Condition(label=torch.tensor([1])), []
    work = Work(loaded_model, c, [5], {}, {"psi": 0.8})
    for at_once in (8, 2):
        monkeypatch.setattr(type(loaded_model), "at_once", at_once)
        cells += style_mix.MIX.finish(work, other=7, rows=1, columns=3)
    for j in range(3):
        alone = to_uint8(loaded_model.mix([7 + j], slice(3, 4), c, seed=[5], psi=0.8))[0].int()
        assert all((grid[j].int() - alone).abs().max() <= 1 for grid in cells)
    assert len(cells[0]) == len(cells[0].unique(dim=0)) == 3


def test_columns_may_have_another_prompt(tmp_path: Path):
    spec = ImageSpec(1, 8, 8, text=text_spec(5))
    torch.manual_seed(0)
    gan = build("gigagan", spec, **SMALL)
    with torch.no_grad():
        for p in gan.parameters():
            p += 0.3 * torch.randn_like(p)
    save_model(gan, tmp_path)
    request = SamplingRequest(str(tmp_path), prompts=("a dog",), n=2, seed=5, sampler={})
    other = "a green car"
    sheet, _, layers = style_mix.style_mix_sheet(request, 1, "fine", other_prompt=other)
    dog, cars = text_condition(spec, ["a dog"]), text_condition(spec, [other])
    cells = sheet.images.unflatten(0, (2, 3))
    loaded_model = load(tmp_path)
    assert isinstance(loaded_model, Mixes)
    assert torch.equal(cells[0, 1:], to_uint8(loaded_model.sample(2, cars, seed=[5, 6])))
    assert torch.equal(cells[1, :1], to_uint8(loaded_model.sample(1, dog, seed=[7])))
    mixed = loaded_model.mix([5, 6], layers, dog, of=cars, seed=[7, 7])
    assert torch.equal(cells[1, 1:], to_uint8(mixed))
    with pytest.raises(LimnerError, match="give --prompt, too"):
        style_mix.style_mix_sheet(replace(request, prompts=()), 1, "fine", other_prompt=other)


@pytest.mark.parametrize(
    ("named", "first", "end"),
    [("coarse", 0, 3), ("middle", 3, 5), ("fine", 5, 8), ("0", 0, 1), ("2-5", 2, 6), ("7-7", 7, 8)],
)
def test_layers_by_name_and_number(named: str, first: int, end: int):
    assert style_mix.read_layers(named, 8) == slice(first, end)


@pytest.mark.parametrize("count", range(2, 20, 2))
def test_the_parts_cover_all_layers(count: int):
    edges = [style_mix.read_layers(part, count) for part in style_mix.PARTS]
    assert edges[0].start == 0 and edges[-1].stop == count
    assert all(a.stop == b.start for a, b in pairwise(edges))


@pytest.mark.parametrize(
    ("named", "message"),
    [("rough", "names no layers"), ("5-2", "0 to 7"), ("8", "0 to 7"), ("-1", "names no layers")],
)
def test_other_layers_are_refused(named: str, message: str):
    with pytest.raises(LimnerError, match=message):
        style_mix.read_layers(named, 8)


@pytest.fixture(scope="module")
def files(model: str, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Save pictures that the model can paint, and return their files."""
    folder, loaded_model = tmp_path_factory.mktemp("pictures"), load(model)
    assert isinstance(loaded_model, Encodes)
    with torch.no_grad():
        codes = torch.tensor([[0.5, -0.5, 0.5, 0.0], [-0.5, 0.5, 0.0, 0.5]])
        x = to_uint8(loaded_model.decode(codes, Condition(label=torch.tensor([0, 0]))))
    for i, image in enumerate(x):
        Image.fromarray(image[0].numpy()).save(folder / f"{i}.png")
    return sorted(folder.iterdir())


def test_pictures_have_style_codes(model: str, files: list[Path], monkeypatch):
    monkeypatch.setattr("limner.gans.style_model._SEARCH_STEPS", 40)
    request = SamplingRequest(model, labels=("one",), sampler={})
    sheet, _, error = codes.reconstruct_sheet(files, request)
    x = torch.cat([read_picture(file, SPEC) for file in files])
    assert error < 0.2 * float((x[0] - x[1]).square().mean())
    path, _ = codes.interpolate_sheet(files, request, 3)
    assert torch.equal(path.images[1], sheet.images[2])
    assert torch.equal(path.images[3], sheet.images[3])
    one, _ = codes.interpolate_sheet(files[:1], request, 3)
    assert one.columns == 3 and len(one.images) == 4 * 3


def test_as_a_command(model: str, tmp_path: Path, monkeypatch, capsys):
    def limner_(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["limner", *arguments])
        with pytest.raises(SystemExit) as error:
            main()
        captured = capsys.readouterr()
        return int(error.value.code or 0), captured.out, captured.err

    out = tmp_path / "out.png"
    common = ["style-mix", "-m", model, "-o", str(out)]
    code, message, _ = limner_(
        *common, "-n", "3", "--rows", "2", "sampler.psi=0.5", "--layers", "0-1"
    )
    assert code == 0 and message == f"{out}  (layers 0 to 1 from above)\n"
    settings = read_settings(out)
    assert settings is not None and settings["sampler"]["psi"] == 0.5
    with Image.open(out) as image:
        assert image.width > image.height
    assert limner_(*common, "--label", "two", "-n", "1", "--rows", "1")[0] == 0
    code, _, message = limner_(*common, "--layers", "9")
    assert code == 2 and "0 to 3" in message
    code, _, message = limner_(*common, "cat")
    assert code == 2 and "'cat' is not an option" in message
    code, _, message = limner_(*common[:-1], "out.jpg")
    assert code == 2 and "not a PNG file" in message


def test_models_without_styles_are_refused(tmp_path: Path):
    save_model(build("pixelcnn", ImageSpec(1, 6, 5, levels=2), h=4, blocks=1, top=4), tmp_path)
    with pytest.raises(LimnerError, match=r"pixelcnn models have no styles to mix; .*stylegan2"):
        style_mix.style_mix_sheet(SamplingRequest(str(tmp_path), sampler={}), 2, "fine")
