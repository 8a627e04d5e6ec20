"""Picture size and steps that fit into a time budget, from given training speeds."""

from pathlib import Path

import pytest

from limner.commands.train import _seconds, train_command
from limner.contract.errors import LimnerError
from limner.training import budget
from limner.training import run as runs
from limner.training.estimate import CostEstimate
from limner.training.recipe import Recipe


@pytest.fixture
def estimated_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """Return the sizes that were estimated. The stub trains 1,000 images of 16 x 16 a second, and a
    quarter of that with twice the side.
    """
    sizes: list[int | None] = []

    def dry_run(recipe: Recipe, device: str) -> CostEstimate:
        size = recipe.data.get("size")
        sizes.append(size)
        if recipe.model["name"] == "stylegan2" and size == 16:
            raise LimnerError("too small")
        options = recipe.options()
        rate = 1000 * (16 / (size or 16)) ** 2
        return CostEstimate({}, 0, 0.0, 0, 0, 0, 0, 0, rate, options.steps * options.batch)

    monkeypatch.setattr(budget, "dry_run", dry_run)
    return sizes


@pytest.mark.parametrize(
    ("model", "minutes", "size", "sizes"),
    [
        ("edm", 2, 16, [16]),
        ("edm", 20, 32, [16, 32]),
        ("edm", 600, 128, [16, 32, 64, 128]),
        ("stylegan2", 2, 32, [16, 32]),
    ],
)
def test_the_largest_size_with_enough_training_is_chosen(
    model, minutes, size, sizes, estimated_sizes
):
    recipe = budget.fit_steps(Recipe.of(model, "emoji"), minutes * 60)
    assert recipe.data["size"] == size and estimated_sizes == sizes
    rate = 1000 * (16 / size) ** 2
    assert recipe.train["steps"] == int(0.9 * minutes * 60 * rate / recipe.options().batch)


@pytest.mark.parametrize(("minutes", "sheets"), [(0.5, 2), (5, 5), (60, 51)])
def test_a_short_training_logs_and_samples_often(minutes, sheets, estimated_sizes):
    recipe = budget.fit_steps(Recipe.of("edm", "emoji", ["data.size=16"]), 60 * minutes)
    options = recipe.options()
    assert options.steps // options.sample_every == options.steps // options.save_every
    assert -(-options.steps // options.sample_every) in (sheets, sheets + 1)
    assert options.sample_every <= 1000 and options.log_every <= 50
    assert options.steps / options.log_every >= 20
    custom = Recipe.of("edm", "emoji", ["data.size=16", "train.sample_every=7"])
    assert budget.fit_steps(custom, 60 * minutes).train["sample_every"] == 7
    custom = Recipe.of("edm", "emoji", ["data.size=16", "train.sample_every=5000"])
    assert budget.fit_steps(custom, 60 * minutes).train["sample_every"] == 5000


def test_no_larger_size_is_tried_after_one_that_is_too_slow(monkeypatch: pytest.MonkeyPatch):
    """A size may take more than four times as long as one with half its side."""
    rates, sizes = {16: 1000.0, 32: 80.0}, list[int]()

    def dry_run(recipe: Recipe, device: str) -> CostEstimate:
        sizes.append(recipe.data["size"])
        options = recipe.options()
        images = options.steps * options.batch
        return CostEstimate({}, 0, 0.0, 0, 0, 0, 0, 0, rates[recipe.data["size"]], images)

    monkeypatch.setattr(budget, "dry_run", dry_run)
    assert budget.fit_steps(Recipe.of("edm", "emoji"), 600).data["size"] == 16
    assert sizes == [16, 32]


def test_options_of_the_recipe_are_kept(estimated_sizes):
    recipe = budget.fit_steps(Recipe.of("edm", "emoji", ["data.size=64"]), 60)
    assert (recipe.data["size"], estimated_sizes) == (64, [64])
    assert "size" not in budget.fit_steps(Recipe.of("edm", "mnist"), 60).data
    tuned = Recipe.of("edm", "emoji", ["train.init.model=runs/emoji"])
    assert "size" not in budget.fit_steps(tuned, 60).data
    with pytest.raises(LimnerError, match=r"leave train\.steps out"):
        budget.fit_steps(Recipe.of("edm", "emoji", ["train.steps=5"]), 60)
    with pytest.raises(LimnerError, match="not one training step fits"):
        budget.fit_steps(Recipe.of("edm", "emoji", ["data.size=64"]), 0.5)


def test_a_run_restarted_by_torchrun_keeps_its_steps(estimated_sizes, tmp_path, monkeypatch):
    """A second measurement would give another number of steps, and so another recipe."""
    steps, folders, run = list[int](), list[Path](), tmp_path / "run"

    def begin(recipe: Recipe, folder: Path, *_: object) -> Path:
        folder.mkdir()
        recipe.write(folder / "recipe.toml")
        steps.append(recipe.train["steps"])
        return folder

    def go_on(folder: Path, *_: object) -> Path:
        folders.append(folder)
        return folder

    monkeypatch.setattr(runs, "_start_run", begin)
    monkeypatch.setattr(runs, "_continue_run", go_on)
    monkeypatch.setattr("limner.commands.train._report_result", lambda _: None)
    train_command(["edm", "emoji"], run=run, budget="2m")
    monkeypatch.setattr(budget, "_TRAINING_SHARE", 0.5)
    for restarts, changes in ((0, []), (1, ["train.lr=1e-3"])):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(restarts))
        with pytest.raises(LimnerError, match="already holds a run"):
            train_command(["edm", "emoji", *changes], run=run, budget="2m")
    train_command(["edm", "emoji"], run=run, budget="2m")
    assert steps == [1687] and folders == [run]


def test_a_folder_with_a_run_is_refused_before_anything_is_measured(
    estimated_sizes, tmp_path, monkeypatch
):
    Recipe.of("edm", "emoji").effective().write(tmp_path / "recipe.toml")
    with pytest.raises(LimnerError, match="already holds a run; type: limner resume"):
        train_command(["edm", "emoji"], run=tmp_path, budget="2m")
    assert not estimated_sizes
    monkeypatch.setattr("limner.training.estimate.dry_run", lambda *_, **__: "")
    train_command(["edm", "emoji"], run=tmp_path, budget="2m", dry_run=True)
    assert estimated_sizes, "a dry run writes nothing"


def test_lengths_of_time_are_parsed():
    assert [_seconds(t) for t in ("90s", "30m", "1.5h", "2D")] == [90, 1800, 5400, 172800]
    for wrong in ("30", "m", "0m", "-1h", "1h30m"):
        with pytest.raises(LimnerError, match="type for example 30m or 2h"):
            _seconds(wrong)
