"""The form in a real browser: what is typed into it, wrong or not, and what is said of that."""

from playwright.sync_api import expect

from conftest import Open


def test_a_wrong_number_in_closed_options_is_shown(visit: Open):
    page = visit()
    page.locator("details.more summary").first.click()
    page.locator("#sampler-steps").fill("0")
    page.locator("details.more summary").first.click()
    expect(page.locator("#sampler-steps")).to_be_hidden()
    page.locator(".paint").click()
    expect(page.locator("#sampler-steps")).to_be_focused()
    expect(page.locator(".job")).to_have_count(0)
