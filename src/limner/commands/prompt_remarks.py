"""Remarks on the prompts of a request, before they are painted."""

import re
from collections.abc import Iterator
from functools import cache

from limner.commands.request import Request
from limner.contract.bundled import COMPOSER, DEFAULT, find_model
from limner.contract.checkpoint import load
from limner.contract.editing import Follows
from limner.contract.emoji_names import emoji_captions
from limner.contract.emphasis import read_emphasis
from limner.contract.model import GenerativeModel, Learner
from limner.contract.text import Tokenizer
from limner.nn.text import unseen_words


def prompt_remarks(model: GenerativeModel, request: Request) -> Iterator[str]:
    """Yield a line for words that were in no training caption, and one if another bundled model
    suits the prompts better."""
    if model.spec.text is None or isinstance(model, Follows):  # it has the words of its base
        return
    prompts = [read_emphasis(prompt).text for prompt in request.prompts]
    unseen = [word for prompt in prompts for word in unseen_words(model, model.spec.text, prompt)]
    if unseen:
        words = ", ".join(f"'{word}'" for word in list(dict.fromkeys(unseen))[:5])
        yield f"no training caption had {words}; expect what the nearest known words mean"
    if request.model in (None, DEFAULT) and _is_for_composer(prompts):
        yield (
            f"{DEFAULT} paints one thing at a time; {COMPOSER} knows these words, and composes "
            f"several things, colours and places (-m {COMPOSER})"
        )


def _is_for_composer(prompts: list[str]) -> bool:
    """Whether some of the prompts have more words than the name of one emoji, and the composing
    model knows all of them."""
    names = [_words(name) for name in emoji_captions()]
    composed = [prompt for prompt in prompts if not any(_words(prompt) <= name for name in names)]
    if not composed:
        return False
    composer = _composer()
    spec = composer.spec.text
    assert spec is not None
    readings = [Tokenizer(spec).read(prompt) for prompt in composed]
    return any(
        reading.tokens and not reading.unknown and not unseen_words(composer, spec, prompt)
        for prompt, reading in zip(composed, readings)
    )


@cache
def _composer() -> Learner:
    """Load the composing model once, not for each of a studio's jobs."""
    return load(find_model(COMPOSER))


def _words(text: str) -> set[str]:
    """Return the words of a text in lower case, without articles."""
    return set(re.findall(r"\w+", text.lower())) - {"a", "an", "the"}
