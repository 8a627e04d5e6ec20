"""The bundled models: their sizes, their cards, and what they paint."""

from pathlib import Path

import pytest
import torch

from limner.commands.request import SamplingRequest
from limner.contract.bundled import bundled_models, can_paint, find_model, load
from limner.contract.checkpoint import MODEL_FILE, read_header, save_model, sha256
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, ImageSpec
from limner.contract.model import GenerativeModel
from limner.contract.registry import build, models
from limner.evaluate.subject import open_subject

SMALL = [name for name in bundled_models() if name in models()]
"""Bundled examples of a family: each has the name of its registered model."""
OLDER = ("emoji", "emoji-fast")
"""Their headers name the folder of their training; 32 MB are not rewritten to remove it."""


@pytest.mark.parametrize("name", bundled_models())
def test_its_card_states_the_hash_of_its_file(name: str):
    card = (bundled_models()[name] / "README.md").read_text()
    assert f"`{sha256(bundled_models()[name] / MODEL_FILE)}`" in card


@pytest.mark.parametrize("name", [name for name in bundled_models() if name not in OLDER])
def test_its_header_contains_no_absolute_path(name: str):
    init = read_header(bundled_models()[name] / MODEL_FILE).recipe.get("train", {}).get("init", {})
    assert not [run for run in init.values() if Path(run).is_absolute()]


def test_a_card_states_the_base_that_it_was_evaluated_with():
    """If a base is replaced, the models stored without its weights must be evaluated again."""
    for name, folder in bundled_models().items():
        for source in read_header(folder / MODEL_FILE).shared.values():
            base = bundled_models()[source.partition(":")[0]] / MODEL_FILE
            assert f"`{sha256(base)}`" in (folder / "README.md").read_text(), name


@pytest.mark.parametrize("name", [name for name in SMALL if can_paint(bundled_models()[name])])
def test_a_small_model_paints_different_pictures(name: str):
    folder = bundled_models()[name]
    assert read_header(folder / MODEL_FILE).model == name
    model = load(folder)
    assert isinstance(model, GenerativeModel)
    labels = torch.arange(2) if model.spec.labels else None
    few = {"steps": 4} if "steps" in model.sample_schema()["properties"] else {}
    first, second = model.sample(2, Condition(labels), seed=0, **few)
    assert first.isfinite().all() and (first - second).abs().max() > 0.5


def test_small_models_are_small_alone_and_together():
    sizes = [(bundled_models()[name] / MODEL_FILE).stat().st_size for name in SMALL]
    assert max(sizes) <= 1.5e6 and sum(sizes) <= 12e6


def test_an_empty_name_is_not_the_default_model():
    with pytest.raises(LimnerError, match="there is no run, model folder or model file ''"):
        find_model("")
    with pytest.raises(LimnerError, match="setting model='': "):
        SamplingRequest.of({"model": ""})


def test_a_folder_without_a_model_is_answered_with_what_to_type(tmp_path: Path):
    folder = tmp_path / "my pictures"
    folder.mkdir()
    with pytest.raises(LimnerError, match=r"my pictures holds no model; .* run; bundled are: "):
        find_model(str(folder))
    (folder / "recipe.toml").touch()
    with pytest.raises(LimnerError, match=r"without a model yet; .*: limner resume '.*pictures'$"):
        find_model(str(folder))


def test_a_run_in_this_folder_takes_precedence_over_a_bundled_model(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_model("emoji") == bundled_models()["emoji"]
    (tmp_path / "emoji").mkdir()
    assert find_model("emoji") == bundled_models()["emoji"], "a folder without a model"
    save_model(build("gan", ImageSpec(1, 16, 16), channels=16), tmp_path / "emoji")
    assert find_model("emoji") == Path("emoji")
    subject = open_subject("emoji", {}, torch.device("cpu"))
    assert subject.model and subject.model.name == "gan", "evaluation opens the same model"
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "model_index.json").touch()
    assert find_model("vae") == Path("vae"), "a pipeline"
    assert find_model(None) == bundled_models()["emoji"]


def test_an_unknown_model_is_answered_with_painters_and_translators():
    with pytest.raises(LimnerError, match=r"bundled are: .*emoji.*; translators: .*3d-to-flat"):
        find_model("nowhere")
    with pytest.raises(LimnerError, match=r"'3d-to-flut'; did you mean '3d-to-flat'\?$"):
        find_model("3d-to-flut")


def test_a_bundled_model_is_loaded_by_name_unless_this_folder_has_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load("gan").name == "gan"
    save_model(build("vae", ImageSpec(1, 8, 8)), tmp_path / "gan")
    assert load("gan").name == "vae"
    with pytest.raises(LimnerError, match=r"model file 'gloww'; did you mean 'glow'\?$"):
        load("gloww")
