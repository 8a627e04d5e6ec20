"""The page in a real browser, without console errors or requests to other hosts."""

import re
import shutil

from playwright.sync_api import Browser, Page, Route, expect

from conftest import NAME, Open, Studio, clean, png, until

ENDLESS = {"steps": 4000, "pause": 0.1}


def options(page: Page, **values: object) -> None:
    """Set sampler options in the form."""
    page.locator("details.more summary").first.click()
    for name, value in values.items():
        field = page.locator(f"#sampler-{name}")
        field.fill(str(value))
        field.dispatch_event("change")


def test_a_prompt_gives_pictures_with_live_previews(visit: Open, studio: Studio):
    page = visit()
    expect(page.get_by_role("heading", name="What shall we paint?")).to_be_visible()
    clean(page)
    page.fill("#prompt", "a red apple")
    page.select_option("#count", "4")
    options(page, **ENDLESS)
    page.locator("#prompt").press("Control+Enter")
    page.wait_for_selector(".job canvas")
    assert page.locator(".job canvas").count() == 4
    script = "canvas => canvas.toDataURL()"
    before = page.locator(".job canvas").first.evaluate(script)
    expect(page.locator(".job.running")).to_contain_text(re.compile(r"step \d+ of 4000, .* left"))
    page.wait_for_function(
        "before => document.querySelector('.job canvas').toDataURL() !== before", arg=before
    )
    page.locator(".job.running").get_by_role("button", name="Cancel").press("Enter")
    page.get_by_role("button", name="Reset to defaults").press("Enter")
    page.locator("#prompt").press("Control+Enter")
    expect(page.locator(".job.done img")).to_have_count(4)
    image = page.locator(".job.done img").first
    assert image.evaluate("i => getComputedStyle(i).imageRendering") == "pixelated"
    expect(page.locator(".gallery .tile")).not_to_have_count(0)
    clean(page)


def test_a_reload_during_a_job_loses_nothing(visit: Open, studio: Studio):
    page = visit()
    page.fill("#prompt", "a kept prompt")
    options(page, **ENDLESS)
    page.locator(".paint").click()
    page.wait_for_selector(".job canvas")
    page.reload()
    expect(page.locator("#prompt")).to_have_value("a kept prompt")
    expect(page.locator("#sampler-steps")).to_have_value("4000")
    expect(page.locator(".job h2", has_text="a kept prompt")).to_be_visible()
    page.wait_for_selector(".job canvas")
    page.locator(".job.running").get_by_role("button", name="Cancel").click()
    expect(page.locator(".job.running")).to_have_count(0)
    assert studio.client.get("/api/v1/jobs").json()["jobs"] == []


def test_waiting_and_running_jobs_are_cancelled(visit: Open, studio: Studio):
    page = visit()
    page.fill("#prompt", "never")
    options(page, steps=4000, pause=0.05)
    paint = page.locator(".paint")
    paint.click()
    page.wait_for_selector(".job.running")
    page.locator("#sampler-steps").fill("3999")
    page.locator("#sampler-steps").dispatch_event("change")
    paint.click()
    expect(page.locator(".job.queued")).to_contain_text("waiting, 1 before it")
    page.locator(".job.queued").get_by_role("button", name="Cancel").click()
    expect(page.locator(".job.queued")).to_have_count(0)
    page.locator(".job.running h2").click()
    page.keyboard.press("Escape")
    dialog = page.get_by_role("alertdialog")
    expect(dialog).to_contain_text("Cancel your job?")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(page.locator(".job.running")).to_have_count(1)
    page.keyboard.press("Escape")
    dialog.get_by_role("button", name="Cancel it").click()
    expect(page.locator(".job.running")).to_have_count(0)
    assert studio.client.get("/api/v1/jobs").json()["jobs"] == []


def drop(
    page: Page, content: bytes, name: str = "picture.png", on: str = "body", how: str = "drop"
) -> None:
    """Drop or paste a file."""
    page.evaluate(
        """([bytes, name, on, how]) => {
            const file = new File([new Uint8Array(bytes)], name, { type: "image/png" });
            const dataTransfer = new DataTransfer(), of = { bubbles: true, cancelable: true };
            dataTransfer.items.add(file);
            const event = how === "paste"
                ? new ClipboardEvent("paste", { clipboardData: dataTransfer, ...of })
                : new DragEvent("drop", { dataTransfer, ...of });
            document.querySelector(on).dispatchEvent(event);
        }""",
        [list(content), name, on, how],
    )


