"""Fixtures: running studios with stub models that paint immediately, and browsers."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Locator,
    Page,
    Route,
    expect,
    sync_playwright,
)
from ports import free_port
from sqlalchemy import create_engine, text

from limner.contract.checkpoint import save_model
from limner.contract.image import ImageSpec
from limner.contract.registry import build
from limner.contract.text import text_spec
from limner.studio.catalogue import FILE
from limner.studio.runs import RECIPE

sys.path.insert(0, str(Path(__file__).parent))
import stubs

START = """
import sys
from pathlib import Path
from limner.studio.serve import serve
from limner.studio.settings import Settings
settings = eval(sys.argv[1], {"Settings": Settings, "Path": Path})
exec(sys.argv[2])
serve(settings, lambda said: print(said, flush=True))
"""
CHROMIUM = "/usr/bin/chromium"
NAME = "studio.example"
"""Host name of this machine in the browser; plain http under it is not a secure context."""
BUSY = "was preloaded using link preload but not used within a few seconds"
"""Part of a browser warning on machines that take seconds to load a page."""
LASTING_NOTICES = """{
    const { setTimeout } = window;  // notices are shown for 3.5 or 10 seconds
    window.setTimeout = (act, time, ...rest) =>
        setTimeout(act, time === 3500 || time === 10_000 ? 60_000 : time, ...rest);
}"""
"""Code that gives a busy machine time to see a notice, and to press its button."""
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
Open = Callable[..., Page]
STUBS = (sys.executable, str(stubs.__file__))


class Studio:
    """A studio server in a separate process.

    Args:
        folder: working directory of the server.
        before: Python code that the server's process runs first, to cause errors.
        settings: see `limner.studio.settings.Settings`.
    """

    def __init__(self, folder: Path, before: str = "", **settings: Any) -> None:
        self.folder, self.before = folder, before
        self.settings = {"port": 0, "worker": STUBS, "device": "cpu"} | settings
        self.log = folder / "log.txt"
        self.start()

    def start(self) -> None:
        """Start the server, again on the same port if it ran before."""
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.settings.items())
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", START, f"Settings({arguments})", self.before],
                cwd=self.folder,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        assert self.process.stdout
        self.url = self.process.stdout.readline().strip()
        assert self.url, self.log.read_text()
        self.settings["port"] = int(re.findall(r":(\d+)", self.url)[-1])
        self.client = self.fresh_client()

    def fresh_client(self) -> httpx.Client:
        """Return a client with its own connections."""
        limits = httpx.Limits(max_connections=60)
        return httpx.Client(base_url=self.url.partition("/?")[0], timeout=30, limits=limits)

    def ready(self) -> "Studio":
        """Wait for a worker."""
        until(lambda: self.client.get("/readyz").status_code == 200, 180)
        return self

    def kill(self) -> None:
        """Kill the server and its worker, as a power cut would."""
        self.process.kill()
        self._ended()

    def stop(self) -> None:
        """Stop the server, as Ctrl-C would."""
        self.process.send_signal(signal.SIGINT)
        self._ended()

    def _ended(self) -> None:
        self.process.wait(60)
        self.closed()

    def closed(self) -> None:
        """Close the connections to a server that has ended."""
        self.client.close()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def submit(self, model: str = "toy", expect: int = 202, **params: Any) -> dict[str, Any]:
        """Submit a job; `prompt`, `n`, ... become its parameters."""
        outer = {
            key: params.pop(key) for key in ("task", "inputs", "board", "cell") if key in params
        }
        response = self.client.post("/api/v1/jobs", json={"model": model, "params": params} | outer)
        assert response.status_code == expect, response.text
        return response.json()

    def job(self, id: str) -> dict[str, Any]:
        """Return the current state of a job."""
        return self.client.get(f"/api/v1/jobs/{id}").json()

    def jobs(self) -> list[dict[str, Any]]:
        """Return the jobs that wait or run."""
        return self.client.get("/api/v1/jobs").json()["jobs"]

    def rest(self) -> None:
        """Cancel all jobs that wait or run, and wait until the worker has stopped."""
        for job in self.jobs():
            self.client.delete(f"/api/v1/jobs/{job['id']}")
        until(lambda: not self.jobs() and self.metric("limner_jobs_at_work") == 0)

    def metric(self, name: str) -> float:
        """Return a number for Prometheus."""
        lines = self.client.get("/metrics").text.splitlines()
        return float(dict(line.rsplit(" ", 1) for line in lines)[name])

    def over(self, id: str, seconds: float = 120) -> dict[str, Any]:
        """Wait until a job has ended; return it."""
        until(lambda: self.job(id)["state"] in ("done", "failed", "cancelled"), seconds)
        return self.job(id)

    def painted(self, model: str = "toy", **params: Any) -> dict[str, Any]:
        """Submit a job, wait until it is done, and return it."""
        job = self.over(self.submit(model, **params)["id"])
        assert job["state"] == "done", job["error"]
        return job

    def pixels(self, picture: dict[str, Any]) -> Image.Image:
        """Return the pixels of a picture."""
        return Image.open(io.BytesIO(self.client.get(picture["url"]).content))

    def send(self, content: bytes, expect: int = 201) -> dict[str, Any]:
        """Upload a file."""
        response = self.client.post("/api/v1/assets", content=content)
        assert response.status_code == expect, response.text
        return response.json()

    def events(self, id: str, after: str | None = None) -> Iterator[tuple[str, str, Any]]:
        """Yield id, name and data of each event of a job's stream."""
        headers = {"Last-Event-ID": after} if after else {}
        with self.client.stream("GET", f"/api/v1/jobs/{id}/events", headers=headers) as stream:
            fields: dict[str, str] = {}
            for line in stream.iter_lines():
                key, _, value = line.partition(": ")
                if line and key:
                    fields[key] = value
                elif "event" in fields:
                    yield fields["id"], fields["event"], json.loads(fields["data"])
                    fields = {}

    def followed(
        self, after: str | None = None, **request: Any
    ) -> tuple[str, Iterator[tuple[str, str, Any]]]:
        """Submit a job; return its id and its events; the stream is open before it is painted."""
        with held(self):
            id = self.submit(**request)["id"]
            events = self.events(id, after)
            first = next(events)
        return id, chain([first], events)

    def worker(self) -> int:
        """Return the process id of the worker."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(children.read_text().split()[0])


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until a condition is true; a busy machine may need many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.03)


@contextmanager
def held(studio: Studio) -> Iterator[None]:
    """Suspend the worker: its job, or the next one that is submitted, stays running without using
    the CPU.
    """
    if not studio.jobs():
        studio.rest()  # a worker that has just done a job takes no other one before it says so
    worker = studio.worker()
    os.kill(worker, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(worker, signal.SIGCONT)


def at_once(calls: list[Callable[[], Any]]) -> None:
    """Call all functions, each in its own thread."""
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def write_toys(folder: Path) -> None:
    """Write stub models: with prompts, with classes, of pictures, row by row."""
    with_text = ImageSpec(3, 16, 16, text=text_spec())
    with_labels = ImageSpec(3, 16, 16, labels=("cat", "dog", "sea horse"))
    save_model(build("toy-canvas", with_text), folder / "toy")
    save_model(build("toy-canvas", with_labels), folder / "runs" / "animals")
    with_hint = ImageSpec(3, 16, 16, hint=ImageSpec(3, 16, 16))
    save_model(build("toy-negative", with_hint), folder / "runs" / "negative")
    save_model(build("toy-rows", with_text), folder / "runs" / "rows")


def write_runs(folder: Path) -> None:
    """Write small models of this library, with prompts and with edge hints, and stubs."""
    torch.manual_seed(0)
    spec = ImageSpec(3, 16, 16, text=text_spec())
    edges = ImageSpec(1, 16, 16, 2, domain="edges")
    base = build("flow-matching", spec, channels=(8, 16))
    with torch.no_grad():
        for p in base.parameters():
            p += 0.1 * torch.randn_like(p)
    save_model(base, folder / "runs" / "words")
    control = build("controlnet", replace(spec, hint=edges), base=base)
    save_model(control, folder / "runs" / "control")
    boxes = replace(edges, domain="boxes")
    for name, hint in (("edges", edges), ("boxes", boxes), ("colours", replace(spec, text=None))):
        save_model(build("toy-canvas", replace(spec, hint=hint)), folder / "runs" / name)


def write_run(run: Path) -> None:
    """Write a run with log and samples, as `limner train` leaves it, but without a valid model."""
    (run / "samples").mkdir(parents=True)
    (run / FILE).touch()
    recipe = '[model]\nname = "flow-matching"\n[data]\nsource = "emoji"\n[train]\nsteps = 6\n'
    (run / RECIPE).write_text(recipe)
    rows = [{"step": step, "loss": 1 / step, "held_out.loss": 2 / step} for step in range(1, 7)]
    (run / "log.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    for step in (3, 6):
        (run / "samples" / f"step-{step:06}.png").write_bytes(png(40, 40))


def write_check(folder: Path) -> None:
    """Write a report of `limner data check` on the emoji."""
    data = folder / "studio" / "data"
    data.mkdir(parents=True)
    report = {"text": "pictures  2742 valid, 0 broken", "pictures": 2742, "labels": 9}
    (data / "emoji.json").write_text(json.dumps(report | {"captioned": 2742, "refused": False}))
    (data / "emoji.png").write_bytes(png())


def png(width: int = 16, height: int = 16, colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with models."""
    folder = tmp_path_factory.mktemp("toys")
    write_toys(folder)
    return folder


