"""The contract: eleven promises of every model and toy, and a proof that each check can fail."""

from collections.abc import Callable
from inspect import signature

import pytest
import toys
from broken import BROKEN, Broken
from registered import registered_cases

from limner import testing
from limner.contract import registry
from limner.contract.errors import LimnerError
from limner.contract.likelihood import LikelihoodModel
from limner.contract.registry import ModelEntry, models
from limner.testing import CHECKS, Case, cases, checks_for

CASES = [case for name in models() for case in registered_cases(name)]


ON_ALL_DATA = {
    testing.check_builds,
    testing.check_paints,
    testing.check_turns,
    testing.check_condition,
}
"""Promises that concern all the conditions that come with pictures. Every other promise is tested
where most of a model is at work: on captioned pictures, if the model takes them. The promise about
entropies is also tested on pictures without conditions, because training is longer there."""


def cases_for(check: Callable[[Case], None]) -> pytest.MarkDecorator:
    """Parametrise a test with the models that make a promise, on the data that could break it."""
    matches = [case for case in CASES if check in checks_for(case)]
    if check not in ON_ALL_DATA:
        richest = {
            case.model: case for case in sorted(matches, key=lambda case: bool(case.spec.text))
        }
        grey = [case for case in matches if case.name.endswith("-grey")]
        selection = list(richest.values()) + grey * (check is testing.check_entropy_floor)
        matches = [case for case in matches if case in selection]
    return pytest.mark.parametrize("case", matches, ids=str)


def test_a_protocol_takes_the_options_of_the_likelihood():
    classes = [
        entry.model for entry in models().values() if issubclass(entry.model, LikelihoodModel)
    ]
    for model in classes:
        computed, stated = (
            {name: p.default for name, p in signature(method).parameters.items()}
            for method in (model.log_prob, model.likelihood_protocol)
        )
        for name in ("x", "c", "noise"):
            del computed[name]
        assert computed == stated, model.__name__


@cases_for(testing.check_builds)
def test_1_it_builds_from_spec_and_config(case: Case):
    testing.check_builds(case)


@cases_for(testing.check_paints)
def test_2_samples_are_pictures(case: Case):
    testing.check_paints(case)


@cases_for(testing.check_last_frame)
def test_3_the_last_frame_is_the_sample(case: Case):
    testing.check_last_frame(case)


@cases_for(testing.check_any_batch)
def test_4_a_picture_is_the_same_in_any_batch(case: Case):
    testing.check_any_batch(case)


@cases_for(testing.check_turns)
def test_5_each_turn_trains_only_its_player(case: Case):
    testing.check_turns(case)


@cases_for(testing.check_saves)
def test_6_a_saved_model_loads_as_itself(case: Case):
    testing.check_saves(case)


@cases_for(testing.check_condition)
def test_7_another_condition_changes_the_picture(case: Case):
    testing.check_condition(case)


@cases_for(testing.check_resumes)
def test_8_resuming_equals_not_stopping(case: Case):
    testing.check_resumes(case)


@cases_for(testing.check_accumulates)
def test_9_two_half_batches_equal_one(case: Case):
    testing.check_accumulates(case)


@cases_for(testing.check_moves)
def test_10_copies_devices_and_modes_keep_the_contract(case: Case):
    testing.check_moves(case)


@cases_for(testing.check_entropy_floor)
def test_11_nothing_is_compressed_below_its_entropy(case: Case):
    testing.check_entropy_floor(case)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.model.__name__)
def test_a_broken_model_fails_its_check(broken: Broken, monkeypatch: pytest.MonkeyPatch):
    name = "toy-" + broken.model.__name__.lower()
    paper = models()["toy-dropout"].paper
    entry = ModelEntry(name, "gans", paper, broken.model, models()[broken.model.name].tiny)
    monkeypatch.setitem(registry._entries, name, entry)
    monkeypatch.setattr(broken.model, "name", name)
    case = Case(name, broken.model, broken.spec, cases(entry)[0].config)
    with pytest.raises((AssertionError, LimnerError), match=broken.message):
        broken.check(case)


def test_every_check_can_fail():
    assert set(CHECKS.values()) == {broken.check for broken in BROKEN}
    assert set(CHECKS.values()) == {check for case in CASES for check in checks_for(case)}


def test_check_model_runs_every_check_on_every_kind_of_data():
    lines = testing.check_model("toy-two-step")
    kinds = {line.split(":")[0] for line in lines}
    assert kinds == {"toy-two-step-grey", "toy-two-step-labelled"}
    assert len(lines) == 9 + 10, "nine on grey pictures; on labelled ones also check_condition"


def test_check_model_names_the_promise_that_is_broken(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(toys.TwoStep, "label", lambda self, c, n: 0.0, raising=False)
    monkeypatch.setattr(toys.TwoStep, "velocity", lambda self, x, t, c: x * x.mean())
    with pytest.raises(AssertionError, match=r"toy-two-step-grey, promise \d+\. "):
        testing.check_model("toy-two-step")
