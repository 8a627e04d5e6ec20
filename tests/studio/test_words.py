"""Words for the prompt: completion while typing, and user lists, also with keys only."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect
from test_page import BORROWED

from conftest import Open, Studio, clean
from limner.studio.words import completions, known_words


def test_known_words_are_offered_with_those_of_captions_first():
    words = known_words()
    assert {"apple", "strawberry", "zigzag"} <= {*words} and "##ing" not in words
    assert words.index("grinning") < words.index("government"), "words of captions must come first"
    assert completions("APP", 1) == ["apple"]
    assert completions("apple", 3) and "apple" not in completions("apple", 3)
    assert completions("qqqq", 3) == [] == completions("__zz", 3)


@pytest.fixture
def lists(studio: Studio) -> Iterator[Studio]:
    yield studio
    for each in studio.client.get("/api/v1/wildcards").json()["lists"]:
        if each["own"]:
            studio.client.delete(f"/api/v1/wildcards/{each['name']}")


def test_user_lists_are_files_that_the_command_line_reads(lists: Studio):
    put = lists.client.put("/api/v1/wildcards/sky-kind", json={"words": ["storm", " a {b|b} "]})
    assert put.status_code == 200, put.text
    file = lists.folder / "wildcards" / "sky-kind.txt"
    assert file.read_text() == "storm\na {b|b}\n"
    prompts = {lists.submit(prompt="__sky-kind__", seed=s)["params"]["prompt"] for s in range(9)}
    assert prompts == {"storm", "a b"}
    assert lists.client.get("/api/v1/words?start=__sk").json() == {"words": ["__sky-kind__"]}
    invalid = (["x\ny"], ["x\x85y"], ["x\u2028y"], ["x\0y"], [""], [" "], ["# x"], [])
    for name, words in (("Up", ["x"]), *(("a", each) for each in invalid)):
        response = lists.client.put(f"/api/v1/wildcards/{name}", json={"words": words})
        assert response.status_code == 422, (name, words)
    assert lists.client.put("/api/v1/wildcards/colour", json={"words": ["x"]}).status_code == 200
    remaining = lists.client.delete("/api/v1/wildcards/colour").json()["lists"]
    (colour,) = [each for each in remaining if each["name"] == "colour"]
    assert not colour["own"] and "red" in colour["words"], "limner's list must be restored"
    refused = lists.client.delete("/api/v1/wildcards/colour")
    assert refused.status_code == 409 and "comes with limner" in refused.json()["message"]
    assert lists.client.delete("/api/v1/wildcards/nothing").status_code == 404


def test_completions_do_not_block_other_input(visit: Open):
    page = visit()
    field, keys = page.locator("#prompt"), page.keyboard
    options = page.locator(".completions [role=option]")
    field.focus()
    keys.type("a strawb")
    expect(options).to_have_text(["strawberry"])
    clean(page)
    keys.press("ArrowDown")
    expect(options.first).to_have_attribute("aria-selected", "true")
    assert field.get_attribute("aria-activedescendant") == "completion-0"
    keys.press("Enter")
    expect(field).to_have_value("a strawberry")
    expect(options).to_have_count(0)
    keys.press("Control+z")
    expect(field).to_have_value("a strawb")
    keys.press("End")
    keys.type("e")
    expect(options).to_have_count(1)
    keys.press("Escape")
    expect(options).to_have_count(0)
    expect(field).to_be_focused()
    keys.type("rry gra")
    expect(options.first).to_be_visible()
    keys.press("Tab")
    expect(field).not_to_be_focused()
    expect(field).to_have_value("a strawberry gra")
    field.press("End")
    keys.type("p")
    expect(options.first).to_be_visible()
    keys.press("Enter")
    expect(field).to_have_value("a strawberry grap\n")
    field.fill("__ani")
    expect(options).to_have_text(["__animal__"])
    options.first.click()
    expect(field).to_have_value("__animal__")


def test_on_a_phone_completions_cover_no_controls(visit: Open):
    page = visit(viewport={"width": 390, "height": 740}, is_mobile=True, has_touch=True)
    options = page.locator(".completions [role=option]")
    page.locator("#prompt").tap()
    page.keyboard.type("a gra")
    expect(options.first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.get_by_text("Weights of words").tap()
    expect(page.get_by_label("How much gra counts")).to_be_visible()
    expect(options).to_have_count(0)
    page.fill("#prompt", "a strawb")
    options.first.tap()
    expect(page.locator("#prompt")).to_have_value("a strawberry")


def test_a_list_is_created_used_and_deleted_in_the_page(visit: Open, lists: Studio):
    page = visit(viewport={"width": 375, "height": 740})
    page.get_by_text("Lists of words").click()
    page.fill("#wildcard-name", "Mood")
    page.fill("#wildcard-words", "calm\n\n# a remark\nwild")
    page.locator("#wildcard-name").press("Enter")
    expect(page.locator("#wildcard")).to_have_value("mood")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    clean(page)
    page.fill("#prompt", "a sea,")
    page.evaluate(BORROWED)
    keep_seed = page.get_by_label("Keep the seed")
    expect(keep_seed).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Put it into the prompt").press("Enter")
    expect(page.locator("#prompt")).to_have_value("a sea, __mood__")
    expect(keep_seed).to_have_attribute("aria-pressed", "false")
    page.select_option("#count", "2")
    page.locator("#prompt").press("Control+Enter")
    expect(page.locator(".job.done")).to_have_count(2)
    for title in page.locator(".job.done h2").all_inner_texts():
        assert title in ("a sea, calm", "a sea, wild")
    page.get_by_role("button", name="Delete this list").press("Enter")
    expect(page.locator("#wildcard option", has_text="mood")).to_have_count(0)
