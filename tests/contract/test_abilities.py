"""Abilities are checked by class, so a model that has one must derive from it."""

import inspect

import pytest

from limner.contract import abilities, codes, editing, upscaling
from limner.contract.model import GenerativeModel
from limner.contract.registry import foreign, models

ABILITIES = [
    ability
    for module in (abilities, codes, editing, upscaling)
    for _, ability in inspect.getmembers(module, inspect.isclass)
    if ability.__module__ == module.__name__ and issubclass(ability, GenerativeModel)
]


def own_abstract(ability: type[GenerativeModel]) -> set[str]:
    return set(ability.__abstractmethods__) - set(GenerativeModel.__abstractmethods__)


@pytest.mark.parametrize("ability", ABILITIES, ids=lambda ability: ability.__name__)
def test_a_model_that_has_the_methods_has_the_ability(ability):
    names = own_abstract(ability)
    assert names, "an ability has at least one abstract method"
    for entry in [*models().values(), *foreign().values()]:
        has_methods = all(hasattr(entry.model, name) for name in names)
        assert issubclass(entry.model, ability) is has_methods, entry.model


def test_every_ability_belongs_to_a_model():
    known = [entry.model for entry in [*models().values(), *foreign().values()]]
    assert len(ABILITIES) >= 8
    for ability in ABILITIES:
        assert any(issubclass(model, ability) for model in known), ability
