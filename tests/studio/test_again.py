"""Repeating and undoing: settings, deleted pictures, cancelled jobs."""

import json
import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from test_hostile import with_settings
from test_page import drop, options

from conftest import Open, Studio, clean, held, png, redraw, until


def brush(page: Page, *, then: str | None = None) -> None:
    """Brush the upper left quarter, and press a key immediately."""
    page.locator(".brush").scroll_into_view_if_needed()
    box = page.locator(".brush canvas").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.25)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.3, steps=3)
    page.mouse.up()
    if then:
        page.keyboard.press(then)


def give_red(page: Page) -> None:
    page.get_by_role("button", name="Change a picture").click()
    page.locator("input[type=file]").set_input_files(
        {"name": "red.png", "mimeType": "image/png", "buffer": png(colour="red")}
    )
    page.wait_for_selector(".brush canvas")


def newest(studio: Studio) -> dict[str, Any]:
    return studio.client.get("/api/v1/history", params={"limit": 1}).json()["pictures"][0]


def test_an_edit_is_restored_completely_with_every_stroke(visit: Open, studio: Studio):
    page = visit()
    page.select_option("#count", "1")
    give_red(page)
    page.locator("#task-strength").fill("1")
    page.locator("#task-strength").dispatch_event("change")
    page.route("**/api/v1/assets", lambda route: (page.wait_for_timeout(600), route.continue_()))
    brush(page, then="Control+Enter")
    page.wait_for_selector(".job.done img")
    page.unroute("**/api/v1/assets")
    first = newest(studio)
    pixels = studio.pixels(first)
    assert pixels.getpixel((13, 13)) == (255, 0, 0) != pixels.getpixel((4, 4)), (
        "only the stroke must be undone"
    )
    page.locator(".job.done a").first.click()
    details = page.locator(".about dl")
    for row in ("Task", "Change a picture", "Made from", "Mask", "Strength"):
        expect(details).to_contain_text(row, ignore_case=True)
    page.get_by_text("As code").click()
    code = page.locator(".code pre").first.inner_text()
    assert re.search(
        r"^limner edit source.png -m 'toy' --mask mask.png --strength 1 -n 1 --seed \d+$",
        code.splitlines()[-1],
    ), code
    assert code.count("curl -f -o ") == 2 and "/api/v1/assets/" in code
    clean(page)
    page.get_by_role("button", name="Variations").click()
    page.wait_for_selector(".brush canvas")
    expect(page.get_by_role("button", name="Change a picture").first).to_have_attribute(
        "aria-pressed", "true"
    )
    expect(page.locator("#task-strength")).to_have_value("1")
    page.locator(".paint").click()
    expect(page.locator(".job.done img")).to_have_count(7)
    for picture in studio.client.get("/api/v1/history", params={"limit": 6}).json()["pictures"]:
        assert studio.pixels(picture).getpixel((13, 13)) == (255, 0, 0), (
            "the edit must be unchanged"
        )


def test_an_edit_is_restored_in_another_browser(visit: Open, studio: Studio):
    red = studio.send(png(colour="red"))["id"]
    request = {"task": "edit", "inputs": {"image": red}, "options": {"strength": 0.3}}
    picture = studio.painted(prompt="elsewhere", **request)["outputs"][0]
    page = visit(expected="404")
    drop(page, studio.client.get(picture["url"]).content)
    expect(page.get_by_alt_text("the picture to be changed")).to_be_visible()
    expect(page.locator("#task-strength")).to_have_value("0.3")
    missing = {"task": "edit", "model": "toy", "inputs": {"image": "0" * 64}}
    drop(page, with_settings(json.dumps(missing)))
    expect(page.get_by_role("alert")).to_contain_text("not here any more")
    expect(page.locator(".composer")).to_contain_text("Choose the picture first")
    clean(page)


def test_a_restored_seed_is_removed_with_the_next_prompt(visit: Open, studio: Studio):
    picture = studio.painted(prompt="a seed to borrow", seed=41)["outputs"][0]
    page = visit(f"/p/{picture['id']}")
    page.get_by_role("button", name="Variations").click()
    keep_seed = page.get_by_label("Keep the seed")
    expect(keep_seed).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".kept")).to_contain_text("until the prompt changes")
    clean(page)
    page.fill("#prompt", "a dragon")
    expect(keep_seed).to_have_attribute("aria-pressed", "false")
    page.locator(".paint").click()
    page.wait_for_selector(".job.done img")
    settings = newest(studio)["settings"]
    assert settings["prompt"] == "a dragon" and not settings.get("vary")
    assert not 41 <= settings["seed"] < 47


@pytest.mark.parametrize("box", ["#seed", "#sampler-steps"])
def test_typed_text_is_kept_when_the_page_is_redrawn(box: str, visit: Open):
    page = visit()
    options(page, pause=0)
    page.locator(box).fill("1")
    redraw(page)
    page.locator(box).press_sequentially("2")
    page.locator(box).blur()
    expect(page.locator(box)).to_have_value("12")


def test_invalid_settings_do_not_break_the_form(visit: Open):
    page = visit()
    for settings in (
        {"prompt": 5},
        {"prompt": "a", "negative": {"a": 1}},
        {"task": "attention"},
        {"task": ["edit"], "options": {"strength": "x"}},
        {"sampler": {"steps": {"x": 1}, "pause": -3}, "n": {"a": 1}, "vary": [], "labels": [3]},
        {"seed": 1e300, "sampler": 7, "options": None, "inputs": "x", "dtype": "int4"},
    ):
        redraw(page)
        expect(page.get_by_role("alert")).to_have_count(0)
        drop(page, with_settings(json.dumps({"model": "toy"} | settings)))
        expect(page.get_by_role("alert")).to_contain_text("do not fit this model")
    page.locator(".paint").click()
    page.wait_for_selector(".job.done img")


