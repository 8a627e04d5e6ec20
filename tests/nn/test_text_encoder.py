"""The text encoder: its record of words in training captions."""

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
from limner.contract.image import Condition, ImageSpec
from limner.contract.model import Learner
from limner.contract.registry import build
from limner.contract.text import Tokenizer, text_spec
from limner.nn.condition import Conditioner
from limner.nn.text import TextEncoder, unseen_words

SPEC = ImageSpec(3, 8, 8, text=text_spec(8))
assert SPEC.text is not None
TEXT = SPEC.text


@pytest.fixture
def model() -> Learner:
    return build("flow-matching", SPEC, channels=(8,))


def _read(model: Learner, *captions: str) -> None:
    """Pass captions to the model's text encoder in training."""
    encoder = next(module for module in model.modules() if isinstance(module, TextEncoder))
    encoder(Tokenizer(TEXT).encode(captions))


def test_only_words_of_training_captions_are_recorded(model: Learner) -> None:
    model.train()
    _read(model, "a red dog", "two cats")
    assert unseen_words(model, TEXT, "A red dog and two giraffes") == ["and", "giraffes"]
    assert unseen_words(model, TEXT, "") == []


def test_a_word_in_pieces_is_known_if_all_its_pieces_are(model: Learner) -> None:
    word = "xqzw"
    pieces = Tokenizer(TEXT).encode([word])
    assert (pieces != 0).sum() > 1
    encoder = next(module for module in model.modules() if isinstance(module, TextEncoder))
    encoder.train()(pieces[:, :1])
    assert unseen_words(model, TEXT, word) == [word]
    encoder(pieces)
    assert unseen_words(model, TEXT, word) == []


def test_a_word_is_known_if_one_of_several_encoders_read_it(model: Learner) -> None:
    other = build("flow-matching", SPEC, channels=(8,))
    _read(model.train(), "a red dog")
    _read(other.train(), "two cats")
    both = torch.nn.ModuleList([model, other])
    assert unseen_words(both, TEXT, "two red dogs and cats") == ["dogs", "and"]


def test_words_of_prompts_are_not_recorded(model: Learner) -> None:
    model.train()
    _read(model, "a cat")
    model.eval()
    _read(model, "a red dog")
    assert unseen_words(model, TEXT, "a red dog") == ["red", "dog"]


def test_an_untrained_model_reports_no_unknown_words(model: Learner) -> None:
    assert unseen_words(model, TEXT, "a red dog") == []


def test_recorded_words_are_saved(model: Learner, tmp_path: Path) -> None:
    model.train()
    _read(model, "a red dog")
    save_model(model, tmp_path, dtype=torch.int8)
    assert unseen_words(load(tmp_path), TEXT, "a blue dog") == ["blue"]


def test_an_older_file_without_a_record_is_loaded(model: Learner, tmp_path: Path) -> None:
    save_model(model, tmp_path)
    file = tmp_path / "model.safetensors"
    header, weights = read_header(file), load_tensors(file)
    older = {name: weight for name, weight in weights.items() if not name.endswith(".seen")}
    assert len(older) < len(weights)
    save_tensors(older, file, {"limner": header.to_json()})
    assert unseen_words(load(file), TEXT, "a blue dog") == []


def test_a_model_without_text_has_no_unknown_words() -> None:
    plain = build("flow-matching", ImageSpec(3, 8, 8), channels=(8,))
    assert unseen_words(plain, TEXT, "a dog") == []


def test_the_mask_of_weighted_words_is_the_logarithm_of_their_weights() -> None:
    conditioner = Conditioner(ImageSpec(1, 4, 4, text=text_spec(4)), 8)
    text, weight = torch.tensor([[5, 7, 9, 0]]), torch.tensor([[1.0, 2.0, 0.0, 1.0]])
    signal = conditioner(Condition(text=text, weight=weight), 1)
    assert signal.mask is not None
    torch.testing.assert_close(signal.mask.exp(), torch.tensor([[1.0, 2.0, 0.0, 0.0]]))


def test_the_order_of_words_changes_tokens_before_training() -> None:
    """Earlier words change a token by a large part of its norm, so that layers can learn order."""
    encoder = TextEncoder(TEXT, dim=32, pooled=16)
    text = Tokenizer(TEXT).encode(["red green dog", "green red dog"])
    (red, green, _), (_, other, _) = encoder(text).tokens[:, :3].detach()
    change = (red - other).norm() / red.norm()
    assert float(change) > 0.2
    assert float((red - green).norm()) > 0
