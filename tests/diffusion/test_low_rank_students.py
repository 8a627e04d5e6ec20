"""Students that store low-rank changes of their teacher's weights instead of a copy."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from limner.contract.checkpoint import load, save_model
from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec
from limner.contract.noise import Noise
from limner.contract.registry import build
from limner.nn.low_rank import LowRank
from limner.testing.cases import toy_data
from limner.training.options import TrainOptions
from limner.training.validation import Validation

SPEC = ImageSpec(1, 4, 4)
TINY: dict[str, Any] = {"channels": (4,), "attention": 0}
HINT = ImageSpec(1, 4, 4, domain="edges")
OPTIONS: dict[str, dict[str, Any]] = {"reflow": {"substeps": 2}, "dmd2": {"channels": (4,)}}


@pytest.fixture
def teacher():
    model = build("flow-matching", SPEC, **TINY)
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return model.eval()


@pytest.mark.parametrize("name", OPTIONS)
def test_it_starts_as_a_full_student_learns_and_is_saved(name, teacher, tmp_path):
    before = {k: w.clone() for k, w in teacher.state_dict().items()}
    full = build(name, SPEC, teacher=teacher, **OPTIONS[name]).eval()
    model = build(name, SPEC, teacher=teacher, rank=2, **OPTIONS[name]).eval()
    assert torch.equal(model.sample(3, seed=1), full.sample(3, seed=1))
    players = model.train().players()
    assert players.keys() == full.players().keys()
    parameters = [p for player in players.values() for p in player.parameters()]
    adam = torch.optim.SGD(parameters, lr=0.1)
    for turn in model.turns(toy_data(SPEC, 0, 4), 0, Noise.keyed(0, 0, range(4))):
        adam.zero_grad()
        turn.loss.backward()
        assert turn.of is None or any(bool(p.grad.any()) for p in players[turn.of].parameters())
        adam.step()
    pictures = model.eval().sample(3, seed=1)
    assert not torch.equal(pictures, full.sample(3, seed=1))
    assert all(torch.equal(w, before[k]) for k, w in teacher.state_dict().items())
    save_model(model, tmp_path)
    assert torch.equal(load(tmp_path).sample(3, seed=1), pictures)
    names = [k for k in model.state_dict() if not k.startswith(("teacher.", "critic."))]
    assert names and all(".change." in k for k in names)


def test_a_change_starts_at_0_and_its_second_factor_keeps_variances(teacher):
    """Rows of A map numbers of variance 1 to such numbers, for a layer of any width."""
    change = LowRank(torch.nn.Conv2d(40, 5, 3), 64)
    (A,), (B,) = change.A, change.B
    assert A.shape == (64, 40 * 9)
    assert A.square().sum(1).mean().item() == pytest.approx(1, abs=0.05)
    assert not B.any()


def test_low_rank_students_are_refused_as_teacher_or_base(teacher):
    student = build("reflow", SPEC, teacher=teacher, rank=1)
    for name, part in {"reflow": "teacher", "distilled": "teacher", "controlnet": "base"}.items():
        hint = HINT if part == "base" else None
        with pytest.raises(LimnerError, match=r"give one that was trained with model\.rank=0"):
            build(name, replace(SPEC, hint=hint), **{part: student})


@torch.no_grad()
def test_cached_weights_are_discarded_when_a_model_moves():
    network = torch.nn.Linear(3, 2)
    change = LowRank(network, 1).eval()
    assert not change.changed_weights(network)["weight"].is_meta
    change, network = change.to("meta"), network.to("meta")
    assert change.changed_weights(network)["weight"].is_meta


def test_gradients_reach_a_change_whose_weights_are_cached():
    network, x = torch.nn.Linear(3, 2), torch.ones(1, 3)
    change = LowRank(network, 1).eval()
    with torch.no_grad():
        change(network, x)
    change(network, x).sum().backward()
    assert change.B[0].grad is not None and change.B[0].grad.any()


def test_weights_are_not_cached_in_training(teacher):
    """An optimizer changes them without notice."""
    network, change = teacher.network, LowRank(teacher.network, 2).train()
    with torch.no_grad():
        before = change.changed_weights(network)
        for B in change.B:
            B += 0.3
        after = change.changed_weights(network)
    assert all(not torch.equal(W, after[name]) for name, W in before.items())


def test_cached_weights_are_discarded_when_weights_change(teacher):
    """Held-out losses and loaded weights use the current weights."""
    model = build("reflow", SPEC, teacher=teacher, rank=2, substeps=2).eval()
    held_out = Validation({}, TrainOptions(validation=0), model)
    held_out.count, noise = 4, Noise.keyed(0, 0, range(4))
    held_out._batches = [(toy_data(SPEC, 0, 4), noise)]
    before = held_out.numbers(model, 0)
    first = {k: w.clone() for k, w in model.state_dict().items()}
    with torch.no_grad():
        for p in model.players()["student"].parameters():
            p += 0.3
    assert held_out.numbers(model, 0) != before
    model.load_state_dict(first)
    with torch.no_grad():
        (turn,) = model.turns(toy_data(SPEC, 0, 4), 0, Noise.keyed(0, 0, range(4)))
    reloaded = build("reflow", SPEC, teacher=teacher, rank=2, substeps=2).eval()
    reloaded.load_state_dict(first)
    with torch.no_grad():
        (other,) = reloaded.turns(toy_data(SPEC, 0, 4), 0, Noise.keyed(0, 0, range(4)))
    assert torch.equal(turn.loss, other.loss)
