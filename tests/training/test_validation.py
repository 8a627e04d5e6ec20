"""The held-out loss: the same pictures and noise each time, none of them trained on."""

import pytest
import torch

from limner.contract.errors import LimnerError
from limner.runtime.log import read_log
from limner.training.options import TrainOptions
from limner.training.recipe import Recipe
from limner.training.run import open_stream, resume, train
from limner.training.validation import LOSS, Validation

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
