"""`limner sample` with prompts: sheets, seeds, variations, files, and restored settings."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageSequence
from torchvision.transforms.functional import pil_to_tensor
from typer.testing import CliRunner

from limner.__main__ import main
from limner.commands import suited_model
from limner.commands.app import app
from limner.commands.pictures import Sheet, write_sheet
from limner.commands.request import (
    SamplingRequest,
    load_painter,
    open_model,
    sampler_options,
    supported_options,
)
from limner.commands.sample import _with_own_words
from limner.commands.sheets.sample import paint_sheet
from limner.contract.bundled import COMPOSER, DEFAULT, QUICK_COMPOSER, find_model
from limner.contract.checkpoint import load, save_model
from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec
from limner.contract.noise import Blend, Noise
from limner.contract.registry import build
from limner.contract.text import Tokenizer, text_condition, text_spec
from limner.contract.wildcards import choose_words
from limner.data.png import read_settings, save_png
from limner.nn.text import TextEncoder

OPTIONS = ["model.channels=8,8", "train.steps=30", "train.batch=8", "train.samples=0"]
DATA = ["data.size=8", "data.text=true", "data.label=none", "train.lr=1e-2", "train.ema=0"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Train a text model just enough to depend on its prompt, and return its run."""
    from limner.training.recipe import Recipe
    from limner.training.run import train

    run = tmp_path_factory.mktemp("painting") / "run"
    usual = ["sampler.steps=3", "sampler.scale=4"]
    train(Recipe.of("flow-matching", "emoji", [*OPTIONS, *DATA, *usual]), run)
    return str(run)


def paint(request: SamplingRequest) -> torch.Tensor:
    return paint_sheet(request)[0].images


def test_each_prompt_has_a_row_of_the_same_seeds(model: str):
    sheet, _ = paint_sheet(SamplingRequest(model, prompts=("a red apple", "a dog"), n=3, seed=5))
    assert sheet.images.shape == (6, 3, 8, 8)
    assert sheet.columns == 3
    single = paint(SamplingRequest(model, prompts=("a dog",), seed=7))
    assert (sheet.images[5].int() - single[0].int()).abs().max() <= 1
    assert not torch.equal(sheet.images[2], sheet.images[5]), "another prompt is another picture"


@pytest.mark.parametrize(
    ("prompts", "n", "columns"), [(1, 3, 3), (1, 8, 8), (1, 9, 8), (2, 1, 1), (2, 9, 9)]
)
def test_a_long_row_is_broken_only_if_it_is_the_only_one(model, prompts, n, columns):
    sheet, _ = paint_sheet(
        SamplingRequest(model, prompts=("a dog",) * prompts, n=n, sampler={"steps": 1})
    )
    assert (len(sheet.images), sheet.columns) == (prompts * n, columns)


def test_given_options_override_the_defaults_of_the_recipe(model: str):
    options = open_model(SamplingRequest(model, sampler={"steps": 5}))[1]
    assert options["steps"] == 5
    assert options["scale"] == 4.0


def test_an_option_without_a_value_is_the_one_of_the_recipe_as_in_the_stored_settings():
    path = find_model("emoji")
    model = load_painter(path, "cpu")
    request = SamplingRequest(sampler={"steps": 1, "clean": None, "level": None, "eta": None})
    options = sampler_options(model, path, request)
    assert (options["clean"], options["level"], options["eta"]) == (3, 0.0, None)
    assert sampler_options(model, path, request.with_sampler(options)) == options
    with pytest.raises(LimnerError, match="unknown sampler option 'claen'"):
        sampler_options(model, path, SamplingRequest(sampler={"claen": None}))


def test_an_option_of_the_recipe_that_none_clears_is_stored_as_cleared():
    path = find_model("emoji")
    model, request = load_painter(path, "cpu"), SamplingRequest(sampler={"scale": "none"})
    assert sampler_options(model, path, SamplingRequest())["scale"] == 2.5
    options = sampler_options(model, path, request)
    assert options["scale"] is None
    assert sampler_options(model, path, request.with_sampler(options)) == options


def test_a_negative_prompt_changes_the_picture(model: str):
    request = SamplingRequest(model, prompts=("a dog",))
    assert not torch.equal(paint(request), paint(replace(request, negative="brown")))
    assert torch.equal(paint(request), paint(replace(request, negative="")))
    with pytest.raises(LimnerError, match=r"sampler\.scale=3"):
        paint_sheet(replace(request, negative="brown", sampler={"scale": 1.0}))


