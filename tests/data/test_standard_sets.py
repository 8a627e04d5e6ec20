"""Named data sets: MNIST compared with its raw bytes, the others read from files made here."""

import gzip
import hashlib
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from limner.contract.errors import LimnerError
from limner.contract.image import to_levels
from limner.contract.noise import Noise
from limner.data import Stream, open_data, sources
from limner.data.standard_sets import MNIST_TEST_BINARISED


def raw(name: str, head: int) -> np.ndarray:
    path = next(Path(os.environ["LIMNER_DATA"]).rglob(name))
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=head)


def test_mnist_equals_its_raw_bytes(mnist):
    data = open_data(mnist)
    assert len(data) == 60_000
    assert data.spec.shape == (1, 28, 28)
    assert data.spec.labels == tuple("0123456789")
    assert data.labels[:5].tolist() == [5, 0, 4, 1, 9]
    pixels = raw("train-images-idx3-ubyte.gz", 16).reshape(60_000, 1, 28, 28)
    assert np.array_equal(data.pixels(torch.arange(60_000)).numpy(), pixels)
    assert np.array_equal(data.labels.numpy(), raw("train-labels-idx1-ubyte.gz", 8))
    assert sum(data.spec.frequencies) == pytest.approx(1)
    assert Stream(data).preview(20).c.label.tolist() == [*range(10)] * 2


def test_mnist_has_a_test_split(mnist):
    data = open_data(mnist, split="test")
    assert len(data) == 10_000
    assert data.labels[:4].tolist() == [7, 2, 1, 0]
    assert open_data(mnist, split="test", binarise="threshold").spec.levels == 2


def test_the_binarised_mnist_test_set_is_always_the_same(mnist):
    data = open_data(mnist, split="test", binarise="dynamic")
    x = data.images(torch.arange(10_000), Noise.keyed(123, 45, range(10_000)))
    bits = to_levels(x, 2).to(torch.uint8)
    assert hashlib.sha256(bits.numpy().tobytes()).hexdigest() == MNIST_TEST_BINARISED
    preview = Stream(data, 9).preview(100)
    assert torch.equal(preview.x, x[data.overview(100)])


def test_stacked_mnist_has_all_combinations_of_three_digits(mnist):
    digits = open_data(mnist, split="test")
    data = open_data("stacked-mnist", split="test", label="class")
    assert len(data) == 26_000
    assert data.spec.shape == (3, 28, 28)
    counts = data.labels.bincount(minlength=1000)
    assert data.spec.labels[407] == "407" and bool((counts > 0).all())
    digit_of = {
        picture.numpy().tobytes(): int(c)
        for picture, c in zip(digits.pixels(torch.arange(10_000)), digits.labels)
    }
    for picture, label in zip(data.pixels(torch.arange(300)), data.labels):
        assert [digit_of[channel[None].numpy().tobytes()] for channel in picture] == [
            int(d) for d in f"{label:03}"
        ]
    assert open_data("stacked-mnist", split="test").labels is None


