"""The metric `composition`: a perfect detector gives 1, and each fault lowers its own skill."""

import functools
import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scenes import Eye, Shades
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, ImageSpec, from_uint8
from limner.contract.layout import COLOURS, NO_OBJECT, Objects, read_layout
from limner.contract.model import GenerativeModel, Turn
from limner.contract.noise import Noise
from limner.contract.text import Tokenizer
from limner.data import Dataset, open_data
from limner.data.composition import Scene, Thing
from limner.data.scenes import ComposedScenes
from limner.data.sprites import object_numbers
from limner.evaluate.evaluation import evaluate
from limner.evaluate.extractors.extractor import find_objects
from limner.evaluate.judges.judge import Detections
from limner.evaluate.metrics.composition import (
    MIN_SCENES,
    MIN_SCORE,
    SKILL_NAMES,
    DetectedObject,
    ObjectObserver,
    RequestedObject,
    SceneRequest,
    exchange_requests,
    findings,
    mean_share,
    relations,
    request_of,
    shows_request,
)
from limner.evaluate.metrics.statistics import wilson_interval
from limner.evaluate.picture_sets import RealPictures
from limner.evaluate.report import Report

N = 192
SIDE = 16
Change = Callable[[Objects, list[str]], Objects]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "cache"))


@functools.cache
def composed(split: str = "test", **options: object) -> ComposedScenes:
    data = open_data("scenes", split=split, size=SIDE, **options)
    assert isinstance(data, ComposedScenes)
    return data


class Exact(Eye):
    """A perfect detector that looks scenes up by their pixels, optionally with faults.

    Args:
        data: the scenes.
        change: function that replaces the true objects, given the skill of each picture.
    """

    def __init__(self, data: ComposedScenes, change: Change | None = None) -> None:
        super().__init__()
        self.name = "knows"
        self.kinds = tuple(object_numbers())
        self.data, self.change, self.looks = data, change, 0
        self.fingerprint = f"knows {data.digest} {change}"

    def detect(self, images: Tensor) -> Detections:
        self.looks += 1
        known = _numbers(self.data)
        numbers = [known[_digest(x)] for x in images]
        truth = read_layout(self.data.truth(torch.tensor(numbers)), len(self.kinds))
        if self.change:
            scenes = [self.data.scene(i) for i in numbers]
            truth = self.change(truth, [scene.skill if scene else "" for scene in scenes])
        return Detections(truth, (truth.kind != NO_OBJECT).float())


@functools.cache
def _numbers(data: ComposedScenes) -> dict[bytes, int]:
    """Return the number of each of the first scenes, keyed by a digest of its pixels."""
    return {_digest(x): i for i, x in enumerate(data.pixels(torch.arange(N)))}


def _digest(x: Tensor) -> bytes:
    return hashlib.sha256(x.contiguous().numpy().tobytes()).digest()


class PaintsScenes(GenerativeModel):
    """A model that paints the scene of its caption."""

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        yield Turn(self.nothing.sum())

    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Tensor]:
        data = composed()
        if c.text is None:
            yield torch.zeros(n, 3, SIDE, SIDE)
            return
        known = {tuple(row): i for i, row in enumerate(_tokens(data).tolist())}
        indices = torch.tensor([known[tuple(row)] for row in c.text.tolist()])
        yield from_uint8(data.pixels(indices))


def _tokens(data: ComposedScenes) -> Tensor:
    assert data.spec.text is not None
    numbers = torch.arange(N)
    return Tokenizer(data.spec.text).encode(data.captions(numbers, Noise.sampling(0, N)))


def judged(subject: object, change: Change | None = None, n: int = N, **options: object) -> Report:
    data = composed()
    arguments = {"against": data, "extractor": Exact(data, change)} | options
    return evaluate(subject, metrics=["composition"], n=n, device="cpu", quiet=True, **arguments)  # pyright: ignore[reportArgumentType]


def skills(report: Report, row: str = "subject") -> dict[str, float]:
    return {number.name: number.value for number in report.numbers if number.row == row}


