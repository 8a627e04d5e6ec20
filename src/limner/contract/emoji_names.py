"""Emoji characters in prompts, replaced by the words that models were trained with."""

import json
import re
import unicodedata
import zipfile
from functools import cache
from importlib.resources import as_file, files

_VARIATION_SELECTOR = "\ufe0f"
"""Requests that the character before it is shown as emoji; the meaning is the same without it."""
_FIRST_EMOJI = 0x203C  # the lowest emoji that is not an ordinary character


def spell_emoji(prompt: str) -> str:
    """Replace each emoji in a prompt with its name.

    >>> spell_emoji("two \U0001f34e and a \U0001f469\u200d\U0001f680")
    'two red apple and a woman astronaut'

    Reference: the names are Unicode's, from its Common Locale Data Repository.
    """
    if not any(_pictures(sign) for sign in prompt):
        return prompt
    names, pattern = _names()
    text = pattern.sub(
        lambda match: f" {names[match[0]]} ", prompt.replace(_VARIATION_SELECTOR, "")
    )
    text = "".join(_sign_name(sign) if _pictures(sign) else sign for sign in text)
    text = re.sub(r" {2,}", " ", text.replace("\u200d", " ")).strip()
    return re.sub(r" ([,.;:!?)\]])", r"\1", re.sub(r"([(\[]) ", r"\1", text))


def emoji_captions() -> list[str]:
    """Return the names of all emoji."""
    return [*_names()[0].values()]


def _pictures(sign: str) -> bool:
    return ord(sign) >= _FIRST_EMOJI and unicodedata.category(sign) in ("So", "Sk")


def _sign_name(sign: str) -> str:
    """Return the name of a single character that does not start an emoji."""
    name = unicodedata.name(sign, "").lower()
    return " " if unicodedata.category(sign) == "Sk" else f" {name} "


@cache
def _names() -> tuple[dict[str, str], re.Pattern[str]]:
    """Return the names of all emoji, and a pattern that finds the longest emoji first."""
    archive = files("limner") / "data" / "assets" / "emoji.zip"
    with as_file(archive) as path, zipfile.ZipFile(path) as zip_file:
        rows = map(json.loads, zip_file.read("metadata.jsonl").decode().splitlines())
        names = {
            "".join(chr(int(c, 16)) for c in row["code"].split("-")).replace(
                _VARIATION_SELECTOR, ""
            ): row["caption"].replace(":", "")
            for row in rows
        }
    names = {signs: name for signs, name in names.items() if any(map(_pictures, signs))}
    longest = sorted(names, key=len, reverse=True)
    return names, re.compile("|".join(map(re.escape, longest)))
