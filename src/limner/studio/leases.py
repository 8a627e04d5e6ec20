"""Jobs that workers on other hosts have taken, and what these tell of them and of themselves.

A worker has a job for a few seconds at a time, by the database's clock, and renews that as long as
it lives. What nobody renewed is queued again: by the studio, or by the next worker that looks for
a job.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Float,
    cast,
    delete,
    extract,
    func,
    insert,
    select,
    true,
    update,
)
from sqlalchemy.orm import Session

from limner.studio.settings import MAX_ATTEMPTS
from limner.studio.tables import FAILED, RUNNING, WAITING, Host, Job, Told

LOST = {
    "code": "worker-died",
    "message": "the workers that painted this job died twice",
    "hint": "ask for less: fewer pictures, fewer steps, a smaller model",
}


@dataclass(frozen=True)
class Owner:
    """A worker on another host.

    Args:
        name: no other worker has.
        seconds: for which it has a job.
    """

    name: str
    seconds: float


@dataclass(frozen=True)
class Standing:
    """How the workers of a host are.

    Args:
        workers: how many there are.
        busy: how many jobs they paint.
        restarts: how often one was started again.
    """

    workers: int
    busy: int
    restarts: int


_SILENT = 60.0  # seconds, after which a host counts as gone


def now() -> ColumnElement[float]:
    """Seconds since 1970 by the database's clock; the hosts' clocks may differ."""
    return cast(extract("epoch", func.now()), Float)


def is_own(owner: Owner | None) -> ColumnElement[bool]:
    """Whether a job is a worker's; or the studio's own, if None."""
    return Job.worker.is_(None) if owner is None else Job.worker == owner.name


def fits(weights: Collection[str] | None) -> ColumnElement[bool]:
    """Whether a job's model has one of some weights, by their hash; any, if None."""
    return true() if weights is None else Job.weights.in_(weights)


def renew(session: Session, owner: Owner, ids: Collection[str]) -> set[str]:
    """Go on having jobs that a worker paints; the ids of those that it still has."""
    own = (Job.state == RUNNING, is_own(owner), Job.id.in_(ids))
    session.execute(update(Job).where(*own).values(lease=now() + owner.seconds))
    return {*session.scalars(select(Job.id).where(*own))}


def reclaim(session: Session) -> list[str]:
    """Queue again the jobs that workers have no more, but for those that two workers lost, which
    fail; the ids of all.
    """
    query = select(Job).where(Job.state == RUNNING, Job.lease < now())
    lost = list(session.scalars(query.with_for_update(skip_locked=True)))
    for job in lost:
        failed = job.attempts >= MAX_ATTEMPTS
        job.state, job.worker, job.lease = FAILED if failed else WAITING, None, None
        job.error = dict(LOST) if failed else None
    forget(session, [job.id for job in lost])
    return [job.id for job in lost]


def stand(session: Session, owner: Owner, standing: Standing) -> None:
    """Leave word of how a host is."""
    values = {"seen": now(), **vars(standing)}
    found = session.execute(update(Host).where(Host.name == owner.name).values(values))
    if not found.rowcount:  # pyright: ignore[reportAttributeAccessIssue]
        session.execute(insert(Host).values(name=owner.name, **values))


def leave(session: Session, owner: Owner) -> None:
    """A host stops."""
    session.execute(delete(Host).where(Host.name == owner.name))


def hosts(session: Session) -> dict[str, Standing]:
    """The other hosts, by their names, and how each last said it was; those that are silent for a
    minute are forgotten.
    """
    session.execute(delete(Host).where(Host.seen < now() - _SILENT))
    found = session.scalars(select(Host).order_by(Host.name))
    return {each.name: Standing(each.workers, each.busy, each.restarts) for each in found}


def tell(session: Session, told: Mapping[str, Mapping[str, Any]]) -> None:
    """Leave word of jobs, by their ids, for the studio."""
    forget(session, told)
    session.add_all(Told(job=id, document=dict(document)) for id, document in told.items())


def forget(session: Session, ids: Collection[str]) -> None:
    """Delete what was told of jobs."""
    session.execute(delete(Told).where(Told.job.in_(ids)))


def heard(session: Session, ids: Collection[str]) -> list[tuple[Job, dict[str, Any]]]:
    """How jobs are, by their ids, and what was told of each."""
    query = select(Job, Told.document).outerjoin(Told, Told.job == Job.id).where(Job.id.in_(ids))
    return [(job, document or {}) for job, document in session.execute(query)]
