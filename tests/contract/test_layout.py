"""Layouts: objects as conditioning images and back; the layouts of scenes are exact."""

import torch

from limner.contract.image import ImageSpec
from limner.contract.layout import (
    COLOURS,
    NO_OBJECT,
    Objects,
    is_layout,
    layout_spec,
    read_layout,
    write_layout,
)
from limner.data import Stream, open_data
from limner.data.recolouring import COLOUR_VALUES as RECOLOURED
from limner.data.scenes import ComposedScenes
from limner.data.sprites import objects

KINDS = 417


def random_objects(b: int, n: int) -> Objects:
    kind = torch.randint(NO_OBJECT, KINDS, (b, n))
    colour = torch.randint(NO_OBJECT, len(COLOURS), (b, n))
    low, high = torch.rand(2, b, n, 2).sort(0)[0]
    return Objects(kind, colour, torch.cat([low, high], 2))


def test_reading_is_the_inverse_of_writing():
    layout = random_objects(50, 8)
    result = read_layout(write_layout(layout, KINDS), KINDS)
    present = layout.kind != NO_OBJECT
    assert torch.equal(result.kind, layout.kind)
    assert torch.equal(result.colour[present], layout.colour[present])
    torch.testing.assert_close(result.box[present], layout.box[present])
    assert (result.colour[~present] == NO_OBJECT).all()


def test_the_first_kind_and_colour_differ_from_none():
    first = Objects(torch.zeros(1, 1).long(), torch.zeros(1, 1).long(), torch.zeros(1, 1, 4))
    empty = first._replace(kind=first.kind + NO_OBJECT)
    assert read_layout(write_layout(first, KINDS), KINDS)[:2] == (first.kind, first.colour)
    assert read_layout(write_layout(empty, KINDS), KINDS).kind.item() == NO_OBJECT
    assert (write_layout(empty, KINDS) == -1).all()
    assert read_layout(write_layout(first, KINDS) + 0.5 / KINDS, KINDS).kind.item() == 0, "rounded"


def test_a_layout_is_distinguished_from_other_conditioning_images():
    spec = layout_spec(["dog", "cat"], 4)
    assert is_layout(spec)
    assert spec.shape == (6, 1, 4)
    assert ImageSpec.from_json(spec.to_json()) == spec
    assert not is_layout(None)
    assert not is_layout(ImageSpec(6, 1, 4))
    assert not is_layout(ImageSpec(3, 8, 8, labels=("dog", "cat")))


def test_the_layouts_of_scenes_contain_their_objects():
    assert [*RECOLOURED] == [*COLOURS]
    data = open_data("scenes", size=32, hint="objects", overlap=0.5)
    assert isinstance(data, ComposedScenes)
    names = [thing.name for thing in objects()]
    assert data.spec.hint == layout_spec(names, 4)
    batch = Stream(data).batch(0, 64)
    assert batch.c.image is not None
    kind, colour, box = read_layout(batch.c.image, len(names))
    for row, index in enumerate(Stream(data).indices(torch.arange(64)).tolist()):
        scene = data.scene(index)
        assert scene is not None
        triples = [
            (names[k], None if c == NO_OBJECT else COLOURS[c], b)
            for k, c, b in zip(kind[row].tolist(), colour[row].tolist(), box[row])
            if k != NO_OBJECT
        ]
        assert [each[:2] for each in triples] == [(t.name, t.colour) for t in scene.things]
        torch.testing.assert_close(
            torch.stack([each[2] for each in triples]), torch.tensor([t.box for t in scene.things])
        )
