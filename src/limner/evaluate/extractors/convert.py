"""Convert external weights to safetensors, in a separate process.

    python -m limner.evaluate.extractors.convert FILE.pth FILE.safetensors

Files in torch's own format may hold code. This is the only place where limner opens one, with
the reader that creates tensors only. It runs in a separate process, and no other module imports it.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from limner.contract.checkpoint import save_tensors
from limner.contract.errors import first_line


def convert(source: Path, target: Path) -> None:
    """Write a file's named tensors as safetensors.

    Raises:
        ValueError: the file holds something other than named tensors.
    """
    tensors = torch.load(source, map_location="cpu", weights_only=True)
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors.items()
    ):
        raise ValueError("it holds something other than named tensors")
    save_tensors({name: value.clone() for name, value in tensors.items()}, target)


if __name__ == "__main__":
    try:
        convert(Path(sys.argv[1]), Path(sys.argv[2]))
    except Exception as error:  # a damaged or malicious file may make the reader raise anything
        sys.exit(first_line(error))
