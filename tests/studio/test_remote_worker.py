"""Workers on other hosts: shared state, leases, and recovery after a host is lost."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import ProgrammingError
from typer.testing import CliRunner

import limner
from conftest import STUBS, Studio, png, until, write_toys
from limner.commands.app import app
from limner.contract.errors import LimnerError
from limner.studio import leases, remote_worker
from limner.studio.common_files import CommonFiles, common_files
from limner.studio.database import open_database
from limner.studio.leases import HostState, Owner
from limner.studio.lifecycle import FILES_DOCUMENT
from limner.studio.remote_worker import check_studio, leave_studio, work
from limner.studio.settings import Settings
from limner.studio.store import Store
from limner.studio.tables import CANCELLED, DONE, FAILED, RUNNING, WAITING, Job, Painted

WORK = """
import sys
from pathlib import Path
from limner.studio.remote_worker import work
from limner.studio.settings import Settings
work(eval(sys.argv[1], {"Settings": Settings, "Path": Path}), lambda name: print(name, flush=True))
"""


def asked(weights: str | None = "w" * 64) -> Job:
    return Job(
        model="toy", task="paint", params={"n": 1}, inputs={}, alike="", cell={}, weights=weights
    )


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Callable[..., Store]]:
    """Return a function that opens the common database as a host; `hosts()` is the studio."""
    stores: list[Store] = []

    def host(name: str | None = None, seconds: float = 60.0) -> Store:
        owner = Owner(name, seconds) if name else None
        files = common_files(tmp_path / (name or "studio"), (tmp_path / "common").as_uri())
        stores.append(Store(f"sqlite:///{tmp_path / 'studio.db'}", files, owner=owner))
        return stores[-1]

    yield host
    for store in stores:
        store.close()


def test_a_job_belongs_to_one_host_until_its_lease_expires(hosts: Callable[..., Store]):
    studio, slow, quick = hosts(), hosts("slow", -5.0), hosts("quick")
    id = studio.submit(asked()).id
    assert [job.id for job in slow.begin(16, {"w" * 64})] == [id]
    assert studio.begin(16) == [] and studio.recover() == 0  # the studio does not take it
    assert [job.id for job in quick.begin(16, {"w" * 64})] == [id]  # the lease expired immediately
    assert slow.renew([id], {}) == set() and quick.renew([id], {}) == {id}
    assert not slow.finish(id, [Painted("a" * 64, 8, 8, {})], {})
    assert not slow.fail(id, {"message": "too late"}) and not slow.requeue(id)
    assert quick.finish(id, [Painted("b" * 64, 8, 8, {})], {})
    job = studio.job(id)
    assert job is not None and (job.state, job.worker, job.attempts) == (DONE, "quick", 2)
    assert [p.sha256[0] for p in studio.pictures_of([job])[job.number]] == ["b"]


def test_the_studio_counts_hosts_until_they_stop_or_are_silent(
    hosts: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
):
    studio, one, two = hosts(), hosts("one"), hosts("two")
    one.renew([], {}, HostState(2, 1, 0))
    two.renew([], {}, HostState(1, 0, 3))
    one.renew([], {}, HostState(2, 2, 0))
    assert studio.hosts() == {"one": HostState(2, 2, 0), "two": HostState(1, 0, 3)}
    two.leave()
    assert [*studio.hosts()] == ["one"]
    monkeypatch.setattr(leases, "_MAX_SILENCE_SECONDS", -5.0)
    assert studio.hosts() == {}


def test_the_studio_knows_why_no_host_paints(hosts: Callable[..., Store]):
    studio, one, two = hosts(), hosts("one"), hosts("two")
    assert "start one there" in leases.trouble_of(studio.hosts()).hint
    trouble = {"code": "worker", "message": "no worker can start", "hint": "give --device cpu"}
    one.renew([], {}, HostState(1, 0, 3, trouble))
    assert leases.trouble_of(studio.hosts()).message == "no worker can start (on one)"
    two.renew([], {}, HostState(1, 0, 0))
    assert leases.trouble_of(studio.hosts()) is None
    one.renew([], {}, HostState(1, 0, 3))
    two.renew([], {}, HostState(1, 0, 0, trouble))
    assert leases.trouble_of(studio.hosts()) is None


def test_a_job_lost_by_two_hosts_fails_with_a_reason(hosts: Callable[..., Store]):
    studio, dying = hosts(), hosts("dying", -5.0)
    id = studio.submit(asked()).id
    for state in (WAITING, FAILED):
        assert len(dying.begin(16)) == 1
        [(job, _)] = studio.jobs_with_reports([id])
        assert job.state == state
    assert job.error is not None and "died twice" in job.error["message"]


def test_a_host_takes_the_jobs_of_the_models_that_it_has(hosts: Callable[..., Store]):
    studio, host = hosts(), hosts("host")
    first, second = studio.submit(asked("x" * 64)), studio.submit(asked("y" * 64))
    studio.submit(asked(None))
    assert [job.id for job in host.begin(16, {"y" * 64})] == [second.id]
    assert host.begin(16, {"y" * 64}) == []
    assert [job.id for job in studio.begin(16)] == [first.id]


def test_events_reach_the_studio_and_cancellations_the_host(
    hosts: Callable[..., Store],
):
    studio, host = hosts(), hosts("host")
    id = studio.submit(asked()).id
    host.begin(16)
    host.renew([id], {id: {"progress": {"step": 3}}, "another": {"progress": {}}})
    [(job, report)] = studio.jobs_with_reports([id])
    assert job.state == RUNNING and report == {"progress": {"step": 3}}
    assert studio.cancel(id) and host.renew([id], {id: {"progress": {"step": 4}}}) == set()
    [(job, report)] = studio.jobs_with_reports([id])
    assert job.state == CANCELLED and report == {}


def test_a_stopping_host_returns_its_jobs(hosts: Callable[..., Store]):
    studio, host = hosts(), hosts("host")
    first, id = studio.submit(asked()), studio.submit(asked()).id
    studio.begin(16)
    host.begin(16)
    assert host.recover() == 1
    job, studio_job = studio.job(id), studio.job(first.id)
    assert job is not None and (job.state, job.attempts, job.worker) == (WAITING, 0, None)
    assert studio_job is not None and studio_job.state == RUNNING


def test_a_host_stops_with_one_line_while_the_database_is_away(
    hosts: Callable[..., Store], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fail() -> None:
        raise ProgrammingError("UPDATE", {}, Exception("the system is shutting down"))

    host = hosts("host")
    monkeypatch.setattr(host, "recover", fail)
    asyncio.run(leave_studio(host))
    assert "shutting down; jobs of this worker are queued again" in caplog.text


@pytest.mark.parametrize("place", ["file://", "memory://common", None])
def test_hosts_share_files_with_every_kind_of_store(tmp_path: Path, place: str | None):
    place = f"{place}{tmp_path}" if place == "file://" else place or str(tmp_path / "nfs")
    local, remote = common_files(tmp_path / "here", place), common_files(tmp_path / "there", place)
    name = "ab" * 32
    local.path(name).parent.mkdir(parents=True)
    local.path(name).write_bytes(b"pixels")
    local.publish(name)
    local.publish(name)
    assert remote.fetch(name).read_bytes() == b"pixels"
    assert not list(tmp_path.rglob("*.partial"))
    assert local.mark("studio-1") == remote.mark() == "studio-1"
    remote.remove(name)
    local.path(name).unlink(missing_ok=True)
    assert not local.fetch(name).exists()


def test_hosts_may_open_an_empty_database_at_the_same_time(postgres: str):
    def open_as_a_host(_: int) -> None:
        open_database(Settings(database=postgres).url).dispose()

    with ThreadPoolExecutor(8) as hosts:
        list(hosts.map(open_as_a_host, range(8)))


def test_a_missing_bucket_is_reported_and_not_created(tmp_path: Path):
    files, created = CommonFiles(tmp_path, "memory://x"), list[str]()

    class Buckets:
        def makedirs(self, path: str, exist_ok: bool) -> None:
            created.append(path)

        def pipe_file(self, key: str, content: bytes) -> None:
            raise FileNotFoundError(f"there is no bucket for {key}")

    files._store, files._root = Buckets(), "bukcet/studio"
    with pytest.raises(OSError, match="there is no bucket for bukcet/studio/limner-studio"):
        files.mark("studio-1")
    assert not created


def test_a_store_that_does_not_answer_is_left_soon(tmp_path: Path, monkeypatch):
    options = dict[str, Any]()
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda url, **kw: (options.update(kw), "bucket"))
    common_files(tmp_path, "s3://bucket")
    assert options["config_kwargs"]["read_timeout"] < 60


@pytest.mark.parametrize("typed", ["s3:bucket/studio", "s3:/bucket/studio"])
def test_a_url_without_slashes_is_refused(tmp_path: Path, typed: str):
    with pytest.raises(LimnerError, match=r"; type --files s3://bucket/studio, or --files \./s3:"):
        common_files(tmp_path, typed)
    for folder in (f"./{typed}", "C:/studio", "D:studio"):
        assert common_files(tmp_path, folder).folder == Path(folder)


def test_only_old_partial_files_are_deleted(tmp_path: Path):
    (tmp_path / "ab").mkdir()
    for name, age in (("old", 7200), ("new", 60)):
        (tmp_path / "ab" / f"{name}.partial").touch()
        os.utime(tmp_path / "ab" / f"{name}.partial", (time.time() - age,) * 2)
    CommonFiles(tmp_path).tidy()
    assert [path.name for path in tmp_path.glob("ab/*")] == ["new.partial"]


def test_a_host_keeps_the_newest_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("limner.studio.common_files._MAX_COPIES", 2)
    for files, names in (
        (CommonFiles(tmp_path), "abc"),
        (CommonFiles(tmp_path, "memory://"), "bc"),
    ):
        for age, name in enumerate("cba"):
            files.path(name * 64).parent.mkdir(exist_ok=True)
            files.path(name * 64).touch()
            os.utime(files.path(name * 64), (1000 - age, 1000 - age))
        files.tidy()
        assert sorted(path.name[0] for path in tmp_path.glob("*/*.png")) == [*names]


def test_a_failing_file_store_is_a_system_error(tmp_path: Path):
    files = CommonFiles(tmp_path, "memory://x")

    class Broken:
        def get_file(self, *_: Any) -> None:
            raise ConnectionAbortedError if self.system else RuntimeError("no route to the store")

        system = False

    files._store = Broken()
    with pytest.raises(OSError, match="no route to the store"):
        files.fetch("ab" * 32)


def test_a_worker_reports_missing_settings(
    hosts: Callable[..., Store], tmp_path: Path, monkeypatch
):
    with pytest.raises(LimnerError, match=r"need a database that all can reach; give --db"):
        work(Settings(folder=tmp_path / "w", database=f"sqlite:///{tmp_path}/studio.db"))
    with pytest.raises(LimnerError, match=r"cannot be kept in tape://.*give --files a folder"):
        common_files(tmp_path, "tape://x")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(LimnerError, match=r"in s3://: .*; type: pip install .*\[s3\]', or give"):
        common_files(tmp_path, "s3://x")
    host = hosts("host")
    with pytest.raises(LimnerError, match="no studio uses this database; start it first"):
        check_studio(host)
    hosts().keep(FILES_DOCUMENT, {"id": "studio-1"})
    with pytest.raises(LimnerError, match="these files are not the studio's; give --files"):
        check_studio(host)
    host.common.mark("studio-1")
    check_studio(host)
    hosts().keep("catalogue", {"version": "0.0.0"})
    with pytest.raises(LimnerError, match=f"limner 0.0.0 and this host {limner.__version__}"):
        check_studio(host)


@pytest.mark.parametrize(
    ("words", "variables"),
    [
        (["studio", "worker", "--database", "postgresql://db/x"], {}),
        (["studio-worker"], {"LIMNER_DB": "postgresql://db/x"}),
    ],
)
def test_the_command_line_can_start_workers(
    words: list[str], variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    calls: list[Settings] = []
    monkeypatch.setattr(remote_worker, "work", lambda settings, say: calls.append(settings))
    options = ["--files", "s3://bucket/studio", "--lease", "5"]
    assert CliRunner().invoke(app, [*words, *options], env=variables).exit_code == 0
    assert calls[0].url == "postgresql+pg8000://db/x" and calls[0].lease == 5
    assert calls[0].files == "s3://bucket/studio" and calls[0].folder == Path("studio-worker")


class Host:
    """A worker on another host: a process with its own folder."""

    def __init__(self, root: Path, **settings: Any) -> None:
        write_toys(root)
        arguments = ", ".join(f"{key}={value!r}" for key, value in settings.items())
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORK, f"Settings({arguments})"],
            cwd=root, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.name = self.process.stdout.readline().strip()

    def end(self, sign: int) -> None:
        self.process.send_signal(sign)
        self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Callable[..., Host]]:
    """Return a function that starts workers which a test may kill."""
    processes: list[Host] = []

    def start(name: str, **settings: Any) -> Host:
        processes.append(Host(tmp_path / name, **settings))
        return processes[-1]

    yield start
    for host in processes:
        if host.process.poll() is None:
            host.end(signal.SIGKILL)


def test_the_job_of_a_killed_host_ends_on_another(
    postgres: str, own_studio: Callable[..., Studio], tmp_path: Path, far: Callable[..., Host]
):
    common = (tmp_path / "common").as_uri()
    shared = {"database": postgres, "files": common, "device": "cpu", "worker": STUBS}
    studio = own_studio(database=postgres, files=common, paints=False, wait=False)
    until(lambda: studio.client.get("/api/v1/models").json()["models"])
    ready = lambda: studio.client.get("/readyz").json()  # noqa: E731
    until(lambda: ready().get("code") == "no-worker")
    broken = far("broken", **shared | {"worker": ("false",)})
    until(lambda: ready().get("message") == f"no worker can start (on {broken.name})")
    trouble = studio.client.get("/api/v1/models").json()["trouble"]
    assert trouble["message"] == ready()["message"]
    metric = f'limner_far_trouble{{worker="{broken.name}"}} 1'
    assert metric in studio.client.get("/metrics").text.splitlines()
    broken.end(signal.SIGTERM)
    image = studio.send(png())["id"]
    steps = {"steps": 30, "pause": 0.1}
    new_job = studio.submit(sampler=steps, inputs={"image": image}, task="edit", prompt="far away")
    first = far("first", lease=3.0, **shared)
    events = studio.events(new_job["id"])
    assert next(name for _, name, _ in events if name in ("started", "frame")) == "started"
    frame = next(data for _, name, data in events if name == "frame")
    assert frame["webp"] and frame["step"] > 0
    until(lambda: ready() == {"status": "ready"})
    first.end(signal.SIGKILL)
    second = far("second", **shared)
    names = [name for _, name, _ in events]
    assert "queued" in names and names[-1] == "done"
    job = studio.over(new_job["id"])
    assert job["state"] == "done", job
    assert studio.pixels(job["outputs"][0]).size == (16, 16)  # through the common store
    slow = studio.submit(sampler={"steps": 400, "pause": 0.1})["id"]
    until(lambda: studio.job(slow)["state"] == "running")
    studio.client.delete(f"/api/v1/jobs/{slow}")
    assert studio.painted(prompt="next")["state"] == "done"  # the worker has dropped the other job
    metric = f'limner_far_workers{{worker="{second.name}"}} 1'
    assert metric in studio.client.get("/metrics").text.splitlines()
    second.end(signal.SIGTERM)
    assert metric not in studio.client.get("/metrics").text.splitlines()
    assert second.process.returncode == 0
