"""Can a word of a prompt be changed, so that the picture follows and the rest of it stays?

Of each scene one word of the caption changes, an object or a colour: `limner.data.scene_edits`. The
model paints the picture of the caption, and again with the word changed, by its own `reword`.

    edit             share of edits in which the detector of scenes finds what was asked for: the
                     new object and none of the old kind, or the object in its new colour
    objects, colours the same, of edits of either kind
    outside change   how much pixels change outside of the object's box: |after - before|, a mean
                     over pixels, channels and edits, as a share of the range
    outside lite0    1 - cosine of lite0's features of both, the box covered in grey; where that
                     extractor is installed
    object found     share of edits whose object the detector finds in the picture before

The box is what the detector finds in the picture before, with a sixteenth of the side around it;
edits whose object it does not find there have no outside, and are left out of it. The row `real`
has the same numbers of the scenes themselves, composed before and after the change: what no model
can be asked to exceed. Beside the model's numbers stand those of three other ways to the same
captions, from the same seeds:

    same seed        the new caption painted anew
    SDEdit           the picture before under noise, painted on with the new caption; at the
                     strength with the largest share (Meng et al. 2021, arXiv:2108.01073)
    in-painting      the box painted anew with the new caption; where there is none, everything

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
from limner.contract.rewording import Rewording, aligned_prompts
from limner.contract.text import Tokenizer
from limner.data.scene_edits import SceneEdit, draw_edit
from limner.data.scenes import ComposedScenes, drawn_pixels
from limner.evaluate.extractors.choose import extractor
from limner.evaluate.extractors.extractor import Detects, Extractor
from limner.evaluate.extractors.weights import has_lite0
from limner.evaluate.metric import NotApplicable, metric
from limner.evaluate.metrics.composition import (
    Finding,
    ObjectObserver,
    Request,
    SceneMetric,
    Wanted,
    findings,
    of_name,
    shows,
)
from limner.evaluate.passes import Columns, Observer, Seen
from limner.evaluate.picture_sets import Numbers, PaintedPictures, PictureSet, Pixels
from limner.evaluate.report import SUBJECT, Number

PAPER = Paper(
    "Prompt-to-prompt image editing with cross-attention control",
    "Hertz, Mokady, Tenenbaum, Aberman, Pritch, Cohen-Or",
    2022,
    "2208.01626",
)
STRENGTHS = (0.3, 0.5, 0.7, 0.9)
"""Of SDEdit."""
BEFORE, AFTER, SAME_SEED, FIRST_SDEDIT, IN_PAINTING = 0, 1, 2, 3, 7
WAYS = 8
"""Pictures of each edit, SDEdit's by their strengths. A block of 64 holds whole edits."""
_AROUND = 1 / 16  # of a side: what belongs to a box beyond its edges
_SHOWN = 8  # edits on the sheet
_COVER = 128  # the grey level of what lite0 is not to see


class PromptEdit(NamedTuple):
    """An edit of a numbered picture.

    Args:
        number: of the picture among the real ones.
        scene: before and after.
        text: the tokens of both captions.
    """

    number: int
    scene: SceneEdit
    text: Int[Tensor, "2 l"]


def done(found: Sequence[Finding], edit: SceneEdit) -> bool:
    """Whether a picture shows what an edit asks for.

    Args:
        found: the objects in it.
        edit: with the change.
    """
    coloured = edit.kind == "colour"
    wanted = Wanted(edit.new.name, edit.new.colour if coloured else None)
    gone = coloured or not of_name(found, edit.old.name)
    return gone and shows(found, Request("single", (wanted,)))


def box_mask(box: Sequence[float], height: int, width: int) -> Bool[Tensor, "h w"]:
    """The pixels of a box, and of what is around it.

    Args:
        box: left, top, right, bottom as shares of a side.
        height, width: of the picture.
    """
    left, top, right, bottom = box
    x, y = ((torch.arange(side) + 0.5) / side for side in (width, height))
    within_x = (x > left - _AROUND) & (x < right + _AROUND)
    within_y = (y > top - _AROUND) & (y < bottom + _AROUND)
    return within_y[:, None] & within_x


