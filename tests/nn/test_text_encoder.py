"""The text encoder: what it remembers of the captions that it was trained on."""

from pathlib import Path

import pytest
import torch

from limner.contract.checkpoint import (
    load,
    load_tensors,
    read_header,
    save_model,
    save_tensors,
)
from limner.contract.image import ImageSpec
from limner.contract.model import Learner
from limner.contract.registry import build
from limner.contract.text import Tokenizer, text_spec
from limner.nn.text import TextEncoder, unseen_words

SPEC = ImageSpec(3, 8, 8, text=text_spec(8))
assert SPEC.text is not None
TEXT = SPEC.text


@pytest.fixture
def model() -> Learner:
    return build("flow-matching", SPEC, channels=(8,))


def _read(model: Learner, *captions: str) -> None:
    """Show captions to the model's text encoder."""
    encoder = next(each for each in model.modules() if isinstance(each, TextEncoder))
    encoder(Tokenizer(TEXT).encode(captions))


def test_words_of_training_captions_are_seen_and_no_others(model: Learner) -> None:
    model.train()
    _read(model, "a red dog", "two cats")
    assert unseen_words(model, TEXT, "A red dog and two giraffes") == ["and", "giraffes"]
    assert unseen_words(model, TEXT, "") == []


def test_prompts_are_not_remembered(model: Learner) -> None:
    model.train()
    _read(model, "a cat")
    model.eval()
    _read(model, "a red dog")
    assert unseen_words(model, TEXT, "a red dog") == ["red", "dog"]


def test_a_model_that_was_never_trained_does_not_say(model: Learner) -> None:
    assert unseen_words(model, TEXT, "a red dog") == []


def test_what_was_seen_is_saved(model: Learner, tmp_path: Path) -> None:
    model.train()
    _read(model, "a red dog")
    save_model(model, tmp_path, dtype=torch.int8)
    assert unseen_words(load(tmp_path), TEXT, "a blue dog") == ["blue"]


def test_an_older_file_does_not_say_what_was_seen(model: Learner, tmp_path: Path) -> None:
    save_model(model, tmp_path)
    file = tmp_path / "model.safetensors"
    header, weights = read_header(file), load_tensors(file)
    older = {name: weight for name, weight in weights.items() if not name.endswith(".seen")}
    assert len(older) < len(weights)
    save_tensors(older, file, {"limner": header.to_json()})
    assert unseen_words(load(file), TEXT, "a blue dog") == []


def test_a_model_without_text_has_seen_nothing_and_misses_nothing() -> None:
    plain = build("flow-matching", ImageSpec(3, 8, 8), channels=(8,))
    assert unseen_words(plain, TEXT, "a dog") == []


def test_the_order_of_words_reaches_the_tokens_before_any_training() -> None:
    """What comes first moves a token by a good part of its length, so that layers can learn it."""
    encoder = TextEncoder(TEXT, dim=32, pooled=16)
    said = Tokenizer(TEXT).encode(["red green dog", "green red dog"])
    (red, green, _), (_, other, _) = encoder(said).tokens[:, :3].detach()
    moved = (red - other).norm() / red.norm()
    assert float(moved) > 0.2
    assert float((red - green).norm()) > 0
