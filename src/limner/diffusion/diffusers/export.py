"""Export of a model to a folder of another program, as `limner export` does."""

import shutil
from pathlib import Path

from safetensors import SafetensorError

from limner.contract.abilities import Exports
from limner.contract.bundled import load
from limner.contract.errors import LimnerError, writing
from limner.contract.model import GenerativeModel
from limner.diffusion.diffusers.folder import quietly


def export(name: str, folder: Path) -> Path:
    """Write a model as the folder of a diffusers pipeline.

    Args:
        name: a bundled name, a run or model folder, or a model file.
        folder: a new or an empty folder.

    Returns:
        the folder.

    Raises:
        LimnerError: there is no such model, diffusers has no equivalent, or the folder is in use.
    """
    model = load(name)
    if not isinstance(model, Exports):
        hint = "give --format onnx; " if isinstance(model, GenerativeModel) else ""
        raise LimnerError(
            f"diffusers has no network and sampler like those of the model '{model.name}'; {hint}"
            "ddpm with model.network=plain can be exported"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LimnerError(f"{folder} is in use; name a new folder")
    pipeline = model.to_diffusers()
    with writing(folder):
        try:
            with quietly():
                pipeline.save_pretrained(folder, safe_serialization=True)
        except BaseException as error:  # such as a full disk; partial files would block a new try
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, SafetensorError):
                raise OSError(str(error)) from None
            raise
    return folder
