"""Prompt edits: does the picture follow a changed word of the prompt, and does the rest stay?

One word of each scene's caption changes, an object or a colour: `limner.data.scene_edits`. The
model paints the picture of the caption, and the picture with the changed word, with its `reword`.

    edit             share of edits in which the detector of scenes finds what was requested: the
                     new object and none of the old kind, or the object in its new colour
    objects, colours the same share, for the edits of either kind
    outside change   how much pixels change outside the object's box: |after - before|, a mean
                     over pixels, channels and edits, as a share of the range
    outside lite0    1 - cosine of lite0's features of both pictures, the box covered in grey; if
                     that extractor is installed
    object found     share of edits where the detector finds the object in the picture before

The box is the one that the detector finds in the picture before, with a margin of a sixteenth of
the side. Edits whose object is not found there have no outside, and are left out of these numbers.
The row `real` has the same numbers for the scenes themselves, composed before and after the change:
the upper limit for a model. Three other methods paint the same captions from the same seeds, for
comparison:

    same seed        the new caption painted from scratch
    SDEdit           the picture before with noise added, denoised with the new caption; at the
                     strength with the largest share (Meng et al. 2021, arXiv:2108.01073)
    in-painting      the box painted again with the new caption; without a box, the whole picture

Reference:
    Hertz, Mokady, Tenenbaum, Aberman, Pritch, Cohen-Or (2022). Prompt-to-prompt image editing with
    cross-attention control. arXiv:2208.01626.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from limner.contract.editing import Edits, Rewords
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, Images, to_uint8
from limner.contract.registry import Paper
from limner.contract.rewording import Rewording, align_prompts
from limner.contract.text import Tokenizer
from limner.data.scene_edits import SceneEdit, draw_edit
from limner.data.scenes import ComposedScenes, draw_pixels
from limner.evaluate.extractors.choose import open_extractor
from limner.evaluate.extractors.extractor import Detects, Extractor
from limner.evaluate.extractors.weights import has_lite0
from limner.evaluate.metric import NotApplicable, metric
from limner.evaluate.metrics.composition import (
    DetectedObject,
    ObjectObserver,
    RequestedObject,
    SceneMetric,
    SceneRequest,
    findings,
    objects_named,
    shows_request,
)
from limner.evaluate.passes import Columns, Observations, Observer
from limner.evaluate.picture_sets import Numbers, PaintedPictures, PictureSet, Pixels
from limner.evaluate.report import SUBJECT, Number

PAPER = Paper(
    "Prompt-to-prompt image editing with cross-attention control",
    "Hertz, Mokady, Tenenbaum, Aberman, Pritch, Cohen-Or",
    2022,
    "2208.01626",
)
STRENGTHS = (0.3, 0.5, 0.7, 0.9)
"""The strengths of SDEdit."""
BEFORE, AFTER, SAME_SEED, FIRST_SDEDIT, IN_PAINTING = 0, 1, 2, 3, 7
EDITS_PER_SCENE = 8
"""The number of pictures of each edit, four of them SDEdit's. A block of 64 holds whole edits."""
_BOX_MARGIN = 1 / 16  # the margin of a box, as a share of a side
_SHEET_EDITS = 8  # edits on the sheet
_COVER_LEVEL = 128  # the grey level that hides the box from lite0


class PromptEdit(NamedTuple):
    """An edit of a numbered picture.

    Args:
        number: the number of the picture among the real ones.
        scene: the scene before and after.
        text: the tokens of both captions.
    """

    number: int
    scene: SceneEdit
    text: Int[Tensor, "2 l"]


def shows_edit(objects: Sequence[DetectedObject], edit: SceneEdit) -> bool:
    """Return whether a picture shows what an edit requests.

    Args:
        objects: the objects found in the picture.
        edit: the edit with the change.
    """
    is_colour = edit.kind == "colour"
    requested = RequestedObject(edit.new.name, edit.new.colour if is_colour else None)
    is_gone = is_colour or not objects_named(objects, edit.old.name)
    return is_gone and shows_request(objects, SceneRequest("single", (requested,)))


def box_mask(box: Sequence[float], height: int, width: int) -> Bool[Tensor, "h w"]:
    """Return the mask of a box with a margin around it.

    Args:
        box: left, top, right, bottom as shares of a side.
        height, width: the size of the picture, in pixels.
    """
    left, top, right, bottom = box
    x, y = ((torch.arange(side) + 0.5) / side for side in (width, height))
    within_x = (x > left - _BOX_MARGIN) & (x < right + _BOX_MARGIN)
    within_y = (y > top - _BOX_MARGIN) & (y < bottom + _BOX_MARGIN)
    return within_y[:, None] & within_x


