"""No model ignores a condition of its data silently: it uses it or refuses it."""

from dataclasses import replace
from typing import Any, get_args

import pytest
import torch

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, ImageSpec
from limner.contract.model import GenerativeModel, Part
from limner.contract.noise import Noise
from limner.contract.registry import ModelEntry, models
from limner.contract.text import text_spec
from limner.testing.cases import _smallest, conditions_for, paint, toy_data

OURS = [
    entry
    for entry in models().values()
    if issubclass(entry.model, GenerativeModel) and entry.model.__module__.startswith("limner.")
]
SPEC_FIELDS: dict[Part, dict[str, Any]] = {
    "labels": {"labels": ("one", "two"), "frequencies": (0.5, 0.5)},
    "text": {"text": text_spec(5)},
    "hint": {"hint": ImageSpec(3, 8, 8)},
}
SMALL = {"hint": ImageSpec(3, 4, 4)}  # for models that enlarge
FIELD = {"labels": "label", "text": "text", "hint": "image"}


def spec_with(parts: tuple[Part, ...]) -> ImageSpec:
    """Return the spec of data with exactly these conditions."""
    fields = {name: value for part in parts for name, value in SPEC_FIELDS[part].items()}
    return replace(ImageSpec(3, 8, 8), **fields)


def conditions(spec: ImageSpec, part: Part) -> tuple[Condition, Condition]:
    """Return two conditions that differ in one part only."""
    one, other = (toy_data(spec, first, 1).c for first in (0, 1))
    if part == "labels":
        return replace(one, label=torch.tensor([0])), replace(one, label=torch.tensor([1]))
    return one, replace(one, **{FIELD[part]: getattr(other, FIELD[part])})


def losses(model: Any, c: Condition) -> list[torch.Tensor]:
    """Return the losses of one training step with fixed random numbers."""
    n = 2 * model.batches_per_round
    torch.manual_seed(0)
    batch = Batch(toy_data(model.spec, 0, n).x, c.repeat(n))
    return [turn.loss.detach() for turn in model.turns(batch, 0, Noise.sampling(0, n))]


@pytest.mark.parametrize("entry", OURS, ids=lambda entry: entry.name)
def test_a_condition_of_the_data_matters_or_is_refused(entry: ModelEntry):
    parts = entry.model.takes
    spec = spec_with(parts)
    case, model = _smallest(entry, "conditions", spec)
    if model is None:
        case, model = _smallest(entry, "conditions", replace(spec, **SMALL))
    assert isinstance(model, GenerativeModel), f"it takes no data with {parts}"
    for part in get_args(Part):
        if part not in parts:
            extra = replace(case, spec=replace(case.spec, **SPEC_FIELDS[part]))
            with pytest.raises(LimnerError, match=rf"^{entry.name} models take no \w+.*; .+$"):
                extra.build()
    for i, p in enumerate(model.parameters()):
        p.data += 0.1 * Noise.keyed(0, 0, [i]).normal(p.numel()).view(p.shape)
    for part in parts:
        pair = conditions(case.spec, part)
        one, other = (losses(model.train(), c) for c in pair)
        if torch.equal(torch.stack(one), torch.stack(other)):
            one, other = (paint(model, 1, c) for c in pair)
            assert not torch.equal(one, other), f"it accepts {part}, but nothing depends on it"


def test_likelihoods_and_codes_refuse_conditions_that_the_model_was_trained_without():
    model: Any = models()["vae"].model(ImageSpec(1, 8, 8), latent=2, channels=(4,))
    x, c = toy_data(model.spec, 0, 2).x, Condition(torch.tensor([0, 0]))
    assert len(conditions_for(model, 2)) == 0
    for call in (model.reconstruct, lambda x, c: model.log_prob(x, c, noise=Noise.sampling(0, 2))):
        with pytest.raises(LimnerError, match="trained without labels; leave the label out"):
            call(x, c)
