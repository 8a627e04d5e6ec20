"""`limner compare`: the best subject, reuse of earlier reports, and the page; with models whose
likelihoods are known in closed form."""

import base64
import html
import io
import json
import math
import re
import shutil
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal

import pytest
import torch
import toys
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from limner.__main__ import main
from limner.contract.checkpoint import save_model
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, ImageSpec
from limner.contract.noise import Noise
from limner.data.png import to_pil
from limner.evaluate import comparison
from limner.evaluate.charts import _axis
from limner.evaluate.comparison import compare
from limner.evaluate.leaderboard import (
    BEST_MARK,
    Column,
    ComparedSubject,
    Comparison,
    duration,
    interval,
)
from limner.evaluate.page import write_page
from limner.evaluate.report import DataUsed, Number, Report, Subject, append_report

SIDE, INK, N = 8, 0.2, 40
METRICS = ["likelihood", "memorisation"]


def number(value: float, **fields) -> Number:
    return Number("fid", "FD", value, **{"n": 100, "better": "lower"} | fields)


def compared(*numbers: Number | tuple[Number, ...]) -> Comparison:
    """Return a comparison of made-up subjects a, b, ... with these numbers."""
    real = DataUsed("data test", 10, "d")
    subjects = []
    for name, group in zip("abcdef", numbers):
        group = group if isinstance(group, tuple) else (group,)
        report = Report(Subject(name, "model", name), real, group[0].n, 0, group)
        subjects.append(ComparedSubject(name, report))
    blank = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    return Comparison(real, tuple(subjects), blank, 100, 0, "2026-01-01", 1.0)


def best_of(*numbers: Number) -> str | None:
    """Return the name of the best subject, or why there is none."""
    found = compared(*numbers)
    best, reason = found.best(found.columns()[0])
    return best.name if best else reason


def test_intervals_come_from_numbers_or_errors_and_bounds_are_one_sided():
    assert interval(number(1, low=0.5, high=2)) == (0.5, 2)
    for n, times in ((10**6, 1.959964), (10, 2.262157), (3, 4.302653)):
        expected = 1 - 0.1 * times, 1 + 0.1 * times
        assert interval(number(1, n=n, error=0.1)) == pytest.approx(expected, rel=0.01)
        grouped = number(1, n=10**7, things=n, error=0.1)
        assert interval(grouped) == pytest.approx(expected, rel=0.01)
    assert interval(number(1, error=0.1, parts=(0.9, 1.1))) == pytest.approx((0.9, 1.1))
    assert interval(number(1, low=0.5, high=2, sign="<=")) == (-math.inf, 2)
    assert interval(number(1, low=0.5, high=2, sign=">=")) == (0.5, math.inf)
    assert interval(number(1)) is None


def test_the_best_needs_disjoint_intervals_and_equal_n():
    one, apart = number(1, low=0.8, high=1.2), number(2, low=1.3, high=2.7)
    touching = number(1.5, low=1.1, high=1.9)
    assert best_of(apart, one) == "b"
    assert best_of(one, touching, apart) == "intervals overlap"
    assert best_of(one, number(2)) == "no interval is known"
    assert best_of(one, number(2, n=50, low=1.9, high=2.1)) == "not of equally many pictures"
    assert best_of(one, number(2, m=7, low=1.9, high=2.1)) == "not of equally many pictures"
    assert best_of(one) == "there is one value only"
    assert best_of(number(1, better=""), number(2, better="")) == "neither direction is better"
    options = {"better": "higher"}
    assert (
        best_of(number(1, low=0.8, high=1.2, **options), number(2, low=1.3, high=2.7, **options))
        == "b"
    )


def test_the_true_value_may_be_better_than_a_bound_but_not_worse():
    exact = number(80, low=79.9, high=80.1)
    good, bad = (number(v, low=v - 0.1, high=v + 0.1, sign="<=") for v in (78, 82))
    assert best_of(exact, good) == "b", "a value of at most 78 is below 80"
    assert best_of(exact, bad) == "a bound may be better than it says", (
        "a value of at most 82 may be 79"
    )
    assert best_of(exact, replace(bad, sign="~")) == "a", (
        "an estimate is not a bound, as with FD-infinity"
    )