@pytest.mark.parametrize("split", ["test", "held-out"])
def test_a_perfect_detector_scores_1_on_real_scenes(split: str):
    options = {
        "held-out": {
            "skills": "single=3,two=0.1,counting=0.1,colours=0.1,position=0.1,attribution=0.1"
        }
    }
    data = composed(split, **options.get(split, {}))
    report = judged(data, against=data, extractor=Exact(data))
    assert skills(report) == dict.fromkeys(("composition", *SKILL_NAMES.values()), 1.0)
    assert skills(report, "real (scenes)") == skills(report)
    shuffled = skills(report, "shuffled captions")
    assert shuffled["single object"] < 0.1
    assert shuffled["colour attribution"] < 0.1
    assert shuffled["composition"] < 0.2
    for number in report.numbers:
        assert number.low is not None and number.high is not None
        assert number.low <= number.value <= number.high + 1e-12
        assert number.high - number.low > 0, (
            "the interval must have a width even if all are correct"
        )
        assert number.extractor == "knows"
        if number.name != "composition":
            assert (number.low, number.high) == wilson_interval(number.value, number.n)
    counts = [each.n for each in report.numbers if each.row == "subject"]
    assert counts[0] == sum(counts[1:])


def test_models_get_the_captions_as_prompts():
    report = judged(PaintsScenes(composed().spec))
    assert set(skills(report).values()) == {1.0}
    assert skills(report, "shuffled captions")["composition"] < 0.2
    model = PaintsScenes(ImageSpec(3, SIDE, SIDE))
    with pytest.raises(LimnerError, match="was given no captions"):
        judged(model)


def _other_colour(truth: Objects, skills: list[str]) -> Objects:
    return truth._replace(colour=(truth.colour + 1) % len(COLOURS))


def _other_kind(truth: Objects, skills: list[str]) -> Objects:
    return truth._replace(
        kind=torch.where(truth.kind == NO_OBJECT, NO_OBJECT, (truth.kind + 1) % 417)
    )


def _swapped_places(truth: Objects, skills: list[str]) -> Objects:
    box = truth.box.clone()
    two = (truth.kind != NO_OBJECT).sum(1) == 2
    box[two, :2] = truth.box[two, :2].flip(1)
    return truth._replace(box=box)


def _swapped_colours(truth: Objects, skills: list[str]) -> Objects:
    colour = truth.colour.clone()
    two = (truth.kind != NO_OBJECT).sum(1) == 2
    colour[two, :2] = truth.colour[two, :2].flip(1)
    return truth._replace(colour=colour)


def _one_more(truth: Objects, skills: list[str]) -> Objects:
    parts = [torch.cat([part, part[:, :1]], 1) for part in truth]
    return Objects(*parts)


def _last_missing(truth: Objects, skills: list[str]) -> Objects:
    kind = truth.kind.clone()
    count = (kind != NO_OBJECT).sum(1)
    kind[count > 1, count[count > 1] - 1] = NO_OBJECT
    return truth._replace(kind=kind)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (_other_colour, {"colours", "colour attribution"}),
        (_swapped_colours, {"colour attribution"}),
        (_swapped_places, {"position"}),
        (_one_more, {"counting"}),
        (_last_missing, {"two objects", "counting", "position", "colour attribution"}),
        (_other_kind, {*SKILL_NAMES.values()}),
    ],
)
def test_each_fault_lowers_only_its_own_skills(change: Change, wrong: set[str]):
    report = judged(composed(), change)
    scores = skills(report)
    assert {name for name in SKILL_NAMES.values() if scores[name] == 0} == wrong
    assert {scores[name] for name in SKILL_NAMES.values() if name not in wrong} <= {1.0}
    assert scores["composition"] == pytest.approx(1 - len(wrong) / 6)


def found(name: str, *box: float, colour: str | None = None, score: float = 1.0) -> DetectedObject:
    left, top, right, bottom = box
    return DetectedObject(name, colour, score, (left, top, right, bottom))


