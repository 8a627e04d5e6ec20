"""The bundled emoji: how often each is drawn, and which captions training never uses."""

import json
from collections import Counter
from importlib.resources import files

import pytest
import torch

from limner.contract.errors import LimnerError
from limner.contract.noise import Noise
from limner.data import Stream, emoji, open_data
from limner.data.emoji import Emoji
from limner.data.pictures import Pictures, raise_error

HELD_OUT = ("held-out-concept", "held-out-pair")


def listing(**options):
    return Emoji(**options).listing(raise_error)


def undecoded(**options) -> Pictures:
    """Return the data set without its pixels, which most of these tests do not need."""
    source = Emoji(**options)
    contents = source.listing(raise_error)
    return Pictures(source, "emoji", contents, contents.entries, (3, 128, 128), None, "", [])


def test_pictures_classes_and_styles():
    data = open_data("emoji", size=16, split="held-out-concept", style="line")
    assert len(data.spec.labels) == 9
    assert data.spec.shape == (3, 16, 16)
    assert not data.skipped
    assert sum(data.spec.frequencies) == pytest.approx(1)
    counts = {
        style: len(listing(style=style, split="all").entries) for style in ("3d", "flat", "line")
    }
    assert sum(counts.values()) == len(listing(style="fluent", split="all").entries)
    assert min(counts.values()) > 1000
    assert listing(style="3d", split="held-out-pair").labels == data.spec.labels
    assert listing(label="none").labels == ()


def test_a_second_artist_drew_the_same_emoji_and_captions_name_the_artist():
    noto = listing(style="noto", split="all")
    fluent = {e.name.split("/")[1]: e for e in listing(style="3d", split="all").entries}
    assert len(noto.entries) > 1400 and len(noto.labels) == 9
    for entry in noto.entries:
        other = fluent[entry.name.split("/")[1]]
        assert (entry.captions, entry.label, entry.group) == (
            other.captions,
            other.label,
            other.group,
        )
    styled = {e.name: e.captions for e in listing(style="all").entries}
    assert all("noto" in text for text in styled["noto/1F436.webp"])
    assert styled["3d/1F436.webp"] == ("dog face",)
    assert any("line" in text for text in styled["line/1F436.webp"])


def test_splits_share_no_picture_and_no_caption():
    parts = [listing(style="all", split=split).entries for split in ("train", *HELD_OUT)]
    for field in ("name", "captions"):
        values = [{getattr(entry, field) for entry in part} for part in parts]
        assert len(set().union(*values)) == sum(map(len, values))


@pytest.mark.parametrize("style", ["3d", "all"])
def test_no_held_out_caption_is_ever_drawn_in_training(style):
    held_out = {
        caption.lower()
        for split in HELD_OUT
        for entry in listing(style="all", split=split).entries
        for caption in entry.captions
    }
    data = undecoded(style=style)
    captions = Stream(data, 0).captions(torch.arange(30_000))
    assert not held_out & {caption.lower() for caption in captions}
    one_word = {tag.lower() for entry in data.entries for tag in entry.tags}
    assert not held_out & one_word


def test_captions_are_labels_tags_or_both():
    data = undecoded()
    index = next(i for i, entry in enumerate(data.entries) if len(entry.tags) == 3)
    entry = data.entries[index]
    n = 4000
    texts = data.captions(torch.full((n,), index), Noise.keyed(0, 0, range(n)))
    forms = Counter(
        "label" if s == entry.captions[0] else "both" if s.startswith(entry.captions[0]) else "tags"
        for s in texts
    )
    assert forms["label"] == pytest.approx(n / 2, abs=150)
    assert forms["tags"] == pytest.approx(n / 4, abs=150)
    orders = Counter(s for s in texts if s.count(", ") == 2)
    assert len(orders) == 6
    assert {frozenset(order.split(", ")) for order in orders} == {frozenset(entry.tags)}


def test_concepts_are_drawn_evenly_and_people_less():
    data = undecoded(people=0.25)
    archive = emoji.zip_files(files("limner.data") / "assets" / "emoji.zip")
    rows = [json.loads(line) for line in archive.text("metadata.jsonl", raise_error).splitlines()]
    concept_of = {row["file_name"]: row["concept"] for row in rows}
    concepts = [concept_of[entry.name] for entry in data.entries]
    people = {concept_of[e.name] for e in data.entries if e.label == "people & body"}
    share = Counter()
    for concept, weight in zip(concepts, data.weights.tolist()):
        share[concept] += weight
    assert all(w == pytest.approx(0.25 if c in people else 1) for c, w in share.items())
    n = 100_000
    counts = Counter(concepts[i] for i in Stream(data, 0).indices(torch.arange(n)).tolist())
    mean = n / sum(share.values())
    chi_square = sum((counts[c] - mean * w) ** 2 / (mean * w) for c, w in share.items())
    assert chi_square == pytest.approx(len(share), abs=5 * (2 * len(share)) ** 0.5)


def test_decoded_pictures_are_cached_and_each_data_set_has_its_own_hints(monkeypatch):
    options = {"size": 8, "split": "held-out-pair", "style": "flat"}
    first = open_data("emoji", **options)
    monkeypatch.setattr(emoji, "decode_pictures", None)
    hinted = open_data("emoji", **options, hint=None)
    hinted.compute_hints("edges")
    second = open_data("emoji", **options)
    assert hinted.spec.hint and second.spec.hint is None
    assert second.digest == first.digest != hinted.digest
    assert torch.equal(second.pixels(torch.arange(9)), first.pixels(torch.arange(9)))
    with pytest.raises(TypeError):
        open_data("emoji", **options, people=0.3)


def test_a_missing_archive_is_refused_in_one_line(tmp_path, monkeypatch):
    emoji._cached_pictures.cache_clear()
    monkeypatch.setattr(emoji, "files", lambda _: tmp_path)
    with pytest.raises(LimnerError, match="the bundled emoji are missing"):
        open_data("emoji")
