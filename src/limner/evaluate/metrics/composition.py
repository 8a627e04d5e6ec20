"""Does a picture show the objects that its caption asks for? GenEval's six skills, by a detector.

    single object       the object is there
    two objects         both are
    counting            there are exactly so many
    colours             the object is there, and has the colour
    position            both are there, and one is where the caption says, seen from the other
    colour attribution  both are there, and each has its colour

Captions are those of `scenes`, of which it is known what they say. Where an object was found twice,
its colour and place are those of the surer finding.

Kept from GenEval: the six skills, their rules, the score from which an object counts as found, and
the law of left, right, above and below. Different: the detector names colours, too; the score is
the same for counting (GenEval's is 0.9 there), for in 2,400 real scenes the detector counted never
too many from 0.15 on, and ever more often too few above 0.4; "on top of" and "inside" are told by
boxes, which GenEval does not ask for.

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
from limner.contract.layout import COLOURS, NONE
from limner.contract.registry import Paper
from limner.data.composition import Scene
from limner.data.dataset import Dataset
from limner.data.scenes import ComposedScenes
from limner.evaluate.extractors.choose import extractor
from limner.evaluate.extractors.extractor import Detects, find_objects
from limner.evaluate.metric import Metric, NotApplicable, metric
from limner.evaluate.metrics.statistics import (
    Estimate,
    combine_intervals,
    random_order,
    wilson_interval,
)
from limner.evaluate.passes import Columns, Observer, Seen
from limner.evaluate.picture_sets import Numbers, PaintedPictures, PictureSet, Pixels, RealPictures
from limner.evaluate.report import SUBJECT, Number

PAPER = Paper(
    "GenEval: an object-focused framework for evaluating text-to-image alignment",
    "Ghosh, Hajishirzi, Schmidt",
    2023,
    "2310.11513",
)
SKILLS = {
    "single": "single object",
    "two": "two objects",
    "counting": "counting",
    "colours": "colours",
    "position": "position",
    "attribution": "colour attribution",
}
"""GenEval's skills as scenes call them, and as reports do."""
COLOURED = ("colours", "attribution")
"""The skills whose captions say the colours that are asked for."""
LEAST_SCORE = 0.3
"""From this score on an object counts as found; GenEval's own."""
LEAST = 10
"""A share of fewer pictures of a skill says nothing."""
_MARGIN = 0.1  # GenEval's: of the sum of two objects' sides
_ALONG = 0.5  # GenEval's: of the distance, that lies in the direction
_WITHIN = 0.25  # of an object's box, that is in the box of what it is inside of
_STANDING = 0.5  # of the narrower of two objects, that is above the other


class Wanted(NamedTuple):
    """An object that a caption asks for.

    Args:
        name: of its kind.
        colour: which it is to have; None where the caption leaves that open.
        exactly: how many; None for at least one.
    """

    name: str
    colour: str | None = None
    exactly: int | None = None


class Request(NamedTuple):
    """What a caption asks for.

    Args:
        skill: one of `SKILLS`.
        wanted: the objects.
        relation: where the first of them is to be, seen from the second; None where that is open.
    """

    skill: str
    wanted: tuple[Wanted, ...]
    relation: str | None = None


class Finding(NamedTuple):
    """An object that a detector finds.

    Args:
        name: of its kind.
        colour: of it; None where none rules it.
        score: from 0 to 1, how sure the detector is.
        box: left, top, right, bottom; y down.
    """

    name: str
    colour: str | None
    score: float
    box: tuple[float, float, float, float]


def request_of(scene: Scene) -> Request | None:
    """What the caption of a scene asks for; None where that is none of GenEval's skills."""
    if scene.skill not in SKILLS:
        return None
    if scene.skill == "counting":
        return Request(scene.skill, (Wanted(scene.things[0].name, exactly=len(scene.things)),))
    coloured = scene.skill in COLOURED
    wanted = [Wanted(each.name, each.colour if coloured else None) for each in scene.things]
    if scene.relation is None:
        return Request(scene.skill, tuple(wanted))
    kind, first, second = scene.relation
    return Request(scene.skill, (wanted[first], wanted[second]), kind)


def shows(found: Sequence[Finding], request: Request) -> bool:
    """Whether a picture shows what its caption asks for.

    Args:
        found: the objects in it, in any order.
        request: what is asked for.
    """
    chosen: list[Finding] = []
    for wanted in request.wanted:
        these = of_name(found, wanted.name)
        if not these or (wanted.exactly is not None and len(these) != wanted.exactly):
            return False
        if wanted.colour is not None and these[0].colour != wanted.colour:
            return False
        chosen.append(these[0])
    return request.relation is None or request.relation in relations(chosen[0], chosen[1])


def of_name(found: Sequence[Finding], name: str) -> list[Finding]:
    """The objects of a kind that count as found, the surest first."""
    these = [each for each in found if each.name == name and each.score >= LEAST_SCORE]
    return sorted(these, key=lambda each: (each.score, each.box), reverse=True)


