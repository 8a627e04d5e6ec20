"""Wildcards: words of a prompt that the seed chooses, as people type them.

    a {red|blue} apple       one of the two; braces may lie within braces
    a __colour__ apple       one of a list's words, see `LISTS`; or of your own list,
                             a text file wildcards/colour.txt with a choice in each line

Choice k of a prompt is a pure function of the seed and of k, so the seed determines the prompt.
"""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

from limner.contract.errors import LimnerError, unknown

_WORDS = {
    "animal": "bear bee bird butterfly camel cat chicken cow crab dog dolphin duck elephant fish "
    "fox frog giraffe goat horse koala lion monkey mouse octopus owl panda penguin pig rabbit "
    "shark sheep snail snake spider squirrel tiger turtle whale wolf zebra",
    "colour": "red orange yellow green blue purple pink brown black white",
    "face": "happy sad angry sleepy surprised crying laughing winking smiling worried",
    "food": "apple banana bread burger cake carrot cheese cherry cookie egg grapes lemon mango "
    "mushroom orange peach pear pineapple pizza strawberry taco tomato watermelon",
    "plant": "cactus clover rose seedling sunflower tree tulip",
    "thing": "balloon bell bicycle boat book box camera candle car clock crown drum envelope gift "
    "guitar hammer hat heart house key lamp lock phone rocket scissors star sword train trophy "
    "truck umbrella violin",
}
LISTS = {name: tuple(words.split()) for name, words in _WORDS.items()}
"""Words for `__name__`, most of which the bundled model knows."""
NAME_PATTERN = r"[a-z0-9]+(?:-[a-z0-9]+)*"
"""Regular expression of a list's name."""
_CHOICE = re.compile(rf"\{{([^{{}}]*\|[^{{}}]*)\}}|__({NAME_PATTERN})__")
_FOLDER, _VARIABLE, _COMMENT = "wildcards", "LIMNER_WILDCARDS", "#"
_MAX_FILES = 200
_MAX_PICKS = 100  # words from lists, which may name further lists, in a short prompt
MAX_CHOICES = 5000
MAX_CHOICE_LETTERS = 400
Lists = Mapping[str, Sequence[str]]


def own_lists_folder(root: Path | None = None) -> Path:
    """Return the folder of the user's own lists: `LIMNER_WILDCARDS`, or `wildcards` in a folder.

    Args:
        root: the folder; the current one if None.
    """
    return Path(os.environ.get(_VARIABLE) or (root or Path()) / _FOLDER)


def own_lists(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return the lists of a folder by name: the lines of each NAME.txt that are not empty and do
    not start with #.

    Raises:
        LimnerError: a file cannot be read as text.
    """
    lists: dict[str, tuple[str, ...]] = {}
    for file in sorted(folder.glob("*.txt"))[:_MAX_FILES]:
        if not re.fullmatch(NAME_PATTERN, file.stem):
            continue
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, ValueError):
            raise LimnerError(
                f"'{file}' cannot be read; write one choice in each line, as UTF-8 text"
            ) from None
        choices = [line.strip() for line in lines if not line.lstrip().startswith(_COMMENT)]
        if entries := tuple(choice[:MAX_CHOICE_LETTERS] for choice in choices if choice)[
            :MAX_CHOICES
        ]:
            lists[file.stem] = entries
    return lists


def word_lists(folder: Path | None = None) -> Lists:
    """Return all lists: `LISTS`, and the user's own lists, which replace those of the same name.

    Args:
        folder: the folder of the user's own lists; see `own_lists_folder`.
    """
    return {**LISTS, **own_lists(own_lists_folder() if folder is None else folder)}


def has_choices(prompt: str, lists: Lists = LISTS) -> bool:
    """Return whether a seed chooses among a prompt's words.

    Raises:
        LimnerError: it names a list that does not exist.
    """
    return choose_words(prompt, 0, lists) != prompt


def choose_words(prompt: str, seed: int, lists: Lists = LISTS) -> str:
    """Return a prompt with its choices made.

    >>> [choose_words("a {red|blue} {cat|dog}", seed) for seed in (0, 1, 2)]
    ['a red dog', 'a blue dog', 'a blue cat']
    >>> choose_words("braces {alone} stay", 0)
    'braces {alone} stay'

    Args:
        prompt: the prompt, as it was typed.
        seed: any whole number; each choice takes every alternative equally often over the seeds.
        lists: the words for `__name__`; `word_lists()` also has the user's own.

    Raises:
        LimnerError: it names a list that does not exist.
    """
    lists_left = max(len(prompt), _MAX_PICKS)  # braces always end, lists may not
    for k in count():
        match = _CHOICE.search(prompt)
        if match is None or not lists_left:
            break
        braces, name = match.groups()
        lists_left -= name is not None
        if name is not None and name not in lists:
            raise unknown("list", f"__{name}__", [f"__{each}__" for each in lists])
        words = lists[name] if name is not None else braces.split("|")
        word = words[_number(seed, k) % len(words)].strip()
        prompt = prompt[: match.start()] + word + prompt[match.end() :]
    return prompt


def _number(seed: int, k: int) -> int:
    digest = hashlib.sha256(f"limner choice {seed} {k}".encode()).digest()
    return int.from_bytes(digest[:8], "big")
