"""The bundled model that suits prompts, where a request names no model."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

from limner.commands.request import SamplingRequest, load_painter, option_names
from limner.contract.bundled import COMPOSER, DEFAULT, QUICK_COMPOSER, find_model
from limner.contract.emoji_names import emoji_captions, spell_emoji
from limner.contract.emphasis import read_emphasis
from limner.contract.model import GenerativeModel
from limner.contract.text import Tokenizer
from limner.contract.wildcards import choose_words, word_lists
from limner.nn.text import unseen_words
from limner.runtime.progress import say

FEW_CANDIDATES = {"candidates": 3, "repaints": 0}
"""Options of the composing model: nearly as exact as its defaults, in half of their time."""
_CHOSEN_SEEDS = 16  # seeds for which the words of each prompt of a set are chosen


class Suggestion(NamedTuple):
    """Another bundled model that suits a request better.

    Args:
        reason: why it is better.
        model: its name.
        sampler: options to paint with.
    """

    reason: str
    model: str
    sampler: dict[str, Any]

    def __str__(self) -> str:
        options = "".join(f" sampler.{name}={value}" for name, value in self.sampler.items())
        return f"{self.reason} (-m {self.model}{options})"


def better_model(request: SamplingRequest) -> Suggestion | None:
    """Return the composing model, if a request for the default model has prompts that it suits
    better: they have more words than the name of one emoji, and it knows all of them.
    """
    if request.model not in (None, DEFAULT) or request.controls:
        return None
    if not any(map(_is_known, _composed_prompts(request.prompts))):
        return None
    reason = (
        f"{DEFAULT} paints one thing at a time; {COMPOSER} knows these words, and composes "
        "several things, colours and places"
    )
    return Suggestion(reason, COMPOSER, dict(FEW_CANDIDATES))


def with_suited_model(request: SamplingRequest, prompts: Sequence[str]) -> SamplingRequest:
    """Return the request; if it names no model, and the composing model suits the prompts, with
    that model and few candidates, or with its base for another size; the model is then reported.

    Args:
        request: the request.
        prompts: its prompts, or all that it is going to be used with.
    """
    if request.model or request.labels or request.controls or request.hints:
        return request
    if not _composed_prompts(prompts) or not all(map(_is_known, prompts)):
        return request
    name, sampler = COMPOSER, FEW_CANDIDATES | request.sampler
    faster = f"faster: -m {QUICK_COMPOSER}; "
    if request.size:
        name, sampler, faster = QUICK_COMPOSER, request.sampler, ""
    if unknown := sampler.keys() - option_names(find_model(name)):
        say(f"{DEFAULT} paints this, because of sampler.{min(unknown)}")
        return request
    say(f"{name} paints this, as it knows all these words ({faster}single things: -m {DEFAULT})")
    return replace(request, model=name, sampler=sampler)


def example_prompts(texts: Sequence[str], seed: int) -> list[str]:
    """Return prompts of a set as they are painted, whatever the number of its pictures.

    Args:
        texts: prompts as they are typed; a seed chooses among their words.
        seed: the first seed.
    """
    lists = word_lists()

    def choices() -> Iterator[str]:
        for text in texts:
            for i in range(_CHOSEN_SEEDS):
                yield spell_emoji(choose_words(text, seed + i, lists))

    return list(dict.fromkeys(choices()))


def _composed_prompts(prompts: Sequence[str]) -> list[str]:
    """Return the prompts that have more words than the name of one emoji."""
    names = [_words(name) for name in emoji_captions()]
    texts = [read_emphasis(prompt).text for prompt in prompts]
    return [text for text in texts if not any(_words(text) <= name for name in names)]


def _is_known(prompt: str) -> bool:
    """Whether the composing model knows all words of a prompt."""
    composer, text = _composer(), read_emphasis(prompt).text
    spec = composer.spec.text
    assert spec is not None
    reading = Tokenizer(spec).read(text)
    is_read = bool(reading.tokens) and not reading.unknown
    return is_read and not unseen_words(composer, spec, text)


@cache
def _composer() -> GenerativeModel:
    """Load the composing model once, not for each of a studio's jobs."""
    return load_painter(find_model(COMPOSER), "cpu")


def _words(text: str) -> set[str]:
    """Return the words of a text in lower case, without articles."""
    return set(re.findall(r"\w+", text.lower())) - {"a", "an", "the"}
