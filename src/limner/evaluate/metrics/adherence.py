"""Adherence: do pictures follow the hints that they were painted from?

The measure depends on the kind of hint, `data.hint`:

    edges, scribble, line   F1 of the lines in the picture and in the hint; a line is correct if the
                            other has a line within a sixty-fourth of the side
    mask                    intersection over union of the foreground and the mask
    boxes                   for each box, its best intersection over union with an object that the
                            detector of scenes finds; the mean
    lowres, bicubic         PSNR of the reduced picture and the hint, in decibels

Each is a mean over pictures. It is reported with a floor and a ceiling. The floor is the value of
the same model painting from the same seeds without a hint. The ceiling is the value of real
pictures with their own hints. For lines and low resolutions the ceiling is perfect, because hints
are computed from real pictures.

The foreground is found by colour: its pixels differ from both ends of their row.

Reference:
    Zhang, Rao, Agrawala (2023). Adding conditional control to text-to-image diffusion models.
    arXiv:2302.05543, section 4.3, where the measure is intersection over union.
"""

import math
from functools import cached_property
from typing import get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import Images, from_uint8
from limner.contract.layout import NO_OBJECT, read_layout
from limner.contract.registry import Paper
from limner.data.hints import DRAWINGS, REDUCED_HINTS, Hint, Hints, draw_hint
from limner.data.scenes import ComposedScenes
from limner.data.sprites import object_numbers
from limner.evaluate.extractors.choose import open_extractor
from limner.evaluate.extractors.extractor import Detects, find_objects
from limner.evaluate.metric import Metric, NotApplicable, metric
from limner.evaluate.metrics.composition import MIN_SCORE
from limner.evaluate.passes import Columns, Observations, Observer
from limner.evaluate.picture_sets import Numbers, PaintedPictures, PictureSet, Pixels, RealPictures
from limner.evaluate.report import SUBJECT, Number

PAPER = Paper(
    "Adding conditional control to text-to-image diffusion models",
    "Zhang, Rao, Agrawala",
    2023,
    "2302.05543",
)
FLOOR = "floor (no hint)"
"""The name of the row of pictures that the model paints without a hint."""
NAMES = {kind: f"{kind} F1" for kind in DRAWINGS}
NAMES |= {"mask": "mask IoU", "boxes": "box IoU", "lowres": "low-resolution PSNR"}
NAMES |= {"bicubic": NAMES["lowres"]}
"""The name of the number for each kind of hint."""
_MIN_CONTRAST = 0.25  # least difference of foreground and background, in a channel from -1 to 1
_MIN_SQUARED_ERROR = 1e-6  # the smallest squared error: 60 dB


def line_f1(edges: Bool[Tensor, "b h w"], hint: Bool[Tensor, "b h w"]) -> Float[Tensor, "b"]:
    """Compute F1 of lines, within a sixty-fourth of the side; 1 if neither has lines."""
    reach = max(1, round(edges.shape[-1] / 64))
    near_hint, near_drawn = (_widen(lines, reach) for lines in (hint, edges))
    correct, covered = (edges & near_hint).sum((1, 2)), (hint & near_drawn).sum((1, 2))
    precision = correct / edges.sum((1, 2)).clamp(min=1)
    recall = covered / hint.sum((1, 2)).clamp(min=1)
    f1 = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    empty = ~(edges.flatten(1).any(1) | hint.flatten(1).any(1))
    return torch.where(empty, 1.0, f1)


def _widen(lines: Bool[Tensor, "b h w"], reach: int) -> Bool[Tensor, "b h w"]:
    """Return all pixels within a square around pixels of lines."""
    return F.max_pool2d(lines[:, None].float(), 2 * reach + 1, 1, reach)[:, 0] > 0


def mask_iou(mask: Bool[Tensor, "b h w"], hint: Bool[Tensor, "b h w"]) -> Float[Tensor, "b"]:
    """Compute the intersection over union of masks; 1 if both are empty."""
    intersection, union = (mask & hint).sum((1, 2)), (mask | hint).sum((1, 2))
    return torch.where(union == 0, 1.0, intersection / union.clamp(min=1))


def foreground_mask(x: Images) -> Bool[Tensor, "b h w"]:
    """Return the mask of the foreground: pixels that differ from both ends of their row."""
    ends = [(x - x[..., i : i + 1]).abs().amax(1) for i in (0, x.shape[-1] - 1)]
    return torch.minimum(*ends) > _MIN_CONTRAST


def box_iou(a: Float[Tensor, "n 4"], b: Float[Tensor, "m 4"]) -> Float[Tensor, "n m"]:
    """Compute the intersection over union of pairs of boxes: left, top, right, bottom."""
    corner = torch.maximum(a[:, None, :2], b[:, :2])
    sides = (torch.minimum(a[:, None, 2:], b[:, 2:]) - corner).clamp(min=0)
    area, area_a, area_b = (s.prod(-1) for s in (sides, a[:, 2:] - a[:, :2], b[:, 2:] - b[:, :2]))
    return area / (area_a[:, None] + area_b - area).clamp(min=1e-12)


def lowres_psnr(small: Hints, hint: Hints) -> Float[Tensor, "b"]:
    """Compute the peak signal-to-noise ratio of reduced pictures, in decibels; at most 60."""
    error = ((small - hint) / 2).double().square().flatten(1).mean(1)
    return -10 * error.clamp(min=_MIN_SQUARED_ERROR).log10()


