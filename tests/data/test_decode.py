"""Awkward picture files, each compared with the picture that it was made from."""

import io
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from limner.data import decode
from limner.data.decode import (
    UndecodableError,
    flatten,
    header,
    read_with,
    resize_to_fit,
    to_pixels,
    upright_frame,
)

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
RED, WHITE = (255, 0, 0), (255, 255, 255)


def file_opener(
    image: Image.Image, form: str = "PNG", **options: object
) -> Callable[[], io.BytesIO]:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return lambda: io.BytesIO(stream.getvalue())


def flat(image: Image.Image, form: str = "PNG", **options: object) -> Image.Image:
    return read_with(file_opener(image, form, **options), flatten)


def reason(data: bytes) -> str:
    with pytest.raises(UndecodableError) as error:
        read_with(lambda: io.BytesIO(data), flatten)
    return str(error.value)


def random_rgb(height: int = 9, width: int = 7) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def profile_with_red_for_blue() -> bytes:
    red, blue = SRGB.index(b"rXYZ"), SRGB.index(b"bXYZ")
    profile = bytearray(SRGB.replace(b"s\0R\0G\0B", b"o\0t\0h\0r"))
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(profile)


@pytest.mark.parametrize("mode", ["RGB", "P"])
@pytest.mark.parametrize("transparent", [False, True])
def test_a_profile_applies_to_palettes_and_to_transparent_colours(mode: str, transparent: bool):
    picture = Image.new("RGB", (4, 2), RED)
    picture.putpixel((3, 0), (0, 255, 0))
    picture = picture.quantize(4) if mode == "P" else picture
    clear = {"transparency": picture.getpixel((3, 0))} if transparent else {}
    file = file_opener(picture, icc_profile=profile_with_red_for_blue(), **clear)
    assert read_with(file, lambda image: image.mode) == mode
    size = {"channels": 3, "height": 2, "width": 4}
    pixels = read_with(file, lambda image: to_pixels(image, **size, fit="crop"))
    assert int((pixels[:, 1, 0] - torch.tensor([0, 0, 255])).abs().max()) <= 2
    assert (pixels[:, 0, 3].tolist() == [255, 255, 255]) == transparent
    assert read_with(file, upright_frame).shape[0] == (4 if transparent else 3)


@pytest.mark.parametrize("turned", [1, 6])
def test_a_profile_is_applied(turned):
    """A profile that swaps red and blue is applied; a broken profile is ignored."""
    exif = Image.Exif()
    exif[0x0112] = turned
    picture = Image.new("RGB", (4, 2), RED)
    for profile, colour in (
        (profile_with_red_for_blue(), (0, 0, 255)),
        (SRGB, RED),
        (b"broken", RED),
    ):
        full = read_with(file_opener(picture, icc_profile=profile, exif=exif), upright_frame)
        assert full.shape == ((3, 2, 4) if turned == 1 else (3, 4, 2))
        cropped = read_with(
            file_opener(picture, icc_profile=profile, exif=exif),
            lambda image: to_pixels(image, channels=3, height=2, width=2, fit="crop"),
        )
        for pixels in (full, cropped):
            difference = (pixels[:, 0, 0] - torch.tensor(colour)).abs()
            assert int(difference.max()) <= 2, (profile[:8], pixels[:, 0, 0])


def test_a_png_is_decoded_exactly():
    pixels = random_rgb()
    shape = {"channels": 3, "height": 9, "width": 7}
    for fit in ("crop", "pad", "stretch"):
        result = read_with(
            file_opener(Image.fromarray(pixels)), lambda i, fit=fit: to_pixels(i, **shape, fit=fit)
        )
        assert torch.equal(result, torch.from_numpy(pixels).permute(2, 0, 1))


def test_transparency_is_composited_on_white_as_pillow_does():
    pixels = np.random.default_rng(1).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    image = Image.fromarray(pixels)
    white = Image.new("RGBA", image.size, "white")
    expected = np.asarray(Image.alpha_composite(white, image).convert("RGB"))
    assert np.array_equal(np.asarray(flat(image)), expected)


def test_grey_with_alpha_stays_grey():
    image = Image.merge("LA", [Image.new("L", (2, 1), 0), Image.fromarray(np.uint8([[0, 255]]))])
    result = flat(image)
    assert result.mode == "L"
    assert list(result.tobytes()) == [255, 0]


def test_a_transparent_palette_is_composited():
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, 0, 0, 255])
    image.putpixel((1, 0), 1)
    assert flat(image).getpixel((0, 0)) == RED
    result = flat(image, transparency=0)
    assert result.getpixel((0, 0)) == WHITE
    assert result.getpixel((1, 0)) == (0, 0, 255)
    in_between = flat(image, transparency=bytes([255, 0]))
    assert [in_between.getpixel((x, 0)) for x in (0, 1)] == [RED, WHITE]


