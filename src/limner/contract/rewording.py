"""What stays and what changes between two prompts, token by token."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Annotated

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from limner.contract.options import Share


@dataclass(frozen=True)
class Alignment:
    """Which tokens of one prompt correspond to which tokens of another.

    Args:
        source: column j has the shares of the first prompt's tokens in token j of the second
            prompt: 1 for an equal token, an even share for each of the tokens that it replaces; 0
            if it is new.
        removed: places of the first prompt's tokens that are removed.
        new: places of the second prompt's tokens that are new or replace others.
    """

    source: Float[Tensor, "l m"]
    removed: tuple[int, ...]
    new: tuple[int, ...]


def align_tokens(before: Sequence[int], after: Sequence[int], length: int) -> Alignment:
    """Return the alignment of two rows of tokens, without padding.

    Equal tokens in the same order correspond to each other. Between two equal tokens, all tokens of
    the second row replace all of the first, if both rows have some; otherwise they are new or
    removed.

    Args:
        before, after: the tokens.
        length: the number of places of both rows, with their padding.
    """
    source = torch.zeros(length, length)
    removed: list[int] = []
    new: list[int] = []
    matcher = SequenceMatcher(None, list(before), list(after), autojunk=False)
    for kind, a, b, i, j in matcher.get_opcodes():
        if kind == "equal":
            source[range(a, b), range(i, j)] = 1
            continue
        removed += range(a, b)
        new += range(i, j)
        if kind == "replace":
            source[a:b, i:j] = 1 / (b - a)
    return Alignment(source, tuple(removed), tuple(new))


def align_prompts(text: Int[Tensor, "2 l"]) -> Alignment:
    """Return the alignment of two prompts; their padding is 0."""
    before, after = ([int(token) for token in row if token] for row in text)
    return align_tokens(before, after, text.shape[1])


@dataclass(frozen=True)
class Rewording:
    """A change of a prompt, and how closely the picture follows it.

    Args:
        alignment: the alignment of the two prompts.
        gains: the factors of the attention to each token of the second prompt.
        cross_steps: the share of the sampling steps, from the first, in which the attention to
            words is that of the first picture.
        self_steps: the share of the sampling steps, from the first, in which the attention between
            places is that of the first picture.
        local: the picture changes only where the attention to the words that change is above this
            share of its maximum; 0 lets it change everywhere.
    """

    alignment: Alignment
    gains: Float[Tensor, "m"]
    cross_steps: Share = 0.2
    self_steps: Share = 0.1
    local: Annotated[float, Field(ge=0, lt=1)] = 0.3