def outside_change(
    before: Pixels, after: Pixels, inside: Bool[Tensor, "b h w"]
) -> Float64[Tensor, "b"]:
    """The mean absolute difference of pixels outside of masks, as a share of the range."""
    difference = (after.double() - before.double()).abs().mean(1) / 255
    outside = ~inside
    return (difference * outside).sum((1, 2)) / outside.sum((1, 2)).clamp(min=1)


def last(frames: Iterable[Images]) -> Images:
    """The finished pictures."""
    return deque(frames, maxlen=1).pop().cpu()


def edits_of(subject: PaintedPictures, seed: int) -> list[PromptEdit]:
    """An edit of each caption in which a word can change, and where the model sees the change.

    Args:
        subject: painted of the captions of real scenes.
        seed: of the edits; each depends on it and on the scene's number alone.
    """
    data, spec = subject.real.dataset, subject.spec.text
    assert isinstance(data, ComposedScenes) and spec is not None
    tokenizer, found = Tokenizer(spec), list[PromptEdit]()
    for number, index in enumerate(subject.real.indices(torch.arange(len(subject))).tolist()):
        scene = data.scene(index)
        edit = scene and draw_edit(scene, data.objects, f"{seed}/{index}")
        if edit:
            text = tokenizer.encode([edit.before.caption, edit.after.caption])
            if not torch.equal(*text):
                found.append(PromptEdit(number, edit, text))
    return found


