import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limner.contract.errors import LimnerError
from limner.contract.image import (
    Batch,
    Condition,
    ImageSpec,
    TextSpec,
    from_levels,
    from_uint8,
    to_levels,
    to_uint8,
)
from limner.contract.noise import Noise

TEXT = TextSpec(length=4, vocabulary=9, asset="words", sha256="00")
FULL = ImageSpec(
    3,
    8,
    6,
    levels=4,
    labels=("cat", "dog"),
    frequencies=(0.25, 0.75),
    text=TEXT,
    hint=ImageSpec(1, 4, 3),
)


def condition(n: int = 3) -> Condition:
    text = torch.arange(1, 4 * n + 1).view(n, 4)
    image = torch.linspace(-1, 1, n * 8).view(n, 2, 2, 2)
    return Condition(torch.arange(n), text, image, torch.tensor([True, False, True, True][:n]))


@pytest.mark.parametrize("levels", range(2, 257))
def test_levels_go_to_the_unit_range_and_back(levels: int):
    k = torch.arange(levels).view(1, 1, 1, levels)
    x = from_levels(k, levels)
    assert x.dtype == torch.float32
    assert float(x.min()) == -1
    assert float(x.max()) == 1
    assert torch.equal(to_levels(x, levels), k)
    assert torch.equal(x.flip(-1), -x)  # so an inverted picture is on the same levels
    steps = x.flatten().double().diff()
    assert torch.allclose(steps, torch.full_like(steps, 2 / (levels - 1)), atol=1e-6)


def test_every_byte_survives_the_round_trip():
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    x = from_uint8(pixels)
    assert x.dtype == torch.float32
    assert (float(x.min()), float(x.max())) == (-1, 1)
    assert torch.equal(to_uint8(x), pixels)
    assert torch.equal(to_levels(x, 256), pixels.long())
    assert torch.allclose(from_levels(pixels, 256), x, atol=1e-6)


@given(value=st.floats(-1, 1, width=32), levels=st.integers(2, 256))
def test_the_nearest_level_is_at_most_half_a_step_away(value: float, levels: int):
    x = torch.full((1, 1, 1, 1), value)
    assert float((from_levels(to_levels(x, levels), levels) - x).abs()) <= 1 / (levels - 1) + 1e-6


def test_values_outside_are_clamped_and_half_precision_is_accepted():
    x = torch.tensor([-7.0, -1.0, 1.0, 7.0]).view(1, 1, 2, 2)
    assert to_uint8(x).flatten().tolist() == [0, 0, 255, 255]
    assert to_levels(x, 4).flatten().tolist() == [0, 0, 3, 3]
    assert to_uint8(x.half()).flatten().tolist() == [0, 0, 255, 255]
    assert to_uint8(x.double()).dtype == torch.uint8
    assert x.flatten().tolist() == [-7, -1, 1, 7], "the argument is unchanged"


@pytest.mark.parametrize("spec", [FULL, ImageSpec(1, 2, 3), ImageSpec(3, 8, 8, labels=("a",))])
def test_a_spec_goes_through_json(spec: ImageSpec):
    assert ImageSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_a_spec_has_a_shape():
    assert FULL.shape == (3, 8, 6)
    assert FULL.dimensions == 144
    assert FULL.with_size(2, 2).shape == (3, 2, 2)
    assert FULL.with_size(2, 2).labels == FULL.labels
    assert ImageSpec(1, 2, 3).to_json() == {"channels": 1, "height": 2, "width": 3}


ONE_PIXEL = {"channels": 1, "height": 1, "width": 1}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"channels": 0, "height": 1, "width": 1}, "at least one channel"),
        ({"channels": 1, "height": 1, "width": -1}, "at least one channel"),
        ({"channels": 1, "height": 1, "width": 1, "levels": 1}, "between 2 and 256"),
        ({"channels": 1, "height": 1, "width": 1, "levels": 257}, "between 2 and 256"),
        (
            {"channels": 1, "height": 1, "width": 1, "labels": ("a",), "frequencies": (0.5, 0.5)},
            "2 label frequencies for 1 labels",
        ),
        (ONE_PIXEL | {"labels": ("a", "b", "a")}, "the label 'a' comes twice"),
        (ONE_PIXEL | {"labels": ("a", "\udce9")}, "udce9' is not valid UTF-8; rename the class"),
        (ONE_PIXEL | {"labels": ("a", "b"), "frequencies": (0.0, 0.0)}, "must be 0 or more"),
        (ONE_PIXEL | {"labels": ("a", "b"), "frequencies": (1.5, -0.5)}, "must be 0 or more"),
        (ONE_PIXEL | {"labels": ("a", "b"), "frequencies": (1.0, math.nan)}, "must be 0 or more"),
    ],
)
def test_an_impossible_spec_is_refused(values: dict, message: str):
    with pytest.raises(LimnerError, match=message):
        ImageSpec(**values)


