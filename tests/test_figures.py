"""What the figures of the documentation say that they count."""

import runpy
from pathlib import Path

import pytest

from limner import GenerativeModel, ImageSpec, build

FIGURES = Path(__file__).parent.parent / "docs" / "figures"


@pytest.mark.parametrize("name", ["flow-matching", "ddpm"])
def test_a_point_of_a_sweep_evaluates_the_network_as_often_as_it_says(name, monkeypatch):
    monkeypatch.syspath_prepend(str(FIGURES))
    script = runpy.run_path(str(FIGURES / "sweeps.py"))
    model = build(name, ImageSpec(1, 4, 4), channels=(4,))
    assert isinstance(model, GenerativeModel)
    rows: list[int] = []
    network = model.get_submodule("network")
    network.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    for sampler in script["COLOURS"]:
        for most in (1, 2, 5, 10):
            point = script["Point"].within(sampler, most)
            model.sample(1, sampler=point.sampler, steps=point.steps)
            assert most - 1 <= point.evaluations <= most
            assert rows == [1] * point.evaluations, (sampler, most)
            rows.clear()
