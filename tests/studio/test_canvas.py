"""The canvas for hints, in a real browser: with mouse, touch, or only keys."""

import random
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Page, expect
from test_page import drop
from test_steps import HALVES, file_of

from conftest import Open, Studio, clean
from limner.contract.image import from_uint8, to_uint8
from limner.data.composition import Box, Scene, Thing
from limner.data.hints import draw_hint
from limner.data.scenes import draw_boxes

PAPER = ".sketch canvas[role=application]"


def opened(visit: Open, model: str = "runs/edges", **options: Any) -> Page:
    page = visit(**options)
    page.select_option("#count", "1")
    page.select_option("#model", model)
    page.locator(PAPER).scroll_into_view_if_needed()
    return page


def stroke(page: Page, *points: tuple[float, float]) -> None:
    """Draw with the mouse through points given as shares of the side."""
    page.locator(PAPER).scroll_into_view_if_needed()
    box = page.locator(PAPER).bounding_box()
    assert box
    positions = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in points]
    page.mouse.move(*positions[0])
    page.mouse.down()
    for position in positions[1:]:
        page.mouse.move(*position, steps=3)
    page.mouse.up()


def hint_of_newest(studio: Studio) -> np.ndarray:
    """Return where the newest picture's hint is light; the stub paints its negative."""
    (picture,) = studio.client.get("/api/v1/history", params={"limit": 1}).json()["pictures"]
    return np.array(studio.pixels(picture).convert("L")) < 128


def painted(page: Page, studio: Studio, jobs: int = 1) -> np.ndarray:
    page.locator(".paint").click()
    expect(page.locator(".job.done img")).to_have_count(jobs)
    return hint_of_newest(studio)


def test_the_drawing_is_the_models_hint_and_is_restored(visit: Open, studio: Studio):
    page = opened(visit)
    page.fill("#prompt", "a cow")
    page.route("**/api/v1/assets", lambda route: (page.wait_for_timeout(300), route.continue_()))
    stroke(page, (0.03, 0.4), (0.97, 0.4))
    stroke(page, (0.4, 0.97), (0.4, 0.03))
    page.keyboard.press("Control+Enter")  # immediately, before the strokes are sent
    page.wait_for_selector(".job.done img")
    page.unroute("**/api/v1/assets")
    cross = np.zeros((16, 16), bool)
    cross[6], cross[:, 6] = True, True
    assert (hint_of_newest(studio) == cross).all(), "a stroke was lost"
    expect(page.locator(".sketch .covers img")).to_be_visible()  # below the drawing
    page.get_by_label("Undo").click()
    expect(page.locator(".sketch .covers")).to_have_count(0)
    page.get_by_label("Box with words").click()
    page.get_by_label("Words of the box").fill("a red apple")
    stroke(page, (0.5, 0.5), (0.9, 0.9))
    expect(page.locator("#prompt")).to_have_value("a cow and a red apple")
    clean(page)
    hint = painted(page, studio, 2)
    box = np.zeros((16, 16), bool)
    box[8:15, 8:15] = True
    box[9:14, 9:14] = False
    box[6] = True
    assert (hint == box).all()
    page.reload()
    expect(page.locator(".sketch .word")).to_have_text("a red apple")
    page.get_by_label("Clear").click()
    expect(page.locator(".sketch .word")).to_have_count(0)
    page.locator(".gallery .tile").first.hover()
    page.get_by_label("Use its settings").first.click()
    expect(page.locator(".sketch .word")).to_have_text("a red apple")
    assert (painted(page, studio) == box).all()
    page.get_by_label("Undo").click()
    expect(page.locator("#prompt")).to_have_value("a cow")
    box[7:] = False
    assert (painted(page, studio, 2) == box).all()


HOSTILE = [
    {"tool": "brush", "size": 1, "points": "zz"},
    {"tool": "brush", "size": 1e9, "points": "0000"},
    {"tool": "script", "size": 1, "points": "0000"},
    {"tool": "picture", "id": "../../x"},
    5,
]


