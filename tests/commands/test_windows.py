"""Training and painting without the system calls that Windows lacks."""

import os
import subprocess
import sys
from pathlib import Path

WITHOUT = """
import os, signal, sys

sys.modules["fcntl"] = None
del os.sysconf, os.sched_getaffinity, signal.pthread_sigmask, signal.SIGPIPE, os.fork
opened = os.open

def open_no_folders(path, flags, *more, **options):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", path)
    return opened(path, flags, *more, **options)

os.open = open_no_folders
from limner.__main__ import main

main()
"""


def limner(arguments: str, folder: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT, *arguments.split()],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONUTF8": "0", "PYTHONIOENCODING": "cp1252"},
    )
    assert process.returncode == 0, process.stderr


def test_a_model_trains_and_paints(tmp_path: Path):
    small = "model.channels=4,4 data.size=8 train.batch=1001 train.steps=1 --run run"
    limner(f"train flow-matching emoji {small}", tmp_path)
    limner("resume run train.steps=2", tmp_path)
    limner("sample -m run -n 2 -o two.png", tmp_path)
    assert (tmp_path / "two.png").is_file()
