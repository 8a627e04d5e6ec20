"""Words for the prompt field: completions that models know, and lists for `__name__`.

GET    /api/v1/words?start=app        words with this start
GET    /api/v1/wildcards              lists of words, from which the seed chooses
PUT    /api/v1/wildcards/{name}       store a list of the user
DELETE /api/v1/wildcards/{name}       delete it
"""

import json
import re
from collections import Counter
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query
from fastapi import Path as InPath
from pydantic import AfterValidator, BaseModel, Field

from limner.contract.atomic_files import atomic_file
from limner.contract.emoji_names import emoji_captions
from limner.contract.errors import LimnerError
from limner.contract.wildcards import (
    LISTS,
    MAX_CHOICE_LETTERS,
    MAX_CHOICES,
    NAME_PATTERN,
    Lists,
    own_lists,
    own_lists_folder,
    word_lists,
)
from limner.studio.api_types import Strict
from limner.studio.background import in_slow_thread
from limner.studio.lifecycle import Studio
from limner.studio.problems import RefusedError, errors

_MIN_WORD_LETTERS = 3  # letters of an offered word, at least
_MAX_LISTS = 200
_WORD = re.compile(rf"[a-z]{{{_MIN_WORD_LETTERS},}}")
ListName = Annotated[str, InPath(pattern=f"^{NAME_PATTERN}$", max_length=40)]


def _one_line(choice: str) -> str:
    """Return a choice, which must be one line of its list's file."""
    if len(choice.splitlines()) != 1 or "\0" in choice:
        raise ValueError("is not one line of text; send each line as a choice of its own")
    return choice


Choice = Annotated[str, Field(max_length=MAX_CHOICE_LETTERS), AfterValidator(_one_line)]


class Completions(BaseModel):
    """Completions of a word, the most likely first."""

    words: list[str]


class WordList(BaseModel):
    """A list of words, and whether it is the user's own, which can be changed."""

    name: str
    words: list[str]
    own: bool


class WordLists(BaseModel):
    """All lists of words."""

    lists: list[WordList]


class NewList(Strict):
    """The choices of a list."""

    words: Annotated[list[Choice], Field(min_length=1, max_length=MAX_CHOICES)]


@cache
def known_words() -> tuple[str, ...]:
    """Return the words of the bundled vocabulary: first the words of the emoji captions, which the
    bundled models learnt, then all others. Frequent words come first in each part.
    """
    table = files("limner") / "data" / "assets" / "words.json"
    vocabulary: dict[str, int] = json.loads(table.read_text(encoding="utf-8"))["model"]["vocab"]
    counts = Counter(_WORD.findall(" ".join(emoji_captions()).lower())).most_common()
    others = (word for word in vocabulary if _WORD.fullmatch(word))
    captions = (word for word, _ in counts)
    return tuple(dict.fromkeys(word for word in (*captions, *others) if word in vocabulary))


def completions(start: str, limit: int, lists: Lists = LISTS) -> list[str]:
    """Return words with a given start; for a start such as `__na`, names of lists.

    >>> completions("strawb", 3), completions("__an", 3)
    (['strawberry'], ['__animal__'])
    """
    start = start.lower()
    words = sorted(f"__{name}__" for name in lists) if start.startswith("__") else known_words()
    matches = (word for word in words if word.startswith(start) and word != start)
    return [word for word, _ in zip(matches, range(limit))]


def add_words(app: FastAPI, studio: Studio) -> None:
    """Add the routes for completion, and for lists of words."""
    root = studio.settings.root

    @app.get("/api/v1/words", responses=errors(), response_model=Completions)
    async def words(
        start: Annotated[str, Query(min_length=2, max_length=40)],
        limit: Annotated[int, Query(ge=1, le=50)] = 8,
    ) -> Any:
        """Return words that models know, with a given start; for `__na`, names of lists."""
        lists = (
            await in_slow_thread(word_lists, own_lists_folder(root)) if start[:2] == "__" else LISTS
        )
        return Completions(words=await in_slow_thread(completions, start, limit, lists))

    async def answer() -> WordLists:
        entries = await in_slow_thread(own_lists, own_lists_folder(root))
        answers = [WordList(name=name, words=[*items], own=True) for name, items in entries.items()]
        bundled = [(name, items) for name, items in LISTS.items() if name not in entries]
        answers += [WordList(name=name, words=[*items], own=False) for name, items in bundled]
        return WordLists(lists=sorted(answers, key=lambda each: each.name))

    @app.get("/api/v1/wildcards", responses=errors(), response_model=WordLists)
    async def all_lists() -> Any:
        """Return the lists of words for `__name__` in prompts."""
        return await answer()

    @app.put("/api/v1/wildcards/{name}", responses=errors(409), response_model=WordLists)
    async def keep(name: ListName, body: NewList) -> Any:
        """Store a list as `wildcards/NAME.txt`, which the command line reads, too."""
        folder = own_lists_folder(root)
        entries = await in_slow_thread(own_lists, folder)
        if name not in entries and len(entries) >= _MAX_LISTS:
            raise RefusedError(409, "full", f"there are {_MAX_LISTS} lists", "delete one first")
        choices = [choice.strip() for choice in body.words]
        if not all(choices) or any(choice.startswith("#") for choice in choices):
            raise LimnerError("a choice is empty or starts with #; leave it out")
        await in_slow_thread(_write, folder / f"{name}.txt", choices)
        return await answer()

    @app.delete("/api/v1/wildcards/{name}", responses=errors(404, 409), response_model=WordLists)
    async def delete(name: ListName) -> Any:
        """Delete a list of the user."""
        file = own_lists_folder(root) / f"{name}.txt"
        if not await in_slow_thread(file.is_file):
            if name in LISTS:
                hint = "store a list of this name to replace it"
                raise RefusedError(409, "bundled", f"the list {name} comes with limner", hint)
            raise RefusedError(404, "unknown", "there is no such list", "see /api/v1/wildcards")
        await in_slow_thread(file.unlink, True)
        return await answer()


def _write(file: Path, choices: list[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as partial:
        partial.write_text("\n".join(choices) + "\n", encoding="utf-8")
