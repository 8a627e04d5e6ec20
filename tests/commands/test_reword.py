"""Changes to the words of a prompt, on the command line."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import limner
from limner.commands.app import app
from limner.commands.request import SamplingRequest
from limner.commands.sheets.reword import read_changes, reword, reword_frames, rewording
from limner.commands.task import Work
from limner.contract.checkpoint import load, save_model
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, ImageSpec
from limner.contract.text import character_spec, text_condition, text_spec
from limner.data.png import read_settings, save_png

SPEC = ImageSpec(3, 8, 8, text=text_spec(12))


@pytest.fixture(scope="module")
def painter(tmp_path_factory) -> Path:
    """Save a small model with random weights and return its folder."""
    torch.manual_seed(1)
    model = limner.build("flow-matching", SPEC, channels=(8, 16))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    folder = tmp_path_factory.mktemp("painter")
    save_model(model, folder)
    return folder


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=True)
    if isinstance(result.exception, LimnerError):
        return f"limner: {result.exception}"
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def read_rgb(file: str) -> Image.Image:
    """Return a picture in RGB and close its file."""
    with Image.open(file) as image:
        return image.convert("RGB")


def test_changes_are_applied_one_after_the_other():
    changes = [
        "refine:with a hat",
        "replace:hat=crown",
        "replace:Dog=cat",
        "weight:crown=2",
        "self_steps:0",
    ]
    result = read_changes("a red dog", changes)
    assert result.prompt == "a red cat with a crown"
    assert result.gains == {"crown": 2.0}
    assert result.shares == {"self_steps": 0.0}
    assert read_changes("a big red dog", ["replace:big red="]).prompt == "a dog"
    assert read_changes("a=b dog", ["replace:a=b=cat"]).prompt == "cat dog"
    assert read_changes("dogs", ["refine:dog", "replace:dog=x"]).prompt == "dogs x"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("replace:cat=dog", "the prompt 'a red dog' has no 'cat'"),
        ("replace:dog", "replace 'dog' is not WORD=VALUE; write it as dog=cat"),
        ("replace:=cat", "is not WORD=VALUE"),
        ("weight:red", "weight 'red' is not WORD=VALUE; write it as red=2"),
        ("weight:red=many", "weight red=many: give a number from 0 to 10"),
        ("weight:red=-1", "give a number from 0 to 10"),
        ("refine: ", "refine has no words to add"),
        ("cross_steps:1.5", "cross_steps=1.5: give a number from 0 to 1"),
        ("paint:it", "unknown change 'paint:it'"),
    ],
)
def test_a_wrong_change_is_refused_in_one_line(change, message):
    with pytest.raises(LimnerError) as error:
        read_changes("a red dog", [change])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_gains_belong_to_the_words_of_the_changed_prompt():
    before, after, change = rewording(
        SPEC, "a (red:2) dog", ["replace:dog=ice cream", "weight:ice cream=3"]
    )
    assert change.gains.tolist() == [1, 1, 3, 3]
    assert before.weight.tolist() == [[1, 2, 1, 1]] and after.weight.tolist() == [[1, 2, 1, 1]]
    assert change.alignment.new == (2, 3) and change.alignment.removed == (2,)


@pytest.mark.parametrize(
    ("prompt", "words", "gains"),
    [
        ("a red t-shirt", "t-shirt", [1, 1, 3, 3, 3]),
        ("a red dog on a red rug", "Red dog", [1, 3, 3, 1, 1, 1, 1]),
        ("a dog, a cat", "dog", [1, 3, 1, 1, 1]),
        ("a dog or a dog", "dog", [1, 3, 1, 1, 3]),
        ("a \U0001f34e box", "\U0001f34e", [1, 3, 3, 1]),
    ],
)
def test_a_weight_belongs_to_the_words_where_they_follow_each_other(prompt, words, gains):
    *_, change = rewording(SPEC, prompt, [f"weight:{words}=3"])
    assert change.gains.tolist() == gains


def test_brackets_are_characters_for_a_model_with_its_own_tokenizer():
    spec = replace(SPEC, text=character_spec())
    prompt = "a (big) dog, red"
    *_, change = rewording(spec, prompt, ["weight:dog=3"])
    assert change.gains.tolist() == [3 if 8 <= i < 11 else 1 for i in range(len(prompt))]


def test_the_model_gets_all_changes_shares_and_conditions(monkeypatch):
    """Weights alone act on the whole picture, and not only where words change."""
    spec = replace(SPEC, labels=("a", "b"), frequencies=(0.5, 0.5))
    model = limner.build("flow-matching", spec, channels=(8, 16))
    calls = []

    def spy(self, before, after, change, **options):
        calls.append((before, after, change, options))
        yield torch.cat([torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8)])

    monkeypatch.setattr(type(model), "reword", spy)
    c = Condition(label=torch.tensor([1, 1]))
    work = Work(model, c, [3, 4], {}, {"steps": 2}, "a red dog", changes=("refine:with a hat",))
    (painted,) = reword(
        work,
        replace="dog=cat",
        weight="hat=2",
        cross_steps=0.7,
        self_steps=0.5,
        local=0.2,
        strength=0.4,
    )
    assert bool((painted == 1).all()) and len(painted) == 2
    [*reword_frames(work, ["weight:red=2", "local:0.2"])]
    assert len([*reword(replace(work, changes=()), weight="red=2")]) == 1, "one change is enough"
    del calls[2]
    for before, after, _, options in calls:
        assert before.label.tolist() == after.label.tolist() == [1]
        assert options["seed"] == [3, 4] and options["steps"] == 2 and options["image"] is None
    (_, after, change, options), (_, _, weighted, usual) = calls
    assert torch.equal(after.text, text_condition(spec, "a red cat with a hat").text)
    assert change.gains.tolist() == [1, 1, 1, 1, 1, 2]
    assert (change.cross_steps, change.self_steps, change.local) == (0.7, 0.5, 0.2)
    assert (weighted.cross_steps, weighted.self_steps, weighted.local) == (0.2, 0.1, 0.0)
    assert (options["strength"], usual["strength"]) == (0.4, 1.0)


def test_a_picture_that_is_edited_repeatedly_stores_all_changes(painter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("sample", "a red dog", "-m", painter, "-n", 2, "-o", "a.png", "sampler.steps=3")
    run("edit", "a.png", "--replace", "dog=cat", "--local", 0, "-o", "b.png")
    run("edit", "b.png", "--refine", "with a hat", "--weight", "hat=2", "-o", "c.png")
    request = SamplingRequest.read("c.png")
    assert request.prompts == ("a red dog",) and request.n == 2
    assert request.changes == ("replace:dog=cat", "local:0", "refine:with a hat", "weight:hat=2")
    run("sample", "--from", "c.png", "-o", "d.png", "--separate")
    run("sample", "--from", "a.png", "-o", "e.png", "--separate")
    run("sample", "a cat", "--from", "c.png", "-o", "f.png")
    assert SamplingRequest.read("f.png").changes == () and SamplingRequest.read(
        "f.png"
    ).prompts == ("a cat",)
    sheet = read_rgb("c.png")  # before and after in a row, for each seed
    side = read_rgb("d-0.png").width
    cells = [(x, y) for y in range(2) for x in range(2)]
    gap = (sheet.width - 2 * side) // 3
    for (x, y), file in zip(cells, ["e-0.png", "d-0.png", "e-1.png", "d-1.png"]):
        left, top = gap + x * (side + gap), gap + y * (side + gap)
        cell = sheet.crop((left, top, left + side, top + side))
        assert cell.tobytes() == read_rgb(file).tobytes(), file


def test_words_change_in_a_picture_painted_with_a_control(painter, tmp_path, monkeypatch):
    """The first picture is the one painted with the control; the second has the same hint."""
    monkeypatch.chdir(tmp_path)
    spec = replace(SPEC, hint=ImageSpec(1, 8, 8, domain="edges"))
    control = limner.build("controlnet", spec, base=load(painter))
    for p in control.controls.parameters():
        torch.nn.init.normal_(p, std=0.2)
    save_model(control, tmp_path / "control")
    Image.linear_gradient("L").resize((8, 8)).save("hint.png")
    run(
        "sample",
        "a red dog",
        "-m",
        "control",
        "--hint",
        "hint.png",
        "-o",
        "a.png",
        "sampler.steps=3",
    )
    run("edit", "a.png", "--replace", "dog=cat", "--local", 0, "-o", "b.png")
    request = SamplingRequest.read("b.png")
    assert request.hints == ("hint.png",) and request.changes == ("replace:dog=cat", "local:0")
    sheet, side = read_rgb("b.png"), read_rgb("a.png").width
    gap = (sheet.width - 2 * side) // 3
    first = sheet.crop((gap, gap, gap + side, gap + side))
    assert first.tobytes() == read_rgb("a.png").tobytes()
    run("sample", "--from", "b.png", "-o", "c.png")
    second = sheet.crop((2 * gap + side, gap, 2 * (gap + side), gap + side))
    assert second.tobytes() == read_rgb("c.png").tobytes() != first.tobytes()
    save_model(load(painter), tmp_path / "other")
    settings = read_settings("a.png") or {}
    settings |= {"model": str(painter), "controls": ["control"]}
    settings["sampler"] |= {"control_strength": 0.5}
    save_png(torch.zeros(3, 8, 8, dtype=torch.uint8), "d.png", settings)
    run("edit", "d.png", "-m", "other", "--replace", "dog=cat", "-o", "e.png")
    assert SamplingRequest.read("e.png").sampler["control_strength"] == 0.5


def test_any_other_picture_needs_a_prompt(painter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 20), "red").save("photo.jpg")
    edit = ("edit", "photo.jpg", "-m", painter, "--replace", "dog=cat")
    assert "photo.jpg stores no prompt; give --prompt" in run(*edit)
    output = run(*edit, "--prompt", "a dog", "--strength", 0.5, "-o", "out.png", "sampler.steps=4")
    assert (
        "reconstructed with an error of 0.0 %; edits keep what the reconstruction keeps" in output
    )
    assert read_rgb("out.png").width > read_rgb("out.png").height
    monkeypatch.setattr("limner.commands.sheets.reword.reconstruction_error", lambda *_: 0.25)
    assert "reconstructed with an error of 25.0 %" in run(
        *edit, "--prompt", "a dog", "sampler.steps=1"
    )
    monkeypatch.setattr("limner.commands.sheets.reword.reconstruction_error", None)
    weigh = (*edit[:4], "--prompt", "a red dog", "--weight", "red=nan")
    assert "red=nan: give a number from 0 to 10" in run(*weigh), "before anything is computed"


def test_a_new_prompt_for_a_picture_of_limner_keeps_its_model(painter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"model": str(painter), "prompts": ["a dog"]}
    save_png(torch.zeros(3, 8, 8, dtype=torch.uint8), "a.png", settings)
    edit = ("edit", "a.png", "--prompt", "a cat", "sampler.steps=2", "-o", "b.png")
    for change in [("--refine", "with a hat"), ("-n", 1)]:
        run(*edit, *change)
        stored = read_settings("b.png")
        assert stored is not None and stored["model"] == str(painter)


def test_an_edit_of_a_photo_is_not_repeated_from_its_settings(painter, tmp_path, monkeypatch):
    """The file does not contain the photo; its settings alone would give another picture."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 20), "red").save("photo.png", "JPEG")  # as browsers may save it
    edit = ("edit", "photo.png", "-m", painter, "--prompt", "a dog", "sampler.steps=2")
    run(*edit, "--replace", "dog=cat", "-o", "out.png")
    for args in (("edit", "out.png", "--replace", "cat=bird"), ("sample", "--from", "out.png")):
        assert "limner edit made out.png, and its settings alone cannot" in run(*args)
    assert "there is no file 'phot.png'" in run("edit", "phot.png", "--replace", "dog=cat")


