"""Batches between server and worker: one job must not affect the others."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_store import asked, files

from conftest import png
from limner.studio.assets import store_upload
from limner.studio.background import Tasks
from limner.studio.catalogue import FILE
from limner.studio.models import Models
from limner.studio.order import WorkAhead
from limner.studio.queue import Queue
from limner.studio.settings import Settings
from limner.studio.store import Store
from limner.studio.tables import CANCELLED, DONE, FAILED, Job
from limner.studio.worker import Worker
from limner.studio.workers import Process, Workers

Document = dict[str, Any]
Script = Callable[[Sequence[str]], Sequence[Document | Callable[[], Any]]]


def order(id: str, folder: Path, **params: Any) -> Document:
    """Return a job as it is sent to a worker."""
    job = {"id": id, "model": "toy", "task": "paint", "folder": str(folder)}
    return job | {"params": params, "controls": [], "inputs": {}}


def ends(messages: Sequence[Document]) -> list[tuple[str, str]]:
    """Return how jobs ended, in the order of the messages."""
    return [(each["id"], each["is"]) for each in messages if each["is"] in ("done", "failed")]


def test_a_job_that_fails_does_not_fail_its_batch(toys: Path, tmp_path: Path):
    messages: list[Document] = []
    worker = Worker(torch.device("cpu"), messages.append)
    prompts = {"apple": "a red apple", "dog": "a (dog:99)", "cat": "a cat"}
    worker.work(
        [order(id, toys / "toy", prompt=prompt) for id, prompt in prompts.items()], tmp_path
    )
    assert ends(messages) == [("apple", "done"), ("dog", "failed"), ("cat", "done")]
    (failed,) = [each for each in messages if each["is"] == "failed"]
    assert failed["code"] == "invalid" and failed["message"] == "the weight of 'dog' is 99"
    assert messages[-1] == {"is": "idle"} and messages.count(messages[-1]) == 1


def test_a_batch_too_large_for_memory_runs_job_by_job(
    toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    messages: list[Document] = []
    worker = Worker(torch.device("cpu"), messages.append)
    canvas = type(worker.model(str(toys / "toy")))
    frames = canvas.frames

    def frames_of_few(self: Any, n: int, *args: Any, **options: Any) -> Iterator[torch.Tensor]:
        if n > 1:
            raise torch.OutOfMemoryError
        return frames(self, n, *args, **options)

    monkeypatch.setattr(canvas, "frames", frames_of_few)
    jobs = [order("a", toys / "toy"), order("b", toys / "toy"), order("c", toys / "toy", n=2)]
    worker.work(jobs, tmp_path)
    assert ends(messages) == [("a", "done"), ("b", "done"), ("c", "failed")]
    (failed,) = [each for each in messages if each["is"] == "failed"]
    assert failed["code"] == "memory"


def test_a_model_that_ends_the_program_fails_its_job_only(
    toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    messages: list[Document] = []
    worker = Worker(torch.device("cpu"), messages.append)
    canvas = type(worker.model(str(toys / "toy")))
    monkeypatch.setattr(canvas, "frames", lambda *args, **options: sys.exit())
    worker.work([order("a", toys / "toy")], tmp_path)
    assert ends(messages) == [("a", "failed")] and messages[-1] == {"is": "idle"}
    assert messages[-2]["message"] == "painting failed: SystemExit"


def test_the_error_of_a_dark_mask_has_no_path(toys: Path, tmp_path: Path):
    messages: list[Document] = []
    picture = store_upload(png(colour="black"), tmp_path)
    file = str(tmp_path / picture.sha256[:2] / f"{picture.sha256}.png")
    edit = order("a", toys / "toy") | {"task": "edit", "inputs": {"image": file, "mask": file}}
    Worker(torch.device("cpu"), messages.append).work([edit], tmp_path)
    (failed,) = [each for each in messages if each["is"] == "failed"]
    assert failed["message"] == "the mask 'mask' is dark everywhere"


class Scripted(Process):
    """A worker process with scripted answers.

    Args:
        script: answers to jobs, keyed by their ids; callables are called.
    """

    pid = 1  # type: ignore[assignment]

    def __init__(self, script: Script) -> None:
        super().__init__((), "cpu")
        self.script = script
        self.jobs: list[str] = []

    async def ask(self, document: Mapping[str, Any]) -> Document:
        return {"models": []}

    async def tell(self, document: Mapping[str, Any]) -> None:
        self.jobs = [job["id"] for job in document["jobs"]]

    async def read_until_idle(self) -> AsyncIterator[Document]:
        for step in self.script(self.jobs):
            if isinstance(step, dict):
                yield step
            else:
                step()


class Batches:
    """A server without worker processes."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(f"sqlite:///{folder / 'studio.db'}", folder)
        self.queue = Queue(self.store)
        (folder / "emoji").mkdir()
        (folder / "emoji" / FILE).touch()
        models = Models(folder, self.store, self.queue.wake.set)
        models.folders, models.stamps = {"emoji": folder / "emoji"}, {"emoji": ""}
        self.workers = Workers(Settings(folder=folder), self.store, models, self.queue, Tasks())

    def turn(self, script: Script) -> None:
        """Let a scripted worker run the next batch."""
        asyncio.run(self.workers._turn(Scripted(script)))

    def job(self, id: str) -> Job:
        job = self.store.job(id)
        assert job is not None
        return job


