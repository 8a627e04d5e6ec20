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
    arguments = [sys.executable, "-m", "limner", *map(str, command), "--workers", "2"]
    with subprocess.Popen(arguments, env=open_, cwd=folder, stdout=-1, text=True) as parent:
        process = None
        while parent.poll() is None and process is None:
            family = psutil.Process(parent.pid).children(recursive=True)
            process = next((child for child in family if worker in _title(child)), None)
            time.sleep(0.05)
        assert process is not None, "no worker was found"
        process.kill()
        out, _ = parent.communicate(timeout=300)
    assert parent.returncode == 0
    return out


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""
