"""A folder that paints in a browser: the pictures equal the model's for the same seeds."""

import contextlib
import errno
import functools
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Page, sync_playwright

import limner
from limner.commands.exports import web
from limner.commands.exports.web import _RUNTIME, _fetch_runtime, write_web
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, ImageSpec, to_uint8
from limner.contract.noise import Noise
from limner.contract.text import Tokenizer, text_spec

TEXT = ImageSpec(3, 8, 16, text=text_spec(8))
GREY = ImageSpec(1, 8, 8, labels=("zero", "one"), frequencies=(0.5, 0.5))
PAGE = files("limner.commands.exports") / "page"
needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="npm fetches the runtime")
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node runs the page's parts")


def perturbed(name, spec, **options):
    torch.manual_seed(2)
    model = limner.build(name, spec, **options).eval()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    return model


def run_node(script: str, folder: Path) -> object:
    """Run a script with the page's modules and return the JSON that it prints."""
    for name in ("noise.js", "words.js"):
        (folder / name).write_text((PAGE / name).read_text())
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "script.js").write_text(script)
    process = subprocess.run(["node", "script.js"], cwd=folder, capture_output=True, text=True)
    assert not process.returncode, process.stderr
    return json.loads(process.stdout)


def test_a_full_disk_leaves_no_folder_behind(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in _RUNTIME:
        (tmp_path / name).touch()
    monkeypatch.setattr("limner.commands.exports.web._parts", lambda *_: ({}, {}))
    monkeypatch.setattr("limner.commands.exports.web.shutil.copyfile", full)
    model, page = perturbed("gan", GREY, channels=8), tmp_path / "page"
    with pytest.raises(LimnerError, match=r"cannot write .*page: No space left on device"):
        write_web(model, {}, page, title="", store="float32", runtime=tmp_path)
    assert not page.exists()


@needs_node
def test_random_numbers_match_the_library(tmp_path):
    results = run_node(
        """import { Noise } from "./noise.js";
        const made = [0, 7, 123456789].map((seed) => {
          const noise = new Noise(seed);
          const wide = noise.uniform(2, "float64");
          return [noise.normal(5), noise.uniform(3), noise.normal(4), wide].map((x) => [...x]);
        });
        console.log(JSON.stringify(made));""",
        tmp_path,
    )
    for seed, numbers in zip((0, 7, 123456789), results):
        noise = Noise.sampling(seed, 1)
        wide = noise.uniform(2, dtype=torch.float64)[0]
        expected = [noise.normal(5)[0], noise.uniform(3)[0], noise.normal(4)[0]]
        for tensor, values in zip(expected, numbers):
            assert torch.allclose(tensor, torch.tensor(values), atol=1e-6)
        assert wide.tolist() == numbers[3]


TEXTS = [
    "a red apple",
    "  A RED,apple!!",
    "two dogs & a cat's hat",
    "café naïve Ångström",
    "unbelievableness 3d 50%",
    "苹果 and 🍎 apples",
    "x" * 120 + " dog",
    "one two three four five six seven eight nine ten",
    "",
    "tab\tnew\nline  ‘quoted’ a_b+c=d $5 ^ ~ `",
]


@needs_node
def test_texts_become_the_same_tokens(tmp_path):
    from limner.contract.text import word_pieces

    tokenizer = {"length": 8, "pieces": word_pieces()}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    ids = run_node(
        """import { readFileSync } from "node:fs";
        import { Words } from "./words.js";
        const read = (name) => JSON.parse(readFileSync(name));
        const words = new Words(read("tokenizer.json"));
        const rows = read("texts.json").map((text) => [...words.read(text).row].map(Number));
        console.log(JSON.stringify(rows));""",
        tmp_path,
    )
    assert ids == Tokenizer(text_spec(8)).encode(TEXTS).tolist()


@needs_node
def test_ignored_parts_of_a_prompt_are_noted(tmp_path):
    from limner.contract.text import word_pieces

    (tmp_path / "tokenizer.json").write_text(json.dumps({"length": 3, "pieces": word_pieces()}))
    notes = run_node(
        """import { readFileSync } from "node:fs";
        import { Words } from "./words.js";
        const words = new Words(JSON.parse(readFileSync("tokenizer.json")));
        const texts = ["a red apple", "a very red apple", "(red:1.4)", "🍎", "__animal__"];
        console.log(JSON.stringify(texts.map((text) => words.read(text).notes)));""",
        tmp_path,
    )
    long, literal = (
        "only the first 3 word pieces count",
        "brackets and __lists__ have no special meaning here",
    )
    assert notes == [[], [long], [long, literal], ["unknown words: 🍎"], [long, literal]]


@pytest.fixture(scope="module")
def runtime(users_cache: Path) -> Path:
    """Return the runtime from the user's cache; npm fetches it the first time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIMNER_CACHE", str(users_cache))
        return _fetch_runtime()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        if chromium is None:
            pytest.skip("there is no Chromium")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(60_000)  # also on a busy machine
        yield page
        browser.close()


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder and yield its address."""
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def paint_in_page(page: Page, folder: Path, **fields: str) -> tuple[torch.Tensor, str]:
    """Paint in the page; return the pixels "h w 4" of the canvas and the message of the page.

    The page may load files only from its own folder."""
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    with served(folder) as address:
        page.goto(address)
        page.wait_for_function("!document.getElementById('paint').disabled")
        for name, value in fields.items():
            if name == "label":
                page.select_option("#label", label=value)
            else:
                page.fill(f"#{name}", value)
        page.click("#paint")
        page.wait_for_function("/done|not work/.test(document.getElementById('state').textContent)")
        status = page.text_content("#state") or ""
        pixels, size = page.evaluate(
            """() => {
              const canvas = document.getElementById('picture');
              const { width, height } = canvas;
              const image = canvas.getContext('2d').getImageData(0, 0, width, height);
              return [[...image.data], [height, width]];
            }"""
        )
    assert all(url.startswith((address, "data:", "blob:")) for url in urls), urls
    return torch.tensor(pixels).view(*size, 4), status


@needs_npm
def test_a_prompt_paints_what_the_model_paints(tmp_path, page, runtime):
    model = perturbed("flow-matching", TEXT, channels=(8, 16))
    options = model.sampler_options({"sampler": "ancestral", "steps": 3, "scale": 2.0})
    files = {"store": "float32", "runtime": runtime}
    folder = write_web(model, options, tmp_path / "web", title="Ours", **files)
    pixels, status = paint_in_page(page, folder, prompt="a red dog 苹", seed="5")
    assert status.startswith("done in") and "unknown words: 苹" in status
    assert page.title() == "Ours" and page.input_value("#seed") == "6"
    c = limner.text_condition(TEXT, "a red dog")
    settings = {"sampler": "ancestral", "steps": 3, "scale": 2.0}
    expected = to_uint8(model.sample(1, c, seed=5, **settings))[0].permute(1, 2, 0)
    assert (pixels[..., :3] - expected.long()).abs().max() <= 1
    assert (pixels[..., 3] == 255).all()
    box = page.locator("#picture").bounding_box()
    assert box and box["width"] == pytest.approx(2 * box["height"], abs=1)
    assert json.loads((folder / "model.json").read_text())["float64"]


@pytest.mark.parametrize(
    ("seed", "valid"), [("", False), ("-1", False), ("1.5", False), ("7", True)]
)
def test_the_browser_refuses_a_seed_that_limner_does_not_have(page, seed, valid):
    page.set_content((PAGE / "index.html").read_text())
    page.fill("#seed", seed)
    assert page.evaluate("document.getElementById('form').checkValidity()") is valid


@needs_npm
def test_a_model_with_one_step_paints_a_class(tmp_path, page, runtime):
    # an adapter that cannot compute, as if ONNX Runtime did not support the graph's data types
    page.add_init_script(
        "Object.defineProperty(navigator, 'gpu', {value: {requestAdapter: async () => ({})}})"
    )
    model = perturbed("gan", GREY, channels=8)
    files = {"store": "float32", "runtime": runtime}
    folder = write_web(model, {}, tmp_path / "web", title="Digits", **files)
    pixels, status = paint_in_page(page, folder, label="one", seed="3")
    assert status.startswith("done in") and "WebAssembly" in status
    assert not json.loads((folder / "model.json").read_text())["float64"]
    assert page.evaluate("document.activeElement.id") == "paint"
    c = Condition(label=torch.tensor([1]))
    expected = to_uint8(model.sample(1, c, seed=3))[0, 0]
    assert (pixels[..., 0] - expected.long()).abs().max() <= 1
    assert torch.equal(pixels[..., 0], pixels[..., 2])


def test_a_page_that_cannot_paint_says_why(tmp_path, page):
    for name in ("index.html", "limner.js", "noise.js", "words.js"):
        (tmp_path / name).write_text((PAGE / name).read_text())
    page.goto((tmp_path / "index.html").as_uri())
    assert "needs a web server" in (page.text_content("#state") or "")
    with served(tmp_path) as address:
        page.goto(address)
        page.get_by_text("the server has no model.json (404)").wait_for()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: perturbed("pixelcnn", GREY, h=4, blocks=1), "pixel by pixel"),
        (
            lambda: perturbed("flow-matching", ImageSpec(3, 8, 8, hint=GREY), channels=(8,)),
            "with an input picture",
        ),
    ],
)
def test_models_that_cannot_paint_in_a_browser_are_refused(tmp_path, model, message):
    painter = model()
    options = painter.sampler_options({})
    with pytest.raises(LimnerError, match=message):
        write_web(painter, options, tmp_path / "web", title="", store="float32")
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "mine.txt").touch()
    with pytest.raises(LimnerError, match="is in use"):
        write_web(painter, options, tmp_path / "web", title="", store="float32")


def test_the_runtime_is_fetched_before_the_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(web.shutil, "which", lambda name: None)
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "cache"))
    with pytest.raises(LimnerError, match="npm, which fetches ONNX Runtime"):
        write_web(perturbed("gan", GREY, channels=8), {}, tmp_path / "web", title="", store="int8")
    assert "converting" not in capsys.readouterr().err


def test_a_folder_without_the_runtime_is_refused_before_the_work(tmp_path):
    model = perturbed("gan", GREY, channels=8)
    with pytest.raises(LimnerError, match=r"has no ort.wasm.min.mjs; give the folder dist"):
        write_web(model, {}, tmp_path / "web", title="", store="int8", runtime=tmp_path)
    assert not (tmp_path / "web").exists()
