"""`limner edit`: what is kept of a picture, what is painted, and what is refused."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from limner.__main__ import main
from limner.commands.pictures import Sheet, write_sheet
from limner.commands.request import SamplingRequest
from limner.commands.sheets.edit import (
    COMPLETE,
    EDIT,
    edit,
    edit_sheet,
    feather_mask,
    rounding_remark,
)
from limner.commands.task import Work
from limner.contract.bundled import find_model
from limner.contract.checkpoint import load, save_model
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, ImageSpec, to_uint8
from limner.contract.registry import build
from limner.contract.rewording import Rewording
from limner.data.picture_files import read_mask, read_picture
from limner.data.png import read_settings, save_png

SPEC = ImageSpec(1, 6, 5, levels=2, labels=("one", "two"))
PLAIN = ImageSpec(1, 8, 8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("editing") / "model"
    torch.manual_seed(0)
    save_model(build("pixelcnn", SPEC, h=4, blocks=1, top=4), folder)
    return str(folder)


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("editing") / "denoiser"
    save_model(build("ddpm", PLAIN, channels=(4,), T=20), folder)
    return str(folder)


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("editing") / "vae"
    save_model(build("vae", PLAIN, channels=(4,), latent=2), folder)
    return str(folder)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.linear_gradient("L").resize((10, 12)).convert("RGB").save(path)
    return path


def test_a_picture_is_converted_to_the_format_of_the_data(picture: Path):
    x = read_picture(picture, SPEC)
    assert x.shape == (1, 1, 6, 5)
    assert x.unique().tolist() == [-1, 1]
    assert (x[0, 0, :3] == -1).all() and (x[0, 0, 3:] == 1).all()


def test_the_upper_part_is_kept_and_seeds_differ_below(model: str, picture: Path):
    sheet, request = edit_sheet(
        [picture, picture], SamplingRequest(model, n=4, labels=("two",)), keep=0.5
    )
    assert sheet.columns == 6
    assert request.sampler == {"temperature": 1.0, "top_p": 1.0}
    rows = sheet.images.unflatten(0, (2, 6))
    source = to_uint8(read_picture(picture, SPEC))[0]
    assert torch.equal(rows[0, 0], source)
    assert (rows[0, 1, :, 3:] == 128).all()
    assert (rows[:, :, :, :3] == source[:, :3]).all()
    assert torch.equal(rows[0], rows[1]), "the same picture and seeds"
    assert len(rows[0, 2:].unique(dim=0)) == 4
    with pytest.raises(LimnerError, match="give one label or prompt"):
        edit_sheet([picture], SamplingRequest(model, labels=("one", "two")))
    with pytest.raises(LimnerError, match="leave --feather out"):
        edit_sheet([picture], SamplingRequest(model), feather=1)


def test_each_picture_has_a_row_of_its_own_variations(model, picture, tmp_path):
    Image.open(picture).rotate(180).save(tmp_path / "turned.png")
    files = [picture, tmp_path / "turned.png"]
    sheet, _ = edit_sheet(files, SamplingRequest(model, n=3), keep=0.5)
    upper, lower = sheet.images.unflatten(0, (2, 5))[:, :, :, :3]
    assert (upper == 0).all() and (lower == 255).all()


def test_the_model_that_painted_a_picture_edits_it_if_it_can(denoiser, picture, tmp_path):
    painted, gan = tmp_path / "painted.png", tmp_path / "gan"
    save_model(build("gan", PLAIN, latent=4, channels=4), gan)
    asked = SamplingRequest(n=1, sampler={"steps": 1})
    for model, editor in [(denoiser, denoiser), (str(gan), None), ("instruct", None)]:
        save_png(torch.zeros(1, 8, 8, dtype=torch.uint8), painted, {"model": model})
        assert edit_sheet([painted, picture], asked, strength=1.0)[1].model == editor
    named = replace(asked, model=denoiser)
    assert edit_sheet([painted], named, strength=1.0)[1].model == denoiser
    save_png(torch.zeros(1, 8, 8, dtype=torch.uint8), painted, {"model": "runs/gone"})
    with pytest.raises(LimnerError, match="name another model with -m"):
        edit_sheet([painted], asked)


def test_a_mask_keeps_any_part(model: str, picture: Path, tmp_path: Path):
    mask = tmp_path / "mask.png"
    light = Image.new("L", (5, 6))
    light.paste(255, (1, 1, 4, 3))
    light.save(mask)
    sheet, _ = edit_sheet([picture], SamplingRequest(model, n=8), mask=mask, rounds=2)
    inside = read_mask(mask, SPEC)[0, 0] > 0
    assert inside.sum() == 6
    source = to_uint8(read_picture(picture, SPEC))[0]
    assert (sheet.images[2:, :, ~inside] == source[:, ~inside]).all()
    assert len(sheet.images[2:].unique(dim=0)) > 1


@pytest.mark.parametrize(("keep", "kept_rows"), [(0.0, 1), (1.0, 5), (0.34, 2), (0.45, 3)])
def test_at_least_one_row_is_kept_and_at_least_one_is_painted(model, picture, keep, kept_rows):
    sheet, _ = edit_sheet([picture], SamplingRequest(model), keep=keep)
    assert (sheet.images[1] == 128).all(2).sum() == 6 - kept_rows


def test_as_a_command(model, denoiser, codes, picture, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def limner_(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["limner", "edit", *arguments])
        with pytest.raises(SystemExit) as error:
            main()
        return int(error.value.code or 0), capsys.readouterr().err

    out = tmp_path / "edit.png"
    assert limner_(str(picture), "-m", model, "-o", str(out), "sampler.top_p=0.9")[0] == 0
    settings = read_settings(out)
    assert settings is not None and settings["sampler"]["top_p"] == 0.9
    code, message = limner_(str(tmp_path / "none.png"), "-m", model)
    assert code == 2 and "there is no file" in message
    code, message = limner_("sampler.top_p=0.9", "-m", model)
    assert code == 2 and "limner edit IMAGE" in message
    code, message = limner_(str(picture), "-m", model, "--strength", "0.5")
    assert code == 2 and "leave --strength out" in message
    code, message = limner_(str(picture), "-m", "lenet")
    assert code == 2 and "does not paint" in message
    assert limner_(str(picture), "-m", codes, "--keep", "0.5", "--rounds", "5")[0] == 0
    code, message = limner_(str(picture), "-m", denoiser, "--mask", str(picture), "--keep", "0.5")
    assert code == 2 and "not both" in message
    code, message = limner_(str(picture), "-m", denoiser, "--strength", "0.4", "-n", "2")
    assert code == 0 and "whole steps" not in message
    few = (str(picture), "-m", denoiser, "--strength", "0.4", "sampler.steps=4")
    assert (
        "strength 0.4 is rounded to 0.5 in whole steps; give more sampler.steps" in limner_(*few)[1]
    )
    assert Path("edit.png").is_file()
    mask = tmp_path / "mask.png"
    Image.linear_gradient("L").save(mask)
    content, options = mask.read_bytes(), ("-n", "2", "--seed", "5", "sampler.steps=2")
    assert (
        limner_(str(picture), "-m", denoiser, "--mask", str(mask), "-o", str(mask), *options)[0]
        == 0
    )
    settings = read_settings(tmp_path / "mask-2.png")
    assert settings is not None and (settings["n"], settings["seed"]) == (2, 5)
    assert mask.read_bytes() == content, "the mask is an input"


def test_what_mask_and_keep_preserve_and_how_strength_changes_the_rest(denoiser, picture, tmp_path):
    mask = tmp_path / "mask.png"
    Image.linear_gradient("L").rotate(90).resize((8, 8)).save(mask)
    light = read_mask(mask, PLAIN)[0, 0]
    assert light[:, :4].sum() in (0, 32) and light.sum() == 32
    short = {"sampler": {"steps": 5}}
    sheet, _ = edit_sheet([picture, picture], SamplingRequest(denoiser, n=3, **short), mask=mask)
    assert sheet.columns == 5
    rows = sheet.images.unflatten(0, (2, 5))
    source = to_uint8(read_picture(picture, PLAIN))[0]
    assert torch.equal(rows[0, 0], source)
    assert (rows[:, 2:, :, light == 0] == source[:, light == 0]).all(), (
        "the mask keeps these pixels"
    )
    assert (rows[:, 2:, :, light == 1] != source[:, light == 1]).any()
    near, far = (
        (
            edit_sheet([picture], SamplingRequest(denoiser, **short), strength=s)[0].images[1].int()
            - source.int()
        )
        .abs()
        .sum()
        for s in (0.2, 1.0)
    )
    assert near < far
    one_round, two_rounds = (
        edit_sheet([picture], SamplingRequest(denoiser, **short), keep=0.5, rounds=r)[0].images
        for r in (1, 2)
    )
    assert not torch.equal(one_round[2], two_rounds[2]), "each step is repeated"
    upper, _ = edit_sheet([picture], SamplingRequest(denoiser, n=2, **short), keep=0.25)
    assert (upper.images[2:, :, :2] == source[:, :2]).all()
    soft, _ = edit_sheet([picture], SamplingRequest(denoiser, n=2, **short), keep=0.5, feather=1)
    assert (soft.images[2:, :, :3] == source[:, :3]).all(), "a row around the part blends"
    assert (soft.images[2:, :, 3] != source[:, 3]).any()
    usual, full = (
        edit_sheet([picture], SamplingRequest(denoiser, **short), keep=0.0, **option)[0].images
        for option in ({}, {"strength": 1.0})
    )
    assert torch.equal(usual, full), "the part is repainted completely"
    assert (usual[2, :, 0] == source[:, 0]).all() and (usual[2, :, 1] != source[:, 1]).any()
    with pytest.raises(LimnerError, match="--feather blends the edge of a part; give --mask"):
        edit_sheet([picture], SamplingRequest(denoiser), feather=2)
    black = tmp_path / "black.png"
    Image.new("L", (8, 8)).save(black)
    with pytest.raises(LimnerError, match="dark everywhere"):
        read_mask(black, PLAIN)
    save_model(build("gan", PLAIN, channels=4), tmp_path / "gan")
    with pytest.raises(LimnerError, match=r"gan models cannot edit pictures; these can: .*ddpm"):
        edit_sheet([picture], SamplingRequest(str(tmp_path / "gan")))


@pytest.mark.parametrize("rounds", [None, 3])
def test_the_progress_of_an_edit_is_counted_in_its_frames(model, denoiser, rounds):
    works = [
        Work(each, Condition(), [0], {"image": torch.full((1, *each.spec.shape), -1.0)})
        for each in (load(denoiser), load(model))
    ]
    last_row_kept = torch.ones(1, 1, *SPEC.shape[1:])
    last_row_kept[:, :, -1:] = 0
    works.append(replace(works[1], pictures={**works[1].pictures, "mask": last_row_kept}))
    for task, work, options in (
        (EDIT, replace(works[0], sampler={"steps": 6}), {"strength": 0.5}),
        (COMPLETE, works[1], {"keep": 0.5}),
        (COMPLETE, works[2], {}),
    ):
        options = options | {"rounds": rounds}
        assert task.frame_count(work, options) == len([*task.start(work, options)])


@pytest.mark.parametrize(("name", "advice"), [("emoji", True), ("emoji-fast", False)])
def test_more_steps_are_advised_only_to_models_with_that_option(name: str, advice: bool):
    model = load(find_model(name))
    work = Work(model, Condition(), [0], {}, model.sampler_options({"steps": 2} if advice else {}))
    remark = rounding_remark(work, {"strength": 0.6})
    assert remark.startswith("strength 0.6 is rounded to 0.5 in whole steps")
    assert remark.endswith("give more sampler.steps") == advice


def test_keeping_no_rows_does_not_go_with_a_mask(denoiser, picture):
    with pytest.raises(LimnerError, match="give --keep or --mask, not both"):
        edit_sheet([picture], SamplingRequest(denoiser), keep=0.0, mask=picture)


def test_a_soft_edge_blends_painted_pixels_in_and_leaves_smaller_previews_alone(
    denoiser: str, monkeypatch: pytest.MonkeyPatch
):
    model, mask = load(denoiser), torch.zeros(1, 1, 8, 8)
    mask[..., 5:, 5:] = 1
    frames = [torch.ones(1, 1, 4, 4), torch.ones(1, 1, 8, 8)]
    monkeypatch.setattr(type(model), "edit", lambda *_, **__: iter(frames))
    pictures = {"image": -torch.ones(1, 1, 8, 8), "mask": mask}
    preview, painted = edit(Work(model, Condition(), [0], pictures), feather=2)  # pyright: ignore
    assert torch.equal(preview, frames[0])
    torch.testing.assert_close(painted, 2 * feather_mask(mask, 2)[1] - 1)


def test_a_mask_is_dark_where_it_is_transparent(tmp_path: Path):
    mask = tmp_path / "mask.png"
    for background in ((0, 0, 0, 0), (255, 255, 255, 0)):
        image = Image.new("RGBA", (8, 8), background)
        image.paste((255, 255, 255, 255), (4, 4, 8, 8))
        image.save(mask)
        light = read_mask(mask, PLAIN)[0, 0]
        assert (light[4:, 4:] == 1).all() and light.sum() == 16


def test_a_sheet_is_not_accepted_as_a_picture(denoiser, picture, tmp_path):
    sheet, request = edit_sheet(
        [picture], SamplingRequest(denoiser, n=2, sampler={"steps": 2}), strength=0.5
    )
    (out,) = write_sheet(sheet, request, tmp_path / "sheet.png")
    with pytest.raises(LimnerError, match=r"several pictures side by side; crop one"):
        edit_sheet([out], request)
    with pytest.raises(LimnerError, match=r"limner edit made .* alone cannot repeat it"):
        SamplingRequest.read(out)
    (strip,) = write_sheet(replace(sheet, frames=[sheet.images] * 2), request, out, strip=True)[1:]
    with pytest.raises(LimnerError, match="several pictures"):
        read_picture(strip, PLAIN)
    settings = read_settings(out)
    part = sheet.images[1]
    save_png(part, out, settings)  # as cropped by a program that keeps the metadata
    assert torch.equal(to_uint8(read_picture(out, PLAIN))[0], part)
    for file in write_sheet(sheet, request, out, separate=True):
        assert read_picture(file, PLAIN).shape == (1, 1, 8, 8)
        assert (read_settings(file) or {}).get("task") == "edit"
    (single,) = write_sheet(Sheet(part[None], 1), request, out, enlarge=1)
    assert torch.equal(to_uint8(read_picture(single, PLAIN))[0], part)


@pytest.mark.parametrize(
    ("option", "default"),
    [
        *(
            (name, f"({getattr(Rewording, name):g})")
            for name in ("cross_steps", "self_steps", "local")
        ),
        ("strength", "(0.6; 1 with --mask or --keep)"),
    ],
)
def test_the_help_states_the_default_of_an_option(
    option: str, default: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["limner", "edit", "--help"])
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit):
        main()
    (line,) = [
        line
        for line in capsys.readouterr().out.splitlines()
        if f"--{option.replace('_', '-')} " in line
    ]
    assert default in line
