"""Captions and prompts as tokens, and the meaning of tokens: the bundled word table.

A token is a row of a table of 38,059 English words and pieces of words, distilled once from a
sentence model (`tools/build_words.py`). Words with similar meanings are close to each other, so
that a prompt may use words that no caption had. Row 0 is padding. A checkpoint does not store the
table but its SHA-256, in its `TextSpec`.
"""

import hashlib
import json
import reprlib
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int, Int8
from safetensors.torch import load
from torch import Tensor

from limner.contract.emoji_names import spell_emoji
from limner.contract.emphasis import WeightedText, read_emphasis
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, ImageSpec, TextSpec

WORD_TABLE = "words"
DEFAULT_LENGTH = 16
"""Default number of tokens of a caption. An emoji's name has up to 13, with all tags 49."""
_UNKNOWN_TOKEN = 1  # the token of other scripts, emoji, and words of over 100 letters
_MAX_SHOWN_CHARACTERS = 40  # characters of a prompt in a message
CHARACTERS = "characters"
_FIRST_TOKEN = 2  # the token of character 0; 0 is padding, 1 unknown
_LAST_CODE_POINT = 0x10FFFF  # the last code point of Unicode


class _Asset(NamedTuple):
    table: Int8[Tensor, "words d"]
    scale: Float[Tensor, "words"]
    tokenizer: str
    sha256: str


@cache
def _asset() -> _Asset:
    """Load the bundled table and tokeniser, once."""
    folder = files("limner") / "data" / "assets"
    try:
        table, words = (
            (folder / f"{WORD_TABLE}.{end}").read_bytes() for end in ("safetensors", "json")
        )
    except OSError:
        raise LimnerError(
            f"the bundled word table is missing (limner/data/assets/{WORD_TABLE}.safetensors, "
            ".json); reinstall limner, or build it with python tools/build_words.py"
        ) from None
    tensors = load(table)
    sha256 = hashlib.sha256(table + words).hexdigest()
    return _Asset(tensors["table"], tensors["scale"].float(), words.decode(), sha256)


def text_spec(length: int = DEFAULT_LENGTH) -> TextSpec:
    """Return the specification of text with the bundled table, in at most `length` tokens."""
    asset = _asset()
    return TextSpec(length, len(asset.table), WORD_TABLE, asset.sha256)


def character_spec(length: int = 1000) -> TextSpec:
    """Return the specification of text with a token for each character, for models with their own
    tokenizer."""
    return TextSpec(length, _FIRST_TOKEN + _LAST_CODE_POINT + 1, CHARACTERS, "")


def word_table(spec: TextSpec) -> tuple[Int8[Tensor, "words d"], Float[Tensor, "words"]]:
    """Return the rows of the table and the scale of each row: a word is table x scale.

    Its mean square is 1, or less if the word is so frequent that it says little.

    Raises:
        LimnerError: the specification is of another table, in which tokens mean other words.
    """
    asset = _asset()
    if (spec.asset, spec.vocabulary, spec.sha256) != (WORD_TABLE, len(asset.table), asset.sha256):
        raise LimnerError(
            f"this model reads text with the word table '{spec.asset}' {spec.sha256[:12]}, and "
            f"this limner has '{WORD_TABLE}' {asset.sha256[:12]}; use the limner that made the "
            "model"
        )
    return asset.table, asset.scale


def word_pieces() -> dict[str, int]:
    """Return the token of each word and each piece of a word; a piece that continues a word starts
    with ##."""
    return json.loads(_asset().tokenizer)["model"]["vocab"]


class _Encoding(Protocol):
    """A text that was read, as the `Encoding` of tokenizers: its tokens, their places,
    their words."""

    @property
    def ids(self) -> list[int]: ...
    @property
    def offsets(self) -> list[tuple[int, int]]: ...
    @property
    def word_ids(self) -> list[int]: ...


