r"""How much the words of a prompt count, as people type it.

    (red)        1.1 times as much; brackets within brackets multiply
    (red:1.4)    1.4 times as much; any number from 0, as if the word were not there, to 10
    [red]        1 / 1.1 times as much
    \( \) \[ \]  the signs themselves

A bracket without its partner is an ordinary sign.
"""

import math
import re
from typing import NamedTuple

from limner.contract.errors import LimnerError

STEP = 1.1
"""What a pair of brackets without a number multiplies or divides by."""
MOST = 10.0
_CLOSING = {"(": ")", "[": "]"}
_NUMBER = re.compile(r":\s*([-+]?(?:\d+\.?\d*|\.\d+))\s*$")


class Emphasised(NamedTuple):
    """A prompt that was read.

    Args:
        text: without its brackets and numbers.
        weights: how much each of its letters counts.
    """

    text: str
    weights: list[float]

    @property
    def even(self) -> bool:
        """Whether everything counts as usual."""
        return all(weight == 1 for weight in self.weights)


def read_emphasis(prompt: str) -> Emphasised:
    """A prompt as plain words, and how much each letter counts.

    >>> read_emphasis("a (red:1.5) box").text
    'a red box'
    >>> read_emphasis(r"a [b] \\(c\\)").weights[2], read_emphasis(r"\\(c\\)").text
    (0.9090909090909091, '(c)')

    Raises:
        LimnerError: a weight below 0 or above 10.
    """
    letters, weights = _within(prompt, 1.0)
    return Emphasised("".join(letters), weights)


def _within(text: str, weight: float) -> tuple[list[str], list[float]]:
    """The letters of a part of a prompt, and their weights."""
    letters: list[str] = []
    weights: list[float] = []
    i = 0
    while i < len(text):
        sign = text[i]
        end = _partner(text, i) if sign in _CLOSING else None
        if end is not None:
            inner, factor = _factor(text[i + 1 : end], sign)
            more, their = _within(inner, weight * factor)
            letters += more
            weights += their
            i = end + 1
            continue
        if sign == "\\" and text[i + 1 : i + 2] in ("(", ")", "[", "]", "\\"):
            i += 1
            sign = text[i]
        letters.append(sign)
        weights.append(weight)
        i += 1
    return letters, weights


def _partner(text: str, start: int) -> int | None:
    """Where the bracket that opens at `start` closes; None where it never does."""
    waiting: list[str] = []
    i = start
    while i < len(text):
        sign = text[i]
        if sign == "\\":
            i += 1
        elif sign in _CLOSING:
            waiting.append(_CLOSING[sign])
        elif waiting and sign == waiting[-1]:
            waiting.pop()
            if not waiting:
                return i
        i += 1
    return None


def _factor(inner: str, sign: str) -> tuple[str, float]:
    """What stands in a pair of brackets without its number, and what it is multiplied by.

    Raises:
        LimnerError: a number that is no weight.
    """
    if sign == "[":
        return inner, 1 / STEP
    found = _NUMBER.search(inner)
    if found is None:
        return inner, STEP
    weight = float(found[1])
    if not 0 <= weight <= MOST or not math.isfinite(weight):
        raise LimnerError(
            f"the weight of '{inner[: found.start()].strip()}' is {found[1]}; give a number from "
            f"0, as if it were not there, to {MOST:g}"
        )
    return inner[: found.start()], weight
