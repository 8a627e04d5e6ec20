"""Composition: do pictures show the objects of their captions? GenEval's six skills.

A detector finds the objects.

    single object       the object is there
    two objects         both objects are there
    counting            there is exactly the requested number of objects
    colours             the object is there, and has the colour
    position            both are there, and one is where the caption says, seen from the other
    colour attribution  both are there, and each has its colour

Captions are those of `scenes`, whose content is known. If an object was found twice, the finding
with the higher score gives its colour and place.

Kept from GenEval: the six skills, their rules, the score threshold of an object, and the rules of
left, right, above and below. Different: the detector names colours, too. The threshold is the same
for counting, where GenEval uses 0.9: in 2,400 real scenes the detector never counted too many
objects from a threshold of 0.15 on, and counted too few more and more often above 0.4. "On top of"
and "inside" are decided with boxes; GenEval does not have them.

Reference:
    Ghosh, Hajishirzi, Schmidt (2023). GenEval: an object-focused framework for evaluating
    text-to-image alignment. arXiv:2310.11513.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch

from limner.contract.errors import LimnerError
from limner.contract.layout import COLOURS, NO_OBJECT
from limner.contract.registry import Paper
from limner.data.composition import Scene
from limner.data.dataset import Dataset
from limner.data.scenes import ComposedScenes
from limner.evaluate.extractors.choose import open_extractor
from limner.evaluate.extractors.extractor import Detects, find_objects
from limner.evaluate.metric import Metric, NotApplicable, metric
from limner.evaluate.metrics.statistics import (
    IntervalEstimate,
    combine_intervals,
    random_order,
    wilson_interval,
)
from limner.evaluate.passes import Columns, Observations, Observer
from limner.evaluate.picture_sets import Numbers, PaintedPictures, PictureSet, Pixels, RealPictures
from limner.evaluate.report import SUBJECT, Number

PAPER = Paper(
    "GenEval: an object-focused framework for evaluating text-to-image alignment",
    "Ghosh, Hajishirzi, Schmidt",
    2023,
    "2310.11513",
)
SKILL_NAMES = {
    "single": "single object",
    "two": "two objects",
    "counting": "counting",
    "colours": "colours",
    "position": "position",
    "attribution": "colour attribution",
}
"""GenEval's skills: the name in scenes, and the name in reports."""
COLOUR_SKILLS = ("colours", "attribution")
"""The skills that check the colours in the caption."""
MIN_SCORE = 0.3
"""An object counts as found from this score on; the value is GenEval's."""
MIN_SCENES = 10
"""The smallest number of pictures of a skill for which its share is reported."""
_POSITION_MARGIN = 0.1  # of the sum of two objects' sides; GenEval's value
_MIN_DIRECTION_SHARE = 0.5  # share of the distance that lies in the direction; GenEval's value
_MIN_CONTAINED_SHARE = 0.25  # least share of the inner object's box that lies in the outer one's
# Least share of the narrower object's width that overlaps with the other's.
_MIN_OVERLAP_SHARE = 0.5


class RequestedObject(NamedTuple):
    """An object that a caption requests.

    Args:
        name: the name of its kind.
        colour: the requested colour; None for any colour.
        exact_count: the requested number of objects; None for at least one.
    """

    name: str
    colour: str | None = None
    exact_count: int | None = None


class SceneRequest(NamedTuple):
    """The content that a caption requests.

    Args:
        skill: one of `SKILL_NAMES`.
        objects: the requested objects.
        relation: the place of the first object, seen from the second; None for any place.
    """

    skill: str
    objects: tuple[RequestedObject, ...]
    relation: str | None = None


class DetectedObject(NamedTuple):
    """An object that a detector finds.

    Args:
        name: the name of its kind.
        colour: its colour; None if no colour dominates.
        score: the confidence of the detector, from 0 to 1.
        box: left, top, right, bottom; y points down.
    """

    name: str
    colour: str | None
    score: float
    box: tuple[float, float, float, float]