def test_a_dropped_picture_restores_its_settings(visit: Open, studio: Studio):
    job = studio.painted(prompt="a dropped <b>apple</b>", n=1, seed=77, sampler={"steps": 3})
    content = studio.client.get(job["outputs"][0]["url"]).content
    page = visit()
    drop(page, content)
    expect(page.locator("#prompt")).to_have_value("a dropped <b>apple</b>")
    expect(page.locator("#seed")).to_have_value("77")
    expect(page.get_by_label("Keep the seed")).to_have_attribute("aria-pressed", "true")
    page.locator("details.more summary").first.click()
    expect(page.locator("#sampler-steps")).to_have_value("3")
    page.locator(".paint").click()
    page.wait_for_selector(".job.done img")
    newest = studio.client.get("/api/v1/history", params={"limit": 1}).json()["pictures"][0]
    assert studio.pixels(newest).tobytes() == studio.pixels(job["outputs"][0]).tobytes()
    page.fill("#prompt", "another")
    page.get_by_role("link", name="Reports").first.click()
    expect(page.locator("main h1")).to_have_text("Reports")
    drop(page, content, how="paste")
    expect(page.locator("#prompt")).to_have_value("a dropped <b>apple</b>")


def test_an_error_is_shown_next_to_the_button(visit: Open):
    page = visit(expected="422")
    page.evaluate("document.querySelector('#prompt').removeAttribute('maxlength')")
    page.fill("#prompt", "x" * 3000)
    with page.expect_response("**/api/v1/jobs"):
        page.locator(".paint").click()
    expect(page.get_by_role("alert")).to_contain_text("at most 2000 characters")
    page.fill("#prompt", "fine")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_picture_has_its_own_page(visit: Open, studio: Studio):
    for prompt in ("one of two", "two of two"):
        job = studio.painted(prompt=prompt, seed=5, sampler={"steps": 3})
    newest = job["outputs"][0]
    page = visit(f"/p/{newest['id']}")
    expect(page.get_by_role("heading", name="two of two")).to_be_visible()
    clean(page)
    page.wait_for_selector(".turn.right")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("heading", name="one of two")).to_be_visible()
    page.keyboard.press("ArrowLeft")
    page.get_by_text("As code").click()
    code = page.locator(".code pre").all_inner_texts()
    assert code[0] == "limner sample 'two of two' -m 'toy' --seed 5 sampler.steps=3"
    assert 'paint("two of two", model="toy", seed=5' in code[1]
    port = studio.settings["port"]
    assert code[2].startswith(f"curl -X POST http://{NAME}:{port}/api/v1/jobs")
    page.get_by_role("button", name="Favourite").click()
    page.get_by_role("button", name="Use settings").click()
    expect(page.locator("#seed")).to_have_value("5")
    page.get_by_role("button", name="Favourites").click()
    expect(page.locator('.gallery img[alt="two of two"]')).to_be_visible()
    expect(page.locator('.gallery img[alt="one of two"]')).to_have_count(0)
    page.get_by_role("button", name="Favourites").click()
    page.fill("input[type=search]", "ONE two")
    expect(page.locator(".gallery .tile")).to_have_count(1)
    page.locator(".gallery .tile").hover()
    page.locator(".gallery").get_by_role("button", name="Delete").click()
    expect(page.locator(".gallery .tile")).to_have_count(0)


def test_the_form_has_the_options_of_the_model(visit: Open):
    page = visit()
    page.locator("details.more summary").first.click()
    expect(page.locator("#sampler-colour option")).to_have_text(["warm", "cool"])
    expect(page.locator("#sampler-steps")).to_have_attribute("max", "4000")
    expect(page.get_by_role("switch", name="Clip")).to_be_checked()
    expect(page.locator("#sampler-scale-help")).to_have_text("How strong the colours are.")
    clean(page)
    page.select_option("#model", "runs/animals")
    expect(page.locator("#prompt")).to_have_count(0)
    expect(page.locator("#class option")).to_have_text(["any", "cat", "dog", "sea horse"])
    page.select_option("#class", "dog")
    page.locator(".paint").click()
    expect(page.locator(".job.done h2").first).to_have_text("dog")


