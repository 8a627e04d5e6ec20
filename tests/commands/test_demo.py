"""The demo end to end, shortened: it trains, and its page contains everything it shows."""

import base64
import io
import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

import limner.commands.demo.run
from limner.contract.errors import LimnerError
from limner.training.recipe import Recipe


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "demo"
    small = ["model.channels=16,32", "train.batch=8", "train.warmup=5", "sampler.steps=8"]
    with pytest.MonkeyPatch.context() as patch:
        original = Recipe.read
        patch.setattr(Recipe, "read", lambda path: original(path).with_values(small))
        patch.setattr(limner.commands.demo.run, "_TIMED_STEPS", 3)
        patch.setattr(limner.commands.demo.run, "PROMPTS", ("a red apple", "<b>"))
        patch.setattr(limner.commands.demo.run, "COMPOSITIONS", ("two dogs",))
        patch.setattr(limner.commands.demo.run, "_PICTURES_PER_PROMPT", 1)
        patch.setattr(limner.commands.demo.run, "PICTURES", 2)
        patch.setattr(limner.commands.demo.run, "SCALES", (1.0, 3.0))
        patch.setattr(limner.commands.demo.run, "_TRAINING_SHEETS", 2)
        patch.setattr(limner.commands.demo.run, "_TIME_FACTOR", 1e9)
        return limner.commands.demo.run.run_demo(out, seconds=0.001)


def test_the_page_is_self_contained(page: Path):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!data:|#)', text)
    assert not re.search(r"@import|url\(\s*['\"]?http", text)
    assert "$" not in re.sub(r"<(pre|svg).*?</\1>", "", text, flags=re.DOTALL)


def test_its_pictures_decode_and_show_every_group(page: Path):
    text = page.read_text(encoding="utf-8")
    alternatives = re.findall(r'alt="([^"]+)"', text)
    for group in ("smileys", "animals", "flags", "symbols"):
        assert any(group in alt for alt in alternatives)
    heights = []
    for picture in re.findall(r"data:image/png;base64,([^\"]+)", text):
        with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
            image.load()
            heights.append(image.height)
    count = 9 * (2 + 2 + 3 + 2)  # painted and real, learning, forming, scales
    assert heights == [64 + 2 * 4] * 2 + [128 + 2 * 4] + [16 + 2 * 1] * count


def test_captions_are_the_prompts_as_they_were_typed(page: Path):
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page.read_text(encoding="utf-8"))
    assert captions == ["a red apple", "&lt;b&gt;", "two dogs"]


def test_the_run_next_to_it_can_be_sampled_and_resumed(page: Path):
    run = page.parent / "run"
    assert (run / "model.safetensors").is_file()
    assert json.loads((run / "log.jsonl").read_text().splitlines()[-1])["step"] == 20


def test_it_replaces_an_earlier_demo_but_nothing_else(page: Path, tmp_path: Path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(LimnerError, match="contains other files"):
        limner.commands.demo.run.run_demo(tmp_path, seconds=0.1)
    assert (tmp_path / "letter.txt").read_text() == "dear"
    with pytest.raises(LimnerError, match=r"letter.txt: it is a file, not a folder; give"):
        limner.commands.demo.run.run_demo(tmp_path / "letter.txt", seconds=0.1)
    demo = shutil.copytree(page.parent, tmp_path / "demo")
    assert limner.commands.demo.run._clear_folder(demo) == demo / "run"
    assert not (demo / "run").exists()
