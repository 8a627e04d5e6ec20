"""The tables of the studio's database: jobs, pictures, documents."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

WAITING, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
FINAL_STATES = (DONE, FAILED, CANCELLED)


class Table(DeclarativeBase):
    """Base class of all tables."""

    type_annotation_map = {dict[str, Any]: JSON}  # noqa: RUF012, as SQLAlchemy wants it


class Job(Table):
    """A request, and its outcome."""

    __tablename__ = "jobs"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(40), unique=True)
    key: Mapped[str | None] = mapped_column(String(80), unique=True)
    state: Mapped[str] = mapped_column(String(12), index=True)
    model: Mapped[str] = mapped_column(Text)
    task: Mapped[str] = mapped_column(String(40))
    params: Mapped[dict[str, Any]]
    inputs: Mapped[dict[str, Any]]
    board: Mapped[str | None] = mapped_column(String(40), index=True)
    cell: Mapped[dict[str, Any]]
    alike: Mapped[str] = mapped_column(String(64))
    attempts: Mapped[int] = mapped_column(default=0)
    rank: Mapped[int | None]
    created: Mapped[float]
    started: Mapped[float | None]
    finished: Mapped[float | None]
    error: Mapped[dict[str, Any] | None]
    notes: Mapped[dict[str, Any] | None]
    weights: Mapped[str | None] = mapped_column(String(64))
    worker: Mapped[str | None] = mapped_column(String(120))
    lease: Mapped[float | None]


class JobReport(Table):
    """The last report of a worker on another host on a job that it paints."""

    __tablename__ = "told"
    job: Mapped[str] = mapped_column(String(40), primary_key=True)
    document: Mapped[dict[str, Any]]


class Host(Table):
    """Another host whose workers take jobs, and its last reported state."""

    __tablename__ = "hosts"
    name: Mapped[str] = mapped_column(String(120), primary_key=True)
    seen: Mapped[float]
    workers: Mapped[int]
    busy: Mapped[int]
    restarts: Mapped[int]
    trouble: Mapped[dict[str, Any] | None]


class Picture(Table):
    """A file of pixels: painted by a job, or uploaded."""

    __tablename__ = "pictures"
    __table_args__ = (Index("pictures_shown", "painted", "number"),)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(40), unique=True)
    job: Mapped[int | None] = mapped_column(ForeignKey("jobs.number"), index=True)
    painted: Mapped[bool]
    place: Mapped[int] = mapped_column(default=0)
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    width: Mapped[int]
    height: Mapped[int]
    model: Mapped[str] = mapped_column(Text, default="")
    words: Mapped[str] = mapped_column(Text, default="")
    settings: Mapped[dict[str, Any] | None]
    favourite: Mapped[bool] = mapped_column(default=False)
    created: Mapped[float]
    deleted: Mapped[float | None]


class UnusedFile(Table):
    """A file that no picture uses, and that is still to be deleted."""

    __tablename__ = "unused_files"
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)


class Kept(Table):
    """Documents by name, such as the catalogue of models."""

    __tablename__ = "kept"
    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    document: Mapped[dict[str, Any]]


class FullError(Exception):
    """Raised if too many jobs wait to accept another one."""


def new_id() -> str:
    """Return an id that cannot be guessed."""
    return secrets.token_urlsafe(16)


@dataclass(frozen=True)
class Painted:
    """A picture from a worker: the hash that names its file, its size, its settings."""

    sha256: str
    width: int
    height: int
    settings: Mapping[str, Any]
