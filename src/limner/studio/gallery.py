"""Which painted pictures somebody looks for, and several of them as one file."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from sqlalchemy import Select, func, select

from limner.studio.tables import Picture


class Filter(TypedDict, total=False):
    """What pictures are looked for.

    Args:
        search: words, each of which is in the prompt, the class or the model's name.
        model: its name.
        favourite: only those.
        since: painted after this time, in seconds since 1970.
    """

    search: str
    model: str
    favourite: bool
    since: float | None


def painted(of: Filter) -> Select[Any]:
    """The query for the painted pictures that pass a filter."""
    query = select(Picture).where(Picture.painted, Picture.deleted.is_(None))
    for word in of.get("search", "").lower().split()[:10]:
        escaped = word.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
        found_in = func.lower(Picture.words + " " + Picture.model)
        query = query.where(found_in.like(f"%{escaped}%", escape="\\"))
    if model := of.get("model"):
        query = query.where(Picture.model == model)
    if of.get("favourite"):
        query = query.where(Picture.favourite)
    if since := of.get("since"):
        query = query.where(Picture.created >= since)
    return query


def archive(files: Sequence[tuple[int, Path]]) -> bytes:
    """A zip of pictures by their numbers; one whose file is gone is left out."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as out:  # without compression, for PNG files have theirs
        for number, path in files:
            if path.is_file():
                out.write(path, f"limner-{number}.png")
    return content.getvalue()
