"""How much does a job of the studio cost its server, its worker, the network and the disk?

    python benchmarks/studio.py --jobs 24

Each of --jobs clients requests four pictures at the same moment, follows the events while they are
painted, and downloads them. Seconds are those that processes compute, so other programs may run.
docs/deploy.md says what the numbers mean for many users.
"""

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
from timing import count, options_parser, show

PICTURES = 4
_TIMEOUT = 120.0


class Transfer(NamedTuple):
    """Bytes that a browser receives for one job.

    Args:
        events: bytes of the events.
        pictures: bytes of the picture files.
    """

    events: int
    pictures: int


def run_job(base: str, model: str, number: int) -> Transfer:
    """Submit a job, follow it until it is done, and download its pictures."""
    params = {"prompt": "a red apple", "n": PICTURES, "seed": number * PICTURES}
    job = {"model": model, "task": "paint", "params": params, "inputs": {}}
    with httpx.Client(base_url=base, timeout=_TIMEOUT) as browser:
        response = browser.post("/api/v1/jobs", json=job).raise_for_status().json()
        with browser.stream("GET", f"/api/v1/jobs/{response['id']}/events") as events:
            event_bytes = sum(map(len, events.iter_bytes()))
        result = browser.get(f"/api/v1/jobs/{response['id']}").json()
        assert result["state"] == "done", result
        files = [browser.get(f"/api/v1/assets/{asset['id']}") for asset in result["outputs"]]
    return Transfer(event_bytes, sum(len(file.content) for file in files))


def seconds_of(process: psutil.Process) -> float:
    """Return the CPU time of a process in seconds."""
    times = process.cpu_times()
    return times.user + times.system


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--model", default="emoji-fast")
    parser.add_argument("--jobs", type=count, default=24, help="number of jobs at the same time")
    args = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as free_socket:
        port = free_socket.getsockname()[1]
    base = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        studio = [sys.executable, "-m", "limner", "studio", "--no-open", "--port", str(port)]
        with subprocess.Popen([*studio, "--data", folder], stdout=subprocess.DEVNULL) as process:
            try:
                _wait_until_ready(base, process)
                run_job(base, args.model, 0)  # load the model before measuring
                server = psutil.Process(process.pid)
                workers = server.children(recursive=True)
                before = seconds_of(server), sum(map(seconds_of, workers)), _size(Path(folder))
                with ThreadPoolExecutor(args.jobs) as clients:
                    numbers = range(1, args.jobs + 1)
                    transfers = list(clients.map(lambda i: run_job(base, args.model, i), numbers))
                after = seconds_of(server), sum(map(seconds_of, workers)), _size(Path(folder))
            finally:
                process.terminate()
    cost = [(b - a) / args.jobs for a, b in zip(before, after, strict=True)]
    rows = [
        ("a worker computes", f"{cost[1]:.3f} s"),
        ("the server computes", f"{cost[0]:.3f} s"),
        (
            "a browser receives as events",
            f"{sum(s.events for s in transfers) / args.jobs / 1000:.0f} kB",
        ),
        (
            "a browser receives as files",
            f"{sum(s.pictures for s in transfers) / args.jobs / 1000:.0f} kB",
        ),
        ("the disk stores", f"{cost[2] / 1000:.0f} kB"),
    ]
    show(
        f"{args.model}: a job of {PICTURES} pictures, {args.jobs} jobs at the same time",
        ("", ""),
        rows,
    )


def _wait_until_ready(base: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until the studio is ready."""
    end = time.monotonic() + _TIMEOUT
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit("the studio has ended; its own message is printed above")
        try:
            if httpx.get(f"{base}/readyz").is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit("the studio does not respond; start it by hand to see why: limner studio")


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    main()