def test_relations_are_genevals_and_relations_of_boxes():
    cup = found("cup", 4, 4, 6, 6)
    assert relations(found("dog", 0, 4, 2, 6), cup) == {"left of"}
    assert relations(found("dog", 8, 4, 10, 6), cup) == {"right of"}
    assert relations(found("dog", 4, 0, 6, 2), cup) == {"above"}
    assert relations(found("dog", 4, 8, 6, 10), cup) == {"below"}
    assert relations(found("dog", 0, 0, 2, 2), cup) == {"left of", "above"}, (
        "both hold, as in GenEval"
    )
    assert relations(found("dog", 4.3, 4, 6.3, 6), cup) == set(), "the shift is within the margin"
    assert relations(found("dog", 4, 2.1, 6, 4.1), cup) == {"above", "on top of"}
    assert relations(found("dog", 6, 2, 8, 4), cup) == {"right of", "above"}, (
        "it is next to the cup, not on top"
    )
    assert "inside" in relations(found("dog", 4.5, 4.5, 5.5, 5.5), cup)
    assert "inside" not in relations(cup, found("dog", 4.5, 4.5, 5.5, 5.5))
    assert "inside" in relations(found("dog", 4.5, 3.4, 5.5, 4.4), cup), "a part may be outside"
    assert relations(cup, cup) == set()


def test_directions_equal_genevals_for_random_boxes():
    """The rule of `relative_position` in GenEval's evaluation script."""
    boxes = torch.rand(3000, 2, 2, 2, dtype=torch.float64, generator=torch.manual_seed(0))
    boxes = boxes.sort(2).values  # pictures, objects, lowest and highest corner, x and y
    counts = Counter()
    for a, b in boxes:
        offset = a.mean(0) - b.mean(0)
        margin = 0.1 * (a.diff(dim=0)[0] + b.diff(dim=0)[0])
        revised = (offset.abs() - margin).clamp(min=0) * offset.sign()
        x, y = (revised / offset.norm()).tolist()
        expected = {name for name, holds in (
            ("left of", x < -0.5), ("right of", x > 0.5), ("above", y < -0.5), ("below", y > 0.5),
        ) if holds}  # fmt: skip
        first, second = (found("thing", *each.flatten().tolist()) for each in (a, b))
        assert relations(first, second) - {"on top of", "inside"} == expected
        counts.update(expected)
    assert min(counts[name] for name in ("left of", "right of", "above", "below")) > 300


def test_an_object_on_top_stands_on_the_upper_edge():
    """At most a tenth of both heights lies between the edges; half of the narrower width is on."""
    cup = found("cup", 4, 4, 6, 6)

    def is_on(left: float, top: float, right: float, bottom: float) -> bool:
        return "on top of" in relations(found("dog", left, top, right, bottom), cup)

    assert is_on(4, 1.61, 6, 3.61) and is_on(4, 2.39, 6, 4.39)
    assert not is_on(4, 1.59, 6, 3.59) and not is_on(4, 2.41, 6, 4.41)
    assert is_on(4.99, 2, 6.99, 4) and is_on(3.01, 2, 5.01, 4)
    assert not is_on(5.01, 2, 7.01, 4) and not is_on(2.99, 2, 4.99, 4)
    assert is_on(0, 2, 10, 4) and is_on(0, 2, 5.01, 4), "the cup is narrower"
    assert not is_on(4, 6, 6, 8), "it touches the lower edge"


def test_an_object_inside_is_smaller_and_a_quarter_of_its_box_is_in_the_other():
    cup = found("cup", 4, 4, 6, 6)

    def is_inside(left: float, top: float, right: float, bottom: float) -> bool:
        return "inside" in relations(found("dog", left, top, right, bottom), cup)

    assert is_inside(4.9, 4.9, 5.1, 5.1)
    assert is_inside(4.5, 3.26, 5.5, 4.26) and not is_inside(4.5, 3.24, 5.5, 4.24)
    assert is_inside(3.51, 3.51, 4.51, 4.51) and not is_inside(3.49, 3.49, 4.49, 4.49)
    assert is_inside(4, 4, 6, 5.9) and not is_inside(4, 4, 6, 6.1), "it must be smaller"
    assert not is_inside(0, 0, 1, 1) and not is_inside(4.5, 0, 5.5, 1), "it is elsewhere"


