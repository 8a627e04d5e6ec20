"""Named data sets: `mnist`, `fashion-mnist` and `cifar10` as published, and `stacked-mnist` and
`coloured-mnist`, which are made of `mnist`.

They are read from the folder in the environment variable LIMNER_DATA, else from `~/.cache/limner`.
If they are in neither, they are downloaded into the latter on first use. CIFAR-10 is read in its
binary version, because the Python version has pickled objects, which are unsafe to load.

References:
    LeCun, Bottou, Bengio, Haffner (1998). Gradient-based learning applied to document recognition.
    Xiao, Rasul, Vollgraf (2017). Fashion-MNIST. arXiv:1708.07747.
    Krizhevsky (2009). Learning multiple layers of features from tiny images.
    Metz, Poole, Pfau, Sohl-Dickstein (2016). Unrolled generative adversarial networks.
    arXiv:1611.02163.
"""

import contextlib
import gzip
import hashlib
import io
import os
import sys
import tarfile
import tempfile
import zlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Integer, UInt8

from limner.contract.errors import LimnerError, first_line
from limner.contract.noise import Noise, Purpose
from limner.data.dataset import Dataset
from limner.data.pictures import (
    Entry,
    Listing,
    Pictures,
    Report,
    Source,
    decode_pictures,
    raise_error,
)

MNIST_TEST_BINARISED = "d209359692f00cc5d422e0d040a4f47a5b8ff8e9f371c5294eeece3f9cdd0059"
"""SHA-256 of `mnist` split=test binarise=dynamic: 10,000 x 28 x 28 bytes, each 0 or 1, in order."""
_RECORD_BYTES = 1 + 3 * 32 * 32  # bytes: a class, then red, green, blue
_STACKED_COUNTS = {"train": 128_000, "test": 26_000}  # pictures, the usual numbers


@dataclass(frozen=True, kw_only=True)
class NamedSet(Source):
    """A published data set with a name.

    Args:
        split: "train" or "test", as published.
        label: "class" keeps the classes; "none" is for unconditional models.
    """

    split: Literal["train", "test"] = "train"
    label: Literal["class", "none"] = "class"
    name: ClassVar[str]
    folders: ClassVar[tuple[str, ...]]
    """Possible folders of the files, below LIMNER_DATA or the cache; the first is for downloads."""
    classes: ClassVar[tuple[str, ...]]

    @abstractmethod
    def arrays(self) -> tuple[UInt8[np.ndarray, "n h w c"], Integer[np.ndarray, "n"]]:
        """Return all pictures and class numbers of the split."""

    @abstractmethod
    def urls_and_md5(self, file: str) -> tuple[list[str], str]:
        """Return the URLs of a file, and its MD5."""

    def listing(self, report: Report) -> Listing:
        """List the pictures as PGM or PPM files, so that they are handled like any other files."""
        pixels, labels = self.arrays()
        n, height, width, channels = pixels.shape
        head = b"P%d %d %d 255\n" % (5 if channels == 1 else 6, width, height)

        def opener(i: int) -> Callable[[], IO[bytes]]:
            return lambda: io.BytesIO(head + pixels[i].tobytes())

        classes = self.classes if self.label == "class" else ()
        entries = [
            Entry(str(i), opener(i), classes[labels[i]] if classes else None) for i in range(n)
        ]
        return Listing(entries, classes)

    def open(self, typed: str) -> Dataset:
        """Open the data set; nothing is decoded unless another size or colour is requested."""
        pixels, _ = self.arrays()
        _, height, width, channels = pixels.shape
        is_resized = self.load_size or self.half or self.shape not in (None, (height, width))
        if is_resized or self.channels not in (None, channels):
            return decode_pictures(self, typed)
        listing = self.listing(raise_error)
        tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        content = hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        shape = (channels, height, width)
        return Pictures(self, typed, listing, listing.entries, shape, tensor, content, [])

    def fetch(self, file: str) -> Path:
        """Return the path of a published file, packed or not; download it if it is missing.

        Raises:
            LimnerError: it cannot be downloaded.
        """
        cache = Path.home() / ".cache" / "limner"
        for root in (Path(os.environ.get("LIMNER_DATA") or cache).expanduser(), cache):
            for path in (root / folder / file for folder in self.folders):
                for candidate in (path, path.with_suffix("")):
                    if candidate.is_file():
                        return candidate
        from torchvision.datasets.utils import download_url

        folder, reason = cache / self.folders[0], ""
        addresses, md5 = self.urls_and_md5(file)
        for address in addresses:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                # A new folder, because other processes may download the file at the same time.
                with tempfile.TemporaryDirectory(prefix="partial-", dir=folder) as partial:
                    with contextlib.redirect_stdout(sys.stderr):
                        download_url(address, partial, file, md5)
                    return Path(partial, file).replace(folder / file)
            except (OSError, RuntimeError) as error:
                reason = first_line(error)
        raise LimnerError(
            f"{self.name} could not be downloaded ({reason}); set the environment variable "
            f"LIMNER_DATA to a folder that contains {self.folders[0]}/{file}"
        )


