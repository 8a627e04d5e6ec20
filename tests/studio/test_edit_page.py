"""Rewording on the page: chips, attention maps, before and after, the tree of edits."""

from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from conftest import Open, Studio, clean, held
from limner.commands.sheets.reword import read_changes
from limner.contract.emphasis import read_emphasis

PROMPTS = [
    "a red dog", "a (red:1.4) dog", "((a)) [b] (c", r"\(a\) [[b]] c]", "(a (b:2) c:0.5)", "a:(b)",
    "(a:1e3)", "(a:)", "(a: 2 ) (b:.5)", ")(", "[(a])", "((((a:9):9):9))", "a\\",
    "(été:1.5) 狗-dog", "(a:3)(b:3)", "", "x (1.5)", r"(\(a:1.2\):2)",
]  # fmt: skip
CHANGES = [
    ("a red dog", ["replace:dog=cat", "refine:with a hat", "weight:red=2"]),
    ("a Dog and dogs", ["replace:dog=two  cats", "replace:dogs=", "weight:CATS=0.5"]),
    ("a (red:1.4) dog", ["replace:red=blue", "cross_steps:0.3"]),
    ("chien été ét", ["replace:ét=hiver", "refine: là "]),
    ("a.b a. c=d", ["replace:a=(d)", "replace:a.=e", "replace:c=d=f"]),
]


def test_prompts_are_parsed_and_changed_as_on_the_command_line(browser: Browser, studio: Studio):
    page = browser.new_page()
    page.goto(f"{studio.client.base_url}/healthz")
    code = """async ([prompts, changes]) => {
        const { emphasis, withWeight, wordsOf } = await import("/page/words.js");
        const { applyChanges } = await import("/page/settings.js");
        const all = (prompt) => wordsOf(prompt).map((_, i) => withWeight(prompt, i, 1.25));
        const read = prompts.map((each) => [emphasis(each), all(each)]);
        return [read, changes.map(([prompt, list]) => applyChanges(prompt, list))];
    }"""
    emphases, results = page.evaluate(code, [PROMPTS, CHANGES])
    for prompt, (result, variants) in zip(PROMPTS, emphases):
        expected = read_emphasis(prompt)
        assert result["text"] == expected.text
        assert result["weights"] == pytest.approx(expected.weights), prompt
        for variant in variants:
            actual = read_emphasis(variant)
            assert actual.text == expected.text, (prompt, variant)
            differing = [a for a, b in zip(expected.weights, actual.weights) if abs(a - b) > 0.005]
            assert 1.25 in [round(w, 2) for w in actual.weights]
            assert len(differing) <= max(len(word) for word in expected.text.split()), variant
    for (prompt, changes), result in zip(CHANGES, results):
        expected = read_changes(prompt, changes)
        gains = {word.lower(): gain for word, gain in expected.gains.items()}
        assert (result["prompt"], result["gains"]) == (expected.prompt, gains)
    page.close()


def of_newest(studio: Studio) -> dict[str, Any]:
    return studio.client.get("/api/v1/history", params={"limit": 1}).json()["pictures"][0]