def test_findings_have_names_and_places_without_an_object_are_left_out():
    columns = {
        "kind": torch.tensor([[1, NO_OBJECT, 0], [NO_OBJECT, NO_OBJECT, NO_OBJECT]]),
        "colour": torch.tensor([[NO_OBJECT, 2, 3], [0, 0, 0]]),
        "score": torch.tensor([[0.75, 0.5, 0.25], [1.0, 1.0, 1.0]]),
        "box": torch.arange(24.0).view(2, 3, 4),
    }
    assert findings(columns, ("dog", "cat")) == [
        [
            found("cat", 0, 1, 2, 3, score=0.75),
            found("dog", 8, 9, 10, 11, colour=COLOURS[3], score=0.25),
        ],
        [],
    ]


def test_only_objects_above_the_least_score_count():
    one = SceneRequest("single", (RequestedObject("dog"),))
    three = SceneRequest("counting", (RequestedObject("dog", exact_count=3),))
    red = SceneRequest("colours", (RequestedObject("dog", colour="red"),))
    dog = found("dog", 0, 0, 1, 1, colour="red", score=MIN_SCORE)
    assert shows_request([dog], one)
    assert not shows_request([dog._replace(score=MIN_SCORE - 0.01)], one)
    assert shows_request([dog, found("cat", 0, 0, 1, 1)], one), "other objects are allowed"
    assert shows_request([dog] * 3, three)
    assert shows_request([*[dog] * 3, dog._replace(score=0.2)], three), (
        "the score of the fourth is too low"
    )
    assert not shows_request([dog] * 4, three)
    assert not shows_request([dog] * 2, three)
    blue = dog._replace(colour="blue", score=0.9)
    assert shows_request([dog], red)
    assert not shows_request([dog, blue], red), "the one with the higher score has another colour"


def test_a_request_has_the_order_of_the_relation():
    """Things in a frame come after it, because they are drawn over it."""
    things = (Thing("mirror", "gray"), Thing("dog", "brown"))
    scene = Scene("position", "3d", "white", 0, things, ("inside", 1, 0), "a dog in a mirror")
    dog, mirror = RequestedObject("dog"), RequestedObject("mirror")
    assert request_of(scene) == SceneRequest("position", (dog, mirror), "inside")
    scene = replace(scene, relation=("left of", 0, 1))
    assert request_of(scene) == SceneRequest("position", (mirror, dog), "left of")
    assert request_of(replace(scene, skill="several")) is None


def test_requests_name_only_objects_and_colours_of_the_caption():
    data = composed()
    for index in range(200):
        scene = data.scene(index)
        assert scene is not None
        request = request_of(scene)
        if request is None:
            assert scene.skill == "several"
            continue
        for wanted in request.objects:
            if wanted.colour is not None:
                assert wanted.colour in scene.caption
            thing = data.objects[wanted.name]
            name = thing.plural if wanted.exact_count else thing.name
            assert name in scene.caption


def test_the_mean_has_the_interval_of_its_parts():
    share = mean_share([(0.3, 50)])
    assert share == pytest.approx((0.3, *wilson_interval(0.3, 50)))
    mean = mean_share([(0.5, 100), (1.0, 40)])
    assert mean.value == 0.75
    (low, high), (low_1, high_1) = wilson_interval(0.5, 100), wilson_interval(1.0, 40)
    assert mean.low == pytest.approx(0.75 - ((0.5 - low) ** 2 + (1 - low_1) ** 2) ** 0.5 / 2)
    assert mean.high == pytest.approx(0.75 + ((high - 0.5) ** 2 + (high_1 - 1) ** 2) ** 0.5 / 2)
    with pytest.raises(LimnerError, match="needs at least one share"):
        mean_share([])


