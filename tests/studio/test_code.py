"""Code that the page shows for a job: it does the same, also with a token."""

from playwright.sync_api import Page, expect

from conftest import Open

LOAD = """() => {  // the promise is not waited for: a browser may drop it
    Promise.all([import("/page/copy.js"), import("/page/state.js")]).then((parts) => {
        window.parts = parts;
        document.body.dataset.loaded = "both";
    });
}"""
SHOW = """([params, inputs, token]) => {
    const [{ asCommand, asCurl, asPython }, { state }] = window.parts;
    state.limits = { ...state.limits, token };
    const all = { seed: 5, sampler: {}, ...params };
    const asked = { model: "toy", task: "paint", params: all, inputs };
    return [asCommand, asPython, asCurl].map((as) => as(asked, {}, { url: "/api/v1/assets/abc" }));
}"""


def codes(page: Page, *, token: bool = False, inputs: dict | None = None, **params: object):
    """Return the code for the command line, Python and curl."""
    return page.evaluate(SHOW, [params, inputs or {}, token])


def test_shown_code_is_valid_for_the_studio_and_the_command_line(visit: Open):
    page = visit()
    page.evaluate(LOAD)
    expect(page.locator("body[data-loaded]")).to_be_visible()
    url = page.evaluate("location.origin")
    bearer = '-H "Authorization: Bearer $LIMNER_TOKEN"'
    hint = {"hint": "x" * 22}
    command, python, curl = codes(page, prompt="an owl", inputs=hint, token=True)
    assert command.startswith(f"curl -f {bearer} -o hint.png {url}/api/v1/assets/{hint['hint']}\n")
    assert f'Client("{url}", token=os.environ["LIMNER_TOKEN"]).paint("an owl"' in python
    assert compile(python, "shown", "exec") and python.startswith("import os\n")
    assert curl.startswith(f"curl -X POST {url}/api/v1/jobs {bearer} -H 'Content-Type")
    command, python, curl = codes(page, prompt="an owl", inputs=hint)
    assert "TOKEN" not in command + python + curl and "curl -f -o hint.png" in command
    command = codes(page, prompt="--no owl", sampler={"steps": 3})[0]
    assert command == "limner sample -m 'toy' --seed 5 sampler.steps=3 -- '--no owl'"
    for prompt in ("sampler.scale=3", "x=1", "sampler.scale"):
        command = codes(page, prompt=prompt, token=True)[0]
        download = f"curl -f {bearer} -o picture.png {url}/api/v1/assets/abc"
        assert command == f"{download}\nlimner sample --from picture.png"
        assert codes(page, prompt=prompt, inputs=hint)[0] is None
