r"""Weights of the words of a prompt, as people type them.

    (red)        1.1 times as much; brackets within brackets multiply
    (red:1.4)    1.4 times as much; any number from 0 (as if the word were absent) to 10
    [red]        1 / 1.1 times as much
    \( \) \[ \]  the characters themselves

A bracket without a matching one is an ordinary character.
"""

import re
from typing import NamedTuple

from limner.contract.errors import LimnerError

WEIGHT_FACTOR = 1.1
"""The factor of a pair of brackets without a number; square brackets divide by it."""
MAX_WEIGHT = 10.0
_OPENING = {")": "(", "]": "["}
_SIGNS = ("(", ")", "[", "]", "\\")
_MAX_SHOWN_CHARACTERS = 40  # characters of a prompt in a message
_NUMERIC_CHARACTERS = frozenset("0123456789+-. ")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)")


class WeightedText(NamedTuple):
    """A prompt without its brackets, and the weight of each character.

    Args:
        text: the prompt without brackets and numbers.
        weights: the weight of each character.
    """

    text: str
    weights: list[float]

    @property
    def is_even(self) -> bool:
        """Whether all weights are 1."""
        return all(weight == 1 for weight in self.weights)


def read_emphasis(prompt: str) -> WeightedText:
    """Return a prompt as plain words, and the weight of each character, which is at most 10.

    >>> read_emphasis("a (red:1.5) box").text
    'a red box'
    >>> read_emphasis(r"a [b] \\(c\\)").weights[2], read_emphasis(r"\\(c\\)").text
    (0.9090909090909091, '(c)')

    Raises:
        LimnerError: a weight below 0 or above 10.
    """
    partners = _partners(prompt)
    letters: list[str] = []
    weights: list[float] = []
    stack: list[tuple[int, int, float]] = []  # open pairs: end of words, end, weight before
    weight, i = 1.0, 0
    while i < len(prompt):
        if stack and i == stack[-1][0]:
            _, i, weight = stack.pop()
        elif i in partners:
            end = partners[i]
            last, factor = _factor(prompt, i, end)
            stack.append((last, end, weight))
            weight = min(weight * factor, MAX_WEIGHT)
        else:
            i += prompt[i] == "\\" and prompt[i + 1 : i + 2] in _SIGNS
            letters.append(prompt[i])
            weights.append(weight)
        i += 1
    return WeightedText("".join(letters), weights)


def _partners(prompt: str) -> dict[int, int]:
    """Return the place of each matched opening bracket -> the place of its closing bracket."""
    pairs: dict[int, int] = {}
    stack: list[int] = []
    depths = {"(": 0, "[": 0}
    i = 0
    while i < len(prompt):
        sign = prompt[i]
        if sign == "\\":
            i += 1
        elif sign in depths:
            stack.append(i)
            depths[sign] += 1
        elif sign in _OPENING and depths[_OPENING[sign]]:
            while prompt[stack[-1]] != _OPENING[sign]:  # unmatched: ordinary characters
                depths[prompt[stack.pop()]] -= 1
            depths[_OPENING[sign]] -= 1
            pairs[stack.pop()] = i
        i += 1
    return pairs


def _factor(prompt: str, start: int, end: int) -> tuple[int, float]:
    """Return where the words in a pair of brackets end, and the factor of their weight.

    Raises:
        LimnerError: the number is not a valid weight.
    """
    if prompt[start] == "[":
        return end, 1 / WEIGHT_FACTOR
    first = end
    while first > start + 1 and prompt[first - 1] in _NUMERIC_CHARACTERS:
        first -= 1
    colon, number = first - 1, prompt[first:end].strip()
    if prompt[colon] != ":" or not _NUMBER.fullmatch(number):
        return end, WEIGHT_FACTOR
    weight = float(number)
    if not 0 <= weight <= MAX_WEIGHT:
        words = prompt[start + 1 : colon].strip()[-_MAX_SHOWN_CHARACTERS:]
        raise LimnerError(
            f"the weight of '{words}' is {number[:_MAX_SHOWN_CHARACTERS]}; give a number from "
            f"0 (as if it were absent) to {MAX_WEIGHT:g}"
        )
    return colon, weight
