"""Hints computed from pictures, and hints of scenes, which are known exactly."""

import builtins
import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter, maximum_filter

from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec, from_uint8
from limner.contract.layout import read_layout
from limner.contract.noise import Noise
from limner.data import Stream, open_data
from limner.data.grounds import PLAIN
from limner.data.hints import DRAWINGS, draw_hint, edges, hint_spec, line, scribble
from limner.data.scenes import ComposedScenes


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """Save three pictures and return their source."""
    path = tmp_path_factory.mktemp("pictures")
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 256, (6, 6, 3), np.uint8)
        Image.fromarray(noise).resize((48, 48)).save(path / f"{i}.png")
    return f"folder:{path}"


KINDS = ("edges", "scribble", "line", "lowres", "bicubic")


def skip_without_skimage(*hints: object) -> None:
    """Skip a test that needs scikit-image if it is not installed."""
    if {"edges", "scribble", edges, scribble} & {*hints}:
        pytest.importorskip("skimage")


def disc(size: int, radius: float, colour=(1.0, -1.0, -1.0)) -> torch.Tensor:
    """Return a disc on a white ground."""
    position = torch.arange(size) - (size - 1) / 2
    mask = (position[:, None] ** 2 + position**2 <= radius**2)[None]
    return torch.where(mask, torch.tensor(colour).view(-1, 1, 1), torch.ones(1, 1, 1))[None]


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("draw", [edges, scribble, line])
def test_lines_are_only_where_the_border_is(draw, size):
    skip_without_skimage(draw)
    x = disc(size, size / 4)
    hint = draw(x)
    assert hint.shape == (1, 1, size, size) and hint.abs().max() <= 1
    position = torch.arange(size) - (size - 1) / 2
    distance = (position[:, None] ** 2 + position**2).sqrt() - size / 4
    tolerance = {edges: 1.5, scribble: 4.0, line: 4.0}[draw] * max(1, size / 64)
    assert bool((hint[0, 0][distance.abs() > tolerance] < -0.9).all())
    is_line = hint[0, 0] > 0
    angle = torch.atan2(position[:, None].expand(size, size), position.expand(size, size))
    sectors = ((angle[is_line] / torch.pi + 1) * 8).long().clamp(max=15).unique()
    assert len(sectors) == 16, "the outline is closed"


def test_soft_lines_are_as_wide_in_proportion_at_any_size():
    inks = [float((line(disc(size, size / 4)) + 1).mean()) for size in (64, 128, 256)]
    assert inks == pytest.approx([inks[0]] * 3, rel=0.1)


@pytest.mark.parametrize("draw", [edges, scribble, line])
def test_a_picture_of_one_colour_has_no_lines(draw):
    skip_without_skimage(draw)
    for colour in (-1.0, 0.3, 1.0):
        assert bool((draw(torch.full((1, 3, 32, 32), colour)) < -0.999).all())


@pytest.mark.parametrize(
    ("draw", "size", "sigma", "low", "width"),
    [
        (edges, 32, 0.6, 0.1, 1),
        (edges, 64, 1.0, 0.1, 1),
        (edges, 128, 2.0, 0.1, 1),
        (scribble, 16, 1.0, 0.05, 3),
        (scribble, 64, 2.0, 0.05, 3),
        (scribble, 128, 4.0, 0.05, 5),
    ],
)
def test_edges_match_scikit_image(draw, size, sigma, low, width):
    skimage = pytest.importorskip("skimage.feature")
    x = open_data("scenes", size=size).images(torch.arange(2), Noise.sampling(0, 2))
    red, green, blue = ((x + 1) / 2).double().unbind(1)
    grey = (0.299 * red + 0.587 * green + 0.114 * blue).numpy()
    expected = [skimage.canny(image, sigma, low, 2 * low, mode="nearest") for image in grey]
    thick = np.stack([maximum_filter(image, width) for image in expected])
    assert thick.any(axis=(1, 2)).all()
    differs = (draw(x)[:, 0] > 0).numpy() != thick
    assert float(differs.mean()) < 0.002 * width  # float32 against float64
    weak = torch.rand(1, 1, size, size, dtype=torch.float64) * 2 - 1  # with edges of any strength
    exact = skimage.canny((weak[0, 0].numpy() + 1) / 2, sigma, low, 2 * low, mode="nearest")
    assert ((draw(weak)[0, 0] > 0).numpy() == maximum_filter(exact, width)).all()


@pytest.mark.parametrize(("size", "sigma"), [(32, 0.5), (64, 0.7), (128, 1.4)])
def test_soft_lines_are_a_difference_of_gaussians(size, sigma):
    x = torch.rand(1, 1, size, size, dtype=torch.float64) * 2 - 1
    grey = (x[0, 0].numpy() + 1) / 2
    fine, wide = (
        gaussian_filter(grey, s, mode="nearest", radius=round(3 * s)) for s in (sigma, 1.6 * sigma)
    )
    expected = 2 * np.tanh(20 * np.maximum(wide - fine, 0)) - 1
    np.testing.assert_allclose(line(x)[0, 0].numpy(), expected, atol=1e-9)


def test_hints_have_one_channel_and_two_levels_or_those_of_the_pictures():
    spec = ImageSpec(3, 32, 32)
    for kind in ("mask", "boxes", *DRAWINGS):
        if {kind} <= {"mask", "boxes", "line"} or importlib.util.find_spec("skimage"):
            hint = hint_spec(kind, spec)
            assert (hint.channels, hint.levels) == (1, 256 if kind == "line" else 2)
    assert hint_spec("lowres", spec, 2) == ImageSpec(3, 16, 16, domain="lowres")