def test_stored_data_of_an_earlier_visit_do_not_break_the_form(visit: Open):
    page = visit()
    form = {"model": "toy", "prompt": 5, "n": "x", "sampler": {"steps": {}}, "inputs": {"image": 3}}
    page.evaluate("kept => localStorage.setItem('limner-request', kept)", json.dumps(form))
    page.reload()
    page.locator(".paint").click()
    page.wait_for_selector(".job.done img")


def test_a_deleted_picture_can_be_restored(visit: Open, studio: Studio):
    picture = studio.painted(prompt="gone too soon")["outputs"][0]
    page = visit()
    tile = page.locator('.gallery img[alt="gone too soon"]')
    page.locator(".gallery .tile").first.hover()
    page.locator(".gallery .tile").first.get_by_role("button", name="Delete").click()
    expect(tile).to_have_count(0)
    assert studio.client.get(picture["url"]).status_code == 404
    clean(page)
    page.get_by_role("button", name="Undo").click()
    expect(tile).to_have_count(1)
    assert studio.client.get(picture["url"]).status_code == 200
    page.goto(page.url + f"p/{picture['id']}")
    page.get_by_role("button", name="Delete").dblclick()
    page.get_by_role("button", name="Undo").click()
    page.goto(page.url.partition("/p/")[0])
    expect(tile).to_have_count(1)


def test_pictures_deleted_in_a_row_are_restored_together(visit: Open, studio: Studio):
    for prompt in ("first ibex", "second ibex", "third ibex"):
        studio.painted(prompt=prompt)
    page = visit(viewport={"width": 390, "height": 500})
    page.fill("input[type=search]", "ibex")
    tiles = page.locator(".gallery .tile")
    expect(tiles).to_have_count(3)
    for count in (2, 1):
        tiles.first.get_by_role("button", name="Delete").press("Enter")
        expect(tiles).to_have_count(count)
        expect(tiles.first.get_by_role("link").first).to_be_focused()
    expect(page.locator(".notice")).to_contain_text("2 pictures are deleted")
    page.keyboard.press("Control+z")
    expect(page.locator(".notice")).to_contain_text("2 pictures are restored")
    names = page.locator(".gallery .tile img").evaluate_all("all => all.map((each) => each.alt)")
    assert names == ["third ibex", "second ibex", "first ibex"]
    tiles.last.get_by_role("link").first.focus()
    scroll = page.evaluate("scrollY")
    assert scroll > 100
    page.keyboard.press("Enter")
    expect(page.locator("main h1")).to_have_text("first ibex")
    page.keyboard.press("Escape")
    page.wait_for_function("left => Math.abs(scrollY - left) < 2", arg=scroll)


def test_a_failed_gallery_action_is_reported_and_reverted(visit: Open, studio: Studio):
    picture = studio.painted(prompt="a lone tapir")["outputs"][0]
    page = visit(viewport={"width": 390, "height": 500}, expected="status of")
    page.fill("input[type=search]", "tapir")
    tile = page.locator(".gallery .tile")
    expect(tile).to_have_count(1)
    star = tile.get_by_role("button", name="Favourite")
    page.route("**/api/v1/history/*", lambda route: route.fulfill(status=500, body="?"))
    star.press("Enter")
    expect(page.locator(".notice")).to_contain_text("answered with status 500")
    expect(star).to_have_attribute("aria-pressed", "false")
    page.unroute("**/api/v1/history/*")
    studio.client.delete(f"/api/v1/history/{picture['id']}")
    star.press("Enter")
    expect(page.locator(".notice")).to_contain_text("there is no such picture")
    expect(tile).to_have_count(0)
    clean(page)


def test_jobs_of_other_browsers_are_not_cancelled(visit: Open, studio: Studio):
    other_id = studio.submit(prompt="theirs", sampler={"steps": 4000, "pause": 0.05})["id"]
    until(lambda: studio.job(other_id)["state"] == "running")
    try:
        with held(studio):
            page = visit()
            page.wait_for_selector(".job.running")
            page.keyboard.press("Escape")
            page.keyboard.press("Escape")
            expect(page.get_by_role("alertdialog")).to_have_count(0)
            for prompt in ("mine", "mine, too"):
                page.fill("#prompt", prompt)
                expect(page.get_by_role("button", name="Cancel all")).to_have_count(0)
                page.locator(".paint").click()
                expect(page.locator(f'.job.queued[aria-label="{prompt}"]')).to_be_visible()
            expect(page.locator(".job.queued")).to_have_count(2)
            page.get_by_role("button", name="Cancel all").click()
            dialog = page.get_by_role("alertdialog")
            expect(dialog).to_contain_text("Cancel your 2 jobs?")
            clean(page)
            dialog.get_by_role("button", name="Cancel them").click()
            expect(page.locator(".job.queued")).to_have_count(0)
            assert studio.job(other_id)["state"] == "running"
    finally:
        studio.client.delete(f"/api/v1/jobs/{other_id}")


def test_a_job_watched_after_a_reload_stays_visible_when_done(visit: Open, studio: Studio):
    page = visit()
    page.fill("#prompt", "watched")
    with held(studio):  # the job is not done before the page is loaded again
        page.locator(".paint").click()
        until(lambda: "running" in [job["state"] for job in studio.jobs()])
        page.reload()
        page.wait_for_selector(".job.running")
    expect(page.locator(".job.done h2")).to_have_text("watched")
