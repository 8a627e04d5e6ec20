"""`limner attention`: a map for each word, over the picture itself."""

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from limner.__main__ import main
from limner.commands.request import SamplingRequest
from limner.commands.sheets.attention import attention_sheet, stored_request
from limner.contract.abilities import Attends
from limner.contract.checkpoint import load, save_model
from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec, to_uint8
from limner.contract.registry import build
from limner.contract.text import text_condition, text_spec
from limner.data.picture_files import read_picture
from limner.data.png import read_settings, save_png

SPEC = ImageSpec(3, 8, 8, text=text_spec())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("looking") / "model"
    torch.manual_seed(0)
    flow = build("flow-matching", SPEC, channels=(8, 8), attention=2)
    with torch.no_grad():
        for p in flow.parameters():
            p += 0.1 * torch.randn_like(p)
    save_model(flow, folder)
    return str(folder)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.linear_gradient("L").resize((8, 8)).convert("RGB").save(path)
    return path


def test_each_word_highlights_the_place_that_attends_to_it_most(model: str, picture: Path):
    sheet, request, words = attention_sheet(
        picture, SamplingRequest(model, prompts=("a red apple",))
    )
    assert words == ["a", "red", "apple"] and sheet.columns == len(sheet.images) == 4
    assert request.sampler == {}
    x = read_picture(picture, SPEC)
    assert torch.equal(sheet.images[:1], to_uint8(x))
    loaded_model = load(model)
    assert isinstance(loaded_model, Attends)
    maps = loaded_model.attention_maps(x, text_condition(SPEC, "a red apple"))[0]
    for i, image in enumerate(sheet.images[1:]):
        row, column = divmod(int(maps[i].argmax()), 8)
        assert torch.equal(image[:, row, column], sheet.images[0, :, row, column])
        row, column = divmod(int(maps[i].argmin()), 8)
        assert not image[:, row, column].any()


def test_as_a_command(model: str, picture: Path, tmp_path: Path, monkeypatch, capsys):
    def limner_(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["limner", *arguments])
        with pytest.raises(SystemExit) as error:
            main()
        captured = capsys.readouterr()
        return int(error.value.code or 0), captured.out, captured.err

    out, sample = str(tmp_path / "looks.png"), str(tmp_path / "own.png")
    common = ["attention", str(picture), "-m", model, "-o", out]
    code, message, err = limner_(*common, "--prompt", "a dog")
    assert code == 0 and message == f"{out}  (the picture, then attention to: a, dog)\n", err
    code, _, err = limner_(*common)
    assert code == 2 and "give --prompt" in err
    photo = tmp_path / "photo.jpg"
    Image.new("RGB", (8, 8)).save(photo)
    code, _, err = limner_("attention", str(photo), "-m", model, "-o", out)
    assert code == 2 and "photo.jpg stores no prompt; give --prompt" in err
    assert limner_("sample", "a dog", "-m", model, "-o", sample, "sampler.steps=1")[0] == 0
    code, message, err = limner_("attention", sample, "-o", out)
    assert code == 0 and "a, dog" in message, (
        "a picture made with limner stores its prompt and its model"
    )
    code, message, err = limner_("attention", sample, "--prompt", "a cat", "-o", out)
    settings = read_settings(out)
    assert code == 0 and settings is not None and settings["model"] == model, err
    with_class, pixels = tmp_path / "class.png", torch.zeros(3, 8, 8, dtype=torch.uint8)
    save_png(pixels, with_class, {"model": "other", "prompts": ["a dog"], "labels": ["2"]})
    code, message, err = limner_("attention", str(with_class), "-m", model, "-o", out)
    assert code == 0, f"{err}: the class of another model's picture has no meaning here"


def test_a_stored_picture_has_its_changed_prompt_and_its_class(model: str, tmp_path: Path):
    file, pixels = tmp_path / "own.png", torch.zeros(3, 8, 8, dtype=torch.uint8)
    painted = {"model": model, "prompts": ["a red dog"], "labels": ["2"], "size": "16"}
    changes = ["replace:dog=cat", "weight:red=2", "local:0"]
    save_png(pixels, file, painted | {"prompt": "a red dog", "changes": changes})
    expected = SamplingRequest(model, prompts=("a red cat",), labels=("2",), size="16")
    assert stored_request(file) == expected
    save_png(pixels, file, {"model": model, "prompt": "", "changes": ["instruct:make it blue"]})
    assert stored_request(file) == SamplingRequest(model)
    save_png(pixels, file, {})
    assert stored_request(file) == SamplingRequest()


def test_models_that_do_not_attend_to_words_are_refused(picture: Path, tmp_path: Path):
    folder = tmp_path / "vae"
    save_model(build("vae", SPEC, channels=(4,), latent=2), folder)
    with pytest.raises(LimnerError, match=r"vae models do not attend to words; these do: .*edm"):
        attention_sheet(picture, SamplingRequest(str(folder), prompts=("a dog",)))
    wordless = tmp_path / "wordless"
    save_model(build("flow-matching", ImageSpec(3, 8, 8), channels=(8, 8), attention=2), wordless)
    for prompts in ((), ("a dog",)):
        with pytest.raises(LimnerError, match="trained without text and attends to no words"):
            attention_sheet(picture, SamplingRequest(str(wordless), prompts=prompts))
