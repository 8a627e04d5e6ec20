"""The studio with a full disk, a locked database, or a worker that cannot start."""

import gc
import io
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from playwright.sync_api import expect
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.pool import NullPool

from conftest import Open, Studio, held, png, until
from limner.contract.errors import LimnerError
from limner.studio import database_lock
from limner.studio.assets import store_upload
from limner.studio.database_lock import locked_database
from limner.studio.problems import as_refusal, is_temporary, log_failure
from limner.studio.serve import serve
from limner.studio.settings import Settings
from limner.studio.store import Store
from limner.studio.tables import Painted

GOES_WRONG = """
import os
from contextlib import contextmanager
from sqlite3 import OperationalError as Full
from limner.studio import common_files, database, queue, store

database.BUSY_SECONDS = 0.2
Files = common_files.CommonFiles
writing, keep, announce = store.Store._writing, Files.keep, queue.Queue.announce

@contextmanager
def writing_that_fails(self):
    with writing(self) as session:
        yield session
        session.flush()
        if Path("full").exists():
            raise store.OperationalError("COMMIT", {}, Full("database or disk is full"))

def keep_that_fails(self, content):
    if Path("full").exists():
        raise OSError(28, "No space left on device")
    return keep(self, content)

async def announce_that_fails(self, jobs):
    await announce(self, jobs)
    if Path("bug").exists():
        Path("bug").unlink()
        raise ZeroDivisionError

from sqlalchemy.exc import OperationalError
store.OperationalError = OperationalError
store.Store._writing, Files.keep = writing_that_fails, keep_that_fails
queue.Queue.announce = announce_that_fails
"""
STORE_HANGS = """
import time
from limner.studio import common_files, pictures_api

pictures_api._FETCH_SECONDS = 4.0
fetch = common_files.CommonFiles.fetch

def fetch_that_hangs(self, sha256):
    while Path("hangs").exists():
        time.sleep(0.02)
    return fetch(self, sha256)

common_files.CommonFiles.fetch = fetch_that_hangs
"""
STOPPING = {"S": "FATAL", "C": "57P03", "M": "the database system is shutting down"}
UNKNOWN = {"S": "ERROR", "C": "42P01", "M": 'relation "x" does not exist'}
FAILED = '{"is": "failed", "message": "no cuda; give --device cpu"}'


def ready(studio: Studio) -> tuple[int, str]:
    response = studio.client.get("/readyz")
    return response.status_code, response.json().get("code", "")


def problem(response: httpx.Response) -> tuple[int, Any]:
    assert response.json().keys() == {"code", "message", "hint"}, response.text
    return response.status_code, response.json()["message"]


def test_the_queue_waits_for_disk_and_database_and_continues(
    own_studio: Callable[..., Studio],
):
    studio = own_studio(before=GOES_WRONG)
    pid = studio.worker()
    # The disk is full when a job ends: its pictures are kept until there is space.
    with held(studio):
        job = studio.submit(prompt="kept")["id"]
        until(lambda: studio.job(job)["state"] == "running")
        (studio.folder / "full").touch()
    until(lambda: ready(studio) == (503, "full-disk"))
    request = {"model": "toy", "params": {}}
    for response in (
        studio.client.post("/api/v1/jobs", json=request),
        studio.client.post("/api/v1/assets", content=png()),
    ):
        assert problem(response) == (507, "the disk is full")
    assert studio.job(job)["state"] == "running"
    (studio.folder / "full").unlink()
    until(lambda: ready(studio)[0] == 200)
    names = [name for _, name, _ in studio.events(job)]
    assert names[-1] == "done" and len(studio.over(job)["outputs"]) == 1
    # Another program locks the database for a long time.
    with closing(sqlite3.connect(studio.folder / "studio" / "studio.db")) as other:
        with held(studio):
            job = studio.submit(prompt="locked")["id"]
            until(lambda: studio.job(job)["state"] == "running")
            other.execute("BEGIN EXCLUSIVE")
        until(lambda: ready(studio) == (503, "busy"))
        response = studio.client.post("/api/v1/jobs", json=request)
        assert problem(response) == (503, "the database is locked")
        assert int(response.headers["retry-after"]) > 0
    assert studio.over(job)["state"] == "done"
    until(lambda: ready(studio)[0] == 200)  # a moment after the job has ended
    assert studio.worker() == pid, "the worker was restarted"
    # An internal error of the studio costs one restart of a worker, but no job.
    (studio.folder / "bug").touch()
    assert studio.painted(prompt="a mistake")["outputs"]
    assert "ZeroDivisionError" in studio.log.read_text()
    history = studio.client.get("/api/v1/history").json()
    assert history["total"] == 3