def outside_change(
    before: Pixels, after: Pixels, inside: Bool[Tensor, "b h w"]
) -> Float64[Tensor, "b"]:
    """Compute the mean absolute difference of pixels outside masks, as a share of the range."""
    difference = (after.double() - before.double()).abs().mean(1) / 255
    outside = ~inside
    return (difference * outside).sum((1, 2)) / outside.sum((1, 2)).clamp(min=1)


def last_frame(frames: Iterable[Images]) -> Images:
    """Return the last frame, which holds the finished pictures."""
    return deque(frames, maxlen=1).pop().cpu()


def edits_of(subject: PaintedPictures, seed: int) -> list[PromptEdit]:
    """Draw an edit for each caption where a word can change and the tokens change with it.

    Args:
        subject: pictures painted from the captions of real scenes.
        seed: the seed of the edits; each edit depends only on it and on the scene's index.
    """
    data, spec = subject.real.dataset, subject.spec.text
    assert isinstance(data, ComposedScenes) and spec is not None
    tokenizer, edits = Tokenizer(spec), list[PromptEdit]()
    for number, index in enumerate(subject.real.indices(torch.arange(len(subject))).tolist()):
        scene = data.scene(index)
        edit = scene and draw_edit(scene, data.objects, f"{seed}/{index}")
        if edit:
            text = tokenizer.encode([edit.before.caption, edit.after.caption])
            if not torch.equal(*text):
                edits.append(PromptEdit(number, edit, text))
    return edits