def test_another_model_leaves_out_options_that_it_does_not_have(painter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"prompts": ["a dog"], "sampler": {"steps": 2, "upsampler_steps": 5}}  # by a cascade
    save_png(torch.zeros(3, 8, 8, dtype=torch.uint8), "a.png", settings)
    output = run("edit", "a.png", "-m", painter, "--replace", "dog=cat", "-o", "b.png")
    assert "has no sampler.upsampler_steps: left out" in output
    assert SamplingRequest.read("b.png").sampler["steps"] == 2
    save_model(limner.build("gan", SPEC, channels=8), tmp_path / "gan")
    save_model(limner.build("gan", replace(SPEC, text=None), channels=8), tmp_path / "mute")
    for model in ("gan", "mute"):
        output = run("edit", "a.png", "-m", model, "--replace", "dog=cat")
        assert "gan models change no words; these do: " in output


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--replace", "dog=cat", "--keep", 0.5), "leave these out"),
        (("--replace", "dog=cat", "--feather", 2), "leave these out"),
        (("--replace", "dog=dog"), "the prompt does not change"),
        (("b.png", "--replace", "dog=cat"), "change one picture; give one"),
        (("--cross-steps", 0.5), "need --replace"),
        (("--replace", "dog=cat", "--strength", 0.5), "leave it out"),
    ],
)
def test_incompatible_arguments_are_refused_in_one_line(
    painter, tmp_path, monkeypatch, extra, message
):
    monkeypatch.chdir(tmp_path)
    run("sample", "a dog", "-m", painter, "-o", "a.png", "sampler.steps=2")
    assert message in run("edit", "a.png", *extra)


