"""Adherence: F1, IoU and PSNR against direct computations, and models that follow hints or not."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import Condition, ImageSpec
from limner.contract.layout import NO_OBJECT, Objects, read_layout
from limner.contract.model import GenerativeModel, Turn
from limner.data import open_data
from limner.data.hints import draw_hint
from limner.data.scenes import ComposedScenes
from limner.data.sprites import object_numbers
from limner.evaluate.evaluation import evaluate
from limner.evaluate.metrics import adherence
from limner.evaluate.metrics.adherence import (
    box_iou,
    foreground_mask,
    line_f1,
    lowres_psnr,
    mask_iou,
)
from limner.evaluate.picture_sets import RealPictures

N = 12


def test_lines_within_1_64_of_the_side_match():
    for size in (32, 64, 128):
        lines = torch.zeros(1, size, size, dtype=torch.bool)
        lines[:, :, 10] = True
        tolerance = max(1, size // 64)
        for shift, expected in ((0, 1.0), (tolerance, 1.0), (tolerance + 1, 0.0)):
            assert line_f1(lines.roll(shift, 2), lines).item() == expected
    half = lines.clone()
    half[:, :64] = False  # precision 1; recall one half plus the tolerance below
    recall = (64 + 2) / 128
    assert line_f1(half, lines).item() == pytest.approx(2 * recall / (1 + recall))
    none = torch.zeros_like(lines)
    assert line_f1(none, none).item() == 1
    assert line_f1(none, lines).item() == line_f1(lines, none).item() == 0


def test_f1_equals_brute_force():
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.rand(2, 1, 20, 20, generator=generator) < 0.05

    def share(lines: Tensor, others: Tensor) -> float:
        matches = [
            any((point - other).abs().max() <= 1 for other in others[0].nonzero())
            for point in lines[0].nonzero()
        ]
        return sum(matches) / len(matches)

    p, r = share(prediction, target), share(target, prediction)
    assert line_f1(prediction, target).item() == pytest.approx(2 * p * r / (p + r))


def test_intersection_over_union():
    a, b = torch.zeros(2, 1, 10, 10, dtype=torch.bool)
    a[:, :6], b[:, 3:] = True, True
    assert mask_iou(a, b).item() == pytest.approx(3 / 10)
    boxes = torch.tensor([[0.0, 0, 4, 4], [2, 2, 6, 6], [5, 0, 6, 1]])
    expected = torch.zeros(3, 3)
    for i, p in enumerate(boxes.int().tolist()):
        for j, q in enumerate(boxes.int().tolist()):
            cells = [{(x, y) for x in range(k[0], k[2]) for y in range(k[1], k[3])} for k in (p, q)]
            expected[i, j] = len(cells[0] & cells[1]) / len(cells[0] | cells[1])
    torch.testing.assert_close(box_iou(boxes, boxes), expected)


def test_decibels_of_a_low_resolution():
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    hint = draw_hint("lowres", x)
    assert lowres_psnr(hint, hint).item() == pytest.approx(60)
    assert lowres_psnr(hint, hint + 0.2).item() == pytest.approx(20, abs=1e-3)  # a tenth of [-1, 1]


def test_standing_out_means_differing_from_both_ends_of_the_row():
    # A vertical gradient, like a sky.
    x = torch.linspace(-1, 1, 16).view(1, 1, 16, 1).expand(1, 3, 16, 16).clone()
    assert not foreground_mask(x).any()
    x[:, 0, 4:9, 5:12] = -1.5
    expected = torch.zeros(1, 16, 16, dtype=torch.bool)
    expected[:, 4:9, 5:12] = True
    assert torch.equal(foreground_mask(x), expected & (x[:, 0] == -1.5) & foreground_mask(x))
    assert foreground_mask(x)[0, 6, 8]


class Follows(GenerativeModel):
    """A model that paints its hint, or a constant picture without one."""

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def turns(self, batch, step, noise):
        yield Turn(self.weight.sum())

    def frames(self, n, c=Condition(), *, noise, preview=True):
        if c.image is None:
            yield -torch.ones(n, *self.spec.shape)
        else:
            yield F.interpolate(c.image, self.spec.shape[1:]).expand(n, *self.spec.shape)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path))


def rows(kind: str, size: int = 32) -> dict[str, float]:
    data = open_data("scenes", size=size, hint=kind, text=False, skills="single", split="test")
    model = Follows(data.spec)
    report = evaluate(model, data, metrics=["adherence"], n=N)
    assert not report.left_out, report.left_out
    assert all(number.n == N for number in report.numbers)
    return {number.row.split(" (")[0]: number.value for number in report.numbers}


def test_painting_the_mask_scores_high_and_the_floor_is_0():
    scores = rows("mask")
    assert scores["subject"] > 0.9  # masks that touch both ends of a row are missed
    assert scores["floor"] == 0
    assert 0.5 < scores["real"] <= 1


def test_painting_the_low_resolution_has_a_high_psnr():
    scores = rows("lowres")
    assert scores["real"] == pytest.approx(60)
    assert scores["subject"] > 45 > 15 > scores["floor"]


@pytest.mark.parametrize("kind", ["edges", "scribble", "line"])
def test_real_pictures_score_1_on_their_own_lines(kind):
    if kind != "line":
        pytest.importorskip("skimage")
    scores = rows(kind)
    assert scores["real"] == 1
    assert scores["floor"] == 0
    assert scores["subject"] > 0.2, (
        "a painted line has an edge on each side, so the score is below 1"
    )


def test_boxes_are_compared_with_the_detectors(monkeypatch: pytest.MonkeyPatch):
    data = open_data("scenes", size=32, hint="boxes", text=False, skills="two", split="test")
    assert isinstance(data, ComposedScenes)
    real = RealPictures(data).first(N)
    known = read_layout(data.truth(real.indices(torch.arange(N))), len(object_numbers()))
    assert bool(((known.kind != NO_OBJECT).sum(1) == 2).all())

    class Exact:
        name = fingerprint = "knows"
        dim, classes, kinds, left_out = 1, ("a",), ("a",), 0

        def __call__(self, images):
            raise NotImplementedError

        def detect(self, images):
            kind = torch.where(known.kind == NO_OBJECT, NO_OBJECT, 0)
            kind[:, : self.left_out] = NO_OBJECT
            return Objects(kind, kind, known.box), torch.ones(kind.shape)

    detector = Exact()
    monkeypatch.setattr(adherence, "open_extractor", lambda *_: detector)
    for left_out, low, high in ((0, 1.0, 1.0), (1, 0.5, 0.55), (2, 0.0, 0.0)):
        detector.left_out = left_out
        detector.fingerprint = f"knows but {left_out}"
        report = evaluate(Follows(data.spec), data, metrics=["adherence"], n=N)
        assert {number.name for number in report.numbers} == {"box IoU"}
        assert low <= report.numbers[0].value <= high


@pytest.mark.parametrize(
    ("options", "message"),
    [({}, "has no hints; give data.hint"), ({"hint": "objects"}, "it supports the hints edges")],
)
def test_it_states_why_it_has_no_value(options, message):
    data = open_data("scenes", size=32, text=False, split="test", **options)
    with pytest.raises(LimnerError, match=message):
        evaluate(Follows(data.spec), data, metrics=["adherence"], n=4)