def test_words_can_be_changed_with_keys_and_every_edit_reopened(visit: Open, studio: Studio):
    request: dict[str, Any] = {"model": "runs/words", "seed": 5, "sampler": {"steps": 2}}
    first = studio.painted(prompt="a red dog", **request)["outputs"][0]
    page = visit(f"/edit/{first['id']}")
    heading = page.get_by_role("heading", level=1)
    expect(heading).to_be_focused()
    page.keyboard.press("Tab")
    chips = page.locator(".spoken button")
    expect(chips).to_have_text(["a", "red", "dog"])
    expect(chips.first).to_be_focused()
    # The attention map is shown.
    page.wait_for_function("() => document.querySelector('.bright')?.complete")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.locator(".bright")).to_be_visible()
    clean(page)
    page.keyboard.press("Tab")
    expect(page.get_by_label("In place of “dog”")).to_be_focused()
    expect(page.locator(".bright")).to_have_count(0)
    page.keyboard.type("cat")
    page.keyboard.press("Enter")
    expect(page.locator(".compare")).to_be_visible()
    expect(heading).to_have_text("a red cat")
    page.get_by_label("Before and after").fill("20")
    assert "80%" in page.locator(".compare .before").evaluate("i => i.style.clipPath")
    page.get_by_role("button", name="red").click()
    page.get_by_label("How much it counts", exact=True).fill("2")
    page.get_by_label("Add words").fill("on grass")
    page.get_by_label("Add words").press("Control+Enter")
    tree = page.locator(".tree a")
    expect(tree).to_have_text(["the original", "dog → cat", "red × 2, + on grass"])
    clean(page)
    chain = ["replace:dog=cat", "weight:red=2", "refine:on grass"]
    second = of_newest(studio)
    assert second["settings"]["changes"] == chain
    red = page.get_by_role("button", name="red")
    expect(red).to_contain_text("× 2")
    page.set_viewport_size({"width": 390, "height": 1400})
    height = page.locator(".frame").bounding_box()
    red.hover()
    red.click()
    expect(page.locator(".bright")).to_be_visible()
    assert page.locator(".frame").bounding_box() == height, "the layout moved under the pointer"
    page.mouse.move(0, 0)
    expect(page.locator(".bright")).to_be_visible()  # the word has the focus
    page.set_viewport_size({"width": 1280, "height": 720})
    tree.first.click()
    expect(heading).to_have_text("a red dog")
    page.get_by_role("button", name="red").click()
    page.get_by_label("Switch it off").check()
    page.get_by_role("button", name="Paint the change").click()
    expect(tree).to_have_text(["the original", "dog → cat", "red × 2, + on grass", "without red"])
    expect(page.locator(".tree [aria-current]")).to_have_text("without red")
    assert of_newest(studio)["settings"]["changes"] == ["weight:red=0"]
    page.goto(page.url.replace("/edit/", "/p/").rsplit("/", 1)[0] + f"/{second['id']}")
    expect(heading).to_have_text("a red cat on grass")
    page.get_by_role("button", name="Use settings").click()
    expect(page.locator(".words .hint")).to_contain_text("replace:dog=cat, weight:red=2")
    clean(page)
    page.locator(".paint").click()
    page.wait_for_selector(".job.done img")
    third = of_newest(studio)
    assert third["id"] != second["id"]
    assert studio.pixels(third).tobytes() == studio.pixels(second).tobytes()
    page.fill("#prompt", "a cow")
    expect(page.locator(".words .hint")).to_have_count(0)


def test_an_edit_that_is_painted_during_a_reload_is_shown_when_it_is_done(
    visit: Open, studio: Studio
):
    request: dict[str, Any] = {"model": "runs/words", "seed": 6, "sampler": {"steps": 2}}
    source = studio.painted(prompt="a red fox", **request)["outputs"][0]
    page = visit(f"/edit/{source['id']}")
    page.get_by_role("button", name="fox").click()
    with held(studio):
        page.get_by_label("In place of “fox”").fill("hen")
        page.get_by_role("button", name="Paint the change").click()
        expect(page.get_by_role("button", name="Painting …")).to_be_visible()
        page.reload()
        expect(page.locator(".tree a")).to_have_text(["the original"])
    expect(page.locator(".tree a")).to_have_text(["the original", "fox → hen"])


def test_sliders_write_and_read_weights_of_words_in_the_prompt(visit: Open):
    page = visit(viewport={"width": 390, "height": 740}, is_mobile=True)
    page.fill("#prompt", "a red apple")
    page.locator("#prompt").press("Escape")  # closes completions, if there are any
    page.get_by_text("Weights of words").click()
    page.get_by_label("How much red counts").fill("1.4")
    expect(page.locator("#prompt")).to_have_value("a (red:1.4) apple")
    page.get_by_label("How much apple counts").fill("0.5")
    expect(page.locator("#prompt")).to_have_value("a (red:1.4) (apple:0.5)")
    page.fill("#prompt", "a __animal__")
    page.get_by_label("How much __animal__ counts").fill("1.5")
    expect(page.locator("#prompt")).to_have_value("a (__animal__:1.5)")
    page.fill("#prompt", "a [red] (apple:2)")
    expect(page.get_by_label("How much apple counts")).to_have_value("2")
    page.get_by_label("How much apple counts").fill("1")
    expect(page.locator("#prompt")).to_have_value("a (red:0.91) apple")
    clean(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