def test_lowres_is_the_mean_of_blocks():
    x = torch.rand(2, 3, 64, 64)
    expected = x.unflatten(3, (8, 8)).unflatten(2, (8, 8)).mean((3, 5))
    torch.testing.assert_close(draw_hint("lowres", x), expected)
    assert draw_hint("lowres", torch.rand(1, 1, 28, 28)).shape == (1, 1, 4, 4)
    assert hint_spec("lowres", ImageSpec(1, 28, 28)).shape == (1, 4, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_returns_hints_mirrored_like_their_pictures(kind, folder):
    skip_without_skimage(kind)
    data = open_data(folder, size=32, hint=kind, flip=True)
    batch = Stream(data, 5).batch(0, 6)
    assert data.spec.hint is not None and data.spec.hint.domain == kind
    assert batch.c.image is not None and batch.c.image.shape[1:] == data.spec.hint.shape
    assert torch.equal(batch.c.image, draw_hint(kind, batch.x))
    plain = data.hints(torch.arange(3), torch.arange(3), 0)
    assert plain is not None
    assert torch.equal(plain, draw_hint(kind, from_uint8(data.pixels(torch.arange(3)))))
    assert hint_spec(kind, data.spec) == data.spec.hint


def test_a_hint_changes_the_digest_and_not_the_pictures(folder):
    plain, hinted = (open_data(folder, size=16, **o) for o in ({}, {"hint": "line"}))
    assert plain.digest != hinted.digest and plain.spec.hint is None
    assert torch.equal(plain.pixels(torch.arange(2)), hinted.pixels(torch.arange(2)))
    assert Stream(plain).batch(0, 2).c.image is None
    reductions = [open_data(folder, size=16, hint="lowres", reduction=k).digest for k in (2, 4, 8)]
    assert len({plain.digest, hinted.digest, *reductions}) == 5


def test_the_mask_of_a_scene_is_where_its_pixels_differ_from_its_ground():
    data = open_data("scenes", size=64, hint="mask", skills="single", style="flat")
    assert isinstance(data, ComposedScenes)
    numbers = torch.tensor([i for i in range(20) if data.scene(i).ground in PLAIN])  # pyright: ignore
    x, hints = from_uint8(data.pixels(numbers)), data.hints(numbers, numbers, 0)
    assert hints is not None and len(hints) > 5
    near = torch.nn.functional.max_pool2d(hints, 3, stride=1, padding=1)
    for picture, mask, around in zip(x, hints[:, 0] > 0, near[:, 0] > 0):
        differs = (picture - picture[:, :1, :1]).abs().amax(0) > 0.02
        assert not bool((differs & ~around).any())
        assert float(differs[mask].double().mean()) > 0.6


def test_the_boxes_of_a_scene_match_its_layout():
    options = {"size": 64, "seed": 4, "skills": "counting"}
    box_data = open_data("scenes", hint="boxes", **options)
    object_data = open_data("scenes", hint="objects", **options)
    numbers = torch.arange(8)
    hints, layouts = (data.hints(numbers, numbers, 0) for data in (box_data, object_data))
    assert hints is not None and layouts is not None and object_data.spec.hint is not None
    objects = read_layout(layouts, len(object_data.spec.hint.labels))
    for hint, kinds, boxes in zip(hints, objects.kind, objects.box):
        expected = torch.zeros(64, 64, dtype=torch.bool)
        for box in (64 * boxes[kinds >= 0]).round().long().tolist():
            left, top, right, bottom = box
            expected[top:bottom, left:right] = True
            centre = (top + bottom) // 2, (left + right) // 2
            assert hint[0][centre] == 1
        difference = float(((hint[0] > 0) != expected).double().mean())
        assert difference < 0.06, "except for rounded sides and for frames"


def test_hints_in_a_folder_are_paired_by_name(tmp_path):
    """`paired:` takes a folder of drawings, of any size, and a folder of pictures."""
    for folder, size, names in (("drawings", 16, "cab"), ("photos", 8, "abd")):
        (tmp_path / folder).mkdir()
        for name in names:
            shade = 40 * (ord(name) - ord("a"))
            Image.new("L", (size, size), shade).save(tmp_path / folder / f"{name}.png")
    data = open_data(f"paired:folder:{tmp_path / 'drawings'},folder:{tmp_path / 'photos'}")
    assert data.spec.hint is not None and data.spec.hint.shape == (1, 16, 16)
    batch = Stream(data).preview(2)
    assert batch.c.image is not None
    assert torch.equal(batch.x[:, 0, 0, 0], batch.c.image[:, 0, 0, 0])


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("FOLDER", {"hint": "mask"}, "data.hint=mask needs the positions of objects"),
        ("FOLDER", {"hint": "objects"}, "give data.hint=edges, scribble, line, lowres or bicubic"),
        ("FOLDER", {"hint": "edge"}, "data.hint"),
        ("scenes", {"hint": "boxes", "emoji": 0.5}, "single emoji have no hint boxes"),
        ("paired:FOLDER,FOLDER", {"hint": "edges"}, "leave data.hint out"),
    ],
)
def test_impossible_hints_are_refused_in_one_line(source, options, message, folder):
    with pytest.raises(LimnerError, match=message) as error:
        open_data(source.replace("FOLDER", folder), **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["edges", "scribble"])
def test_without_scikit_image_the_message_says_what_to_install(monkeypatch, folder, kind):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("skimage"):
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(LimnerError, match=r"edges need scikit-image; type: pip install .*control"):
        open_data(folder, hint=kind)
