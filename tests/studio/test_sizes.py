"""Pictures of other sizes than those in a model's training."""

import pytest
from playwright.sync_api import expect

from conftest import Open, Studio, clean

WIDE = "12x20"


def sizes(studio: Studio, model: str) -> list[str]:
    known = studio.client.get("/api/v1/models").json()["models"]
    return next(each["sizes"] for each in known if each["name"] == model)


def test_models_list_the_sizes_that_they_paint(studio: Studio):
    assert sizes(studio, "runs/words") == ["16x16", WIDE, "20x12"]
    assert sizes(studio, "scenes") == ["128x128", "96x160", "160x96"]
    for model in ("toy", "emoji", "scenes-sketch", "runs/control"):
        assert sizes(studio, model) == []


def test_a_picture_has_the_requested_size(studio: Studio):
    request = {"prompt": "an owl", "seed": 3, "sampler": {"steps": 2}}
    wide = studio.painted(model="runs/words", size=WIDE, **request)["outputs"][0]
    assert (wide["height"], wide["width"]) == (12, 20)
    assert wide["settings"]["size"] == WIDE
    assert studio.pixels(wide).size == (20, 12)
    default = studio.painted(model="runs/words", **request)["outputs"][0]
    assert (default["height"], default["width"]) == (16, 16) and "size" not in default["settings"]
    edited = studio.painted(
        model="runs/words", task="edit", size=WIDE, inputs={"image": wide["id"]}, **request
    )["outputs"][0]
    assert (edited["height"], edited["width"]) == (12, 20)


@pytest.mark.parametrize(
    ("model", "asked", "said"),
    [
        ("runs/words", {"size": "4096x4096"}, "unknown size '4096x4096'; "),
        ("toy", {"size": "16x16"}, "has one size; leave the size out"),
        ("runs/words", {"size": "16"}, "size"),
        ("runs/words", {"size": WIDE, "controls": ["runs/control"]}, "leave the size out"),
    ],
)
def test_other_sizes_are_refused(studio: Studio, model: str, asked: dict[str, object], said: str):
    error = studio.submit(model, expect=422, **asked)
    assert said in error["message"] + "; " + error["hint"]


def test_a_size_is_chosen_on_the_page_and_stored_with_the_picture(visit: Open, studio: Studio):
    page = visit()
    page.select_option("#model", "runs/words")
    page.get_by_text("Options", exact=True).click()
    page.select_option("#size", WIDE)
    expect(page.locator("#size option:checked")).to_have_text("20 × 12")
    page.fill("#prompt", "a wide owl")
    page.select_option("#count", "1")
    page.locator(".paint").click()
    page.locator(".job.done a").first.click()
    expect(page.locator("main h1")).to_have_text("a wide owl")
    clean(page)
    page.get_by_role("button", name="Use settings").click()
    expect(page.locator("#size")).to_have_value(WIDE)
    page.select_option("#model", "toy")
    expect(page.locator("#size")).to_have_count(0)
    page.select_option("#model", "runs/words")
    page.locator("summary", has_text="Options").click()
    page.get_by_role("button", name="Reset to defaults").click()
    expect(page.locator("#size")).to_have_value("16x16")


def test_an_edited_picture_keeps_its_size(visit: Open, studio: Studio):
    request = {"prompt": "a low owl", "seed": 4, "size": WIDE, "sampler": {"steps": 1}}
    studio.painted(model="runs/words", **request)
    page = visit()
    page.select_option("#model", "runs/words")
    page.get_by_role("link", name="a low owl").first.click()
    page.get_by_role("button", name="Change a picture").click()
    page.locator(".paint").click()
    page.locator(".job.done a").first.click()
    edited = studio.client.get("/api/v1/history").json()["pictures"][0]
    assert (edited["height"], edited["width"]) == (12, 20)
