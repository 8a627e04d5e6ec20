"""Styles and earlier prompts in a real browser: stored in the browser, shared as a file."""

import json

from playwright.sync_api import expect

from conftest import Open, Studio, clean, reach


def test_a_style_is_made_used_shared_and_deleted(visit: Open, studio: Studio):
    page = visit()
    keys, styles = page.keyboard, page.locator("summary", has_text="Styles and earlier prompts")
    reach(page, page.locator("#prompt"))
    keys.type("an owl")
    reach(page, styles).press("Enter")
    reach(page, page.locator("#style-name"))
    keys.type("night")
    reach(page, page.locator("#style-prompt"))
    keys.type("{prompt} under the stars")
    reach(page, page.get_by_role("button", name="Keep this style")).press("Enter")
    expect(page.locator("#style")).to_have_value("night")
    clean(page)
    page.locator("#prompt").press("Control+Enter")
    expect(page.locator(".job.done h2").first).to_have_text("an owl under the stars")
    expect(page.locator("#prompt")).to_have_value("an owl")
    page.reload()
    reach(page, styles).press("Enter")
    expect(page.locator("#style")).to_have_value("night")
    with page.expect_download() as download:
        reach(page, page.get_by_role("button", name="Save as a file")).press("Enter")
    shared = json.loads(download.value.path().read_text())
    assert shared == [{"name": "night", "prompt": "{prompt} under the stars", "negative": ""}]
    page.get_by_role("button", name="Delete it").press("Enter")
    expect(page.locator("#style option")).to_have_text(["none"])
    imported = [*shared, {"name": "cold", "prompt": "in snow", "negative": "sun"}, {"name": 3}]
    file = {"name": "s.json", "mimeType": "application/json"}
    page.set_input_files("input[accept*=json]", file | {"buffer": json.dumps(imported).encode()})
    expect(page.locator("#style option")).to_have_text(["none", "night", "cold"])
    page.set_input_files("input[accept*=json]", file | {"buffer": b"nonsense"})
    expect(page.get_by_role("alert")).to_contain_text("there are no styles in this file")
    page.select_option("#style", "cold")
    page.fill("#prompt", "a fox")
    page.locator("#prompt").press("Control+Enter")
    expect(page.locator(".job h2").first).to_have_text("a fox in snow")
    page.locator(".gallery .tile").first.hover()
    page.locator(".gallery").get_by_role("button", name="Use its settings").first.click()
    expect(page.locator("#style")).to_have_value("")
    page.select_option("#earlier", "an owl")
    expect(page.locator("#prompt")).to_have_value("an owl")


def test_enter_keeps_a_style_and_a_dollar_sign_is_one(visit: Open):
    page = visit()
    page.fill("#prompt", "for $$5, or $&.")  # no word to complete
    page.get_by_text("Styles and earlier prompts").click()
    page.fill("#style-prompt", "{prompt}, in the rain")
    page.fill("#style-name", "rain")
    page.locator("#style-name").press("Enter")
    expect(page.locator("#style")).to_have_value("rain")
    expect(page.locator(".job")).to_have_count(0)
    page.locator("#prompt").press("Control+Enter")
    expect(page.locator(".job h2").first).to_have_text("for $$5, or $&., in the rain")