class EditedPictures(PaintedPictures):
    """Eight pictures of each edit: `BEFORE`, `AFTER`, and those of the other ways.

    Args:
        subject: what the model paints of the captions of real scenes; it rewords and edits.
        edits: of these captions.
        detector: what finds the boxes that are painted anew.
        fingerprint: of the model and of the edits.
    """

    ways = WAYS

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
        """All eight of each edit that is asked for, painted now."""
        which = (numbers // WAYS).unique()
        painted = self._paint([self.edits[i] for i in which.tolist()])
        rows = torch.searchsorted(which, numbers // WAYS)
        return self.to_pixels(painted[rows, numbers % WAYS])

    def _paint(self, edits: Sequence[PromptEdit]) -> Float[Tensor, "e 8 c h w"]:
        model, options = self.model, self.options
        assert isinstance(model, Rewords) and isinstance(model, Edits)
        seeds = [self.seed + edit.number for edit in edits]
        c = self.real.condition(torch.tensor([edit.number for edit in edits]), self.spec)
        first, second = (replace(c, text=t) for t in torch.stack([e.text for e in edits], 1))
        pairs: list[Images] = []
        for i, edit in enumerate(edits):
            change = Rewording(aligned_prompts(edit.text), torch.ones(edit.text.shape[1]))
            one, other = (each.rows(slice(i, i + 1)) for each in (first, second))
            given = {"seed": [seeds[i]], "preview": False, **options}
            pairs.append(last(model.reword(one, other, change, **given)))
        before, after = torch.stack(pairs, 1)
        mask = masks(to_uint8(before), edits, self.detector)[0].float()[:, None]
        given = {"seed": seeds, "preview": False, **options}
        ways = [
            before,
            after,
            model.sample(len(edits), second, seed=seeds, **options).cpu(),
            *(last(model.edit(before, second, strength=s, **given)) for s in STRENGTHS),
            last(model.edit(before, second, mask=mask, **given)),
        ]
        return torch.stack(ways, 1)


def masks(
    before: Pixels, edits: Sequence[PromptEdit], detector: Detects
) -> tuple[Bool[Tensor, "e h w"], Bool[Tensor, "e"]]:
    """The pixels of each edit's box, all where its object is not found, and whether it is found.

    Args:
        before: the picture of each edit before it.
        edits: with the objects.
        detector: what finds them.
    """
    seen = ObjectObserver(detector).detect(before)
    height, width = before.shape[-2:]
    found, known = torch.ones(len(before), height, width, dtype=torch.bool), list[bool]()
    for mask, objects, edit in zip(found, findings(seen, detector.kinds), edits):
        these = of_name(objects, edit.scene.old.name)
        known.append(bool(these))
        if these:
            mask &= box_mask(these[0].box, height, width)
    return found, torch.tensor(known)


class ComposedEdits(EditedPictures):
    """Both scenes of each edit, as they are composed: `BEFORE` and `AFTER`."""

    ways = 2

    def pictures(self, numbers: Numbers) -> Pixels:
        """Those that are asked for, composed now."""
        scenes = [self.edits[i // self.ways].scene for i in numbers.tolist()]
        return torch.stack(
            [
                drawn_pixels(edit.after if i % self.ways else edit.before, self.real.spec)
                for edit, i in zip(scenes, numbers.tolist())
            ]
        )


class EditObserver(Observer):
    """What became of each edit, in each of its pictures.

    Args:
        detector: what finds objects.
        lite0: what sees the rest of the picture; None where it is not installed.
    """

    name = "edits"

    def __init__(self, detector: Detects, lite0: Extractor | None) -> None:
        self.detector, self.lite0 = detector, lite0
        self.fingerprint = f"edits {detector.fingerprint} {lite0.fingerprint if lite0 else ''}"

    def look(self, pictures: PictureSet, numbers: Numbers, pixels: Pixels) -> Columns:
        """`done`, `known` (the object is found before), `pixels` and `lite0` (changes outside)."""
        assert isinstance(pictures, EditedPictures)
        ways = pictures.ways
        of_each = [pictures.edits[i] for i in (numbers // ways).tolist()]
        before = pixels[BEFORE::ways]
        inside, known = masks(before, of_each[::ways], self.detector)
        inside, known, before = (x.repeat_interleave(ways, 0) for x in (inside, known, before))
        objects = findings(ObjectObserver(self.detector).detect(pixels), self.detector.kinds)
        right = [done(found, edit.scene) for found, edit in zip(objects, of_each)]
        seen = {
            "done": torch.tensor(right),
            "known": known,
            "pixels": outside_change(before, pixels, inside),
        }
        if self.lite0:
            rest = self.lite0(pixels.masked_fill(inside[:, None], _COVER)).features.double().cpu()
            first = rest[BEFORE::ways].repeat_interleave(ways, 0)
            seen["lite0"] = 1 - F.cosine_similarity(first, rest)
        return seen


@metric("edit", paper=PAPER)
class Edit(SceneMetric):
    """Edits by words: whether they are done, and what else they change."""

    summary = "a word of a scene's caption changed: how often it is done, and what else changes"

    @cached_property
    def lite0(self) -> Extractor | None:
        """What sees the rest of the picture, where it is installed."""
        s = self.setting
        fits = has_lite0() and s.subject.spec.channels == 3
        return extractor("lite0", s.subject.spec, s.device) if fits else None

    @cached_property
    def observer(self) -> EditObserver:
        """What looks at the edits."""
        return EditObserver(self.detector, self.lite0)

    @cached_property
    def edited_pictures(self) -> EditedPictures:
        """The pictures of all edits.

        Raises:
            NotApplicable: there are too few.
        """
        s, subject = self.setting, self.setting.subject
        assert isinstance(subject, PaintedPictures)
        edits = edits_of(subject, s.seed)
        if len(edits) < self.least:
            raise NotApplicable(
                f"it needs at least {self.least} captions with a word to change, and the first "
                f"{len(subject):,} of {s.reference.name} have {len(edits)}; give a larger -n"
            )
        return EditedPictures(subject, edits, self.detector, f"{s.candidate.fingerprint} {s.seed}")

    @cached_property
    def composed_edits(self) -> ComposedEdits:
        """The scenes of the same edits."""
        edited, s = self.edited_pictures, self.setting
        assert isinstance(s.subject, PaintedPictures)
        told = f"composed {s.reference.fingerprint} {s.seed}"
        return ComposedEdits(s.subject, edited.edits, self.detector, told)

    def needs(self) -> list[tuple[PictureSet, Observer]]:
        """The pictures of all edits.

        Raises:
            NotApplicable: the reference is not of scenes, the model cannot edit by words, there are
                too few edits, or the metric was not named.
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
            raise NotApplicable(f"{model.name} models do not edit pictures by words")
        if not (data.spec.text and model.spec.text):
            raise NotApplicable(f"{s.subject.name} is given no captions")
        self.skip_unless_named("it paints eight pictures for each of -n; name it in --metrics")
        try:
            detector, edited = self.detector, self.edited_pictures
            before, after = (Condition(text=row[None]) for row in edited.edits[0].text)
            model.check_words(before, after)
        except LimnerError as error:
            raise NotApplicable(str(error)) from None
        if missing := {*data.objects} - {*detector.kinds}:
            raise NotApplicable(f"{detector.name} does not know the object {min(missing)}")
        return [(edited, self.observer), (self.composed_edits, self.observer)]

    def numbers(self, seen: Seen) -> list[Number]:
        """Shares and changes of the model's own edits, and of the three other ways."""
        columns, real = (
            {
                name: column.unflatten(0, (-1, pictures.ways))
                for name, column in seen.of(pictures, self.observer).items()
            }
            for pictures in (self.edited_pictures, self.composed_edits)
        )
        shares = columns["done"].double().mean(0)
        strengths = range(FIRST_SDEDIT, FIRST_SDEDIT + len(STRENGTHS))
        best = max(strengths, key=lambda way: float(shares[way]))
        said = ", ".join(f"{strength:g}" for strength in STRENGTHS)
        at = f"strength {STRENGTHS[best - FIRST_SDEDIT]:g}, the best of {said}"
        return [
            *self._of_way(SUBJECT, AFTER, columns),
            *self._of_way(f"real ({self.setting.reference.name})", AFTER, real),
            *self._of_way("same seed", SAME_SEED, columns),
            *self._of_way("SDEdit", best, columns, at),
            *self._of_way("in-painting", IN_PAINTING, columns),
        ]

    def _of_way(
        self, row: str, way: int, columns: dict[str, Tensor], protocol: str = ""
    ) -> Iterator[Number]:
        """The numbers of one way to edit.

        Args:
            row: what it is called.
            way: which of the eight pictures.
            columns: of all, "edits 8".
            protocol: what else decides it.
        """
        told: dict[str, Any] = {"row": row, "protocol": protocol}
        right, known = columns["done"][:, way], columns["known"][:, way]
        yield self._share(self.name, right, **told)
        for kind, name in (("object", "objects"), ("colour", "colours")):
            of_kind = torch.tensor([edit.scene.kind == kind for edit in self.edited_pictures.edits])
            if of_kind.any():
                yield self._share(name, right[of_kind], **told)
        told["better"] = "lower"
        for what, name in (("pixels", "outside change"), ("lite0", "outside lite0")):
            if what in columns and known.any():
                each = columns[what][known, way]
                yield self.mean(name, each, 0, **told)
        if way == AFTER:
            yield self._share("object found", known, row=row)

    def _share(self, name: str, which: Bool[Tensor, "n"], **told: Any) -> Number:
        """A share with its interval."""
        return self.share(name, which, **{"better": self.better, **told})

    def sheets(self, seen: Seen) -> dict[str, Pixels]:
        """The first edits, a row each: before, after, and the other ways."""
        return {
            "edits": seen.pixels(
                self.edited_pictures, range(min(_SHOWN * WAYS, len(self.edited_pictures)))
            )
        }