def test_new_and_deleted_runs_appear_and_vanish_in_the_open_page(visit: Open, studio: Studio):
    run = studio.folder / "runs" / "newest"
    page = visit()
    page.clock.install()
    page.reload()
    option = page.locator("#model option[value='runs/newest']")

    def is_listed() -> bool:
        page.clock.fast_forward(5000)
        return option.count() == 1

    shutil.copytree(studio.folder / "toy", run)
    try:
        until(is_listed)
        page.select_option("#model", "runs/newest")
        (run / "model.safetensors").write_bytes(b"broken")
        until(lambda: not is_listed())
        reason = studio.client.get("/api/v1/models").json()["broken"]["runs/newest"]
        expect(page.locator("#model")).to_have_value("emoji")
        page.get_by_text("1 cannot be used").click()
        expect(page.get_by_text(f"runs/newest: {reason}")).to_be_visible()
    finally:
        shutil.rmtree(run)


def test_small_bundled_models_are_listed_separately_with_papers(visit: Open):
    page = visit()
    learn = page.locator("#model optgroup[label^=Learn]")
    expect(learn.locator("option[value=vae]")).to_have_count(1)
    expect(learn.locator("option[value=upscaler], option[value=emoji]")).to_have_count(0)
    page.select_option("#model", "vae")
    expect(page.get_by_text("arXiv:1312.6114")).to_be_visible()


def test_a_picture_is_edited_where_it_is_brushed(visit: Open, studio: Studio):
    page = visit()
    page.get_by_role("button", name="Change a picture").click()
    page.locator("input[type=file]").set_input_files(
        {"name": "red.png", "mimeType": "image/png", "buffer": png(colour="red")}
    )
    page.wait_for_selector(".brush canvas")
    page.locator("#task-strength").fill("1")
    page.locator("#task-strength").dispatch_event("change")
    page.locator(".brush").scroll_into_view_if_needed()
    box = page.locator(".brush canvas").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.25)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.3, steps=3)
    with page.expect_response("**/api/v1/assets"):
        page.mouse.up()
    page.select_option("#count", "1")
    clean(page)
    page.locator(".paint").click()
    page.wait_for_selector(".job.done img")
    picture = studio.client.get("/api/v1/history", params={"limit": 1}).json()["pictures"][0]
    pixels = studio.pixels(picture)
    assert pixels.getpixel((13, 13)) == (255, 0, 0) != pixels.getpixel((4, 4))
    page.locator(".job.done a").first.click()
    page.get_by_role("button", name="Before and after").click()
    slider = page.get_by_label("Before and after")
    page.locator(".compare input").fill("20")
    assert "80%" in page.locator(".compare .before").evaluate("i => i.style.clipPath")
    assert slider.count()


def test_a_grid_varies_one_option_per_axis(visit: Open, studio: Studio):
    page = visit()
    page.fill("#prompt", "an apple")
    page.locator("details.more summary").last.click()
    page.select_option("#axis-0", "prompt")
    page.get_by_label("Values of columns").fill("apple, pear")
    page.select_option("#axis-1", "sampler.scale")
    page.get_by_label("Values of rows").fill("1-3[3]")
    page.get_by_role("button", name="Paint 6 pictures").click()
    expect(page.locator(".board td img")).to_have_count(6)
    expect(page.locator(".board thead th")).to_have_text(["apple", "pear"])
    expect(page.locator(".board tbody th")).to_have_text(["scale 1", "scale 2", "scale 3"])
    clean(page)
    page.reload()
    expect(page.locator(".board td img")).to_have_count(6)
    board = page.url.rsplit("/", 1)[1]
    jobs = studio.client.get("/api/v1/jobs", params={"board": board}).json()["jobs"]
    values = [(job["params"]["prompt"], job["params"]["sampler"]["scale"]) for job in jobs]
    assert values == [(f"an {fruit}", scale) for scale in (1, 2, 3) for fruit in ("apple", "pear")]
    assert len({job["params"]["seed"] for job in jobs}) == 1


def test_a_grid_waits_while_the_queue_is_full(visit: Open):
    page = visit(expected="status of 429")
    page.fill("#prompt", "an apple")
    page.locator("details.more summary").last.click()
    page.select_option("#axis-0", "seed")
    page.get_by_label("Values of columns").fill("1-3")
    full = {"code": "full", "message": "200 jobs wait", "hint": "try again when some are done"}
    keys: list[str] = []

    def second_and_third(route: Route) -> None:
        if route.request.method == "POST":
            keys.append(route.request.headers["idempotency-key"])
            if len(keys) in (2, 3):
                route.fulfill(status=429, json=full)
                return
        route.continue_()

    page.route("**/api/v1/jobs", second_and_third)
    page.get_by_role("button", name="Paint 3 pictures").click()
    expect(page.get_by_role("alert")).to_contain_text("follows as jobs are done")
    expect(page.locator(".board td img")).to_have_count(3)
    expect(page.get_by_role("alert")).to_have_count(0)
    assert len(keys) == 5 and keys[1] == keys[2] == keys[3] and len({*keys}) == 3
    clean(page)


