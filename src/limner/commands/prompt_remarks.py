"""Remarks on the prompts of a request, before they are painted."""

from collections.abc import Iterator

from limner.commands.request import SamplingRequest
from limner.contract.editing import Follows
from limner.contract.emphasis import read_emphasis
from limner.contract.model import GenerativeModel
from limner.nn.text import unseen_words


def prompt_remarks(model: GenerativeModel, request: SamplingRequest) -> Iterator[str]:
    """Yield a line for words that were in no training caption."""
    if model.spec.text is None or isinstance(model, Follows):  # it has the words of its base
        return
    prompts = [read_emphasis(prompt).text for prompt in request.prompts]
    unseen = [word for prompt in prompts for word in unseen_words(model, model.spec.text, prompt)]
    if unseen:
        words = ", ".join(f"'{word}'" for word in list(dict.fromkeys(unseen))[:5])
        yield f"no training caption had {words}; expect what the nearest known words mean"