@pytest.fixture(scope="session")
def shared_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """Return a studio that is shared by tests that do not change it."""
    folder = tmp_path_factory.mktemp("studio")
    write_runs(folder)
    write_toys(folder)
    write_check(folder)
    running = Studio(folder, names=(NAME,)).ready()
    yield running
    running.stop()


@pytest.fixture
def studio(shared_studio: Studio) -> Studio:
    """Return the shared studio without the jobs that earlier tests left."""
    shared_studio.rest()
    return shared_studio


@pytest.fixture
def own_studio(tmp_path: Path) -> Iterator[Callable[..., Studio]]:
    """Return a function that starts a studio which a test may kill."""
    studios: list[Studio] = []

    def start(*, wait: bool = True, **settings: Any) -> Studio:
        write_toys(tmp_path)
        studios.append(Studio(tmp_path, **settings))
        return studios[-1].ready() if wait else studios[-1]

    yield start
    for each in studios:
        each.kill()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Yield the URL of a PostgreSQL server, without a database.

    Its files lie outside pytest's folder, which every new session of pytest closes to other users.
    """
    if not POSTGRES:
        pytest.skip("PostgreSQL's own programs are not installed: apt-get install postgresql")
    programs, data = POSTGRES[-1].parent, Path(tempfile.mkdtemp(prefix="postgres-"))
    ids: dict[str, str | int] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        import pwd

        user = pwd.getpwnam("postgres")
        os.chown(data, user.pw_uid, user.pw_gid)
        ids = {"user": user.pw_uid, "group": user.pw_gid}
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(
        [programs / "initdb", "-D", data, "-U", "limner", "-A", "trust", "--no-sync"],
        **quiet, **ids,  # type: ignore[call-overload]
    )  # fmt: skip
    with free_port() as port:
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, "-p", str(port), "-k", data, "-F",
             "-c", "listen_addresses=127.0.0.1"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            **ids,  # type: ignore[call-overload]
        )  # fmt: skip
        command = [programs / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]
        until(
            lambda: subprocess.run(command, capture_output=True, check=False).returncode == 0, 180
        )
    yield f"postgresql://limner@127.0.0.1:{port}"
    server.send_signal(signal.SIGINT)  # a "fast" shutdown, which ends all connections
    server.wait(60)
    shutil.rmtree(data)


@pytest.fixture
def postgres(postgres_server: str) -> str:
    """Return the URL of a new database for one test."""
    name = f"limner_{time.monotonic_ns()}"
    plain = postgres_server.replace("postgresql", "postgresql+pg8000") + "/postgres"
    engine = create_engine(plain, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return f"{postgres_server}/{name}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.skip("Debian's browser is not installed: apt-get install chromium")
    expect.set_options(timeout=60_000)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", f"--host-resolver-rules=MAP {NAME} 127.0.0.1"],
        )
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Browser, studio: Studio) -> Iterator[Open]:
    """Return a function that opens the page, by default under a name without a secure context.

    After the test, the page must have no unexpected errors.
    """
    errors: list[str] = []
    contexts: list[Any] = []
    port = studio.settings["port"]

    def start(
        path: str = "/", *, name: str = NAME, expected: str | None = None, **options: Any
    ) -> Page:
        base = f"http://{name}:{port}"
        context = browser.new_context(**options)
        context.add_init_script(LASTING_NOTICES)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)  # also on a busy machine
        page.set_default_navigation_timeout(60_000)

        def heard(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                note(message.text)

        def note(text: str) -> None:
            if BUSY not in text and (expected is None or not re.search(expected, text)):
                errors.append(text)

        page.on("console", heard)
        page.on("pageerror", lambda error: note(str(error)))
        page.on(
            "request",
            lambda r: None if r.url.startswith((base, "data:", "blob:")) else errors.append(r.url),
        )
        page.goto(base + path)
        page.wait_for_selector("main")
        if path == "/":
            page.wait_for_selector(".paint:not([disabled])")
            page.select_option("#model", "toy")
        return page

    yield start
    for context in contexts:
        context.close()
    assert not errors, errors


def reach(page: Page, target: Locator) -> Locator:
    """Move the focus to a part of the page with the Tab key."""
    for _ in range(200):
        if target.evaluate("e => e === document.activeElement"):
            return target
        page.keyboard.press("Tab")
    raise AssertionError("no key leads there")


def first(page: Page, routes: list[Route]) -> Route:
    """Wait for the first of the requests that a test holds back in a list, and return it."""
    deadline = time.monotonic() + 60
    while not routes:
        assert time.monotonic() < deadline, "the page sent no such request"
        page.wait_for_timeout(20)
    return routes[0]


def redraw(page: Page) -> None:
    """Redraw the page from its state, as at every event of a job."""
    code = """() => {  // the promise is not waited for: a browser may drop it
        delete document.body.dataset.drawn;
        import("/page/state.js").then(({ updateForm }) => {
            updateForm({});
            queueMicrotask(() => { document.body.dataset.drawn = "anew"; });
        });
    }"""
    page.evaluate(code)
    expect(page.locator("body[data-drawn]")).to_be_visible()


def clean(page: Page) -> None:
    """Check that the page has no accessibility violations."""
    violations = Axe().run(page).response["violations"]
    assert not violations, json.dumps(
        [(each["id"], [node["html"][:150] for node in each["nodes"]]) for each in violations],
        indent=1,
    )