def test_requests_are_exchanged_within_their_skill():
    requests = [SceneRequest("single", (RequestedObject(str(i)),)) for i in range(5)]
    requests += [
        SceneRequest("counting", (RequestedObject(str(i), exact_count=2),)) for i in range(3)
    ]
    inputs = [*requests[:4], None, *requests[4:]]
    outputs = exchange_requests(inputs)
    assert outputs[4] is None
    pairs = [(a, b) for a, b in zip(inputs, outputs) if a and b]
    assert all(a.skill == b.skill and a != b for a, b in pairs)
    assert {b for _, b in pairs} == {*requests}


class Captioned(Dataset):
    """Pictures of scenes with captions in another order, as from a folder."""

    source = "captioned"
    digest = "captioned"
    training = False

    def __init__(self, data: ComposedScenes, order: Tensor, words: str = "") -> None:
        self.data, self.order, self.words = data, order, words
        self.spec = data.spec

    def __len__(self) -> int:
        return len(self.order)

    def pixels(self, indices: Tensor) -> Tensor:
        return self.data.pixels(self.order[indices])

    def captions(self, indices: Tensor, noise: Noise) -> list[str]:
        captions = self.data.captions(self.order[indices], noise)
        return [self.words or caption for caption in captions]


def test_pictures_with_scene_captions_are_evaluated_in_any_order():
    data = composed()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    report = judged(data, _swapped_places)
    reordered = judged(Captioned(data, order), _swapped_places)
    assert skills(reordered) == skills(report)
    assert skills(reordered, "real (scenes)") == skills(report, "real (scenes)")
    with pytest.raises(LimnerError, match="has none of the captions of the first"):
        judged(Captioned(data, order, "a thing that no scene has"))
    with pytest.raises(LimnerError, match="it checks captions of scenes, and shades"):
        evaluate(
            Shades(40), Shades(40, seed=1), metrics=["composition"], extractor=Eye(), quiet=True
        )


def test_too_few_pictures_are_refused_with_the_required_number():
    data = composed()
    with pytest.raises(
        LimnerError, match=rf"at least {MIN_SCENES} pictures of each skill"
    ) as error:
        judged(data, n=40)
    required = int(re.findall(r"give -n ([\d,]+) or more", str(error.value))[0].replace(",", ""))
    assert 40 < required <= N
    with pytest.raises(LimnerError, match=f"have {MIN_SCENES - 1} of"):
        judged(data, n=required - 1)
    assert skills(judged(data, n=required))["composition"] == 1
    few = composed(skills="counting,single")
    report = judged(few, n=64, against=few, extractor=Exact(few))
    assert [*skills(report)] == ["composition", "single object", "counting"]
    assert report.numbers[0].protocol == "the mean of 2 skills"
    assert {number.better for number in report.numbers} == {"higher"}
    with pytest.raises(LimnerError, match="has none of the skills"):
        several = composed(skills="several")
        judged(several, n=64, against=several, extractor=Exact(several))


def test_a_detector_must_know_all_objects_and_is_part_of_the_observer():
    data = composed()
    detector = Exact(data)
    detector.kinds = tuple(kind for kind in detector.kinds if kind != "dog")
    with pytest.raises(LimnerError, match="knows does not know the object dog"):
        judged(data, extractor=detector)
    one, other = ObjectObserver(Exact(data)), ObjectObserver(Exact(data, _one_more))
    assert one.fingerprint != other.fingerprint and one.lasting