def request_of(scene: Scene) -> SceneRequest | None:
    """Return what the caption of a scene requests; None if it tests none of GenEval's skills."""
    if scene.skill not in SKILL_NAMES:
        return None
    if scene.skill == "counting":
        return SceneRequest(
            scene.skill, (RequestedObject(scene.things[0].name, exact_count=len(scene.things)),)
        )
    is_coloured = scene.skill in COLOUR_SKILLS
    objects = [
        RequestedObject(thing.name, thing.colour if is_coloured else None) for thing in scene.things
    ]
    if scene.relation is None:
        return SceneRequest(scene.skill, tuple(objects))
    kind, first, second = scene.relation
    return SceneRequest(scene.skill, (objects[first], objects[second]), kind)


def shows_request(objects: Sequence[DetectedObject], request: SceneRequest) -> bool:
    """Return whether a picture shows what its caption requests.

    Args:
        objects: the objects found in the picture, in any order.
        request: the request of the caption.
    """
    matches: list[DetectedObject] = []
    for requested in request.objects:
        candidates = objects_named(objects, requested.name)
        if not candidates or (
            requested.exact_count is not None and len(candidates) != requested.exact_count
        ):
            return False
        if requested.colour is not None and candidates[0].colour != requested.colour:
            return False
        matches.append(candidates[0])
    return request.relation is None or request.relation in relations(matches[0], matches[1])


def objects_named(objects: Sequence[DetectedObject], name: str) -> list[DetectedObject]:
    """Return the objects of a kind that count as found, the highest score first."""
    matches = [each for each in objects if each.name == name and each.score >= MIN_SCORE]
    return sorted(matches, key=lambda each: (each.score, each.box), reverse=True)


def relations(a: DetectedObject, b: DetectedObject) -> set[str]:
    """Return the relations of object a to object b.

    Offsets of the centres, less a margin of `_POSITION_MARGIN` of both sizes, are compared with the
    distance of the centres. An object on top of another one stands on its upper edge. An object
    inside another one is smaller, and a part of its box lies in the other's box.
    """
    (ax, ay, aw, ah), (bx, by, bw, bh) = (_centre_and_size(finding.box) for finding in (a, b))
    dx, dy = ax - bx, ay - by
    distance = math.hypot(dx, dy)
    across, down = (
        _excess(dx, _POSITION_MARGIN * (aw + bw)),
        _excess(dy, _POSITION_MARGIN * (ah + bh)),
    )
    names: set[str] = set()
    if distance > 0:
        names |= {name for name, along in (
            ("left of", -across), ("right of", across), ("above", -down), ("below", down),
        ) if along / distance > _MIN_DIRECTION_SHARE}  # fmt: skip
    width = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])
    height = min(a.box[3], b.box[3]) - max(a.box[1], b.box[1])
    overlaps = width >= _MIN_OVERLAP_SHARE * min(aw, bw)
    if dy < 0 and overlaps and abs(height) <= _POSITION_MARGIN * (ah + bh):
        names.add("on top of")
    if (
        width > 0
        and height > 0
        and width * height >= _MIN_CONTAINED_SHARE * aw * ah
        and aw * ah < bw * bh
    ):
        names.add("inside")
    return names


def mean_share(shares: Sequence[tuple[float, int]]) -> IntervalEstimate:
    """Compute the mean of shares with its 95 % interval.

    Args:
        shares: for each part, the share and the number of things in which it was counted.

    Raises:
        LimnerError: there are no parts.
    """
    if not shares:
        raise LimnerError("a mean of shares needs at least one share")
    mean = sum(share for share, _ in shares) / len(shares)
    limits = [(share, *wilson_interval(share, n)) for share, n in shares]
    return combine_intervals(
        mean,
        [
            (mean - (share - low) / len(shares), mean + (high - share) / len(shares))
            for share, low, high in limits
        ],
    )


class ObjectObserver(Observer):
    """Observer of the objects that a detector finds.

    Args:
        detector: an extractor that finds objects.
    """

    lasting = True

    def __init__(self, detector: Detects) -> None:
        self.detector = detector
        self.name = "objects"
        self.fingerprint = f"objects {detector.fingerprint}"

    def look(self, pictures: PictureSet, numbers: Numbers, pixels: Pixels) -> Columns:
        """Return the objects of `detect`."""
        return self.detect(pixels)

    def detect(self, pixels: Pixels) -> Columns:
        """Return the objects as `kind`, `colour` and `score`, "b k", and `box`, "b k 4"."""
        (kind, colour, box), score = find_objects(self.detector, pixels)
        columns = {"kind": kind, "colour": colour, "score": score, "box": box}
        return {name: column.cpu() for name, column in columns.items()}