def test_the_values_of_an_axis_are_parsed(browser: Browser, studio: Studio):
    page = browser.new_page()
    page.goto(f"{studio.client.base_url}/healthz")
    expected = {
        "1,2, 3": [1, 2, 3],
        "1-10(3)": [1, 4, 7, 10],
        "3-1": [3, 2, 1],
        "0-1[5]": [0, 0.25, 0.5, 0.75, 1],
        "-2--1": [-2, -1],
        "0.1-0.3(0.1), 7": [0.1, 0.2, 0.3, 7],
    }
    code = """async (texts) => {
        const { parse } = await import("/page/grid.js");
        return texts.map((text) => parse(text, true));
    }"""
    assert page.evaluate(code, [*expected]) == [*expected.values()]
    page.close()


def test_it_fits_a_phone(visit: Open, studio: Studio):
    studio.painted(prompt="a picture for the phone")
    page = visit(viewport={"width": 375, "height": 740}, has_touch=True, is_mobile=True)
    wide = "document.documentElement.scrollWidth"
    assert page.evaluate(wide) == 375
    clean(page)
    long = ("a longish prompt on a small screen " * 50).strip()
    page.fill("#prompt", long)
    page.locator(".paint").click()
    page.wait_for_selector(".job.done img")
    assert page.evaluate(wide) == 375
    lines = "h => h.clientHeight / parseFloat(getComputedStyle(h).lineHeight)"
    heading = page.locator(".job.done h2")
    assert heading.evaluate(lines) < 5 and heading.get_attribute("title") == long
    page.locator(".job.done a").first.click()
    page.wait_for_selector(".viewer h1")
    assert page.evaluate(wide) == 375
    heading = page.locator(".viewer h1")
    assert heading.evaluate(lines) < 5 and heading.get_attribute("title") == long
    studio.client.patch("/api/v1/queue", json={"paused": True})
    for _ in range(12):
        studio.submit(prompt="waits")
    page.reload()
    expect(page.locator(".top")).to_contain_text("12 jobs")
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate(wide) == 360
    studio.client.post("/api/v1/queue/clear", json={})
    studio.client.patch("/api/v1/queue", json={"paused": False})


def test_the_theme_follows_the_system_and_can_be_changed(visit: Open):
    page = visit(color_scheme="dark")
    paper = expect(page.locator("body"))
    paper.to_have_css("background-color", "rgb(25, 23, 21)")
    clean(page)
    page.get_by_role("button", name="Light").click()
    paper.to_have_css("background-color", "rgb(251, 249, 245)")
    page.reload()
    page.wait_for_selector(".paint")
    paper.to_have_css("background-color", "rgb(251, 249, 245)")


BORROWED = """() => void import("/page/state.js").then(({ updateForm }) =>
    updateForm({ borrowed: true, locked: true, vary: 0.5 }))"""


def test_a_random_prompt_and_an_example_are_painted(visit: Open):
    page = visit(viewport={"width": 375, "height": 500}, reduced_motion="reduce")
    page.evaluate(
        "() => { Element.prototype.scrollIntoView = (how) => { window.how = how.behavior } }"
    )
    keep_seed = page.get_by_label("Keep the seed")
    page.evaluate(BORROWED)
    expect(keep_seed).to_have_attribute("aria-pressed", "true")
    page.locator(".examples button").first.click()
    expect(page.locator(".job h2").first).to_have_text("a green heart")
    expect(keep_seed).to_have_attribute("aria-pressed", "false")
    page.evaluate("scrollTo(0, 0)")
    page.evaluate(BORROWED)
    expect(keep_seed).to_have_attribute("aria-pressed", "true")
    page.evaluate("() => { Math.random = () => 0.5 }")  # the same prompt in every run
    page.get_by_role("button", name="Surprise me").click()
    expect(page.locator("#prompt")).to_have_value(re.compile(r"^an? \w+"))
    expect(page.locator(".job.done")).to_have_count(2)
    expect(keep_seed).to_have_attribute("aria-pressed", "false")
    assert page.evaluate("window.how") == "auto"
