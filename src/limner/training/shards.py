"""Sharded tensors in files: each process writes its own rows, and reads the rows that it needs.

    model.0-of-2.safetensors    rows of the first process, and tensors that are not sharded
    model.1-of-2.safetensors    rows of the second process

The number of processes may differ between writing and reading. A file's metadata gives the position
of its rows in the whole tensor. Torch's distributed checkpoints serve the same purpose, but their
format can hold executable code.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from limner.contract.checkpoint import load_tensors, save_tensors
from limner.contract.errors import LimnerError
from limner.runtime import processes
from limner.training.sharding import first_row, is_shard

_NAME = re.compile(r"(.+)\.(\d+)-of-(\d+)")
_METADATA = "rows"


class _Part(NamedTuple):
    """Rows of a tensor, in a file.

    Args:
        file: the file.
        first: number of the first row.
        rows: number of rows.
    """

    file: Path
    first: int
    rows: int


class StoredTensor:
    """A tensor with its rows in several files.

    Args:
        name: name of the tensor.
        shape: shape of the whole tensor.
    """

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self.name, self.shape = name, torch.Size(shape)
        self._parts: list[_Part] = []

    def add(self, part: _Part) -> None:
        """Add further rows."""
        self._parts.append(part)

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the tensor."""
        return self.rows(0, 0).dtype

    def whole(self) -> Tensor:
        """Read all rows."""
        return self.rows(0, self.shape[0])

    def rows(self, start: int, stop: int) -> Tensor:
        """Read the rows from start to stop.

        Raises:
            LimnerError: a file is damaged.
        """
        parts: list[Tensor] = []
        for file, first, rows in sorted(self._parts, key=lambda part: part.first):
            try:
                with safe_open(file, "pt") as reader:
                    tensor = reader.get_slice(self.name)
                    parts.append(tensor[max(0, start - first) : max(0, min(rows, stop - first))])
            except (SafetensorError, OSError) as error:
                raise LimnerError(f"{file} is damaged ({error}); copy it again") from None
        return torch.cat(parts)


def write_shards(tensors: Mapping[str, Tensor], folder: Path, group: str) -> None:
    """Write this process's rows of tensors; the first process also writes unsharded tensors."""
    local: dict[str, Tensor] = {}
    positions: dict[str, list[int]] = {}
    for name, tensor in tensors.items():
        if not is_shard(tensor):
            if processes.first():
                local[name] = tensor
        elif len(rows := tensor.to_local()):
            local[name], positions[name] = rows, [first_row(tensor), *tensor.shape]
    file = folder / f"{group}.{processes.rank()}-of-{processes.size()}.safetensors"
    save_tensors(local, file, {_METADATA: json.dumps(positions)})


def read_groups(files: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Read groups of tensors from files, by name; sharded tensors become `StoredTensor` ones.

    Raises:
        LimnerError: a file is damaged.
    """
    groups: dict[str, dict[str, Any]] = {}
    for file in files:
        if match := _NAME.fullmatch(file.stem):
            _add_shards(groups.setdefault(match[1], {}), file)
        else:
            groups[file.stem] = load_tensors(file)
    return groups


def _add_shards(group: dict[str, Any], file: Path) -> None:
    try:
        with safe_open(file, "pt") as reader:
            positions = json.loads((reader.metadata() or {})[_METADATA])
            for name in reader.keys():  # noqa: SIM118
                if name not in positions:
                    group[name] = reader.get_tensor(name)
                    continue
                first, *shape = positions[name]
                rows = reader.get_slice(name).get_shape()[0]
                group.setdefault(name, StoredTensor(name, tuple(shape))).add(
                    _Part(file, first, rows)
                )
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise LimnerError(f"{file} is damaged ({error}); copy it again") from None
