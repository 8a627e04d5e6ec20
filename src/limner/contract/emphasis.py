r"""How much the words of a prompt count, as people type it.

    (red)        1.1 times as much; brackets within brackets multiply
    (red:1.4)    1.4 times as much; any number from 0, as if the word were not there, to 10
    [red]        1 / 1.1 times as much
    \( \) \[ \]  the signs themselves

A bracket without its partner is an ordinary sign.
"""

import re
from typing import NamedTuple

from limner.contract.errors import LimnerError

STEP = 1.1
"""What a pair of brackets without a number multiplies or divides by."""
MOST = 10.0
_OPENING = {")": "(", "]": "["}
_SIGNS = ("(", ")", "[", "]", "\\")
_SHOWN = 40  # letters of a prompt in a message
_NUMERIC = frozenset("0123456789+-. ")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)")


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
    """A prompt as plain words, and how much each letter counts: at most 10 times.

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
    within: list[tuple[int, int, float]] = []  # of each pair: where it ends, with its number before
    weight, i = 1.0, 0
    while i < len(prompt):
        if within and i == within[-1][0]:
            _, i, weight = within.pop()
        elif i in partners:
            end = partners[i]
            last, factor = _factor(prompt, i, end)
            within.append((last, end, weight))
            weight = min(weight * factor, MOST)
        else:
            i += prompt[i] == "\\" and prompt[i + 1 : i + 2] in _SIGNS
            letters.append(prompt[i])
            weights.append(weight)
        i += 1
    return Emphasised("".join(letters), weights)


def _partners(prompt: str) -> dict[int, int]:
    """Where each bracket that has a partner opens and closes."""
    found: dict[int, int] = {}
    opened: list[int] = []
    waiting = {"(": 0, "[": 0}
    i = 0
    while i < len(prompt):
        sign = prompt[i]
        if sign == "\\":
            i += 1
        elif sign in waiting:
            opened.append(i)
            waiting[sign] += 1
        elif sign in _OPENING and waiting[_OPENING[sign]]:
            while prompt[opened[-1]] != _OPENING[sign]:  # those are ordinary signs
                waiting[prompt[opened.pop()]] -= 1
            waiting[_OPENING[sign]] -= 1
            found[opened.pop()] = i
        i += 1
    return found


def _factor(prompt: str, start: int, end: int) -> tuple[int, float]:
    """Where the words in a pair of brackets end, and what their weight is multiplied by.

    Raises:
        LimnerError: a number that is no weight.
    """
    if prompt[start] == "[":
        return end, 1 / STEP
    first = end
    while first > start + 1 and prompt[first - 1] in _NUMERIC:
        first -= 1
    colon, typed = first - 1, prompt[first:end].strip()
    if prompt[colon] != ":" or not _NUMBER.fullmatch(typed):
        return end, STEP
    weight = float(typed)
    if not 0 <= weight <= MOST:
        words = prompt[start + 1 : colon].strip()[-_SHOWN:]
        raise LimnerError(
            f"the weight of '{words}' is {typed[:_SHOWN]}; give a number from 0, as if it were not "
            f"there, to {MOST:g}"
        )
    return colon, weight
