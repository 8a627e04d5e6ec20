"""CenterNet2: its loss on a known map, its targets, and decoding of the true targets."""

import math

import pytest
import torch
from torch import Tensor, nn

from limner import build
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, ImageSpec
from limner.contract.layout import NO_OBJECT, Objects, layout_spec, read_layout, write_layout
from limner.contract.noise import Noise
from limner.data import open_data
from limner.data.scenes import ComposedScenes
from limner.evaluate.judges.augmentation import coarsen_pictures, tint_pictures
from limner.evaluate.judges.centernet2 import (
    CenterNet2,
    belonging,
    crops,
    decode_box,
    distinct,
    encode_box,
    focal_loss,
    overlaps,
    peaks,
    shake,
    targets,
)

KINDS = ("dog", "cat", "cup")
SPEC = ImageSpec(3, 32, 32, hint=layout_spec(KINDS, 4))
TINY = {"channels": (4, 8, 8, 8), "widths": (4, 8, 8), "hidden": 16}


def detector(spec: ImageSpec = SPEC) -> CenterNet2:
    model = build("centernet2", spec, **TINY)
    assert isinstance(model, CenterNet2)
    return model.eval()


def test_the_focal_loss_equals_the_papers():
    heat = torch.tensor([[[1.0, 0.5], [0.0, 0.25]]])
    logits = torch.tensor([[[0.0, 1.0], [-2.0, 3.0]]])
    p = [1 / (1 + math.exp(-x)) for x in (0.0, 1.0, -2.0, 3.0)]
    expected = (1 - p[0]) ** 2 * math.log(p[0])
    for y, q in zip((0.5, 0.0, 0.25), p[1:]):
        expected += (1 - y) ** 4 * q**2 * math.log(1 - q)
    assert focal_loss(logits, heat).item() == pytest.approx(-expected, rel=1e-5)
    certain = torch.where(heat == 1, 30.0, -30.0)
    assert focal_loss(certain, heat).item() == pytest.approx(0, abs=1e-6)


def test_targets_are_gaussians_at_the_cells_of_centres():
    box = torch.tensor([[[0.25, 0.25, 0.75, 0.5], [0.0, 0.0, 0.1, 0.1], [0.5, 0.5, 1.0, 1.0]]])
    present = torch.tensor([[True, True, False]])
    heat, owner, weight = targets(box, present, 16, 16)
    line, column = 6, 8  # cell of the centre (0.5, 0.375)
    assert (heat == 1).nonzero().tolist() == [[0, 0, 0], [0, line, column]]
    # Sides of 8 x 4 cells give the peak deviations of 1 x 0.5.
    assert heat[0, line, column + 1].item() == pytest.approx(math.exp(-1 / 2))
    assert heat[0, line + 1, column].item() == pytest.approx(math.exp(-1 / (2 * 0.25)))
    assert owner[0, line, column] == 0
    assert owner[0, 0, 0] == 1
    for index in (0, 1):
        assert weight[owner == index].sum().item() == pytest.approx(1, rel=1e-5)
    assert weight[owner == 2].sum() == 0
    assert weight[0, line, column] == weight.flatten()[1:].max()


def test_boxes_are_decoded_from_any_cell():
    low, high = torch.rand(2, 200, 2).sort(0)[0]
    box = torch.cat([low, (high).maximum(low + 0.02)], 1)
    line, column = torch.randint(16, (200,)), torch.randint(8, (200,))
    decoded = decode_box(encode_box(box, line, column, 16, 8), line, column, 16, 8)
    torch.testing.assert_close(decoded, box, rtol=1e-4, atol=1e-5)


def test_a_peak_is_a_maximum_and_overlapping_boxes_are_suppressed():
    heat = torch.zeros(1, 5, 5)
    heat[0, 1, 1], heat[0, 2, 2], heat[0, 4, 4] = 0.9, 0.8, 0.3
    assert peaks(heat).nonzero().tolist() == [[0, 1, 1], [0, 4, 4]]
    box = torch.tensor([[[0.0, 0, 1, 1], [0.0, 0, 1, 0.9], [0.0, 0, 1, 0.5], [0.5, 0, 1, 1]]])
    assert overlaps(box)[0, 0].tolist() == pytest.approx([1, 0.9, 0.5, 0.5])
    assert overlaps(box)[0, 2, 3].item() == pytest.approx(0.25 / 0.75)
    assert distinct(box, torch.tensor([[0.5, 0.6, 0.1, 0.2]])).tolist() == [
        [False, True, True, True]
    ]
    # A suppressed box does not suppress others.
    chain = torch.tensor([[[0.0, 0, 1, 1], [0.0, 0, 1, 0.7], [0.0, 0, 1, 0.45]]])
    assert distinct(chain, torch.tensor([[0.9, 0.8, 0.7]])).tolist() == [[True, False, True]]


