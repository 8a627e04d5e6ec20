"""A cache on disk for tensors that are costly to compute; a file's name depends on all its inputs.

    LIMNER_CACHE, or the platform's folder for caches, + limner
        statistics/KEY.safetensors       an extractor's statistics of a data set
        work/KEY/block-000012...         finished parts of a running evaluation
        shards/KEY.safetensors           where each record of a shard of data is

A file is written under a temporary name and then renamed, so that several processes may write the
same one. It contains a hash of its tensors, so that a damaged file counts as missing.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from limner.contract.atomic_files import atomic_file
from limner.contract.checkpoint import digest_tensors, load_tensors
from limner.contract.errors import LimnerError, writing

_HASH = "sha256"
_ABANDONED_SECONDS = 30 * 24 * 3600.0  # unfinished work of this age is removed


def cache_folder() -> Path:
    """Return the folder in LIMNER_CACHE, else `limner` in the platform's folder for caches."""
    if folder := os.environ.get("LIMNER_CACHE"):
        return Path(folder).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "limner"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "limner" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "limner"


def cache_key(*parts: object) -> str:
    """Return a name for a result that depends only on these plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def keep_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a file, completely or not at all.

    Raises:
        LimnerError: the folder cannot be written.
    """
    layout = torch.contiguous_format  # a file cannot hold two views of one tensor
    plain = {name: t.detach().cpu().clone(memory_format=layout) for name, t in tensors.items()}
    with writing(path.parent, "set LIMNER_CACHE to a folder that can be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as partial:
            partial.write_bytes(save(plain, {_HASH: digest_tensors(plain)}))


def load_kept(path: Path) -> dict[str, Tensor] | None:
    """Return the tensors that `keep_tensors` wrote; None if there are none, or they are damaged."""
    if not path.is_file():
        return None
    try:
        tensors = load_tensors(path)
        with safe_open(path, "pt") as file:
            expected = (file.metadata() or {}).get(_HASH)
    except (LimnerError, SafetensorError, OSError):
        return None
    return tensors if digest_tensors(tensors) == expected else None


def discard_folder(folder: Path) -> None:
    """Remove the empty folder of finished work, and folders that were abandoned long ago."""
    with contextlib.suppress(OSError):  # it is not empty: another process works in it
        folder.rmdir()
    for other in folder.parent.glob("*/"):
        try:
            if time.time() - other.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(other, ignore_errors=True)
        except OSError:  # another process has removed it
            continue
