"""Metrics of enlarged pictures: SSIM against scikit-image, filters against Pillow, and errors."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from limner.contract.errors import LimnerError
from limner.contract.image import to_uint8
from limner.contract.model import GenerativeModel
from limner.contract.noise import Noise
from limner.contract.registry import build
from limner.data import open_data
from limner.evaluate.metric import NotApplicable, Setting
from limner.evaluate.metrics.pairs import psnr
from limner.evaluate.metrics.upscaling import FILTERS, Filtered, Upscaling, ssim
from limner.evaluate.picture_sets import PaintedPictures, RealPictures
from limner.evaluate.subject import Candidate, Reference


def pixels(n: int, side: int, seed: int) -> torch.Tensor:
    return (Noise.sampling(seed, n).uniform(3, side, side) * 255).round().to(torch.uint8)


def test_psnr_and_ssim_equal_those_of_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    true = pixels(3, 24, 0)
    x = (0.7 * true + 0.3 * pixels(3, 24, 9)).round().to(torch.uint8)
    for value, a, b in zip(ssim(x, true), x, true):
        a, b = (z.permute(1, 2, 0).numpy() for z in (a, b))
        expected = metrics.structural_similarity(
            a, b, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert value.item() == pytest.approx(expected, abs=1e-9)
    a, b = (z[0].numpy() for z in (x, true))
    assert psnr(x, true)[0].item() == pytest.approx(metrics.peak_signal_noise_ratio(b, a))
    torch.testing.assert_close(ssim(true, true), torch.ones(3, dtype=torch.float64))


@pytest.fixture(scope="module")
def reference() -> RealPictures:
    return RealPictures(open_data("emoji", size=32, label="none", hint="bicubic", reduction=4))


@pytest.mark.parametrize("method", FILTERS)
def test_filters_equal_pillows(method, reference):
    numbers = torch.arange(2)
    outputs = Filtered(reference, 2, method).pictures(numbers)
    small = to_uint8(reference.condition(numbers, reference.spec).image)
    for output, picture in zip(outputs, small):
        image = Image.fromarray(picture.permute(1, 2, 0).numpy())
        expected = np.asarray(image.resize((32, 32), FILTERS[method]))
        assert np.array_equal(output.permute(1, 2, 0).numpy(), expected)


def test_filtered_pictures_have_the_size_of_the_real_ones(tmp_path):
    Image.linear_gradient("L").resize((24, 16)).save(tmp_path / "wide.png")
    real = RealPictures(open_data(f"folder:{tmp_path}", hint="bicubic", reduction=2))
    filtered = Filtered(real, 1, "bicubic").pictures(torch.arange(1))
    assert filtered.shape == (1, 1, 16, 24)


@pytest.mark.parametrize(("side", "reduction"), [(8, 2), (10, 2), (12, 3)])
def test_pictures_smaller_than_ssims_window_are_refused(side: int, reduction: int):
    options = {"size": side, "hint": "bicubic", "reduction": reduction}
    real = RealPictures(open_data("emoji", label="none", **options))
    model = build("srgan", real.spec, channels=4, blocks=1)
    assert isinstance(model, GenerativeModel)
    subject = PaintedPictures(model, real, 2, seed=0, options={}, name="m", fingerprint="m")
    candidate, reference_data = Candidate("m", "m", model), Reference(real, None, real)
    setting = Setting(candidate, reference_data, subject, 0, torch.device("cpu"))
    message = "SSIM needs pictures of at least 11 pixels per side" if side < 11 else "no extractor"
    setting = replace(setting, no_extractor="no extractor")
    with pytest.raises(NotApplicable, match=message):
        Upscaling(setting).needs()


@pytest.mark.parametrize("hint", [{"hint": "bicubic", "reduction": 2}, {"hint": "edges"}, {}])
def test_data_with_other_hints_are_refused(reference, hint):
    real = RealPictures(open_data("emoji", size=32, label="none", **hint))
    model = build("srgan", reference.spec, channels=4, blocks=1)
    assert isinstance(model, GenerativeModel)
    with pytest.raises(LimnerError, match=r"give data.hint=bicubic data.reduction=4"):
        PaintedPictures(model, real, 2, seed=0, options={}, name="m", fingerprint="m")