class EditedPictures(PaintedPictures):
    """Eight pictures of each edit: `BEFORE`, `AFTER`, and those of the other methods.

    Args:
        subject: pictures painted from the captions of real scenes, by a model that has `reword` and
            `edit`.
        edits: edits of these captions.
        detector: the detector that finds the boxes that are painted again.
        fingerprint: a hash of the model and of the edits.
    """

    ways = EDITS_PER_SCENE

    def __init__(
        self,
        subject: PaintedPictures,
        edits: Sequence[PromptEdit],
        detector: Detects,
        fingerprint: str,
    ) -> None:
        super().__init__(
            subject.model,
            subject.real,
            self.ways * len(edits),
            seed=subject.seed,
            options=subject.options,
            name=f"{subject.name} with words changed",
            fingerprint=f"edits {fingerprint} {detector.fingerprint}",
        )
        self.edits, self.detector = edits, detector

    def pictures(self, numbers: Numbers) -> Pixels:
        """Paint all eight pictures of each requested edit; return those with these numbers."""
        indices = (numbers // EDITS_PER_SCENE).unique()
        images = self._paint([self.edits[i] for i in indices.tolist()])
        rows = torch.searchsorted(indices, numbers // EDITS_PER_SCENE)
        return self.to_pixels(images[rows, numbers % EDITS_PER_SCENE])

    def _paint(self, edits: Sequence[PromptEdit]) -> Float[Tensor, "e 8 c h w"]:
        model, options = self.model, self.options
        assert isinstance(model, Rewords) and isinstance(model, Edits)
        seeds = [self.seed + edit.number for edit in edits]
        c = self.real.condition(torch.tensor([edit.number for edit in edits]), self.spec)
        first, second = (replace(c, text=t) for t in torch.stack([e.text for e in edits], 1))
        pairs: list[Images] = []
        for i, edit in enumerate(edits):
            change = Rewording(align_prompts(edit.text), torch.ones(edit.text.shape[1]))
            c1, c2 = (condition.rows(slice(i, i + 1)) for condition in (first, second))
            kwargs = {"seed": [seeds[i]], "preview": False, **options}
            pairs.append(last_frame(model.reword(c1, c2, change, **kwargs)))
        before, after = torch.stack(pairs, 1)
        mask = masks(to_uint8(before), edits, self.detector)[0].float()[:, None]
        kwargs = {"seed": seeds, "preview": False, **options}
        ways = [
            before,
            after,
            model.sample(len(edits), second, seed=seeds, **options).cpu(),
            *(last_frame(model.edit(before, second, strength=s, **kwargs)) for s in STRENGTHS),
            last_frame(model.edit(before, second, mask=mask, **kwargs)),
        ]
        return torch.stack(ways, 1)


def masks(
    before: Pixels, edits: Sequence[PromptEdit], detector: Detects
) -> tuple[Bool[Tensor, "e h w"], Bool[Tensor, "e"]]:
    """Return the mask of each edit's box, and whether its object is found.

    If the object is not found, the mask is the whole picture.

    Args:
        before: the picture of each edit before the change.
        edits: the edits with the objects.
        detector: the detector that finds the objects.
    """
    columns = ObjectObserver(detector).detect(before)
    height, width = before.shape[-2:]
    regions, known = torch.ones(len(before), height, width, dtype=torch.bool), list[bool]()
    for mask, objects, edit in zip(regions, findings(columns, detector.kinds), edits):
        matches = objects_named(objects, edit.scene.old.name)
        known.append(bool(matches))
        if matches:
            mask &= box_mask(matches[0].box, height, width)
    return regions, torch.tensor(known)


class ComposedEdits(EditedPictures):
    """Both composed scenes of each edit: `BEFORE` and `AFTER`."""

    ways = 2

    def pictures(self, numbers: Numbers) -> Pixels:
        """Compose the scenes with these numbers."""
        scenes = [self.edits[i // self.ways].scene for i in numbers.tolist()]
        return torch.stack(
            [
                draw_pixels(edit.after if i % self.ways else edit.before, self.real.spec)
                for edit, i in zip(scenes, numbers.tolist())
            ]
        )


class EditObserver(Observer):
    """Observer of the result of each edit, in each of its pictures.

    Args:
        detector: the detector that finds objects.
        lite0: the extractor for the rest of the picture; None if it is not installed.
    """

    name = "edits"

    def __init__(self, detector: Detects, lite0: Extractor | None) -> None:
        self.detector, self.lite0 = detector, lite0
        self.fingerprint = f"edits {detector.fingerprint} {lite0.fingerprint if lite0 else ''}"

    def look(self, pictures: PictureSet, numbers: Numbers, pixels: Pixels) -> Columns:
        """Return `done`, `known` (the object is found before), `pixels` and `lite0` (changes)."""
        assert isinstance(pictures, EditedPictures)
        ways = pictures.ways
        edits = [pictures.edits[i] for i in (numbers // ways).tolist()]
        before = pixels[BEFORE::ways]
        inside, known = masks(before, edits[::ways], self.detector)
        inside, known, before = (x.repeat_interleave(ways, 0) for x in (inside, known, before))
        detections = findings(ObjectObserver(self.detector).detect(pixels), self.detector.kinds)
        is_done = [shows_edit(objects, edit.scene) for objects, edit in zip(detections, edits)]
        columns = {
            "done": torch.tensor(is_done),
            "known": known,
            "pixels": outside_change(before, pixels, inside),
        }
        if self.lite0:
            rest = (
                self.lite0(pixels.masked_fill(inside[:, None], _COVER_LEVEL))
                .features.double()
                .cpu()
            )
            first = rest[BEFORE::ways].repeat_interleave(ways, 0)
            columns["lite0"] = 1 - F.cosine_similarity(first, rest)
        return columns


@metric("edit", paper=PAPER)
class EditSuccess(SceneMetric):
    """Edits of a word of the prompt: the share that succeeds, and the change of the rest."""

    summary = "edits of a word of a scene's caption: how often they succeed, and what else changes"

    @cached_property
    def lite0(self) -> Extractor | None:
        """The extractor for the rest of the picture; None if it is not available."""
        s = self.setting
        is_available = has_lite0() and s.subject.spec.channels == 3
        return open_extractor("lite0", s.subject.spec, s.device) if is_available else None

    @cached_property
    def observer(self) -> EditObserver:
        """The observer of the edits."""
        return EditObserver(self.detector, self.lite0)

    @cached_property
    def edited_pictures(self) -> EditedPictures:
        """The pictures of all edits.

        Raises:
            NotApplicable: there are too few edits.
        """
        s, subject = self.setting, self.setting.subject
        assert isinstance(subject, PaintedPictures)
        edits = edits_of(subject, s.seed)
        if len(edits) < self.min_pictures:
            raise NotApplicable(
                f"it needs at least {self.min_pictures} captions with a word to change, and the "
                f"first {len(subject):,} of {s.reference.name} have {len(edits)}; give a larger -n"
            )
        return EditedPictures(subject, edits, self.detector, f"{s.candidate.fingerprint} {s.seed}")

    @cached_property
    def composed_edits(self) -> ComposedEdits:
        """The composed scenes of the same edits."""
        pictures, s = self.edited_pictures, self.setting
        assert isinstance(s.subject, PaintedPictures)
        fingerprint = f"composed {s.reference.fingerprint} {s.seed}"
        return ComposedEdits(s.subject, pictures.edits, self.detector, fingerprint)

    def needs(self) -> list[tuple[PictureSet, Observer]]:
        """Request the pictures of all edits.

        Raises:
            NotApplicable: the reference does not consist of scenes, the model cannot reword
                prompts, there are too few edits, or the metric was not named.
        """
        s = self.setting
        data, model = s.reference.dataset, s.model
        if not isinstance(data, ComposedScenes):
            raise NotApplicable(
                f"it changes words in captions of scenes, and {s.reference.name} has others"
            )
        if not (isinstance(s.subject, PaintedPictures) and model):
            raise NotApplicable(f"{s.subject.name} are pictures; name a model that paints them")
        if not (isinstance(model, Rewords) and isinstance(model, Edits)):
            raise NotApplicable(f"{model.name} models cannot edit pictures by rewording")
        if not (data.spec.text and model.spec.text):
            raise NotApplicable(f"{s.subject.name} is given no captions")
        self.skip_unless_named("it paints eight pictures for each of -n; name it in --metrics")
        try:
            detector, pictures = self.detector, self.edited_pictures
            before, after = (Condition(text=row[None]) for row in pictures.edits[0].text)
            model.check_words(before, after)
        except LimnerError as error:
            raise NotApplicable(str(error)) from None
        if missing := {*data.objects} - {*detector.kinds}:
            raise NotApplicable(f"{detector.name} does not know the object {min(missing)}")
        return [(pictures, self.observer), (self.composed_edits, self.observer)]

    def numbers(self, observations: Observations) -> list[Number]:
        """Compute shares and changes of the model's own edits, and of the three other methods."""
        columns, real = (
            {
                name: column.unflatten(0, (-1, pictures.ways))
                for name, column in observations.of(pictures, self.observer).items()
            }
            for pictures in (self.edited_pictures, self.composed_edits)
        )
        shares = columns["done"].double().mean(0)
        strengths = range(FIRST_SDEDIT, FIRST_SDEDIT + len(STRENGTHS))
        best = max(strengths, key=lambda way: float(shares[way]))
        choices = ", ".join(f"{strength:g}" for strength in STRENGTHS)
        protocol = f"strength {STRENGTHS[best - FIRST_SDEDIT]:g}, the best of {choices}"
        return [
            *self._of_way(SUBJECT, AFTER, columns),
            *self._of_way(f"real ({self.setting.reference.name})", AFTER, real),
            *self._of_way("same seed", SAME_SEED, columns),
            *self._of_way("SDEdit", best, columns, protocol),
            *self._of_way("in-painting", IN_PAINTING, columns),
        ]

    def _of_way(
        self, row: str, way: int, columns: dict[str, Tensor], protocol: str = ""
    ) -> Iterator[Number]:
        """Yield the numbers of one method of editing.

        Args:
            row: the name of the row.
            way: the index of the method's picture among the eight.
            columns: the observed columns of all pictures, "edits 8".
            protocol: what else affects the numbers, in a few words.
        """
        fields: dict[str, Any] = {"row": row, "protocol": protocol}
        right, known = columns["done"][:, way], columns["known"][:, way]
        yield self._share(self.name, right, **fields)
        for kind, name in (("object", "objects"), ("colour", "colours")):
            mask = torch.tensor([edit.scene.kind == kind for edit in self.edited_pictures.edits])
            if mask.any():
                yield self._share(name, right[mask], **fields)
        fields["better"] = "lower"
        for column, name in (("pixels", "outside change"), ("lite0", "outside lite0")):
            if column in columns and known.any():
                values = columns[column][known, way]
                yield self.mean(name, values, 0, **fields)
        if way == AFTER:
            yield self._share("object found", known, row=row)

    def _share(self, name: str, right: Bool[Tensor, "n"], **more: Any) -> Number:
        """Compute a share with its interval; higher is better."""
        return self.share(name, right, **{"better": self.better, **more})

    def sheets(self, observations: Observations) -> dict[str, Pixels]:
        """Return the first edits, a row each: before, after, and the other methods."""
        return {
            "edits": observations.pixels(
                self.edited_pictures,
                range(min(_SHEET_EDITS * EDITS_PER_SCENE, len(self.edited_pictures))),
            )
        }
