"""A recipe's section [evaluate]: when a run is evaluated, with what, and which numbers it keeps."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from limner.contract.image import ImageSpec
from limner.contract.registry import build
from limner.evaluate.report import Number
from limner.training import evaluation
from limner.training.evaluation import Evaluations

DATA = {"source": "folder:pictures", "size": 8}


@pytest.mark.parametrize("interval", [0, 7, 12, 40])
def test_it_is_due_when_images_pass_a_multiple_of_the_interval_and_at_the_end(interval: int):
    evaluations = Evaluations({"every": interval}, DATA, {})
    for images in range(12, 200, 12):
        passed = [k for k in range(images - 11, images + 1) if interval and k % interval == 0]
        assert evaluations.due(images, 12, ends=False) == bool(passed)
        assert evaluations.due(images, 12, ends=True) == (interval > 0)


@pytest.mark.usefixtures("unchecked_shapes")
def test_a_run_keeps_the_numbers_of_the_model_under_the_options_of_the_recipe(
    monkeypatch: pytest.MonkeyPatch,
):
    asked: dict[str, Any] = {}

    def evaluate(model: object, against: object, **options: Any) -> SimpleNamespace:
        asked.update(options, against=against)
        kid = Number("kid", "KD", 0.25, 5, extractor="lenet")
        floor = Number("kid", "KD", 0.5, 5, row="floor")
        return SimpleNamespace(numbers=(kid, floor, Number("likelihood", "bits/dim", 3.0, 5)))

    def open_reference(against: object, data: object, subject: Any) -> tuple[object, ...]:
        return against, data, subject.data

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    monkeypatch.setattr(evaluation, "open_reference", open_reference)
    options = {"every": 9, "n": 5, "seed": 3, "metrics": "kid", "extractor": "lenet"}
    options |= {"weights": "lenet.safetensors", "against": "folder:real", "split": "all"}
    model = build("flow-matching", ImageSpec(1, 8, 8), channels=(8, 8))
    evaluations = Evaluations(options, DATA, {"steps": 2})
    numbers = evaluations.numbers(model, torch.device("cpu"))
    assert numbers == {"evaluate.KD (lenet)": 0.25, "evaluate.bits/dim": 3.0}
    assert asked == {
        "against": ("folder:real", {"split": "all"}, DATA),
        "metrics": ["kid"],
        "n": 5,
        "seed": 3,
        "extractor": "lenet",
        "weights": "lenet.safetensors",
        "sampler": {"steps": 2},
        "device": "cpu",
        "quiet": True,
    }
    assert Evaluations({"every": 9}, DATA, {}).reference(model) == (None, {}, DATA)
