"""`limner upscale`: files of any size, alpha, animations, a page; upscaling in `sample`."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scenes import TEXT

from limner.__main__ import main
from limner.commands.pictures import Sheet
from limner.commands.request import SamplingRequest
from limner.commands.sheets.sample import paint_sheet
from limner.commands.sheets.upscale import (
    UPSCALE,
    Enlargement,
    open_upscaler,
    upscale_files,
    upscale_pictures,
)
from limner.commands.task import Work
from limner.contract.checkpoint import load, save_model
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, ImageSpec, from_uint8, to_uint8
from limner.contract.registry import build
from limner.contract.upscaling import Upscales
from limner.data.picture_files import picture_files, read_frames, read_whole
from limner.data.png import read_settings, save_png

_TWO_STEPS = {"sampler": {"steps": 2}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("enlarging")
    torch.manual_seed(0)
    spec = ImageSpec(3, 16, 16, hint=ImageSpec(3, 8, 8))
    save_model(build("srgan", spec, channels=4, blocks=1), folder / "srgan")
    save_model(build("sr3", spec, channels=(4,), T=20), folder / "sr3", recipe=_TWO_STEPS)
    save_model(build("gan", ImageSpec(1, 8, 8), latent=4, channels=4), folder / "gan")
    return {path.name: str(path) for path in folder.iterdir()}


def noisy(height: int, width: int, channels: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(autouse=True)
def work_in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_model_enlarges_the_whole_picture(models):
    noisy(9, 21, 3).save("a.png")
    (path,) = upscale_files([Path("a.png")], SamplingRequest(models["srgan"]), 4)
    assert path == Path("a-4x.png") and read_settings(path)["options"] == {"factor": 4}
    model = load(models["srgan"])
    assert isinstance(model, Upscales)
    expected = to_uint8(model.upscale(read_whole(Path("a.png")), 4))
    assert torch.equal(read_frames(path).frames, expected)
    assert expected.shape == (1, 3, 36, 84)


def test_nothing_is_overwritten(models):
    noisy(8, 8, 3).save("a.png")
    names = [
        upscale_files([Path("a.png")], SamplingRequest(models["srgan"]), 2)[0].name
        for _ in range(3)
    ]
    assert names == ["a-2x.png", "a-2x-2.png", "a-2x-3.png"]
    Path("b").mkdir()
    assert upscale_files([Path("a.png")], SamplingRequest(models["srgan"]), 2, out=Path("b"))[
        0
    ] == Path("b/a-2x.png")


def test_the_picture_itself_is_not_overwritten(models):
    noisy(8, 8, 3).save("a.png")
    content = Path("a.png").read_bytes()
    for out, name in (("a.png", "a-2.png"), ("b.PNG", "b.PNG"), ("b.PNG", "b.PNG")):
        (path,) = upscale_files([Path("a.png")], SamplingRequest(models["srgan"]), 2, out=Path(out))
        assert path.name == name and Path("a.png").read_bytes() == content


def test_each_frame_has_its_own_noise_and_the_task_its_seed_and_factor(models):
    model = load(models["sr3"])
    assert isinstance(model, Upscales)
    images = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8).expand(3, -1, -1, -1)
    frames = upscale_pictures(images, 2, model, seed=3, sampler={"steps": 2})
    x = from_uint8(images[:1])
    for i, frame in enumerate(frames):
        assert torch.equal(frame, to_uint8(model.upscale(x, 2, seed=3 + i, steps=2))[0])
    work = Work(model, Condition(), [5], {"image": x}, {"steps": 2})
    (painted,) = UPSCALE.finish(work, factor=2.0)
    assert torch.equal(painted, to_uint8(model.upscale(x, 2, seed=5, steps=2)))


def test_the_factor_and_the_model_are_those_typed_or_stored_or_usual(tmp_path: Path):
    like = tmp_path / "a.png"
    save_png(torch.zeros(3, 8, 8, dtype=torch.uint8), like, {"upscale": 2.0, "upscaler": "one"})
    for typed, enlargement in (
        ((None, None, None), Enlargement()),
        ((None, "two", None), Enlargement(4.0, "two")),
        ((3.0, None, None), Enlargement(3.0)),
        ((None, None, like), Enlargement(2.0, "one")),
        ((None, "two", like), Enlargement(2.0, "two")),
        ((3.0, None, like), Enlargement(3.0, "one")),
    ):
        assert Enlargement.of(*typed) == enlargement
    assert Enlargement(2.0).settings() == {"upscale": 2.0, "upscaler": "upscaler"}


def test_alpha_is_kept(models):
    picture = noisy(10, 10, 4)
    picture.save("a.png")
    (path,) = upscale_files([Path("a.png")], SamplingRequest(models["srgan"]), 2)
    with Image.open(path) as image:
        assert image.mode == "RGBA" and image.size == (20, 20)
        alpha = np.asarray(image.getchannel("A")).astype(float)
    target = picture.getchannel("A").resize((20, 20), Image.Resampling.BICUBIC)
    assert np.abs(alpha - np.asarray(target).astype(float)).mean() < 8  # Pillow's bicubic, a = -0.5


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_the_frames_of_an_animation_and_their_durations_are_kept(models, kind):
    frames = [noisy(8, 12, 3, seed) for seed in range(3)]
    options = {"lossless": True} if kind == "webp" else {}
    frames[0].save(
        f"a.{kind}",
        save_all=True,
        append_images=frames[1:],
        duration=[100, 200, 300],
        loop=3,
        **options,
    )
    (path,) = upscale_files([Path(f"a.{kind}")], SamplingRequest(models["srgan"]), 2)
    before, after = read_frames(Path(f"a.{kind}")), read_frames(path)
    assert path.suffix == f".{kind}" and after.frames.shape[::2] == (3, 16)
    assert [*after.milliseconds] == [*before.milliseconds] and after.loop == before.loop == 3
    model = load(models["srgan"])
    assert isinstance(model, Upscales)
    if kind != "gif":  # which has few colours
        expected = [to_uint8(model.upscale(from_uint8(x[None]), 2)) for x in before.frames]
        assert torch.equal(after.frames, torch.cat(expected))


def test_the_frames_of_a_transparent_animation_do_not_show_through(models):
    frames = [Image.new("RGBA", (8, 8)) for _ in range(2)]
    for i, frame in enumerate(frames):
        frame.paste((255, 0, 0, 255), (4 * i, 0, 4 * i + 4, 8))
    frames[0].save("a.gif", save_all=True, append_images=frames[1:], disposal=2)
    (path,) = upscale_files([Path("a.gif")], SamplingRequest(models["srgan"]), 2)
    first, second = read_frames(path).frames[:, 3]
    assert bool((first[:, :6] == 255).all()) and not first[:, 10:].any()
    assert bool((second[:, 10:] == 255).all()) and not second[:, :6].any()


def test_opaque_frames_of_a_transparent_animation_are_opaque():
    clear = noisy(4, 5, 4, seed=1)
    clear.putpixel((0, 0), (1, 2, 3, 0))
    noisy(4, 5, 3).convert("RGBA").save("two.png", save_all=True, append_images=[clear])
    frames = read_frames(Path("two.png")).frames
    assert frames.shape == (2, 4, 4, 5)
    assert int(frames[0, 3].min()) == 255 and int(frames[1, 3].min()) == 0


def test_a_picture_of_one_frame_becomes_a_png(models):
    noisy(6, 5, 3).quantize().save("one.gif")
    [path] = upscale_files([Path("one.gif")], SamplingRequest(models["srgan"]), 2)
    assert path.suffix == ".png" and read_frames(path).frames.shape == (1, 3, 12, 10)


def test_a_page_shows_before_and_after(models):
    for name in ("a & b", "c"):
        noisy(10, 8, 3).save(f"{name}.png")
    *_, page = upscale_files(
        [Path("a & b.png"), Path("c.png")], SamplingRequest(models["srgan"]), 2, page=True
    )
    html = page.read_text()
    assert page.name == "upscale.html" and html.count('type="range"') == 2
    assert html.count("data:image/png;base64,") == 4 and "a &amp; b.png" in html
    assert html.count("8 x 10, then 16 x 20") == 2 and html.count('width="16"') == 2
    *_, second = upscale_files([Path("c.png")], SamplingRequest(models["srgan"]), 2, page=True)
    assert second.name == "upscale-2.html" and page.read_text() == html
    assert "http" not in html.replace("base64", ""), "it needs no network"


def test_a_folder_in_place_of_a_picture_is_named(tmp_path: Path):
    with pytest.raises(LimnerError, match="is a folder; give a picture in it"):
        read_frames(tmp_path)


def test_sampling_from_an_upscaler_without_a_picture_names_the_command(models):
    for name in ("srgan", "sr3"):
        with pytest.raises(LimnerError, match="type limner upscale FILE -m MODEL"):
            paint_sheet(SamplingRequest(models[name]))


def test_invalid_requests_are_refused_in_one_line(models):
    noisy(8, 8, 3).save("a.png")
    Path("note.png").write_text("no picture")
    Path("photo.HEIC").write_text("no picture")
    cases = [
        ({"paths": [], "request": SamplingRequest(models["srgan"])}, "no pictures to enlarge"),
        (
            {"paths": [Path("b.png")], "request": SamplingRequest(models["srgan"])},
            "there is no file",
        ),
        (
            {"paths": [Path("note.png")], "request": SamplingRequest(models["srgan"])},
            "cannot read 'note.png': not a picture",
        ),
        (
            {"paths": [Path("photo.HEIC")], "request": SamplingRequest(models["srgan"])},
            "'photo.HEIC': pictures of this format are not read; save it as PNG or JPEG",
        ),
        (
            {"paths": [Path("a.png")], "request": SamplingRequest(models["gan"])},
            "gan models do not enlarge",
        ),
        (
            {
                "paths": [Path("a.png")] * 2,
                "request": SamplingRequest(models["srgan"]),
                "out": Path("b.png"),
            },
            "one file",
        ),
        (
            {
                "paths": [Path("a.png")],
                "request": SamplingRequest(models["srgan"]),
                "out": Path("b.jpg"),
            },
            "NAME.png",
        ),
        (
            {"paths": [Path("a.png")], "request": SamplingRequest(models["srgan"]), "factor": 100},
            "from 1 to 64",
        ),
        (
            {
                "paths": [Path("a.png")],
                "request": SamplingRequest(models["srgan"], sampler={"steps": 3}),
            },
            "steps",
        ),
    ]
    for arguments, message in cases:
        with pytest.raises(LimnerError, match=message):
            upscale_files(**arguments)


def test_a_folder_stands_for_the_pictures_in_it(tmp_path: Path):
    for name in ("b.png", "a.JPG", "notes.txt"):
        (tmp_path / name).touch()
    given = tmp_path / "notes.txt"  # a file that is named is not left out
    names = [path.name for path in picture_files([tmp_path, given])]
    assert names == ["a.JPG", "b.png", "notes.txt"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(LimnerError, match="contains no pictures; give another folder, or files"):
        picture_files([tmp_path / "empty"])


def test_a_folder_may_have_a_dot_in_its_name(models):
    Path("of.old").mkdir()
    for name in "ab":
        noisy(8, 8, 3).save(f"{name}.png")
    files = [Path("a.png"), Path("b.png")]
    paths = upscale_files(files, SamplingRequest(models["srgan"]), 2, out=Path("of.old"), page=True)
    assert [path.as_posix() for path in paths] == [
        "of.old/a-2x.png", "of.old/b-2x.png", "of.old/upscale.html",
    ]  # fmt: skip


def test_an_output_that_is_not_a_folder_and_a_huge_seed_are_refused(models, monkeypatch, capsys):
    noisy(8, 8, 3).save("a.png")
    Path("file").write_text("kept")
    for out in ("file", "file/b.png", "file/folder"):
        assert command(monkeypatch, "upscale", "a.png", "-m", models["srgan"], "-o", out) == 2
        assert "cannot write" in capsys.readouterr().err
    options = ["upscale", "a.png", "-m", models["srgan"], "--seed", "99999999999999999999"]
    assert command(monkeypatch, *options) == 2
    assert "seed" in capsys.readouterr().err and Path("file").read_text() == "kept"


def test_nothing_is_written_if_a_file_would_be_too_large(models):
    noisy(8, 8, 3).save("a.png")
    Image.new("1", (5000, 5000)).save("b.png")
    with pytest.raises(LimnerError, match=r"'b.png'.*smaller factor"):
        upscale_files([Path("a.png"), Path("b.png")], SamplingRequest(models["srgan"]), 4)
    assert not Path("a-4x.png").exists()


def test_without_a_bundled_upscaler_the_message_says_to_give_a_run(monkeypatch):
    monkeypatch.setattr("limner.commands.sheets.upscale.bundled_models", dict)
    with pytest.raises(LimnerError, match="give the run"):
        open_upscaler(SamplingRequest())


def command(monkeypatch, *arguments: str) -> object:
    monkeypatch.setattr(sys, "argv", ["limner", *arguments])
    with pytest.raises(SystemExit) as error:
        main()
    return error.value.code


def save_captioned(name: str, path: str, spec: ImageSpec) -> None:
    """Save a model that takes captions, with random weights that are not 0."""
    torch.manual_seed(0)
    model = build(name, spec, channels=(4,))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    save_model(model, Path(path), recipe=_TWO_STEPS)


def test_upscaling_follows_labels_and_prompts(monkeypatch, capsys):
    spec = ImageSpec(3, 16, 16, hint=ImageSpec(3, 8, 8), labels=("a", "b"), text=TEXT)
    save_captioned("sr3", "m", spec)
    noisy(8, 8, 3).save("a.png")
    pictures: list[bytes] = []
    for options in ([], ["--label", "b"], ["--prompt", "a red apple"]):
        assert not command(monkeypatch, "upscale", "a.png", "-m", "m", "-o", "b.png", *options)
        pictures.append(read_frames(Path("b.png")).frames.numpy().tobytes())
    assert len(set(pictures)) == 3
    settings = read_settings("b.png")
    assert settings and settings["prompts"] == ["a red apple"]
    assert command(monkeypatch, "upscale", "a.png", "-m", "m", "--label", "c") == 2
    assert "'c'" in capsys.readouterr().err
    assert command(monkeypatch, "upscale", "a.png", "-m", "m", "--label", "all") == 2
    assert "name the class" in capsys.readouterr().err


def test_an_upscaler_with_captions_gets_the_prompt_of_each_picture(monkeypatch):
    spec = ImageSpec(3, 16, 16, hint=ImageSpec(3, 8, 8), text=TEXT)
    save_captioned("sr3", "m", spec)
    save_captioned("flow-matching", "p", ImageSpec(3, 8, 8, text=TEXT))
    prompts = ["a red apple", "a cat"]
    paint = ["sample", *prompts, "-m", "p", "-n", "2", "--seed", "5", "--separate"]
    assert not command(monkeypatch, *paint, "-o", "s.png")
    assert not command(
        monkeypatch, *paint, "-o", "l.png", "--upscale", "2", "--upscaler", "m", "--enlarge", "1"
    )
    for i in range(4):
        options = ["--prompt", prompts[i // 2], "--seed", str(5 + i % 2), "--factor", "2"]
        assert not command(
            monkeypatch, "sample", "--from", f"s-{i}.png", "-o", "a.png", "--enlarge", "1"
        )
        assert not command(monkeypatch, "upscale", "a.png", "-m", "m", "-o", "b.png", *options)
        first, second = (read_frames(Path(name)).frames for name in (f"l-{i}.png", "b.png"))
        assert torch.equal(first, second), i


def test_each_picture_is_enlarged_with_its_own_seed(models):
    """So that it is the same if it is painted again from its settings."""
    enlarge = Enlargement(2.0, models["sr3"]).open("cpu")
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    request = SamplingRequest(prompts=("a dog", "a cat"), prompt_seeds=(5, 9), n=2)
    together = enlarge(Sheet(images, 2), request).images
    for i in range(4):
        alone = enlarge(Sheet(images[i : i + 1], 1), request.for_picture(i)).images
        assert torch.equal(alone[0], together[i]), i


def test_as_a_command_and_while_sampling(models, monkeypatch, capsys):
    noisy(8, 8, 3).save("a.png")
    assert not command(monkeypatch, "upscale", "a.png", "-m", models["srgan"], "--factor", "2")
    assert capsys.readouterr().out == "a-2x.png\n"
    options = ["--upscale", "2", "--upscaler", models["srgan"], "-o", "s.png", "--separate"]
    assert not command(monkeypatch, "sample", "-m", models["gan"], "-n", "2", *options)
    assert read_settings("s-0.png")["upscale"] == 2
    with Image.open("s-1.png") as image:
        assert image.mode == "L" and image.width % 16 == 0
    assert command(monkeypatch, "upscale", "a.png", "-m", models["gan"]) == 2


def test_the_page_offers_the_factor():
    assert UPSCALE.schema(Upscales)["properties"].keys() == {"factor"} and UPSCALE.whole


def test_a_picture_is_painted_again_in_its_size(models, monkeypatch):
    paint = ["sample", "-m", models["gan"], "-n", "2", "--separate", "-o", "s.png"]
    assert not command(monkeypatch, *paint, "--upscale", "2", "--upscaler", models["sr3"])
    assert not command(monkeypatch, "sample", "--from", "s-1.png", "-o", "again.png")
    first, second = (read_frames(Path(name)).frames for name in ("s-1.png", "again.png"))
    assert torch.equal(first, second)
    assert read_settings("again.png") == read_settings("s-1.png")
    options = ["sample", "--from", "s-1.png", "--upscale", "1", "--enlarge", "1", "-o", "small.png"]
    assert not command(monkeypatch, *options)
    assert read_frames(Path("small.png")).frames.shape[-1] == 8
    assert "upscaler" not in read_settings("small.png")


def test_nothing_is_painted_if_the_upscaler_is_unsuitable(models, monkeypatch):
    monkeypatch.setattr("limner.commands.sheets.sample.paint_sheet", lambda *_, **__: pytest.fail())
    options = ["sample", "-m", models["gan"], "--upscale", "2", "--upscaler", models["gan"]]
    assert command(monkeypatch, *options) == 2
