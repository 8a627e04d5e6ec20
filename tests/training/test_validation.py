"""The held-out loss: the same held-out pictures and noise each time."""

import math
from dataclasses import replace

import pytest
import torch
from PIL import Image
from registered import registered_cases

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, ImageSpec
from limner.contract.model import Learner, Turn
from limner.contract.noise import Noise
from limner.contract.registry import entry, models
from limner.data import Dataset
from limner.runtime.log import read_log
from limner.testing.cases import toy_data
from limner.training import validation
from limner.training.data_record import DataRecord
from limner.training.options import TrainOptions
from limner.training.recipe import Recipe
from limner.training.run import open_stream, resume, train
from limner.training.validation import HOLDOUT, LOSS_COLUMN, Validation, no_better, with_held_out


class Toys(Dataset):
    """A data set of random pictures and conditions of a spec, with its own stream."""

    def __init__(self, spec: ImageSpec) -> None:
        self.spec = spec

    def __len__(self) -> int:
        return 9

    def pixels(self, indices: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def batch(self, first: int, n: int) -> Batch:
        return toy_data(self.spec, first, n)


DATA = {"source": "scenes", "size": 16, "vocabulary": 8, "text": False}


def recipe(**changes: object) -> Recipe:
    values = {"steps": 4, "batch": 4, "log_every": 2, "samples": 0, "validation": 6, "threads": 1}
    model = {"name": "edm", "channels": [8, 16]}
    return Recipe(model, dict(DATA), values | changes)


def test_each_line_of_the_log_has_it_also_in_a_resumed_run(tmp_path):
    whole = train(recipe(), tmp_path / "whole", device="cpu").parent
    part = train(recipe(steps=2), tmp_path / "part", device="cpu").parent
    resume(part, ["train.steps=4"], device="cpu")
    lines = [[row[LOSS_COLUMN] for row in read_log(run)] for run in (whole, part)]
    assert len(lines[0]) == 2 and lines[0] == lines[1]
    assert lines[0][0] != lines[0][1]


def test_it_is_a_mean_over_pictures_independent_of_the_batch():
    r = recipe()
    model = r.build(open_stream(r).dataset.spec).eval()
    options = [TrainOptions(batch=batch, validation=6) for batch in (6, 4, 6)]
    losses = [Validation(DATA, o, model).numbers(model, 3)[LOSS_COLUMN] for o in options]
    assert losses[0] == losses[2]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_a_folder_holds_out_the_share_in_the_runs_recipe(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(80):
        Image.new("L", (4, 4), i).save(folder / f"{i}.png")
    tiny = dict(entry("pixelcnn").tiny)
    r = Recipe({"name": "pixelcnn", **tiny}, {"source": f"folder:{folder}"}, recipe().train)
    run = train(replace(r, train=r.train | {"validation": 2}), tmp_path / "run").parent
    assert Recipe.read(run / "recipe.toml").data["holdout"] == HOLDOUT
    record = DataRecord.read(run)
    assert record and 70 < record.pictures < 80
    assert read_log(run)[-1][LOSS_COLUMN] is not None
    options = TrainOptions(validation=2)
    for choice in ({"holdout": 0.2}, {"split": "all"}):
        data = {"source": f"folder:{folder}", **choice}
        assert with_held_out(data, options) == data
    assert with_held_out(r.data, TrainOptions()) == r.data
    assert with_held_out(dict(DATA), options) == DATA


def test_a_remark_states_since_when_the_loss_has_not_improved():
    losses = [3.0, 2.0, 1.0] + [1.5] * 45
    rows = [{"step": 50 * (i + 1), LOSS_COLUMN: loss} for i, loss in enumerate(losses)]
    remarks = {n: remark for n in range(1, 49) if (remark := no_better(rows[:n]))}
    assert list(remarks) == [13, 23, 43]
    assert "has not improved since step 150 (1, now 1.5)" in remarks[13]
    assert no_better([{"step": 1, "loss": 2.0}]) is None


def test_losses_with_moving_targets_get_no_remark(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("limner.training.session.no_better", lambda rows: "no better")
    for name, has_remark in (("flow-matching", True), ("meanflow", False), ("drifting", False)):
        options = {"steps": 1, "batch": 2, "samples": 0, "threads": 1}
        train(Recipe({"name": name}, dict(DATA), options), tmp_path / name, device="cpu")
        assert ("no better" in capsys.readouterr().err) == has_remark


def test_the_default_number_of_pictures_costs_at_most_3_per_cent():
    r = recipe()
    model = r.build(open_stream(r).dataset.spec)
    usual = TrainOptions(steps=200, batch=64)
    assert Validation(DATA, usual, model).count == 96, "the default must be 3 % of 50 x 64"
    assert Validation(DATA, replace(usual, batch=256), model).count == 128
    for less in ({"steps": 99}, {"batch": 1, "log_every": 20}, {"validation": 0}):
        assert Validation(DATA, replace(usual, **less), model).count == 0, less
    for data in (DATA | {"split": "all"}, DATA | {"size": 32}, {"source": "unpaired:a,b"}):
        assert Validation(data, usual, model).count == 0, data
    gan = Recipe({"name": "gan"}, dict(DATA), {}).build(model.spec)
    assert Validation(DATA, usual, gan).count == 0


def test_a_run_prints_it_by_default(tmp_path):
    run = train(recipe(validation=None, batch=20), tmp_path / "run", device="cpu").parent
    assert all(row[LOSS_COLUMN] > 0 for row in read_log(run))


SINGLE = [name for name in models() if len(registered_cases(name)[0].build().players()) == 1]


@pytest.mark.parametrize("name", SINGLE)
def test_every_model_of_one_player_has_one(name: str, monkeypatch: pytest.MonkeyPatch):
    case = registered_cases(name)[0]
    model = case.ready()
    toys = Toys(case.spec)
    monkeypatch.setattr(validation, "_open_held_out", lambda data: toys)
    monkeypatch.setattr(validation, "Stream", lambda data, seed: toys)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    options = TrainOptions(steps=200, batch=8, log_every=10)
    losses = [Validation(DATA, options, model).numbers(model, 3)[LOSS_COLUMN] for _ in range(2)]
    assert losses[0] == losses[1] and math.isfinite(losses[0])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_models_and_data_without_it_are_refused():
    r = recipe()
    model = r.build(open_stream(r).dataset.spec)
    options = TrainOptions(validation=4)
    with pytest.raises(LimnerError, match="no split that training does not see"):
        Validation({"source": "unpaired:scenes,scenes"}, options, model)
    with pytest.raises(LimnerError, match="not the split 'train', and nothing is held out"):
        Validation(DATA | {"split": "all"}, options, model)
    gan = Recipe({"name": "gan"}, dict(DATA), {}).build(model.spec)
    with pytest.raises(LimnerError, match=r"players of gan models"):
        Validation(DATA, options, gan)
    assert Validation(DATA, TrainOptions(), gan).numbers(gan, 0) == {}


@pytest.mark.parametrize("data", [DATA, {"source": "emoji", "size": 8}])
def test_the_number_of_pictures_is_limited_by_the_split_and_memory(data: dict):
    model = recipe().build(open_stream(recipe()).dataset.spec)
    with pytest.raises(LimnerError, match=r"validation=10001: give at most [\d,]+ of the held-out"):
        Validation(data, TrainOptions(validation=10_001), model)


class Writing(Learner):
    """A model that changes its batch in place."""

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(()))

    def turns(self, batch: Batch, step: int, noise: Noise):
        batch.x.mul_(0.5)
        yield Turn((batch.x - self.w).square().mean())


def test_turns_that_change_the_batch_do_not_change_later_losses():
    model = Writing(ImageSpec(3, 16, 16))
    options = TrainOptions(batch=4, validation=6)
    held_out = Validation(DATA, options, model)
    assert held_out.numbers(model, 1) == held_out.numbers(model, 2)
