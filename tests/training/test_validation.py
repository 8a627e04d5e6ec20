"""The held-out loss: the same pictures and noise each time, none of them trained on."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from limner.contract.errors import LimnerError
from limner.contract.registry import entry
from limner.runtime.log import read_log
from limner.training.data_record import DataRecord
from limner.training.options import TrainOptions
from limner.training.recipe import Recipe
from limner.training.run import open_stream, resume, train
from limner.training.validation import HOLDOUT, LOSS, Validation, no_better, with_held_out

CPU = torch.device("cpu")
DATA = {"source": "scenes", "size": 16, "vocabulary": 8, "text": False}


def recipe(**changed: object) -> Recipe:
    values = {"steps": 4, "batch": 4, "log_every": 2, "samples": 0, "validation": 6, "threads": 1}
    model = {"name": "edm", "channels": [8, 16]}
    return Recipe(model, dict(DATA), values | changed)


def test_each_line_of_the_log_has_it_and_a_resumed_run_the_same(tmp_path):
    whole = train(recipe(), tmp_path / "whole", device="cpu").parent
    part = train(recipe(steps=2), tmp_path / "part", device="cpu").parent
    resume(part, ["train.steps=4"], device="cpu")
    lines = [[row[LOSS] for row in read_log(run)] for run in (whole, part)]
    assert len(lines[0]) == 2 and lines[0] == lines[1]
    assert lines[0][0] != lines[0][1]


def test_it_is_the_mean_over_pictures_whatever_the_batch_and_repeats():
    r = recipe()
    model = r.build(open_stream(r).dataset.spec).eval()
    options = [TrainOptions(batch=batch, validation=6) for batch in (6, 4, 6)]
    found = [Validation(DATA, o, model).numbers(model, 3, CPU)[LOSS] for o in options]
    assert found[0] == found[2]
    assert found[1] == pytest.approx(found[0], rel=1e-5)


def test_a_folder_holds_out_a_share_which_the_recipe_of_the_run_says(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(80):
        Image.new("L", (4, 4), i).save(folder / f"{i}.png")
    tiny = dict(entry("pixelcnn").tiny)
    asked = Recipe({"name": "pixelcnn", **tiny}, {"source": f"folder:{folder}"}, recipe().train)
    run = train(replace(asked, train=asked.train | {"validation": 2}), tmp_path / "run").parent
    assert Recipe.read(run / "recipe.toml").data["holdout"] == HOLDOUT
    recorded = DataRecord.read(run)
    assert recorded and 70 < recorded.pictures < 80
    assert read_log(run)[-1][LOSS] is not None
    options = TrainOptions(validation=2)
    for chosen in ({"holdout": 0.2}, {"split": "all"}):
        data = {"source": f"folder:{folder}", **chosen}
        assert with_held_out(data, options) == data
    assert with_held_out(asked.data, TrainOptions()) == asked.data
    assert with_held_out(dict(DATA), options) == DATA


def test_it_says_since_when_the_loss_is_no_better():
    losses = [3.0, 2.0, 1.0] + [1.5] * 45
    rows = [{"step": 50 * (i + 1), LOSS: loss} for i, loss in enumerate(losses)]
    said = {n: remark for n in range(1, 49) if (remark := no_better(rows[:n]))}
    assert list(said) == [13, 23, 43]
    assert "no better since step 150 (1, now 1.5)" in said[13]
    assert no_better([{"step": 1, "loss": 2.0}]) is None


def test_what_has_none_is_refused():
    r = recipe()
    model = r.build(open_stream(r).dataset.spec)
    options = TrainOptions(validation=4)
    with pytest.raises(LimnerError, match="no split that training does not see"):
        Validation({"source": "unpaired:scenes,scenes"}, options, model)
    game = Recipe({"name": "gan"}, dict(DATA), {}).build(model.spec)
    with pytest.raises(LimnerError, match=r"players of a gan model"):
        Validation(DATA, options, game)
    assert Validation(DATA, TrainOptions(), game).numbers(game, 0, CPU) == {}