def test_boxes_are_drawn_as_for_scenes_and_stored_drawings_are_validated(
    browser: Browser, studio: Studio
):
    chance = random.Random(5)
    page = browser.new_page()
    page.goto(f"{studio.client.base_url}/healthz")
    code = """async ([size, boxes]) => {
        const { Pixels, UNIT, paperOf } = await import("/page/drawing.js");
        const pixels = new Pixels(paperOf({ hint: [1, size, size], hint_kind: "boxes" }));
        for (const points of boxes) pixels.draw({ tool: "box", size: 1, points });
        return [...pixels.data].filter((_, i) => i % 4 === 0).map((value) => value === 255);
    }"""
    for size in (16, 64, 256):
        corners = [sorted(chance.randrange(1024) for _ in range(2)) for _ in range(12)]
        boxes = [[[x0, y0], [x1, y1]] for (x0, x1), (y0, y1) in zip(corners[::2], corners[1::2])]
        things = [
            Thing("apple", None, box=Box(x0 / 1024, y0 / 1024, x1 / 1024, y1 / 1024))
            for (x0, y0), (x1, y1) in boxes
        ]
        expected = draw_boxes(Scene("", "", "", 0, tuple(things)), size)
        assert page.evaluate(code, [size, boxes]) == expected.flatten().tolist(), size
    code = """async (values) => {
        const { packShapes, unpackShapes } = await import("/page/drawing.js");
        const line = { tool: "line", size: 8, points: [[0, 1], [1023, 512]], word: "<b>" };
        const packed = JSON.stringify(packShapes([line, { tool: "clear" }]));
        const again = unpackShapes(JSON.parse(packed));
        return [values.map((value) => unpackShapes([value])), unpackShapes("x"), again];
    }"""
    line = {"tool": "line", "size": 8, "points": [[0, 1], [1023, 512]], "word": "<b>"}
    expected = [[None] * len(HOSTILE), None, [line, {"tool": "clear"}]]
    assert page.evaluate(code, HOSTILE) == expected
    page.close()


def test_a_dropped_picture_is_converted_to_edges(visit: Open, studio: Studio):
    page = opened(visit)
    drop(page, file_of(HALVES), on=".sketch .easel")
    expect(page.locator(".sketch [role=status]")).to_have_text("the edges of the picture are drawn")
    edges = to_uint8(draw_hint("edges", from_uint8(HALVES[None])))[0, 0].numpy() > 0
    assert edges.any()
    assert (painted(page, studio) == edges).all()
    stroke(page, (0.03, 0.1), (0.3, 0.1))
    edges[1, :5] = True
    assert (painted(page, studio, 2) == edges).all(), "drawing must continue on the edges"
    page.get_by_label("A drawing").set_input_files(
        {"name": "dark.png", "mimeType": "image/png", "buffer": file_of(255 - HALVES)}
    )
    expect(page.locator(".sketch [role=status]")).to_have_text("the picture is drawn")
    page.get_by_label("Undo").click()
    page.get_by_label("Redo").click()
    assert painted(page, studio, 3)[:, :8].all(), "the picture must be unchanged"


UNDO_ONCE_SENT = """async () => {
    const { state, subscribe } = await import("/page/state.js");
    const z = { key: "z", ctrlKey: true, bubbles: true };
    let undone = false;
    subscribe(() => {
        if (undone || !state.form.inputs.hint) return;
        undone = true;
        queueMicrotask(() => {
            document.querySelector(".sketch canvas").dispatchEvent(new KeyboardEvent("keydown", z));
            setTimeout(() => { document.body.dataset.undone = "once"; }, 500);
        });
    });
}"""


def test_a_stroke_undone_while_being_sent_can_be_redone(visit: Open, studio: Studio):
    page = opened(visit)
    page.evaluate("() => { window.requestAnimationFrame = () => 0; }")  # delays effects
    page.evaluate(UNDO_ONCE_SENT)
    stroke(page, (0.03, 0.4), (0.97, 0.4))
    expect(page.locator("body[data-undone]")).to_be_visible()
    expect(page.get_by_label("Redo")).to_be_enabled()


def test_the_page_explains_what_to_draw(visit: Open):
    page = opened(visit, "runs/boxes")
    label = page.locator("#sketch-label")
    expect(label).to_have_text("Draw its boxes (optional)")
    for model, text in (
        ("upscaler", "Draw it small, in a few pixels"),
        ("instruct", "Draw the picture to change (optional)"),
        ("3d-to-flat", "Draw a picture to follow, of the kind “3d”"),
        ("runs/colours", "Draw what it follows (optional)"),
    ):
        page.select_option("#model", model)
        expect(label).to_have_text(text)
    border = "e => getComputedStyle(e).borderTopColor"
    assert page.locator(".easel").evaluate(border) == "rgb(106, 99, 91)", (
        "the drawing must be visible on white"
    )


