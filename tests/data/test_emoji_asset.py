"""The bundled data set `emoji`: complete, readable, and split without leaks."""

import io
import json
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import limner

ASSETS = Path(limner.__file__).parent / "data" / "assets"
HEAD = ["metadata.jsonl", "report.json", "NOTICE.md"]
TONES = {"light", "medium-light", "medium", "medium-dark", "dark"}


@pytest.fixture(scope="module")
def archive() -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(ASSETS / "emoji.zip") as file:
        yield file


@pytest.fixture(scope="module")
def rows(archive: zipfile.ZipFile) -> list[dict[str, Any]]:
    return [json.loads(line) for line in archive.read("metadata.jsonl").decode().splitlines()]


@pytest.fixture(scope="module")
def report(archive: zipfile.ZipFile) -> dict[str, Any]:
    return json.loads(archive.read("report.json"))


def by_split(rows: list[dict[str, Any]], *keys: str) -> dict[str, set[tuple[str, ...]]]:
    values: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for row in rows:
        values[row["split"]].add(tuple(row[key] for key in keys))
    return values


def test_the_archive_is_small_sorted_and_undated(archive, rows):
    assert (ASSETS / "emoji.zip").stat().st_size < 16e6
    pictures = [row["file_name"] for row in rows]
    assert archive.namelist() == HEAD + pictures
    assert pictures == sorted(set(pictures))
    assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_pictures_are_128_rgb_and_not_empty(archive, rows):
    for row in rows[:: len(rows) // 60]:
        picture = Image.open(io.BytesIO(archive.read(row["file_name"])))
        assert (picture.format, picture.mode, picture.size) == ("WEBP", "RGB", (128, 128))
        low, high = picture.convert("L").getextrema()
        assert high - low > 30, row["file_name"]


def test_rows_agree_with_their_file_names(rows):
    for row in rows:
        assert row["file_name"] == f"{row['style']}/{row['code']}.webp"
        assert row["caption"] == row["caption"].lower()
        assert row["style"] != "line" or row["skin_tone"] == "none"
        assert ("skin tone" in row["caption"]) == (row["skin_tone"] != "none")


@pytest.mark.parametrize(
    ("caption", "concept", "tone", "gender", "hair"),
    [
        ("woman astronaut: medium skin tone", "astronaut", "medium", "woman", "none"),
        ("astronaut", "astronaut", "none", "none", "none"),
        ("woman: red hair", "person", "none", "woman", "red"),
        ("mermaid: dark skin tone", "merperson", "dark", "woman", "none"),
        ("prince", "person-with-crown", "none", "man", "none"),
        ("man running: facing right", "person-running", "none", "man", "none"),
        ("police car light", "police-car-light", "none", "none", "none"),
        ("female sign", "female-sign", "none", "none", "none"),
    ],
)
def test_base_concepts(rows, caption, concept, tone, gender, hair):
    row = next(row for row in rows if row["caption"] == caption)
    values = (row["concept"], row["skin_tone"], row["gender"], row["hair"])
    assert values == (concept, tone, gender, hair)


def test_held_out_concepts_are_never_trained_on(rows):
    for key in ("concept", "code", "caption"):
        values = by_split(rows, key)
        assert not values["held-out-concept"] & (values["train"] | values["held-out-pair"])
    concepts = {row["concept"] for row in rows}
    held_out = by_split(rows, "concept")["held-out-concept"]
    assert 0.04 < len(held_out) / len(concepts) < 0.06


def test_held_out_pairs_leave_concept_and_tone_in_train(rows):
    for keys in (["code"], ["caption"], ["concept", "gender", "hair", "skin_tone"]):
        values = by_split(rows, *keys)
        assert not values["held-out-pair"] & values["train"]
    concepts = by_split(rows, "concept")
    assert concepts["held-out-pair"] <= concepts["train"]
    assert {tone for (tone,) in by_split(rows, "skin_tone")["train"]} == TONES | {"none"}


def test_no_held_out_picture_is_a_train_picture(archive, rows):
    pictures: dict[bool, set[bytes]] = defaultdict(set)
    for row in rows:
        pictures[row["split"] == "train"].add(archive.read(row["file_name"]))
    assert not pictures[True] & pictures[False]


def test_the_report_has_the_right_counts(rows, report):
    assert report["pictures"] == len(rows)
    assert report["emoji"] == len({row["code"] for row in rows})
    assert report["concepts"] == len({row["concept"] for row in rows})
    for key in ("style", "split", "group", "skin_tone", "gender", "hair"):
        assert report[key] == Counter(row[key] for row in rows)
    styles: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        styles[row["code"]].add(row["style"])
    assert report["emoji in all three styles"] == sum(len(s) == 3 for s in styles.values())


def test_there_are_no_country_flags_and_no_trademarks(rows):
    for row in rows:
        assert not re.search(r"1F1E[6-9A-F]|1F1F[0-9A-F]|E00[0-9A-F]{2}", row["code"])
        assert row["style"] != "3d" or row["concept"] not in {"paperclip", "technologist"}


def test_the_archive_contains_the_licences(archive):
    notice = (ASSETS / "EMOJI-NOTICE.md").read_text(encoding="utf-8")
    assert archive.read("NOTICE.md").decode() == notice
    for phrase in ("Copyright (c) Microsoft Corporation", "Miles Johnson", "Permission is hereby"):
        assert phrase in notice
