"""Every view has a title, a heading that has the focus, and names for screen readers."""

import json
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import expect

from conftest import Open, Studio, clean, held, png, redraw, write_run

TITLE = "limner studio"


@pytest.fixture(scope="module")
def picture(shared_studio: Studio) -> dict[str, object]:
    request = {"model": "runs/words", "seed": 1, "sampler": {"steps": 1}}
    return shared_studio.painted(prompt="a blue owl", **request)["outputs"][0]


def test_titles_and_focus_follow_the_view(visit: Open, studio: Studio, picture: dict[str, object]):
    page = visit()
    heading, keys = page.locator("main h1"), page.keyboard
    assert page.title() == TITLE
    expect(heading).not_to_be_focused()
    for link, title in (("Train", "Train a model of your own"), ("Reports", "Reports")):
        page.get_by_role("link", name=link, exact=True).press("Enter")
        expect(heading).to_have_text(title)
        expect(heading).to_be_focused()
        expect(page).to_have_title(f"{title} · {TITLE}")
        clean(page)
    keys.press("Escape")
    expect(heading).to_have_text("The studio")
    expect(heading).to_be_focused()
    expect(page).to_have_title(TITLE)
    tile = page.get_by_role("link", name="a blue owl").first
    tile.press("Enter")
    expect(page).to_have_title(f"a blue owl · {TITLE}")
    expect(heading).to_be_focused()
    keys.press("Tab")
    expect(page.get_by_role("button", name="Use settings")).to_be_focused()
    page.get_by_role("link", name="Change words").press("Enter")
    page.wait_for_url("**/edit/*")
    expect(page.locator(".spoken button")).to_have_count(3)
    expect(heading).to_be_focused()
    page.go_back()
    expect(page.get_by_role("button", name="Use settings")).to_be_visible()
    expect(heading).to_be_focused()


def write_comparison(folder: Path) -> None:
    (folder / "two").mkdir()
    comparison = {"against": {"name": "pets"}, "date": "2026-11-25", "n": 64}
    subjects = [{"name": "runs/one"}, {"name": "runs/other"}]
    (folder / "two" / "comparison.json").write_text(json.dumps(comparison | {"subjects": subjects}))
    (folder / "two" / "index.html").write_text("<title>Two</title><p>compared</p>")