def relations(a: Finding, b: Finding) -> set[str]:
    """Where an object is, seen from another one.

    Offsets of the centres, less a margin of `_MARGIN` of both sizes, are compared with the
    distance of the centres. What is on top of something stands on its upper edge; what is inside
    of something has a part of its box in the other's, and is smaller.
    """
    (ax, ay, aw, ah), (bx, by, bw, bh) = (_centre_and_size(each.box) for each in (a, b))
    dx, dy = ax - bx, ay - by
    distance = math.hypot(dx, dy)
    across, down = _excess(dx, _MARGIN * (aw + bw)), _excess(dy, _MARGIN * (ah + bh))
    found: set[str] = set()
    if distance > 0:
        found |= {name for name, along in (
            ("left of", -across), ("right of", across), ("above", -down), ("below", down),
        ) if along / distance > _ALONG}  # fmt: skip
    wide = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])
    high = min(a.box[3], b.box[3]) - max(a.box[1], b.box[1])
    over = wide >= _STANDING * min(aw, bw)
    if dy < 0 and over and abs(high) <= _MARGIN * (ah + bh):
        found.add("on top of")
    if wide > 0 and high > 0 and wide * high >= _WITHIN * aw * ah and aw * ah < bw * bh:
        found.add("inside")
    return found


def mean_share(shares: Sequence[tuple[float, int]]) -> Estimate:
    """The mean of shares, each counted in so many things, with an interval of 95 %.

    Args:
        shares: the share and the number of things of each part.

    Raises:
        LimnerError: there are no parts.
    """
    if not shares:
        raise LimnerError("a mean of shares needs at least one of them")
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
    """The objects that a detector finds.

    Args:
        detector: an extractor that finds objects.
    """

    lasting = True

    def __init__(self, detector: Detects) -> None:
        self.detector = detector
        self.name = "objects"
        self.fingerprint = f"objects {detector.fingerprint}"

    def look(self, pictures: PictureSet, numbers: Numbers, pixels: Pixels) -> Columns:
        """See `detect`."""
        return self.detect(pixels)

    def detect(self, pixels: Pixels) -> Columns:
        """`kind`, `colour` and `score`, "b k", and `box`, "b k 4"."""
        (kind, colour, box), score = find_objects(self.detector, pixels)
        found = {"kind": kind, "colour": colour, "score": score, "box": box}
        return {name: column.cpu() for name, column in found.items()}


def findings(columns: Columns, kinds: tuple[str, ...]) -> list[list[Finding]]:
    """What a detector found in each picture, as words.

    Args:
        columns: of `ObjectObserver`.
        kinds: the detector's.
    """
    return [
        [
            Finding(kinds[k], None if c == NONE else COLOURS[c], score, tuple(box))
            for k, c, score, box in zip(*row)
            if k != NONE
        ]
        for row in zip(*(columns[name].tolist() for name in ("kind", "colour", "score", "box")))
    ]


class SceneMetric(Metric):
    """A metric of scenes, in which a detector finds the objects."""

    reads = ("layouts", "captions")
    better = "higher"
    least = LEAST
    redrawn = ("subject",)

    @cached_property
    def detector(self) -> Detects:
        """The extractor, if it finds objects; the bundled detector otherwise."""
        s = self.setting
        if isinstance(s.extractor, Detects):
            return s.extractor
        found = extractor("scene-judge", s.reference.spec, s.device)
        assert isinstance(found, Detects)
        return found

    @property
    def extractor(self) -> Detects:
        """The detector."""
        return self.detector


