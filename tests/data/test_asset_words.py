"""The bundled word table: size, licence, and whether words of similar meaning are neighbours."""

import json
from importlib.resources import files

import pytest
import torch

from limner.contract.text import Tokenizer, text_spec, word_table

ASSETS = files("limner") / "data" / "assets"
SPEC = text_spec()


def vectors():
    table, scale = word_table(SPEC)
    return table.float() * scale[:, None]


def meaning(word):
    tokens = torch.tensor(Tokenizer(SPEC).read(word).tokens)
    return vectors()[tokens].mean(0)


def rank(word, other):
    """Return how many rows, including the word itself, are nearer to `word` than `other` is."""
    unit = torch.nn.functional.normalize(vectors(), dim=1)
    [token] = Tokenizer(SPEC).read(other).tokens
    similarity = unit @ torch.nn.functional.normalize(meaning(word), dim=0)
    return int((similarity > similarity[token]).sum())


def test_two_files_of_at_most_8_mb_with_the_recorded_hash():
    size = sum(len((ASSETS / f"words.{end}").read_bytes()) for end in ("safetensors", "json"))
    assert size <= 8_000_000
    notice = (ASSETS / "WORDS-NOTICE.md").read_text()
    assert SPEC.sha256 in notice.splitlines()
    for phrase in ("all-MiniLM-L6-v2", "Apache License", "TERMS AND CONDITIONS", "WordNet Release"):
        assert phrase in notice


def test_the_table_is_int8_with_a_scale_and_its_two_special_tokens_are_zero():
    table, scale = word_table(SPEC)
    assert table.dtype == torch.int8
    assert table.shape == (SPEC.vocabulary, 192)
    assert not table[:2].any()
    assert not scale[:2].any()
    assert (table[2:].abs().amax(1) == 127).all()
    vocabulary = json.loads((ASSETS / "words.json").read_text())["model"]["vocab"]
    assert list(vocabulary.values()) == list(range(SPEC.vocabulary))
    assert list(vocabulary)[:2] == ["[PAD]", "[UNK]"]


@pytest.mark.parametrize(
    ("word", "other", "at_most"),
    [
        ("puppy", "dog", 3),
        ("automobile", "car", 3),
        ("joyful", "happy", 5),
        ("kitten", "cat", 3),
        ("physician", "doctor", 5),
        ("hamburger", "burger", 3),
        ("grin", "smile", 5),
        ("snowman", "snow", 5),
        ("infant", "baby", 10),
        ("crimson", "red", 10),
        ("ladybug", "insect", 20),
        ("jellyfish", "fish", 30),
    ],
)
def test_words_of_similar_meaning_are_neighbours(word, other, at_most):
    assert rank(word, other) <= at_most


@pytest.mark.parametrize(("word", "other"), [("puppy", "rocket"), ("joyful", "stone")])
def test_words_of_different_meaning_are_not_neighbours(word, other):
    assert rank(word, other) > 500


def test_frequent_words_have_small_vectors():
    rms = {w: float(meaning(w).square().mean().sqrt()) for w in ("the", "of", "rocket", "3")}
    assert rms["the"] < rms["of"] < 0.1
    assert rms["rocket"] > 0.8
    assert rms["3"] == pytest.approx(1, abs=0.01)
