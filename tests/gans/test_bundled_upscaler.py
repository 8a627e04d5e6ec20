"""The bundled upscaler: its model card, and its accuracy on unseen emoji."""

import torch

from limner.contract.bundled import bundled_models
from limner.contract.checkpoint import MODEL_FILE, load, read_header, sha256
from limner.contract.image import from_uint8, to_uint8
from limner.contract.upscaling import Upscales, resize
from limner.data import open_data
from limner.evaluate.metrics.pairs import psnr


def test_the_card_matches_the_file():
    file = bundled_models()["upscaler"] / MODEL_FILE
    card = (file.parent / "README.md").read_text(encoding="utf-8")
    assert sha256(file) in card and f"{file.stat().st_size:,} bytes" in card
    recipe = read_header(file).recipe["train"]
    assert f"{recipe['steps']:,} steps of {recipe['batch']} pictures" in card
    assert file.stat().st_size < 4_000_000


def test_unseen_emoji_are_enlarged_better_than_with_the_bicubic_filter():
    model = load(bundled_models()["upscaler"])
    assert isinstance(model, Upscales) and model.factor == 4
    data = open_data("emoji", split="held-out-concept", style="3d", size=128, label="none")
    true = data.pixels(torch.arange(12))
    small = from_uint8(to_uint8(resize(from_uint8(true), 32, 32)))
    larger, plain = model.upscale(small, 4), resize(small, 128, 128)
    gain = psnr(to_uint8(larger), true) - psnr(to_uint8(plain), true)
    assert gain.mean() > 1.0
