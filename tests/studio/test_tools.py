"""Further tools of the page in a real browser: source pictures, comparisons, walks, words."""

import io
import json
import re
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect

from conftest import Open, Studio, clean, png, until
from limner.evaluate.webpage import document


def give(page: Page, name: str, colour: str) -> None:
    """Choose a file for an input."""
    page.get_by_label(name, exact=True).set_input_files(
        {"name": "one.png", "mimeType": "image/png", "buffer": png(colour=colour)}
    )


def newest(studio: Studio) -> Image.Image:
    pictures = studio.client.get("/api/v1/history", params={"limit": 1}).json()["pictures"]
    return studio.pixels(pictures[0])


def test_a_picture_is_translated_completed_and_sent_on(visit: Open, studio: Studio):
    page = visit()
    page.select_option("#count", "1")
    page.select_option("#model", "runs/negative")
    expect(page.locator(".facts .chip")).to_have_text("GANs")
    expect(page.locator(".paint")).to_be_disabled()
    give(page, "Picture to follow", "red")
    page.locator(".paint").click()
    page.wait_for_selector(".job.done img")
    assert newest(studio).getpixel((5, 5)) == (0, 255, 255), "the picture must be translated"
    page.get_by_role("button", name="Dismiss").click()
    page.select_option("#model", "runs/rows")
    page.get_by_role("button", name="Complete a picture").click()
    give(page, "Picture", "blue")
    expect(page.get_by_alt_text("the picture to be changed")).to_be_visible()
    page.locator("#task-keep").fill("0.25")
    page.locator("#task-keep").dispatch_event("change")
    page.get_by_role("button", name="Complete a picture").last.click()
    page.wait_for_selector(".job.done img")
    assert newest(studio).getpixel((5, 3)) == (0, 0, 255) != newest(studio).getpixel((5, 4))
    page.locator(".job.done a").first.click()
    page.get_by_role("button", name="Reconstruct").click()  # the "send to" buttons
    expect(page.get_by_alt_text("the picture that was given")).to_be_visible()
    page.locator(".paint", has_text="Reconstruct").click()
    expect(page.locator(".job.done")).to_have_count(2)
    page.locator(".job.done a").first.click()
    page.get_by_role("button", name="Before and after").click()
    page.locator(".compare input").fill("30")
    assert "70%" in page.locator(".compare .before").evaluate("i => i.style.clipPath")
    with page.expect_download() as download:
        page.get_by_role("link", name="PNG with its settings").click()
    file = Image.open(io.BytesIO(Path(download.value.path()).read_bytes()))
    settings = json.loads(file.info["limner"])
    assert settings["task"] == "reconstruct" and settings["model"] == "runs/rows"


def test_the_seed_can_be_random_or_kept(visit: Open):
    page = visit()
    seed = page.locator("#seed")
    first = seed.input_value()
    page.get_by_label("Another seed").click()
    expect(seed).not_to_have_value(first)
    page.get_by_label("Keep the seed").click()
    value = seed.input_value()
    page.locator(".paint").click()
    page.wait_for_selector(".job.done img")
    expect(seed).to_have_value(value)


def test_models_are_compared_with_one_prompt_and_seed(visit: Open, studio: Studio):
    page = visit()
    page.fill("#prompt", "a red apple")
    page.locator("details.more summary", has_text="Grid").click()
    page.get_by_role("button", name="Compare the models").click()
    axis = page.get_by_label("Values of columns")
    expect(axis).to_have_value(re.compile("toy"))
    assert "negative" not in axis.input_value(), "a model that needs a picture must not be listed"
    axis.fill("toy, runs/animals, runs/rows")
    page.get_by_role("button", name="Paint 6 pictures").click()
    expect(page.locator(".board td img")).to_have_count(6)
    expect(page.locator(".board td small").first).to_have_text(re.compile(r"\d m?s"))
    expect(page.locator(".board thead th")).to_have_text(
        ["toy", re.compile("runs/animals"), "runs/rows"]
    )
    board = page.url.rsplit("/", 1)[1]
    jobs = studio.client.get("/api/v1/jobs", params={"board": board}).json()["jobs"]
    requests = {(job["model"], job["params"]["prompt"]) for job in jobs}
    assert requests == {("toy", "a red apple"), ("runs/rows", "a red apple"), ("runs/animals", "")}
    assert {job["params"]["seed"] for job in jobs} == {1, 2}


def test_a_slider_moves_along_the_walk_between_seeds(visit: Open, studio: Studio):
    page = visit()
    page.fill("#prompt", "")
    page.get_by_role("button", name="From seed to seed").click()
    page.locator("#task-steps").fill("5")
    page.locator("#task-steps").dispatch_event("change")
    page.locator(".paint").click()
    slider = page.get_by_label("Along the path")
    expect(slider).to_have_attribute("max", "4")
    picture = page.locator(".path a img")
    first = picture.get_attribute("src")
    slider.focus()
    page.keyboard.press("End")
    expect(picture).not_to_have_attribute("src", first or "")
    expect(slider).to_have_attribute("aria-valuetext", "picture 5 of 5")
    clean(page)
    page.locator(".path a").click()
    page.get_by_role("button", name="The whole path").click()
    expect(page.locator(".path .strip img")).to_have_count(5)


