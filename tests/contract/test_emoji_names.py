"""Emoji in prompts become their Unicode names, which the training captions use as well."""

import json
import unicodedata
import zipfile
from importlib.resources import files

import pytest
import torch

from limner.contract.emoji_names import spell_emoji
from limner.contract.image import ImageSpec
from limner.contract.text import text_condition, text_spec


@pytest.mark.parametrize(
    ("typed", "spelled"),
    [
        ("\U0001f34e", "red apple"),
        ("\u2764\ufe0f and \u2764", "red heart and red heart"),
        ("a\U0001f34eb", "a red apple b"),
        ("(\U0001f34e:1.4), \U0001f431!", "(red apple:1.4), cat face!"),
        ("\U0001f469\u200d\U0001f680", "woman astronaut"),
        ("\U0001f44d\U0001f3fd", "thumbs up medium skin tone"),
        ("plain \u2192 \u00a9 \u00fc \u4e2d", "plain \u2192 \u00a9 \u00fc \u4e2d"),
    ],
)
def test_emoji_are_replaced_by_their_names(typed, spelled):
    assert spell_emoji(typed) == spelled


def test_the_name_of_every_emoji_in_the_data_is_its_caption():
    with zipfile.ZipFile(str(files("limner") / "data" / "assets" / "emoji.zip")) as archive:
        rows = [json.loads(line) for line in archive.read("metadata.jsonl").decode().splitlines()]
    for row in rows:
        signs = "".join(chr(int(code, 16)) for code in row["code"].split("-"))
        if unicodedata.category(signs[0]) == "So" and ord(signs[0]) >= 0x203C:
            assert spell_emoji(signs) == row["caption"].replace(":", ""), row["code"]


def test_an_emoji_has_the_tokens_of_its_name():
    spec = ImageSpec(3, 16, 16, text=text_spec())
    from_emoji, from_name = (
        text_condition(spec, "a \U0001f34e"),
        text_condition(spec, "a red apple"),
    )
    assert from_emoji.text is not None and from_name.text is not None
    assert torch.equal(from_emoji.text, from_name.text)
