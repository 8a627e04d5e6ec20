"""`limner reconstruct` and `limner interpolate`: the layout of their sheets."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from limner.__main__ import main
from limner.commands.request import SamplingRequest
from limner.commands.sheets import codes
from limner.commands.sheets.attention import ATTENTION
from limner.commands.sheets.style_mix import MIX
from limner.commands.sheets.translate import TRANSLATE
from limner.commands.sheets.walk import WALK
from limner.commands.task import Task, able_task
from limner.contract.bundled import load
from limner.contract.checkpoint import save_model
from limner.contract.codes import Encodes
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, ImageSpec, from_uint8, to_uint8
from limner.contract.model import GenerativeModel
from limner.contract.registry import build, models
from limner.data import open_data
from limner.data.picture_files import read_picture
from limner.data.png import read_settings

SPEC = ImageSpec(1, 6, 5, labels=("one", "two"))
NOTHING = Condition()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("latents") / "model"
    torch.manual_seed(0)
    vae = build("vae", SPEC, latent=3, hidden=(4,))
    with torch.no_grad():
        for p in vae.parameters():
            p += 0.3 * torch.randn_like(p)
    save_model(vae, folder)
    return str(folder)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        grey = Image.linear_gradient("L").rotate(90 * i).resize((5, 6))
        grey.save(folder / f"{i}.png")
    return sorted(folder.iterdir())


def model_and_pictures(model: str, files: list[Path]) -> tuple[Encodes, torch.Tensor]:
    loaded_model = load(model)
    assert isinstance(loaded_model, Encodes)
    return loaded_model, torch.cat([read_picture(file, loaded_model.spec) for file in files])


class Scaled(Encodes):
    """A model whose codes are the pixels over a gain for each, shifted by the label."""

    spherical = False

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self.gains = torch.nn.Parameter(torch.tensor([0.2, -0.9, 0.1, 0.3]))

    def encode(self, x, c=NOTHING):
        return x.flatten(1) / self.gains + c.label[:, None]

    def decode(self, z, c=NOTHING):
        return ((z - c.label[:, None]) * self.gains).view(-1, *self.spec.shape)

    def frames(self, n, c=NOTHING, *, noise, preview=True):
        raise NotImplementedError

    def turns(self, batch, step, noise):
        raise NotImplementedError


def test_each_path_has_the_condition_of_its_pictures():
    """There are more codes than are decoded together."""
    scaled = Scaled(ImageSpec(1, 2, 2, labels=("one", "two")))
    a, b = torch.rand(2, 70, 1, 2, 2) * 2 - 1
    c = Condition(label=torch.arange(70) % 2)
    expected = torch.stack([a, (a + b) / 2, b], 1)
    torch.testing.assert_close(scaled.interpolate(a, b, 3, c), expected)
    torch.testing.assert_close(scaled.reconstruct(a, c), a)


def test_numbers_of_a_code_are_ranked_by_how_much_they_change_the_picture():
    scaled = Scaled(ImageSpec(1, 2, 2, labels=("one", "two")))
    pictures = scaled.traverse(torch.zeros(1, 1, 2, 2), 3, (0.0, 1.0), Condition(label=[1]))
    changes = (pictures[:, 1] - pictures[:, 0]).flatten(1)
    expected = torch.zeros(3, 4)
    expected[0, 1], expected[1, 3], expected[2, 0] = -0.9, 0.3, 0.2
    torch.testing.assert_close(changes, expected)
    bright = scaled.traverse(torch.zeros(1, 1, 2, 2), [0], (9.0,), Condition(label=[0]))
    assert float(bright.max()) == 1


def test_pictures_are_above_their_reconstructions(model, files):
    """Nine pictures: a row of eight pairs, and a row with one pair and white cells."""
    pictures = [*files, *files, *files]
    sheet, request, error = codes.reconstruct_sheet(
        pictures, SamplingRequest(model, labels=("two",), sampler={})
    )
    loaded_model, x = model_and_pictures(model, pictures)
    x_hat = loaded_model.reconstruct(x, Condition(label=torch.tensor([1])))
    assert sheet.columns == 8
    assert request.sampler == {}
    rows = sheet.images.unflatten(0, (4, 8))
    assert torch.equal(rows[0], to_uint8(x[:8]))
    assert torch.equal(rows[1], to_uint8(x_hat[:8]))
    assert torch.equal(rows[2, :1], to_uint8(x[8:]))
    assert torch.equal(rows[3, :1], to_uint8(x_hat[8:]))
    assert bool((rows[2:, 1:] == 255).all())
    assert error == pytest.approx(float((x - x_hat).square().mean()))


def test_a_path_is_between_the_pictures_that_it_connects(model, files):
    sheet, _ = codes.interpolate_sheet(files, SamplingRequest(model, sampler={}), 4)
    loaded_model, x = model_and_pictures(model, files)
    assert sheet.columns == 6
    rows = sheet.images.unflatten(0, (2, 6))
    assert torch.equal(rows[:, 0], to_uint8(x[:2]))
    assert torch.equal(rows[:, -1], to_uint8(x[1:]))
    assert torch.equal(rows[:, 1], to_uint8(loaded_model.reconstruct(x[:2])))
    assert torch.equal(rows[:, -2], to_uint8(loaded_model.reconstruct(x[1:])))
    assert not torch.equal(rows[0, 2], rows[0, 1])


def test_one_picture_shows_the_effect_of_each_number_of_its_code(model, files):
    """There is a row for each number of the code, with the requested count of values from -3 to 3.
    The first, the middle (0) and the last value are compared."""
    sheet, _ = codes.interpolate_sheet(files[:1], SamplingRequest(model, sampler={}), 5)
    loaded_model, x = model_and_pictures(model, files[:1])
    assert sheet.columns == 5
    rows = sheet.images.unflatten(0, (3, 5))
    with torch.no_grad():
        z = loaded_model.encode(x)
        for i in range(3):
            variants = z.repeat(3, 1)
            variants[:, i] = torch.tensor([-3.0, 0.0, 3.0])
            expected = to_uint8(loaded_model.decode(variants))
            assert any(torch.equal(row[[0, 2, 4]], expected) for row in rows)


@pytest.fixture
def run(files, tmp_path: Path) -> str:
    """Save a model that was trained on the three files, and return its folder."""
    vae = build("vae", replace(SPEC, labels=(), frequencies=()), latent=3, hidden=(4,))
    data = {"source": f"folder:{files[0].parent}", "size": "6x5", "channels": 1}
    save_model(vae, tmp_path / "run", recipe={"data": data})
    return str(tmp_path / "run")


def test_paths_connect_as_many_pictures_of_the_data_as_there_are(run, files):
    sheet, _ = codes.interpolate_sheet([], SamplingRequest(run, n=2, sampler={}), 3)
    assert len(sheet.images) == sheet.columns == 5, "three pictures make one pair"
    files[2].unlink()
    again, _ = codes.interpolate_sheet([], SamplingRequest(run, sampler={}), 3)
    assert len(again.images) == again.columns == 5
    files[1].unlink()
    with pytest.raises(LimnerError, match="the training data have one picture; give two picture"):
        codes.interpolate_sheet([], SamplingRequest(run, sampler={}), 3)


def test_a_run_whose_data_moved_asks_for_picture_files(run, files):
    files[0].parent.rename(files[0].parent.with_name("elsewhere"))
    with pytest.raises(LimnerError, match=r"for data that moved, give picture files$"):
        codes.reconstruct_sheet([], SamplingRequest(run, sampler={}))


def test_held_out_pictures_are_reconstructed_if_there_are_any(tmp_path: Path):
    data = {"source": "emoji", "style": "line", "size": 8, "label": "none"}
    held_out = open_data(**data, split="held-out-concept")
    vae = build("vae", held_out.spec, latent=3, hidden=(4,))
    save_model(vae, tmp_path / "run", recipe={"data": data})
    sheet, _, _ = codes.reconstruct_sheet(
        [], SamplingRequest(str(tmp_path / "run"), n=1, sampler={})
    )
    pictures = held_out.pixels(torch.arange(len(held_out)))
    assert any(torch.equal(sheet.images[0], picture) for picture in pictures)


def test_pictures_of_the_data_keep_their_order_and_their_classes(tmp_path: Path):
    x, labels = [], torch.tensor([0, 1, 0, 1])
    for i, label in enumerate(labels.tolist()):
        file = tmp_path / "data" / SPEC.labels[label] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.linear_gradient("L").rotate(90 * i).resize((5, 6)).save(file)
        x.append(to_uint8(read_picture(file, SPEC))[0])
    vae = build("vae", SPEC, latent=3, hidden=(4,))
    with torch.no_grad():
        for p in vae.parameters():
            p += 0.3 * torch.randn_like(p)
    data = {"source": f"folder:{tmp_path / 'data'}", "size": "6x5", "channels": 1}
    save_model(vae, tmp_path / "run", recipe={"data": data})
    request = SamplingRequest(str(tmp_path / "run"), n=4, sampler={})
    sheet, _, _ = codes.reconstruct_sheet([], request)
    pictures, x_hat = sheet.images.split(4)
    order = [next(i for i in range(4) if torch.equal(x[i], picture)) for picture in pictures]
    assert sorted(order) == [0, 1, 2, 3] and isinstance(vae, Encodes)
    c, inputs = Condition(label=labels[order]), from_uint8(pictures)
    assert torch.equal(x_hat, to_uint8(vae.reconstruct(inputs, c)))
    paths, _ = codes.interpolate_sheet([], replace(request, n=2), 3)
    rows = paths.images.unflatten(0, (2, 5))
    assert torch.equal(rows[:, [0, -1]].flatten(0, 1), pictures)
    assert torch.equal(rows[:, 1], to_uint8(vae.reconstruct(inputs[::2], c.rows(slice(0, 4, 2)))))
    few, _, _ = codes.reconstruct_sheet([], replace(request, n=2))
    assert torch.equal(few.images[:2], pictures[:2]) and len(few.images) == 4
    with pytest.raises(LimnerError, match="give one label or prompt; it is for all pictures"):
        codes.reconstruct_sheet([file], replace(request, labels=("all",)))
    with pytest.raises(LimnerError, match="labels and prompts need picture files"):
        codes.reconstruct_sheet([], replace(request, labels=("one",)))


def test_as_commands(model, files, tmp_path, monkeypatch, capsys):
    def limner_(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["limner", *arguments])
        with pytest.raises(SystemExit) as error:
            main()
        captured = capsys.readouterr()
        return int(error.value.code or 0), captured.out, captured.err

    out = tmp_path / "out.png"
    common = [str(files[0]), str(files[1]), "-m", model, "-o", str(out)]
    code, message, _ = limner_("reconstruct", *common, "--label", "two")
    assert code == 0 and "mean squared error" in message
    settings = read_settings(out)
    assert settings is not None and settings["labels"] == ["two"]
    code, _, message = limner_("interpolate", *common, "--steps", "3")
    assert code == 0 and "the ends of the paths have a mean squared error of 0." in message
    code, _, message = limner_("interpolate", *common, "sampler.steps=3")
    assert code == 2 and "encoding uses no sampler options; leave sampler.steps=3 out" in message
    with Image.open(out) as image:
        assert image.width > image.height
    code, _, message = limner_("interpolate", "-m", model, "-o", str(out))
    assert code == 2 and "cannot open the training data of" in message
    code, _, message = limner_("reconstruct", *common[:-1], "out.jpg")
    assert code == 2 and "not a PNG file" in message


def test_models_without_codes_are_refused(files, tmp_path):
    save_model(build("pixelcnn", ImageSpec(1, 6, 5, levels=2), h=4, blocks=1, top=4), tmp_path)
    with pytest.raises(LimnerError, match=r"pixelcnn models have no codes; these have: .*ddpm, "):
        codes.reconstruct_sheet(files, SamplingRequest(str(tmp_path), sampler={}))


@pytest.mark.parametrize("task", [codes.RECONSTRUCT, WALK, MIX, TRANSLATE], ids=lambda t: t.title)
def test_every_unsuitable_model_is_refused_by_its_name(task: Task):
    painters = [
        entry.model for entry in models().values() if issubclass(entry.model, GenerativeModel)
    ]
    unsuitable = [model for model in painters if not task.suits(model)]
    assert unsuitable
    for model in unsuitable:
        with pytest.raises(LimnerError, match=f"^{re.escape(model.name)} models {task.refusal}: "):
            able_task(model.__new__(model), task)


@pytest.mark.parametrize(
    ("task", "able", "unable"), [(MIX, "stylegan2", "gan"), (ATTENTION, "scenes", "edm")]
)
def test_a_refusal_names_the_bundled_models_that_can_do_it(task: Task, able: str, unable: str):
    with pytest.raises(LimnerError) as error:
        able_task(load("gan"), task)
    names = re.findall(r"bundled \(-m NAME\): ([^;]+)", str(error.value))[0].split(", ")
    assert able in names and unable not in names, "the bundled edm reads no words"