def test_other_requests_do_not_wait_for_a_store_that_hangs(own_studio: Callable[..., Studio]):
    studio = own_studio(before=STORE_HANGS, files="memory://common", wait=False)
    colours = ("red", "green", "blue", "gold", "pink", "grey")
    urls = [studio.send(png(colour=colour))["url"] for colour in colours]
    here = studio.send(png(colour="white"))["url"]
    files = [*(studio.folder / "studio" / "pictures").glob("*/*.png")]
    for file in files:
        if file.read_bytes() != studio.client.get(here).content:
            file.unlink()
    (studio.folder / "hangs").touch()
    with ThreadPoolExecutor(len(urls)) as requests:
        waiting = requests.map(studio.client.get, urls)
        time.sleep(0.5)
        started = time.monotonic()
        assert studio.client.get(here).status_code == 200
        assert studio.client.get("/api/v1/data").status_code == 200
        assert time.monotonic() - started < 3
        assert {problem(response) for response in waiting} == {
            (503, "the store of the pictures does not answer")
        }
    (studio.folder / "hangs").unlink()
    assert [studio.client.get(url).status_code for url in urls] == [200] * len(urls)


def test_without_a_worker_it_is_not_ready_and_states_why(own_studio: Callable[..., Studio]):
    studio = own_studio(worker=("false",), wait=False)
    assert ready(studio)[0] == 503
    until(lambda: ready(studio) == (503, "worker"))
    models = studio.client.get("/api/v1/models").json()
    assert models["trouble"]["message"] == "no worker can start" and not models["ready"]


@pytest.mark.parametrize(
    ("error", "status", "code", "later"),
    [
        (OSError(28, "No space left on device"), 507, "full-disk", True),
        (OperationalError("", {}, Exception("database or disk is full")), 507, "full-disk", True),
        (OperationalError("", {}, Exception("database is locked")), 503, "busy", True),
        (OperationalError("", {}, Exception("connection refused")), 503, "database", True),
        (ProgrammingError("", {}, Exception(STOPPING)), 503, "database", True),
        (ProgrammingError("", {}, Exception(UNKNOWN)), 503, "database", False),
        (IntegrityError("", {}, Exception("UNIQUE")), 503, "database", False),
        (PermissionError(13, "Permission denied"), 500, "storage", True),
        (ConnectionResetError(104, "Connection reset by peer"), 503, "connection", True),
        (MemoryError(), 503, "memory", False),
        (ZeroDivisionError("x"), 500, "error", False),
    ],
)
def test_an_error_is_explained_in_one_line(error: Exception, status: int, code: str, later: bool):
    refusal = as_refusal(error)
    assert (refusal.status, refusal.code, is_temporary(error)) == (status, code, later)
    assert refusal.hint and not set("\n{") & {*refusal.message, *refusal.hint}


def test_the_page_shows_errors_of_the_server(visit: Open):
    page = visit(expected="500")
    page.route("**/api/v1/jobs", lambda route: route.fulfill(status=500, body="Internal"))
    page.locator(".paint").click()
    expect(page.get_by_role("alert")).to_contain_text("answered with status 500")
    page.unroute("**/api/v1/jobs")
    page.route("**/api/v1/assets", lambda route: route.fulfill(status=500, body="?"))
    page.get_by_role("button", name="Change a picture").click()
    page.locator("input[type=file]").set_input_files(
        {"name": "a.png", "mimeType": "image/png", "buffer": png()}
    )
    expect(page.get_by_role("alert")).to_contain_text("answered with status 500")
    code = """() => void import("/page/state.js").then(({ set }) =>
        set({ trouble: { code: "full-disk", message: "the disk is full", hint: "make room" } }))"""
    page.evaluate(code)  # the code waits for no promise, which a browser may drop
    expect(page.locator(".stage .problem")).to_contain_text("the disk is full")


