"""Inception-v3 and its preprocessing against pytorch-fid 0.3.0 and torch-fidelity 0.4.0, with the
same random weights in their format."""

import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import pytorch_fid.fid_score
import pytorch_fid.inception
import torch
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec, from_uint8
from limner.data import open_data
from limner.data.png import save_png
from limner.evaluate.extractors import choose, inception
from limner.evaluate.extractors.inception import Inception, Network, load_network, read_from_corners
from limner.evaluate.metrics.fid import distance_of_features
from limner.evaluate.picture_sets import RealPictures

Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def weights() -> Weights:
    """Return random weights and norm statistics that keep activations near 1."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    with torch.device("meta"):
        known = Network().state_dict()
    for name, tensor in known.items():
        u = torch.rand(tensor.shape, generator=generator) - 0.5
        if name.endswith(("bn.weight", "running_var")):
            u = 1 + u / 2
        elif tensor.ndim > 1:
            u *= (24 / tensor[0].numel()) ** 0.5  # a variance of 2 / fan-in
        state[name] = u if tensor.ndim else torch.tensor(0)
    return state


@pytest.fixture(scope="module")
def network(weights: Weights) -> Network:
    return load_network(weights, "these")


@pytest.fixture(scope="module")
def fidelity(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return torch-fidelity's extractor with these weights."""
    file = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(weights, file)
    return FeatureExtractorInceptionV3(
        "inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(file)
    )


