"""Extractors by name: their features and errors, with small untrained judges."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from limner import build
from limner.contract.checkpoint import load, save_model
from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec, from_uint8
from limner.contract.layout import layout_spec
from limner.contract.text import Tokenizer, text_spec
from limner.evaluate.extractors import choose
from limner.evaluate.extractors.choose import open_extractor
from limner.evaluate.extractors.extractor import Detects, ImageText
from limner.evaluate.extractors.judge import JudgeExtractor
from limner.evaluate.judges.judge import Detector, ImageTextJudge, Judge

DIGITS = ImageSpec(1, 12, 12, labels=tuple("0123"))
EMOJI = ImageSpec(3, 16, 16, labels=("faces", "food", "flags"), text=text_spec())
LENET = {"channels": (4, 8), "hidden": 16}
DUAL = {"channels": (8, 16), "vector": 8, "words": 8}


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "digits"
    save_model(build("lenet", DIGITS, **LENET), folder)
    return folder


@pytest.fixture
def emoji(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "judge"
    save_model(build("dual-encoder", EMOJI, **DUAL), folder)
    return folder


@pytest.fixture
def zoo(digits: Path, emoji: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Make both judges available like bundled ones."""
    known = {"lenet": digits, "emoji-judge": emoji}
    monkeypatch.setattr(choose, "bundled_models", lambda: known)
    return known


def pixels(n: int, channels: int, side: int) -> Tensor:
    return torch.randint(0, 256, (n, channels, side, side), dtype=torch.uint8)


def judge_in(folder: Path) -> Judge:
    judge = load(folder)
    assert isinstance(judge, Judge)
    return judge.eval()


def test_features_and_logits_equal_the_judges(digits: Path):
    extract, judge = open_extractor("lenet", DIGITS, weights=digits), judge_in(digits)
    assert extract.name == f"lenet of {digits}"
    assert (extract.dim, extract.classes) == (16, DIGITS.labels)
    images = pixels(3, 1, 12)
    with torch.inference_mode():
        features = judge.features(from_uint8(images))
        expected = judge.logits(features)
    actual, logits = extract(images)
    assert torch.equal(actual, features)
    assert expected is not None
    assert logits is not None
    assert torch.equal(logits, expected)


