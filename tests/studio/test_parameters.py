"""Settings in pictures of other programs are read and fill the form."""

import io

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright.sync_api import expect
from test_page import drop

from conftest import Open, Studio
from limner.studio.parameters import read_parameters

TEXT = """a red apple, <b>
on a (table:1.2)
Negative prompt: blurry, "bad"
Steps: 20, Sampler: DPM++ 2M, CFG scale: 6.5, Seed: 3141592653, Size: 512x512, \
Lora hashes: "a: 1, b: 2", Model: sd"""


def picture(text: str) -> bytes:
    file, info = io.BytesIO(), PngInfo()
    info.add_text("parameters", text)
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def test_settings_of_other_programs_are_read():
    assert read_parameters(TEXT) == {
        "prompt": "a red apple, <b>\non a (table:1.2)",
        "negative": 'blurry, "bad"',
        "sampler": {"steps": 20, "scale": 6.5},
        "seed": 3141592653,
        "program": "another",
    }
    assert read_parameters("x\nSteps: 4, Seed: -1")["seed"] == -1
    assert read_parameters("x\nSteps: 4")["negative"] == ""


@pytest.mark.parametrize("text", ["", "a red apple", "Steps: many", "Steps: 1; DROP", "\n\n"])
def test_other_texts_are_ignored(text):
    assert read_parameters(text) == {}


def test_a_picture_of_another_program_fills_the_form(visit: Open, studio: Studio):
    assert not studio.send(picture("nothing of that kind"))["settings"]
    page = visit()
    drop(page, picture(TEXT))
    expect(page.locator("#prompt")).to_have_value("a red apple, <b>\non a (table:1.2)")
    expect(page.locator("#seed")).to_have_value("3141592653")
    expect(page.locator("#model")).to_have_value("toy")
    page.locator("details.more summary").first.click()
    expect(page.locator("#sampler-steps")).to_have_value("20")
    expect(page.locator("#sampler-scale")).to_have_value("6.5")
    expect(page.locator("#negative")).to_have_value('blurry, "bad"')
