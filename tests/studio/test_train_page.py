"""Training in the page, in a real browser: from a folder of pictures to a model that paints."""

import contextlib
import re
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, Route, TimeoutError, expect
from test_training import COLOURS, LONG, ended

from conftest import Open, Studio, clean, first, png

WIDE = "document.documentElement.scrollWidth"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a typical folder with pictures and other files."""
    folder = tmp_path_factory.mktemp("files") / "Ünsere Punkte"
    folder.mkdir()
    for i in range(12):
        Image.new("RGB", (8, 8), COLOURS[i % 4]).save(folder / f"{i}.png")
    (folder / ".DS_Store").write_bytes(b"\0")
    (folder / "notes.pdf").write_bytes(b"%PDF")
    (folder / "IMG_1.HEIC").write_bytes(b"heic")
    return folder


def ready(page: Page, pictures: Path, options: str) -> None:
    """Choose a folder, wait for its check, and enter options."""
    page.locator("input[webkitdirectory]").set_input_files(pictures)
    expect(page.get_by_label("Report on the pictures")).to_contain_text(
        "12 valid, 0 broken", timeout=180_000
    )
    expect(page.locator(".drop .hint")).to_have_text(
        "Left out, because limner cannot read them: 1 .heic, 1 .pdf. Save photos from a phone as "
        "JPEG first."
    )
    expect(page.locator(".check > .hint")).to_contain_text("12 pictures are few")
    expect(page.locator(".check img")).to_be_visible()
    page.locator(".begin summary").click()
    page.fill("#further", options)


def test_a_folder_becomes_a_model_that_paints(visit: Open, studio: Studio, pictures: Path):
    page = visit("/")
    assert not page.evaluate("isSecureContext")
    page.get_by_role("link", name="Train", exact=True).press("Enter")
    ready(page, pictures, " ".join([*LONG, "train.sample_every=40", "sampler.steps=2"][1:]))
    expect(page.locator("#kind")).to_have_value("flow-matching")
    expect(page.locator("#minutes")).to_be_disabled()
    page.fill("#name", "Meine Pünktchen")
    page.keyboard.press("Escape")
    expect(page.locator("#name")).to_have_value("Meine Pünktchen")
    assert page.evaluate(WIDE) <= page.viewport_size["width"]
    clean(page)
    with page.expect_response(lambda response: response.request.method == "POST") as response_info:
        page.locator("#further").press("Control+Enter")
    assert response_info.value.status == 202, response_info.value.text()
    expect(page.locator("h1")).to_have_text("runs/meine-pünktchen")
    id = page.url.rsplit("/", 1)[1]
    expect(page.locator(".curve polyline")).not_to_have_count(0, timeout=180_000)
    page.reload()
    expect(page.locator(".beside figure")).to_have_count(2, timeout=180_000)
    expect(page.get_by_label(re.compile(r"^loss: .* at step"))).to_be_visible()
    clean(page)
    page.goto(page.url.replace(f"/train/{id}", "/"))
    page.fill("#prompt", "while it learns")
    page.locator("#prompt, .paint").first.press("Control+Enter")
    page.wait_for_selector('.job.done[aria-label="while it learns"] img')
    page.get_by_role("link", name="Train", exact=True).press("Enter")
    expect(page.get_by_text("A training is running:")).to_be_visible()
    page.locator("a.sheet-of").first.press("Enter")
    page.get_by_role("button", name="Stop").press("Enter")
    assert ended(studio, id)["state"] == "stopped"
    page.get_by_role("button", name="Resume").press("Enter")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    page.get_by_role("button", name="Stop").press("Enter")
    expect(page.get_by_role("button", name="Resume")).to_be_visible(timeout=180_000)
    expect(page.locator("main")).not_to_contain_text("finishing this step")
    paint, chosen = page.get_by_role("button", name="Paint with it"), page.locator("#model")
    for _ in range(20):  # the view is redrawn as the run ends, and a key may reach the old button
        with contextlib.suppress(TimeoutError):
            paint.press("Enter", timeout=3000)
        page.wait_for_timeout(1500)
        if chosen.count():
            break
    expect(chosen).to_have_value("runs/meine-pünktchen")
    expect(page.locator(".notice")).to_contain_text("so far this model has been trained for")
    page.locator("#prompt, .paint").first.press("Control+Enter")
    page.wait_for_selector('.job.done[aria-label="New picture by runs/meine-pünktchen"] img')
    page.get_by_role("link", name="Train", exact=True).press("Enter")
    page.locator("a.sheet-of", has_text="meine-pünktchen").press("Enter")
    page.get_by_role("button", name="Delete this training").press("Enter")
    page.get_by_role("alertdialog").get_by_role("button", name="Delete it").press("Enter")
    expect(page.locator("h1")).to_have_text("Train a model of your own")
    assert studio.client.get(f"/api/v1/trainings/{id}").status_code == 404
    assert not (studio.folder / "runs" / "meine-pünktchen").exists()


def test_an_error_of_training_is_a_line_in_the_page(visit: Open, pictures: Path):
    page = visit("/train", expected="415|422", viewport={"width": 375, "height": 740})
    ready(page, pictures, "model.channels=x")
    assert page.evaluate(WIDE) <= 375
    page.get_by_role("button", name="Train", exact=True).focus()
    page.keyboard.press("Enter")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("model option model.channels='x'", timeout=180_000)
    expect(alert).to_contain_text("give numbers with commas")
    assert page.evaluate(WIDE) <= 375
    clean(page)
    page.get_by_role("link", name="All trainings").click()
    expect(page.locator("#further")).to_have_value("model.channels=x")
    page.fill("#further", "model.chanels=4")
    page.get_by_role("button", name="Train", exact=True).click()
    expect(alert).to_contain_text("unknown model option 'model.chanels'")
    expect(alert).to_contain_text("did you mean")
    expect(page.locator("#further")).to_have_value("model.chanels=4")
    page.fill("#further", "steps=4")
    routes: list[Route] = []  # answered after both clicks

    def hold(route: Route) -> None:
        if route.request.method == "POST":
            routes.append(route)
        else:
            route.continue_()  # the page looks for new trainings now and then

    page.route("**/api/v1/trainings", hold)
    page.get_by_role("button", name="Train", exact=True).dblclick()
    first(page, routes).continue_()
    expect(page.get_by_role("alert")).to_contain_text("is not an option")
    assert len(routes) == 1
    page.unroute("**/api/v1/trainings")
    page.set_input_files("input[accept*=zip]", {"name": "a.zip", "mimeType": "", "buffer": b"no"})
    expect(page.get_by_role("alert")).to_contain_text("not a valid zip archive")


def test_the_form_stays_after_a_reload_and_the_browser_asks_before_an_upload_ends(visit: Open):
    page = visit("/train")
    page.locator(".begin summary").click()
    page.fill("#further", "data.size=16")
    page.fill("#name", "dots")
    page.select_option("#data", "mnist")
    page.reload()
    for field, value in (("#further", "data.size=16"), ("#name", "dots"), ("#data", "mnist")):
        expect(page.locator(field)).to_have_value(value)
    leaves = "() => dispatchEvent(new Event('beforeunload', { cancelable: true }))"
    assert page.evaluate(leaves)
    page.route("**/api/v1/data?name=*", lambda route: None)  # the upload does not end
    picture = {"name": "a.png", "mimeType": "image/png", "buffer": png()}
    page.set_input_files("input[multiple]:not([webkitdirectory])", picture)
    expect(page.locator(".drop [role=status]")).to_contain_text("sending")
    assert not page.evaluate(leaves)
    unfit = {"data": "gone", "minutes": "x"}
    page.evaluate("(kept) => localStorage.setItem('limner-training', JSON.stringify(kept))", unfit)
    page.on("dialog", lambda dialog: dialog.accept())
    page.evaluate("location.assign('/train')")
    expect(page.locator("#minutes")).to_have_value("30")
    expect(page.locator(".begin .paint")).to_be_enabled()


def test_pictures_are_dropped_anywhere_and_chosen_one_by_one(visit: Open, pictures: Path):
    page = visit("/train", expected="status of 4")
    dot = [*(pictures / "3.png").read_bytes()]
    drop = """(bytes) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "one.png", { type: "image/png" }));
        document.querySelector("h1").dispatchEvent(
            new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
    }"""
    page.wait_for_selector(".begin")
    page.evaluate(drop, dot)
    expect(page.locator(".check > .hint")).to_contain_text("One picture is not enough")
    expect(page.locator("#data")).to_have_value("pictures")
    chooser = page.locator("input[multiple]:not([webkitdirectory])")
    chooser.set_input_files(pictures / "IMG_1.HEIC")
    expect(page.get_by_role("alert")).to_contain_text("no pictures are among these files")
    expect(page.get_by_role("alert")).to_contain_text("Save photos from a phone as JPEG")
    chooser.set_input_files([pictures / "1.png", pictures / "2.png"])
    expect(page.locator(".check > .hint")).to_contain_text("2 pictures are few")
    page.get_by_role("button", name="Delete this archive").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Delete it").click()
    expect(page.locator("#data")).not_to_have_value(re.compile("pictures-"))
    expect(page.locator(".begin .paint")).to_be_enabled()


def test_a_training_that_was_stopped_before_its_first_step_cannot_be_resumed(visit: Open):
    id = "0" * 20
    run = {"id": id, "name": "runs/early", "state": "stopped", "steps": 0, "step": 0, "own": True}
    run |= {"model": "", "source": "", "said": "", "remarks": [], "command": "limner train"}
    page = visit("/train")
    expect(page.locator("#data option[value=scenes]")).to_contain_text("emoji")
    page.route(f"**/api/v1/trainings/{id}", lambda route: route.fulfill(json=run))
    page.goto(f"{page.url}/{id}")
    expect(page.get_by_text("there is nothing to resume")).to_be_visible()
    expect(page.get_by_role("button", name="Delete this training")).to_be_visible()
    expect(page.get_by_role("button", name="Resume")).to_have_count(0)


def test_an_archive_of_the_page_is_valid(visit: Open, tmp_path: Path):
    page = visit()
    content = page.evaluate(
        """async () => {
            const { makeArchive } = await import("/page/zip.js");
            const files = [["ü/a.txt", new File(["hello"], "a")], ["b", new File([], "b")]];
            const blob = await makeArchive(files);
            return [...new Uint8Array(await blob.arrayBuffer())];
        }"""
    )
    (tmp_path / "made.zip").write_bytes(bytes(content))
    with zipfile.ZipFile(tmp_path / "made.zip") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["ü/a.txt", "b"]
        assert archive.read("ü/a.txt") == b"hello"