class FindsTruth(nn.Module):
    """A first stage whose features are the true targets.

    Args:
        truth: the true objects.
        side: side of a picture in pixels.
    """

    def __init__(self, truth: Objects, side: int) -> None:
        super().__init__()
        self.truth, self.side = truth, side

    def forward(self, x: Tensor) -> list[Tensor]:
        levels = []
        for cells, present in zip((self.side // 8, self.side // 16), belonging(self.truth)):
            level = torch.zeros(len(x), 5, cells, cells)
            target = targets(self.truth.box, present, cells, cells)
            level[:, 0] = torch.logit(target.heat, 1e-6)
            row, line, column = (target.heat == 1).nonzero(as_tuple=True)
            box = self.truth.box[row, target.owner[row, line, column]]
            level[row, 1:, line, column] = encode_box(box, line, column, cells, cells)
            levels.append(level)
        return levels

    def heat(self, level: Tensor) -> Tensor:
        return level[:, 0]

    def box(self, level_map: Tensor) -> Tensor:
        return level_map[:, 1:]


def test_decoding_the_true_targets_of_scenes_gives_the_truth():
    data = open_data("scenes", size=128, hint="objects", split="test")
    assert isinstance(data, ComposedScenes)
    assert data.spec.hint is not None
    numbers = torch.arange(120)
    truth = read_layout(data.truth(numbers), len(data.spec.hint.labels))
    model = detector(data.spec)
    model.finder = FindsTruth(truth, 128)  # pyright: ignore[reportAttributeAccessIssue]
    model.describer = RedIsDog()  # pyright: ignore[reportAttributeAccessIssue]
    objects, score = model.detect(torch.zeros(120, 3, 128, 128))
    for row in range(120):
        confident, present = score[row] > 0.5, truth.kind[row] != NO_OBJECT
        assert confident.sum() == present.sum(), data.scene(row)
        boxes = sorted(objects.box[row][confident].tolist())
        for box, known in zip(boxes, sorted(truth.box[row][present].tolist())):
            assert box == pytest.approx(known, abs=1e-4)


class RedIsDog(nn.Module):
    """A second stage that labels red crops dog (0), others cat (1), and all of them grey (10)."""

    def forward(self, crop: Tensor) -> tuple[Tensor, Tensor]:
        red = crop[:, 0].mean((1, 2)) > crop[:, 1].mean((1, 2))
        kind = torch.where(red, 0, 1)
        colour = torch.full_like(kind, 11)
        return 30.0 * nn.functional.one_hot(kind, 12), 30.0 * nn.functional.one_hot(colour, 12)


def test_an_object_inside_another_may_have_the_same_centre():
    box = torch.tensor([[[0.2, 0.2, 0.8, 0.8], [0.4, 0.4, 0.6, 0.6]]])
    model = detector()
    model.describer = RedIsDog()  # pyright: ignore[reportAttributeAccessIssue]
    model.finder = FindsTruth(  # pyright: ignore[reportAttributeAccessIssue]
        Objects(torch.tensor([[1, 0]]), torch.tensor([[NO_OBJECT, 3]]), box), 128
    )
    x = -torch.ones(1, 3, 64, 64)
    x[:, 0, 26:38, 26:38] = 1  # the small object is red inside its own box
    x[:, 1, 12:24, 12:52] = 1
    x[:, 1, 40:52, 12:52] = 1
    objects, score = model.detect(x)
    assert (score > 0.5).sum() == 2
    by_kind = dict(zip(objects.kind[0, :2].tolist(), objects.box[0, :2]))
    torch.testing.assert_close(by_kind[1], box[0, 0])
    torch.testing.assert_close(by_kind[0], box[0, 1])
    assert objects.colour[0, :2].tolist() == [10, 10]
    assert (objects.kind[0, 2:] == NO_OBJECT).all()


def test_a_crop_is_the_content_of_a_box_at_one_size():
    x = torch.zeros(2, 3, 128, 128)
    x[1, :, 32:96, 16:80] = torch.arange(64.0)[:, None].expand(64, 64)
    box = torch.tensor([[16.0, 32, 80, 96], [16, 48, 80, 80]]) / 128
    patches = crops(x, torch.tensor([1, 1]), box)
    assert patches.shape == (2, 3, 32, 32)
    assert torch.equal(patches[0], patches[1]), "the crop must be square with the same centre"
    step = 64 * 1.15 / 32
    inner = 31.5 + step * (torch.arange(32.0) - 15.5)
    torch.testing.assert_close(patches[0, 0, 4:28, 16], inner[4:28], rtol=0, atol=0.02)
    assert (patches[0, :, :, 0] == 0).all(), "the crop must include a margin around the box"


def test_boxes_are_jittered_with_their_pictures_streams():
    box = torch.rand(4, 3, 2).mul(0.5).repeat(1, 1, 2) + torch.tensor([0, 0, 0.3, 0.2])
    jittered = shake(box, Noise.keyed(0, 0, range(4)))
    assert torch.equal(jittered[1:3], shake(box[1:3], Noise.keyed(0, 0, [1, 2])))
    assert 0 < (jittered - box).abs().max() <= 0.3 * (0.08 + 0.5 * (math.exp(0.08) - 1))


def test_single_objects_are_learnt_in_a_few_steps():
    """Squares of different colours are distinguished, and their positions are found."""
    generator = torch.Generator().manual_seed(0)
    model = detector()
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), 2e-2)

    def batch(n: int) -> Batch:
        kind = torch.randint(3, (n, 1), generator=generator)
        low = 0.6 * torch.rand(n, 1, 2, generator=generator)
        box = torch.cat([low, low + 0.35], 2)
        x = -torch.ones(n, 3, 32, 32)
        for picture, k, (left, top, right, bottom) in zip(
            x, kind, (32 * box[:, 0]).long().tolist()
        ):
            picture[int(k), top:bottom, left:right] = 1
        truth = Objects(kind, torch.full_like(kind, NO_OBJECT), box)
        return Batch(x, Condition(image=write_layout(truth, 3)))

    for step in range(80):
        (turn,) = model.turns(batch(16), step, Noise.keyed(0, step, range(16)))
        optimiser.zero_grad()
        turn.loss.backward()
        optimiser.step()
    new = batch(64)
    assert new.c.image is not None
    model.eval()
    truth, (objects, score) = read_layout(new.c.image, 3), model.detect(new.x)
    assert (objects.kind[:, :1] == truth.kind).double().mean() > 0.9
    assert (objects.box[:, 0] - truth.box[:, 0]).abs().mean() < 0.08
    assert (score[:, 0] > 0.3).double().mean() > 0.9


