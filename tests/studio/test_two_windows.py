"""Several windows of the page in one browser, which share its few connections to the studio."""

from playwright.sync_api import expect

from conftest import Open, Studio, held

HIDE = """() => {
    Object.defineProperty(document, "hidden", { value: true, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""
SHOW = HIDE.replace("true,", "false,", 1)


def test_a_second_window_can_cancel_jobs_that_both_follow(visit: Open, studio: Studio):
    page = visit()
    with held(studio):
        for i in range(4):
            studio.submit(prompt=f"bird {i}", sampler={"steps": 100 + i})
        page.reload()
        expect(page.locator(".job")).to_have_count(4)
        other = page.context.new_page()
        other.goto(page.url)
        expect(other.locator(".job")).to_have_count(4)
        job = other.locator(".job", has_text="bird 3")
        job.get_by_role("button", name="Cancel").click()
        for window in (other, page):
            expect(window.locator(".job", has_text="bird 3")).to_have_count(0)


def test_a_hidden_window_needs_no_lasting_connection_to_follow_its_jobs_and_later_all(
    visit: Open, studio: Studio
):
    page = visit()
    page.evaluate("window.streams = []")
    page.evaluate("""() => {
        const { EventSource } = window;
        window.EventSource = class extends EventSource {
            constructor(path) { super(path); window.streams.push(this); }
        };
    }""")
    closed = "() => streams.map((stream) => stream.readyState === EventSource.CLOSED)"
    with held(studio):
        page.fill("#prompt", "a hidden bird")
        page.locator(".paint").click()
        expect(page.locator(".job")).to_have_count(1)
        assert page.evaluate(closed) == [False]
        page.evaluate(HIDE)
        assert page.evaluate(closed) == [True]
        page.evaluate(SHOW)
        assert page.evaluate(closed) == [True, False]
        page.evaluate(HIDE)
    expect(page.locator(".job.done img")).to_have_count(4)
    studio.painted(prompt="a bird of another window", sampler={"steps": 1})
    with held(studio):
        studio.submit(prompt="a bird in the hand", sampler={"steps": 1})
        page.evaluate(SHOW)
        expect(page.get_by_role("link", name="a bird of another window")).to_be_visible()
        expect(page.locator(".job", has_text="a bird in the hand")).to_be_visible()