def test_labels_are_found_by_name_part_and_number():
    spec = ImageSpec(1, 2, 2, labels=("grinning cat", "cat", "dog", "7"))
    assert spec.label_index("CAT ") == 1
    assert spec.label_index("grin") == 0
    assert spec.label_index("2") == 2
    assert spec.label_index("7") == 3
    with pytest.raises(LimnerError, match="choose one of: grinning cat, cat, dog"):
        spec.label_index("horse")
    with pytest.raises(LimnerError, match="several classes; choose one of: grinning cat, dog"):
        spec.label_index("g")
    with pytest.raises(LimnerError, match="is not a class of this model"):
        spec.label_index("")
    with pytest.raises(LimnerError, match="no classes"):
        ImageSpec(1, 2, 2).label_index("cat")


def test_null_is_unconditional_and_keeps_the_rows():
    c = condition().null()
    assert len(c) == 3
    assert c.label.tolist() == [-1, -1, -1]
    assert not c.text.any()
    assert not c.present.any()
    assert c.image is not None


def test_null_of_an_empty_condition_is_empty():
    assert len(Condition()) == 0
    assert len(Condition().null()) == 0
    assert len(Condition().drop(0.5, Noise.sampling(0, 3))) == 0


def test_a_row_is_null_without_label_text_and_image():
    padded = torch.tensor([[5, 0], [0, 0], [0, 0], [0, 0]])
    image, present = torch.zeros(4, 1, 2, 2), torch.tensor([False, False, True, False])
    c = Condition([-1, 0, -1, -1], padded, image, present)
    assert c.is_null().tolist() == [False, False, False, True]
    assert replace(c, present=None).is_null().tolist() == [False] * 4
    assert Condition(text=padded).is_null().tolist() == [False, True, True, True]


def test_drop_makes_whole_rows_null_at_its_rate():
    n = 20_000
    c = Condition(torch.zeros(n, dtype=torch.int64), torch.ones(n, 2, dtype=torch.int64))
    dropped = c.drop(0.2, Noise.keyed(0, 0, range(n)))
    is_null = dropped.label == -1
    assert torch.equal(is_null, (dropped.text == 0).all(1))
    assert abs(is_null.double().mean() - 0.2) < 4 * (0.16 / n) ** 0.5
    assert c.label.max() == 0, "the argument is unchanged"


def test_drop_at_rates_0_and_1():
    noise = Noise.sampling(0, 3)
    c = condition()
    assert c.drop(0, noise) is c
    assert torch.equal(c.drop(1, noise).label, c.null().label)
    assert torch.equal(c.drop(1, noise).present, c.null().present)


def test_a_row_is_dropped_alone_as_in_any_batch():
    c = Condition(torch.arange(8))
    batch = c.drop(0.5, Noise.sampling(0, 8)).label
    single = [c.rows(slice(i, i + 1)).drop(0.5, Noise.sampling(i, 1)).label for i in range(8)]
    assert torch.equal(batch, torch.cat(single))
    assert 0 < int((batch == -1).sum()) < 8


def test_dropping_keeps_absent_images_absent():
    c = condition().drop(0.0001, Noise.sampling(0, 3))
    assert c.present.tolist() == [True, False, True]


def test_rows_repeat_and_cat_agree():
    c = condition()
    assert c.rows(slice(1, 3)).label.tolist() == [1, 2]
    assert c.rows(torch.tensor([2, 0])).label.tolist() == [2, 0]
    assert c.repeat(2).label.tolist() == [0, 0, 1, 1, 2, 2]
    result = Condition.cat([c.rows(slice(0, 1)), c.rows(slice(1, 3))])
    for part in ("label", "text", "image", "present"):
        assert torch.equal(getattr(result, part), getattr(c, part))


def test_cat_fills_in_presence_and_refuses_different_parts():
    image = torch.zeros(2, 1, 2, 2)
    result = Condition.cat(
        [Condition(image=image), Condition(image=image, present=torch.tensor([False, True]))]
    )
    assert result.present.tolist() == [True, True, False, True]
    with pytest.raises(LimnerError, match="different parts"):
        Condition.cat([Condition(torch.arange(2)), Condition()])
    assert len(Condition.cat([Condition(), Condition()])) == 0


@pytest.mark.usefixtures("unchecked_shapes")
def test_parts_of_different_lengths_are_refused():
    with pytest.raises(LimnerError, match=r"different batch sizes: \[2, 3\]"):
        Condition(label=torch.arange(2), text=torch.zeros(3, 4, dtype=torch.int64))


def test_conditions_and_batches_move_and_slice_whole():
    batch = Batch(torch.zeros(3, 1, 2, 2), condition())
    part = batch.to("cpu").rows(slice(0, 2))
    assert part.x.shape == (2, 1, 2, 2)
    assert len(part.c) == 2
    assert len(Batch(torch.zeros(3, 1, 2, 2), Condition()).rows(slice(0, 2)).c) == 0


def test_lists_and_arrays_of_whole_numbers_are_accepted_in_a_condition():
    expected = Condition(label=torch.tensor([1, 0]), text=torch.tensor([[1, 2], [3, 0]]))
    labels: list[Any] = [[1, 0], (1, 0), np.array([1, 0]), torch.tensor([1, 0], dtype=torch.uint8)]
    for label in labels:
        c = Condition(label=label, text=[[1, 2], [3, 0]])
        for part, target in ((c.label, expected.label), (c.text, expected.text)):
            assert part is not None
            assert target is not None
            assert torch.equal(part, target)
            assert part.dtype == torch.int64