@dataclass(frozen=True, kw_only=True)
class Mnist(NamedSet):
    """`mnist`: 60,000 and 10,000 handwritten digits of 28 x 28."""

    name = "mnist"
    folders = ("mnist", "MNIST/raw", "mnist/MNIST/raw")
    classes = tuple("0123456789")
    home: ClassVar[str] = "MNIST"
    """Name of the class in torchvision that has the URLs."""

    def urls_and_md5(self, file: str) -> tuple[list[str], str]:
        """Return the URLs and the MD5 from torchvision."""
        import torchvision.datasets

        dataset = getattr(torchvision.datasets, self.home)
        return [mirror + file for mirror in dataset.mirrors], dict(dataset.resources)[file]

    def arrays(self) -> tuple[UInt8[np.ndarray, "n h w c"], Integer[np.ndarray, "n"]]:
        """Return all pictures and class numbers of the split."""
        prefix = "train" if self.split == "train" else "t10k"
        pixels = _idx(self.fetch(f"{prefix}-images-idx3-ubyte.gz"), 3)
        labels = _idx(self.fetch(f"{prefix}-labels-idx1-ubyte.gz"), 1)
        if len(pixels) != len(labels) or labels.max(initial=0) >= len(self.classes):
            raise LimnerError(
                f"the pictures and labels of {self.name} do not belong together; delete them"
            )
        return pixels[..., None], labels


@dataclass(frozen=True, kw_only=True)
class StackedMnist(Mnist):
    """`stacked-mnist`: three MNIST digits as the red, green and blue of a picture: 1,000 modes.

    There are 128,000 pictures of training digits and 26,000 of test digits. The three digits of a
    picture are drawn independently, with a fixed seed.

    Args:
        label: "class" gives the three digits, 000 to 999. The default is "none", because the test
            is whether a model finds all modes without labels.
    """

    label: Literal["class", "none"] = "none"
    name = "stacked-mnist"
    classes = tuple(f"{i:03}" for i in range(1000))

    def arrays(self) -> tuple[UInt8[np.ndarray, "n h w c"], Integer[np.ndarray, "n"]]:
        """Return all pictures and class numbers of the split."""
        pixels, digits = super().arrays()
        streams = Noise.keyed(0, Purpose.STACKING, range(_STACKED_COUNTS[self.split]))
        indices = streams.integers(len(pixels), 3).numpy()
        stacked = pixels[..., 0][indices]  # n c h w, as it is kept
        return stacked.transpose(0, 2, 3, 1), digits[indices] @ np.array([100, 10, 1])


@dataclass(frozen=True, kw_only=True)
class ColouredMnist(Mnist):
    """`coloured-mnist`: MNIST's digits, each in its own bright colour, drawn with a fixed seed.

    It is a domain for translation to and from `mnist`, with the true counterpart of each picture.
    """

    name = "coloured-mnist"

    def arrays(self) -> tuple[UInt8[np.ndarray, "n h w c"], Integer[np.ndarray, "n"]]:
        """Return all pictures and class numbers of the split."""
        pixels, labels = super().arrays()
        hue = 6 * Noise.keyed(0, Purpose.COLOUR, range(len(pixels))).uniform(1).numpy()
        colour = np.clip(
            np.abs((hue + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1
        )  # full, of every hue
        coloured = (pixels * colour[:, None, None].astype(np.float32)).round()
        return coloured.astype(np.uint8), labels


@dataclass(frozen=True, kw_only=True)
class FashionMnist(Mnist):
    """`fashion-mnist`: 60,000 and 10,000 pieces of clothing of 28 x 28."""

    name = "fashion-mnist"
    folders = ("fashion-mnist", "FashionMNIST/raw", "fashion-mnist/FashionMNIST/raw")
    classes = ("t-shirt", "trouser", "pullover", "dress", "coat")
    classes += ("sandal", "shirt", "sneaker", "bag", "ankle boot")
    home = "FashionMNIST"


@dataclass(frozen=True, kw_only=True)
class Cifar10(NamedSet):
    """`cifar10`: 50,000 and 10,000 photographs of 32 x 32 in ten classes."""

    name = "cifar10"
    folders = ("cifar10", "")
    classes = ("airplane", "automobile", "bird", "cat", "deer")
    classes += ("dog", "frog", "horse", "ship", "truck")

    def urls_and_md5(self, file: str) -> tuple[list[str], str]:
        """Return the URL on the author's page, and the MD5."""
        return [f"https://www.cs.toronto.edu/~kriz/{file}"], "c32a1d4ab5d03f1284b67883e8d87530"

    def arrays(self) -> tuple[UInt8[np.ndarray, "n h w c"], Integer[np.ndarray, "n"]]:
        """Return all pictures and class numbers of the split."""
        train = self.split == "train"
        files = [f"data_batch_{i}.bin" for i in range(1, 6)] if train else ["test_batch.bin"]
        parts = _members(self.fetch("cifar-10-binary.tar.gz"), files)
        records = np.frombuffer(parts, np.uint8).reshape(-1, _RECORD_BYTES)
        return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0]


def _idx(path: Path, dimensions: int) -> UInt8[np.ndarray, "..."]:
    """Read an IDX file: 0, 0, 8 (bytes), number of dimensions, big-endian int32 sizes, values."""
    try:
        data = path.read_bytes()
        data = bytearray(gzip.decompress(data) if path.suffix == ".gz" else data)
        if data[:4] != bytes([0, 0, 8, dimensions]):
            raise ValueError("it is not an IDX file of bytes")
        head = 4 + 4 * dimensions
        return np.frombuffer(data, np.uint8, offset=head).reshape(
            np.frombuffer(data[4:head], ">i4")
        )
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise LimnerError(f"'{path}' is damaged ({error}); delete it") from None


def _members(path: Path, files: Sequence[str]) -> bytearray:
    """Read files of 10,000 records from a packed archive in one pass, and join them in order."""
    contents = {}
    try:
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                if name in files and member.size == _RECORD_BYTES * 10_000:
                    stream = archive.extractfile(member)
                    contents[name] = stream.read() if stream else b""
        return bytearray().join(contents[file] for file in files)
    except (OSError, EOFError, KeyError, zlib.error, tarfile.TarError) as error:
        raise LimnerError(f"'{path}' is damaged ({error}); delete it") from None