def test_parts_equal_the_whole_and_a_stopped_evaluation_continues():
    data = composed()
    eye, real = ObjectObserver(Exact(data)), RealPictures(data, N)
    numbers = torch.arange(N)
    whole = eye.look(real, numbers, real.pictures(numbers))
    parts = eye.together(eye.look(real, block, real.pictures(block)) for block in numbers.split(37))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)

    class Stops(Exact):
        def detect(self, images: Tensor) -> Detections:
            if self.looks == 2:
                raise KeyboardInterrupt
            return super().detect(images)

    with pytest.raises(KeyboardInterrupt):
        judged(data, extractor=Stops(data))
    detector = Exact(data)
    report = judged(data, extractor=detector)
    assert skills(report)["composition"] == 1
    assert detector.looks == N // 64 - 2, "finished blocks were computed again"


def detections(**fields: object) -> Detections:
    """Return a dog and an empty place in each of two pictures, with some fields changed."""
    boxes = torch.tensor([0.1, 0.2, 0.5, 0.6]).expand(2, 2, 4)
    parts = {
        "kind": torch.tensor([[0, NO_OBJECT]] * 2),
        "colour": torch.tensor([[NO_OBJECT, NO_OBJECT]] * 2),
        "box": boxes,
        "score": torch.tensor([[0.9, 0.0]] * 2),
    } | fields
    score = parts.pop("score")
    return Detections(Objects(**parts), score)  # pyright: ignore


class OwnDetector:
    """A user's own detector that returns given detections."""

    name, kinds = "mine", ("dog", "cat")

    def __init__(self, found: object) -> None:
        self.found = found

    def detect(self, images: Tensor) -> object:
        return self.found


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, "detect of mine does not return objects; return"),
        ((torch.zeros(2, 2), torch.zeros(2, 2)), "detect of mine does not return objects; return"),
        (
            detections(score=torch.ones(2, 1)),
            r"kind by detect of mine has the shape \(2, 2\); give",
        ),
        (
            detections(colour=torch.zeros(2, 1)),
            r"colour by detect of mine has the shape \(2, 1\); give",
        ),
        (detections(box=torch.ones(2, 2, 2)), r"box by detect of mine has the shape \(2, 2, 2\);"),
        (detections(box=torch.ones(2, 2, 0)), r"box by detect of mine has the shape \(2, 2, 0\);"),
        (detections(box=torch.ones(())), r"box by detect of mine has the shape \(\);"),
        (detections(kind=[[0, NO_OBJECT]] * 2), "detect of mine does not return objects; return"),
        (detections(score=[[0.9, 0.0]] * 2), "detect of mine does not return objects; return"),
        (detections(score=torch.full((2, 2), 1.5)), "score by detect of mine is not valid"),
        (detections(colour=torch.full((2, 2), -2)), "colour by detect of mine is not valid"),
        (detections(colour=torch.zeros(2, 2)), "colour by detect of mine is not valid"),
        (detections(kind=torch.full((2, 2), 2)), "kind by detect of mine is not valid"),
        (detections(kind=torch.zeros(2, 2)), "kind by detect of mine is not valid"),
        (detections(score=torch.full((2, 2), -0.5)), "score by detect of mine is not valid"),
        (detections(colour=torch.full((2, 2), len(COLOURS))), "colour by detect of mine is not"),
        (
            detections(box=torch.full((2, 2, 4), 31.0)),
            "box by detect of mine is not valid",
        ),
        (detections(box=torch.full((2, 2, 4), math.nan)), "box by detect of mine is not valid"),
        (detections(score=torch.full((2, 2), math.nan)), "score by detect of mine is not valid"),
    ],
)
def test_invalid_detections_are_refused(found: object, said: str):
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(LimnerError, match=said):
        find_objects(OwnDetector(found), images)  # pyright: ignore


@pytest.mark.usefixtures("unchecked_shapes")
def test_boxes_may_exceed_the_picture_and_places_without_an_object_hold_any_numbers():
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    box = torch.tensor([[-0.1, 0.2, 0.5, 1.2], [31.0, 31.0, 31.0, 31.0]]).expand(2, 2, 4)
    colour = torch.tensor([[NO_OBJECT, 99]] * 2)
    found = detections(box=box, colour=colour)
    assert find_objects(OwnDetector(found), images) == found  # pyright: ignore
