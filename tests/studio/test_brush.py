"""The brush for masks: with mouse and keys, undo and redo, from a file; and its feathered edge."""

import io
from typing import Any

from PIL import Image
from playwright.sync_api import Page, Route, expect
from test_again import brush, give_red

from conftest import Open, Studio, clean, first, png, until

MASK = """() => {
    const canvas = document.querySelector(".brush canvas");
    const { data } = canvas.getContext("2d").getImageData(0, 0, 256, 256);
    const at = (x, y) => data[4 * (256 * y + x) + 3] > 127;
    let n = 0;
    for (let i = 3; i < data.length; i += 4) n += data[i] > 127;
    return { n, middle: at(128, 128), right: at(160, 128), corner: at(2, 2) };
}"""


def kept(page: Page) -> bool:
    """Return whether the form has an uploaded mask."""
    code = """async () => (await import("/page/state.js")).state.form.inputs.mask !== undefined"""
    return page.evaluate(code)


def test_a_mask_can_be_made_with_keys_only(visit: Open, studio: Studio):
    page = visit()
    page.select_option("#count", "1")
    give_red(page)
    page.locator("#task-strength").fill("1")
    page.locator("#task-strength").dispatch_event("change")
    area = page.get_by_role("application")
    area.focus()
    keys = page.keyboard
    for key in ("]", "Space", "Shift+ArrowRight", "Space"):
        keys.press(key)
    until(lambda: kept(page))
    mask = page.evaluate(MASK)
    assert mask["middle"] and mask["right"] and not mask["corner"]
    assert 45 * 32 < mask["n"] < 45 * 80, "the stroke must have the width set with the key"
    keys.press("i")
    assert page.evaluate(MASK) == {
        "n": 256 * 256 - mask["n"], "middle": False, "right": False, "corner": True,
    }  # fmt: skip
    keys.press("Control+z")
    assert page.evaluate(MASK) == mask
    keys.press("Control+y")
    assert page.evaluate(MASK)["corner"]
    keys.press("Control+z")
    for key in ("e", "Space", "ArrowLeft", "Space"):
        keys.press(key)
    erased_mask = page.evaluate(MASK)
    assert erased_mask["middle"] and not erased_mask["right"], "the cross must be on the right"
    for key in ("b", "Space", "Shift+ArrowDown", "Escape"):
        keys.press(key)
    assert page.evaluate(MASK) == erased_mask, "an aborted stroke must not be kept"
    keys.press("+")
    keys.press("+")
    share = "e => e.offsetWidth / e.parentElement.clientWidth"
    until(lambda: abs(page.locator(".brush").evaluate(share) - 4) < 0.1)
    keys.press("ArrowUp")
    expect(page.locator(".cross")).to_be_in_viewport()
    clean(page)
    keys.press("Control+Enter")
    page.wait_for_selector(".job.done img")
    picture = studio.client.get("/api/v1/history", params={"limit": 1}).json()["pictures"][0]
    pixels = studio.pixels(picture)
    assert pixels.getpixel((0, 0)) == (255, 0, 0) != pixels.getpixel((7, 8))
    page.get_by_role("button", name="Undo").click()
    page.get_by_role("button", name="Clear").click()
    assert page.evaluate(MASK)["n"] == 0
    until(lambda: not kept(page))


def test_a_quick_stroke_has_no_gaps_and_a_mask_comes_from_a_file(visit: Open, studio: Studio):
    page = visit(viewport={"width": 375, "height": 740}, expected="status of 4")
    give_red(page)
    brush(page)
    n = page.evaluate(MASK)["n"]
    assert n > 900, "the stroke must be continuous"
    chooser = page.locator("input[type=file][accept='image/*']")
    white = png(40, 20, "white")
    chooser.set_input_files({"name": "m.png", "mimeType": "image/png", "buffer": white})
    until(lambda: page.evaluate(MASK)["n"] == 256 * 256)
    until(lambda: kept(page))
    routes: list[Route] = []
    page.route("**/api/v1/assets", lambda route: routes.append(route))
    page.get_by_role("button", name="Undo").click()
    assert page.evaluate(MASK)["n"] == n
    mask = first(page, routes)
    chooser.set_input_files({"name": "m.png", "mimeType": "image/png", "buffer": b"no"})
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("m.png is not a picture")
    with page.expect_response("**/api/v1/assets"):
        mask.continue_()
    page.wait_for_timeout(200)
    assert alert.count() == 1, "the mask after undo must be sent, and the prompt kept"
    page.unroute("**/api/v1/assets")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.locator("#task-feather").fill("4")
    page.locator("#task-feather").dispatch_event("change")
    canvas = page.locator(".brush canvas")
    until(lambda: "blur" in canvas.evaluate("c => c.style.filter"))
    clean(page)


def test_a_feathered_edge_blends(studio: Studio):
    red, mask = studio.send(png(colour="red")), io.BytesIO()
    half = Image.new("L", (16, 16))
    half.paste(255, (8, 0, 16, 16))
    half.save(mask, "PNG")
    inputs = {"image": red["id"], "mask": studio.send(mask.getvalue())["id"]}
    edit: dict[str, Any] = {"task": "edit", "inputs": inputs, "seed": 1}
    jobs = [studio.painted(options={"strength": 1, "feather": f}, **edit) for f in (0, 3)]
    rows = [studio.pixels(job["outputs"][0]).crop((0, 8, 16, 9)).tobytes() for job in jobs]
    sharp, soft = ([row[3 * x : 3 * x + 3] for x in range(16)] for row in rows)
    old, new = b"\xff\0\0", sharp[15]
    assert sharp[:8] == [old] * 8 and soft[:5] == [old] * 5 and soft[8:] == sharp[8:]
    greens = [pixel[1] for pixel in soft[4:9]]
    assert 0 == greens[0] < greens[1] < greens[2] < greens[3] < greens[4] == new[1]
