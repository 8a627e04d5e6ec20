"""`limner evaluate` on the command line, and evaluation during training."""

import json
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from ray_processes import run_and_kill_a_worker

from limner.__main__ import main
from limner.contract.checkpoint import load
from limner.evaluate.passes import FeatureObserver, Share
from limner.evaluate.preparation import EvaluationOptions, prepare
from limner.evaluate.report import DataUsed, Report, Subject, read_reports, report_folder
from limner.evaluate.subject import Candidate, open_reference
from limner.runtime.log import read_log
from limner.training.recipe import Recipe
from limner.training.run import resume, train

SIDE = 8
TINY = ["model.channels=8,8", "train.batch=8", "train.samples=0", "train.log_every=4"]
TINY += ["data.holdout=0.4", "sampler.steps=2"]
CHEAP = ["evaluate.every=40", "evaluate.n=20", "evaluate.metrics=kid,is"]
CHEAP += ["evaluate.extractor=lenet"]


def ramps(folder: Path, n: int, channels: int = 1, side: int = SIDE) -> Path:
    """Write n pictures of grey or coloured ramps."""
    folder.mkdir(parents=True)
    x = torch.randint(0, 200, (n, channels, 1, 1)) + torch.arange(0, 7 * side, 7).view(side, 1)
    for i, image in enumerate(x.expand(n, channels, side, side).to(torch.uint8)):
        array = image.permute(1, 2, 0).squeeze().numpy()
        Image.fromarray(array).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a folder of pictures, and a run trained on it with evaluations."""
    home = tmp_path_factory.mktemp("judging")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIMNER_CACHE", str(home / "cache"))
        patch.chdir(home)
        ramps(home / "pics", 100)
        train(Recipe.of("edm", "folder:pics", [*TINY, *CHEAP, "train.steps=12"]), "run")
    return home


@pytest.fixture
def limner_(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("LIMNER_CACHE", str(home / "cache"))
    monkeypatch.chdir(home)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["limner", *arguments])
        with pytest.raises(SystemExit) as error:
            main()
        captured = capsys.readouterr()
        return int(error.value.code or 0), captured.out, captured.err

    return run


def test_a_run_is_evaluated_on_held_out_pictures_and_keeps_the_report(limner_, home: Path):
    code, out, _ = limner_("evaluate", "run", "--extractor", "lenet")
    assert code == 0
    assert "run (edm," in out and "against folder:pics test" in out
    assert "lenet" in out
    assert "remark: lenet was trained on mnist, and may not see what matters in folder:pics" in out
    folder = home / "run" / "evaluation" / "folder-pics-test"
    assert {f.name for f in folder.iterdir()} == {
        "report.json", "report.md", "samples.png", "suspects.png"
    }  # fmt: skip
    report = Report.from_json(json.loads((folder / "report.json").read_text()))
    assert report.n == report.against.pictures, "n must be the size of a small reference"
    assert report.training and report.training.name == "folder:pics train"
    assert report.training.pictures + report.against.pictures == 100
    assert report.subject.images_seen == 96 and report.subject.sampler["steps"] == 2
    assert [Report.from_json(line) for line in read_reports(home / "run")] == [report]
    assert f"written to {Path('run/evaluation/folder-pics-test')}: report.json" in out


@pytest.mark.parametrize("typed", ["emoji data.split=all", "emoji:split=all", "mixed:emoji,emoji"])
def test_training_pictures_are_never_reported_as_held_out(typed: str):
    source, _, option = typed.partition(" ")
    data = Recipe.of("edm", source, [option] * bool(option) + ["data.size=16"]).data
    if "mixed" in typed:
        data |= {side: {"split": "all"} for side in "ab"}
    candidate = Candidate("run", "", recipe={"data": data})
    for options in ({}, {"split": "held-out-concept"}):
        reference = open_reference(None, options, candidate)
        assert reference.held_out is None
        assert reference.training is not None and len(reference.training) >= len(reference.real)
    assert open_reference("emoji", {"size": 16}, Candidate("another", "")).held_out


def test_without_a_held_out_split_the_training_split_is_used(limner_, home: Path):
    run = home / "all"
    train(Recipe.of("edm", "folder:pics", [*TINY, "data.holdout=0", "train.steps=1"]), run)
    code, out, _ = limner_("evaluate", "all", "--extractor", "lenet", "--metrics", "fid")
    assert code == 0 and "against folder:pics train" in out


@pytest.mark.parametrize(
    "names", [("folder:猫 train", "folder:犬 train"), ("folder:A b", "folder:a b")]
)
def test_reports_of_two_references_have_two_folders(names: tuple[str, str], tmp_path: Path):
    (tmp_path / "recipe.toml").touch()
    reports = [
        Report(Subject(str(tmp_path), "model", "f"), DataUsed(name, 1, "d"), 1, 0, ())
        for name in names
    ]
    assert len({report_folder(report) for report in reports}) == 2


def test_json_is_one_document_and_options_reach_the_sampler(limner_):
    code, out, _ = limner_(
        *("evaluate", "run/model.safetensors", "--metrics", "kid", "--extractor", "lenet"),
        *("-n", "12", "--seed", "7", "--json", "sampler.steps=3"),
    )
    document = json.loads(out)
    assert code == 0 and document["subject"]["sampler"]["steps"] == 3
    assert (document["n"], document["seed"]) == (12, 7)
    assert {n["metric"] for n in document["numbers"]} == {"kid"}
    assert all(n["extractor"] == "lenet" for n in document["numbers"])


def test_folders_and_archives_give_the_same_numbers(limner_, home: Path):
    with zipfile.ZipFile(home / "pics.zip", "w") as archive:
        for file in sorted((home / "pics").iterdir())[:50]:
            archive.write(file, file.name)
    (home / "unpacked").mkdir()
    zipfile.ZipFile(home / "pics.zip").extractall(home / "unpacked")
    common = ("--against", "folder:pics", "--extractor", "lenet", "--json")
    reports = []
    for subject in ("pics.zip", "unpacked", "zip:pics.zip"):
        code, out, _ = limner_("evaluate", subject, *common)
        assert code == 0
        reports.append(json.loads(out))
    assert reports[0]["numbers"] == reports[1]["numbers"] == reports[2]["numbers"]
    assert reports[0]["subject"]["kind"] == "pictures" and reports[0]["n"] == 50
    code, _, _ = limner_("evaluate", "unpacked", *common[:-1], "-o", "judged", "--metrics", "is")
    assert code == 0 and Path("judged/report.md").is_file()


def test_a_reference_that_a_model_did_not_learn_from_is_remarked(limner_, home: Path):
    ramps(home / "others", 12)
    common = ("--extractor", "lenet", "--metrics", "kid", "-n", "12")
    remark = "remark: run was trained on folder:pics, not on folder:others"
    assert remark in limner_("evaluate", "run", "--against", "folder:others", *common)[1]
    assert "was trained on folder:pics" not in limner_("evaluate", "run", *common)[1]


def test_a_report_is_printed_before_its_folder_is_written(limner_, home: Path):
    (home / "a file").touch()
    common = ("evaluate", "run", "--extractor", "lenet", "--metrics", "kid", "-n", "12")
    code, out, err = limner_(*common, "-o", "a file")
    assert code == 2 and "KD" in out
    assert err.endswith("cannot write a file: it is a file, not a folder; give another path\n")
    code, out, _ = limner_(*common, "-o", "a file", "--json")
    assert code == 2 and json.loads(out)["n"] == 12


def test_a_mistake_gives_one_line_and_exit_code_2(limner_, home: Path):
    ramps(home / "large", 12, side=16)
    ramps(home / "coloured", 12, channels=3)
    ramps(home / "grey-as-one", 1)
    (home / "empty").mkdir()
    (home / "texts").mkdir()
    (home / "texts" / "a.txt").write_text("a word")
    (home / "my run").mkdir()
    (home / "my run" / "recipe.toml").touch()
    common = ("--against", "folder:pics", "--extractor", "lenet")
    for arguments, message in (
        (("my run", *common), "limner resume 'my run'"),
        (("empty", *common), "empty"),
        (("texts", *common), "texts"),
        (("large", *common), "give data.size=16"),
        (("coloured", *common), "coloured has RGB pictures, and folder:pics train has grey ones"),
        (("grey-as-one", *common, "--metrics", "kid"), "it needs at least 10 pictures"),
        (("run", "-n", "8", "--metrics", "kid"), "and run has 8; give -n 10"),
        (("pics",), "say which real pictures to judge pics by: --against"),
        (("nowhere", *common), "there is no run, model file or folder of pictures 'nowhere'"),
        (("", *common), "there is no run, model file or folder of pictures ''"),
        (("run", "--extractor", "lenett"), "did you mean 'lenet'?"),
        (("run", "--metrics", "fidd"), "did you mean 'fid'?"),
        (("run", "train.lr=3"), "unknown section 'train'"),
        (("run", *common, "--ray", "127.0.0.1:1"), "no Ray cluster answers"),
    ):
        code, out, err = limner_("evaluate", *arguments)
        assert (code, out) == (2, "") and message in err, (arguments, err)
        assert err.count("\n") == 1 and err.startswith("limner: "), err
    code, out, _ = limner_("evaluate", "coloured", *common, "data.channels=1", "--metrics", "is")
    assert code == 0, "the remedy in the message must work"


def test_ctrl_c_prints_how_to_continue(limner_, monkeypatch: pytest.MonkeyPatch):
    from limner.evaluate.passes import Observations

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Observations, "do_share", interrupt)
    code, out, err = limner_("evaluate", "run", "--extractor", "lenet", "--seed", "3")
    assert (code, out) == (130, "") and "type the same command again" in err


def test_ray_workers_give_the_same_numbers_even_if_one_is_killed(
    limner_, home: Path, monkeypatch: pytest.MonkeyPatch
):
    args = ["evaluate", "run", "--extractor", "lenet", "-n", "150", "--metrics", "kid", "--json"]
    monkeypatch.setenv("LIMNER_CACHE", str(home / "cache-of-workers"))
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    parallel = json.loads(run_and_kill_a_worker(args, "_ShareWorker", home))
    monkeypatch.setenv("LIMNER_CACHE", str(home / "cache"))
    code, out, err = limner_(*args)
    assert code == 0, err
    single = json.loads(out)
    for number, other in zip(parallel["numbers"], single["numbers"], strict=True):
        assert number == {**other, "value": pytest.approx(other["value"], abs=1e-6)} | {
            key: pytest.approx(other[key], abs=1e-6) for key in ("low", "high") if other.get(key)
        }


def test_shares_cover_all_blocks_exactly_once(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LIMNER_CACHE", str(home / "shares"))
    monkeypatch.chdir(home)
    options = EvaluationOptions(n=150, extractor="lenet")
    observations = prepare(torch.device("cpu"), "run", None, options).observations
    total = observations.count_waiting()
    parts = [Share(number, 4) for number in range(4)]
    assert sum(map(observations.count_waiting, parts)) == total
    for part in parts:
        observations.do_share(lambda _: None, part)

    def look_again(*_: object) -> None:
        raise AssertionError("a block is done twice")

    monkeypatch.setattr(FeatureObserver, "look", look_again)
    observations.do_share(lambda _: None)


def test_training_logs_numbers_and_is_not_changed_by_evaluation(home: Path, monkeypatch):
    """12 steps of 8 images, evaluated every 40 images: after steps 5, 10 and 12."""
    monkeypatch.setenv("LIMNER_CACHE", str(home / "cache"))
    monkeypatch.chdir(home)
    rows = {row["step"]: row for row in read_log(home / "run")}
    names = {name for row in rows.values() for name in row if name.startswith("evaluate.")}
    assert {"evaluate.KD (lenet)", "evaluate.IS (lenet)"} <= names
    assert [step for step, row in rows.items() if names <= row.keys()] == [5, 10, 12]
    assert list(rows) == [4, 5, 8, 10, 12]
    with Image.open(home / "run" / "curves.png") as image:
        assert image.height > 4 * 280, "each number needs a panel"
    plain = Recipe.of("edm", "folder:pics", [*TINY, "train.steps=6"])
    train(plain, "plain")
    resume("plain", ["train.steps=12", *CHEAP])
    weights = load("run").state_dict()
    for name, weight in load("plain").state_dict().items():
        assert torch.equal(weight, weights[name]), (
            "evaluation must not use random numbers of training"
        )
    numbers = {k: v for k, v in rows[12].items() if k in names}
    assert {k: v for k, v in read_log(home / "plain")[-1].items() if k in names} == numbers


def test_training_continues_if_a_model_cannot_be_evaluated_yet(home: Path, monkeypatch, capsys):
    monkeypatch.setenv("LIMNER_CACHE", str(home / "cache"))
    monkeypatch.chdir(home)
    options = [*TINY, *CHEAP[:-1], "evaluate.metrics=retrieval", "train.steps=5"]
    train(Recipe.of("edm", "folder:pics", options), "wordless")
    assert "not evaluated: metric 'retrieval' does not apply" in capsys.readouterr().err
    assert read_log(home / "wordless")[-1]["step"] == 5