@pytest.mark.parametrize(("better", "worse"), [("lower", 82), ("higher", 78)])
def test_an_estimated_likelihood_is_treated_as_a_bound(
    better: Literal["lower", "higher"], worse: int
):
    """Hutchinson's estimate is of dequantised pictures."""
    exact, estimate = (
        Number("likelihood", "nats", v, 100, error=0.1, better=better, sign=sign)
        for v, sign in ((80, "="), (worse, "~"))
    )
    assert best_of(exact, estimate) == "a bound may be better than it says"
    assert best_of(exact, replace(estimate, value=160 - worse)) == "b"


def test_notes_state_protocols_that_differ_between_subjects():
    """A model that is given the label needs fewer bits for a picture."""
    labelled, unlabelled, bound = (
        number(v, protocol=protocol)
        for v, protocol in ((80, "given the label"), (81, ""), (82, "IW-5"))
    )
    other = replace(number(1, protocol="alike"), name="KD")
    notes = compared(
        (labelled, other), (unlabelled, other), (bound, other), (labelled, other)
    ).notes()
    assert "FD of a, d: given the label" in notes
    assert "FD of c: IW-5" in notes
    assert not any("alike" in line or "of b" in line for line in notes)


def test_floors_and_real_rows_are_shown_if_subjects_agree():
    floor, real = number(0.1, row="floor"), number(0.2, row="real (data train)")
    shuffled = [number(v, row="shuffled captions") for v in (1.0, 2.0)]
    found = compared((number(1), floor, real, shuffled[0]), (number(2), floor, real, shuffled[1]))
    rows = {line.name: line.numbers["fid", "FD"].value for line in found.reference_lines()}
    assert rows == {"floor": 0.1, "real (data train)": 0.2}
    few = number(0.4, n=50, row="floor")
    found = compared((number(1), floor), (number(2, n=50), few))
    rows = {line.name: line.numbers["fid", "FD"].value for line in found.reference_lines()}
    assert rows == {"floor": 0.1, "floor, n = 50": 0.4}


def test_documents_show_names_unchanged():
    name, escaped = "a<b>_|*c*&lt;d](e)", r"a\<b>\_\|\*c\*\&lt;d\](e)"
    real = DataUsed(name, 10, "d")
    report = Report(Subject(name, "pictures", name), real, 100, 0, (number(1),))
    blank = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    subjects = (ComparedSubject(name, report), ComparedSubject("x", error=name))
    found = Comparison(real, subjects, blank, 100, 0, "2026-01-01", 1.0)
    for document in (report.markdown(), found.markdown()):
        assert escaped in document and name not in document


def test_durations_are_formatted():
    assert [duration(s) for s in (0.0123, 2, 45.12, 150, 8040)] == [
        "12.3 ms", "2 s", "45.1 s", "2 min", "2 h 14 min",
    ]  # fmt: skip


