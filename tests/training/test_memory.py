"""Batches that do not fit into memory are refused before training, from a measurement."""

import pytest

from limner.contract.errors import LimnerError
from limner.training import memory
from limner.training.estimate import CostEstimate
from limner.training.recipe import Recipe

MIB = 2**20


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Simulate 1,025 MiB of memory, a model of 24 MiB, 1 MiB per picture: 1,001 pictures fit."""
    batches: list[int] = []

    def dry_run(recipe: Recipe, device: str) -> CostEstimate:
        n = recipe.options().batch
        batches.append(n)
        activations = n // memory.processes.size() * MIB
        return CostEstimate({}, 0, 0.0, 6 * MIB, 6 * MIB, 6 * MIB, 6 * MIB, activations, 1.0, n)

    monkeypatch.setattr(memory, "dry_run", dry_run)
    monkeypatch.setattr(memory, "_memory", lambda device: 1025 * MIB)
    return batches


@pytest.mark.parametrize(("batch", "parts", "fits"), [(1001, 1, True), (1008, 1, False)])
def test_the_largest_batch_that_fits_is_exact(batch: int, parts: int, fits: bool, asked):
    recipe = Recipe.of("edm", "emoji", [f"train.batch={batch}", f"train.micro_batches={parts}"])
    if fits:
        memory.check_memory(recipe, device="cpu")
    else:
        with pytest.raises(
            LimnerError,
            match=r"about 1 GiB .* there are 1; try train.micro_batches=2 or train.batch=512",
        ):
            memory.check_memory(recipe, device="cpu")
    assert asked == [8]


def test_the_advice_for_two_processes_is_a_batch_over_both(asked, monkeypatch):
    monkeypatch.setattr(memory.processes, "size", lambda: 2)
    recipe = Recipe.of("edm", "emoji", ["train.batch=2016"])
    with pytest.raises(
        LimnerError, match=r"1,008 pictures .*micro_batches=2 or train\.batch=1024$"
    ):
        memory.check_memory(recipe, device="cpu")
    memory.check_memory(Recipe.of("edm", "emoji", ["train.batch=2002"]), device="cpu")


def test_a_batch_of_a_million_is_refused_but_its_micro_batches_are_not(asked):
    huge = ["train.batch=1000000"]
    with pytest.raises(
        LimnerError, match=r"1,000,000 pictures .*train\.micro_batches=1000 or train\.batch=512$"
    ):
        memory.check_memory(Recipe.of("edm", "emoji", huge), device="cpu")
    asked.clear()
    memory.check_memory(Recipe.of("edm", "emoji", [*huge, "train.micro_batches=1000"]))
    memory.check_memory(Recipe.of("edm", "emoji"))
    assert not asked