def test_unguided_models_refuse_negative_prompts_and_control_strengths(tmp_path: Path):
    save_model(
        build("gan", ImageSpec(1, 8, 8, text=text_spec(4)), latent=4, channels=4), tmp_path / "m"
    )
    with pytest.raises(LimnerError, match="gan models do not have; leave --negative out"):
        open_model(SamplingRequest(str(tmp_path / "m"), prompts=("a dog",), negative="brown"))
    with pytest.raises(LimnerError, match="gan models have no control; leave --strength out"):
        open_model(SamplingRequest(str(tmp_path / "m"), sampler={"control_strength": 0.5}))
    with pytest.raises(LimnerError, match=r"leave sampler\.control_interval out"):
        open_model(SamplingRequest(str(tmp_path / "m"), sampler={"control_interval": [0, 0.5]}))
    save_model(build("flow-matching", ImageSpec(1, 8, 8), channels=(8,)), tmp_path / "no-text")
    with pytest.raises(LimnerError, match="trained without text; leave --negative out"):
        open_model(SamplingRequest(str(tmp_path / "no-text"), negative="brown"))


def test_variations_start_with_the_picture_and_stay_near_it(model: str):
    request = SamplingRequest(model, prompts=("a dog",), n=4, seed=3)
    original = paint(replace(request, n=1))
    near, far = (paint(replace(request, vary=amount)) for amount in (0.1, 1.0))
    assert torch.equal(near[0], original[0])

    def distance(images: torch.Tensor) -> float:
        return (images[1:].double() - original.double()).abs().mean().item()

    assert 0 < distance(near) < distance(far)
    assert torch.equal(far[2], paint(replace(request, n=1, seed=5))[0]), (
        "amount 1 is the other seed"
    )


def test_blended_noise_is_standard_normal_on_a_circle_through_both():
    seeds = [Blend(1, 2, 0.6), 1, 2]
    z = Noise.sampling(seeds, 3).normal(4000, dtype=torch.float64)
    torch.testing.assert_close(z[0], 0.8 * z[1] + 0.6 * z[2])
    assert abs(z[0].std() - 1) < 0.05
    part = Noise.sampling(seeds, 3).rows(slice(0, 1))
    assert torch.equal(part.normal(5), Noise.sampling(seeds, 3).normal(5)[:1])
    assert torch.equal(z[1], Noise.sampling(1, 1).normal(4000, dtype=torch.float64)[0])


PROMPTS = {
    "empty": ("", None),
    "ten thousand characters": ("dog " * 2500, "cut after"),
    "another script": ("красное яблоко", "unknown words"),
    "nonsense": ("xqzw \U0001f34e \x00", "no training caption had 'xqzw'"),
    "surrogate": ("dog \ud800", None),
}


@pytest.mark.parametrize("kind", PROMPTS)
def test_any_prompt_gets_a_picture(kind: str, model: str, capsys: pytest.CaptureFixture[str]):
    prompt, remark = PROMPTS[kind]
    assert paint(SamplingRequest(model, prompts=(prompt,))).shape == (1, 3, 8, 8)
    message = capsys.readouterr().err
    assert message.count("\n") <= 2
    assert (remark or "") in message


def test_words_that_no_training_caption_had_are_named(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded_model = load(model)
    encoder = next(module for module in loaded_model.modules() if isinstance(module, TextEncoder))
    assert loaded_model.spec.text is not None
    encoder.train()(Tokenizer(loaded_model.spec.text).encode(["a dog"]))
    save_model(loaded_model, tmp_path / "shown")
    paint(SamplingRequest(str(tmp_path / "shown"), prompts=("a dog", "a teal dog, a giraffe")))
    assert "no training caption had 'teal', 'giraffe';" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("prompt", "suggested"),
    [
        ("a red apple and a green car", True),
        ("Two (dogs:1.2) on the grass", True),
        ("A  red apple", False),
        ("a heart.", False),
        ("a crying face", False),
        ("a dog wearing sunglasses", False),
        ("a dog and a 犬", False),
        ("", False),
    ],
)
def test_the_composing_model_is_suggested_for_prompts_that_only_it_can_paint(
    prompt: str, suggested: bool, model: str
) -> None:
    default = SamplingRequest.of({"prompts": [prompt]})
    for name, expected in ((None, suggested), (DEFAULT, suggested), (model, False)):
        suggestion = suited_model.better_model(replace(default, model=name))
        line = f"(-m {COMPOSER} sampler.candidates=3 sampler.repaints=0)"
        assert expected == (suggestion is not None and str(suggestion).endswith(line))


