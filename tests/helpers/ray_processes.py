"""Programs whose work the processes of a Ray cluster share, and one of these killed on the way."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil


def run_and_kill_a_worker(command: Sequence[object], worker: str, folder: Path) -> str:
    """What `limner COMMAND --workers 2` prints, though the first worker that is seen is killed.

    Args:
        command: what is typed after `limner`.
        worker: the class of the workers, which Ray calls "ray::Painter.do".
        folder: where it runs.
    """
    # Ray's own processes talk over the machine's address, which the suite's guard refuses
    paths = os.environ["PYTHONPATH"].split(os.pathsep)
    open_ = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in paths if "offline" not in p)}
    typed = [sys.executable, "-m", "limner", *map(str, command), "--workers", "2"]
    with subprocess.Popen(typed, env=open_, cwd=folder, stdout=-1, text=True) as several:
        found = None
        while several.poll() is None and found is None:
            family = psutil.Process(several.pid).children(recursive=True)
            found = next((each for each in family if worker in _title(each)), None)
            time.sleep(0.05)
        assert found is not None, "no worker was seen"
        found.kill()
        out, _ = several.communicate(timeout=300)
    assert several.returncode == 0
    return out


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""