class _Reads(Protocol):
    """An object that turns text into tokens and back, as the `Tokenizer` of tokenizers."""

    def encode(self, text: str, *, add_special_tokens: bool) -> _Encoding: ...
    def id_to_token(self, token: int) -> str: ...


@cache
def _tokenizer(json_text: str) -> Any:
    import tokenizers  # imported only if there is text to read

    return tokenizers.Tokenizer.from_str(json_text)


class _Characters:
    """A tokenizer that reads a text character by character."""

    class Encoding(NamedTuple):
        """A text that was read, with the same attributes as the `Encoding` of tokenizers."""

        ids: list[int]
        offsets: list[tuple[int, int]]
        word_ids: list[int]

    def encode(self, text: str, *, add_special_tokens: bool = False) -> Encoding:
        """Return a token for each character; words are separated by spaces."""
        spans = [(i, i + 1) for i in range(len(text))]
        words = list(accumulate(int(letter == " ") for letter in text))
        return self.Encoding([_FIRST_TOKEN + ord(letter) for letter in text], spans, words)

    def id_to_token(self, token: int) -> str:
        """Return the character of a token."""
        return chr(token - _FIRST_TOKEN)


class Reading(NamedTuple):
    """The tokens of a text, and what was left out of it.

    Args:
        tokens: the tokens, without padding.
        unknown: the words that have no token.
        rest: the part of the text beyond the length.
        starts: where in the text each token starts.
    """

    tokens: list[int]
    unknown: list[str]
    rest: str
    starts: list[int]

    def remarks(self) -> list[str]:
        """Return a line for each kind of text that was left out."""
        lines: list[str] = []
        if self.unknown:
            words = ", ".join(f"'{_short(word)}'" for word in list(dict.fromkeys(self.unknown))[:5])
            suffix = "" if self.tokens else ", and no other words remain"
            lines.append(f"the prompt has unknown words, which are left out: {words}{suffix}")
        if self.rest:
            lines.append(
                f"the prompt is cut after {len(self.tokens)} word pieces, at '{_short(self.rest)}'"
            )
        return lines


