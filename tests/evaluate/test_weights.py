"""Finding, downloading and converting the weights of `inception-v3`, with stubs."""

import hashlib
import io
import os
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from limner.contract.checkpoint import load_tensors, save_tensors
from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec
from limner.evaluate.extractors import weights
from limner.evaluate.extractors.choose import open_extractor
from limner.evaluate.extractors.convert import convert
from limner.evaluate.extractors.weights import FILE, inception_file

TENSORS = {"fc.weight": torch.arange(6.0).view(2, 3), "bn.num_batches_tracked": torch.tensor(7)}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a separate home folder without weights."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("LIMNER_CACHE", "LIMNER_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture
def converted_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the converter in this process, since starting a new one takes seconds."""

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        try:
            convert(Path(command[-2]), Path(command[-1]))
        except Exception as error:
            return subprocess.CompletedProcess(command, 1, "", str(error))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)


def kept(home: Path) -> list[str]:
    """Return the names of the cached files."""
    return sorted(path.name for path in home.rglob("*") if path.is_file())


def published(folder: Path, tensors: dict[str, Tensor] | None = None) -> Path:
    """Write a weight file in the published format."""
    folder.mkdir(exist_ok=True)
    file = folder / f"pt_{FILE}"
    torch.save(tensors or TENSORS, file)
    return file


def served(monkeypatch: pytest.MonkeyPatch, content: bytes, *, expected: bytes | None = None):
    """Replace the download with given content, and set its expected checksum."""
    addresses: list[str] = []

    def answer(address: str, timeout: float) -> io.BytesIO:
        addresses.append(address)
        return io.BytesIO(content)

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    digest = hashlib.sha256(content if expected is None else expected).hexdigest()
    monkeypatch.setattr(weights, "SHA256", digest)
    return addresses


def same(file: Path) -> bool:
    tensors = load_tensors(file)
    return tensors.keys() == TENSORS.keys() and all(tensors[k].equal(v) for k, v in TENSORS.items())


def test_a_given_file_is_converted_once(tmp_path: Path, home: Path):
    file = published(tmp_path / "here")
    converted = inception_file(file)
    assert same(converted)
    assert kept(home) == [f"{hashlib.sha256(file.read_bytes()).hexdigest()}.safetensors"]
    mtime = converted.stat().st_mtime_ns
    assert inception_file(str(file)).stat().st_mtime_ns == mtime
    assert inception_file(file.parent) == converted, "its folder must be accepted, too"


def test_machines_that_share_a_folder_can_convert_concurrently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Processes of two machines may have the same number."""
    file, others = published(tmp_path), list[Path]()

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        convert(Path(command[-2]), Path(command[-1]))
        if not others:
            others.append(file)
            assert same(inception_file(file)), "the other machine is done before this one"
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(os, "getpid", lambda: 17)
    assert same(inception_file(file))


@pytest.mark.usefixtures("converted_here")
def test_files_in_the_legacy_format_are_read(tmp_path: Path):
    """The published file is older than torch's zip format."""
    file = tmp_path / "old.pth"
    torch.save(TENSORS, file, _use_new_zipfile_serialization=False)
    assert same(inception_file(file))


@pytest.mark.usefixtures("converted_here")
def test_tensors_that_share_their_memory_are_converted(tmp_path: Path):
    whole = torch.arange(6.0)
    file = published(tmp_path, {"whole": whole, "part": whole[2:4]})
    assert load_tensors(inception_file(file))["part"].tolist() == [2, 3]