@pytest.mark.parametrize("side", [30, 5])
def test_pictures_of_another_size_are_resized_with_antialiasing(digits: Path, side: int):
    extract = open_extractor("lenet", DIGITS, weights=digits)
    images = 255 * (pixels(2, 1, side) // 128)  # enlarged, black and white exceed [-1, 1]
    resized = F.interpolate(from_uint8(images), (12, 12), mode="bicubic", antialias=True)
    with torch.inference_mode():
        expected = judge_in(digits).features(resized.clamp(-1, 1))
    torch.testing.assert_close(extract(images).features, expected)


def test_grey_pictures_are_converted_and_colours_are_refused(digits: Path, emoji: Path):
    extract = open_extractor("lenet", DIGITS, weights=digits)
    images = pixels(2, 1, 12)
    assert torch.equal(extract(images).features, extract(images.expand(-1, 3, -1, -1)).features)
    with pytest.raises(LimnerError, match=r"lenet of .* judges grey pictures.*data\.channels=1"):
        extract(pixels(2, 3, 12))
    with pytest.raises(LimnerError, match="judges grey pictures"):
        extract(images.expand(-1, 2, -1, -1))
    rgb = open_extractor("emoji-judge", EMOJI, weights=emoji)
    grey = pixels(2, 1, 16)
    assert torch.equal(rgb(grey).features, rgb(grey.expand(-1, 3, -1, -1)).features)
    for channels in (2, 4):
        message = f"judges grey or RGB pictures, and these have {channels} channels"
        with pytest.raises(LimnerError, match=message):
            rgb(pixels(2, channels, 16))


def test_a_caption_judge_compares_pictures_with_captions(emoji: Path, digits: Path):
    extract = open_extractor("emoji-judge", EMOJI, weights=emoji)
    assert isinstance(extract, ImageText)
    assert not isinstance(open_extractor("lenet", DIGITS, weights=digits), ImageText)
    judge = load(emoji)
    assert isinstance(judge, ImageTextJudge)
    images, text = pixels(4, 3, 16), Tokenizer(extract.text).encode(["a dog", "a red apple"])
    with torch.inference_mode():
        expected = judge.eval().cosines(judge.features(from_uint8(images)), text)
    similarity = extract.similarity(images, text)
    torch.testing.assert_close(similarity, expected)
    assert similarity.shape == (4, 2)
    assert similarity.abs().max() <= 1 + 1e-6


def test_a_detector_finds_what_its_judge_finds(tmp_path: Path):
    spec = ImageSpec(3, 32, 32, hint=layout_spec(("dog", "cat"), 4))
    tiny = {"channels": (4, 8, 8, 8), "widths": (4, 8, 8), "hidden": 16}
    save_model(build("centernet2", spec, **tiny), tmp_path)
    extract = open_extractor("scene-judge", spec, weights=tmp_path)
    assert isinstance(extract, Detects) and extract.kinds == ("dog", "cat")
    judge = load(tmp_path)
    assert isinstance(judge, Detector)
    images = pixels(3, 3, 32)
    with torch.inference_mode():
        expected = judge.eval().detect(from_uint8(images))
    objects, score = extract.detect(images)
    for part, each in zip((*objects, score), (*expected.objects, expected.score)):
        assert torch.equal(part, each)
    half = open_extractor("scene-judge", spec, weights=tmp_path, dtype="bfloat16")
    assert isinstance(half, Detects) and half.name == f"scene-judge of {tmp_path} (bfloat16)"
    best, exact = half.detect(images).score[:, 0], score[:, 0]
    torch.testing.assert_close(best, exact, rtol=0.1, atol=0, check_dtype=False)
    assert not torch.equal(best.float(), exact)


def test_half_precision_is_close_and_changes_the_fingerprint(emoji: Path):
    exact = open_extractor("emoji-judge", EMOJI, weights=emoji)
    half = open_extractor("emoji-judge", EMOJI, weights=emoji, dtype="bfloat16")
    assert half.name == f"emoji-judge of {emoji} (bfloat16)"
    images = pixels(4, 3, 16)
    a, b = exact(images).features, half(images).features
    assert b.dtype == torch.float32
    assert 0 < (a - b).norm() / a.norm() < 0.05


def test_fingerprints_depend_on_weights_and_dtype(digits: Path, emoji: Path):
    extractors = [open_extractor("lenet", DIGITS, weights=w) for w in (digits, digits, emoji)]
    assert extractors[0].fingerprint == extractors[1].fingerprint != extractors[2].fingerprint
    half = open_extractor("lenet", DIGITS, weights=digits, dtype="bfloat16")
    assert half.fingerprint != extractors[0].fingerprint
    small, large = (build("dual-encoder", EMOJI.with_size(n, n), **DUAL) for n in (16, 32))
    large.load_state_dict(small.state_dict())
    assert isinstance(small, Judge) and isinstance(large, Judge)
    assert JudgeExtractor(small, "x").fingerprint != JudgeExtractor(large, "x").fingerprint


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (DIGITS, "lenet"),
        (replace(DIGITS, labels=()), "lenet"),
        (EMOJI, "emoji-judge"),
        (EMOJI.with_size(64, 64), "emoji-judge"),
        (ImageSpec(1, 32, 32), "emoji-judge"),
    ],
)
def test_the_default_is_the_bundled_extractor_for_the_pictures(
    spec: ImageSpec, name: str, zoo: dict[str, Path]
):
    assert open_extractor(None, spec).name == name


def test_a_judge_of_an_unknown_source_is_not_the_default_for_pictures_of_any_source(
    zoo: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    def needed(_: object) -> Path:
        raise LimnerError("lite0 is the default")

    monkeypatch.setattr(choose, "has_lite0", lambda: True)
    monkeypatch.setattr(choose, "lite0_file", needed)
    for source in ("", "folder:photos"):
        with pytest.raises(LimnerError, match="lite0 is the default"):
            open_extractor(None, ImageSpec(3, 48, 48), source=source)
    assert open_extractor(None, EMOJI).name == "emoji-judge"


@pytest.mark.parametrize(
    "spec", [replace(DIGITS, labels=("shirt", "shoe")), ImageSpec(2, 12, 12), ImageSpec(4, 16, 16)]
)
def test_if_no_extractor_fits_the_error_lists_their_names(spec: ImageSpec, zoo: dict[str, Path]):
    with pytest.raises(
        LimnerError, match=r"no bundled extractor was trained .* name one: lenet, "
    ) as e:
        open_extractor(None, spec)
    assert "\n" not in str(e.value)
    assert "lite0 type" not in str(e.value), "it is for RGB pictures only"


def test_the_name_of_a_bundled_extractor_has_no_path(zoo: dict[str, Path]):
    assert open_extractor("lenet", DIGITS).name == "lenet"


def test_unknown_or_unsuitable_extractors_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(LimnerError, match="unknown extractor 'lenett'; did you mean 'lenet'"):
        open_extractor("lenett", DIGITS)
    save_model(build("ddpm", ImageSpec(3, 8, 8), channels=(8,)), tmp_path / "ddpm")
    with pytest.raises(LimnerError, match="cannot judge: its model is ddpm; train lenet or"):
        open_extractor("lenet", DIGITS, weights=tmp_path / "ddpm")
    monkeypatch.setattr(choose, "bundled_models", dict)
    with pytest.raises(LimnerError, match="bundled judge 'lenet' is missing; reinstall limner"):
        open_extractor("lenet", DIGITS)
