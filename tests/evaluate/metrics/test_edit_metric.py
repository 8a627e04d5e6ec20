"""The metric `edit`: models that render scenes and follow a change, ignore it, or overdo it."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scenes import Eye
from torch import Tensor

import limner
from limner.contract.editing import Edits, Rewords
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, ImageSpec, from_uint8
from limner.contract.layout import COLOURS, NO_OBJECT, Objects
from limner.contract.model import GenerativeModel, Turn
from limner.contract.text import Tokenizer
from limner.data import open_data
from limner.data.composition import Scene, Thing
from limner.data.scene_edits import SceneEdit, draw_edit
from limner.data.scenes import ComposedScenes, draw_scene
from limner.data.sprites import object_numbers
from limner.evaluate.evaluation import evaluate
from limner.evaluate.extractors.extractor import Features
from limner.evaluate.judges.judge import Detections
from limner.evaluate.metric import NotApplicable, Setting
from limner.evaluate.metrics import edit as module
from limner.evaluate.metrics.composition import DetectedObject
from limner.evaluate.metrics.edit import box_mask, outside_change, shows_edit
from limner.evaluate.metrics.statistics import wilson_interval
from limner.evaluate.picture_sets import PaintedPictures, RealPictures
from limner.evaluate.report import Number
from limner.evaluate.subject import Candidate, Reference

N = 20
_BOX = (0.2, 0.2, 0.6, 0.6)


def scenes(size: int) -> ComposedScenes:
    data = open_data("scenes", split="held-out", size=size, vocabulary=30, style="3d")
    assert isinstance(data, ComposedScenes)
    return data


def edits_of(data: ComposedScenes, seed: int = 0) -> list[SceneEdit]:
    edits = [draw_edit(data.scene(i), data.objects, f"{seed}/{i}") for i in range(N)]
    return [edit for edit in edits if edit]


def with_other_ground(scene: Scene) -> Scene:
    """Return the scene on another background."""
    return replace(scene, ground="black" if scene.ground != "black" else "white")


def picture(scene: Scene, size: int) -> Tensor:
    raw = torch.frombuffer(bytearray(draw_scene(scene, size).tobytes()), dtype=torch.uint8)
    return raw.view(size, size, 3).permute(2, 0, 1)


class Renders(Rewords, Edits):
    """A model that renders the scene of each caption.

    Args:
        spec: spec of the scenes.
        way: "follows" a change, "ignores" it, or changes "everything".
    """

    def __init__(self, spec: ImageSpec, way: str = "follows") -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.way = way
        data = scenes(spec.height)
        all_scenes = [scene for edit in edits_of(data) for scene in (edit.before, edit.after)]
        all_scenes += [data.scene(i) for i in range(N)]
        tokens = Tokenizer(spec.text).encode([scene.caption for scene in all_scenes])
        self.known = {tuple(row): scene for row, scene in zip(tokens.tolist(), all_scenes)}

    def rendered(self, c: Condition, change=lambda scene: scene) -> Tensor:
        size, batch = self.spec.height, [self.known[tuple(row)] for row in c.text.tolist()]
        return from_uint8(torch.stack([picture(change(scene), size) for scene in batch]))

    def turns(self, batch, step, noise):
        yield Turn(self.weight.sum())

    def frames(self, n, c=Condition(), *, noise, preview=True) -> Iterator[Tensor]:
        yield self.rendered(c)

    def reconstruct_for_edit(self, image, seed=0):
        return image

    def reword_frames(self, change, image, strength, n, c, *, noise, preview):
        assert bool((change.gains == 1).all()) and change.alignment.new
        before, after = c.rows(slice(0, n // 2)), c.rows(slice(n // 2, n))
        first = self.rendered(before)
        if self.way == "ignores":
            yield torch.cat([first, first])
        elif self.way == "everything":
            yield torch.cat([first, self.rendered(after, with_other_ground)])
        else:
            yield torch.cat([first, self.rendered(after)])

    def edit(self, image, c=Condition(), *, mask=None, strength=1.0, seed=0, preview=True):
        if mask is not None:
            yield torch.where(mask > 0, self.rendered(c), image)
        else:
            yield self.rendered(c) if strength > 0.6 else image

    def edit_count(self, strength=1.0):
        return 1


class Exact(Eye):
    """A perfect detector of the edits' pictures, also on other backgrounds.

    Args:
        size: side of the pictures in pixels.
        blind: number of edits whose first picture it does not know.
    """

    def __init__(self, size: int, blind: int = 0) -> None:
        super().__init__()
        self.name = "knows"
        self.kinds = tuple(object_numbers())
        self.fingerprint = f"knows {size} {blind}"
        self.known: dict[bytes, Scene] = {}
        for number, edit in enumerate(edits_of(scenes(size))):
            for scene in (edit.after, edit.before)[: 1 if number < blind else 2]:
                for variant in (scene, with_other_ground(scene)):
                    self.known[_digest(picture(variant, size))] = scene

    def detect(self, images: Tensor) -> Detections:
        kind, colour = torch.full((2, len(images), 4), NO_OBJECT)
        box = torch.zeros(len(images), 4, 4)
        for row, x in enumerate(images):
            scene = self.known.get(_digest(x))
            for slot, thing in enumerate(scene.things if scene else ()):
                kind[row, slot] = object_numbers()[thing.name]
                if thing.colour:
                    colour[row, slot] = COLOURS.index(thing.colour)
                box[row, slot] = torch.tensor(thing.box)
        return Detections(Objects(kind, colour, box), (kind != NO_OBJECT).float())


class Flat:
    """An extractor that returns pixels as features."""

    name = fingerprint = "flat"
    dim, classes = 3 * 32 * 32, ()

    def __call__(self, images: Tensor) -> Features:
        return Features(images.flatten(1).float())


def _digest(x: Tensor) -> bytes:
    return hashlib.sha256(x.contiguous().numpy().tobytes()).digest()


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "has_lite0", lambda: True)
    monkeypatch.setattr(module, "open_extractor", lambda *_: Flat())


def found(way: str, size: int = 32, **options) -> dict[tuple[str, str], Number]:
    data = scenes(size)
    report = evaluate(
        Renders(data.spec, way), data, metrics=["edit"], n=N, quiet=True,
        **{"extractor": Exact(size), **options},
    )  # fmt: skip
    sheet = report.pictures["edits"]
    assert tuple(sheet.shape) == (8 * module.EDITS_PER_SCENE, 3, size, size)
    return {(number.row, number.name): number for number in report.numbers}


def test_a_model_that_follows_has_no_outside_change():
    rows, n = found("follows"), len(edits_of(scenes(32)))
    share = rows["subject", "edit"]
    assert (share.value, share.n) == (1, n)
    assert (share.low, share.high) == wilson_interval(1, n)
    assert rows["subject", "objects"].n + rows["subject", "colours"].n == n
    assert rows["subject", "object found"].value == 1
    for row in ("subject", "same seed", "in-painting"):
        assert rows[row, "edit"].value == 1
        assert rows[row, "outside change"].value == 0
        assert rows[row, "outside lite0"].value == pytest.approx(0, abs=1e-9)
    assert rows["SDEdit", "edit"].value == 1
    assert rows["SDEdit", "edit"].protocol == "strength 0.7, the best of 0.3, 0.5, 0.7, 0.9"


def test_the_row_of_real_scenes_is_the_upper_bound():
    """It depends only on the scenes, not on the model."""
    rows = found("ignores")
    row = next(row for row, _ in rows if row.startswith("real"))
    assert rows[row, "edit"].value == rows[row, "object found"].value == 1
    assert rows[row, "outside change"].value == 0
    assert rows[row, "edit"].n == len(edits_of(scenes(32)))
    eye = found("ignores", size=64, extractor="scene-judge")
    bound, follows = (eye[row, "edit"], found("follows", size=64, extractor="scene-judge"))
    assert bound.value == follows["subject", "edit"].value, (
        "a model that follows must have the same value"
    )


def test_a_model_that_ignores_the_change_scores_0():
    rows = found("ignores")
    assert rows["subject", "edit"].value == rows["subject", "outside change"].value == 0
    assert rows["same seed", "edit"].value == 1


def test_a_model_that_changes_everything_has_outside_change():
    rows = found("everything")
    assert rows["subject", "edit"].value == 1
    assert rows["subject", "outside change"].value > 0.3
    assert rows["subject", "outside lite0"].value > 0.05
    assert rows["same seed", "outside change"].value == 0
    low, high = rows["subject", "outside change"].low, rows["subject", "outside change"].high
    assert low is not None and high is not None
    assert 0.1 < low < rows["subject", "outside change"].value < high


def test_edits_without_a_found_object_have_no_outside_change():
    rows, n = found("everything", extractor=Exact(32, blind=4)), len(edits_of(scenes(32)))
    assert rows["subject", "edit"].n == n
    assert rows["subject", "outside change"].n == n - 4
    assert rows["subject", "object found"].value == pytest.approx(1 - 4 / n)


def test_the_bundled_detector_finds_what_is_drawn():
    rows = found("follows", size=64, extractor="scene-judge")
    assert rows["subject", "edit"].value > 0.75
    assert rows["subject", "object found"].value > 0.75
    assert rows["subject", "outside change"].value < 1e-3


def test_the_old_object_must_be_gone_and_the_new_colour_present():
    def scene(name: str, colour: str) -> Scene:
        return Scene("colours", "3d", "white", 0, (Thing(name, colour),))

    cat, dog = DetectedObject("cat", "red", 0.9, _BOX), DetectedObject("dog", "blue", 0.8, _BOX)
    other = SceneEdit("object", scene("dog", "red"), scene("cat", "red"), 0)
    assert shows_edit([cat], other)
    assert (
        not shows_edit([cat, dog], other)
        and not shows_edit([dog], other)
        and not shows_edit([], other)
    )
    assert shows_edit([cat, dog._replace(score=0.2)], other), (
        "findings with a low score do not count"
    )
    colour = SceneEdit("colour", scene("dog", "red"), scene("dog", "blue"), 0)
    assert shows_edit([dog], colour) and shows_edit([cat, dog], colour)
    assert not shows_edit([dog._replace(colour="red")], colour)


def test_change_outside_of_a_box_equals_brute_force():
    generator = torch.Generator().manual_seed(0)
    before, after = torch.randint(0, 256, (2, 1, 3, 16, 24), generator=generator).byte()
    box = (0.25, 0.5, 0.5, 0.75)
    inside = box_mask(box, 16, 24)
    differences = []
    for y in range(16):
        for x in range(24):
            across, down = (x + 0.5) / 24, (y + 0.5) / 16
            is_inside = abs(across - 0.375) < 0.125 + 1 / 16 and abs(down - 0.625) < 0.125 + 1 / 16
            assert bool(inside[y, x]) == is_inside
            if not is_inside:
                pairs = zip(before[0, :, y, x].tolist(), after[0, :, y, x].tolist())
                differences += [abs(a - b) / 255 for a, b in pairs]
    expected = sum(differences) / len(differences)
    assert outside_change(before, after, inside[None]).item() == pytest.approx(expected)


def test_it_is_computed_only_if_named():
    real = RealPictures(scenes(32))
    model = Renders(real.spec)
    subject = PaintedPictures(model, real, N, seed=0, options={}, name="m", fingerprint="m")
    candidate, reference = Candidate("m", "m", model), Reference(real, None, real)
    device = torch.device("cpu")
    setting = Setting(candidate, reference, subject, 0, device, extractor=Exact(32))
    assert len(module.EditSuccess(setting).needs()) == 2
    with pytest.raises(NotApplicable, match="it paints eight pictures for each of -n"):
        module.EditSuccess(setting, named=False).needs()


class Paints(GenerativeModel):
    """A model that paints black and cannot edit."""

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def turns(self, batch, step, noise):
        yield Turn(self.weight.sum())

    def frames(self, n, c=Condition(), *, noise, preview=True):
        yield -torch.ones(n, *self.spec.shape)


def test_it_states_why_it_has_no_value():
    data = scenes(32)
    uncaptioned = open_data("scenes", size=32, text=False)
    emoji = open_data("emoji", size=32, text=True)
    no_attention = limner.build("ddpm", data.spec, channels=(8, 8), attention=0)
    for model, real, n, message in (
        (Paints(data.spec), data, N, "cannot edit pictures by rewording"),
        (Renders(data.spec), emoji, N, "it changes words in captions of scenes, and emoji"),
        (Renders(data.spec), data, 8, "it needs at least 10 captions with a word to change"),
        (Renders(data.spec), uncaptioned, N, "is given no captions"),
        (data, data, N, "are pictures; name a model that paints them"),
        (no_attention, data, N, r"no cross-attention to words"),
    ):
        with pytest.raises(LimnerError, match=message) as error:
            evaluate(model, real, metrics=["edit"], n=n, extractor=Flat(), quiet=True)
        assert "\n" not in str(error.value)
