"""`limner edit --instruct` on the command line."""

import shutil
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
from limner.commands.sheets.instruct import instruct, instruct_sheet
from limner.commands.task import Work
from limner.contract.checkpoint import load, save_model
from limner.contract.editing import Follows
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, ImageSpec, to_uint8
from limner.contract.text import text_spec
from limner.data import open_data
from limner.data.png import save_png
from limner.data.stream import Stream

SPEC = ImageSpec(3, 8, 8, text=text_spec(12))


@pytest.fixture(scope="module")
def follower(tmp_path_factory) -> Path:
    """Save a small model with random weights and return its folder."""
    torch.manual_seed(1)
    base = limner.build("flow-matching", SPEC, channels=(8, 16))
    model = limner.build("instruct", replace(SPEC, hint=replace(SPEC, text=None)), base=base)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    folder = tmp_path_factory.mktemp("follower")
    save_model(model, folder, recipe={"sampler": {"steps": 2}})
    return folder


@pytest.fixture
def picture(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    return tmp_path / "red.png"


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=True)
    if isinstance(result.exception, LimnerError):
        return f"limner: {result.exception}"
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def pixels(file: str) -> bytes:
    with Image.open(file) as image:
        return image.convert("RGB").tobytes()


def test_a_picture_stores_its_chain_of_instructions_and_continues_it(follower, picture):
    first, second = "make it blue", "add a dog on the left"
    run("edit", picture, "--instruct", first, "-m", follower, "-o", "one.png")
    run("edit", picture, "--instruct", first, "--instruct", second, "-m", follower, "-o", "two.png")
    request = SamplingRequest.read("two.png")
    assert request.changes == (f"instruct:{first}", f"instruct:{second}")
    assert request.hints == (str(picture),) and request.prompts == ()
    run("edit", "one.png", "--instruct", second, "-o", "again.png")
    assert pixels("again.png") == pixels("two.png")
    assert SamplingRequest.read("again.png") == request


def test_each_instruction_changes_the_result_of_the_one_before(follower, picture):
    request = SamplingRequest(str(follower), n=2, seed=3)
    first, second = "make it blue", "add a dog on the left"
    sheet, _ = instruct_sheet(picture, request, [first, second])
    assert sheet.columns == 3
    rows = sheet.images.unflatten(0, (2, 3))
    assert torch.equal(rows[0, 0], rows[1, 0]) and not torch.equal(rows[0, 1], rows[1, 1])
    for i, (_, result, final) in enumerate(rows):
        save_png(result, Path("between.png"), {})
        alone, _ = instruct_sheet(Path("between.png"), replace(request, n=1, seed=3 + i), [second])
        assert torch.equal(alone.images[1], final)


def test_unknown_words_of_each_instruction_are_reported_once(follower, picture):
    options = ("-m", follower, "--instruct", "make it \u72d7", "--instruct", "add a \u732b")
    output = run("edit", picture, *options)
    assert output.count("\u72d7") == output.count("\u732b") == 1


def test_a_chain_without_its_first_picture_or_words_is_refused(follower, picture):
    save_png(torch.zeros(3, 8, 8, dtype=torch.uint8), Path("a.png"), {"changes": ["instruct:up"]})
    assert "put it back" in run("edit", "a.png", "--instruct", "make it red", "-m", follower)
    model = load(follower)
    assert isinstance(model, Follows)
    with pytest.raises(LimnerError, match="an instruction is empty; write what to do"):
        next(instruct(Work(model, Condition(), [0], {}, prompt=" ")))


def test_each_variant_is_a_row_and_each_instruction_a_column(follower, picture):
    run("edit", picture, "--instruct", "make it blue", "-m", follower, "-n", 3, "-o", "ways.png")
    with Image.open("ways.png") as sheet:
        width, height = sheet.size
    assert height > width


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--replace", "dog=cat"], "leave these out"),
        (["--prompt", "a dog"], "leave these out"),
        (["--label", "one"], "leave these out"),
        (["--cross-steps", "0.5"], "leave these out"),
        (["--strength", "0.5"], "and leave --keep, --mask"),
        (["--feather", "2"], "and leave --keep, --mask"),
        (["other.png"], "and leave --keep, --mask"),
    ],
)
def test_incompatible_arguments_are_refused(follower, picture, arguments, message):
    output = run("edit", picture, "--instruct", "make it blue", "-m", follower, *arguments)
    assert message in output


@pytest.mark.parametrize("more", [("--prompt", "a blue dog"), ()])
def test_a_prompt_is_answered_with_the_instruction_to_give(follower, picture, more):
    assert "give --instruct 'make the dog blue'" in run("edit", picture, "-m", follower, *more)


def test_models_that_follow_no_instructions_are_refused_with_those_that_do(picture, tmp_path):
    save_model(limner.build("flow-matching", SPEC, channels=(8, 16)), tmp_path / "plain")
    output = run("edit", picture, "--instruct", "make it blue", "-m", tmp_path / "plain")
    assert "follow no instructions; these can: instruct" in output
    save_model(limner.build("gan", replace(SPEC, text=None), channels=8), tmp_path / "mute")
    output = run("edit", picture, "--instruct", "make it blue", "-m", tmp_path / "mute")
    assert "follow no instructions; these can: instruct" in output


