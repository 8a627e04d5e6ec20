"""Sharded weights: unsuitable models and optimisers; test_run.py trains with several processes."""

import pytest
import torch
from test_loop import SPEC, ToyDenoiser, images

from limner.contract.errors import LimnerError
from limner.contract.model import Turn
from limner.runtime import processes
from limner.training.loop import Loop
from limner.training.options import TrainOptions
from limner.training.sharding import _Turns, gathered_copy, local_shards, shard_like, whole


def loop(**options: object) -> Loop:
    train_options = TrainOptions(batch=4, parallel="fsdp", **options)
    return Loop(ToyDenoiser(SPEC, width=4), images, train_options)


def test_one_process_has_nothing_to_shard():
    assert loop()._sharding is None
    tensor = torch.ones(3)
    assert shard_like(tensor, tensor) is tensor and local_shards([tensor]) == [tensor]
    assert torch.equal(whole(tensor), tensor) and whole(tensor) is not tensor


@pytest.mark.parametrize("name", ["muon", "soap"])
def test_an_optimiser_that_needs_whole_matrices_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(processes, "size", lambda: 2)
    with pytest.raises(LimnerError, match=f"{name} needs whole matrices.*give train.parallel=ddp"):
        loop(optimizer=name)


def test_a_model_that_changes_its_weights_itself_is_refused():
    model = ToyDenoiser(SPEC, width=4)
    weight = next(model.parameters())

    def game():
        yield Turn(weight.square().sum())
        with torch.no_grad():
            weight.clamp_(-0.01, 0.01)
        yield Turn(weight.square().sum())

    turns, losses = _Turns(model), game()
    first = turns(losses)
    assert first is not None and torch.equal(first.loss, weight.square().sum())
    with pytest.raises(LimnerError, match="changes its weights itself"):
        turns(losses)


def test_a_weight_used_only_by_another_process_has_a_gradient_of_zero(monkeypatch):
    model = ToyDenoiser(SPEC, width=4)
    first, second, *others = model.parameters()
    flags = torch.zeros(2 + len(others))
    flags[:2] = 1
    monkeypatch.setattr(processes, "sum_", lambda used: used.add_(flags))
    turn = _Turns(model)(iter([Turn(first.square().sum())]))
    assert turn is not None
    turn.loss.backward()
    assert first.grad is not None and first.grad.any()
    assert second.grad is not None and not second.grad.any()
    assert [p.grad for p in others] == [None] * len(others)


def test_blocks_used_only_by_another_process_are_refused(monkeypatch: pytest.MonkeyPatch):
    model = ToyDenoiser(SPEC, width=4)
    monkeypatch.setattr(processes, "same", lambda number, device: False)
    turns = _Turns(model, by_blocks=True)
    with pytest.raises(LimnerError, match="uses other blocks on one process than on another"):
        turns(iter([Turn(next(model.parameters()).sum())]))


def test_a_gathered_copy_keeps_shared_weights_shared():
    model = ToyDenoiser(SPEC, width=4)
    model.again = model.net
    copy = gathered_copy(model, "cpu")
    assert len([*copy.parameters()]) == len([*model.parameters()])
    for a, b in zip(copy.parameters(), model.parameters()):
        assert torch.equal(a, b) and a is not b