@pytest.fixture
def batches(tmp_path: Path) -> Iterator[Batches]:
    made = Batches(tmp_path)
    yield made
    made.store.close()


def done(id: str, *names: str) -> Document:
    pictures = [{"sha256": n * 64, "width": 8, "height": 8, "settings": {}} for n in names]
    return {"is": "done", "id": id, "pictures": pictures, "notes": {}, "kept": True}


def failed(id: str) -> Document:
    return {"is": "failed", "id": id, "code": "error", "message": "painting failed"}


def test_cancelling_a_job_keeps_files_shared_with_another(batches: Batches):
    store = batches.store
    first, second = (store.submit(asked(alike="a")).id for _ in range(2))
    files(store, *"abx")  # b belongs only to the cancelled job

    def script(jobs: Sequence[str]) -> list[Any]:
        assert jobs == [first, second]
        return [lambda: store.cancel(first), done(first, "a", "b"), done(second, "a")]

    batches.turn(script)
    assert (batches.job(first).state, batches.job(second).state) == (CANCELLED, DONE)
    assert files(store) == {*"ax"}


def test_a_job_cancelled_while_it_is_started_is_not_painted(
    batches: Batches, monkeypatch: pytest.MonkeyPatch
):
    begin = batches.queue.begin

    async def begin_and_cancel() -> list[Job]:
        jobs = await begin()
        batches.store.cancel(jobs[0].id)
        await batches.workers.cancel(jobs[0].id)  # no worker has it yet
        return jobs

    monkeypatch.setattr(batches.queue, "begin", begin_and_cancel)
    first, second = (batches.store.submit(asked(alike="a")).id for _ in range(2))

    def script(jobs: Sequence[str]) -> list[Document]:
        assert jobs == [second]
        return [done(second, "a")]

    batches.turn(script)
    assert (batches.job(first).state, batches.job(second).state) == (CANCELLED, DONE)


def test_the_measured_speed_counts_only_painted_pictures(
    batches: Batches, monkeypatch: pytest.MonkeyPatch
):
    clock = iter([100.0, 106.0, 200.0, 200.1])
    clocked = SimpleNamespace(monotonic=lambda: next(clock))
    monkeypatch.setattr("limner.studio.workers.time", clocked)
    jobs = [batches.store.submit(asked(n, "a")).id for n in (2, 1, 9)]
    batches.turn(lambda jobs: [done(jobs[0], *"ab"), done(jobs[1], "c"), failed(jobs[2])])
    assert batches.job(jobs[2]).state == FAILED
    assert batches.queue.eta(asked(1), WorkAhead(0, {})) == 2.0, (
        "three pictures took six seconds, so one takes two"
    )
    batches.store.submit(asked(9))
    batches.turn(lambda jobs: [failed(jobs[0])])
    assert batches.queue.eta(asked(1), WorkAhead(0, {})) == 2.0, (
        "the speed must not change if nothing was painted"
    )


def test_a_job_of_a_model_that_was_just_deleted_reports_it(batches: Batches):
    (batches.store.files / "emoji" / FILE).unlink()
    id = batches.store.submit(asked()).id
    batches.turn(lambda jobs: pytest.fail("it was begun"))
    error = batches.job(id).error
    assert error and error["message"] == "there is no model 'emoji' any more"


@pytest.mark.parametrize("content", [None, b"", png()[:40]], ids=["gone", "empty", "cut"])
def test_a_job_with_a_missing_picture_reports_it(batches: Batches, content: bytes | None):
    source = batches.store.upload(store_upload(png(), batches.store.files))
    file = batches.store.common.path(source.sha256)
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    edit = asked()
    edit.inputs = {"image": source.id}
    id = batches.store.submit(edit).id
    batches.turn(lambda jobs: pytest.fail("it was begun"))
    assert batches.job(id).error == {
        "code": "gone",
        "message": "the picture for 'image' is gone",
        "hint": "upload it again",
    }
