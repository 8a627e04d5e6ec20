"""What was costly to compute, kept on disk: tensors, in a file named after all they depend on.

    LIMNER_CACHE, or the platform's folder for caches, + limner
        statistics/KEY.safetensors       what an extractor saw of a data set
        work/KEY/block-000012...         what a running evaluation has finished
        shards/KEY.safetensors           what lies where in a shard of data

A file is written under a name of its own and then renamed, so that several processes may write the
same one; it carries a hash of its tensors, so that a damaged one counts as absent.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from limner.contract.checkpoint import digest_tensors, load_tensors
from limner.contract.errors import LimnerError

_HASH = "sha256"
_ABANDONED_SECONDS = 30 * 24 * 3600.0  # work that nobody went on with


def cache_folder() -> Path:
    """The folder in LIMNER_CACHE, else `limner` in the platform's folder for caches."""
    if given := os.environ.get("LIMNER_CACHE"):
        return Path(given).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "limner"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "limner" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "limner"


def key(*parts: object) -> str:
    """A name for what depends on these plain values, and on nothing else."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def keep(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors, whole or not at all.

    Raises:
        LimnerError: the folder cannot be written.
    """
    own = torch.contiguous_format  # parts of one tensor cannot share a file
    plain = {name: t.detach().cpu().clone(memory_format=own) for name, t in tensors.items()}
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(save(plain, {_HASH: digest_tensors(plain)}))
        partial.replace(path)
    except OSError as error:
        raise LimnerError(
            f"cannot write {path.parent}: {error.strerror or error}; set LIMNER_CACHE to a folder "
            "that can be written"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def kept(path: Path) -> dict[str, Tensor] | None:
    """The tensors that `keep` wrote there; None where there are none, or they are damaged."""
    if not path.is_file():
        return None
    try:
        tensors = load_tensors(path)
        with safe_open(path, "pt") as file:
            expected = (file.metadata() or {}).get(_HASH)
    except (LimnerError, SafetensorError, OSError):
        return None
    return tensors if digest_tensors(tensors) == expected else None


def discard(folder: Path) -> None:
    """Remove an emptied folder of finished work, and those that were abandoned long ago."""
    with contextlib.suppress(OSError):  # others have work in it
        folder.rmdir()
    for other in folder.parent.glob("*/"):
        try:
            if time.time() - other.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(other, ignore_errors=True)
        except OSError:  # another process was quicker
            continue
