"""The bundled judges are as accurate as their model cards state, on held-out pictures."""

import re
from pathlib import Path

import pytest
import torch

from limner.commands.request import SamplingRequest, open_model
from limner.contract.bundled import bundled_models, find_model
from limner.contract.checkpoint import MODEL_FILE, load, read_header, sha256
from limner.contract.errors import LimnerError
from limner.data import open_data
from limner.data.dataset import Dataset
from limner.evaluate.evaluation import evaluate
from limner.evaluate.extractors.choose import JUDGES, open_extractor
from limner.evaluate.extractors.extractor import Extractor
from limner.evaluate.metrics.composition import SKILL_NAMES

LARGEST = 5_000_000  # bytes
LEAST = 0.55  # lowest accuracy of the emoji judge on new concepts


def card(name: str) -> str:
    return (bundled_models()[name] / "README.md").read_text(encoding="utf-8")


def accuracy_of(judge: Extractor, data: Dataset) -> float:
    """Return the share of pictures whose class has the highest score."""
    assert data.labels is not None
    classes = []
    for block in torch.arange(len(data)).split(500):
        logits = judge(data.pixels(block)).logits
        assert logits is not None
        classes.append(logits.argmax(1))
    return float((torch.cat(classes) == data.labels).double().mean())


@pytest.mark.parametrize("name", JUDGES)
def test_the_card_matches_the_file(name: str):
    file: Path = bundled_models()[name] / MODEL_FILE
    assert file.stat().st_size <= LARGEST
    assert f"{file.stat().st_size:,} bytes" in card(name)
    assert f"{load(file).parameter_count():,} parameters" in card(name)
    assert sha256(file) in card(name)
    assert (file.parent / "log.jsonl").is_file()
    steps, batch = (read_header(file).recipe["train"][key] for key in ("steps", "batch"))
    assert f"{steps:,} steps of {batch} images" in card(name)
    assert read_header(file).images_seen == steps * batch


@pytest.mark.parametrize("name", JUDGES)
def test_a_judge_is_refused_as_a_model_to_sample(name: str):
    with pytest.raises(LimnerError, match="does not paint"):
        open_model(SamplingRequest(model=name))
    with pytest.raises(LimnerError, match="no run, model folder or model file 'emojy'") as error:
        find_model("emojy")
    assert name not in str(error.value)


def test_lenet_recognises_digits(mnist: str):
    data = open_data(mnist, split="test")
    assert len(data) == 10_000
    match = re.search(r"10,000 test images \| \*\*([\d.]+) %", card("lenet"))
    assert match
    accuracy = accuracy_of(open_extractor(None, data.spec), data)
    assert accuracy >= 0.994
    assert accuracy == pytest.approx(float(match[1]) / 100, abs=2e-4), (
        "tolerance: two pictures, for other hardware"
    )


@pytest.mark.parametrize("style", ("3d", "flat", "line"))
def test_the_emoji_judge_recognises_groups_of_unseen_emoji(style: str):
    match = re.search(
        rf"\| held-out-concept \| {style} \| (\d+) \| ([\d.]+) %", card("emoji-judge")
    )
    assert match
    data = open_data("emoji", size=32, split="held-out-concept", style=style)
    assert len(data) == int(match[1])
    accuracy = accuracy_of(open_extractor("emoji-judge", data.spec), data)
    assert accuracy >= LEAST, "the accuracy is too low; chance is 1 in 9"
    assert accuracy == pytest.approx(float(match[2]) / 100, abs=0.02), (
        "tolerance: two pictures, for other hardware"
    )


@pytest.mark.parametrize("split", ("test", "held-out"))
def test_the_scene_judge_finds_the_objects_of_real_scenes(
    split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path))
    n = {"test": 400, "held-out": 800}[split]  # few held-out scenes have a single object
    data = open_data("scenes", split=split)
    report = evaluate(data, data, metrics=["composition"], n=n, quiet=True)
    match = re.search(rf"\| {split} \| 128 \| all \|(.*)\|", card("scene-judge"))
    assert match
    shares = dict(zip(SKILL_NAMES.values(), re.findall(r"([\d.]+)%", match[1])))
    for name, share in shares.items():
        number = report.number(name)
        assert number is not None and number.low is not None and number.high is not None
        assert float(share) >= 95
        assert number.low <= float(share) / 100 <= number.high + 0.01, name
    chance = report.number("composition", "shuffled captions")
    assert chance is not None and chance.value < 0.15


def test_the_name_of_a_model_kind_finds_a_bundled_model():
    assert find_model("cascade") == bundled_models()["emoji"]
    with pytest.raises(LimnerError, match=r"no sr3 .*; train one, as limner models sr3 shows"):
        find_model("sr3")