def test_a_chain_with_a_missing_first_picture_is_refused(follower, picture):
    run("edit", picture, "--instruct", "make it blue", "-m", follower, "-o", "one.png")
    picture.unlink()
    assert "put it back" in run("edit", "one.png", "--instruct", "make it red")


def test_a_chain_continues_with_its_seeds_and_its_number_of_variants(follower, picture):
    first, second = ("--instruct", "make it blue"), ("--instruct", "add a dog on the left")
    options = ("--seed", 7, "-n", 2, "-m", follower)
    run("edit", picture, *first, *options, "-o", "one.png")
    run("edit", picture, *first, *second, *options, "-o", "two.png")
    run("edit", "one.png", *second, "-o", "again.png")
    assert pixels("again.png") == pixels("two.png")
    run("edit", "one.png", *second, "--seed", 8, "-n", 1, "-o", "other.png")
    assert (SamplingRequest.read("other.png").seed, SamplingRequest.read("other.png").n) == (8, 1)


def test_the_first_picture_of_a_chain_is_not_overwritten(follower, picture):
    content = picture.read_bytes()
    run("edit", picture, "--instruct", "make it blue", "-m", follower, "-o", "one.png")
    output = run("edit", "one.png", "--instruct", "make it red", "-o", picture)
    assert picture.read_bytes() == content and "red-2.png" in output


@pytest.mark.parametrize("blank", ["", "  "])
def test_an_instruction_without_words_is_refused(follower, picture, blank):
    assert "write what to do" in run("edit", picture, "--instruct", blank, "-m", follower)


def test_a_chain_is_not_repeated_with_sample(follower, picture):
    run("edit", picture, "--instruct", "make it blue", "-m", follower, "-o", "one.png")
    assert "limner edit one.png --instruct" in run("sample", "--from", "one.png")


def test_another_model_continues_with_its_own_options(follower, picture, tmp_path):
    run("edit", picture, "--instruct", "make it blue", "-m", follower, "sampler.tolerance=9",
        "-o", "one.png")  # fmt: skip
    copy = tmp_path / "copy"
    shutil.copytree(follower, copy)
    run("edit", "one.png", "--instruct", "make it red", "-m", copy, "-o", "two.png")
    assert SamplingRequest.read("two.png").sampler["tolerance"] == 0
    for model in ((), ("-m", follower)):
        run("edit", "one.png", "--instruct", "make it red", *model, "-o", "three.png")
        assert SamplingRequest.read("three.png").sampler["tolerance"] == 9
    run("edit", "one.png", "--instruct", "make it red", "sampler.tolerance=5", "-o", "four.png")
    assert SamplingRequest.read("four.png").sampler["tolerance"] == 5


def test_size_and_infinite_tolerance_are_refused_and_wildcards_are_chosen(follower, picture):
    arguments = "edit", picture, "-m", follower, "--instruct"
    assert "of one size" in run(*arguments, "make it blue", "--size", 16)
    assert "finite number" in run(*arguments, "make it blue", "sampler.tolerance=inf")
    run(*arguments, "make it {blue|blue}")
    assert SamplingRequest.read("edit.png").changes == ("instruct:make it blue",)


def test_tolerance_has_no_effect_on_other_edits_and_is_refused_for_graphs(follower, picture):
    run("edit", picture, "-m", follower, "--prompt", "a cow", "-n", 1, "sampler.tolerance=0.5")
    graph = "export", follower, "a.onnx", "--format", "onnx"
    assert "give sampler.tolerance=0" in run(*graph, "sampler.tolerance=0.5")


def test_sampling_without_a_picture_says_how_to_edit_one(follower, picture):
    assert "limner edit PICTURE --instruct" in run("sample", "make it blue", "-m", follower)


def test_without_a_model_the_bundled_one_follows_the_instruction(tmp_path, monkeypatch):
    """The error against the true picture falls to less than a tenth."""
    monkeypatch.chdir(tmp_path)
    options = {"size": 128, "vocabulary": 120, "grid": 16, "kinds": "ground=1"}
    stream = Stream(open_data("instructions", split="test", **options))
    pair, captions = stream.batch(0, 1), stream.captions(torch.arange(1))
    assert pair.c.image is not None and captions is not None
    save_png(to_uint8(pair.c.image)[0], Path("before.png"), {})
    run("edit", "before.png", "--instruct", captions[0])
    assert SamplingRequest.read("edit.png").model == "instruct"
    with Image.open("edit.png") as image:
        sheet = torch.from_numpy(np.array(image.convert("RGB")))
    output = sheet[8:-8, -136:-8].permute(2, 0, 1) / 127.5 - 1

    def error(x):
        return float((x - pair.x[0]).square().mean())

    assert error(output) < 0.1 * error(pair.c.image[0])