def test_augmentation_changes_tint_and_sharpness_as_documented():
    x = 2 * torch.rand(6, 3, 16, 16) - 1
    noise = Noise.keyed(0, 0, range(6))
    torch.testing.assert_close(tint_pictures(x, noise, 0, 0), x)
    torch.testing.assert_close(coarsen_pictures(x, noise, 0), x)
    flat = x[:, :, :1, :1].expand(-1, -1, 16, 16)
    torch.testing.assert_close(coarsen_pictures(flat, noise, 1), flat, rtol=0, atol=1e-5)
    assert not torch.equal(coarsen_pictures(x, noise, 1)[0], x[0])
    tinted = tint_pictures(0 * x, noise, 0.5, 0.2)
    assert tinted.flatten(2).std(-1).max() < 1e-6
    assert 0.05 < tinted.abs().max() <= 0.2


def test_data_without_layouts_are_refused():
    for spec in (ImageSpec(3, 32, 32), ImageSpec(3, 32, 32, hint=ImageSpec(1, 32, 32))):
        with pytest.raises(LimnerError, match=r"give data\.hint=objects"):
            detector(spec)


def test_pictures_without_objects_have_no_crops():
    none = crops(torch.zeros(2, 3, 16, 16), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    one = crops(torch.zeros(2, 3, 16, 16), torch.zeros(1, dtype=torch.int64), torch.ones(1, 4))
    assert none.shape == (0, *one.shape[1:])


def test_small_maps_are_halved_in_full_precision():
    finder = detector(SPEC.with_size(8, 8)).finder
    with torch.autocast("cpu", torch.bfloat16):
        for layer in (finder.down, finder.down_again):
            x = torch.ones(2, layer.in_channels, 1, 1, dtype=torch.bfloat16)
            assert layer(x).dtype == torch.float32
