"""States on disk: written completely or not at all; the newest complete one is loaded."""

import json
import os
from pathlib import Path

import pytest
import torch

from limner.contract.errors import LimnerError
from limner.training.state import load_state, remove_partial_states, save_state


def groups(step: int) -> dict:
    weights = torch.full((2, 3), float(step)).t()
    tied = {"a": weights, "b": weights.clone(memory_format=torch.contiguous_format)}
    return {"model": tied, "counters": {"step": torch.tensor(step)}, "optimizer": {}}


@pytest.fixture
def folder(tmp_path) -> Path:
    for step in (5, 10, 15):
        save_state(tmp_path / "state", step, groups(step), keep=2)
    return tmp_path / "state"


def test_a_saved_state_is_loaded_and_old_ones_are_deleted(folder):
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000010", "step-00000015"]
    messages: list[str] = []
    loaded, saved = load_state(folder, messages.append), groups(15)
    assert loaded is not None and messages == []
    assert loaded.keys() == saved.keys()
    for name, tensors in saved.items():
        for key, value in tensors.items():
            assert torch.equal(loaded[name][key], value)


def flip_a_bit(path: Path) -> None:
    file = path / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


DAMAGES = {
    "a flipped bit": flip_a_bit,
    "a file missing": lambda path: (path / "counters.safetensors").unlink(),
    "a file cut short": lambda path: os.truncate(path / "model.safetensors", 20),
    "no manifest": lambda path: (path / "manifest.json").unlink(),
    "half a manifest": lambda path: os.truncate(path / "manifest.json", 30),
    "a strange manifest": lambda path: (path / "manifest.json").write_text("[1]"),
    "no files named": lambda path: (path / "manifest.json").write_text('{"format": 1}'),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_state_is_named_and_skipped(folder, damage):
    damage(folder / "step-00000015")
    messages: list[str] = []
    loaded = load_state(folder, messages.append)
    assert loaded is not None and loaded["counters"]["step"] == 10
    assert len(messages) == 1 and "step-00000015 is damaged" in messages[0]


def test_a_newer_format_is_not_called_damaged(folder):
    manifest = folder / "step-00000015" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 99}))
    with pytest.raises(LimnerError, match="newer limner"):
        load_state(folder, print)


def test_a_manifest_cannot_name_files_elsewhere(folder):
    manifest = folder / "step-00000015" / "manifest.json"
    values = json.loads(manifest.read_text())
    values["files"] = {"../step-00000010/model.safetensors": "0" * 64}
    manifest.write_text(json.dumps(values))
    messages: list[str] = []
    load_state(folder, messages.append)
    assert "step-00000015/model.safetensors" in messages[0] or "hash of model" in messages[0]


def test_orphaned_files_are_deleted_and_no_state_gives_none(tmp_path, folder):
    (folder / ".partial-step-00000020-1").mkdir()
    (folder / ".partial-step-00000020-1" / "model.safetensors").touch()
    remove_partial_states(folder)
    assert not list(folder.glob(".partial*"))
    assert load_state(tmp_path / "nothing", print) is None


def test_the_same_step_can_be_saved_again(folder):
    flip_a_bit(folder / "step-00000015")
    save_state(folder, 15, groups(15), keep=2)
    loaded = load_state(folder, pytest.fail)
    assert loaded is not None and loaded["counters"]["step"] == 15
    assert not list(folder.glob(".partial*"))


def test_what_another_machine_hides_to_remove_it_stays(folder, monkeypatch):
    """Processes of two machines may have the same number."""
    monkeypatch.setattr(os, "getpid", lambda: 17)
    other = folder / ".partial-old-step-00000010-17"
    other.mkdir()
    save_state(folder, 20, groups(20), keep=2)
    names = sorted(p.name for p in folder.iterdir())
    assert names == [other.name, "step-00000015", "step-00000020"]


def test_a_failed_save_keeps_earlier_states(folder, monkeypatch):
    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("limner.training.state.sha256", full)
    with pytest.raises(OSError, match="disk full"):
        save_state(folder, 20, groups(20), keep=2)
    monkeypatch.undo()
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000010", "step-00000015"]
