"""The state of a training run on disk: what `Loop.state` returns, saved completely or not at all.

    state/step-00000500/ manifest.json   {"format": 1, "step": 500, "files": {name: sha256}}
                         model.safetensors, average.safetensors, optimizer.safetensors, ...

If weights are sharded among processes, each process writes its own shard (see shards.py; format 2).

A state is written to `state/.partial-...`, made durable, and only then given its name. A resumed
run takes the newest state whose hashes all match; it reports damaged states and skips them.
"""

import contextlib
import errno
import json
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from limner.contract.atomic_files import sync_folder, write_durably
from limner.contract.checkpoint import save_tensors, sha256
from limner.contract.errors import LimnerError
from limner.runtime import processes
from limner.training.loop import Groups
from limner.training.sharding import is_shard
from limner.training.shards import read_groups, write_shards

FORMAT = 2
_MANIFEST = "manifest.json"
_PARTIAL = ".partial-"
_NAME = re.compile(r"step-(\d{8,})")


def save_state(folder: Path, step: int, state: Groups, keep: int) -> Path:
    """Write a state, then remove all but the newest ones; to be called by every process.

    Args:
        folder: folder of all states of the run.
        step: step that the state is named after.
        state: named groups of tensors; each group becomes one file, or one file per process.
        keep: number of states to keep.

    Returns:
        the folder of this state.
    """
    target = folder / f"step-{step:08d}"
    partial = folder / f"{_PARTIAL}{target.name}"
    shared = {group for group in state if any(map(is_shard, state[group].values()))}
    if not shared and not processes.first():
        return target
    try:
        if processes.first():
            folder.mkdir(parents=True, exist_ok=True)
            _remove(partial)
            partial.mkdir()
        if shared:
            processes.barrier()  # wait for the folder
            _write_together({group: state[group] for group in shared}, partial)
        if not processes.first():
            return target
        for group in state.keys() - shared:
            save_tensors(state[group], partial / f"{group}.safetensors")
        hashes = {path.name: sha256(path) for path in sorted(partial.iterdir())}
        manifest = {"format": FORMAT if shared else 1, "step": step, "files": hashes}
        write_durably(partial / _MANIFEST, json.dumps(manifest, indent=1).encode())
    except BaseException:
        with contextlib.suppress(OSError):
            _remove(partial)
        raise
    _discard(target)
    partial.rename(target)
    sync_folder(folder)
    for old in _states(folder)[keep:]:
        _discard(old)
    return target


def _write_together(state: Groups, folder: Path) -> None:
    """Write the shards of all processes.

    Raises:
        OSError: a process could not write its shard.
    """
    failure: OSError | None = None
    try:
        for group, tensors in state.items():
            write_shards(tensors, folder, group)
    except OSError as error:
        failure = error
    shards = (tensor for tensors in state.values() for tensor in tensors.values())
    device = next(tensor.device for tensor in shards if is_shard(tensor))
    if processes.anyone(failure is not None, device):
        raise failure or OSError(errno.EIO, "another process could not write its shard")


def load_state(folder: Path, say: Callable[[str], None]) -> Groups | None:
    """Load the newest undamaged state; return None if there is none.

    Args:
        folder: folder of all states of the run.
        say: function called with a message for each damaged state, which says what is taken
            instead.

    Raises:
        LimnerError: the newest state was written by a later version of limner.
    """
    for path in _states(folder):
        try:
            return _verify(path)
        except _DamagedError as damage:
            say(f"{path} is damaged ({damage}); taking the one before it")
    return None


def remove_partial_states(folder: Path) -> None:
    """Remove what a killed process left half written."""
    for orphan in folder.glob(f"{_PARTIAL}*"):
        _remove(orphan)


class _DamagedError(Exception):
    """The reason why a state cannot be used."""


def _states(folder: Path) -> list[Path]:
    """Return the folders of all states, the newest first."""
    matches = {path: _NAME.fullmatch(path.name) for path in folder.glob("step-*")}
    steps = {path: int(match[1]) for path, match in matches.items() if match}
    return sorted(steps, key=steps.__getitem__, reverse=True)


def _verify(path: Path) -> Groups:
    try:
        manifest = json.loads((path / _MANIFEST).read_bytes())
        version, files = int(manifest["format"]), dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _DamagedError(f"its manifest: {error!r}") from None
    if version > FORMAT:
        raise LimnerError(f"{path} was written by a newer limner; type: pip install -U limner")
    try:
        for name, expected in files.items():
            if sha256(path / Path(name).name) != expected:
                raise _DamagedError(f"the hash of {Path(name).name} does not match")
        return read_groups(path / Path(name).name for name in files)
    except (OSError, LimnerError) as error:
        raise _DamagedError(str(error)) from None


def _discard(path: Path) -> None:
    """Remove a state; if killed half-way, it leaves no damaged folder with a state's name."""
    if path.exists():
        hidden = Path(tempfile.mkdtemp(prefix=f"{_PARTIAL}old-", dir=path.parent))
        path.rename(hidden / path.name)
        _remove(hidden)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