class AdherenceObserver(Observer):
    """Observer of how well each picture follows the hint of the real one with the same number.

    Args:
        kind: the kind of the hints.
        real: the real pictures that have the hints.
        detector: the detector that finds boxes; None for other kinds.
    """

    def __init__(self, kind: Hint, real: RealPictures, detector: Detects | None) -> None:
        self.kind: Hint = kind
        self.real, self.detector = real, detector
        detector_key = detector.fingerprint if detector else ""
        self.name = "adherence"
        self.fingerprint = f"adherence {kind} {real.fingerprint} {detector_key}"

    def look(self, pictures: PictureSet, numbers: Numbers, pixels: Pixels) -> Columns:
        """Return `adherence`, a value for each picture."""
        return {"adherence": self._values(from_uint8(pixels), pixels, numbers).double()}

    def _values(self, x: Images, pixels: Pixels, numbers: Numbers) -> Float[Tensor, "b"]:
        if self.kind == "boxes":
            return self._box_values(pixels, numbers)
        hint = self.real.condition(numbers, self.real.spec).image
        assert hint is not None
        if self.kind in REDUCED_HINTS:
            return lowres_psnr(draw_hint(self.kind, x, (hint.shape[2], hint.shape[3])), hint)
        if self.kind == "mask":
            return mask_iou(foreground_mask(x), hint[:, 0] > 0)
        assert self.kind != "objects"
        return line_f1(draw_hint(self.kind, x)[:, 0] > 0, hint[:, 0] > 0)

    def _box_values(self, pixels: Pixels, numbers: Numbers) -> Float[Tensor, "b"]:
        data, detector = self.real.dataset, self.detector
        assert isinstance(data, ComposedScenes) and detector is not None
        layout = read_layout(data.truth(self.real.indices(numbers)), len(object_numbers()))
        (kind, _, box), score = find_objects(detector, pixels)
        masks = (kind.cpu() != NO_OBJECT) & (score.cpu() >= MIN_SCORE)
        values = [
            _best(truth[kinds != NO_OBJECT], boxes[mask])
            for kinds, truth, boxes, mask in zip(layout.kind, layout.box, box.cpu().float(), masks)
        ]
        return torch.stack(values)


def _best(truth: Float[Tensor, "n 4"], boxes: Float[Tensor, "m 4"]) -> Float[Tensor, ""]:
    """Compute the mean over boxes of the best intersection over union with a found box."""
    if not len(boxes) or not len(truth):
        return torch.tensor(float(not len(truth)))
    return box_iou(truth, boxes).amax(1).mean()


@metric("adherence", paper=PAPER)
class Adherence(Metric):
    """The adherence of pictures to their hints."""

    summary = "how well pictures follow the drawing, mask, boxes or low resolution they are given"
    reads = ("hints",)
    better = "higher"
    min_pictures = 2
    redrawn = ("subject",)

    @cached_property
    def kind(self) -> Hint:
        """The kind of the hints.

        Raises:
            NotApplicable: there are no hints, or their kind is not supported.
        """
        real = self.setting.reference
        if real.spec.hint is None:
            raise NotApplicable(f"{real.name} has no hints; give data.hint")
        hint = next((kind for kind in get_args(Hint) if kind == real.spec.hint.domain), None)
        if hint is None or hint not in NAMES:
            raise NotApplicable(
                f"it supports the hints {', '.join(NAMES)}, and {real.name} has others"
            )
        if hint == "boxes" and not isinstance(real.dataset, ComposedScenes):
            raise NotApplicable(f"the true boxes of {real.name} are unknown; only scenes have them")
        return hint

    @property
    def extractor(self) -> Detects | None:
        """The detector of scenes, for boxes; None for other hints."""
        return self.detector

    @cached_property
    def detector(self) -> Detects | None:
        """The detector that finds boxes; None for other hints."""
        if self.kind != "boxes":
            return None
        detector = open_extractor("scene-judge", self.setting.reference.spec, self.setting.device)
        assert isinstance(detector, Detects)
        return detector

    @cached_property
    def observer(self) -> AdherenceObserver:
        """The observer that compares pictures with hints."""
        return AdherenceObserver(self.kind, self.setting.reference, self.detector)

    @cached_property
    def rows(self) -> dict[str, PictureSet]:
        """The subject, the floor and the ceiling, by the row's name."""
        s = self.setting
        subject, n = s.subject, len(s.subject)
        rows: dict[str, PictureSet] = {SUBJECT: subject}
        if isinstance(subject, PaintedPictures) and subject.model.condition == "optional":
            rows[FLOOR] = subject.without_hints()
        real = s.reference.first(n)
        return rows | {f"real ({real.name})": real}

    def needs(self) -> list[tuple[PictureSet, Observer]]:
        """Request the adherence of the subject, of its model without hints, and of real pictures.

        Raises:
            NotApplicable: the reference has no hints, the subject was not painted from them, or
                there are too few pictures.
        """
        s = self.setting
        kind = self.kind
        if not (isinstance(s.subject, PaintedPictures) and s.subject.spec.hint):
            raise NotApplicable(f"{s.subject.name} is not painted from {kind}")
        self.check_number(s.subject)
        try:
            return [(pictures, self.observer) for pictures in self.rows.values()]
        except LimnerError as error:
            raise NotApplicable(str(error)) from None

    def numbers(self, observations: Observations) -> list[Number]:
        """Compute the mean of each row, with an interval over its pictures."""
        numbers: list[Number] = []
        for row, pictures in self.rows.items():
            values = observations.of(pictures, self.observer)["adherence"]
            values = values[: len(self.setting.reference)]
            unit, limit = ("dB", math.inf) if self.kind in REDUCED_HINTS else ("", 1.0)
            groups = pictures.groups(torch.arange(len(values)))
            mean = self.mean(
                NAMES[self.kind], values, 0, limit, groups, row=row, better=self.better, unit=unit
            )
            numbers.append(mean)
        return numbers