@metric("composition", paper=PAPER)
class Composition(SceneMetric):
    """GenEval's six skills, and their mean."""

    summary = "captions of scenes: how often the objects, counts, colours and places are there"

    @cached_property
    def observer(self) -> ObjectObserver:
        """What sees the objects."""
        return ObjectObserver(self.detector)

    @cached_property
    def real(self) -> RealPictures:
        """As many pictures of the reference as are judged."""
        return self.setting.reference.first(len(self.setting.subject))

    @cached_property
    def requests(self) -> list[Request | None]:
        """What is asked of each picture of the subject."""
        return requests_of(self.setting.subject, self.real)

    def pictures_needed(self, data: ComposedScenes, skills: Sequence[str]) -> int:
        """The first how many pictures of the reference have enough of each skill."""
        have, n = dict.fromkeys(skills, 0), 0
        while n < len(self.setting.reference) and min(have.values()) < LEAST:
            request = request_at(data, int(self.setting.reference.indices(torch.tensor([n]))[0]))
            if request is not None:
                have[request.skill] += 1
            n += 1
        return n

    def needs(self) -> list[tuple[PictureSet, Observer]]:
        """The objects in the subject, and in as many real pictures.

        Raises:
            NotApplicable: captions of no scenes, none at all, or too few of a skill.
        """
        s = self.setting
        data = s.reference.dataset
        if not isinstance(data, ComposedScenes):
            raise NotApplicable(
                f"it asks for what captions of scenes say, and {s.reference.name} has others"
            )
        if not (skills := [skill for skill in SKILLS if skill in data.composer.skills]):
            raise NotApplicable(f"{s.reference.name} has none of the skills {', '.join(SKILLS)}")
        if s.subject.captions(torch.arange(1)) is None:
            raise NotApplicable(f"{s.subject.name} was given no captions")
        try:
            asked, detector = self.requests, self.extractor
        except LimnerError as error:
            raise NotApplicable(str(error)) from None
        if missing := {*data.objects} - {*detector.kinds}:
            raise NotApplicable(f"{detector.name} does not know the object {min(missing)}")
        fewest = min(skills, key=lambda skill: count_requests(asked, skill))
        if (n := count_requests(asked, fewest)) < self.least:
            raise NotApplicable(
                f"it needs at least {self.least} pictures of each skill, and the first "
                f"{len(asked):,} of {s.reference.name} have {n} of {SKILLS[fewest]}; give -n "
                f"{self.pictures_needed(data, skills):,} or more"
            )
        return [(pictures, self.observer) for pictures in (s.subject, self.real)]

    def numbers(self, seen: Seen) -> list[Number]:
        """The share of each skill and their mean; of the subject, of the real pictures of scenes,
        and of the subject's pictures with one another's captions.
        """
        subject, real = (
            findings(seen.of(pictures, self.observer), self.extractor.kinds)
            for pictures in (self.setting.subject, self.real)
        )
        asked = self.requests
        rows = [
            (SUBJECT, subject, asked),
            (f"real ({self.real.name})", real, requests_of(self.real, self.real)),
            ("shuffled captions", subject, exchange_requests(asked)),
        ]
        return [number for row in rows for number in self.of_row(*row)]

    def of_row(
        self, row: str, found: Sequence[Sequence[Finding]], asked: Sequence[Request | None]
    ) -> Iterator[Number]:
        """The numbers of some pictures with some captions."""
        right: dict[str, list[bool]] = {skill: [] for skill in SKILLS}
        for objects, request in zip(found, asked):
            if request is not None:
                right[request.skill].append(shows(objects, request))
        asked_for = {skill: each for skill, each in right.items() if each}
        shared: dict[str, Any] = {"row": row, "better": self.better}
        mean = mean_share([(sum(each) / len(each), len(each)) for each in asked_for.values()])
        n = sum(map(len, asked_for.values()))
        of = f"the mean of {len(asked_for)} skills"
        yield self.number(self.name, mean, n, protocol=of, **shared)
        for skill, each in asked_for.items():
            yield self.share(SKILLS[skill], torch.tensor(each), **shared)


def requests_of(pictures: PictureSet, real: RealPictures) -> list[Request | None]:
    """What is asked of each picture of a set.

    Args:
        pictures: painted for the captions of real scenes, or real scenes, or pictures with captions
            that real scenes have, too.
        real: the scenes that captions are looked up among.

    Raises:
        LimnerError: a caption that none of the real scenes has.
    """
    numbers = torch.arange(len(pictures))
    known = pictures.real if isinstance(pictures, PaintedPictures) else pictures
    if isinstance(known, RealPictures) and isinstance(known.dataset, ComposedScenes):
        return [request_at(known.dataset, i) for i in known.indices(numbers).tolist()]
    theirs = real.captions(torch.arange(len(real))) or []
    of = dict(zip(theirs, requests_of(real, real)))
    captions = pictures.captions(numbers) or []
    for number, caption in enumerate(captions):
        if caption not in of:
            raise LimnerError(
                f"{pictures.title(number)} has not the caption of one of the first {len(real):,} "
                f"pictures of {real.name}"
            )
    return [of[caption] for caption in captions]


def request_at(data: Dataset, index: int) -> Request | None:
    """What the caption of one picture of a data set of scenes asks for."""
    assert isinstance(data, ComposedScenes)
    scene = data.scene(index)
    return scene and request_of(scene)


def count_requests(requests: Sequence[Request | None], skill: str) -> int:
    """How many requests are of a skill."""
    return sum(each is not None and each.skill == skill for each in requests)


def exchange_requests(requests: Sequence[Request | None]) -> list[Request | None]:
    """Each picture with the request of another picture of the same skill, at random."""
    changed = list(requests)
    for skill in SKILLS:
        places = [i for i, each in enumerate(requests) if each is not None and each.skill == skill]
        order = [places[i] for i in random_order(len(places), 0).tolist()]
        for here, there in zip(order, [*order[1:], *order[:1]]):
            changed[here] = requests[there]
    return changed


def _centre_and_size(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """Centre, width and height of a box."""
    left, top, right, bottom = box
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


def _excess(offset: float, margin: float) -> float:
    """An offset less a margin, on either side."""
    return math.copysign(max(abs(offset) - margin, 0.0), offset)