def _short(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= _MAX_SHOWN_CHARACTERS else plain[:_MAX_SHOWN_CHARACTERS] + "..."


def _replace_surrogates(text: str) -> str:
    """Return a text with "?" in place of the halves of surrogate pairs."""
    return text.encode("utf-8", "replace").decode()


class Tokenizer:
    """Texts as rows of tokens: in lower case, cut into the longest known pieces, padded with 0.

    For models with their own tokenizer, texts are read character by character.

    Args:
        spec: the specification of text, of the data or the model.

    Raises:
        LimnerError: the specification is of another word table.
    """

    def __init__(self, spec: TextSpec) -> None:
        self.length = spec.length
        if spec.asset == CHARACTERS:
            self._tokenizer: _Reads = _Characters()
        else:
            word_table(spec)
            self._tokenizer = _tokenizer(_asset().tokenizer)

    def read(self, text: str) -> Reading:
        """Read any text; the result also has what was left out of it."""
        text = _replace_surrogates(text)
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        pieces = list(zip(encoding.ids, encoding.offsets))
        unknown = [text[a:b] for token, (a, b) in pieces if token == _UNKNOWN_TOKEN]
        known = [(token, a) for token, (a, _) in pieces if token != _UNKNOWN_TOKEN]
        rest = text[known[self.length][1] :] if len(known) > self.length else ""
        kept = known[: self.length]
        return Reading([token for token, _ in kept], unknown, rest, [start for _, start in kept])

    def places(self, text: str) -> list[tuple[str, list[int]]]:
        """Return the words of a text that have tokens, as they are written, and the places of their
        tokens."""
        text = _replace_surrogates(text)
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        pieces = zip(encoding.ids, encoding.word_ids, encoding.offsets)
        known = [piece for piece in pieces if piece[0] != _UNKNOWN_TOKEN][: self.length]
        spans: dict[int, tuple[int, int, list[int]]] = {}
        for place, (_, word, (start, end)) in enumerate(known):
            first, _, places = spans.get(word, (start, end, []))
            spans[word] = first, end, [*places, place]
        return [(text[start:end], places) for start, end, places in spans.values()]

    def encode(self, texts: Sequence[str]) -> Int[Tensor, "b l"]:
        """Return a row for each text; a text without known words is all padding: no condition."""
        return self.rows([self.read(text) for text in texts])

    def rows(self, readings: Sequence[Reading]) -> Int[Tensor, "b l"]:
        """Return the tokens of texts that were read, padded to the length."""
        rows = torch.zeros(len(readings), self.length, dtype=torch.int64)
        for row, reading in zip(rows, readings):
            row[: len(reading.tokens)] = torch.tensor(reading.tokens, dtype=torch.int64)
        return rows

    def words(self, row: Int[Tensor, "l"]) -> list[str]:
        """Return the pieces of a row of tokens, without its padding: the inverse of `encode`."""
        return [self._tokenizer.id_to_token(int(token)) for token in row if token]


def _warn(line: str) -> None:
    warnings.warn(line, stacklevel=3)


def text_condition(
    spec: ImageSpec, prompts: str | Sequence[str], report: Callable[[str], None] = _warn
) -> Condition:
    """Return prompts as a condition, a row each, padded to the longest.

    Args:
        spec: the specification of the model.
        prompts: prompts of any length and in any script; an empty one means no condition. Brackets
            set the weights of words, see `limner.contract.emphasis`; emoji are read as their names.
        report: called with a line for unknown words, and for text beyond the length.

    Raises:
        LimnerError: the model was trained without text, or with another word table, or there is
            no prompt.
    """
    if not isinstance(spec, ImageSpec):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise LimnerError(f"{type(spec).__name__} is not a specification; give model.spec")
    if spec.text is None:
        raise LimnerError("this model was trained without text; leave the prompt out")
    tokenizer = Tokenizer(spec.text)
    texts = [prompts] if isinstance(prompts, str) else prompts
    is_valid = isinstance(texts, Sequence) and all(  # pyright: ignore[reportUnnecessaryIsInstance]
        isinstance(item, str)  # pyright: ignore[reportUnnecessaryIsInstance]
        for item in texts
    )
    if not is_valid or not texts:
        raise LimnerError(
            f"prompts={reprlib.repr(prompts)} is not text; give one, as 'a red apple', or a list"
        )
    emphasised = [_weighted_text(spec.text, spell_emoji(prompt), report) for prompt in texts]
    readings = [tokenizer.read(item.text) for item in emphasised]
    for reading in readings:
        for line in reading.remarks():
            report(line)
    longest = max((len(reading.tokens) for reading in readings), default=0)
    text = tokenizer.rows(readings)[:, : max(longest, 1)]
    if all(item.is_even for item in emphasised):
        return Condition(text=text)
    weight = torch.ones(text.shape)
    for row, item, reading in zip(weight, emphasised, readings):
        row[: len(reading.starts)] = torch.tensor([item.weights[i] for i in reading.starts])
    return Condition(text=text, weight=weight)


def plain_text(spec: TextSpec, prompt: str) -> str:
    """Return the text that a model reads of a prompt: with the names of emoji, and without the
    brackets that set weights, which are kept for models with their own tokenizer."""
    return _weighted_text(spec, spell_emoji(prompt), lambda line: None).text


def _weighted_text(spec: TextSpec, prompt: str, report: Callable[[str], None]) -> WeightedText:
    """Read the emphasis in a prompt; for a model with its own tokenizer, brackets are kept
    unchanged."""
    emphasis = read_emphasis(_replace_surrogates(prompt))
    if spec.asset != CHARACTERS:
        return emphasis
    if not emphasis.is_even:
        report("this model has its own tokenizer, which reads brackets as ordinary text")
    return WeightedText(_replace_surrogates(prompt), [1.0] * len(prompt))