def findings(columns: Columns, kinds: tuple[str, ...]) -> list[list[DetectedObject]]:
    """Convert the output of a detector to a list of findings for each picture.

    Args:
        columns: the columns of `ObjectObserver`.
        kinds: the names of the detector's kinds.
    """
    return [
        [
            DetectedObject(kinds[k], None if c == NO_OBJECT else COLOURS[c], score, tuple(box))
            for k, c, score, box in zip(*row)
            if k != NO_OBJECT
        ]
        for row in zip(*(columns[name].tolist() for name in ("kind", "colour", "score", "box")))
    ]


class SceneMetric(Metric):
    """Base class of metrics of scenes that use a detector of objects."""

    reads = ("layouts", "captions")
    better = "higher"
    min_pictures = MIN_SCENES
    redrawn = ("subject",)

    @cached_property
    def detector(self) -> Detects:
        """The setting's extractor if it finds objects, otherwise the bundled detector."""
        s = self.setting
        if isinstance(s.extractor, Detects):
            return s.extractor
        detector = open_extractor("scene-judge", s.reference.spec, s.device)
        assert isinstance(detector, Detects)
        return detector

    @property
    def extractor(self) -> Detects:
        """The detector."""
        return self.detector


@metric("composition", paper=PAPER)
class Composition(SceneMetric):
    """The shares of GenEval's six skills, and their mean."""

    summary = "captions of scenes: how often the objects, counts, colours and places are there"

    @cached_property
    def observer(self) -> ObjectObserver:
        """The observer of the objects."""
        return ObjectObserver(self.detector)

    @cached_property
    def real(self) -> RealPictures:
        """As many pictures of the reference as the subject has."""
        return self.setting.reference.first(len(self.setting.subject))

    @cached_property
    def requests(self) -> list[SceneRequest | None]:
        """The request of each picture's caption, for the subject."""
        return requests_of(self.setting.subject, self.real)

    def pictures_needed(self, data: ComposedScenes, skills: Sequence[str]) -> int:
        """Return how many of the first real pictures are needed to have enough of each skill."""
        counts, n = dict.fromkeys(skills, 0), 0
        while n < len(self.setting.reference) and min(counts.values()) < MIN_SCENES:
            request = request_at(data, int(self.setting.reference.indices(torch.tensor([n]))[0]))
            if request is not None:
                counts[request.skill] += 1
            n += 1
        return n

    def needs(self) -> list[tuple[PictureSet, Observer]]:
        """Request the objects in the subject, and in as many real pictures.

        Raises:
            NotApplicable: there are no captions, they are not those of scenes, or there are too few
                of a skill.
        """
        s = self.setting
        data = s.reference.dataset
        if not isinstance(data, ComposedScenes):
            raise NotApplicable(f"it checks captions of scenes, and {s.reference.name} has others")
        if not (skills := [skill for skill in SKILL_NAMES if skill in data.composer.skills]):
            names = ", ".join(SKILL_NAMES)
            raise NotApplicable(f"{s.reference.name} has none of the skills {names}")
        if s.subject.captions(torch.arange(1)) is None:
            raise NotApplicable(f"{s.subject.name} was given no captions")
        try:
            requests, detector = self.requests, self.extractor
        except LimnerError as error:
            raise NotApplicable(str(error)) from None
        if missing := {*data.objects} - {*detector.kinds}:
            raise NotApplicable(f"{detector.name} does not know the object {min(missing)}")
        fewest = min(skills, key=lambda skill: count_requests(requests, skill))
        if (n := count_requests(requests, fewest)) < self.min_pictures:
            raise NotApplicable(
                f"it needs at least {self.min_pictures} pictures of each skill, and the first "
                f"{len(requests):,} of {s.reference.name} have {n} of {SKILL_NAMES[fewest]}; give "
                f"-n {self.pictures_needed(data, skills):,} or more"
            )
        return [(pictures, self.observer) for pictures in (s.subject, self.real)]

    def numbers(self, observations: Observations) -> list[Number]:
        """Compute the share of each skill and their mean.

        They are computed for the subject, for the real pictures, and for the subject's pictures
        with exchanged captions.
        """
        subject, real = (
            findings(observations.of(pictures, self.observer), self.extractor.kinds)
            for pictures in (self.setting.subject, self.real)
        )
        requests = self.requests
        rows = [
            (SUBJECT, subject, requests),
            (f"real ({self.real.name})", real, requests_of(self.real, self.real)),
            ("shuffled captions", subject, exchange_requests(requests)),
        ]
        return [number for row in rows for number in self.numbers_of_row(*row)]

    def numbers_of_row(
        self,
        row: str,
        detected: Sequence[Sequence[DetectedObject]],
        requests: Sequence[SceneRequest | None],
    ) -> Iterator[Number]:
        """Yield the numbers of a row, for pictures and the requests of their captions."""
        right: dict[str, list[bool]] = {skill: [] for skill in SKILL_NAMES}
        for objects, request in zip(detected, requests):
            if request is not None:
                right[request.skill].append(shows_request(objects, request))
        skills = {skill: values for skill, values in right.items() if values}
        fields: dict[str, Any] = {"row": row, "better": self.better}
        mean = mean_share([(sum(values) / len(values), len(values)) for values in skills.values()])
        n = sum(map(len, skills.values()))
        protocol = f"the mean of {len(skills)} skills"
        yield self.number(self.name, mean, n, protocol=protocol, **fields)
        for skill, values in skills.items():
            yield self.share(SKILL_NAMES[skill], torch.tensor(values), **fields)