@pytest.fixture
def small(tmp_path, monkeypatch) -> Path:
    """Set LIMNER_DATA to a folder with three Fashion-MNIST pictures and no cache; return it."""
    monkeypatch.setenv("LIMNER_DATA", str(tmp_path))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    head = bytes([0, 0, 8, 3]) + np.array([3, 28, 28], ">i4").tobytes()
    (folder / "train-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
    labels = bytes([0, 0, 8, 1]) + np.array([3], ">i4").tobytes() + bytes([9, 0, 3])
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return tmp_path


def test_the_layout_of_torchvision_is_read(small):
    data = open_data("fashion-mnist")
    assert [data.spec.labels[i] for i in data.labels] == ["ankle boot", "t-shirt", "dress"]


def test_another_size_and_colour(small):
    data = open_data("fashion-mnist")
    large = open_data("fashion-mnist", size=32, channels=3)
    assert large.spec.shape == (3, 32, 32)
    assert torch.equal(large.labels, data.labels)
    pixels, larger = (d.pixels(torch.arange(3)).float() for d in (data, large))
    assert torch.equal(larger[:, 0], larger[:, 2])
    assert torch.allclose(larger.mean((1, 2, 3)), pixels.mean((1, 2, 3)), rtol=0.05)


def test_a_damaged_file_is_named(small):
    path = small / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(LimnerError, match=r"train-labels-idx1-ubyte.gz' is damaged"):
        open_data("fashion-mnist")
    path.write_bytes(gzip.compress(b"<html>"))
    with pytest.raises(LimnerError, match=r"is damaged \(it is not an IDX file"):
        open_data("fashion-mnist")


def test_cifar10_from_its_archive(small):
    rng = np.random.default_rng(0)
    (small / "cifar10").mkdir()
    with tarfile.open(small / "cifar10" / "cifar-10-binary.tar.gz", "w:gz", compresslevel=1) as tar:
        records = np.zeros((10_000, 3073), np.uint8)
        records[:9] = rng.integers(0, 256, (9, 3073))
        records[:, 0] = np.arange(10_000) % 10
        member = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
        member.size = records.size
        tar.addfile(member, io.BytesIO(records.tobytes()))
    data = open_data("cifar10", split="test")
    assert data.spec.shape == (3, 32, 32)
    assert data.spec.labels[int(data.labels[6])] == "frog"
    expected = records[:9, 1:].reshape(9, 3, 32, 32)
    assert np.array_equal(data.pixels(torch.arange(9)).numpy(), expected)
    with pytest.raises(LimnerError, match="is damaged"):
        open_data("cifar10")


def test_a_failed_download_is_reported_in_one_line(small, monkeypatch):
    from torchvision.datasets import utils

    def fail(*_: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(utils, "download_url", fail)
    with pytest.raises(
        LimnerError,
        match=r"mnist could not be downloaded \(no route to host\); set .* LIMNER_DATA .*mnist/tr",
    ):
        open_data("mnist")


def test_a_download_is_in_the_cache_once_it_is_complete(small, monkeypatch):
    from torchvision.datasets import utils

    def download(address: str, folder: Path, file: str, md5: str) -> None:
        assert address.endswith(file)
        assert len(md5) == 32
        print("progress")
        Path(folder).mkdir(parents=True, exist_ok=True)
        source = small / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
        data = source.read_bytes() if "images" in file else bytes([0, 0, 8, 1, 0, 0, 0, 3, 1, 2, 3])
        (Path(folder) / file).write_bytes(gzip.compress(data))

    monkeypatch.setattr(utils, "download_url", download)
    assert open_data("mnist").labels.tolist() == [1, 2, 3]
    monkeypatch.setattr(utils, "download_url", None)
    assert open_data("mnist").labels.tolist() == [1, 2, 3]


def test_processes_that_download_at_the_same_time_do_not_share_a_file(small, monkeypatch):
    from torchvision.datasets import utils

    folders: list[Path] = []

    def download(address: str, folder: str, file: str, md5: str) -> None:
        folders.append(Path(folder))
        if len(folders) == 1:  # another process starts and ends meanwhile
            sources.find_source("mnist", {}).fetch(file)
        Path(folder, file).write_bytes(b"")

    monkeypatch.setattr(utils, "download_url", download)
    file = sources.find_source("mnist", {}).fetch("train-images-idx3-ubyte.gz")
    assert len(folders) == len({*folders}) == 2
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_unpaired_sources(small):
    (small / "p,q").mkdir()
    Image.new("L", (28, 28), 200).save(small / "p,q" / "a.png")
    source = f"unpaired:fashion-mnist,folder:{small / 'p,q'}"
    data = open_data(source, **{"a.size": 14, "channels": 1})
    assert data.spec.shape == (1, 28, 28)
    assert data.spec.hint.shape == (1, 14, 14)
    assert data.source == source
    batch = Stream(data).batch(0, 5)
    assert batch.c.image.shape == (5, 1, 14, 14)
    for wrong in ("unpaired:mnist", "unpaired:"):
        with pytest.raises(LimnerError, match="has a wrong form; type unpaired:A,B"):
            open_data(wrong)