def test_sixteen_bit_grey_is_rounded_to_the_nearest_level():
    values = np.arange(0, 2**16, 16, dtype=np.uint16).reshape(64, 64)
    grey = np.asarray(flat(Image.fromarray(values)))
    assert np.array_equal(grey, np.rint(values / 257))


def test_sixteen_bit_grey_is_scaled_and_not_clipped():
    values = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    for form in ("PNG", "TIFF"):
        assert np.array_equal(np.asarray(flat(Image.fromarray(values), form)), RAMP)
    transparent = flat(Image.fromarray(values), transparency=257)
    assert np.array_equal(np.asarray(transparent), np.where(RAMP == 1, 255, RAMP))
    *colours, alpha = read_with(
        file_opener(Image.fromarray(values), transparency=257), upright_frame
    )
    assert np.array_equal(alpha, np.where(RAMP == 1, 0, 255))
    assert all(np.array_equal(channel, RAMP) for channel in colours)
    assert "16 bits" in reason(
        file_opener(Image.fromarray(np.int32([[70_000]])), "TIFF")().getvalue()
    )
    assert "floating" in reason(
        file_opener(Image.fromarray(np.float32([[0.5]])), "TIFF")().getvalue()
    )


def test_one_bit_and_cmyk():
    assert flat(Image.new("1", (2, 2), 1)).getpixel((0, 0)) == 255
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    colour = flat(red, "JPEG", quality=100).getpixel((4, 4))
    assert all(abs(a - b) < 6 for a, b in zip(colour, RED))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(orientation):
    image = Image.fromarray(random_rgb(4, 6))
    exif = Image.Exif()
    exif[0x0112] = orientation
    undo = {
        1: None, 2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM",
        5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90",
    }[orientation]  # fmt: skip
    upright = image.transpose(Image.Transpose[undo]) if undo else image
    opener = file_opener(image, exif=exif)
    assert np.array_equal(np.asarray(read_with(opener, flatten)), np.asarray(upright))
    head = read_with(opener, header)
    assert (head.width, head.height) == upright.size
    assert head.rotated == (orientation != 1)


def test_damaged_metadata_do_not_make_a_picture_invalid():
    pixels = random_rgb()
    opener = file_opener(Image.fromarray(pixels), exif=b"Exif\0\0II*\0\xff\xff\xff\xff damaged")
    assert np.array_equal(np.asarray(read_with(opener, flatten)), pixels)
    assert not read_with(opener, header).rotated


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    for form in ("GIF", "PNG", "WEBP"):
        opener = file_opener(
            frames[0], form, save_all=True, append_images=frames[1:], lossless=True
        )
        assert read_with(opener, header).animated
        assert read_with(opener, flatten).getpixel((0, 0)) == RED


def test_broken_files_have_reasons():
    good = file_opener(Image.fromarray(random_rgb(64, 64)))().getvalue()
    jpeg = file_opener(Image.fromarray(random_rgb(64, 64)), "JPEG")().getvalue()
    assert reason(b"") == "empty file"
    assert reason(b"<svg xmlns='http://www.w3.org/2000/svg'/>") == "not a picture"
    assert reason(random.Random(0).randbytes(100)) == "not a picture"
    assert "truncated" in reason(good[: len(good) // 2])
    assert "truncated" in reason(jpeg[: len(jpeg) // 2])
    damaged = bytearray(good)
    damaged[200:220] = bytes(20)
    assert reason(bytes(damaged))


def test_no_decoder_that_runs_programs_is_tried():
    assert reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n") == "not a picture"


def test_pixels_are_counted_before_they_are_decoded(monkeypatch):
    monkeypatch.setattr(decode, "PIXEL_CAP", 64)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    assert "9 x 9 pixels" in reason(b"P5 9 9 255\n" + bytes(81))


def test_crop_pad_and_stretch():
    image = Image.new("RGB", (40, 20), "black")
    image.paste("red", (0, 0, 5, 20))
    cropped = resize_to_fit(image, 10, 10, "crop")
    assert np.asarray(cropped).max() == 0  # the red margin is gone
    padded = np.asarray(resize_to_fit(image, 10, 10, "pad"))
    assert (padded[0] == 255).all()
    assert (padded[-1] == 255).all()
    assert resize_to_fit(image, 10, 12, "stretch").size == (12, 10)


def test_resizing_is_antialiased():
    board = np.indices((64, 64)).sum(0) % 2 * 255
    small = np.asarray(resize_to_fit(Image.fromarray(board.astype(np.uint8)), 8, 8, "crop")).astype(
        float
    )
    assert abs(small - 127.5).max() < 4
