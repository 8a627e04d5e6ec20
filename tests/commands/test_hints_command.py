"""`limner sample --hint`: pictures that follow drawings, or an error of one line."""

import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from limner.__main__ import main
from limner.commands.hints import read_hint, read_hints
from limner.commands.outline import OUTLINE, outline
from limner.commands.task import Work
from limner.contract.checkpoint import load, save_model
from limner.contract.image import Condition, ImageSpec, to_uint8
from limner.contract.model import GenerativeModel
from limner.contract.noise import Noise
from limner.contract.registry import build
from limner.data.hints import draw_hint, hint_spec
from limner.data.png import read_settings
from limner.diffusion.controlnet import ControlNet

SPEC = ImageSpec(3, 8, 8, labels=("a", "b"), frequencies=(0.5, 0.5))
QUICK = ["sampler.steps=2", "--enlarge", "1"]


def perturb(network: nn.Module, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p += 0.1 * torch.randn_like(p)
    return network


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Save a base and three controls over it; return their folder."""
    folder = tmp_path_factory.mktemp("runs")
    base = perturb(build("flow-matching", SPEC, channels=(8, 16)), 0)
    save_model(base, folder / "base")  # pyright: ignore
    for i, (kind, channels) in enumerate({"edges": 1, "mask": 1, "lowres": 3}.items()):
        side, levels = (4, 256) if kind == "lowres" else (8, 2)
        hint = ImageSpec(channels, side, side, levels, domain=kind)
        model = ControlNet(replace(SPEC, hint=hint), load(folder / "base"))  # pyright: ignore
        perturb(model.controls, 1 + i)
        save_model(model, folder / kind)
    return folder


@pytest.fixture
def drawing(tmp_path, monkeypatch) -> Path:
    """Save a light square on a dark ground, in another size than the model's."""
    monkeypatch.chdir(tmp_path)
    pixels = np.zeros((32, 32), np.uint8)
    pixels[8:24, 8:24] = 255
    Image.fromarray(pixels).save(tmp_path / "drawing.png")
    return tmp_path / "drawing.png"


def run_sample(*arguments: str | Path) -> int:
    """Run `limner sample` with these arguments and return the exit code."""
    with (
        mock.patch.object(sys, "argv", ["limner", "sample", *map(str, arguments), *QUICK]),
        pytest.raises(SystemExit) as error,
    ):
        main()
    return int(error.value.code or 0)


def sample(*arguments: str | Path) -> torch.Tensor:
    assert run_sample(*arguments, "-o", "out.png") == 0
    return torch.from_numpy(np.array(Image.open("out.png"))).permute(2, 0, 1)


def square() -> torch.Tensor:
    x = -torch.ones(1, 1, 8, 8)
    x[..., 2:6, 2:6] = 1
    return x


def test_the_command_paints_what_the_model_paints_for_the_hint(runs, drawing):
    actual = sample("-m", runs / "edges", "--hint", drawing, "--label", "a", "--strength", "0.7")
    c = Condition(torch.tensor([0]), image=square())
    model = load(runs / "edges")
    expected = model.sample(1, c, steps=2, control_strength=0.7)  # pyright: ignore
    assert torch.equal(actual, to_uint8(expected)[0])


def test_a_control_is_added_to_a_base_and_strength_0_is_the_base(runs, drawing):
    full = sample("-m", runs / "base", "--control", runs / "edges", "--hint", drawing)
    assert torch.equal(full, sample("-m", runs / "edges", "--hint", drawing))
    zero = sample("--control", runs / "edges", "--hint", drawing, "--strength", "0")
    assert torch.equal(zero, sample("-m", runs / "base"))
    assert not torch.equal(zero, full)


def test_several_controls_have_a_hint_and_a_strength_each(runs, drawing):
    two = ["--control", runs / "mask", "--control", runs / "lowres"]
    two += ["--hint", drawing, "--hint", drawing]
    full = sample(*two)
    first = sample(*two, "--strength", "1", "--strength", "0")
    assert torch.equal(first, sample("--control", runs / "mask", "--hint", drawing))
    second = sample(*two, "--strength", "0", "--strength", "1")
    assert torch.equal(second, sample("--control", runs / "lowres", "--hint", drawing))
    assert not torch.equal(full, first) and not torch.equal(full, second)


@pytest.mark.parametrize("stored", [["0.5"], ["0", "1"]])
@pytest.mark.parametrize("typed", [["0.7"], ["1", "0.2"]])
def test_typed_strengths_replace_stored_ones(runs, drawing, stored, typed):
    two = ["--control", runs / "mask", "--control", runs / "lowres"]
    two += ["--hint", drawing, "--hint", drawing]
    before, after = (
        [part for number in numbers for part in ("--strength", number)]
        for numbers in (stored, typed)
    )
    expected = sample(*two, *after)
    sample(*two, *before)
    Path("out.png").rename("before.png")
    assert torch.equal(sample("--from", "before.png", *after), expected)


def test_a_control_keeps_its_stored_strength_on_another_base(runs, drawing):
    other = perturb(load(runs / "base"), 9)
    save_model(other, "other")  # pyright: ignore
    control = ["--control", runs / "edges", "--hint", drawing]
    expected = sample("-m", "other", *control, "--strength", "0.5")
    sample("-m", runs / "base", *control, "--strength", "0.5")
    Path("out.png").rename("before.png")
    assert torch.equal(sample("--from", "before.png", "-m", "other"), expected)


def test_controls_can_be_added_to_a_control_that_is_the_model(runs, drawing):
    two = ["--hint", drawing, "--hint", drawing]
    full = sample("-m", runs / "mask", "--control", runs / "lowres", *two)
    assert torch.equal(full, sample("--control", runs / "mask", "--control", runs / "lowres", *two))


def test_the_picture_stores_its_hints_and_is_painted_again_from_them(runs, drawing):
    options = ["-m", runs / "base", "--control", runs / "edges", "--hint", drawing]
    original = sample(*options, "--strength", "0.5", "--label", "b")
    settings = read_settings(Path("out.png"))
    assert settings is not None
    assert settings["controls"] == [str(runs / "edges")]
    assert settings["hints"] == [str(drawing)]
    Path("out.png").rename("before.png")
    assert torch.equal(sample("--from", "before.png"), original)


def test_a_drawing_that_is_dark_on_light_is_inverted(runs, drawing, capsys):
    light = sample("--control", runs / "edges", "--hint", drawing)
    Image.eval(Image.open(drawing), lambda v: 255 - v).save("dark.png")
    assert torch.equal(sample("--control", runs / "edges", "--hint", "dark.png"), light)
    assert "'dark.png' is dark on light" in capsys.readouterr().err


def test_a_reduced_picture_may_be_light_and_of_one_colour(tmp_path):
    Image.new("L", (16, 16), 200).save(tmp_path / "light.png")
    reports: list[str] = []
    spec = ImageSpec(1, 4, 4, domain="lowres")
    x = read_hint(tmp_path / "light.png", spec, reports.append, "the hint")
    assert (x > 0.5).all() and not reports


def test_without_a_hint_the_base_paints_and_a_message_says_so(runs, drawing, capsys):
    assert torch.equal(sample("-m", runs / "edges"), sample("-m", runs / "base"))
    assert "no --hint is given, so the control has no effect" in capsys.readouterr().err


def refusals(runs: Path) -> dict[str, tuple[list[str | Path], str]]:
    control = ["--control", runs / "edges"]
    return {
        "missing": ([*control, "--hint", "none.png"], "there is no file 'none.png'"),
        "blank": ([*control, "--hint", "blank.png"], "'blank.png' is blank at 8 x 8; draw light"),
        "damaged": ([*control, "--hint", "text.png"], "cannot read 'text.png': not a picture"),
        "huge": ([*control, "--hint", "huge.png"], "cannot read 'huge.png': "),
        "two": ([*control, "--hint", "a.png", "--hint", "a.png"], "2 hints for 1 control;"),
        "one": ([*control, *control, "--hint", "a.png"], "1 hint for 2 controls; give one"),
        "uncontrolled": (
            ["-m", runs / "base", "--hint", "drawing.png"],
            "was trained without conditioning pictures; give one trained",
        ),
        "no control": (
            ["--control", runs / "base", "--hint", "drawing.png"],
            "has no control: its model is flow-matching",
        ),
        "no run": (["--control", "nowhere", "--hint", "drawing.png"], "there is no run"),
        "weights": (
            [*control, "--hint", "drawing.png", "--strength", "1", "--strength", "1"],
            "control_weights=1,1: the model has 1 control; give one",
        ),
        "bundled": (
            ["-m", "emoji", *control, "--hint", "drawing.png"],
            "cascade models have no U-Net to control",
        ),
    }


@pytest.mark.parametrize("what", refusals(Path()))
def test_invalid_requests_are_refused_in_one_line(what, runs, drawing, capsys):
    Image.new("L", (9, 9), 200).save("blank.png")
    Path("text.png").write_text("no picture")
    if what == "huge":
        Image.new("1", (9000, 9000)).save("huge.png")
    arguments, message = refusals(runs)[what]
    assert run_sample(*arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1]
    assert not Path("sample.png").exists()


def test_a_larger_hint_is_reduced_as_if_its_control_were_alone(runs, drawing):
    hint = ImageSpec(1, 16, 16, domain="line")
    large = ControlNet(replace(SPEC, hint=hint), load(runs / "base"))  # pyright: ignore
    joined = large.join([load(runs / "mask")])  # pyright: ignore
    alone, both = (
        read_hints([drawing] * count, model, print) for model, count in ((large, 1), (joined, 2))
    )
    expected = F.interpolate(alone, (8, 8), mode="bilinear", antialias=True)
    torch.testing.assert_close(both[:, :1], expected)


def test_a_saved_joined_control_reads_each_hint_in_its_own_format(runs, drawing, tmp_path):
    three_levels = ControlNet(
        replace(SPEC, hint=ImageSpec(1, 8, 8, 3, domain="zones")),
        load(runs / "base"),  # pyright: ignore
    )
    joined = load(runs / "mask").join([load(runs / "lowres"), three_levels])  # pyright: ignore
    save_model(joined, tmp_path / "joined")
    loaded = load(tmp_path / "joined")
    assert isinstance(loaded, ControlNet) and loaded.hints == joined.hints
    formats = [(hint.domain, hint.levels, hint.height) for hint in loaded.hints]
    assert formats == [("mask", 2, 8), ("lowres", 256, 4), ("zones", 3, 8)]
    both = (read_hints([drawing] * 3, model, print) for model in (joined, loaded))
    assert torch.equal(*both)


@pytest.mark.parametrize("kind", ["edges", "lowres", "bicubic"])
def test_the_hint_of_a_picture_has_the_shape_that_the_model_learnt(kind):
    spec = ImageSpec(3, 32, 32)
    spec = replace(spec, hint=hint_spec(kind, spec, 4))
    model = build("flow-matching", spec, channels=(8,), attention=0)
    assert isinstance(model, GenerativeModel) and OUTLINE.fits(spec)
    picture = Noise.sampling(0, 1).normal(3, 32, 32).clamp(-1, 1)
    (hint,) = outline(Work(model, Condition(), [0], {"image": picture}))
    assert spec.hint is not None and hint.shape == (1, *spec.hint.shape)
    assert torch.equal(hint, draw_hint(kind, picture, spec.hint.shape[1:]))


def test_hints_that_only_scenes_have_are_not_computed():
    spec = ImageSpec(3, 16, 16)
    assert not OUTLINE.fits(spec)
    assert not OUTLINE.fits(replace(spec, hint=hint_spec("boxes", spec)))


def test_a_domain_with_the_name_of_a_hint_is_not_computed():
    spec = ImageSpec(3, 16, 16, domain="3d")
    for channels in (1, 3):
        assert not OUTLINE.fits(replace(spec, hint=ImageSpec(channels, 16, 16, domain="line")))
    unnamed = replace(spec, domain="")
    assert not OUTLINE.fits(replace(unnamed, hint=ImageSpec(3, 16, 16, domain="line")))
    assert not OUTLINE.fits(replace(unnamed, hint=ImageSpec(1, 16, 16, domain="edges")))
    assert OUTLINE.fits(replace(unnamed, hint=hint_spec("line", unnamed)))
