"""The studio under load, and after workers or servers are killed."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from fastapi import FastAPI
from ports import free_port
from probe import used

from conftest import Studio, at_once, held, png, until
from limner.contract.errors import LimnerError, install_command
from limner.studio.client import Client
from limner.studio.database import open_database
from limner.studio.database_lock import locked_database
from limner.studio.middleware import Guard
from limner.studio.serve import serve
from limner.studio.server import build
from limner.studio.settings import Settings
from limner.studio.store import Store


def crowd(studio: Studio, clients: int, count: int) -> tuple[list[str], Counter[int]]:
    """Run many clients concurrently; return the accepted jobs and the count of each status."""
    ids: list[str] = []
    statuses: Counter[int] = Counter()

    def client() -> None:
        for _ in range(count):
            request = {"model": "toy", "params": {"sampler": {"steps": 1}, "prompt": "a dot"}}
            response = studio.client.post("/api/v1/jobs", json=request)
            statuses[response.status_code] += 1
            if response.status_code == 202:
                ids.append(response.json()["id"])
            else:
                assert (
                    int(response.headers["retry-after"]) > 0 and response.json()["code"] == "full"
                )

    at_once([client] * clients)
    return ids, statuses


def test_fifty_concurrent_clients_lose_and_duplicate_nothing(own_studio: Callable[..., Studio]):
    studio = own_studio(queue=60)
    block = studio.submit(sampler={"steps": 600, "pause": 0.1})["id"]
    with probing(studio) as times:
        ids, statuses = crowd(studio, 50, 2)
    studio.client.delete(f"/api/v1/jobs/{block}")
    assert statuses.keys() <= {202, 429} and sum(statuses.values()) == 100
    assert 55 <= statuses[202] == len(set(ids)) <= 61 and statuses[429]
    states = Counter(studio.over(id)["state"] for id in ids)
    assert states == {"done": len(ids)}
    history = studio.client.get("/api/v1/history", params={"limit": 200}).json()
    assert Counter(picture["job"] for picture in history["pictures"]) == Counter(ids)
    check_response_times(times)
    check_no_leaks(studio)


@contextmanager
def probing(studio: Studio) -> Iterator[list[tuple[float, float]]]:
    """Probe the studio's health meanwhile; the list is filled at the end, see `probe`."""
    times: list[tuple[float, float]] = []
    probe = [sys.executable, str(Path(__file__).parent / "probe.py")]
    process = subprocess.Popen(
        [*probe, str(studio.settings["port"]), str(studio.process.pid)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout and process.stdin
    process.stdout.readline()
    yield times
    output, _ = process.communicate()
    times += [tuple(map(float, line.split())) for line in output.splitlines()]  # type: ignore[misc]


def check_response_times(times: list[tuple[float, float]]) -> None:
    """Check that `/healthz` takes at most 100 ms of the server's CPU time. Wall-clock time also
    depends on other programs on the machine.
    """
    seconds, cpu_seconds = zip(*times)
    assert len(times) >= 5
    assert max(cpu_seconds) < 0.1, f"seconds {sorted(seconds)}, CPU seconds {sorted(cpu_seconds)}"


def megabytes_of(studio: Studio) -> int:
    """Return the memory of the server's process in megabytes."""
    pages = int(Path(f"/proc/{studio.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


def check_no_leaks(studio: Studio) -> None:
    """Check that 250 jobs do not increase memory and open files."""

    def use() -> tuple[int, int]:
        files = Path(f"/proc/{studio.process.pid}/fd")
        return megabytes_of(studio), len(list(files.iterdir()))

    def some(count: int) -> None:
        id = ""
        for _ in range(count):
            response = studio.client.post("/api/v1/jobs", json={"model": "toy"})
            while response.status_code == 429:
                time.sleep(0.1)
                response = studio.client.post("/api/v1/jobs", json={"model": "toy"})
            id = response.json()["id"]
        list(studio.events(id))

    some(50)
    megabytes, files = use()
    some(250)
    until(lambda: use()[1] <= files + 3)
    assert use()[0] < megabytes + 8


def test_memory_of_large_uploads_is_returned(studio: Studio):
    """Three concurrent uploads of 100 MB each when decoded; twelve once used 1,444 MB."""
    large = png(5790, 5790)
    at_once([lambda: studio.send(large)] * 3)
    until(lambda: megabytes_of(studio) < 200)


def test_packets_of_an_answer_are_not_delayed(studio: Studio):
    def delay() -> float:
        with probing(studio) as times:
            time.sleep(1.5)  # the first packets of a connection are never delayed
        return max(sorted(seconds for seconds, _ in times[-8:])[:3], default=1.0)

    # A busy machine delays some connections, a delayed ACK (40 ms) all of them.
    until(lambda: delay() < 0.03)


def test_a_killed_worker_loses_no_job(own_studio: Callable[..., Studio]):
    studio = own_studio()
    worker = studio.worker()
    os.kill(worker, signal.SIGSTOP)  # it has its job until it is killed
    jobs = [studio.submit(seed=i, sampler={"steps": 6 + i})["id"] for i in range(3)]
    until(lambda: studio.job(jobs[0])["state"] == "running")
    os.kill(worker, signal.SIGKILL)
    assert [studio.over(id)["state"] for id in jobs] == ["done"] * 3
    assert "limner_worker_restarts_total 1" in studio.client.get("/metrics").text
    deadly = studio.submit(sampler={"crash": True})["id"]  # crashes twice, but no other job fails
    harmless = studio.submit(sampler={"steps": 2})["id"]
    error = studio.over(deadly)["error"]
    assert error["code"] == "worker-died" and "fewer" in error["hint"]
    assert studio.over(harmless)["state"] == "done"


def test_a_killed_server_resumes_its_queue(own_studio: Callable[..., Studio]):
    patient = "from limner.studio import lifecycle; lifecycle._SHUTDOWN_SECONDS = 60.0"
    studio = own_studio(before=patient)
    worker = studio.worker()
    with held(studio):  # no job ends before the server is killed
        jobs = [studio.submit(seed=i, sampler={"steps": 12 + i})["id"] for i in range(3)]
        until(lambda: studio.job(jobs[0])["state"] == "running")
        studio.kill()
    until(lambda: not alive(worker))
    studio.start()
    assert studio.client.get("/healthz").status_code == 200
    assert studio.client.get("/api/v1/models").json()["models"], "the job from before must be known"
    assert used(str(studio.process.pid)) < 5  # CPU seconds
    assert [studio.over(id)["state"] for id in jobs] == ["done"] * 3
    assert studio.client.get("/api/v1/history").json()["total"] == 3
    with held(studio):
        running = studio.submit(sampler={"steps": 10, "pause": 0.02})["id"]
        until(lambda: studio.job(running)["state"] == "running")
        for pid in (studio.worker(), studio.process.pid):  # a service manager signals all processes
            os.kill(pid, signal.SIGTERM)  # running jobs may end, and no more are accepted
        until(lambda: studio.client.post("/api/v1/jobs", json={"model": "toy"}).status_code == 503)
    assert studio.process.wait(60) == 0
    data = studio.folder / "studio"
    store = Store(f"sqlite:///{data / 'studio.db'}", data / "pictures")
    job = store.job(running)
    store.close()
    assert job is not None and job.state == "done"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_the_client_paints_watches_and_raises_errors(studio: Studio):
    client = Client(str(studio.client.base_url))
    assert client.models()[0]["name"] == "emoji"
    pictures = client.paint("a red apple", model="toy", n=2, seed=3, sampler={"steps": 2})
    assert len(pictures) == 2 and pictures[0].startswith(b"\x89PNG")
    with held(studio):  # it is watched before its first frame
        watching = client.watch(client.submit(model="toy", sampler={"steps": 10, "pause": 0.11}))
        first = next(watching)
    events = [first, *watching]
    assert events[-1].name == "done"
    assert any(event.image[:4] == b"RIFF" for event in events)
    edited = client.paint(
        "blue", model="toy", task="edit", inputs={"image": pictures[0]}, options={"strength": 0.1}
    )
    assert len(edited) == 1 and client.history("red apple", limit=1)[0]["words"] == "a red apple"
    with pytest.raises(LimnerError, match="did you mean 'steps'"):
        client.paint(model="toy", sampler={"step": 1})
    with pytest.raises(LimnerError, match=r"give sampler\.scale=3"):
        client.paint(model="toy", negative="x", sampler={"scale": 0.5})
    with pytest.raises(LimnerError, match="there is no studio at"):
        Client("http://127.0.0.1:9").models()
    with pytest.raises(LimnerError, match=r"'studio' is not an address; .*http://studio.example"):
        Client("studio")


def test_a_cancelled_job_is_not_an_empty_list_of_pictures(studio: Studio):
    client = Client(str(studio.client.base_url))

    def cancel() -> None:
        until(lambda: len(studio.jobs()) > 0)
        client.cancel(studio.jobs()[0]["id"])

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with pytest.raises(LimnerError, match="the job was cancelled; paint it again"):
        client.paint(model="toy", sampler={"steps": 400, "pause": 0.1})
    canceller.join()


@contextmanager
def one_event_a_stream(names: list[str], *refusals: int) -> Iterator[str]:
    """Yield the address of a studio whose streams end after one event, and whose first answers have
    other statuses than 200, if given.
    """
    statuses = itertools.chain(refusals, itertools.repeat(200))

    class Once(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status = next(statuses)
            self.send_response(status)
            if status != 200:
                self.end_headers()
                return
            self.end_headers()
            id = int(self.headers.get("Last-Event-ID", 0)) + 1
            self.wfile.write(f"id: {id}\nevent: {names[id - 1]}\ndata: {{}}\n\n".encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Once) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def test_a_token_in_any_script_is_sent_and_known(tmp_path: Path):
    token, tokens = "schlüssel кот", list[str]()

    class Listening(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            tokens.append(self.headers["Authorization"].removeprefix("Bearer "))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"models": []}')

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Listening) as server:
        threading.Thread(target=server.handle_request).start()
        Client(f"http://127.0.0.1:{server.server_port}", token).models()
    settings = Settings(folder=tmp_path, token=token)
    guard = Guard(FastAPI(), settings)
    by_curl = token.encode().decode("latin-1")  # as the server reads its bytes
    assert all(guard.is_token(each) for each in (*tokens, by_curl, token))
    assert not any(guard.is_token(each) for each in ("schlüssel", "", by_curl[1:], token * 1000))


def test_the_client_waits_for_a_studio_that_starts_and_not_for_longer_than_its_timeout():
    refusals = itertools.count(1)

    class Starting(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            started = next(refusals) == 8
            self.send_response(200 if started else 503)
            self.send_header("Retry-After", "0.02")
            self.end_headers()
            self.wfile.write(b'{"models": [], "error": {"message": "not loaded yet"}}')

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Starting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert Client(address).models() == []
        with pytest.raises(LimnerError):
            Client(address, timeout=0.1).models()
        server.shutdown()


def test_the_client_reconnects_while_streams_bring_events():
    names = ["queued", "started", *["frame"] * 6, "done"]
    with one_event_a_stream(names) as url:
        assert [event.name for event in Client(url).watch("x")] == names


def test_the_client_waits_for_a_studio_that_is_started_again_behind_a_proxy():
    with one_event_a_stream(["done"], 502, 503, 504) as url:
        assert [event.name for event in Client(url).watch("x")] == ["done"]
    message = "the studio at .* no longer answers"
    with one_event_a_stream([], *[502] * 99) as url, pytest.raises(LimnerError, match=message):
        next(Client(url, timeout=0.2).watch("x"))


def test_the_client_gets_its_pictures_from_a_studio_that_is_started_again():
    class Again(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            is_job = self.path.startswith("/api/v1/jobs/")
            self.wfile.write(b'{"outputs": [{"url": "/x.png"}]}' if is_job else b"picture")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Again, bind_and_activate=False) as server:
        server.server_bind()  # connections are refused until it listens
        url = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(LimnerError, match="no longer answers; the pictures are in its gallery"):
            Client(url, timeout=0.2).pictures("x")
        timer = threading.Timer(0.3, lambda: (server.server_activate(), server.serve_forever()))
        timer.start()
        assert Client(url, timeout=30).pictures("x") == [b"picture"]
        server.shutdown()


def test_postgresql_can_hold_the_queue(postgres: str, own_studio: Callable[..., Studio]):
    studio = own_studio(database=postgres, queue=30)
    ids, statuses = crowd(studio, 10, 2)
    assert sum(statuses.values()) == 20 and len(set(ids)) == statuses[202]
    assert all(studio.over(id)["state"] == "done" for id in ids)
    studio.painted(prompt="100% green", n=2, seed=2**61)
    history = studio.client.get("/api/v1/history", params={"search": "0% GREEN"}).json()
    assert history["total"] == 2
    with held(studio):
        running = studio.submit(sampler={"steps": 20, "pause": 0.05})["id"]
        until(lambda: studio.job(running)["state"] == "running")
        studio.kill()
    studio.start()
    assert studio.over(running)["state"] == "done"
    with (
        pytest.raises(LimnerError, match=r"another studio uses the database postgresql.*--db$"),
        locked_database(Settings(database=postgres).url),
    ):
        raise AssertionError


def test_a_failed_start_prints_one_line(studio: Studio, tmp_path: Path):
    def said(*arguments: str) -> str:
        run = subprocess.run(
            [sys.executable, "-m", "limner", "studio", *arguments],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert run.returncode == 2 and run.stderr.count("\n") == 1, run.stderr
        return run.stderr

    assert "give --port 0" in said("--port", str(studio.settings["port"]))
    assert "give --token" in said("--host", "0.0.0.0")
    assert "cannot be opened" in said("--port", "0", "--db", "nothing://x")


@pytest.mark.parametrize(
    "database",
    ["nonsense", "nothing://x", "mysql+nosuchdriver://x/y", "postgresql://u:p@127.0.0.1:8x/db"],
)
def test_an_invalid_database_is_refused_with_a_hint(database: str):
    message = r"cannot be opened: .*; give --db postgresql://USER"
    with pytest.raises(LimnerError, match=message), locked_database(database):
        open_database(database)


def test_an_unreachable_database_is_refused_with_the_reason():
    message = r"postgresql cannot be opened: Connection refused; give --db .* that USER owns$"
    with free_port() as port:
        url = Settings(database=f"postgresql://u:p@127.0.0.1:{port}/db").url
    with pytest.raises(LimnerError, match=message):
        open_database(url)


@pytest.mark.parametrize("host", ["nowhere.invalid", "203.0.113.7"])
def test_a_foreign_address_is_refused_with_a_hint(host: str, tmp_path: Path):
    settings = Settings(folder=tmp_path / "a", host=host, port=0, token="x")
    with pytest.raises(LimnerError, match=r"give --host an address of this machine$"):
        serve(settings)


@pytest.mark.parametrize("name", ["http://studio.example", "studio.example:8443"])
def test_a_name_with_a_scheme_or_a_port_is_refused(name: str):
    with pytest.raises(LimnerError, match=f"'{name}' is not a host name; .*--name studio.example"):
        Settings(names=(name,))
    assert Settings(names=("fd00::1",)).answers_to("[fd00::1]:8443")


def test_no_paint_without_a_shared_database_is_refused():
    with pytest.raises(LimnerError, match=r"give --db postgresql://.*or leave --no-paint out"):
        Settings(paints=False)


def test_unwritable_folders_are_reported_in_one_line(postgres: str, tmp_path: Path):
    (tmp_path / "file").touch()
    settings = Settings(folder=tmp_path / "a", database=postgres, files=str(tmp_path / "file/x"))
    with pytest.raises(LimnerError, match=r"cannot keep files in .*file/x: .*give another --files"):
        serve(settings)


def test_a_file_in_place_of_the_folder_of_files_is_said_at_the_start(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(LimnerError, match=r"cannot keep files in .*file: .*give another --files"):
        build(Settings(folder=tmp_path / "a", files=str(tmp_path / "file")))


def test_a_second_signal_stops_at_once_and_without_a_traceback(own_studio: Callable[..., Studio]):
    studio = own_studio(worker=("true",), wait=False)
    assert studio.client.get("/healthz").status_code == 200
    for number in (signal.SIGINT, signal.SIGTERM):
        studio.process.send_signal(number)
    studio.process.wait(60)
    assert "Traceback" not in studio.log.read_text()


def test_the_token_is_not_written_to_a_log(tmp_path: Path):
    command = [sys.executable, "-m", "limner", "studio", "--port", "0", "--token", "sesame"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("the studio is open: http://127.0.0.1:") and "sesame" not in line
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_both_url_schemes_of_postgresql_are_accepted():
    for scheme in ("postgres", "postgresql"):
        settings = Settings(database=f"{scheme}://limner@db/limner")
        assert settings.shared and settings.url == "postgresql+pg8000://limner@db/limner"


def test_without_the_extra_the_error_states_what_to_install():
    code = (
        "import sys; sys.modules['fastapi'] = None; sys.argv = ['limner', 'studio']\n"
        "from limner.__main__ import main; main()"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    message = f"limner: the studio needs fastapi; type: {install_command('studio')}\n"
    assert (run.returncode, run.stderr) == (2, message)
