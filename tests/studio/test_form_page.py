"""The form in a real browser: valid and invalid input, and its messages."""

import re

import pytest
from playwright.sync_api import Route, expect

from conftest import Open, Studio, clean, first, png, until
from limner.commands.suited_model import FEW_CANDIDATES


def test_a_wrong_number_in_closed_options_is_shown(visit: Open):
    page = visit()
    page.locator("details.more summary").first.click()
    page.locator("#sampler-steps").fill("0")
    page.locator("details.more summary").first.click()
    expect(page.locator("#sampler-steps")).to_be_hidden()
    page.locator(".paint").click()
    expect(page.locator("#sampler-steps")).to_be_focused()
    page.locator("#prompt").press("Control+Enter")
    expect(page.locator("#sampler-steps")).to_be_focused()
    expect(page.locator(".job")).to_have_count(0)


def test_a_wrong_number_stays_when_the_models_are_loaded_again(visit: Open):
    page = visit()
    page.locator("details.more summary").first.click()
    page.locator("#sampler-steps").fill("0")
    page.locator("#sampler-steps").press("Tab")
    page.evaluate("import('/page/state.js').then(({ loadModels }) => loadModels())")
    page.wait_for_timeout(100)
    expect(page.locator("#sampler-steps")).to_have_value("0")


def test_the_keys_that_paint_take_a_number_that_was_just_typed(visit: Open):
    page = visit()
    page.locator("details.more summary").first.click()
    for field, number in (("#sampler-steps", "3"), ("#seed", "1234")):
        page.locator(field).fill(number)
        with page.expect_request(lambda request: request.method == "POST") as sent:
            page.locator(field).press("Control+Enter")
        expect(page.locator(field)).to_be_focused()
    params = sent.value.post_data_json["params"]
    assert (params["sampler"]["steps"], params["seed"]) == (3, 1234)


def test_keys_that_are_held_down_paint_once(visit: Open):
    page = visit()
    page.keyboard.down("Control")
    for _ in range(4):
        page.keyboard.down("Enter")
    expect(page.locator(".job")).to_have_count(1)
    page.wait_for_timeout(300)
    expect(page.locator(".job")).to_have_count(1)


def test_a_slider_has_the_options_range_and_uploads_are_announced(visit: Open):
    page = visit(expected="ERR_FAILED")
    page.get_by_role("button", name="Change a picture").click()
    feather = page.get_by_role("slider", name="Feather")
    expect(feather).to_have_attribute("max", "64")
    chooser = page.locator("input[type=file]")
    picture = {"name": "red.png", "mimeType": "image/png", "buffer": png(colour="red")}
    waiting: list[Route] = []
    page.route("**/api/v1/assets", lambda route: waiting.append(route))
    chooser.set_input_files(picture)
    expect(page.locator(".drop [role=status]")).to_have_text("Sending the picture …")
    expect(chooser).to_be_disabled()
    first(page, waiting).abort()
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    expect(page.locator(".drop [role=status]")).to_have_count(0)
    expect(chooser).to_be_enabled()


def test_seeds_are_limited_and_prompts_wrap_in_narrow_windows(visit: Open):
    page = visit()
    for text, value in (("1e300", 2**53 - 1), ("-1e300", 1 - 2**53), ("2.6", 3)):
        page.fill("#seed", text)
        page.locator("#seed").press("Tab")
        expect(page.locator("#seed")).to_have_value(str(value))
    page.fill("#prompt", "a red apple on a green table " * 8)
    page.set_viewport_size({"width": 360, "height": 700})
    box = page.locator("#prompt")
    until(lambda: box.evaluate("b => b.scrollHeight - b.clientHeight") < 4)


def test_errors_of_a_grid_are_shown_before_painting(visit: Open):
    page = visit()
    page.locator("details.more summary").last.click()
    status, values = page.locator(".more [role=status]"), page.get_by_label("Values of columns")
    button = page.get_by_role("button", name=re.compile("^Paint (the grid|[0-9]+ pictures)"))
    for axis, invalid, message, valid in (
        ("seed", "0.5-1.5", "A seed is a whole number, not 0.5.", "1-4"),
        ("seed", "1-1000", "A grid has at most 100 pictures.", "1-100"),
        ("seed", "one, two", "A seed is a whole number, not one.", "-2, 2"),
        ("sampler.steps", "1, 2.5", "a whole number from 1 to 4000.", "1, 2"),
        ("sampler.colour", "warm, pink", "cannot be pink; it is one of warm, cool.", "warm, cool"),
        ("sampler.clip", "true, maybe", "cannot be maybe; it is true or false.", "yes, no"),
        ("model", "toy, nosuch", "There is no model nosuch.", "toy, runs/rows"),
    ):
        page.select_option("#axis-0", axis)
        values.fill(invalid)
        expect(status).to_contain_text(message)
        expect(button).to_be_disabled()
        values.fill(valid)
        expect(status).to_have_count(0)
        expect(button).to_be_enabled()
    page.select_option("#model", "runs/animals")
    page.select_option("#axis-0", "label")
    values.fill("2, foo")
    expect(status).to_have_text("The model runs/animals has no class foo.")
    values.fill("2, cat")
    expect(button).to_be_enabled()
    page.select_option("#axis-1", "model")
    page.get_by_label("Values of rows").fill("toy, runs/animals")
    expect(status).to_have_count(0)
    page.select_option("#axis-0", "model")
    values.fill("toy, runs/animals")
    page.select_option("#axis-1", "label")
    page.get_by_label("Values of rows").fill("cat, dog")
    expect(status).to_have_text("The model toy has no class cat.")
    clean(page)