def test_a_model_that_changes_no_words_names_those_that_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model(limner.build("gan", SPEC, channels=8), tmp_path / "gan")
    Image.new("RGB", (20, 20), "red").save("photo.png")
    output = run("edit", "photo.png", "-m", "gan", "--prompt", "a dog", "--replace", "dog=cat")
    assert "gan models change no words; these do: " in output and "latent-diffusion" in output


def test_unknown_words_of_the_changed_prompt_are_reported_once(painter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("sample", "a \u72d7 dog", "-m", painter, "sampler.steps=2", "-o", "a.png")
    output = run("edit", "a.png", "--replace", "dog=cat")
    assert output.count("unknown words") == 1
    output = run("edit", "a.png", "--replace", "dog=\u732b cat")
    assert "are left out: '\u72d7', '\u732b'" in output


def test_a_picture_has_one_prompt_and_options_can_be_overridden(painter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("sample", "-m", painter, "sampler.steps=1", "-o", "none.png")
    assert "none.png stores no prompt; give --prompt" in run("edit", "none.png", "--refine", "red")
    run("sample", "a dog", "a cat", "-m", painter, "sampler.steps=1", "-o", "two.png")
    output = run("edit", "two.png", "--refine", "red")
    assert "two.png has 2 prompts; give a picture with one" in output
    run("sample", "a dog", "-m", painter, "sampler.steps=1", "-o", "a.png")
    run("edit", "a.png", "--refine", "red", "sampler.steps=2", "-o", "b.png")
    assert SamplingRequest.read("b.png").sampler["steps"] == 2


def test_less_strength_changes_a_photo_less(painter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.linear_gradient("L").resize((8, 8)).save("photo.png")
    edit = ("edit", "photo.png", "-m", painter, "--prompt", "a dog", "--replace", "dog=cat")
    changes = []
    for strength in (0.25, 1):
        run(*edit, "--strength", strength, "--local", 0, "sampler.steps=4", "-o", "out.png")
        sheet = np.asarray(read_rgb("out.png")).astype(float)
        left, right = (
            sheet[8:-8, 8 : sheet.shape[1] // 2 - 4],
            sheet[8:-8, sheet.shape[1] // 2 + 4 : -8],
        )
        changes.append(np.abs(left - right).mean())
    assert 0 < changes[0] < 0.8 * changes[1]


def test_seed_and_number_of_pictures_apply_to_pictures_of_limner(painter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("sample", "a red dog", "-m", painter, "sampler.steps=2", "-o", "a.png")
    run("edit", "a.png", "--replace", "red=blue", "--seed", 5, "-n", 2, "-o", "b.png")
    assert (SamplingRequest.read("b.png").seed, SamplingRequest.read("b.png").n) == (5, 2)


def test_class_and_size_apply_to_pictures_of_limner(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = limner.build(
        "flow-matching", replace(SPEC, labels=("pet", "plant")), channels=(8, 16), patch=1
    )
    save_model(model, tmp_path / "model")
    run("sample", "a red dog", "-m", "model", "--label", "pet", "sampler.steps=1", "-o", "a.png")
    run("edit", "a.png", "--replace", "red=blue", "-o", "b.png")
    assert (SamplingRequest.read("b.png").labels, SamplingRequest.read("b.png").size) == (
        ("pet",),
        None,
    )
    new = ("--label", "plant", "--size", 16)
    run("edit", "a.png", "--replace", "red=blue", *new, "-o", "c.png")
    assert (SamplingRequest.read("c.png").labels, SamplingRequest.read("c.png").size) == (
        ("plant",),
        "16",
    )
    run("edit", "c.png", "--replace", "blue=green", "-o", "d.png")
    assert (SamplingRequest.read("d.png").labels, SamplingRequest.read("d.png").size) == (
        ("plant",),
        "16",
    )
    assert run("edit", "a.png", "--refine", "hat", "--label", "car").startswith("limner: label")
