"""`emoji`: the bundled data with captions and classes.

They are Microsoft's Fluent Emoji (MIT) in three styles, and Google's Noto Emoji (Apache-2.0). Many
emoji have six skin tones and three genders, so with equal weights half of all pictures would be
people. Therefore concepts have equal weights, the variants of a concept share its weight, and
people have a lower weight. `tools/build_emoji.py` makes the Fluent archive and its splits,
`tools/build_noto.py` the Noto archive.
"""

import copy
import json
from collections import Counter
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from importlib.resources import as_file, files
from typing import Literal

from limner.contract.errors import LimnerError
from limner.contract.options import Positive
from limner.data.captions import STYLE_PHRASES
from limner.data.files import Files, zip_files
from limner.data.pictures import Entry, Listing, Pictures, Report, Source, decode_pictures

_PEOPLE_GROUP = "people & body"
_STYLES = {"fluent": ("3d", "flat", "line"), "all": ("3d", "flat", "line", "noto")}


@dataclass(frozen=True, kw_only=True)
class Emoji(Source):
    """`emoji`: pictures of 128 x 128 on white.

    Args:
        split: "train"; "held-out-concept", emoji without any variant in "train"; "held-out-pair",
            variants missing from "train" of emoji that it has; or "all".
        style: "3d", "flat" or "line" of Fluent; "noto"; "fluent" for all three of Fluent; or "all",
            with the artist in the captions.
        label: "group" uses Unicode's nine groups as classes; "none" for no classes.
        people: weight of the concepts of people and hands; other concepts have weight 1.
    """

    split: Literal["train", "held-out-concept", "held-out-pair", "all"] = "train"
    style: Literal["3d", "flat", "line", "noto", "fluent", "all"] = "3d"
    label: Literal["group", "none"] = "group"
    people: Positive = 0.5

    def listing(self, report: Report) -> Listing:
        """List the pictures of a style and split; training tags contain no held-out caption."""
        styles = _STYLES.get(self.style, (self.style,))
        rows = []
        for name in ("emoji", "noto"):
            if any((style == "noto") == (name == "noto") for style in styles):
                archive = _archive(name)
                lines = archive.text("metadata.jsonl", report).splitlines()
                rows += [json.loads(line) | {"archive": archive} for line in lines]
        groups = sorted({row["group"] for row in rows}) if self.label == "group" else ()
        held_out = {row["caption"].lower() for row in rows if row["split"] != "train"}
        rows = [row for row in rows if row["style"] in styles]
        rows = [row for row in rows if self.split in (row["split"], "all")]
        variants = Counter(row["concept"] for row in rows)
        entries = []
        for row in rows:
            tags = [t for t in row["tags"] if row["split"] != "train" or t.lower() not in held_out]
            entry = Entry(
                name=row["file_name"],
                open=partial(row["archive"].open, row["file_name"]),
                label=row["group"] if groups else None,
                captions=_captions(row["caption"], row["style"] if self.style == "all" else "3d"),
                tags=tuple(tags),
                weight=(self.people if row["group"] == _PEOPLE_GROUP else 1)
                / variants[row["concept"]],
                group=row["concept"],
            )
            entries.append(entry)
        return Listing(entries, tuple(groups))

    def open(self, typed: str) -> Pictures:
        """Open the data set; the last two are cached with decoded pictures."""
        return copy.copy(_cached_pictures(self, typed))


@lru_cache(maxsize=2)
def _cached_pictures(source: Emoji, typed: str) -> Pictures:
    return decode_pictures(source, typed)


def _archive(name: str) -> Files:
    """Open a bundled archive of pictures."""
    asset = files("limner.data") / "assets" / f"{name}.zip"
    if not asset.is_file():
        raise LimnerError(
            f"the bundled emoji are missing (limner/data/assets/{name}.zip); reinstall limner, "
            f"or build them with python tools/build_{name}.py"
        )
    with as_file(asset) as path:
        return _cached_files(path)


_cached_files = cache(zip_files)


def _captions(caption: str, style: str) -> tuple[str, ...]:
    """Return a caption in several wordings that name the style; for 3d, only the caption."""
    captions = tuple(words.format(caption) for words in STYLE_PHRASES[style])
    return (caption,) if style == "3d" else captions
