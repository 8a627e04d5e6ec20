"""Training that begins with the weights of a trained model."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from limner.contract.checkpoint import load
from limner.contract.errors import LimnerError
from limner.training.recipe import Recipe
from limner.training.run import train

SMALL = ["data.size=8", "model.channels=8,16", "train.steps=1", "train.batch=4", "train.samples=0"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "first"
    train(Recipe.of("flow-matching", "emoji", ["data.label=group", "data.text=false", *SMALL]), run)
    return run


def _recipe(model: str, trained: Path, *more: str) -> Recipe:
    own = ["data.text=false", "data.size=8", f"train.init.model={trained}", *more]
    return Recipe.of(model, "emoji", own)


def test_weights_and_options_are_those_of_the_trained_model(trained: Path) -> None:
    first = load(trained)
    model = _recipe("flow-matching", trained, "data.label=group").build(first.spec)
    assert model.config == first.config
    own = model.state_dict()
    assert all(torch.equal(own[name], weight) for name, weight in first.state_dict().items())


def test_other_labels_start_anew_and_are_named(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = load(trained)
    spec = replace(first.spec, labels=tuple("abcdefg"), frequencies=(1 / 7,) * 7)
    own = _recipe("flow-matching", trained).build(spec).state_dict()
    same = {k for k, w in first.state_dict().items() if own[k].shape == w.shape}
    assert 0 < len(own) - len(same) < 4
    assert all(torch.equal(own[name], first.state_dict()[name]) for name in same)
    assert f"{len(own) - len(same)} of {len(own)} tensors" in capsys.readouterr().err


def test_another_model_is_refused(trained: Path) -> None:
    with pytest.raises(LimnerError, match="is of flow-matching and cannot start edm"):
        _recipe("edm", trained).build(load(trained).spec)
    with pytest.raises(LimnerError, match="fewer than half of the weights"):
        recipe = _recipe("flow-matching", trained, "model.channels=12,20")
        recipe.build(load(trained).spec)
