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
    """Which tokens of a prompt are which of another.

    Args:
        source: column j says of which tokens of the first prompt token j of the second one has its
            place: 1 for its equal, an even share of those that it stands for; 0 if it is new.
        left: places of the first prompt's tokens that are gone.
        new: places of the second prompt's tokens that are new or stand for others.
    """

    source: Float[Tensor, "l m"]
    left: tuple[int, ...]
    new: tuple[int, ...]


def aligned(before: Sequence[int], after: Sequence[int], length: int) -> Alignment:
    """The alignment of two rows of tokens, padding left out.

    Equal tokens in the same order go together; those in between, if both rows have some, stand for
    each other, all for all; else they are new, or gone.

    Args:
        before, after: the tokens.
        length: how many places both rows have with their padding.
    """
    source = torch.zeros(length, length)
    left: list[int] = []
    new: list[int] = []
    matcher = SequenceMatcher(None, list(before), list(after), autojunk=False)
    for kind, a, b, i, j in matcher.get_opcodes():
        if kind == "equal":
            source[range(a, b), range(i, j)] = 1
            continue
        left += range(a, b)
        new += range(i, j)
        if kind == "replace":
            source[a:b, i:j] = 1 / (b - a)
    return Alignment(source, tuple(left), tuple(new))


def aligned_prompts(text: Int[Tensor, "2 l"]) -> Alignment:
    """The alignment of two prompts, whose padding is 0."""
    before, after = ([int(token) for token in row if token] for row in text)
    return aligned(before, after, text.shape[1])


@dataclass(frozen=True)
class Rewording:
    """How a picture follows a change of its prompt.

    Args:
        alignment: of the two prompts.
        gains: what the attention to each token of the second prompt is multiplied by.
        cross: until which share of the walk places look at words as in the first picture.
        own: until which share of the walk places look at each other as in the first picture.
        local: the picture changes only where the attention to the words that change is above this
            share of its maximum; 0 lets it change everywhere.
    """

    alignment: Alignment
    gains: Float[Tensor, "m"]
    cross: Share = 0.2
    own: Share = 0.1
    local: Annotated[float, Field(ge=0, lt=1)] = 0.3
