"""Words of a prompt that the seed chooses, as people type them.

    a {red|blue} apple       one of the two; braces may lie within braces
    a __colour__ apple       one of a list's words, see `LISTS`

Choice k of a prompt is a pure function of the seed and of k, so a seed names a prompt.
"""

import hashlib
import re

from limner.contract.errors import unknown

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
_CHOICE = re.compile(r"\{([^{}]*\|[^{}]*)\}|__([a-z]+)__")


def has_choices(prompt: str) -> bool:
    """Whether a seed chooses among a prompt's words.

    Raises:
        LimnerError: it names a list that there is not.
    """
    return choose_words(prompt, 0) != prompt


def choose_words(prompt: str, seed: int) -> str:
    """A prompt with its choices made.

    >>> [choose_words("a {red|blue} {cat|dog}", seed) for seed in (0, 1, 2)]
    ['a red dog', 'a blue dog', 'a blue cat']
    >>> choose_words("braces {alone} stay", 0)
    'braces {alone} stay'

    Args:
        prompt: as it was typed.
        seed: any whole number; each choice takes every alternative equally often over the seeds.

    Raises:
        LimnerError: it names a list that there is not.
    """
    for k in range(len(prompt)):  # each leaves fewer braces
        found = _CHOICE.search(prompt)
        if found is None:
            break
        braces, name = found.groups()
        if name is not None and name not in LISTS:
            raise unknown("list", f"__{name}__", [f"__{each}__" for each in LISTS])
        words = LISTS[name] if name is not None else braces.split("|")
        word = words[_number(seed, k) % len(words)].strip()
        prompt = prompt[: found.start()] + word + prompt[found.end() :]
    return prompt


def _number(seed: int, k: int) -> int:
    digest = hashlib.sha256(f"limner choice {seed} {k}".encode()).digest()
    return int.from_bytes(digest[:8], "big")