def test_every_view_fits_a_phone_and_is_accessible_in_dark_mode(
    visit: Open, studio: Studio, picture: dict[str, object]
):
    run = studio.folder / "runs" / "learned"
    write_run(run)
    write_comparison(studio.folder)
    client = studio.client
    trainings = client.get("/api/v1/trainings").json()["trainings"]
    (training,) = (each["id"] for each in trainings if each["name"] == "runs/learned")
    comparisons = client.get("/api/v1/reports").json()["comparisons"]
    (comparison,) = (each["id"] for each in comparisons if each["folder"] == "two")
    cells = [{"x": x, "names": [f"seed {x}"]} for x in range(3)]
    for cell in cells:
        studio.painted(board="on-a-phone", cell=cell, seed=cell["x"], prompt="an owl")
    error = "'postMessage' on 'DOMWindow'"  # axe may send messages to a comparison that is loading
    phone = {"viewport": {"width": 390, "height": 740}, "is_mobile": True}
    page = visit(expected=error, color_scheme="dark", **phone)
    for path, selector in {
        f"/p/{picture['id']}": ".about dl",
        f"/edit/{picture['id']}": ".tree a",
        "/grid/on-a-phone": "td img",
        "/reports": "a.sheet-of",
        f"/reports/{comparison}": "iframe",
        "/train": ".check pre",
        f"/train/{training}": ".curve + .curve",
    }.items():
        page.evaluate("path => void import('/page/state.js').then(({ go }) => go(path))", path)
        expect(page.locator(selector).first).to_be_visible()
        clean(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
    slider = page.get_by_label("Samples over time")
    slider.press("Home")
    expect(slider).to_have_attribute("aria-valuetext", "after 3 steps")
    expect(page.get_by_label("held-out loss: 2 at step 1, 0.3333 at step 6")).to_be_visible()
    page.close()  # it polls the training
    shutil.rmtree(run)
    shutil.rmtree(studio.folder / "two")


@pytest.mark.parametrize(
    ("path", "title"),
    [
        ("/p/nothing", "There is no such picture"),
        ("/train/" + "0" * 20, "There is no such training"),
        ("/train/nothing", "There is no such training"),
        ("/grid/nothing-here", "There is no such grid"),
        ("/reports/" + "0" * 20, "There is no such comparison"),
    ],
)
def test_unknown_addresses_have_titles(visit: Open, path: str, title: str):
    page = visit(path, expected="404")
    expect(page).to_have_title(f"{title} · {TITLE}")
    expect(page.locator("main h1")).to_have_count(1)
    expect(page.locator(".problem")).to_have_count(0)  # which would say the same again
    clean(page)


def test_an_unknown_training_is_said_once_although_it_is_looked_up_again(visit: Open):
    page = visit("/train/nothing", expected="404")
    page.clock.install()
    page.reload()
    expect(page.locator("main h1")).to_have_text("There is no such training")
    with page.expect_response("**/trainings/nothing"):
        page.clock.fast_forward(5000)
    page.evaluate("new Promise(requestAnimationFrame)")
    expect(page.locator(".problem")).to_have_count(0)


def test_help_texts_are_shown_next_to_options(visit: Open):
    page = visit()
    page.get_by_text("Options", exact=True).click()
    help_text = page.locator("#sampler-scale-help")
    expect(help_text).to_be_hidden()
    assert page.locator("#sampler-scale").get_attribute("aria-describedby") == "sampler-scale-help"
    button = page.get_by_role("button", name="What is this? Scale")
    button.press("Enter")
    expect(help_text).to_have_text("How strong the colours are.")
    expect(button).to_have_attribute("aria-expanded", "true")
    for name in ("Model", "Task", "Prompt", "Pictures", "Seed", "Negative prompt", "Precision"):
        page.get_by_role("button", name=f"What is this? {name}").press("Enter")
    clean(page)
    button.press("Enter")
    expect(help_text).to_be_hidden()
    fields = page.locator(".composer details[open] .field :is(input, select):visible")
    for field in fields.all():
        name = field.get_attribute("id")
        # The stub does not describe these two.
        if name and name not in ("sampler-clip", "sampler-crash"):
            assert field.get_attribute("aria-describedby"), name


def test_a_picture_is_changed_by_the_model_that_painted_it_if_that_can(
    visit: Open, studio: Studio, picture: dict[str, object]
):
    page = visit()
    page.get_by_role("link", name="a blue owl").first.click()
    page.get_by_role("button", name="Change a picture").click()
    expect(page.locator("#model")).to_have_value("runs/words")
    task = page.get_by_role("group", name="Task").get_by_role("button", name="Change a picture")
    expect(task).to_have_attribute("aria-pressed", "true")
    page.select_option("#model", "runs/rows")
    page.goto(page.url + f"p/{picture['id']}")
    page.get_by_role("button", name="Complete a picture").click()  # as only the chosen model can
    expect(page.locator("#model")).to_have_value("runs/rows")


def test_the_form_is_in_sight_after_a_picture_was_put_into_it(
    visit: Open, picture: dict[str, object]
):
    page = visit(f"/p/{picture['id']}", viewport={"width": 390, "height": 600})
    for name in ("Change a picture", "Use settings"):
        page.get_by_role("button", name=name).click()
        expect(page.locator(".composer")).to_be_visible()
        assert page.evaluate("scrollY") == 0
        page.locator(".gallery").scroll_into_view_if_needed()
        page.get_by_role("link", name="a blue owl").first.click()


def test_jobs_do_not_make_the_header_of_a_phone_higher(visit: Open, studio: Studio):
    page = visit(viewport={"width": 375, "height": 740})
    header, jobs = page.locator(".top"), page.locator(".job")
    height = header.evaluate("e => e.offsetHeight")
    with held(studio):
        for n in (1, 2):
            page.locator(".paint").click()
            expect(jobs).to_have_count(n)
        expect(page.get_by_role("button", name="Cancel all")).to_be_visible()
        assert header.evaluate("e => e.offsetHeight") == height


def test_fields_for_words_show_an_example(visit: Open):
    page = visit()
    page.select_option("#model", "runs/words")
    page.get_by_role("button", name="Change words").first.click()
    for name, example in (("replace", "dog=cat"), ("refine", ""), ("weight", "red=2")):
        expect(page.locator(f"#task-{name}")).to_have_attribute("placeholder", example)


def test_the_focus_returns_after_a_dialog(visit: Open, studio: Studio):
    page = visit()
    studio.client.patch("/api/v1/queue", json={"paused": True})
    page.fill("#prompt", "asked")
    page.locator("#prompt").press("Control+Enter")
    page.locator("#prompt").press("Control+Enter")
    expect(page.locator(".job")).to_have_count(2)
    cancel = page.get_by_role("button", name="Cancel all")
    cancel.press("Enter")
    dialog = page.get_by_role("alertdialog")
    expect(dialog.get_by_role("button", name="Keep")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    redraw(page)
    expect(dialog.get_by_role("button", name="Cancel them")).to_be_focused()
    page.keyboard.press("Escape")
    expect(cancel).to_be_focused()
    studio.client.post("/api/v1/queue/clear", json={})
    studio.client.patch("/api/v1/queue", json={"paused": False})
    expect(page.locator(".job")).to_have_count(0)


def test_jobs_and_pictures_without_a_prompt_have_a_name(visit: Open, studio: Studio):
    source = studio.painted(prompt="a grey heron", n=1)["outputs"][0]
    upload = studio.send(png())
    page = visit()
    page.select_option("#model", "runs/negative")
    page.get_by_label("Picture to follow", exact=True).set_input_files(
        {"name": "one.png", "mimeType": "image/png", "buffer": png()}
    )
    page.select_option("#count", "1")
    page.locator(".paint").click()
    expect(page.locator(".job h2")).to_have_text("New picture by runs/negative")
    page.get_by_role("button", name="Dismiss").click()
    page.goto(f"{page.url}p/{source['id']}")
    page.get_by_role("button", name="Reconstruct").click()
    page.locator(".paint", has_text="Reconstruct").click()
    expect(page.locator(".job.done h2")).to_have_text("Reconstruct: a grey heron")
    page.locator(".job.done a").first.click()
    expect(page.locator("main h1")).to_have_text("Reconstruct: a grey heron")
    expect(page).to_have_title(f"Reconstruct: a grey heron · {TITLE}")
    page.goto(page.url.partition("/p/")[0] + f"/p/{upload['id']}")
    expect(page.locator("main h1")).to_have_text("A picture of yours")


def test_an_unknown_address_shows_a_page_that_leads_to_the_studio(visit: Open, studio: Studio):
    page = visit("/nowhere", expected="status of 404")
    expect(page.locator("main h1")).to_have_text("There is no such page")
    expect(page).to_have_title(f"There is no such page · {TITLE}")
    clean(page)
    page.get_by_role("link", name="To the studio").press("Enter")
    expect(page.locator("main h1")).to_have_text("The studio")
    page.goto(page.url + "train/a-run/more")
    expect(page.locator("main h1")).to_have_text("There is no such page")
    assert studio.client.get("/nowhere", headers={"Accept": "text/html"}).status_code == 404
    for path, accept in (("/nowhere", "*/*"), ("/api/v1/nowhere", "text/html")):
        answer = studio.client.get(path, headers={"Accept": accept})
        assert (answer.status_code, answer.json()["code"]) == (404, "http")
