"""Commands whose work is shared by Ray workers, with one worker killed while they run."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil


def run_and_kill_a_worker(command: Sequence[object], worker: str, folder: Path) -> str:
    """Run `limner COMMAND --workers 2`, kill the first worker found, and return the output.

    Args:
        command: arguments after `limner`.
        worker: process title of the workers, for example "ray::Painter.do".
        folder: working directory.
    """
    # Ray's processes use the machine's address, which the suite's network guard blocks.
    paths = os.environ["PYTHONPATH"].split(os.pathsep)
    open_ = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in paths if "offline" not in p)}
    typed = [sys.executable, "-m", "limner", *map(str, command), "--workers", "2"]
    with subprocess.Popen(typed, env=open_, cwd=folder, stdout=-1, text=True) as several:
        found = None
        while several.poll() is None and found is None:
            family = psutil.Process(several.pid).children(recursive=True)
            found = next((each for each in family if worker in _title(each)), None)
            time.sleep(0.05)
        assert found is not None, "no worker was found"
        found.kill()
        out, _ = several.communicate(timeout=300)
    assert several.returncode == 0
    return out


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""
