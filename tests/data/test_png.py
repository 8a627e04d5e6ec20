"""Grids and strips pixel by pixel, and PNGs that store their settings."""

import base64
import io
import zlib

import pytest
import torch
from PIL import Image

from limner.contract.errors import LimnerError
from limner.contract.image import to_uint8
from limner.data import png

NUMBERS = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 1, 2, 3)


def test_a_grid_pixel_by_pixel():
    sheet = png.grid(NUMBERS[:3, :, :1, :1], columns=2, scale=2, gap=1)
    assert sheet[0].tolist() == [
        [255, 255, 255, 255, 255, 255, 255],
        [255, 0, 0, 255, 1, 1, 255],
        [255, 0, 0, 255, 1, 1, 255],
        [255, 255, 255, 255, 255, 255, 255],
        [255, 2, 2, 255, 255, 255, 255],
        [255, 2, 2, 255, 255, 255, 255],
        [255, 255, 255, 255, 255, 255, 255],
    ]
    assert png.grid(NUMBERS).shape == (1, 2 * 4 + 2, 3 * 5 + 2)
    assert png.grid(NUMBERS, 6, gap=0)[0, 0].tolist() == [k for k in range(6) for _ in "abc"]


def test_a_sheet_is_a_grid_of_pictures_of_a_model():
    x = torch.linspace(-1, 1, 5 * 12).view(5, 3, 2, 2)
    sheet = png.sheet(x, 2, scale=3)
    assert sheet.mode == "RGB" and sheet.size == (2 * 8 + 2, 3 * 8 + 2)
    assert sheet.getpixel((2, 2)) == tuple(to_uint8(x)[0, :, 0, 0].tolist())
    assert png.sheet(x[:1]).size == (2, 2), "one picture has no gap"
    for wrong in (x[0], x[:0], to_uint8(x)):
        with pytest.raises(LimnerError, match=r"give n x channels x height x width numbers"):
            png.sheet(wrong)


def test_a_strip_has_a_row_for_each_picture():
    frames = [NUMBERS[:2], NUMBERS[2:4], NUMBERS[4:6]]
    sheet = png.strip(frames, gap=0)
    assert sheet[0, ::2, ::3].tolist() == [[0, 2, 4], [1, 3, 5]]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pixels_survive_a_file(tmp_path, channels):
    image = torch.randint(0, 256, (channels, 5, 7), dtype=torch.uint8)
    png.save_png(image, tmp_path / "new" / "a.png")
    with Image.open(tmp_path / "new" / "a.png") as file:
        pixels = torch.tensor(list(file.convert("RGBA").get_flattened_data()))
    result = pixels.T.view(4, 5, 7)[: max(channels, 1)]
    assert torch.equal(result, image.long())
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.png"]


def test_other_channels_are_refused():
    with pytest.raises(LimnerError, match="1, 3 or 4 channels, not 5"):
        png.png(torch.zeros(5, 2, 2, dtype=torch.uint8))


SETTINGS = {
    "prompt": "a smiling cat 😸",
    "model": "emoji",
    "seed": 7,
    "sampler": {"steps": 20, "guidance": 3.5, "eta": None},
}


def test_a_picture_stores_its_settings(tmp_path):
    path = tmp_path / "a.png"
    png.save_png(torch.zeros(3, 4, 4, dtype=torch.uint8), path, SETTINGS)
    assert png.read_settings(path) == SETTINGS
    with Image.open(path) as image:
        assert image.info["parameters"] == (
            "a smiling cat 😸\nModel: emoji, Seed: 7, Steps: 20, CFG scale: 3.5"
        )
    png.save_png(torch.zeros(3, 4, 4, dtype=torch.uint8), path)
    assert png.read_settings(path) is None


def chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return len(data).to_bytes(4) + body + zlib.crc32(body).to_bytes(4)


def crafted(text: bytes, side: int = 1, packed: bool = False) -> bytes:
    """Return a PNG with any content in its limner chunk and any size in its header."""
    header = side.to_bytes(4) * 2 + bytes([8, 0, 0, 0, 0])
    chunks = chunk(b"IHDR", header) + chunk(b"iTXt", b"limner\0%c\0\0\0" % packed + text)
    pixels = chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks + pixels


@pytest.mark.parametrize(
    "text", [b"{", b"[1]", b"3", b"null", b"[" * 100_000, b"\xff", b""], ids=range(7)
)
def test_invalid_settings_are_none(tmp_path, text):
    (tmp_path / "a.png").write_bytes(crafted(text))
    assert png.read_settings(tmp_path / "a.png") is None


def test_hostile_files_are_refused_without_decoding(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(crafted(b'{"seed": 1}', side=11_000))
    assert png.read_settings(path) == {"seed": 1}
    bomb = crafted(zlib.compress(b" " * 2**26), packed=True)
    for content in (b"", b"GIF89a", crafted(b"{}", side=2**20), bomb):
        path.write_bytes(content)
        with pytest.raises(LimnerError, match="not a valid PNG"):
            png.read_settings(path)
    with pytest.raises(LimnerError, match="no file"):
        png.read_settings(tmp_path / "none.png")
    with pytest.raises(LimnerError, match="cannot read"):
        png.read_settings(tmp_path)


def test_a_data_uri_contains_the_file():
    image = torch.randint(0, 256, (3, 4, 4), dtype=torch.uint8)
    kind, _, data = png.data_uri(image).partition(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as file:
        assert file.size == (4, 4)
