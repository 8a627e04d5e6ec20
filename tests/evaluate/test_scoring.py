"""`limner score` with a model of independent pixels, whose likelihoods are known."""

import json
import math
import shutil
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import toys
from PIL import Image
from scipy.stats import mannwhitneyu

from limner.__main__ import main
from limner.contract.checkpoint import save_model
from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec, from_uint8
from limner.contract.noise import Noise
from limner.data import open_data
from limner.data.png import save_png, to_pil
from limner.evaluate.extractors.judge import JudgeExtractor
from limner.evaluate.judges.lenet import LeNet
from limner.evaluate.scoring import Scorer, score
from limner.evaluate.self_test import self_test

SIDE, INK, REAL = 8, 0.2, 250  # a fifth of the pixels is ink, all in one half


def drawn(n: int) -> torch.Tensor:
    """Return n uint8 pictures with ink in the left and right half in turn."""
    left = torch.arange(SIDE) < SIDE // 2
    inked = left ^ (torch.arange(n) % 2 == 1)[:, None]
    ink = Noise.sampling(0, n).uniform(1, SIDE, SIDE) < 2 * INK * inked[:, None, None]
    return ink.to(torch.uint8) * 255


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create `data`, a `run` with its exact distribution, and unusual pictures."""
    root = tmp_path_factory.mktemp("score")
    (root / "data").mkdir()
    for i, picture in enumerate(drawn(REAL)):
        to_pil(picture).save(root / "data" / f"{i}.png")
    save_png(drawn(1)[0], root / "drawn.png")
    save_png(255 - drawn(1)[0], root / "inverted.png")
    save_png(torch.zeros(1, SIDE, SIDE, dtype=torch.uint8), root / "blank.png")
    Image.new("RGB", (31, 40), "black").save(root / "large.png")
    (root / "text.png").write_text("no picture")
    model = toys.Pixels(ImageSpec(1, SIDE, SIDE, levels=2))
    logits = torch.tensor([1 - INK, INK]).log().repeat(SIDE * SIDE)
    with torch.no_grad():
        model.logits.weight.copy_(logits.expand_as(model.logits.weight))
    data = {"source": f"folder:{root / 'data'}", "levels": 2, "holdout": 0.9}
    (root / "run").mkdir()
    save_model(model, root / "run", recipe={"data": data})
    (root / "run" / "recipe.toml").write_text("")
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def nats(ink: int) -> float:
    return ink * math.log(INK) + (SIDE**2 - ink) * math.log(1 - INK)


def test_likelihoods_and_verdicts_equal_the_closed_form(folder: Path):
    names = ["drawn", "inverted", "blank"]
    report = score(folder / "run", [folder / f"{name}.png" for name in names])
    ink = int((drawn(1) > 0).sum())
    by_name = dict(zip(names, report.pictures))
    assert by_name["blank"].typicality.nats == pytest.approx(nats(0), rel=1e-5)
    assert by_name["drawn"].typicality.nats == pytest.approx(nats(ink), rel=1e-5)
    assert by_name["inverted"].typicality.nats == pytest.approx(nats(SIDE**2 - ink), rel=1e-5)
    for picture in report.pictures:
        assert picture.bits == pytest.approx(-picture.typicality.nats / (SIDE**2 * math.log(2)))
    verdicts = [by_name[name].typicality.verdict for name in names]
    assert verdicts == ["typical", "far too unlikely", "far too likely"]
    entropy = -(INK * math.log(INK) + (1 - INK) * math.log(1 - INK)) * SIDE**2
    deviation = math.sqrt(SIDE**2 * INK * (1 - 2 * INK)) * math.log((1 - INK) / INK)
    assert report.mean == pytest.approx(-entropy, abs=3 * deviation / math.sqrt(report.n))
    assert report.deviation == pytest.approx(deviation, rel=0.2)


def test_real_pictures_are_held_out(folder: Path):
    scorer = Scorer.open(folder / "run", None, 1000, {}, "cpu")
    assert scorer.real.name.endswith(" test") and not scorer.real.dataset.training
    assert not scorer.remarks
    train = Scorer.open(folder / "run", None, 1000, {"split": "train"}, "cpu")
    assert "learnt from" in train.remarks[0]
    assert len(scorer.real) + len(train.real) == REAL


def test_a_model_did_not_learn_from_other_data(folder: Path):
    others = f"zip:{shutil.make_archive(str(folder / 'others'), 'zip', folder / 'data')}"
    (remark,) = Scorer.open(folder / "run", others, 20, {"levels": 2}, "cpu").remarks
    assert "was trained on folder:" in remark and remark.endswith(f"not on {others}")


def test_scores_of_real_pictures_are_cached_in_the_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    first = score(folder / "run", [folder / "blank.png"])
    assert list((folder / "run" / "scores").glob("*.safetensors"))
    counts: list[int] = []
    original = toys.Pixels.log_prob

    def counting(self, x, *rest, **more):
        counts.append(len(x))
        return original(self, x, *rest, **more)

    monkeypatch.setattr(toys.Pixels, "log_prob", counting)
    assert score(folder / "run", [folder / "blank.png"]).to_json() == first.to_json()
    assert counts == [1], "the real pictures were scored again"
    score(folder / "run", [folder / "blank.png"], n=100)
    assert sum(counts) == 102, "another number of real pictures must be scored anew"


def test_a_picture_is_converted_to_the_data_and_changes_are_stated(folder: Path):
    report = score(folder / "run", [folder / "large.png", folder / "drawn.png"])
    assert report.pictures[0].changed == "seen at 8 x 8 instead of 40 x 31, in grey"
    assert report.pictures[0].typicality.nats == pytest.approx(nats(0), rel=1e-5)
    assert report.pictures[1].changed == ""
    grey = folder / "grey.png"
    save_png(torch.full((1, SIDE, SIDE), 90, dtype=torch.uint8), grey)
    assert score(folder / "run", [grey]).pictures[0].changed == "seen in 2 levels"


def test_a_picture_of_the_data_is_read_as_the_data_set_reads_it(tmp_path: Path):
    """Resized to load_size, cropped to the centre, and quantised to levels of equal width."""
    ramps = torch.arange(2 * 20 * 20).reshape(2, 20, 20) // 4
    for i, ramp in enumerate(ramps):
        Image.fromarray(ramp.to(torch.uint8).numpy()).save(tmp_path / f"{i}.png")
    source = f"folder:{tmp_path}"
    options = {"size": 8, "load_size": 12, "channels": 1, "levels": 4, "levels_by": "floor"}
    data = open_data(source, **options)
    run = tmp_path / "run"
    save_model(toys.Pixels(data.spec), run, recipe={"data": {"source": source} | options})
    pixels, _ = Scorer.open(run, None, 2, {}, "cpu").read(tmp_path / "1.png")
    assert torch.equal(pixels, data.images(torch.tensor([1]), Noise.sampling(0, 1)))


def test_unreadable_files_are_named_and_the_others_are_scored(folder: Path):
    paths = [folder / "text.png", folder / "nowhere.png", folder / "data"]
    report = score(folder / "run", [*paths, folder / "blank.png"])
    assert len(report.pictures) == 1 and list(report.failed) == [str(path) for path in paths]
    reasons = " ".join(report.failed.values())
    assert "not a picture" in reasons and "no file" in reasons and "/*.png" in reasons
    with pytest.raises(LimnerError, match="no file"):
        score(folder / "run", paths)


def test_a_lower_bound_is_stated(folder: Path, tmp_path: Path):
    bound = toys.Prepared(ImageSpec(1, SIDE, SIDE, levels=2))
    save_model(bound, tmp_path / "bound.safetensors")
    source = f"folder:{folder / 'data'}"
    blank = folder / "blank.png"
    report = score(tmp_path / "bound.safetensors", [blank], against=source, data={"levels": 2})
    assert report.kind == "lower"
    assert ">= " in report.text() and "<= " in report.text() and "learnt from" in report.text()
    second = score(
        tmp_path / "bound.safetensors", [folder / "drawn.png", blank], against=source,
        data={"levels": 2},
    )  # fmt: skip
    assert second.pictures[1] == report.pictures[0], "a score must not depend on the other pictures"
    scorer = Scorer.open(tmp_path / "bound.safetensors", source, 40, {"levels": 2}, "cpu")
    test = self_test(scorer, source)
    assert test.kind == "lower"
    assert all(f">= {row.nats:,.1f} nats" in test.text() for row in test.rows)


def test_the_error_of_a_model_without_likelihood_lists_others(folder: Path, tmp_path: Path):
    save_model(toys.Lazy(ImageSpec(1, SIDE, SIDE)), tmp_path / "gan.safetensors")
    with pytest.raises(LimnerError, match=r"has no likelihood of pictures.* pixelcnn") as error:
        score(tmp_path / "gan.safetensors", [folder / "blank.png"], against="emoji")
    assert "\n" not in str(error.value)
    with pytest.raises(LimnerError, match="name a model first"):
        score(folder / "data", [folder / "blank.png"], against="emoji")
    with pytest.raises(LimnerError, match="--against"):
        save_model(toys.Pixels(ImageSpec(1, SIDE, SIDE)), tmp_path / "unknown.safetensors")
        score(tmp_path / "unknown.safetensors", [folder / "blank.png"])


@pytest.fixture(scope="module")
def classifier() -> JudgeExtractor:
    """Return a LeNet trained to classify in which half the ink is."""
    spec = ImageSpec(1, SIDE, SIDE, levels=2, labels=("left", "right"))
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        judge = LeNet(spec, (4, 8), 16)
    x, label = from_uint8(drawn(64)), torch.arange(64) % 2
    parameters = list(judge.parameters())
    for _ in range(60):
        loss = F.cross_entropy(judge.logits(judge.features(x)), label)
        for p, slope in zip(parameters, torch.autograd.grad(loss, parameters)):
            p.data -= 0.3 * slope
    return JudgeExtractor(judge, "left-or-right")


def test_a_likelihood_finds_outliers_that_a_classifier_does_not(
    folder: Path, classifier: JudgeExtractor
):
    scorer = Scorer.open(folder / "run", None, 200, {}, "cpu")
    black = folder / "black"
    black.mkdir()
    to_pil(torch.zeros(1, SIDE, SIDE, dtype=torch.uint8)).save(black / "0.png")
    report = self_test(scorer, f"folder:{black}", classifier)
    rows = {row.kind: row for row in report.rows}
    assert list(rows) == ["real", "noise", "blank", "inverted", f"folder:{black}"]
    for kind, row in rows.items():
        if kind != "real":
            assert row.untypical is not None and row.untypical > 0.98, kind
    assert rows["noise"].unlikely == rows["inverted"].unlikely == 1
    assert rows[f"folder:{black}"].unlikely == 0, "the black picture is the most likely of all"
    pixels = scorer.real.pictures(torch.arange(100, 200))
    confidences = [classifier(x).logits.softmax(1).amax(1) for x in (pixels, 255 - pixels)]
    doubt = mannwhitneyu(*(1 - c.numpy() for c in reversed(confidences))).statistic / 100**2
    assert rows["inverted"].doubt == pytest.approx(doubt, abs=1e-3)
    for kind, c in zip(("real", "inverted"), confidences):
        assert rows[kind].sure == pytest.approx(float((c >= 0.9).double().mean()))
        assert rows[kind].sure > 0.5, "the classifier must be sure of inverted pictures"
    assert "left-or-right is sure" in report.text()
    assert "too few to refuse any" in report.text()


def test_a_self_test_without_a_classifier_states_why(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("limner.evaluate.extractors.choose.JUDGES", ())
    scorer = Scorer.open(folder / "run", None, 100, {}, "cpu")
    report = self_test(scorer, f"folder:{folder / 'data'}")
    assert report.classifier == "" and "there is no classifier to compare with" in report.text()
    assert report.rows[-1].untypical == pytest.approx(0.5, abs=0.15), (
        "both are from one distribution"
    )
    with pytest.raises(
        LimnerError, match=r"at least 40 real pictures, not 30 of .*; give a larger -n"
    ):
        self_test(Scorer.open(folder / "run", None, 30, {}, "cpu"))


def test_the_command_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def limner(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["limner", "score", *arguments])
        with pytest.raises(SystemExit) as error:
            main()
        captured = capsys.readouterr()
        return int(error.value.code or 0), captured.out, captured.err

    run, blank = str(folder / "run"), str(folder / "blank.png")
    code, out, _ = limner(run, blank)
    assert code == 0 and "far too likely" in out and "bits/dim" in out
    code, out, err = limner(run, blank, str(folder / "text.png"), "--json")
    document = json.loads(out)
    assert code == 2 and err.count("\n") == 1 and "not a picture" in err
    assert document["pictures"][0]["typicality"]["verdict"] == "far too likely"
    foreign = f"folder:{folder / 'data'}"
    code, out, _ = limner(run, "--self-test", "-n", "50", "--foreign", foreign)
    assert code == 0 and "inverted" in out
    code, out, err = limner(run, blank, "--foreign", foreign)
    assert (code, out) == (2, "") and "--foreign is for --self-test" in err
    code, out, err = limner(run)
    assert code == 2 and err.count("\n") == 1 and "name the pictures" in err
