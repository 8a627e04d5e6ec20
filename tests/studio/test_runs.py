"""Listing runs and models in a folder while they are being deleted."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import write_run
from limner.studio import catalogue, reports, runs


def test_a_broken_link_hides_no_runs(tmp_path: Path):
    write_run(tmp_path / "runs" / "valid")
    for name, file in (("one", runs.RECIPE), ("other", catalogue.FILE)):
        write_run(tmp_path / "runs" / name)
        link = tmp_path / "runs" / name / file
        link.unlink()
        link.symlink_to(tmp_path / "nowhere")
    assert tmp_path / "runs" / "valid" in runs.find_runs(tmp_path).values()
    assert "runs/valid" in catalogue.find_models(tmp_path)
    assert runs.describe_run(tmp_path / "runs" / "one") is None


def test_a_folder_whose_name_is_not_utf_8_is_left_out_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    valid, invalid = tmp_path / "runs" / "café", tmp_path / "runs" / os.fsdecode(b"caf\xe9")
    for run in (valid, invalid):
        write_run(run)
        for file in (reports.PAGE, reports.NUMBERS):
            (run / file).touch()
    for _ in range(2):
        assert [*runs.find_runs(tmp_path).values()] == [valid]
        assert catalogue.find_models(tmp_path)["runs/café"] == valid
        assert invalid not in catalogue.find_models(tmp_path).values()
        assert [*reports.comparisons(tmp_path).values()] == [valid]
    (line,) = caplog.messages
    assert r"runs/caf\xe9' is left out: its name is not UTF-8; rename it" in line


@pytest.mark.parametrize("find", [runs.find_runs, catalogue.find_models])
def test_a_run_deleted_during_listing_appears_at_most_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, find: Callable[[Path], dict[str, Path]]
):
    deleted, valid = (tmp_path / "runs" / name for name in ("brief", "valid"))
    for run in (deleted, valid):
        write_run(run)
    walk = os.walk

    def walk_and_delete(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
        yield from walk(root)
        shutil.rmtree(deleted, ignore_errors=True)

    monkeypatch.setattr(os, "walk", walk_and_delete)
    assert valid in find(tmp_path).values()
    assert not deleted.exists()
    assert deleted not in find(tmp_path).values()


def test_a_folder_deleted_while_being_read_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def gone(*_: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "glob", gone)
    assert runs.sheets(tmp_path) == []
    assert reports.reports(tmp_path) == []
