"""What one job of the studio costs: of the server, of a worker, of the line, and of the disk.

    python benchmarks/studio.py --jobs 24

Each of so many people asks for four pictures at the same moment, follows how they form, and loads
them. Seconds are those that processes compute, so other programs may run. How the numbers add up
for many people is in docs/deploy.md.
"""

import argparse
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil
from timing import show

PICTURES = 4
_PATIENCE = 120.0


class Sent(NamedTuple):
    """Bytes of one job to one browser.

    Args:
        events: how it forms.
        pictures: the files.
    """

    events: int
    pictures: int


def ask(base: str, model: str, number: int) -> Sent:
    """Have a job painted, and follow it."""
    params = {"prompt": "a red apple", "n": PICTURES, "seed": number * PICTURES}
    job = {"model": model, "task": "paint", "params": params, "inputs": {}}
    with httpx.Client(base_url=base, timeout=_PATIENCE) as browser:
        answer = browser.post("/api/v1/jobs", json=job).raise_for_status().json()
        with browser.stream("GET", f"/api/v1/jobs/{answer['id']}/events") as events:
            seen = sum(map(len, events.iter_bytes()))
        done = browser.get(f"/api/v1/jobs/{answer['id']}").json()
        assert done["state"] == "done", done
        files = [browser.get(f"/api/v1/assets/{each['id']}") for each in done["outputs"]]
    return Sent(seen, sum(len(file.content) for file in files))


def seconds_of(process: psutil.Process) -> float:
    """What a process has computed."""
    times = process.cpu_times()
    return times.user + times.system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji-fast")
    parser.add_argument("--jobs", type=int, default=24)
    asked = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    base = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        studio = [sys.executable, "-m", "limner", "studio", "--no-open", "--port", str(port)]
        with subprocess.Popen([*studio, "--data", folder], stdout=subprocess.DEVNULL) as running:
            try:
                _wait(base)
                ask(base, asked.model, 0)  # the model is loaded
                server = psutil.Process(running.pid)
                workers = server.children(recursive=True)
                before = seconds_of(server), sum(map(seconds_of, workers)), _size(Path(folder))
                with ThreadPoolExecutor(asked.jobs) as people:
                    numbers = range(1, asked.jobs + 1)
                    sent = list(people.map(lambda i: ask(base, asked.model, i), numbers))
                after = seconds_of(server), sum(map(seconds_of, workers)), _size(Path(folder))
            finally:
                running.terminate()
    spent = [(b - a) / asked.jobs for a, b in zip(before, after, strict=True)]
    rows = [
        ("a worker computes", f"{spent[1]:.3f} s"),
        ("the server computes", f"{spent[0]:.3f} s"),
        (
            "a browser gets, as they form",
            f"{sum(s.events for s in sent) / asked.jobs / 1000:.0f} kB",
        ),
        ("a browser gets, of files", f"{sum(s.pictures for s in sent) / asked.jobs / 1000:.0f} kB"),
        ("the disk keeps", f"{spent[2] / 1000:.0f} kB"),
    ]
    show(f"{asked.model}: a job of {PICTURES} pictures, of {asked.jobs} at once", ("", ""), rows)


def _wait(base: str) -> None:
    """Until the studio answers."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        try:
            if httpx.get(f"{base}/readyz").is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit("the studio does not answer")


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    main()
