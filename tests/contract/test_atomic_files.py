"""Tests of `limner.contract.atomic_files`."""

from pathlib import Path

import pytest

from limner.contract.atomic_files import atomic_file, write_durably


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "x"
    write_durably(path, b"old")

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path], "no partial file is left"


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path: Path):
    path = tmp_path / "x"
    with atomic_file(path) as first:
        first.write_bytes(b"first")
        with atomic_file(path) as second:
            second.write_bytes(b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_with_the_longest_name_is_written(tmp_path: Path):
    path = tmp_path / ("x" * 251 + ".png")
    write_durably(path, b"new")
    assert path.read_bytes() == b"new"