@pytest.mark.usefixtures("converted_here")
@pytest.mark.parametrize("how", ["file", "folder"])
def test_the_environment_variable_sets_the_path(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "weights" / f"inception-{FILE}".replace(".pth", ".safetensors")
    file.parent.mkdir()
    save_tensors(TENSORS, file)
    monkeypatch.setenv("LIMNER_WEIGHTS", str(file if how == "file" else file.parent))
    assert inception_file() == file
    other = published(tmp_path / "other", {"fc.weight": torch.zeros(1)})
    assert load_tensors(inception_file(other)).keys() == {"fc.weight"}, (
        "a given path must take precedence"
    )


def test_of_a_folder_only_the_published_file_is_used_and_safetensors_first(tmp_path: Path):
    published(tmp_path)
    file = tmp_path / f"pt_{FILE}".replace(".pth", ".safetensors")
    for path in (file, tmp_path / "another.safetensors"):
        save_tensors(TENSORS, path)
    assert inception_file(tmp_path) == file


def test_a_path_may_start_with_the_home_folder(home: Path, monkeypatch: pytest.MonkeyPatch):
    save_tensors(TENSORS, home / "own.safetensors")
    assert inception_file("~/own.safetensors") == home / "own.safetensors"
    monkeypatch.setenv("LIMNER_WEIGHTS", "~/own.safetensors")
    assert inception_file() == home / "own.safetensors"


@pytest.mark.usefixtures("converted_here")
def test_a_download_is_checked_converted_and_cached(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
):
    content = published(tmp_path / "theirs").read_bytes()
    addresses = served(monkeypatch, content)
    assert same(inception_file())
    assert same(inception_file())
    assert addresses == [weights.ADDRESS], "it must be downloaded once"
    assert kept(home) == [f"{hashlib.sha256(content).hexdigest()}.safetensors"]
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("LIMNER_WEIGHTS", str(empty))
    assert same(inception_file()), "a folder without these weights must not prevent the download"


@pytest.mark.usefixtures("converted_here")
def test_two_downloads_at_the_same_time_both_succeed(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
):
    content = published(tmp_path / "theirs").read_bytes()
    served(monkeypatch, content)
    during: list[bool] = []

    class Slow(io.BytesIO):
        """A download during whose last piece another one starts and ends."""

        def read(self, size: int | None = -1) -> bytes:
            piece = super().read(size)
            if not piece:
                monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(content))
                during.append(same(inception_file()))
            return piece

    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Slow(content))
    assert same(inception_file()) and during == [True]
    assert kept(home) == [f"{hashlib.sha256(content).hexdigest()}.safetensors"]


def refused(message: str, file: Path | str | None = None) -> None:
    with pytest.raises(LimnerError, match=message) as error:
        inception_file(file)
    assert "\n" not in str(error.value)


def test_a_file_with_a_wrong_checksum_is_not_kept(home: Path, monkeypatch: pytest.MonkeyPatch):
    served(monkeypatch, b"a page that says please log in", expected=b"the file")
    refused("is not the published file")
    assert kept(home) == []


def test_a_download_is_not_read_beyond_the_expected_size(
    home: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(weights, "BYTES", 3 * 2**20)
    count = 0

    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            nonlocal count
            count += size
            return bytes(size)

    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Endless())
    refused("is not the published file")
    assert count <= weights.BYTES + 2**20
    assert kept(home) == []


def test_without_a_network_the_error_states_what_to_do(home: Path, monkeypatch: pytest.MonkeyPatch):
    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    message = rf"no route to host.*set LIMNER_WEIGHTS to.*{FILE}.*lenet and emoji-judge need no"
    refused(message)
    with pytest.raises(LimnerError, match=message):
        open_extractor("inception-v3", ImageSpec(3, 32, 32))
    assert kept(home) == []


def test_paths_without_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    refused("no weights of inception-v3 in nowhere.pth; set LIMNER_WEIGHTS", "nowhere.pth")
    refused("no weights of inception-v3 in .*home", tmp_path / "home")
    monkeypatch.setenv("LIMNER_WEIGHTS", str(tmp_path / "absent.pth"))
    refused("no weights of inception-v3 in .*absent.pth")


class Harmful:
    """An object that runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("harm",)


def unsound(file: Path, home: Path) -> None:
    refused("is not a valid file of weights", file)
    assert kept(home) == []


def test_code_in_a_file_is_not_run(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"fc.weight": Harmful()}, tmp_path / "weights.pth")
    unsound(tmp_path / "weights.pth", home)
    assert not (tmp_path / "harm").exists()


@pytest.mark.usefixtures("converted_here")
def test_files_with_other_objects_than_tensors_are_refused(tmp_path: Path, home: Path):
    file = tmp_path / "weights.pth"
    for content in (b"noise", b""):
        file.write_bytes(content)
        unsound(file, home)
    for value in (torch.zeros(2), {"a": 1.0}, {1: torch.zeros(2)}):
        torch.save(value, file)
        unsound(file, home)
        refused("it holds something other than named tensors", file)
