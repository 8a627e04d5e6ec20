"""The gallery: filters of painted pictures, and zip archives of several."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from sqlalchemy import Select, func, select

from limner.studio.tables import Picture


class Filter(TypedDict, total=False):
    """A filter of painted pictures.

    Args:
        search: words; each must be in the prompt, the class or the model's name.
        model: name of the model.
        favourite: whether to show only favourites.
        since: earliest time, in seconds since 1970.
    """

    search: str
    model: str
    favourite: bool
    since: float | None


def painted_pictures(of: Filter) -> Select[Any]:
    """Return the query for the painted pictures that pass a filter."""
    query = select(Picture).where(Picture.painted, Picture.deleted.is_(None))
    for word in of.get("search", "").lower().split()[:10]:
        escaped = word.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
        text = func.lower(Picture.words + " " + Picture.model)
        query = query.where(text.like(f"%{escaped}%", escape="\\"))
    if model := of.get("model"):
        query = query.where(Picture.model == model)
    if of.get("favourite"):
        query = query.where(Picture.favourite)
    if since := of.get("since"):
        query = query.where(Picture.created >= since)
    return query


def archive(files: Sequence[tuple[int, Path]]) -> bytes:
    """Return a zip archive of pictures, named by their numbers; missing files are left out."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as out:  # uncompressed, as PNG files are compressed
        for number, path in files:
            if path.is_file():
                out.write(path, f"limner-{number}.png")
    return content.getvalue()
