"""Folder locks: one process at a time; a killed process leaves no lock."""

import subprocess
import sys
from pathlib import Path

import pytest

from limner.contract.errors import LimnerError
from limner.runtime.folder_lock import is_locked, lock_folder

HOLDER = """
import sys, time
from pathlib import Path
from limner.runtime.folder_lock import lock_folder
with lock_folder(Path(sys.argv[1]), "in use"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path):
    folder = tmp_path / "made" / "for it"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with (
        pytest.raises(LimnerError, match=r"^somebody is here$"),
        lock_folder(folder, "somebody is here"),
    ):
        raise AssertionError
    holder.kill()
    holder.wait()
    holder.stdout.close()
    for _ in range(2):
        with lock_folder(folder, "somebody is here"):
            pass


def test_checking_a_lock_does_not_take_it(tmp_path: Path):
    assert not is_locked(tmp_path) and not is_locked(tmp_path / "nothing")
    with lock_folder(tmp_path, "in use"):
        assert is_locked(tmp_path)
    with lock_folder(tmp_path, "in use"):
        pass


def test_a_folder_that_cannot_be_created_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(LimnerError, match=r"cannot write .*file"),
        lock_folder(tmp_path / "file", ""),
    ):
        pass
