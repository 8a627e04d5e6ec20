"""DINOv2 and CLIP against transformers' preprocessing and models, tiny with random weights."""

import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec
from limner.evaluate.extractors.choose import open_extractor

SPEC = ImageSpec(3, 32, 32)
TOWER: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.3,
}


def tiny_dinov2(folder: Path) -> Any:
    config = transformers.Dinov2Config(**TOWER, image_size=28, patch_size=14)
    model = transformers.Dinov2Model(config)
    torch.nn.init.normal_(model.embeddings.position_embeddings)
    model.save_pretrained(folder)
    return model.eval()


def tiny_clip(folder: Path) -> Any:
    """Save a complete CLIP model, as published; only its image half is used."""
    shared = {"projection_dim": 12}
    text = {**TOWER, **shared, "vocab_size": 20, "max_position_embeddings": 8}
    vision = {**TOWER, **shared, "image_size": 30, "patch_size": 10}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, **shared)
    model = transformers.CLIPModel(config)
    model.save_pretrained(folder)
    return model.eval()


def seen_by(model: Any, pixels: Tensor) -> Tensor:
    """Return the features that papers use, computed with transformers."""
    with torch.inference_mode():
        if isinstance(model, transformers.CLIPModel):
            pooled = model.vision_model(pixel_values=pixels).pooler_output
            return model.visual_projection(pooled)
        return model(pixel_values=pixels).last_hidden_state[:, 0]  # the class token


KINDS = {
    "dinov2": (tiny_dinov2, 224, 16, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "clip": (tiny_clip, 30, 12, [0.4815, 0.4578, 0.4082], [0.2686, 0.2613, 0.2758]),
}
every_kind = pytest.mark.parametrize("name", KINDS)


@every_kind
@pytest.mark.parametrize("enlarged", [False, True])
def test_features_equal_those_of_transformers(name: str, enlarged: bool, tmp_path: Path):
    tiny, side, dim, mean, deviation = KINDS[name]
    model = tiny(tmp_path)
    extract = open_extractor(name, SPEC, weights=tmp_path)
    assert (extract.dim, extract.classes) == (dim, ())
    assert extract.name == f"{name} ({tmp_path.name})"
    size = side // 2 if enlarged else side
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    processor = transformers.CLIPImageProcessor(
        size={"height": side, "width": side},
        do_center_crop=False,
        image_mean=mean,
        image_std=deviation,
        resample=3,  # bicubic
    )
    pixels = processor(list(images), return_tensors="pt")["pixel_values"]
    features, logits = extract(images)
    assert logits is None
    # transformers rounds to whole levels once more after resizing
    tolerance = 2e-2 if enlarged else 1e-3
    torch.testing.assert_close(features, seen_by(model, pixels), rtol=tolerance, atol=tolerance)


@every_kind
def test_half_precision_changes_the_fingerprint_and_grey_equals_rgb(name: str, tmp_path: Path):
    KINDS[name][0](tmp_path)
    exact = open_extractor(name, SPEC, weights=str(tmp_path))
    half = open_extractor(name, SPEC, weights=tmp_path, dtype="bfloat16")
    assert half.name == f"{name} ({tmp_path.name}) (bfloat16)"
    assert half.fingerprint != exact.fingerprint
    grey = torch.randint(0, 256, (2, 1, 20, 20), dtype=torch.uint8)
    features = exact(grey).features
    torch.testing.assert_close(features, exact(grey.expand(-1, 3, -1, -1)).features)
    close = half(grey).features
    assert close.dtype == torch.float32
    assert 0 < (close - features).norm() / features.norm() < 0.05


@every_kind
def test_opening_reports_nothing_and_keeps_the_verbosity(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    KINDS[name][0](tmp_path)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)  # to caplog
    caplog.set_level(logging.WARNING, "transformers")
    caplog.clear()
    open_extractor(name, SPEC, weights=tmp_path)
    assert not caplog.records
    assert transformers.logging.get_verbosity() == logging.WARNING


def refused(message: str, name: str, weights: Path | str) -> None:
    with pytest.raises(LimnerError, match=message) as error:
        open_extractor(name, SPEC, weights=weights)
    assert "\n" not in str(error.value)


def test_other_models_and_incomplete_ones_are_refused(tmp_path: Path):
    tiny_dinov2(tmp_path / "dinov2")
    refused(r"no weights of clip in .*\(its type is dinov2\)", "clip", tmp_path / "dinov2")
    refused("no weights of dinov2 in .*absent", "dinov2", tmp_path / "absent")
    from safetensors.torch import load_file, save_file

    file = tmp_path / "dinov2" / "model.safetensors"
    tensors = load_file(file)
    del tensors["layernorm.weight"]
    save_file(tensors, file, {"format": "pt"})
    refused("it lacks the tensor 'layernorm.weight'", "dinov2", tmp_path / "dinov2")


def test_weights_that_could_contain_code_are_refused(tmp_path: Path):
    model = tiny_dinov2(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    refused("there are no weights of dinov2", "dinov2", tmp_path)


def test_without_transformers_the_error_states_what_to_type(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    refused(r"dinov2 needs transformers; type: pip install .*\[transformers\]'", "dinov2", "x")