def in_a_thread(function: Callable[..., None], *arguments: object) -> None:
    """Call a function that runs its own event loop, since this thread runs the browser's."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(function, *arguments).result()


@pytest.mark.parametrize(
    ("worker", "said"),
    [
        (["sh", "-c", f"echo '{FAILED}'"], "no cuda"),
        (["sh", "-c", "echo rubbish"], "not that of a worker"),
        (["false"], "no worker can start on cuda"),
    ],
)
def test_an_unusable_device_is_reported_before_the_studio_opens(
    tmp_path: Path, worker: list[str], said: str
):
    settings = Settings(folder=tmp_path, port=0, device="cuda", worker=tuple(worker))
    with pytest.raises(LimnerError, match=said):
        in_a_thread(serve, settings, lambda address: pytest.fail(f"it opened at {address}"))


def test_two_studios_on_one_folder_are_refused(own_studio: Callable[..., Studio]):
    studio = own_studio(worker=("false",), wait=False)
    settings = Settings(folder=studio.folder / "studio", port=0)
    with pytest.raises(LimnerError, match="another studio is open on the folder"):
        in_a_thread(serve, settings)


def test_two_studios_on_one_database_are_refused(tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    with locked_database(url):
        settings = Settings(folder=tmp_path / "other", port=0, database=url)
        with pytest.raises(LimnerError, match=r"another studio uses the database sqlite:.*--db$"):
            in_a_thread(serve, settings)
    with locked_database(url):
        Store(url, tmp_path).close()
    for other_url in ("sqlite://", "sqlite:////no/such/folder/x.db", "nothing://x"):
        with locked_database(other_url), locked_database(other_url):
            pass


ADVISORY_LOCKS = """SELECT pid FROM pg_locks WHERE locktype = 'advisory'
AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND granted = """


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # pg8000 does not close broken sockets
def test_after_a_database_restart_the_studio_holds_its_lock_again(
    postgres: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(database_lock, "_RETRY_SECONDS", 0.05)
    signals: list[int] = []
    monkeypatch.setattr(signal, "raise_signal", signals.append)
    url = Settings(database=postgres).url
    engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as rival, engine.connect() as admin:

        def locks(granted: bool) -> int | None:
            return admin.scalar(text(f"{ADVISORY_LOCKS}{granted}"))

        def restart() -> int | None:
            before = locks(granted=True)
            assert admin.scalar(text(f"SELECT pg_terminate_backend({before})"))
            return before

        with locked_database(url):
            before = restart()
            until(lambda: locks(granted=True) not in (None, before))
            with monkeypatch.context() as hasty:
                hasty.setattr(database_lock, "_PATIENCE", 0.1)
                with pytest.raises(LimnerError, match="another studio uses the database"):
                    locked_database(url).__enter__()
        assert not signals
        lock = text(f"SELECT pg_advisory_lock({database_lock._ADVISORY_KEY})")
        waiter = threading.Thread(target=rival.execute, args=[lock])
        with pytest.raises(LimnerError, match="another studio"), locked_database(url):
            waiter.start()
            until(lambda: locks(granted=False) is not None)  # the rival is the next in line
            monkeypatch.setattr(database_lock, "_DISCONNECT_SECONDS", 0.2)
            restart()
            until(lambda: signals == [signal.SIGTERM])
        waiter.join()
    gc.collect()


def test_a_temporary_error_is_logged_in_one_line(caplog: pytest.LogCaptureFixture):
    log_failure("old pictures stay", OSError(5, "no route to the store"))
    log_failure("old pictures stay", OperationalError("SELECT", {}, Exception("it is locked")))
    log_failure("old pictures stay", RuntimeError("a mistake"))
    lines = caplog.text.splitlines()
    assert "no route to the store" in lines[0] and "stay: it is locked" in lines[1]
    assert lines[-1] == "RuntimeError: a mistake" and "Traceback" not in "".join(lines[:2])


def test_a_missing_database_is_reported_with_the_databases_message(postgres: str, tmp_path: Path):
    message = r'postgresql cannot be opened: database "limner_\d+x" does not exist; give --db'
    with pytest.raises(LimnerError, match=message):
        Store(Settings(database=f"{postgres}x").url, tmp_path)


def test_a_damaged_database_is_reported_in_one_line(tmp_path: Path):
    store = Store(f"sqlite:///{tmp_path / 'studio.db'}", tmp_path)
    for i in range(300):
        store.upload(Painted(f"{i:064d}", 8, 8, {"prompt": "a dot" * 50}))
    store.close()
    content = bytearray((tmp_path / "studio.db").read_bytes())
    content[8192:20_000] = random.Random(0).randbytes(20_000 - 8192)
    (tmp_path / "studio.db").write_bytes(content)
    with pytest.raises(LimnerError, match="is damaged; move it away") as error:
        Store(f"sqlite:///{tmp_path / 'studio.db'}", tmp_path)
    assert "\n" not in str(error.value)


def test_large_pictures_are_shrunk_before_they_are_copied(tmp_path: Path):
    for mode, colour, kind in (("1", 1, "PNG"), ("P", 3, "PNG"), ("LA", (9, 9), "PNG")):
        file = io.BytesIO()
        Image.new(mode, (3000, 1500), colour).save(file, kind)
        picture = store_upload(file.getvalue(), tmp_path)
        assert (picture.width, picture.height) == (1024, 512)
    rgba = Image.new("RGBA", (4000, 4000), (255, 0, 0, 128))
    file = io.BytesIO()
    rgba.save(file, "PNG")
    name = store_upload(file.getvalue(), tmp_path).sha256
    pixels = Image.open(tmp_path / name[:2] / f"{name}.png")
    assert pixels.size == (1024, 1024) and pixels.getpixel((5, 5)) == (255, 127, 127)