def test_the_attention_of_a_word_is_highlighted(visit: Open, studio: Studio):
    settings = {"seed": 5, "sampler": {"scale": 9.0, "colour": "cool"}}
    picture = studio.painted(prompt="a red piñata", **settings)["outputs"][0]
    page = visit(f"/p/{picture['id']}")
    page.get_by_role("button", name="Where it looks").click()
    chips = page.locator(".spoken button")
    expect(chips).to_have_text(["a", "red", "piñata"])
    chips.nth(1).click()
    page.mouse.move(0, 0)
    expect(chips.nth(1)).to_have_attribute("aria-pressed", "true")
    page.wait_for_function("() => document.querySelector('.bright')?.complete")
    clean(page)
    screen = Image.open(io.BytesIO(page.locator(".lit").screenshot())).convert("RGB")
    pixels = studio.pixels(picture)
    unchanged = [
        sum(abs(a - b) for a, b in zip(screen.getpixel(xy), pixels.getpixel((x, 8)))) < 12  # type: ignore[arg-type]
        for x in (2, 6, 10, 14)
        if (xy := ((2 * x + 1) * screen.width // 32, 17 * screen.height // 32))
    ]
    assert unchanged == [False, True, False, False], (
        "the picture must be unchanged where attention is high"
    )
    page.get_by_role("button", name="The picture alone").click()
    expect(page.locator(".bright")).to_have_count(0)


BOARD = """<table class="board">
<thead><tr><th data-at=0 data-first="ascending"><button>name</button></th></tr></thead>
<tbody><tr><td data-value="2">two</td></tr><tr><td data-value="1">one</td></tr></tbody>
</table><script>document.title = "hostile"; document.body.innerHTML = "gone"</script>"""


def test_reports_are_pages_and_comparisons_are_sandboxed(visit: Open, studio: Studio):
    import limner.evaluate

    page = visit("/reports", expected="Content Security Policy")
    expect(page.get_by_role("heading", name="Reports")).to_be_visible()
    folder = studio.folder / "side-by-side"
    folder.mkdir()
    script = (Path(limner.evaluate.__file__).parent / "page.js").read_text()
    (folder / "index.html").write_text(document("A comparison", BOARD, script=script))
    comparison = {"against": {"name": "pets"}, "date": "2026-11-25", "n": 64}
    subjects = [{"name": "runs/one"}, {"name": "runs/other"}]
    (folder / "comparison.json").write_text(json.dumps(comparison | {"subjects": subjects}))
    page.reload()
    expect(page.get_by_role("heading", name="Reports")).to_be_visible()
    clean(page)
    page.get_by_role("link", name="runs/one, runs/other").click()
    frame = page.frame_locator("iframe")
    cells = frame.locator("td")
    expect(cells).to_have_text(["two", "one"])
    frame.get_by_role("button", name="name").click()
    expect(cells).to_have_text(["one", "two"])
    page.get_by_role("link", name="All reports").click()
    expect(page.get_by_role("heading", name="Side by side")).to_be_visible()


def test_a_small_picture_is_enlarged_and_can_be_shown_in_pixels(visit: Open, studio: Studio):
    (picture,) = studio.painted(prompt="a small thing", n=1)["outputs"]
    total = studio.client.get("/api/v1/history").json()["total"]
    page = visit(f"/p/{picture['id']}")
    image = page.locator(".lit img")
    expect(image).not_to_have_attribute("src", picture["url"])
    width = "document.querySelector('.lit img').naturalWidth"
    until(lambda: page.evaluate(width) == 64)
    smooth = "getComputedStyle(document.querySelector('.lit img')).imageRendering"
    assert page.evaluate(smooth) == "auto"
    with page.expect_download() as download:
        page.get_by_role("link", name="PNG with its settings").click()
    assert Image.open(io.BytesIO(Path(download.value.path()).read_bytes())).size == (16, 16)
    clean(page)
    requests: list[str] = []
    page.on("request", lambda r: requests.append(r.url) if r.method == "POST" else None)
    page.get_by_role("button", name="True pixels").press("Enter")
    expect(image).to_have_attribute("src", picture["url"])
    assert page.evaluate(smooth) == "pixelated"
    page.reload()
    expect(page.get_by_role("button", name="True pixels")).to_have_attribute("aria-pressed", "true")
    page.wait_for_timeout(500)
    expect(image).to_have_attribute("src", picture["url"])
    assert not requests, "nothing must be enlarged while pixels are shown"
    page.get_by_role("button", name="True pixels").press("Enter")
    expect(image).not_to_have_attribute("src", picture["url"])
    assert len(requests) == 1, "the existing enlargement must be shown"
    assert studio.client.get("/api/v1/history").json()["total"] == total
    request = {"model": "upscaler", "task": "enlarge", "inputs": {"image": picture["id"]}}
    key = {"Idempotency-Key": f"larger-{picture['id']}"}
    job = studio.client.post("/api/v1/jobs", json=request, headers=key).json()
    assert job["state"] == "done", "it must be enlarged once"