def test_no_other_model_is_suggested_for_one_with_controls() -> None:
    request = SamplingRequest(prompts=("two dogs on the grass",), controls=("line",))
    assert not suited_model.better_model(request)


@pytest.mark.parametrize(
    ("prompts", "settings", "expected"),
    [
        (["two dogs on the grass"], {}, COMPOSER),
        (["a dog", "a (red:1.2) apple and a green car"], {}, COMPOSER),
        (["a crying face", "two dogs on the grass"], {}, None),
        (["a dog", "a red apple"], {}, None),
        (["TWO dogs!", "two 🐕"], {}, COMPOSER),
        ([], {}, None),
        (["two dogs"], {"model": DEFAULT}, DEFAULT),
        (["two dogs"], {"labels": ["cat"]}, None),
        (["two dogs"], {"controls": ["scenes-sketch"]}, None),
        (["two dogs"], {"sampler": {"scale": 2.0}}, COMPOSER),
        (["two dogs"], {"sampler": {"candidates": 2}}, COMPOSER),
        (["two dogs"], {"sampler": {"upsampler_steps": 2}}, None),
        (["two dogs"], {"hints": ["hint.png"]}, None),
        (["two dogs"], {"size": "64x128"}, QUICK_COMPOSER),
        (["two dogs"], {"size": "64x128", "sampler": {"candidates": 2}}, None),
        (["a dog"], {"size": "64x128"}, None),
    ],
)
def test_the_prompts_choose_the_model_if_none_is_named(
    prompts: list[str], settings: dict[str, Any], expected: str | None
) -> None:
    request = SamplingRequest.of({"prompts": prompts, **settings})
    assert suited_model.with_suited_model(request, request.prompts).model == expected


def test_the_model_that_prompts_choose_has_few_candidates_unless_they_are_typed():
    def sampler(**settings: Any) -> dict[str, Any]:
        request = SamplingRequest.of({"prompts": ["two dogs"], **settings})
        return suited_model.with_suited_model(request, request.prompts).sampler

    assert sampler() == {"candidates": 3, "repaints": 0}
    assert sampler(sampler={"candidates": 6}) == {"candidates": 6, "repaints": 0}
    assert sampler(size="64x128") == {}, "its base has no candidates"


def test_the_prompts_of_a_set_are_as_they_are_painted():
    assert suited_model.example_prompts(["two 🐕"], 0) == ["two dog"]
    both = suited_model.example_prompts(["{a dog|two dogs}"], 0)
    assert sorted(both) == ["a dog", "two dogs"]
    assert suited_model.with_suited_model(SamplingRequest(), both).model == COMPOSER


def test_the_model_that_the_prompt_chose_is_stored(tmp_path: Path):
    out = str(tmp_path / "dogs.png")
    arguments = ["two dogs", "-o", out, "sampler.steps=1", "sampler.repaints=0"]
    result = CliRunner().invoke(app, ["sample", *arguments])
    assert result.exit_code == 0 and f"{COMPOSER} paints this" in result.stderr
    assert SamplingRequest.read(out).model == COMPOSER


def test_each_prompt_has_a_row_for_each_class():
    spec = ImageSpec(3, 8, 8, labels=("one", "two"), text=text_spec())
    c = SamplingRequest(prompts=("red apple", "blue car", "dog"), labels=("all",)).condition(spec)
    assert c.label is not None and c.label.tolist() == [0, 1, 0, 1, 0, 1]
    tokens = text_condition(spec, ["red apple", "blue car", "dog"]).text
    assert c.text is not None and tokens is not None
    assert torch.equal(c.text, tokens[[0, 0, 1, 1, 2, 2]])