def test_training_time_is_computed_from_the_log(tmp_path: Path):
    rows = [
        {"step": 10, "images": 100, "images_per_second": 50},
        {"step": 20, "images": 200, "images_per_second": 25},
        {"step": 30, "images": 300, "images_per_second": None},
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert comparison._training_seconds(tmp_path) == 100 / 50 + 100 / 25
    assert (
        comparison._training_seconds(tmp_path / "nowhere")
        == comparison._training_seconds(None)
        == 0
    )


@given(
    st.lists(st.floats(-1e6, 1e6).map(lambda v: float(f"{v:.3g}")), min_size=1, max_size=5),
    st.booleans(),
)
def test_an_axis_holds_all_values_in_order_and_a_few_ticks(values: list[float], positive: bool):
    values = [abs(v) + 1e-3 for v in values] if positive else values
    position, ticks = _axis(values, 10.0, 310.0)
    spots = [position(v) for v in sorted(values)]
    assert spots == sorted(spots) and all(10 - 1e-6 <= s <= 310 + 1e-6 for s in spots)
    if len(set(values)) > 1:
        assert spots[0] == pytest.approx(10) and spots[-1] == pytest.approx(310)
    assert len(ticks) <= 6 and all(10 - 1e-3 <= position(t) <= 310 + 1e-3 for t in ticks)
    assert len(ticks) >= 2 or (min(values) > 0 and max(values) < 1e3 * min(values))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create `data`, `copies` of it, and the runs `right` (its distribution) and `wrong`."""
    root = tmp_path_factory.mktemp("compare")
    (root / "data").mkdir()
    ink = Noise.sampling(0, 3 * N).uniform(1, SIDE, SIDE) < INK
    for i, picture in enumerate(ink.to(torch.uint8) * 255):
        to_pil(picture).save(root / "data" / f"{i}.png")
    shutil.copytree(root / "data", root / "copies")
    data = {"source": f"folder:{root / 'data'}", "levels": 2, "holdout": 0.5}
    log = {"step": 1, "images": 640, "images_per_second": 5.0}
    for name, p in (("right", INK), ("wrong", 0.5)):
        model = toys.Pixels(ImageSpec(1, SIDE, SIDE, levels=2))
        logits = torch.tensor([1 - p, p]).log().repeat(SIDE * SIDE)
        with torch.no_grad():
            model.logits.weight.copy_(logits.expand_as(model.logits.weight))
        (root / name).mkdir()
        save_model(model, root / name, recipe={"data": data}, images_seen=640)
        (root / name / "recipe.toml").write_text("")
        (root / name / "log.jsonl").write_text(json.dumps(log) + "\n")
    return root


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIMNER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def subjects(folder: Path) -> list[Path]:
    return [folder / "wrong", folder / "right", folder / "copies", folder / "nowhere"]


@pytest.fixture(scope="module")
def found(folder: Path, cache: None) -> Comparison:
    return compare(subjects(folder), metrics=METRICS, n=N)


def test_a_leaderboard_has_correct_numbers(folder: Path, found: Comparison):
    bits = Column("likelihood", "bits/dim", "", "lower")
    assert bits in found.columns()
    lines = {Path(line.name).name: line for line in found.lines()}
    assert list(lines) == ["wrong", "right", "copies"]
    assert lines["wrong"].numbers["likelihood", "bits/dim"].value == pytest.approx(1)
    entropy = -INK * math.log2(INK) - (1 - INK) * math.log2(1 - INK)
    right = lines["right"].numbers["likelihood", "bits/dim"]
    assert right.value == pytest.approx(entropy, abs=4 * (right.error or 0))
    best, _ = found.best(bits)
    assert best is not None and best.name == str(folder / "right")
    copied = lines["copies"].numbers["memorisation", "copied"]
    assert copied.value > 0.3, "half of the folder consists of training pictures"
    assert any(line.name.startswith("real") for line in found.reference_lines())


def test_the_stated_number_of_pictures_is_correct(folder: Path, tmp_path: Path):
    data = {"levels": 2, "channels": 1}
    (few := tmp_path / "few").mkdir()
    for i in range(12):
        shutil.copy(folder / "data" / f"{i}.png", few)
    found = compare(few, f"folder:{folder / 'data'}", metrics="memorisation", data=data)
    assert found.n == 12 and "n is 12 unless stated otherwise" in found.text()
    page, *_ = write_page(found, tmp_path)
    assert ">12</b> pictures of each" in page.read_text("utf-8")
    write_page(compared(number(1), number(2, n=50)), tmp_path)
    assert "Up to <b>100</b> pictures of each" in page.read_text("utf-8")


def test_a_failed_subject_gets_its_own_line(
    folder: Path, found: Comparison, capsys: pytest.CaptureFixture[str]
):
    *others, failed = found.subjects
    assert all(subject.report for subject in others)
    assert failed.report is None and "there is no run" in failed.error
    for document in (found.text(), found.markdown()):
        assert f"not judged: {folder / 'nowhere'}" in document
    with pytest.raises(LimnerError) as error:
        compare([folder / "nowhere", f"{folder}/./nowhere/"], f"folder:{folder / 'data'}")
    assert str(error.value).startswith("no subject could be judged")
    assert str(error.value).count("there is no run") == 1, "two spellings of one subject count once"
    assert "could not be judged" not in capsys.readouterr().err, "the error has the reason"
    with pytest.raises(LimnerError):
        compare([folder / "nowhere", folder / "gone"], f"folder:{folder / 'data'}")
    assert capsys.readouterr().err.count("could not be judged") == 1


def test_an_error_of_a_model_is_its_line(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(self, *rest, **more):
        raise RuntimeError("out of luck\nand more")

    monkeypatch.setattr(toys.Pixels, "log_prob", broken)
    pair = [folder / "wrong", folder / "copies"]
    found = compare(pair, metrics=METRICS, n=N // 2, seed=7)
    with pytest.raises(LimnerError, match="unknown metric 'kit'; did you mean 'kid'"):
        compare(pair[0], metrics="kit", n=N)
    assert found.subjects[0].error == "RuntimeError: out of luck"
    report = found.subjects[1].report
    assert report and {x.metric for x in report.numbers} == {"memorisation"}, (
        "metrics that apply must be computed"
    )
    monkeypatch.setattr(toys.Pixels, "log_prob", lambda *rest, **more: sys.exit())
    found = compare(pair, metrics=METRICS, n=N // 2, seed=7)
    assert found.subjects[0].error == "SystemExit" and found.subjects[1].report


def test_an_option_goes_to_the_models_that_have_it(
    folder: Path, found: Comparison, monkeypatch: pytest.MonkeyPatch
):
    original = toys.Pixels.frames

    def frames(self, n, c=Condition(), *, noise, preview=True, temperature: float = 1.0):
        return original(self, n, c, noise=noise, preview=preview)

    monkeypatch.setattr(toys.Pixels, "frames", frames)
    paths = [folder / "right", folder / "copies"]
    with_option = compare(paths, metrics=METRICS, n=N, sampler={"temperature": 0.5})
    assert [subject.is_reused for subject in with_option.subjects] == [False, True], (
        "folders do not take the option"
    )
    report = with_option.subjects[0].report
    assert report and report.subject.sampler == {"temperature": 0.5}
    assert f"sampler.temperature=0.5 applies to {folder / 'right'}" in with_option.notes()
    with pytest.raises(LimnerError, match=r"'sampler.temperatur'; did you mean 'sampler.temp"):
        compare(paths, metrics=METRICS, n=N, sampler={"temperatur": 0.5})


def test_an_older_report_without_a_new_likelihood_option_is_not_reused(
    folder: Path, found: Comparison, monkeypatch: pytest.MonkeyPatch
):
    log_prob = toys.Pixels.log_prob

    def with_option(self, x, c=Condition(), *, noise, k: int = 3):
        return log_prob(self, x, c, noise=noise)

    monkeypatch.setattr(toys.Pixels, "log_prob", with_option)
    reused = [
        compare(folder / "right", metrics="likelihood", n=N).subjects[0].is_reused for _ in range(2)
    ]
    assert reused == [False, True], "only the report with the new option may be reused"


def test_only_matching_reports_are_reused(
    folder: Path, found: Comparison, monkeypatch: pytest.MonkeyPatch
):
    names: list[str] = []

    def refusing(name: str, *rest, **more):
        names.append(Path(name).name)
        raise LimnerError("judged anew")

    monkeypatch.setattr(comparison, "evaluate", refusing)
    second = compare(subjects(folder), metrics=METRICS, n=N)
    assert names == [] and all(each.is_reused for each in second.subjects[:3])
    before, now = found.to_json(), second.to_json()
    assert before["subjects"] == now["subjects"] and before["best"] == now["best"]
    for each, other in zip(found.subjects[:3], second.subjects):
        assert torch.equal(each.samples, other.samples) and torch.equal(each.pairs, other.pairs)
    data = f"folder:{folder / 'data'}"
    for change in (
        {"n": N - 1},
        {"seed": 1},
        {"metrics": None},
        {"data": {"holdout": 0.4}},
    ):
        with pytest.raises(LimnerError, match="judged anew"):
            compare([folder / "right"], data, **{"metrics": METRICS, "n": N} | change)
    assert names == ["right"] * 4
    report = found.subjects[1].report
    assert report and report.training
    lines = folder / "right" / "report.jsonl"
    content = lines.read_bytes()
    for other in (
        replace(report, training=replace(report.training, digest="of other pictures")),
        replace(report, likelihood={"k": 50}),
        replace(report, subject=replace(report.subject, named_models={"guide": "a hash"})),
    ):
        lines.write_bytes(b"")
        append_report(other, lines.parent)
        with pytest.raises(LimnerError, match="judged anew"):
            compare([folder / "right"], data, metrics=METRICS, n=N)
    lines.write_bytes(content)
    part = compare([folder / "right"], metrics=["likelihood"], n=N)
    assert part.subjects[0].is_reused, "a report with more metrics must be reused"
    assert {column.metric for column in part.columns()} == {"likelihood"}, (
        "other metrics must not be shown"
    )


def test_a_report_of_likelihoods_only_is_reused_and_states_its_n(folder: Path, cache: None):
    """Only the 64 pictures of the sheet are painted for it."""
    first, second = (compare(folder / "right", metrics="likelihood", n=70) for _ in range(2))
    assert second.subjects[0].is_reused and not first.subjects[0].is_reused
    assert first.n == 70 and "n is 70 unless stated otherwise" in first.text()
    more = compare(folder / "right", metrics="likelihood", n=71)
    assert not more.subjects[0].is_reused


def test_a_report_without_a_metric_is_not_reused_for_it(folder: Path, found: Comparison):
    report = found.subjects[1].report
    assert report
    numbers = [x for x in report.numbers if x.metric != "likelihood"]
    partial = replace(report, numbers=tuple(numbers), left_out={"likelihood": "it is slow"})
    append_report(partial, folder / "right")
    lines = (folder / "right" / "report.jsonl").read_text().splitlines()
    (folder / "right" / "report.jsonl").write_text(lines[-1] + "\n")
    try:
        second = compare([folder / "right"], metrics=METRICS, n=N)
    finally:
        (folder / "right" / "report.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    assert not second.subjects[0].is_reused
    assert second.subjects[0].report and second.subjects[0].report.numbers == report.numbers


def test_the_pairs_are_a_picture_and_its_nearest_training_picture(found: Comparison):
    wrong, _, copies, _ = found.subjects
    for subject in (wrong, copies):
        assert subject.samples is not None and subject.pairs is not None
        assert torch.equal(subject.pairs[0::2], subject.samples[: len(subject.pairs) // 2])
    is_same = (copies.pairs[0::2] == copies.pairs[1::2]).flatten(1).all(1)
    assert 0 < is_same.sum() < len(is_same), "held-out pictures must not count as copies"


class Page(HTMLParser):
    """A parser that checks that tags are closed in order, and collects fetched addresses."""

    void = frozenset(("meta", "img", "br", "wbr", "line", "circle"))

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.cells: list[int] = []
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "xlink:href")]
        if tag == "tr":
            self.cells.append(0)
        if tag in ("td", "th"):
            self.cells[-1] += int(dict(attrs).get("colspan") or 1)
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.void:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in self.void


def test_the_page_is_valid_and_self_contained(found: Comparison, tmp_path: Path):
    page, document, table = write_page(found, tmp_path / "out")
    content = page.read_text(encoding="utf-8")
    parser = Page(content)
    assert parser.open == [] and len(set(parser.cells)) == 1, "a row has a missing cell"
    assert parser.sources and all(s.startswith("data:image/png;base64,") for s in parser.sources)
    assert not re.search(r"@import|url\(|https?://", content)
    for source in parser.sources:
        with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as image:
            image.load()
    assert len(parser.sources) == 1 + 3 + 3, (
        "the page needs the real sheet, three samples and three neighbours"
    )
    text = html.unescape(re.sub(r"<[^>]+>", "", content))
    for each, report in found.successes:
        assert report.text() in text and each.name in text
        for x in report.numbers:
            assert x.text().split(" ")[0] in text
    assert content.count('class="best"') == len(found.to_json()["best"]) > 0
    data = json.loads(document.read_text(encoding="utf-8"))
    for each, subject in zip(found.subjects, data["subjects"]):
        assert (each.report is None) == (subject["report"] is None)
        if each.report:
            assert Report.from_json(subject["report"]) == each.report
    lines = table.read_text(encoding="utf-8").splitlines()
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert sum(BEST_MARK in line and line.startswith("|") for line in lines) == len(data["best"])


def test_text_from_outside_is_escaped(folder: Path, tmp_path: Path):
    path = tmp_path / "<img src=x onerror=alert(1)>"
    shutil.copytree(folder / "copies", path)
    found = compare(
        [path], f"folder:{folder / 'data'}", metrics=["memorisation"], data={"levels": 2}
    )
    (page, *_) = write_page(found, tmp_path / "out")
    assert "<img src=x" not in page.read_text(encoding="utf-8")


def test_the_reference_must_be_common_to_all_models(folder: Path, tmp_path: Path):
    with pytest.raises(LimnerError, match="there is nothing to compare; name runs"):
        compare([])
    with pytest.raises(LimnerError, match="--against SOURCE"):
        compare([folder / "copies"])
    with pytest.raises(LimnerError, match="there is no run, model file or folder of pictures"):
        compare([folder / "nowhere"])
    with pytest.raises(LimnerError, match="there is no run, model file or folder of pictures"):
        compare([folder / "nowhere"], "mnist", sampler={"steps": 2})  # not: unknown option
    with pytest.raises(LimnerError, match="at least 1, not 0"):
        compare([folder / "right"], n=0)
    other = tmp_path / "other.safetensors"
    save_model(toys.Pixels(ImageSpec(1, 8, 8)), other, recipe={"data": {"source": "mnist"}})
    with pytest.raises(LimnerError, match=r"different data .*on mnist.*--against"):
        compare([folder / "right", other])
    save_model(toys.Pixels(ImageSpec(1, 8, 8)), other, recipe={"data": {"source": "folder:gone"}})
    with pytest.raises(LimnerError, match=r"folder 'gone'; for data that moved, add --against"):
        compare([other])


def test_the_command_line(
    folder: Path, found: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.chdir(tmp_path)

    def limner(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["limner", "compare", *arguments])
        with pytest.raises(SystemExit) as error:
            main()
        captured = capsys.readouterr()
        return int(error.value.code or 0), captured.out, captured.err

    common = ["--metrics", ",".join(METRICS), "-n", str(N)]
    paths = [str(folder / "wrong"), str(folder / "right")]
    code, out, _ = limner(*paths, *common)
    assert code == 0 and BEST_MARK in out and "open comparison/index.html" in out
    assert Path("comparison/index.html").is_file() and Path("comparison/comparison.md").is_file()
    code, out, _ = limner(*paths, str(folder / "nowhere"), *common, "-o", "other", "--json")
    assert code == 2 and len(json.loads(out)["subjects"]) == 3
    Path("a file").touch()
    code, out, err = limner(*paths, *common, "-o", "a file")
    assert code == 2 and BEST_MARK in out and "\nopen " not in out
    assert err.endswith("cannot write a file: it is a file, not a folder; give another path\n")
    code, out, _ = limner(*paths, *common, "-o", "a file", "--json")
    assert code == 2 and len(json.loads(out)["subjects"]) == 2
    code, out, err = limner(*paths, "--metrics", "fidd")
    assert code == 2 and out == "" and "unknown metric 'fidd'; did you mean 'fid'?" in err
    assert err.splitlines()[-1].startswith("limner: ")
