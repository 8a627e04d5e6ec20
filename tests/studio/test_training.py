"""Training through the API: uploaded archives, runs as made with `limner train`, and recovery after
a kill of the server.
"""

import io
import json
import os
import shutil
import signal
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from conftest import Studio, at_once, until, write_run
from limner.contract.model import GenerativeModel
from limner.contract.options import names_a_file
from limner.contract.registry import models
from limner.runtime.folder_lock import lock_folder
from limner.studio.data_sets import DataSets
from limner.studio.problems import RefusedError
from limner.studio.runs import id_of
from limner.studio.settings import Settings
from limner.studio.trainer import write_check
from limner.studio.training_api import checked_option
from limner.studio.trainings import Trainings

COLOURS = ("red", "blue", "green", "gold")
TINY = [
    "model.channels=8,16",
    "data.size=8",
    "train.batch=4",
    "train.samples=4",
    "train.log_every=2",
]
SHORT = [*TINY, "train.steps=6", "train.sample_every=3", "train.save_every=2"]
LONG = [*TINY, "train.steps=100000", "train.sample_every=0", "train.save_every=100000"]


def archive(broken: int = 0, valid: int = 12) -> bytes:
    """Return a zip of small pictures."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        for i in range(valid):
            content = io.BytesIO()
            Image.new("RGB", (8, 8), COLOURS[i % 4]).save(content, "PNG")
            out.writestr(f"dots/{i}.png", content.getvalue())
        for i in range(broken):
            out.writestr(f"dots/broken-{i}.png", b"nonsense")
    return file.getvalue()


def send(studio: Studio, content: bytes, name: str = "Dots & more") -> dict[str, Any]:
    """Send an archive, and wait for its check."""
    response = studio.client.post("/api/v1/data", params={"name": name}, content=content)
    assert response.status_code == 201, response.text
    until(lambda: data(studio, response.json()["name"])["check"] is not None, 300)
    return data(studio, response.json()["name"])


def data(studio: Studio, name: str) -> dict[str, Any]:
    known = studio.client.get("/api/v1/data").json()["data"]
    return next(each for each in known if each["name"] == name)


def start_training(studio: Studio, expect: int = 202, **fields: Any) -> dict[str, Any]:
    request = {"model": "flow-matching", "data": "dots-more", "minutes": None} | fields
    response = studio.client.post("/api/v1/trainings", json=request)
    assert response.status_code == expect, response.text
    return response.json()


def training(studio: Studio, id: str) -> dict[str, Any]:
    return studio.client.get(f"/api/v1/trainings/{id}").json()


def ended(studio: Studio, id: str) -> dict[str, Any]:
    until(lambda: training(studio, id)["state"] != "running", 300)
    return training(studio, id)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """Return a studio with an archive, which may be killed and restarted."""
    studio = Studio(tmp_path_factory.mktemp("trainer")).ready()
    send(studio, archive())
    yield studio
    studio.kill()


def test_an_archive_is_checked_and_trained_on(trainer: Studio):
    dataset = data(trainer, "dots-more")
    assert dataset["source"] == "zip:studio/data/dots-more.zip" and dataset["own"]
    assert dataset["check"]["pictures"] == 12 and not dataset["check"]["refused"]
    assert "8 x 8 (12)" in dataset["check"]["text"]
    sheet = trainer.client.get("/api/v1/data/dots-more/sheet").content
    assert Image.open(io.BytesIO(sheet)).getpixel((10, 10)) == (255, 0, 0)
    id = start_training(trainer, options=SHORT)["id"]
    assert start_training(trainer, 409)["code"] == "training"
    status = ended(trainer, id)
    assert (status["state"], status["step"], status["steps"]) == ("done", 6, 6), status
    assert status["name"] == "runs/flow-matching-dots-more"
    run = trainer.folder / status["name"]
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert status["curves"]["loss"] == [[row["step"], row["loss"]] for row in log]
    assert status["samples"] == [3, 6] and (run / "model.safetensors").is_file()
    samples = trainer.client.get(f"/api/v1/trainings/{id}/samples/6").content
    assert samples == (run / "samples" / "step-000006.png").read_bytes()
    assert status["command"].startswith("limner train flow-matching zip:studio/data/dots-more.zip")
    response = trainer.client.post(
        f"/api/v1/trainings/{id}/resume", json={"options": ["train.steps=8"]}
    )
    assert response.status_code == 202
    assert trainer.client.delete(f"/api/v1/trainings/{id}/run").status_code == 409, (
        "a running training cannot be deleted"
    )
    assert (ended(trainer, id)["state"], training(trainer, id)["step"]) == ("done", 8)
    listing = trainer.client.get("/api/v1/trainings").json()
    assert id in [each["id"] for each in listing["trainings"]]
    assert trainer.client.delete(f"/api/v1/trainings/{'0' * 20}/run").status_code == 404
    assert trainer.client.delete(f"/api/v1/trainings/{id}/run").status_code == 204
    assert not run.exists() and training(trainer, id)["code"] == "unknown"
    assert {"flow-matching", "ddpm", "r3gan"} <= {each["name"] for each in listing["models"]}
    assert not {"controlnet", "pix2pix", "lenet"} & {each["name"] for each in listing["models"]}


def test_a_training_that_is_stopped_or_whose_server_dies_is_saved(trainer: Studio):
    id = start_training(trainer, name="interrupted", options=LONG)["id"]
    until(lambda: len(training(trainer, id)["curves"].get("loss", [])) > 1, 300)
    trainer.client.delete(f"/api/v1/trainings/{id}")
    stopped = ended(trainer, id)
    assert stopped["state"] == "stopped" and stopped["step"] > 2 and not stopped["error"]
    trainer.client.post(f"/api/v1/trainings/{id}/resume", json={})
    until(lambda: training(trainer, id)["curves"]["loss"][-1][0] > stopped["step"] + 2, 300)
    trainer.kill()
    states = trainer.folder / stopped["name"] / "state"
    newest: Callable[[], Path] = lambda: max(states.glob("step-*"))  # noqa: E731
    until(lambda: int(newest().name[5:]) > stopped["step"], 180)
    trainer.start()
    trainer.ready()
    after = ended(trainer, id)
    assert after["state"] == "stopped" and after["step"] > stopped["step"]
    assert after["command"] == f"limner resume {stopped['name']}"


def test_a_training_is_saved_before_a_stopped_service_ends(trainer: Studio):
    id = start_training(trainer, name="stopped", options=[*LONG, "train.log_every=1"])["id"]
    until(lambda: len(training(trainer, id)["curves"].get("loss", [])) > 1, 300)
    threads = Path(f"/proc/{trainer.process.pid}/task").glob("*/children")
    children = [int(pid) for path in threads for pid in path.read_text().split()]
    (child,) = (
        pid for pid in children if b"runs/stopped" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    os.kill(child, signal.SIGSTOP)  # stands for a long step
    for pid in (child, trainer.process.pid):  # like systemd
        os.kill(pid, signal.SIGTERM)
    time.sleep(4)  # longer than the wait for jobs
    assert trainer.process.poll() is None
    assert start_training(trainer, 503)["code"] == "draining"
    os.kill(child, signal.SIGCONT)
    assert trainer.process.wait(180) == 0
    trainer.closed()
    assert max(int(path.name[5:]) for path in (trainer.folder / "runs/stopped/state").iterdir()) > 0
    trainer.start()
    trainer.ready()
    status = training(trainer, id)
    assert status["state"] == "stopped" and status["step"] > 0
    assert status["remarks"] == [], "only the command to continue may be printed"


def test_invalid_requests_are_refused_in_one_line(trainer: Studio):
    no_zip = trainer.client.post("/api/v1/data", params={"name": "x"}, content=b"nonsense")
    assert no_zip.status_code == 415 and "not a valid zip archive" in no_zip.json()["message"]
    assert send(trainer, archive(broken=12), "bad")["check"]["refused"]
    assert "cannot be trained on" in start_training(trainer, 422, data="bad")["message"]
    assert start_training(trainer, 404, data="nothing")["code"] == "unknown"
    assert "did you mean 'flow-matching'" in str(start_training(trainer, 422, model="flow-maching"))
    assert "at least 0.01" in start_training(trainer, 422, minutes=1e-5)["message"]
    for option in ("evaluate.every=1", "steps=3", "data.skills=/etc", "train.lr=1\ntrain.lr=2"):
        assert "is not an option" in start_training(trainer, 422, options=[option])["message"]
    for file in ("train.init.model=runs", "data.source=folder:..", "sampler.guide=runs"):
        assert "names a file" in start_training(trainer, 422, options=[file])["message"]
    for option, hint in {
        "model.chanels=3": "did you mean 'model.channels'?",
        "data.sise=8": "did you mean 'data.size'? (limner options zip)",
        "train.setps=3": "did you mean 'train.steps'? (limner options train)",
        "sampler.step=3": "did you mean 'steps'?",
    }.items():
        problem = start_training(trainer, 422, options=[*SHORT, option])
        section, name = option.partition("=")[0].split(".")
        full_name = name if section == "sampler" else f"{section}.{name}"
        assert problem["message"] == f"unknown {section} option '{full_name}'"
        assert problem["hint"] == hint
    status = ended(
        trainer, start_training(trainer, name="wrong", options=["model.channels=x"])["id"]
    )
    assert status["state"] == "failed" and status["steps"] == 0
    assert status["error"]["message"] == "model option model.channels='x': give numbers with commas"
    assert trainer.client.delete("/api/v1/data/emoji").status_code == 409
    assert trainer.client.delete("/api/v1/data/bad").status_code == 204
    assert not list((trainer.folder / "studio" / "data").glob("bad*"))
    headers = {"Origin": "http://elsewhere.example"}
    for path in ("/api/v1/data?name=x", "/api/v1/trainings"):
        assert trainer.client.post(path, headers=headers).status_code == 403


def test_partial_uploads_of_a_killed_studio_are_deleted(tmp_path: Path):
    folder = tmp_path / "studio" / "data"
    folder.mkdir(parents=True)
    for name in ("0a1b2c.partial", "dots.zip", "dots.json"):
        (folder / name).touch()
    sets = DataSets(Settings(folder=tmp_path / "studio", root=tmp_path))
    assert {each.name for each in folder.iterdir()} == {"dots.zip", "dots.json"}
    assert "dots" in sets.sources()


def test_a_report_can_be_sent_whatever_the_captions(tmp_path: Path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    row = r'{"file_name": "a.png", "text": "a \udcff dog"}'
    (tmp_path / "metadata.jsonl").write_text(row)
    write_check(f"folder:{tmp_path}", tmp_path / "report")
    text = json.loads((tmp_path / "report.json").read_text())["text"]
    assert rb"a.png: a \udcff dog" in text.encode()


def test_options_that_name_files_are_refused():
    painters = [
        entry.model for entry in models().values() if issubclass(entry.model, GenerativeModel)
    ]
    schemas = [model.sample_schema()["properties"] for model in painters]
    names = {name for schema in schemas for name, field in schema.items() if names_a_file(field)}
    assert names
    for name in names:
        with pytest.raises(ValueError, match=f"sampler.{name} names a file"):
            checked_option(f"sampler.{name}=runs")
    for option in ("data..source=zip:x", "data.=1", "train=1", "data.source.=x", "data.size=3\0"):
        with pytest.raises(ValueError, match=r"is not an option|names a file"):
            checked_option(option)
    for option in ("sampler.guide_scale=2", "model.channels=8,16", "data.size=32"):
        assert checked_option(option) == option


class Sleeper:
    """A training process that does nothing, and ends when it is stopped."""

    def __init__(self, command: list[str], **_: Any) -> None:
        time.sleep(0.05)  # gives another training time to start
        self.stdin, self.code = io.BytesIO(), None

    def poll(self) -> int | None:
        return self.code


@pytest.fixture
def sleeping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainings:
    """Return trainings whose processes do nothing."""
    monkeypatch.setattr(subprocess, "Popen", Sleeper)
    return Trainings(Settings(folder=tmp_path / "studio", root=tmp_path))


def test_of_two_trainings_started_together_one_is_refused(sleeping: Trainings):
    outcomes: list[str] = []

    def begin() -> None:
        try:
            outcomes.append(sleeping.begin("dots", ["flow-matching", "emoji"]))
        except RefusedError as error:
            outcomes.append(error.code)

    at_once([begin] * 3)
    assert outcomes.count("training") == 2, outcomes
    assert [run.name for run in (sleeping.settings.root / "runs").iterdir()] == ["dots"]
    (id,) = {*outcomes} - {"training"}
    write_run(sleeping.settings.root / "runs" / "dots")
    sleeping._latest.process.code = 0
    outcomes.clear()

    def resume() -> None:
        try:
            sleeping.resume(id)
            outcomes.append("resumed")
        except RefusedError as error:
            outcomes.append(error.code)

    at_once([resume] * 3)
    assert sorted(outcomes) == ["resumed", "training", "training"]


def test_a_run_that_replaced_a_removed_one_is_not_deleted(sleeping: Trainings):
    id = sleeping.begin("dots", ["flow-matching", "emoji"])
    run = sleeping.settings.root / "runs" / "dots"
    write_run(run)
    sleeping._latest.process.code = 0
    assert sleeping.get(id)["own"]
    copy = run.with_name("copy")
    shutil.copytree(run, copy)
    assert not sleeping.get(id_of(copy, sleeping.settings.root))["own"]
    shutil.rmtree(run)
    write_run(run)
    assert not sleeping.get(id)["own"]
    with pytest.raises(RefusedError, match="started on the command line"):
        sleeping.delete(id)
    assert run.exists()


def test_a_training_that_ended_before_its_first_step_leaves_no_folder(sleeping: Trainings):
    runs = sleeping.settings.root / "runs"
    sleeping.begin("dots", ["flow-matching", "emoji", "train.lr=x"])
    sleeping._latest.process.code = 2
    id = sleeping.begin("dots", ["flow-matching", "emoji"])
    assert [run.name for run in runs.iterdir()] == ["dots"]
    assert "train.lr" not in sleeping.get(id)["command"]
    shutil.rmtree(runs / "dots")
    sleeping._latest.process.code = 0
    sleeping.begin("lines", ["flow-matching", "emoji"])
    assert [run.name for run in runs.iterdir()] == ["lines"]


@pytest.mark.parametrize("files", [[], ["log.jsonl"]])
def test_a_training_that_failed_before_it_saved_is_known_after_the_next_one_starts(
    sleeping: Trainings, files: list[str]
):
    id = sleeping.begin("dots", ["flow-matching", "emoji", "train.lr=x"])
    for file in files:
        (sleeping.settings.root / "runs" / "dots" / file).touch()
    with sleeping._log(id).open("a") as log:
        log.write("limner: train.lr='x' is not a number\n")
    sleeping._latest.process.code = 2
    failed = sleeping.get(id)
    assert failed["state"] == "failed" and failed["own"]
    sleeping.begin("lines", ["flow-matching", "emoji"])
    assert sleeping.get(id) == failed
    sleeping.delete(id)
    assert sleeping.get(id) is None and not sleeping._log(id).exists()
    with pytest.raises(RefusedError, match="there is no such training"):
        sleeping.delete(id)


def test_only_an_empty_folder_is_deleted_when_the_next_training_starts(sleeping: Trainings):
    runs = sleeping.settings.root / "runs"
    sleeping.begin("dots", ["flow-matching", "emoji"])
    (runs / "dots" / "state").mkdir()  # of a run without its recipe
    sleeping._latest.process.code = 0
    sleeping.begin("lines", ["flow-matching", "emoji"])
    assert (runs / "dots" / "state").is_dir()
    sleeping._latest.process.code = 2
    with lock_folder(runs / "lines", "the command line trains here"):
        sleeping.begin("waves", ["flow-matching", "emoji"])
    assert (runs / "lines").is_dir()


def test_the_state_of_a_training_is_one_word(sleeping: Trainings):
    def told(*names: str) -> list[Any]:
        return [sleeping.get(id)[name] for name in names]

    id = sleeping.begin("dots", ["flow-matching", "emoji"])
    assert told("state", "step", "steps", "stopping") == ["running", 0, 0, False]
    run = sleeping.settings.root / "runs" / "dots"
    write_run(run)
    with sleeping._log(id).open("a") as log:
        log.write("a remark\nstep 4/6  loss 0.5\ntrained runs/dots\n")
    assert told("step", "steps", "said", "remarks") == [4, 6, "loss 0.5", ["a remark"]]
    sleeping.stop(id)
    assert told("state", "stopping") == ["running", True]
    process = sleeping._latest.process
    for code, state in ((130, "stopped"), (0, "stopped"), (-9, "failed"), (1, "failed")):
        process.code = code
        assert told("state", "stopping", "said", "step") == [state, False, "", 0], code
    assert told("remarks") == [[]] and "trained" in told("error")[0].message
    (run / "state" / "step-00000006").mkdir(parents=True)
    process.code = 0
    assert told("state", "step", "error") == ["done", 6, None]


@pytest.fixture
def theirs(trainer: Studio) -> Iterator[Path]:
    """Create a run as from the command line."""
    run = trainer.folder / "runs" / "theirs"
    run.mkdir(parents=True)
    recipe = '[model]\nname = "ddpm"\n[data]\nsource = "emoji"\n[train]\nsteps = 4\n'
    (run / "recipe.toml").write_text(recipe)
    (run / "model.safetensors").write_bytes(b"")
    yield run
    shutil.rmtree(run)


def test_a_training_in_a_terminal_is_shown_as_running(trainer: Studio, theirs: Path):
    def told() -> dict[str, Any]:
        trainings = trainer.client.get("/api/v1/trainings").json()["trainings"]
        return next(each for each in trainings if each["name"] == "runs/theirs")

    assert (told()["state"], told()["elsewhere"]) == ("stopped", False)
    with lock_folder(theirs, "in use"):
        (theirs / "log.jsonl").write_text('{"step": 2, "loss": 1.0}\n')
        assert (told()["state"], told()["elsewhere"], told()["step"]) == ("running", True, 2)
    assert told()["state"] == "stopped"


def test_a_training_of_the_command_line_is_not_deleted_here(trainer: Studio, theirs: Path):
    trainings = trainer.client.get("/api/v1/trainings").json()["trainings"]
    (training,) = [each for each in trainings if each["name"] == "runs/theirs"]
    assert not training["own"]
    response = trainer.client.delete(f"/api/v1/trainings/{training['id']}/run")
    assert response.status_code == 409 and "command line" in response.json()["message"]
    assert theirs.exists()