@pytest.fixture(scope="module")
def theirs(weights: Weights) -> Iterator[torch.nn.Module]:
    """Return pytorch-fid's network with these weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            pytorch_fid.inception, "load_state_dict_from_url", lambda *_, **__: dict(weights)
        )
        yield pytorch_fid.inception.InceptionV3([3]).eval()


def pixels(n: int, height: int, width: int, channels: int = 3) -> Tensor:
    return torch.randint(0, 256, (n, channels, height, width), dtype=torch.uint8)


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (299, 299), (512, 64), (300, 17), (1, 1)])
def test_resizing_equals_tensorflows_bit_for_bit(size: tuple[int, int]):
    x = pixels(1, *size).float()
    peer = interpolate_bilinear_2d_like_tensorflow1x(x, size=(299, 299), align_corners=False)
    assert torch.equal(read_from_corners(x, 299, 299), peer)


def test_resizing_reads_pixel_i_at_i_times_side_over_n():
    x = torch.tensor([0.0, 8.0]).view(1, 1, 1, 2)
    assert read_from_corners(x, 1, 4).flatten().tolist() == [0, 4, 8, 8]


def test_each_block_equals_pytorch_fids_and_torch_fidelitys(network: Network, fidelity, theirs):
    blocks = [name for name, _ in network.named_children() if name.startswith("Mixed_")]
    assert len(blocks) == 11
    peer_blocks = dict(zip(blocks, [*theirs.blocks[2], *theirs.blocks[3]]))
    x = torch.rand(1, 192, 19, 19)  # the input of the first block
    with torch.inference_mode():
        for name in blocks:
            y = network.get_submodule(name)(x)
            for peer in (peer_blocks[name], fidelity.get_submodule(name)):
                torch.testing.assert_close(y, peer(x), rtol=1e-5, atol=1e-5)
            x = y
        last = torch.rand(1, 3, 75, 75)
        stem = theirs.blocks[1](theirs.blocks[0](last))
    assert x.shape[1] == 2048
    assert stem.shape[1] == 192


@pytest.mark.parametrize("size", [(32, 32), (310, 40)])
def test_features_and_logits_equal_torch_fidelitys(
    network: Network, fidelity, size: tuple[int, int]
):
    images = pixels(2, *size)
    features, logits = Inception(network)(images)
    peer = fidelity(images)
    assert features.std() > 0.1
    torch.testing.assert_close(features, peer[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits, peer[1], rtol=1e-4, atol=1e-4)


def test_the_distance_of_two_folders_equals_pytorch_fids(network: Network, theirs, tmp_path: Path):
    """Only the 12 of 2,048 features that vary most are used, since 20 pictures give them full
    rank; `test_fid.py` has more."""
    sets = {"real": pixels(20, 24, 24), "fake": (0.6 * pixels(20, 24, 24).float()).byte()}
    ours, statistics = {}, {}
    for name, images in sets.items():
        (tmp_path / name).mkdir()
        for i, image in enumerate(images):
            save_png(image, tmp_path / name / f"{i:02d}.png")
        source = RealPictures(open_data(f"folder:{tmp_path / name}", split="all"))
        ours[name] = Inception(network, "pytorch-fid")(source.pictures(torch.arange(20))).features
        mean, covariance = pytorch_fid.fid_score.compute_statistics_of_path(
            str(tmp_path / name), theirs, 20, 2048, "cpu", num_workers=0
        )
        our_mean = ours[name].double().mean(0)
        torch.testing.assert_close(our_mean, torch.from_numpy(mean), rtol=1e-4, atol=1e-4)
        statistics[name] = mean, covariance
    indices = ours["real"].var(0).topk(12).indices
    parts = [part for m, s in statistics.values() for part in (m[indices], s[indices][:, indices])]
    with warnings.catch_warnings():  # scipy warns that sqrtm's `disp` is deprecated
        warnings.filterwarnings("ignore", message="The `disp` argument", append=False)
        peer = pytorch_fid.fid_score.calculate_frechet_distance(*parts)
    distance = distance_of_features(*(features[:, indices] for features in ours.values()))
    assert distance == pytest.approx(peer, rel=1e-3), f"pytorch-fid {version('pytorch-fid')}"


def test_the_two_preparations_have_different_names_and_fingerprints(network: Network):
    images = pixels(2, 32, 32)
    one, other = Inception(network), Inception(network, "pytorch-fid")
    assert (one.name, other.name) == ("inception-v3", "inception-v3-pytorch-fid")
    assert one.fingerprint != other.fingerprint
    assert (one(images).features - other(images).features).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["inception-v3", "inception-v3-pytorch-fid"])
def test_the_name_chooses_the_preparation(
    name: str, network: Network, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(choose, "inception_file", lambda _: Path("file"))
    monkeypatch.setattr(choose, "load_tensors", lambda _: {})
    monkeypatch.setattr(inception, "load_network", lambda *_: network)
    extract = choose.open_extractor(name, ImageSpec(3, 32, 32))
    assert isinstance(extract, Inception) and extract.name == name
    assert extract.preparation == ("pytorch-fid" if "fid" in name else "tensorflow")


def test_features_do_not_depend_on_the_batch_and_grey_equals_rgb(network: Network):
    extract, images = Inception(network), pixels(2, 28, 28, channels=1)
    grey = extract(images).features
    rgb = extract(images[1:].expand(-1, 3, -1, -1)).features
    torch.testing.assert_close(grey[1:], rgb, rtol=1e-4, atol=1e-4)


def test_half_precision_is_close_and_changes_the_fingerprint(weights: Weights):
    images = pixels(2, 32, 32)
    exact = Inception(load_network(weights, "these"))
    half = Inception(load_network(weights, "these"), dtype="bfloat16")
    assert (exact.name, half.name) == ("inception-v3", "inception-v3 (bfloat16)")
    assert exact.fingerprint != half.fingerprint
    a, b = exact(images).features, half(images).features
    assert b.dtype == torch.float32
    assert 0 < (a - b).norm() / a.norm() < 0.05


def test_the_input_of_the_network_is_in_minus_1_to_1():
    x = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    assert from_uint8(x).unique().tolist() == [-1, 1]


@pytest.mark.parametrize("spoil", ["missing", "misshapen"])
def test_other_weights_are_refused_in_one_line(weights: Weights, spoil: str):
    other = dict(weights)
    if spoil == "missing":
        del other["Mixed_5b.branch1x1.conv.weight"]
    else:
        other["fc.weight"] = torch.zeros(1000, 2048)  # torchvision's number of classes
    with pytest.raises(LimnerError, match=r"my\.pth does not hold the Inception network") as error:
        load_network(other, "my.pth")
    assert "\n" not in str(error.value)


def test_pictures_of_four_channels_are_refused(network: Network):
    with pytest.raises(LimnerError, match="inception-v3 judges grey or RGB pictures"):
        Inception(network)(pixels(1, 8, 8, channels=4))
