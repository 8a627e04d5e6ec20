"""`emoji`: the bundled data, Microsoft's Fluent Emoji (MIT) in three styles, captioned and classed.

Many emoji come in six skin tones and three genders; drawn picture by picture, half the data would
be people. So concepts are drawn evenly, a concept's variants share its part, and people's part is
reduced once more. `tools/build_emoji.py` makes the archive and its splits.
"""

import json
from collections import Counter
from dataclasses import dataclass
from functools import partial
from importlib.resources import as_file, files
from typing import Annotated, Literal

from pydantic import Field

from limner.data.folder import zip_files
from limner.data.pictures import Entry, Listing, Report, Source
from limner.errors import LimnerError

_PEOPLE = "people & body"


@dataclass(frozen=True, kw_only=True)
class Emoji(Source):
    """`emoji`: pictures of 128 x 128 on white.

    Args:
        split: "train"; "held-out-concept", emoji of which it has no variant; "held-out-pair",
            variants that it lacks of emoji that it has; or "all".
        style: "3d", "flat", "line", or "all".
        label: "group" makes Unicode's nine groups the classes; "none" for no classes.
        people: how often people and hands are drawn, for 1 when their concepts are as all others.
    """

    split: Literal["train", "held-out-concept", "held-out-pair", "all"] = "train"
    style: Literal["3d", "flat", "line", "all"] = "3d"
    label: Literal["group", "none"] = "group"
    people: Annotated[float, Field(gt=0)] = 0.5

    def listing(self, report: Report) -> Listing:
        """The pictures of a style and split; no tag of a training picture is a held-out caption."""
        asset = files("limner.data") / "assets" / "emoji.zip"
        if not asset.is_file():
            raise LimnerError(
                "the bundled emoji are missing (limner/data/assets/emoji.zip); reinstall limner, "
                "or build them with python tools/build_emoji.py"
            )
        with as_file(asset) as path:
            archive = zip_files(path)
        rows = [json.loads(line) for line in archive.text("metadata.jsonl", report).splitlines()]
        groups = sorted({row["group"] for row in rows}) if self.label == "group" else ()
        held_out = {row["caption"].lower() for row in rows if row["split"] != "train"}
        rows = [row for row in rows if self.style in (row["style"], "all")]
        rows = [row for row in rows if self.split in (row["split"], "all")]
        variants = Counter(row["concept"] for row in rows)
        entries = []
        for row in rows:
            kept = [t for t in row["tags"] if row["split"] != "train" or t.lower() not in held_out]
            entry = Entry(
                name=row["file_name"],
                open=partial(archive.open, row["file_name"]),
                label=row["group"] if groups else None,
                captions=(row["caption"],),
                tags=tuple(kept),
                weight=(self.people if row["group"] == _PEOPLE else 1) / variants[row["concept"]],
                group=row["concept"],
            )
            entries.append(entry)
        return Listing(entries, tuple(groups))
