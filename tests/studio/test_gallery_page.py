"""The gallery in a real browser: selection of several pictures, filters, and grids as one PNG."""

import io
import zipfile
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from PIL import Image
from playwright.sync_api import Route, expect

from conftest import Open, Studio, clean, first, reach, redraw
from limner.contract.wildcards import choose_words

WIDE = "document.documentElement.scrollWidth"


def read(path: Path) -> Image.Image:
    return Image.open(io.BytesIO(path.read_bytes()))


def test_pictures_are_selected_saved_deleted_and_restored(visit: Open, studio: Studio):
    for prompt in ("one okapi", "two okapi", "three okapi"):
        studio.painted(prompt=prompt, sampler={"steps": 2})
    page = visit()
    keys = page.keyboard
    reach(page, page.locator("input[type=search]"))
    keys.type("okapi")
    expect(page.locator(".gallery .tile")).to_have_count(3)
    reach(page, page.get_by_role("button", name="Select", exact=True)).press("Enter")
    boxes = page.locator(".choice input")
    reach(page, boxes.nth(0)).press("Space")
    boxes.nth(2).click(modifiers=["Shift"])
    expect(page.locator(".selection")).to_contain_text("3 selected")
    boxes.nth(1).press("Space")
    clean(page)
    page.get_by_role("button", name="All that are shown").focus()
    with page.expect_download() as download:
        reach(page, page.get_by_role("link", name="Download as zip")).press("Enter")
    with zipfile.ZipFile(download.value.path()) as archive:
        assert archive.testzip() is None and len(archive.namelist()) == 2
        picture = Image.open(io.BytesIO(archive.read(archive.namelist()[0])))
        assert '"three okapi"' in picture.info["limner"]
    with page.expect_download() as sheet:
        reach(page, page.get_by_role("button", name="As one PNG")).press("Enter")
    assert read(sheet.value.path()).size == (16 + 2 * 128 + 12 + 16, 16 + 128 + 16)
    reach(page, page.locator(".selection").get_by_role("button", name="Delete")).press("Enter")
    expect(page.locator(".gallery .tile")).to_have_count(1)
    expect(page.locator(".notice")).to_contain_text("2 pictures are deleted")
    keys.press("Control+z")
    expect(page.locator(".gallery .tile")).to_have_count(3)


def test_the_gallery_is_filtered_and_sorted_in_reverse(visit: Open, studio: Studio):
    for model, prompt in (("toy", "first yak"), ("runs/rows", "second yak")):
        studio.painted(model=model, prompt=prompt, sampler={})
    page = visit(viewport={"width": 375, "height": 740})
    page.fill("input[type=search]", "yak")
    alts = page.locator(".gallery .tile img")
    expect(alts).to_have_count(2)
    expect(alts.first).to_have_attribute("alt", "second yak")
    page.get_by_label("Order").select_option("Oldest first")
    expect(alts.first).to_have_attribute("alt", "first yak")
    page.get_by_label("Painted by").select_option("runs/rows")
    expect(alts).to_have_count(1)
    expect(alts.first).to_have_attribute("alt", "second yak")
    page.get_by_label("Painted when").select_option("Last day")
    expect(alts).to_have_count(1)
    page.get_by_role("button", name="Select", exact=True).click()
    assert page.evaluate(WIDE) <= 375
    clean(page)


def test_more_pictures_are_loaded_once_and_kept(visit: Open, studio: Studio):
    picture = studio.painted(prompt="a quokka")["outputs"][0]
    newest, routes = 150, []

    def answer(route: Route) -> None:
        query = parse_qs(urlsplit(route.request.url).query)
        before = int(query.get("before", [newest + 1])[0])
        numbers = [] if query.get("search") else range(before - 1, max(0, before - 49), -1)
        pictures = [picture | {"id": f"{i:032}", "number": i, "favourite": False} for i in numbers]
        route.fulfill(json={"pictures": pictures, "total": newest if numbers else 0})

    page = visit()
    page.route("**/api/v1/history?*", answer)
    page.reload()
    tiles, button = page.locator(".wall .tile"), page.get_by_role("button", name="Show more")
    expect(tiles).to_have_count(48)
    button.dblclick()
    expect(tiles).to_have_count(96)
    page.wait_for_load_state("networkidle")
    expect(tiles).to_have_count(96)
    newest = 151  # a job is done
    page.evaluate("void import('/page/state.js').then(({ loadHistory }) => loadHistory())")
    expect(page.locator(".gallery small")).to_have_text("151")
    expect(tiles).to_have_count(97)
    page.route("**/api/v1/history?*before=*", lambda route: routes.append(route))
    button.click()
    page.fill("input[type=search]", "nothing")
    expect(tiles).to_have_count(0)
    with page.expect_response("**/api/v1/history?*before=*"):
        answer(first(page, routes))
    redraw(page)
    expect(tiles).to_have_count(0)


def test_a_grid_is_saved_as_one_picture(visit: Open, studio: Studio):
    for x, name in enumerate(("warm", "cool")):
        cell = {"x": x, "y": 0, "z": 0, "names": [name, "", ""]}
        studio.painted(board="board-of-two", cell=cell, prompt="a heart", sampler={"steps": 2})
    page = visit("/grid/board-of-two")
    expect(page.locator(".board td img")).to_have_count(2)
    with page.expect_download() as sheet:
        page.get_by_role("button", name="As one PNG").click()
    image = read(sheet.value.path()).convert("RGB")
    assert image.size == (16 + 2 * 128 + 12 + 16, 16 + 22 + 128 + 16)
    assert any(image.getpixel((x, 23)) != (251, 249, 245) for x in range(16, 60))  # the heading


def test_each_picture_has_the_prompt_that_its_seed_chose(visit: Open, studio: Studio):
    page = visit()
    page.fill("#prompt", "a {red|blue} {heart|star}")
    page.fill("#seed", "0")
    page.locator("#seed").dispatch_event("change")
    page.select_option("#count", "4")
    page.locator("#prompt").press("Control+Enter")
    expect(page.locator(".job.done img")).to_have_count(4)
    titles = page.locator(".job h2").all_inner_texts()
    assert titles[::-1] == [choose_words("a {red|blue} {heart|star}", seed) for seed in range(4)]
    expect(page.locator("#prompt")).to_have_value("a {red|blue} {heart|star}")