def test_the_request_of_a_single_picture_has_its_own_prompt_class_and_seed():
    spec = ImageSpec(3, 8, 8, labels=("one", "two"), text=text_spec())
    for prompts in ((), ("dog",), ("red apple", "blue car")):
        sheet = SamplingRequest(prompts=prompts, labels=("all",), n=3, seed=5).with_all_classes(
            spec
        )
        rows = [(prompt, name) for prompt in prompts or (None,) for name in spec.labels]
        for i in range(3 * len(rows)):
            prompt, name = rows[i // 3]
            single = sheet.for_picture(i)
            assert (single.n, single.seed, single.labels) == (1, 5 + i % 3, (name,))
            assert single.prompts == (() if prompt is None else (prompt,))


def test_each_picture_has_the_words_of_its_seed_prompt_by_prompt():
    prompts = ["a {red|blue|pink} cat", "two {dogs|birds|cars}"]
    values = _with_own_words({"prompts": prompts, "n": 4, "seed": 5})
    chosen = [choose_words(prompt, seed) for prompt in prompts for seed in range(5, 9)]
    assert (values["prompts"], values["n"], len({*chosen})) == (chosen, 1, 4)
    assert values["prompt_seeds"] == [*range(5, 9), *range(5, 9)]
    variations = {"prompts": prompts, "n": 4, "seed": 5, "vary": 0.2}
    assert _with_own_words(variations) == variations


def test_prompts_with_words_to_choose_are_not_mixed_with_others():
    prompts = ["a {red|blue} cat", "a dog"]
    with pytest.raises(LimnerError, match="some prompts have words to choose and others do not"):
        _with_own_words({"prompts": prompts, "n": 2})
    assert _with_own_words({"prompts": prompts, "n": 1}) == {"prompts": prompts, "n": 1}


def test_equal_words_of_two_seeds_give_two_pictures(model: str, tmp_path: Path):
    values = {"model": model, "prompts": ["a {red|blue} dog", "a {big|big} cat"], "n": 3, "seed": 7}
    sheet, full = paint_sheet(SamplingRequest.of(_with_own_words(values)))
    assert full.prompts[0] == full.prompts[2] and len(full.prompts) == 6
    for i, x in enumerate(sheet.images):
        single = SamplingRequest(model, prompts=full.prompts[i : i + 1], seed=7 + i % 3)
        assert replace(full.for_picture(i), sampler={}) == single
        assert (paint(single)[0].int() - x.int()).abs().max() <= 1
    assert not torch.equal(sheet.images[0], sheet.images[2])
    write_sheet(sheet, full, tmp_path / "sheet.png")
    assert torch.equal(paint(SamplingRequest.read(tmp_path / "sheet.png")), sheet.images)


@pytest.mark.parametrize("labels", [(), ("cat", "dog")])
def test_each_prompt_can_have_its_own_seed_for_all_classes(labels: tuple[str, ...]):
    prompts, rows = ("a", "b", "c"), 3 * max(1, len(labels))
    request = SamplingRequest(prompts=prompts, labels=labels, n=2, prompt_seeds=(9, 1, 4))
    firsts = [seed for seed in (9, 1, 4) for _ in labels or (None,)]
    assert request.seeds(rows) == [s for first in firsts for s in (first, first + 1)]
    singles = [request.for_picture(i) for i in range(2 * rows)]
    assert [single.seed for single in singles] == request.seeds(rows)
    assert all(single.prompt_seeds == () for single in singles)
    with pytest.raises(LimnerError, match="2 prompt seeds for 3 prompts"):
        SamplingRequest.of({"prompts": prompts, "prompt_seeds": (1, 2)})


def test_new_words_or_a_new_seed_replace_the_seeds_of_a_sheet(model: str, tmp_path: Path):
    values = _with_own_words({"model": model, "prompts": ["a {red|blue} dog"], "n": 2, "seed": 7})
    write_sheet(*paint_sheet(SamplingRequest.of(values)), tmp_path / "sheet.png")
    for arguments, prompts, seed in (
        (["a cat"], ("a cat",), 7),
        (["--seed", "3"], tuple(values["prompts"]), 3),
    ):
        file, out = str(tmp_path / "sheet.png"), str(tmp_path / "new.png")
        result = CliRunner().invoke(app, ["sample", *arguments, "--from", file, "-o", out])
        assert result.exit_code == 0, result.output
        again = SamplingRequest.read(out)
        assert (again.prompts, again.seed, again.prompt_seeds) == (prompts, seed, ())


def test_the_picture_whose_settings_are_used_is_not_overwritten(model: str, tmp_path: Path):
    (file,) = write_sheet(
        *paint_sheet(SamplingRequest(model, prompts=("a dog",))), tmp_path / "one.png"
    )
    content = file.read_bytes()
    arguments = ["sample", "--from", str(file), "--seed", "4", "-o", str(file)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0 and "one-2.png" in result.output
    assert file.read_bytes() == content and SamplingRequest.read(tmp_path / "one-2.png").seed == 4


def test_the_composing_model_is_loaded_once(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    paths: list[Path] = []
    monkeypatch.setattr(
        suited_model, "load_painter", lambda path, device: paths.append(path) or load(path, device)
    )
    suited_model._composer.cache_clear()
    for prompt in ("two dogs", "a blue car"):
        assert suited_model.better_model(SamplingRequest(prompts=(prompt,)))
    assert paths == [find_model(COMPOSER)]


def test_a_picture_stores_its_request_and_is_painted_again_from_it(model: str, tmp_path: Path):
    request = SamplingRequest(
        model, prompts=("a dog", "a cat"), negative="red", n=2, seed=9, sampler={"steps": 2}
    )
    sheet, full = paint_sheet(request)
    write_sheet(sheet, full, tmp_path / "sheet.png")
    copy = SamplingRequest.read(tmp_path / "sheet.png")
    assert copy == full
    assert torch.equal(paint(copy), sheet.images)
    with Image.open(tmp_path / "sheet.png") as image:
        parameters = image.info["parameters"]
    assert parameters.startswith("a dog; a cat\n") and "Seed: 9" in parameters


def test_separate_files_each_store_their_own_request(model: str, tmp_path: Path):
    sheet, full = paint_sheet(SamplingRequest(model, prompts=("a dog", "a cat"), n=2, seed=9))
    files = write_sheet(sheet, full, tmp_path / "one.png", separate=True)
    assert [file.name for file in files] == [f"one-{i}.png" for i in range(4)]
    last = SamplingRequest.read(files[3])
    assert (last.prompts, last.seed, last.n) == (("a cat",), 10, 1)
    assert (paint(last)[0].int() - sheet.images[3].int()).abs().max() <= 1
    with Image.open(files[3]) as image:
        assert image.size == (128, 128), "small pictures are enlarged, pixel by pixel"
    (small, *_) = write_sheet(sheet, full, tmp_path / "small.png", separate=True, enlarge=1)
    with Image.open(small) as image:
        assert torch.equal(pil_to_tensor(image), sheet.images[0])


def test_intermediate_frames_as_a_strip_and_an_animation(model: str, tmp_path: Path):
    sheet, full = paint_sheet(SamplingRequest(model, prompts=("a dog",), n=2), forming=True)
    assert len(sheet.frames) == 4
    assert torch.equal(sheet.frames[-1], sheet.images)
    files = write_sheet(sheet, full, tmp_path / "a.png", strip=True, gif=True)
    assert [file.name for file in files] == ["a.png", "a-strip.png", "a.gif"]
    with Image.open(tmp_path / "a.gif") as image:
        assert image.info["loop"] == 0, "it repeats without end"
        times = [frame.info["duration"] for frame in ImageSequence.Iterator(image)]
    assert sum(times) == 3 * 80 + 800, "equal frames may be merged into a longer one"
    with Image.open(tmp_path / "a.png") as still, Image.open(tmp_path / "a.gif") as moving:
        assert still.size == moving.size
    with Image.open(tmp_path / "a-strip.png") as strip:  # at half the scale, with gaps of 2
        assert strip.size == (2 + 4 * (64 + 2), 2 + 2 * (64 + 2))


@pytest.mark.parametrize(
    ("shape", "size"), [((8, 8), (128, 128)), ((8, 16), (128, 64)), ((50, 200), (200, 50))]
)
def test_small_pictures_are_enlarged_to_a_longer_side_of_128(shape, size, tmp_path: Path):
    sheet = Sheet(torch.zeros(1, 3, *shape, dtype=torch.uint8), 1)
    (file,) = write_sheet(sheet, SamplingRequest(), tmp_path / "a.png")
    with Image.open(file) as image:
        assert image.size == size


def test_separate_files_name_their_own_class(tmp_path: Path):
    spec = ImageSpec(1, 8, 8, labels=("one", "two"))
    save_model(build("gan", spec, latent=4, channels=4), tmp_path / "gan")
    request = SamplingRequest(str(tmp_path / "gan"), labels=("all",))
    files = write_sheet(*paint_sheet(request, separate=True), tmp_path / "a.png", separate=True)
    assert [SamplingRequest.read(file).labels for file in files] == [("one",), ("two",)]


HOSTILE = {
    "no settings": None,
    "a wrong type": {"n": "many"},
    "far too many": {"n": 10**9},
    "a list of prompts that is none": {"prompts": 3},
    "an unknown option": {"sampler": {"stesp": 3}},
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_picture_with_invalid_settings_is_refused_in_one_line(
    kind: str, model: str, tmp_path: Path
):
    settings = HOSTILE[kind]
    settings = None if settings is None else {"model": model} | settings
    save_png(torch.zeros(3, 8, 8, dtype=torch.uint8), tmp_path / "odd.png", settings)
    with pytest.raises(LimnerError) as error:
        paint_sheet(SamplingRequest.read(tmp_path / "odd.png"))
    assert "\n" not in str(error.value)


def test_all_options_on_the_command_line(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["limner", "sample", *arguments])
        with pytest.raises(SystemExit) as error:
            main()
        captured = capsys.readouterr()
        assert not error.value.code, captured.err
        return captured.out

    output = run("a dog", "a cat", "-m", model, "-n", "2", "--negative", "blue", "--gif", "--strip")
    assert output.split() == ["sample.png", "sample-strip.png", "sample.gif"]
    assert run("--from", "sample.png", "-o", "again.png").split() == ["again.png"]
    assert Path("again.png").read_bytes() == Path("sample.png").read_bytes()
    run("--from", "sample.png", "--seed", "4", "a bird", "-o", "other.png")
    settings = read_settings("other.png")
    assert settings is not None
    assert settings["seed"] == 4 and settings["prompts"] == ["a bird"]
    assert settings["negative"] == "blue", "options that are not given are kept"
    wide = ["a dog", "-m", model, "--size", "8x16", "-o", "wide.png", "--enlarge", "1"]
    assert run(*wide).split() == ["wide.png"]
    with Image.open("wide.png") as image:
        assert image.size == (16, 8)
    run("--from", "wide.png", "-o", "wider.png", "--enlarge", "1")
    assert Path("wider.png").read_bytes() == Path("wide.png").read_bytes()
    assert run("a dog", "-m", model, "--enlarge", "3").split() == ["sample-2.png"]
    with Image.open("sample-2.png") as image:
        assert image.size == (24, 24)
    assert run("a dog", "-m", model, "-n", "2", "--separate").split() == [
        "sample-3-0.png",
        "sample-3-1.png",
    ]


@pytest.mark.parametrize(("n", "is_reported"), [("1", True), ("2", False)])
def test_variations_of_a_single_picture_are_reported(
    n: str, is_reported: bool, model: str, tmp_path: Path
):
    arguments = ["sample", "-m", model, "--vary", "0.2", "sampler.steps=1", "-n", n]
    result = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "near.png")])
    assert result.exit_code == 0 and ("give -n 8" in result.stderr) == is_reported


def test_another_model_leaves_out_options_that_it_does_not_have(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    gan = build("gan", ImageSpec(3, 8, 8))
    save_model(gan, tmp_path / "gan")
    write_sheet(*paint_sheet(SamplingRequest(model, sampler={"steps": 2})), tmp_path / "one.png")
    monkeypatch.chdir(tmp_path)
    for name in (model, "gan"):
        arguments = ["sample", "--from", "one.png", "-m", name, "-o", "again.png"]
        monkeypatch.setattr(sys, "argv", ["limner", *arguments])
        with pytest.raises(SystemExit) as error:
            main()
        assert not error.value.code
        message = capsys.readouterr().err
        assert ("gan has no sampler." in message) == (name == "gan")


def test_a_distilled_cascade_leaves_out_options_that_its_base_does_not_have():
    stored = {"scale": 2.5, "steps": 3, "upsampler_steps": 2}
    assert supported_options("emoji-fast", stored) == {"upsampler_steps": 2}


def test_bfloat16_paints_nearly_the_same_and_is_stored_in_the_picture(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("limner.nn.precision.has_bfloat16", lambda device: True)
    request = SamplingRequest(model, prompts=("a dog",), n=2)
    quick = replace(request, dtype="bfloat16")
    exact, rounded = paint(request).int(), paint(quick).int()
    assert 0 < (exact - rounded).abs().max() < 64
    assert (exact - rounded).abs().float().mean() < 3
    (path,) = write_sheet(*paint_sheet(quick), tmp_path / "quick.png")
    assert SamplingRequest.read(path).dtype == "bfloat16"
    with pytest.raises(LimnerError, match="dtype"):
        SamplingRequest.of({"dtype": "float8"})


@pytest.mark.parametrize("count", [0, None])
def test_a_model_that_counts_no_frames_is_refused(model: str, count, monkeypatch):
    """It would divide by 0 for the progress bar."""
    kind = type(load(model))
    monkeypatch.setattr(kind, "frame_count", lambda self, **options: count)
    with pytest.raises(LimnerError, match=f"{kind.__name__} counts is {count}; return the number"):
        paint_sheet(SamplingRequest(model, sampler={}))