def test_the_canvas_can_be_used_with_keys_only(visit: Open, studio: Studio):
    page = opened(visit)
    status = page.locator(".sketch [role=status]")
    page.get_by_label("Clear").focus()
    page.get_by_label("Brush").focus()
    for _ in range(6):  # the tools; a disabled undo button gets no focus
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "application"
    page.keyboard.press("l")
    expect(status).to_have_text("Line chosen")
    page.keyboard.press("Shift+ArrowUp")
    expect(status).to_have_text("column 9, row 1")
    page.keyboard.press("Space")
    expect(status).to_have_text(
        "Line starts at column 9, row 1; move with the arrow keys, Space ends it"
    )
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    clean(page)
    page.keyboard.press("Escape")
    expect(status).to_have_text("not drawn")
    page.keyboard.press("Space")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Space")
    expect(status).to_have_text("Line drawn")
    page.keyboard.press("Control+z")
    expect(status).to_have_text("Line undone")
    page.keyboard.press("Control+Shift+z")
    expect(status).to_have_text("Line drawn again")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".job.done img")
    line = np.zeros((16, 16), bool)
    line[3, 8:] = True
    assert (hint_of_newest(studio) == line).all()


def test_touch_draws_on_the_canvas_and_scrolls_outside(visit: Open, studio: Studio):
    phone = {"viewport": {"width": 390, "height": 740}, "has_touch": True, "is_mobile": True}
    page = opened(visit, "runs/boxes", **phone)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.get_by_label("Brush").click()
    touch = page.context.new_cdp_session(page)

    def swipe(selector: str, x: float) -> float:
        """Swipe from bottom to top; return how far the page scrolled."""
        box = page.locator(selector).bounding_box()
        assert box
        start = page.evaluate("scrollY")
        heights = [box["y"] + box["height"] * y for y in (0.9, 0.7, 0.5, 0.3, 0.1)]
        kinds = ["touchStart", *["touchMove"] * 4]
        for kind, y in zip(kinds, heights):
            points = [{"x": box["x"] + box["width"] * x, "y": y}]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        page.wait_for_timeout(50)
        return page.evaluate("scrollY") - start

    assert swipe(PAPER, 0.5) == 0
    hint = painted(page, studio)
    assert hint[2:14, 8].all() and not hint[:, :6].any()
    page.evaluate("scrollTo(0, 0)")
    swipe(".picker", 0.5)
    page.wait_for_function("scrollY > 0")


def test_several_controls_have_their_own_drawing_and_strength(visit: Open, studio: Studio):
    page = visit()
    page.select_option("#count", "1")
    expect(page.locator("#control")).to_have_count(0)
    page.select_option("#model", "runs/words")
    page.fill("#prompt", "a dog")
    page.select_option("#control", "runs/control")
    stroke(page, (0.03, 0.4), (0.97, 0.4))
    expect(page.get_by_label("How strongly it counts", exact=True).first).to_be_visible()
    page.select_option("#control", "runs/control")
    expect(page.locator(".paint")).to_be_disabled()
    page.get_by_label("A drawing, for runs/control").set_input_files(
        {"name": "half.png", "mimeType": "image/png", "buffer": file_of(HALVES)}
    )
    page.get_by_label("How strongly runs/control counts").last.fill("0.5")
    clean(page)
    page.locator(".paint").click()
    page.wait_for_selector(".job.done img")
    (picture,) = studio.client.get("/api/v1/history", params={"limit": 1}).json()["pictures"]
    assert picture["settings"]["controls"] == ["runs/control"] * 2
    assert picture["settings"]["sampler"]["control_weights"] == [1, 0.5]
    assert picture["settings"]["inputs"].keys() == {"hint", "hint_2"}
    page.locator(".job.done a").first.click()
    page.get_by_text("As code").click()
    code = page.locator(".code pre").first
    expect(code).to_contain_text("--control 'runs/control' --hint hint.png --hint hint_2.png")
    expect(page.locator("dl")).to_contain_text("runs/control, runs/control")
    page.get_by_role("button", name="Use settings").click()
    expect(page.locator(".steers")).to_have_count(2)
    page.get_by_role("button", name="Without runs/control").first.click()
    expect(page.locator(".steers")).to_have_count(1)
    page.locator(".paint").click()
    expect(page.locator(".job.done img")).to_have_count(2)
    (newest,) = studio.client.get("/api/v1/history", params={"limit": 1}).json()["pictures"]
    hint = picture["settings"]["inputs"]["hint_2"]
    assert newest["settings"]["inputs"] == {"hint": hint}, (
        "the drawing must be removed with its control"
    )
    page.select_option("#model", "toy")
    expect(page.locator(".steers")).to_have_count(0)