def requests_of(pictures: PictureSet, real: RealPictures) -> list[SceneRequest | None]:
    """Return the request of each picture's caption.

    Args:
        pictures: pictures painted from the captions of real scenes, or real scenes, or pictures
            with the same captions as real scenes.
        real: the scenes in which captions are looked up.

    Raises:
        LimnerError: a caption is not found among the real scenes.
    """
    numbers = torch.arange(len(pictures))
    scenes = pictures.real if isinstance(pictures, PaintedPictures) else pictures
    if isinstance(scenes, RealPictures) and isinstance(scenes.dataset, ComposedScenes):
        return [request_at(scenes.dataset, i) for i in scenes.indices(numbers).tolist()]
    real_captions = real.captions(torch.arange(len(real))) or []
    requests = dict(zip(real_captions, requests_of(real, real)))
    captions = pictures.captions(numbers) or []
    for number, caption in enumerate(captions):
        if caption not in requests:
            raise LimnerError(
                f"{pictures.title(number)} has none of the captions of the first {len(real):,} "
                f"pictures of {real.name}"
            )
    return [requests[caption] for caption in captions]


def request_at(data: Dataset, index: int) -> SceneRequest | None:
    """Return what the caption of one picture of a data set of scenes requests."""
    assert isinstance(data, ComposedScenes)
    scene = data.scene(index)
    return scene and request_of(scene)


def count_requests(requests: Sequence[SceneRequest | None], skill: str) -> int:
    """Count the requests of a skill."""
    return sum(request is not None and request.skill == skill for request in requests)


def exchange_requests(requests: Sequence[SceneRequest | None]) -> list[SceneRequest | None]:
    """Give each picture the request of another, random picture of the same skill."""
    exchanged = list(requests)
    for skill in SKILL_NAMES:
        places = [i for i, each in enumerate(requests) if each is not None and each.skill == skill]
        order = [places[i] for i in random_order(len(places), 0).tolist()]
        for target, source in zip(order, [*order[1:], *order[:1]]):
            exchanged[target] = requests[source]
    return exchanged


def _centre_and_size(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """Return centre, width and height of a box."""
    left, top, right, bottom = box
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


def _excess(offset: float, margin: float) -> float:
    """Shrink an offset towards 0 by a margin."""
    return math.copysign(max(abs(offset) - margin, 0.0), offset)
