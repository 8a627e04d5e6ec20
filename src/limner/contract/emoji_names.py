"""Emoji characters in prompts, as the words that models were trained with."""

import json
import re
import unicodedata
import zipfile
from functools import cache
from importlib.resources import as_file, files

_VARIANT = "\ufe0f"
"""Follows a character that is to be shown as emoji; with or without it means the same."""
_FIRST = 0x203C  # the lowest emoji that is no ordinary sign


def spell_emoji(prompt: str) -> str:
    """A prompt with the name of each emoji in its place.

    >>> spell_emoji("two \U0001f34e and a \U0001f469\u200d\U0001f680")
    'two red apple and a woman astronaut'

    Reference: the names are Unicode's, from its Common Locale Data Repository.
    """
    if not any(_pictures(sign) for sign in prompt):
        return prompt
    names, pattern = _names()
    spelled = pattern.sub(lambda found: f" {names[found[0]]} ", prompt.replace(_VARIANT, ""))
    spelled = "".join(_spelled(sign) if _pictures(sign) else sign for sign in spelled)
    spelled = re.sub(r" {2,}", " ", spelled.replace("\u200d", " ")).strip()
    return re.sub(r" ([,.;:!?)\]])", r"\1", re.sub(r"([(\[]) ", r"\1", spelled))


def emoji_captions() -> list[str]:
    """What every emoji is called."""
    return [*_names()[0].values()]


def _pictures(sign: str) -> bool:
    return ord(sign) >= _FIRST and unicodedata.category(sign) in ("So", "Sk")


def _spelled(sign: str) -> str:
    """The name of a single sign that no emoji begins with."""
    name = unicodedata.name(sign, "").lower()
    return " " if unicodedata.category(sign) == "Sk" else f" {name} "


@cache
def _names() -> tuple[dict[str, str], re.Pattern[str]]:
    """What every emoji is called, and a pattern that finds the longest."""
    archive = files("limner") / "data" / "assets" / "emoji.zip"
    with as_file(archive) as path, zipfile.ZipFile(path) as opened:
        rows = map(json.loads, opened.read("metadata.jsonl").decode().splitlines())
        names = {
            "".join(chr(int(c, 16)) for c in row["code"].split("-")).replace(_VARIANT, ""): row[
                "caption"
            ].replace(":", "")
            for row in rows
        }
    names = {signs: name for signs, name in names.items() if any(map(_pictures, signs))}
    longest = sorted(names, key=len, reverse=True)
    return names, re.compile("|".join(map(re.escape, longest)))
