"""The scripts that draw the figures of the documentation."""

import runpy
from itertools import combinations
from pathlib import Path

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox

from limner import GenerativeModel, ImageSpec, LikelihoodModel, Noise, build
from limner.contract.image import from_levels, to_levels
from limner.contract.registry import entry

FIGURES = Path(__file__).parent.parent / "docs" / "figures"


@pytest.mark.parametrize("name", ["flow-matching", "ddpm"])
def test_a_point_of_a_sweep_has_the_stated_number_of_evaluations(name, monkeypatch):
    monkeypatch.syspath_prepend(str(FIGURES))
    script = runpy.run_path(str(FIGURES / "sweeps.py"))
    model = build(name, ImageSpec(1, 4, 4), channels=(4,))
    assert isinstance(model, GenerativeModel)
    rows: list[int] = []
    network = model.get_submodule("network")
    network.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    for sampler in script["COLOURS"]:
        for limit in (1, 2, 5, 10):
            point = script["Point"].within(sampler, limit)
            model.sample(1, sampler=point.sampler, steps=point.steps)
            assert limit - 1 <= point.evaluations <= limit
            assert rows == [1] * point.evaluations, (sampler, limit)
            rows.clear()


DRAWN = {"pixelcnn": 2, "vae": 2, "gan": 256, "glow": 256, "ddpm": 256}
"""The models in the diagrams, and the number of levels of their pictures."""


def pictures(levels, n=3):
    draw = torch.Generator().manual_seed(0)
    return from_levels(torch.randint(levels, (n, 1, 28, 28), generator=draw), levels)


def do_not_overlap(a, b):
    return Bbox.intersection(a, b) is None


@pytest.mark.parametrize(("name", "levels"), DRAWN.items())
def test_nothing_overlaps_in_a_diagram(name, levels, monkeypatch):
    monkeypatch.syspath_prepend(str(FIGURES))
    script = runpy.run_path(str(FIGURES / "diagrams.py"))
    torch.manual_seed(0)
    model = build(name, ImageSpec(1, 28, 28, levels=levels), **entry(name).tiny).eval()
    figure = script["DIAGRAMS"][entry(name).family](model, pictures(levels)).figure
    assert isinstance(figure.canvas, FigureCanvasAgg)
    renderer = figure.canvas.get_renderer()
    (axis,) = figure.axes
    extents = {artist: artist.get_window_extent(renderer) for artist in axis.texts}
    tiles = [artist.get_window_extent(renderer) for artist in axis.images]
    for (a, at_a), (b, at_b) in combinations(extents.items(), 2):
        assert do_not_overlap(at_a, at_b), (a.get_text(), b.get_text())
    for artist, extent in extents.items():
        assert figure.bbox.fully_containsx(extent.x0) and figure.bbox.fully_containsx(extent.x1)
        assert figure.bbox.fully_containsy(extent.y0) and figure.bbox.fully_containsy(extent.y1)
        assert all(do_not_overlap(extent, tile) for tile in tiles), artist.get_text()
    assert all(do_not_overlap(a, b) for a, b in combinations(tiles, 2))


def test_the_distributions_of_a_diagram_multiply_to_the_likelihood(monkeypatch):
    monkeypatch.syspath_prepend(str(FIGURES))
    script = runpy.run_path(str(FIGURES / "diagrams.py"))
    torch.manual_seed(0)
    model = build("pixelcnn", ImageSpec(1, 28, 28, levels=4), **entry("pixelcnn").tiny).eval()
    assert isinstance(model, LikelihoodModel)
    x = pictures(4, 1)
    p = script["laws"](model, x).gather(-1, to_levels(x, 4)[0, 0, ..., None])
    nats = model.log_prob(x, noise=Noise.sampling(0, 1)).nats
    torch.testing.assert_close(p.log().sum(), nats[0])


def test_the_page_of_results_is_up_to_date_with_the_recipes():
    script = runpy.run_path(str(FIGURES / "results.py"))
    assert script["PAGE"].read_text() == script["page"](), "run python docs/figures/results.py"


def test_minutes_of_a_training_count_only_its_steps(monkeypatch):
    monkeypatch.syspath_prepend(str(FIGURES))
    minutes = runpy.run_path(str(FIGURES / "translation.py"))["minutes"]
    log = [{"images": 600, "images_per_second": 10}, {"images": 600, "evaluate.PSNR": 9.0},
           {"images": 3000, "images_per_second": 20}]  # fmt: skip
    assert minutes(log) == [1, 1, 3]