def test_a_grid_stays_after_a_reload_and_enter_paints_it(visit: Open):
    page = visit()
    grid, values = page.locator("details.more summary").last, page.get_by_label("Values of columns")
    page.fill("#prompt", "for $5")
    grid.click()
    page.select_option("#axis-0", "prompt")
    values.fill("$5, $$6")
    page.reload()
    grid.click()
    expect(page.locator("#axis-0")).to_have_value("prompt")
    expect(values).to_have_value("$5, $$6")
    expect(page.get_by_role("button", name="Paint 2 pictures")).to_be_enabled()
    values.press("Enter")
    expect(page.locator(".board td img")).to_have_count(2)
    expect(page.locator(".board td img").last).to_have_attribute("alt", "$$6")
    page.locator(".board td a").last.click()
    expect(page.locator("h1")).to_have_text("for $$6")


def test_text_can_be_dropped_into_a_field(visit: Open):
    drop = """(place) => {
        const dataTransfer = new DataTransfer();
        dataTransfer.setData("text/plain", "an owl");
        const event = new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true });
        return document.querySelector(place).dispatchEvent(event);
    }"""
    page = visit()
    assert page.evaluate(drop, "#prompt"), "the browser inserts it"
    assert not page.evaluate(drop, "h1"), "no browser goes to a link that was dropped"


def test_a_remark_that_names_a_better_model_has_a_button_that_paints_with_it(visit: Open):
    page = visit()
    page.select_option("#model", "emoji")
    page.fill("#prompt", "a red apple and a green car")
    page.locator("#prompt").press("Control+Enter")
    job = page.locator(".job", has_text="scenes-best knows these words")
    expect(job.locator(".hint")).to_contain_text("scenes-best knows these words")
    expect(job.locator(".hint")).not_to_contain_text("-m scenes")
    with page.expect_request(lambda request: request.method == "POST") as sent:
        job.get_by_role("button", name="Paint with scenes-best").dblclick()
    request = sent.value.post_data_json
    assert (request["model"], request["task"]) == ("scenes-best", "paint")
    assert request["params"]["prompt"] == "a red apple and a green car"
    assert request["params"]["sampler"] == FEW_CANDIDATES, (
        "as the command line paints such a prompt"
    )
    expect(job.get_by_role("button", name="Paint with scenes-best")).to_be_disabled()
    expect(page.locator("#model")).to_have_value("scenes-best")
    expect(page.locator(".job")).to_have_count(2)
    page.locator("summary", has_text="Options").click()
    for name, value in FEW_CANDIDATES.items():
        expect(page.locator(f"#sampler-{name}")).to_have_value(str(value))


@pytest.mark.parametrize("button", ["Paint", "Surprise me"])
def test_a_double_click_paints_once(visit: Open, button: str):
    page = visit()
    page.get_by_role("button", name=button, exact=True).dblclick()
    page.get_by_role("button", name=button, exact=True).click()
    expect(page.locator(".job")).to_have_count(2)


def test_a_remark_says_nothing_about_the_command_line(visit: Open):
    page = visit()
    page.select_option("#model", "instruct")
    page.fill("#prompt", "a red apple")
    page.select_option("#count", "1")
    page.locator("#prompt").press("Control+Enter")
    expect(page.locator(".job .hint")).to_have_text("no picture is given to change")


def test_a_remark_on_an_edit_has_no_button_because_the_button_paints(studio: Studio, visit: Open):
    page = visit()
    params = {"prompt": "a red apple and a green car", "n": 1}
    edit = {"model": "emoji", "task": "edit", "params": params}
    edit["inputs"] = {"image": studio.send(png())["id"]}
    page.evaluate("(job) => import('/page/state.js').then((page) => page.submit(job))", edit)
    hint = page.locator(".job .hint", has_text="scenes-best knows these words")
    expect(hint).to_be_visible()
    expect(hint.get_by_role("button")).to_have_count(0)
