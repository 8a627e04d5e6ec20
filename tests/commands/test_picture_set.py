"""`limner sample-set`: what each picture shows, resuming, and painting with workers."""

import io
import json
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from ray_processes import run_and_kill_a_worker

from limner.__main__ import main
from limner.commands.picture_set import SetFolder, SetPlan, paint_shards
from limner.commands.request import SamplingRequest
from limner.commands.sample_set import _lines
from limner.contract.checkpoint import save_model
from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec
from limner.contract.registry import build
from limner.contract.wildcards import choose_words
from limner.data import open_data
from limner.data.png import read_settings


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a small model with three classes and return its file."""
    torch.manual_seed(0)
    spec = ImageSpec(1, 8, 8, labels=("circle", "square", "star"))
    file = tmp_path_factory.mktemp("set") / "model.safetensors"
    save_model(build("flow-matching", spec, channels=(8, 8)), file)
    return file


def run(*arguments: object, code: int = 0) -> None:
    sys.argv = ["limner", *map(str, arguments)]
    with pytest.raises(SystemExit) as error:
        main()
    assert (error.value.code or 0) == code


def tars(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


def test_prompts_alternate_before_classes_do():
    plan = SetPlan(SamplingRequest("m", labels=("x", "y"), seed=7), ("a", "b", "c"), 10, shard=4)
    assert [len(plan.requests(number)) for number in plan.shards()] == [4, 4, 2]
    requests = [request for number in plan.shards() for request in plan.requests(number)]
    assert [request.prompts[0] for request in requests] == [*"abcabcabca"]
    assert [request.labels[0] for request in requests] == [*"xxxyyyxxxy"]
    assert [request.seed for request in requests] == list(range(7, 17))


def test_pictures_are_named_by_their_numbers_whatever_the_first_seed_is(model):
    plan = SetPlan(SamplingRequest(str(model), seed=7, sampler={"steps": 1}), (), 3, shard=2)
    paintings = [each for _, shard in paint_shards(plan, [0, 1]) for each in shard]
    assert [each.name for each in paintings] == ["000000000", "000000001", "000000002"]
    assert [each.row["seed"] for each in paintings] == [7, 8, 9]


def test_each_seed_chooses_the_words_that_it_chooses_for_a_single_picture():
    plan = SetPlan(SamplingRequest("m", seed=3), ("a {red|blue} {cat|dog|fox}",), 12)
    prompts = [request.prompts[0] for request in plan.requests(0)]
    assert prompts == [choose_words("a {red|blue} {cat|dog|fox}", seed) for seed in range(3, 15)]
    assert len(set(prompts)) > 3


def test_a_set_that_was_stopped_resumes_to_the_same_bytes(model, tmp_path, capsys):
    plan = SetPlan(
        SamplingRequest(str(model), labels=("star", "circle"), sampler={"steps": 2}),
        (),
        10,
        shard=4,
    )
    folder = SetFolder(tmp_path / "a", plan)
    for number, pictures in paint_shards(plan, folder.missing_shards()):
        if number == 1:
            break
        folder.keep(number, pictures)
    options = ["-m", model, "--label", "star", "--label", "circle", "--shard", 4, "sampler.steps=2"]
    for name in ("a", "b"):
        run("sample-set", tmp_path / name, "-n", 10, *options)
    assert "1 of 3 shards are finished" in capsys.readouterr().err
    shards = tars(tmp_path / "a")
    assert list(shards) == ["shard-00000.tar", "shard-00001.tar", "shard-00002.tar"]
    assert tars(tmp_path / "b") == shards

    with tarfile.open(fileobj=io.BytesIO(shards["shard-00001.tar"])) as tar:
        names = tar.getnames()
        settings = json.load(tar.extractfile("000000005.json"))
    assert names[:2] == ["000000004.png", "000000004.json"]
    assert settings == {"label": "circle", "seed": 5}

    # the set can also grow: a last shard that was incomplete is painted again
    run("sample-set", tmp_path / "a", "-n", 12, *options)
    run("sample-set", tmp_path / "c", "-n", 12, *options)
    assert tars(tmp_path / "a") == tars(tmp_path / "c")
    run("sample-set", tmp_path / "a", "-n", 8, *options, code=2)
    assert "more than 8 pictures" in capsys.readouterr().err


def test_a_folder_is_a_data_source_and_each_picture_stores_its_settings(model, tmp_path):
    out = tmp_path / "set"
    run(
        "sample-set",
        out,
        "-n",
        6,
        "-m",
        model,
        "--label",
        "all",
        "--format",
        "folder",
        "--shard",
        4,
    )
    data = open_data(f"folder:{out}")
    assert len(data) == 6 and data.spec.labels == ("circle", "square", "star")
    assert read_settings(out / "000000004.png")["seed"] == 4
    run("sample", "--from", out / "000000004.png", "--enlarge", 1, "-o", tmp_path / "again.png")
    pixels = [
        Image.open(path).tobytes() for path in (tmp_path / "again.png", out / "000000004.png")
    ]
    assert pixels[0] == pixels[1]


def test_a_byte_order_mark_is_no_part_of_the_first_prompt(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a dog\n\na cat\n", encoding="utf-8-sig")
    assert _lines(file) == ("a dog", "a cat")


def test_refused_requests_leave_no_files(model, tmp_path, capsys):
    out = tmp_path / "set"
    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n")
    for arguments, message in (
        (["-m", model, "sampler.stepz=2"], "did you mean 'steps'"),
        (["-m", "upscaler"], "needs input pictures"),
        (["-m", model, "--label", "cube"], "cube"),
        (["-m", model, "--prompts", empty], "contains no prompts"),
        (["-m", model, "--prompts", tmp_path / "none.txt"], "cannot read the prompts"),
        (["-m", model, "--workers", 2, "--ray", "127.0.0.1:1"], "no Ray cluster answers"),
        (["-m", model, "--ray", "a-host"], "not a Ray cluster's address; write HOST:PORT"),
        (["-m", model, "--ray", "127.0.0.1:99999"], "not a Ray cluster's address"),
    ):
        run("sample-set", out, "-n", 4, *arguments, code=2)
        assert message in capsys.readouterr().err
        assert not out.exists()
    run("sample-set", tmp_path, "-n", 4, "-m", model, code=2)
    assert "contains other files" in capsys.readouterr().err
    run("sample-set", empty / "set", "-n", 1, "-m", model, code=2)
    assert "is a file, not a folder; finished shards are kept: make room" in capsys.readouterr().err
    run("sample-set", out, "-n", 4, "-m", model)
    run("sample-set", out, "-n", 4, "-m", model, "--seed", 1, code=2)
    assert "with another seed" in capsys.readouterr().err
    with pytest.raises(LimnerError, match="with another shard"):
        SetFolder(out, SetPlan(SamplingRequest(str(model)), (), 4, shard=2))


def test_a_finished_set_needs_no_workers(model, tmp_path, monkeypatch):
    options = ["sample-set", tmp_path / "set", "-n", 2, "-m", model]
    run(*options)
    monkeypatch.setitem(sys.modules, "ray", None)
    run(*options, "--workers", 2)


def test_ray_workers_paint_the_same_and_a_killed_one_loses_nothing(model, tmp_path):
    options = ["-n", 12, "-m", model, "--label", "star", "--shard", 2, "sampler.steps=2"]
    run("sample-set", tmp_path / "alone", *options)
    run_and_kill_a_worker(["sample-set", "many", *options], "Painter", tmp_path)
    assert tars(tmp_path / "many") == tars(tmp_path / "alone")
