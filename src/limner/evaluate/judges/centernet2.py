"""Probabilistic two-stage detection (CenterNet2).

Zhou, Koltun, Kraehenbuehl (2021). arXiv:2103.07461.

The first stage finds the objects, the second stage classifies each; the probability of a detection
is P(object there) P(kind | object), equation 1. The first stage is CenterNet (Zhou, Wang,
Kraehenbuehl (2019), arXiv:1904.07850): an object is represented by the centre of its box. A network
predicts a heat map, the probability that each cell of the picture holds a centre. At a centre it
predicts the size of the object and the place of the centre in the cell. The second stage sees each
box separately, at one size, so that hundreds of kinds are learnt from few pictures.

Kept: Gaussian peaks as targets, the penalty-reduced focal loss, peaks that are the largest of
3 x 3, the product of both probabilities. Different: two levels of cells only (8 pixels for small
objects, 16 for large ones), so that an object and one inside it may have the same centre; L1 loss
of offsets and of logarithms of sizes; the cells around a centre learn its box too, weighted by
their nearness; the second stage sees the pixels of a box, as in R-CNN (Girshick et al. (2013),
arXiv:1311.2524), and predicts a colour as well as the kind. It learns from true boxes with small
random shifts and scales.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Images, ImageSpec
from limner.contract.layout import COLOURS, NO_OBJECT, Objects, is_layout, read_layout
from limner.contract.model import Turn
from limner.contract.noise import Noise
from limner.contract.options import Count, NonNegative, Share
from limner.contract.registry import Paper, register
from limner.evaluate.judges.augmentation import coarsen_pictures, spoil_pictures, tint_pictures
from limner.evaluate.judges.judge import Detections, Detector
from limner.nn.convolution import Conv3x3
from limner.nn.norm import NormSiLU
from limner.nn.residual import ResidualBlock
from limner.nn.wide_convolution import StridedConv2d

_COARSE_SIDE = 0.45  # of a side: longer objects belong to the coarse level
_FOCUS, _REDUCTION = 2, 4  # alpha and beta of the focal loss
_PEAK, _REGION = 1 / 8, 1 / 4  # deviations of targets and of regions, as shares of an object's side
_MIN_DEVIATION = 0.5  # the smallest deviation, in cells
_MIN_CELL_WEIGHT = 0.3  # a cell with a smaller weight is outside the region
# Initial probability that a cell is a centre (Lin et al., arXiv:1708.02002).
_INITIAL_PROBABILITY = 0.02
_MAX_OVERLAP = 0.6  # two peaks with a larger intersection over union are one object
_MIN_PROBABILITY = 0.02  # peaks with a lower probability are skipped
_CROP_SIDE = 32  # side of the second stage's input, in pixels
_CROP_FACTOR = 1.15  # side of the crop over the longer side of the box
_MAX_SHIFT = 0.08  # largest random shift of a box and of the logarithm of its size, as shares of it
MAX_DETECTIONS = 16
"""The largest number of objects that are found in a picture."""


class Targets(NamedTuple):
    """The training targets of a level's cells.

    Args:
        heat: the nearness of a centre; 1 at a centre.
        owner: the index of the object to which the cell belongs.
        weight: the weight of the cell for its object; the weights of an object have the sum 1.
    """

    heat: Float[Tensor, "b h w"]
    owner: Int[Tensor, "b h w"]
    weight: Float[Tensor, "b h w"]


def targets(box: Float[Tensor, "b n 4"], present: Bool[Tensor, "b n"], h: int, w: int) -> Targets:
    """Compute Gaussian peaks at the cells of centres, and the regions around them.

    Args:
        box: the box of each object, as shares of a side.
        present: whether the object belongs to this level.
        h, w: the height and width of the level, in cells.
    """
    cells = box.new_tensor([w, h])
    centre = (box[..., :2] + box[..., 2:]) / 2 * cells
    centre = centre.floor().clamp(box.new_zeros(2), cells - 1)  # "b n 2"
    side = (box[..., 2:] - box[..., :2]) * cells
    x = torch.arange(w, device=box.device) - centre[..., :1]  # "b n w"
    y = torch.arange(h, device=box.device) - centre[..., 1:]  # "b n h"

    def gaussian(share: float) -> Float[Tensor, "b n h w"]:
        deviation = (share * side).clamp(min=_MIN_DEVIATION)
        along = (-x.square() / (2 * deviation[..., :1].square())).exp()
        down = (-y.square() / (2 * deviation[..., 1:].square())).exp()
        return down[..., :, None] * along[..., None, :] * present[..., None, None]

    weight, owner = gaussian(_REGION).max(1)
    weight = weight * (weight >= _MIN_CELL_WEIGHT)
    weights = F.one_hot(owner, box.shape[1]) * weight[..., None]  # "b h w n"
    total = weights.sum((1, 2)).clamp(min=1e-6)  # "b n"; an object may be hidden by a nearer one
    share = (weights / total[:, None, None]).sum(-1)
    return Targets(gaussian(_PEAK).amax(1), owner, share)


def focal_loss(logits: Float[Tensor, "b h w"], heat: Float[Tensor, "b h w"]) -> Float[Tensor, "b"]:
    """Compute the penalty-reduced focal loss of each picture, not divided by the objects.

    It is -(1 - p)^alpha log p at centres, -(1 - heat)^beta p^alpha log(1 - p) elsewhere.
    """
    p = logits.sigmoid()
    at_centre = (1 - p) ** _FOCUS * F.logsigmoid(logits)
    elsewhere = (1 - heat) ** _REDUCTION * p**_FOCUS * F.logsigmoid(-logits)
    return -torch.where(heat == 1, at_centre, elsewhere).sum((1, 2))


def peaks(heat: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """Keep the map where it is the largest of 3 x 3, and set it to 0 elsewhere."""
    largest = F.max_pool2d(heat[:, None], 3, stride=1, padding=1)[:, 0]
    return heat * (heat == largest)


def overlaps(box: Float[Tensor, "b k 4"]) -> Float[Tensor, "b k k"]:
    """Compute the intersection over union of each pair of boxes of a picture."""
    low = torch.maximum(box[:, :, None, :2], box[:, None, :, :2])
    high = torch.minimum(box[:, :, None, 2:], box[:, None, :, 2:])
    intersection = (high - low).clamp(min=0).prod(-1)
    area = (box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1)
    return intersection / (area[:, :, None] + area[:, None] - intersection).clamp(min=1e-9)


def distinct(box: Float[Tensor, "b k 4"], score: Float[Tensor, "b k"]) -> Bool[Tensor, "b k"]:
    """Return which boxes are kept by non-maximum suppression: those unlike all kept better ones."""
    order = score.argsort(dim=1, descending=True, stable=True)
    sorted_boxes = box.gather(1, order[..., None].expand_as(box))
    same = (overlaps(sorted_boxes) > _MAX_OVERLAP).tril(-1)
    kept = torch.ones_like(score, dtype=torch.bool)
    for i in range(1, score.shape[1]):
        kept[:, i] = ~(same[:, i] & kept).any(1)
    return torch.zeros_like(kept).scatter(1, order, kept)


class Finder(nn.Module):
    """The first stage: maps of centres at two levels, and boxes at centres.

    Args:
        channels: the channels of a picture.
        widths: the channels at a half, a quarter, an eighth and a sixteenth of the size.
    """

    def __init__(self, channels: int, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        half, quarter, fine, coarse = widths
        self.stem = nn.Sequential(
            nn.Conv2d(channels, half, 5, stride=2, padding=2),
            NormSiLU(half),
            nn.Conv2d(half, quarter, 3, stride=2, padding=1),
            ResidualBlock(quarter, quarter),
            nn.Conv2d(quarter, fine, 3, stride=2, padding=1),
            ResidualBlock(fine, fine),
        )
        self.down = StridedConv2d(fine, coarse, 3, stride=2, padding=1)
        self.down_again = StridedConv2d(coarse, coarse, 3, stride=2, padding=1)
        self.deepest = ResidualBlock(coarse, coarse)
        self.coarse = ResidualBlock(coarse, coarse)
        self.lateral = nn.Conv2d(coarse, fine, 1)
        self.fine = ResidualBlock(fine, fine)
        self.norm = NormSiLU(fine)
        self.heat_in, self.heat_out = Conv3x3(fine, fine // 2), nn.Conv2d(fine // 2, 1, 1)
        odds = _INITIAL_PROBABILITY / (1 - _INITIAL_PROBABILITY)
        nn.init.constant_(self.heat_out.bias, math.log(odds))  # pyright: ignore
        self.box = nn.Sequential(nn.Linear(fine, fine), nn.SiLU(), nn.Linear(fine, 4))

    def forward(self, x: Images) -> list[Float[Tensor, "b d i j"]]:
        """Compute the features of the fine and of the coarse level."""
        fine = self.stem(x)
        coarse = self.down(fine)
        deepest = self.deepest(self.down_again(coarse))
        coarse = self.lateral(self.coarse(coarse + _enlarge(deepest, coarse)))
        fine = self.fine(fine + _enlarge(coarse, fine))
        return [self.norm(fine), self.norm(coarse)]

    def heat(self, level: Float[Tensor, "b d i j"]) -> Float[Tensor, "b i j"]:
        """Compute the logit that each cell holds a centre."""
        return self.heat_out(F.silu(self.heat_in(level)))[:, 0].float()


class Describer(nn.Module):
    """The second stage: a classifier of the object in a box.

    Args:
        channels: the channels of a picture.
        widths: the channels at a half, a quarter and an eighth of the crop's size.
        hidden: the width of the last layer but one.
        kinds: the number of kinds of objects.
    """

    def __init__(
        self, channels: int, widths: tuple[int, int, int], hidden: int, kinds: int
    ) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for previous, width in zip((channels, *widths), widths):
            kernel = 5 if previous == channels else 3
            parts.append(nn.Conv2d(previous, width, kernel, stride=2, padding=kernel // 2))
            parts.append(ResidualBlock(width, width))
        cells = (_CROP_SIDE // 8) ** 2
        self.trunk = nn.Sequential(
            *parts,
            NormSiLU(widths[-1]),
            nn.Flatten(),
            nn.Linear(cells * widths[-1], hidden),
            nn.LayerNorm(hidden),
            nn.SiLU(),
        )
        self.kind, self.colour = nn.Linear(hidden, kinds), nn.Linear(hidden, len(COLOURS) + 1)

    def forward(
        self, crop: Float[Tensor, "m c s s"]
    ) -> tuple[Float[Tensor, "m k"], Float[Tensor, "m j"]]:
        """Compute the logits of the kind, and of the colour; the first colour means none."""
        h = self.trunk(crop)
        return self.kind(h).float(), self.colour(h).float()


@register(
    "centernet2",
    family="judges",
    paper=Paper(
        "Probabilistic two-stage detection", "Zhou, Koltun, Kraehenbuehl", 2021, "2103.07461"
    ),
    tiny={"channels": (4, 8, 8, 8), "widths": (4, 8, 8), "hidden": 8},
    train={"lr": 1e-3, "weight_decay": 0.02, "clip": 1.0},
)
class CenterNet2(Detector):
    """A detector of objects with their kinds, colours and boxes.

    Args:
        spec: the specification of the images; their conditioning images are layouts
            (data.hint=objects).
        channels: the channels of the first stage at a half, a quarter, an eighth and a sixteenth of
            the size.
        widths: the channels of the second stage at a half, a quarter and an eighth of its input.
        hidden: the width of the second stage's last layer but one.
        blur, grain: the largest deviation of the blur in training, in pixels, and of the noise, for
            pixels in [-1, 1].
        contrast, tint: the largest change of each channel in training: a share, and a number for
            pixels in [-1, 1].
        halved: the share of pictures in training that are reduced to half the size and enlarged
            again.

    Raises:
        LimnerError: the data have no layouts of objects.
    """

    def __init__(
        self,
        spec: ImageSpec,
        channels: tuple[int, int, int, int] = (16, 32, 64, 96),
        widths: tuple[int, int, int] = (48, 96, 192),
        hidden: Count = 192,
        blur: NonNegative = 1.2,
        grain: NonNegative = 0.1,
        contrast: NonNegative = 0.1,
        tint: NonNegative = 0.06,
        halved: Share = 0.25,
    ) -> None:
        super().__init__()
        if spec.hint is None or not is_layout(spec.hint):
            raise LimnerError("this model learns layouts of objects; give data.hint=objects")
        self.spec = replace(spec, text=None, labels=(), frequencies=())
        self.kinds = len(spec.hint.labels)
        self.spoiling = {"blur": blur, "grain": grain}
        self.tinting = {"contrast": contrast, "tint": tint}
        self.halved = halved
        self.finder = Finder(spec.channels, channels)
        self.describer = Describer(spec.channels, widths, hidden, self.kinds)

    def features(self, x: Images) -> Float[Tensor, "b d"]:
        """Compute the means of both levels of the first stage over the picture."""
        return torch.cat([level.float().mean((2, 3)) for level in self.finder(x)], dim=1)

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield one turn: the focal loss of the maps, and the losses of boxes, kinds and colours.

        Each loss is divided by the number of objects in its picture.
        """
        assert batch.c.image is not None, "data with layouts have them"
        truth = read_layout(batch.c.image, self.kinds)
        x = coarsen_pictures(batch.x, noise, self.halved)
        x = tint_pictures(spoil_pictures(x, noise, **self.spoiling), noise, **self.tinting)
        is_object = truth.kind != NO_OBJECT
        count = is_object.sum(1).clamp(min=1)
        heat, size = self._centres(x, truth, count)
        row, place = is_object.nonzero(as_tuple=True)
        box = shake(truth.box, noise)[row, place]
        kind, colour = self.describer(crops(x, row, box))
        true_kind, true_colour = truth.kind[row, place], truth.colour[row, place] + 1
        weight = 1 / (count[row] * len(count))
        kind_loss = (weight * F.cross_entropy(kind, true_kind, reduction="none")).sum()
        colour_loss = (weight * F.cross_entropy(colour, true_colour, reduction="none")).sum()
        logs = {
            "heat loss": heat.detach(),
            "box loss": size.detach(),
            "kind loss": kind_loss.detach(),
            "colour loss": colour_loss.detach(),
            "kind right": (weight * (kind.detach().argmax(1) == true_kind)).sum(),
            "colour right": (weight * (colour.detach().argmax(1) == true_colour)).sum(),
        }
        yield Turn(heat + size + kind_loss + colour_loss, logs=logs)

    def _centres(
        self, x: Images, truth: Objects, count: Int[Tensor, "b"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Compute the losses of the first stage: of the maps, and of boxes."""
        heat = size = x.new_zeros(())
        for level, mask in zip(self.finder(x), belonging(truth)):
            h, w = level.shape[2:]
            maps = targets(truth.box, mask, h, w)
            heat = heat + (focal_loss(self.finder.heat(level), maps.heat) / count).mean()
            row, line, column = maps.weight.nonzero(as_tuple=True)
            offsets = self.finder.box(level[row, :, line, column]).float()
            target = encode_box(truth.box[row, maps.owner[row, line, column]], line, column, h, w)
            weight = maps.weight[row, line, column] / (count[row] * len(count))
            size = size + (weight * (offsets - target).abs().mean(1)).sum()
        return heat, size

    def detect(self, x: Images) -> Detections:
        """Find the highest peaks of both levels, and classify them with the second stage.

        Of two peaks of one object, only the higher one is kept.
        """
        parts = zip(*(self._detect_on_level(level) for level in self.finder(x)))
        score, box = (torch.cat(part, 1) for part in parts)
        score, order = (score * distinct(box, score)).sort(dim=1, descending=True, stable=True)
        score, order = score[:, :MAX_DETECTIONS], order[:, :MAX_DETECTIONS]
        box = box.gather(1, order[..., None].expand(-1, -1, 4))
        row, place = (score > _MIN_PROBABILITY).nonzero(as_tuple=True)
        kind, colour = (torch.full_like(order, NO_OBJECT) for _ in range(2))
        confidence = torch.zeros_like(score)
        if len(row):
            kind_logits, colour_logits = self.describer(crops(x, row, box[row, place]))
            best = kind_logits.softmax(1).max(1)
            confidence[row, place], kind[row, place] = best.values, best.indices
            colour[row, place] = colour_logits[:, 1:].argmax(1)  # without "none", as in GenEval
        score, order = (score * confidence).sort(dim=1, descending=True, stable=True)
        kind, colour = kind.gather(1, order), colour.gather(1, order)
        return Detections(
            Objects(kind, colour, box.gather(1, order[..., None].expand_as(box))), score
        )

    def _detect_on_level(
        self, level: Float[Tensor, "b d i j"]
    ) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b k 4"]]:
        """Compute probability and box of a level's highest peaks."""
        b, d, h, w = level.shape
        heat = peaks(self.finder.heat(level).sigmoid()).flatten(1)
        score, cell = heat.topk(min(MAX_DETECTIONS, h * w), dim=1)
        features = level.flatten(2).gather(2, cell[:, None].expand(-1, d, -1)).movedim(1, 2)
        place = cell.flatten()
        offsets = self.finder.box(features.flatten(0, 1)).float()
        box = decode_box(offsets, place.div(w, rounding_mode="floor"), place % w, h, w)
        return score, box.view(b, -1, 4)


def crops(x: Images, row: Int[Tensor, "m"], box: Float[Tensor, "m 4"]) -> Float[Tensor, "m c s s"]:
    """Crop boxes with a small margin, square and at one size; edge pixels are repeated outwards.

    Args:
        x: the pictures.
        row: the index of each box's picture.
        box: the boxes, as shares of a side.
    """
    h, w = x.shape[2:]
    if not len(box):
        return x.new_zeros(0, x.shape[1], _CROP_SIDE, _CROP_SIDE)
    side = ((box[:, 2:] - box[:, :2]) * box.new_tensor([w, h])).amax(1).clamp(min=1) * _CROP_FACTOR
    middle, zero = box[:, :2] + box[:, 2:] - 1, torch.zeros_like(side)  # 2 is the whole side
    affine = torch.stack([side / w, zero, middle[:, 0], zero, side / h, middle[:, 1]], dim=1)
    shape = [len(box), x.shape[1], 2 * _CROP_SIDE, 2 * _CROP_SIDE]  # twice as fine, then averaged
    grid = F.affine_grid(affine.view(-1, 2, 3), shape, align_corners=False)
    crop = F.grid_sample(x[row], grid, padding_mode="border", align_corners=False)
    return F.avg_pool2d(crop, 2)


def shake(box: Float[Tensor, "b n 4"], noise: Noise) -> Float[Tensor, "b n 4"]:
    """Shift and scale boxes a little, like the errors of a detector."""
    u = _MAX_SHIFT * (2 * noise.uniform(box.shape[1], 4) - 1)
    middle, half = (box[..., :2] + box[..., 2:]) / 2, (box[..., 2:] - box[..., :2]) / 2
    middle, half = middle + 2 * half * u[..., :2], half * u[..., 2:].exp()
    return torch.cat([middle - half, middle + half], -1)


def belonging(truth: Objects) -> tuple[Bool[Tensor, "b n"], Bool[Tensor, "b n"]]:
    """Return which objects belong to the fine and to the coarse level."""
    large = (truth.box[..., 2:] - truth.box[..., :2]).amax(-1) >= _COARSE_SIDE
    is_object = truth.kind != NO_OBJECT
    return is_object & ~large, is_object & large


def encode_box(
    box: Float[Tensor, "m 4"], line: Int[Tensor, "m"], column: Int[Tensor, "m"], h: int, w: int
) -> Float[Tensor, "m 4"]:
    """Encode boxes as offsets of centres from the cell's middle and log sizes, in cells."""
    cells, cell = box.new_tensor([w, h]), torch.stack([column, line], 1)
    low, high = box[:, :2] * cells, box[:, 2:] * cells
    size = (high - low).clamp(min=0.1)
    return torch.cat([(low + high) / 2 - cell - 0.5, size.log()], 1)


def decode_box(
    code: Float[Tensor, "m 4"], line: Int[Tensor, "m"], column: Int[Tensor, "m"], h: int, w: int
) -> Float[Tensor, "m 4"]:
    """Invert `encode_box`."""
    cells, cell = code.new_tensor([w, h]), torch.stack([column, line], 1)
    centre, half = code[:, :2] + cell + 0.5, code[:, 2:].clamp(max=5).exp() / 2
    return torch.cat([(centre - half) / cells, (centre + half) / cells], 1)


def _enlarge(x: Float[Tensor, "b c h w"], target: Tensor) -> Float[Tensor, "b c hh ww"]:
    return F.interpolate(x, target.shape[2:], mode="nearest")
