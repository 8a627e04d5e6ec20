"""Foreign weights as safetensors, in a process of its own.

    python -m limner.evaluate.extractors.convert FILE.pth FILE.safetensors

Files of torch's own kind may hold code. This is the one place where limner opens one: by the reader
that makes tensors and nothing else, and in a process of its own that no other part imports.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from limner.contract.checkpoint import save_tensors


def convert(source: Path, target: Path) -> None:
    """Write a file's tensors, by name, as safetensors.

    Raises:
        ValueError: the file holds something else than named tensors.
    """
    found = torch.load(source, map_location="cpu", weights_only=True)
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items()
    ):
        raise ValueError("it holds something else than named tensors")
    save_tensors({name: value.clone() for name, value in found.items()}, target)


if __name__ == "__main__":
    try:
        convert(Path(sys.argv[1]), Path(sys.argv[2]))
    except Exception as error:  # whatever a damaged or crafted file makes the reader raise
        sys.exit((str(error).strip() or type(error).__name__).splitlines()[0])
