"""The page on another machine, with plain http and no secure context; and unexpected errors."""

import re

import pytest
from playwright.sync_api import expect

from conftest import NAME, Open, Studio, clean


def test_all_of_the_page_works_from_another_machine(visit: Open, studio: Studio):
    page = visit()
    assert not page.evaluate("isSecureContext")
    page.fill("#prompt", "from the sofa")
    page.select_option("#count", "1")
    page.locator(".paint").click()
    page.wait_for_selector(".job.done img")
    page.locator("details.more summary", has_text="Grid").click()
    page.select_option("#axis-0", "seed")
    page.get_by_label("Values of columns").fill("1-2")
    page.get_by_role("button", name="Paint 2 pictures").click()
    expect(page.locator(".board td img")).to_have_count(2)
    page.locator(".board td a").first.click()
    page.get_by_role("button", name="Where it looks").click()
    expect(page.locator(".spoken button")).to_have_count(3)
    page.get_by_role("button", name="Copy the address").click()
    expect(page.locator(".notice")).to_have_text("the address is copied")
    page.get_by_role("button", name="Use settings").click()
    page.locator("#prompt").fill("")
    page.locator("#prompt").press("Control+v")
    expect(page.locator("#prompt")).to_have_value(re.compile(f"http://{NAME}:.*/p/"))


def test_in_a_secure_context_the_browsers_clipboard_is_used(visit: Open):
    page = visit("/reports", name="127.0.0.1")
    assert page.evaluate("isSecureContext")
    page.evaluate("void (navigator.clipboard.writeText = async (text) => { window.kept = text; })")
    page.evaluate(
        "void import('/page/parts.js').then(({ copyText }) => copyText('words', 'it is'))"
    )
    expect(page.locator(".notice")).to_have_text("it is copied")
    assert page.evaluate("window.kept") == "words"


BROKEN = "window.EventSource = class { constructor() { throw new TypeError('out of chance') } }"


def test_an_unexpected_error_is_shown(visit: Open):
    page = visit(expected="out of chance")
    page.evaluate(f"void ({BROKEN})")
    page.locator(".paint").click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("out of chance")
    expect(alert).to_contain_text("reload")
    clean(page)
    page.fill("#prompt", "again")
    expect(alert).to_have_count(0)


def test_a_lost_connection_is_shown_until_it_is_restored(visit: Open, studio: Studio):
    page = visit(expected="ERR_FAILED|ERR_ABORTED")
    page.fill("#prompt", "into the void")
    for path in ("**/api/**", "**/healthz"):
        page.route(path, lambda route: route.abort())
    page.locator(".paint").click()
    notice = page.locator(".lost")
    expect(notice).to_contain_text("The connection to the studio is lost")
    expect(page.get_by_role("alert")).to_contain_text("the studio does not answer")
    clean(page)
    page.unroute_all()
    expect(page.locator(".notice")).to_have_text("the studio answers again")
    expect(notice).to_have_count(0)
    expect(page.get_by_role("alert")).to_have_count(0)
    page.locator(".paint").click()
    page.wait_for_selector('.job.done[aria-label="into the void"] img')


@pytest.mark.parametrize("path", ["/reports", "/p/nothing", "/grid/nothing"])
def test_an_error_is_shown_in_every_view(visit: Open, path: str):
    page = visit(path, expected="out of chance|404")
    page.wait_for_load_state("networkidle")  # the 404 answer is shown first
    page.evaluate("void Promise.reject(new TypeError('out of chance'))")
    expect(page.get_by_role("alert")).to_contain_text("out of chance")
    clean(page)


def test_a_view_opened_while_the_studio_is_down_is_loaded_later(visit: Open):
    page = visit(expected="ERR_FAILED|ERR_ABORTED|Failed to fetch")
    paths = ("**/api/**", "**/healthz", "**/page/**")

    def open_while_away(link: str, title: str) -> None:
        for path in paths:
            page.route(path, lambda route: route.abort())
        page.get_by_role("link", name=link, exact=True).first.click()
        expect(page.locator(".lost")).to_be_visible()
        for path in paths:
            page.unroute(path)
        expect(page.locator("main h1")).to_have_text(title)
        expect(page.get_by_role("alert")).to_have_count(0)

    page.wait_for_function(
        "() => performance.getEntriesByType('resource').some((e) => e.name.endsWith('/train.js'))"
    )  # ahead
    open_while_away("Reports", "Reports")
    open_while_away("Train", "Train a model of your own")
    page.route("**/page/train.js", lambda route: route.abort())
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/train.js")):
        page.goto(page.url.replace("/train", "/reports"))
    page.unroute("**/page/train.js")
    open_while_away("Train", "Train a model of your own")  # the browser has not loaded its module


def test_the_page_works_without_browser_storage(visit: Open):
    page = visit()
    page.evaluate("void (Storage.prototype.setItem = () => { throw new Error('forbidden') })")
    page.fill("#prompt", "not remembered")
    page.locator(".paint").click()
    page.wait_for_selector('.job.done[aria-label="not remembered"] img')


def test_a_view_that_fails_can_be_reset(visit: Open):
    page = visit(expected="reading 'map'|can't be shown|undefined")
    page.evaluate(
        """() => {  // not waited for: the view that breaks may take the promise with it
            import("/page/state.js").then(({ set }) => set({ history: undefined, total: 1 }));
        }"""
    )
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("this view cannot be shown")
    page.get_by_role("button", name="Start with an empty form").click()
    expect(page.get_by_role("heading", name="What shall we paint?")).to_be_visible()
