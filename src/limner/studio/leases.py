"""Leases of jobs to workers on other hosts, and the reports of these workers.

A worker leases a job for a few seconds at a time, by the database's clock, and renews the lease as
long as it lives. A job whose lease has expired is queued again: by the studio, or by the next
worker that looks for a job.
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

from limner.studio.problems import Problem
from limner.studio.settings import MAX_ATTEMPTS
from limner.studio.tables import FAILED, RUNNING, WAITING, Host, Job, JobReport

LOST_PROBLEM = {
    "code": "worker-died",
    "message": "the workers that painted this job died twice",
    "hint": "ask for less: fewer pictures, fewer steps, a smaller model",
}


@dataclass(frozen=True)
class Owner:
    """A worker on another host.

    Args:
        name: unique name of the worker.
        seconds: length of a lease.
    """

    name: str
    seconds: float


@dataclass(frozen=True)
class HostState:
    """The state of the workers of a host.

    Args:
        workers: number of workers.
        busy: number of jobs that they paint.
        restarts: number of restarts of workers.
        trouble: why they do not paint, if so: the fields of a `Problem`.
    """

    workers: int
    busy: int
    restarts: int
    trouble: dict[str, Any] | None = None


_MAX_SILENCE_SECONDS = 60.0  # seconds without a report after which a host counts as gone


def now() -> ColumnElement[float]:
    """Return seconds since 1970 by the database's clock, because the hosts' clocks may differ."""
    return cast(extract("epoch", func.now()), Float)


def is_own(owner: Owner | None) -> ColumnElement[bool]:
    """Return the condition that a job belongs to an owner, or to the studio if None."""
    return Job.worker.is_(None) if owner is None else Job.worker == owner.name


def weights_condition(weights: Collection[str] | None) -> ColumnElement[bool]:
    """Return the condition that the weights of a job's model, a hash, are among those given; any if
    None.
    """
    return true() if weights is None else Job.weights.in_(weights)


def renew(session: Session, owner: Owner, ids: Collection[str]) -> set[str]:
    """Renew the leases of jobs that a worker paints. Returns the ids of those that it still has."""
    conditions = (Job.state == RUNNING, is_own(owner), Job.id.in_(ids))
    session.execute(update(Job).where(*conditions).values(lease=now() + owner.seconds))
    return {*session.scalars(select(Job.id).where(*conditions))}


def reclaim(session: Session) -> list[str]:
    """Queue jobs with an expired lease again; those that two workers have lost fail. Returns the
    ids of all.
    """
    query = select(Job).where(Job.state == RUNNING, Job.lease < now())
    lost = list(session.scalars(query.with_for_update(skip_locked=True)))
    for job in lost:
        failed = job.attempts >= MAX_ATTEMPTS
        job.state, job.worker, job.lease = FAILED if failed else WAITING, None, None
        job.error = dict(LOST_PROBLEM) if failed else None
    delete_reports(session, [job.id for job in lost])
    return [job.id for job in lost]


def store_host(session: Session, owner: Owner, state: HostState) -> None:
    """Store the state of a host."""
    values = {"seen": now(), **vars(state)}
    result = session.execute(update(Host).where(Host.name == owner.name).values(values))
    if not result.rowcount:  # pyright: ignore[reportAttributeAccessIssue]
        session.execute(insert(Host).values(name=owner.name, **values))


def remove_host(session: Session, owner: Owner) -> None:
    """Remove a host that stops."""
    session.execute(delete(Host).where(Host.name == owner.name))


def hosts(session: Session) -> dict[str, HostState]:
    """Return the last reported state of the other hosts, by name; hosts that have been silent for a
    minute are removed.
    """
    session.execute(delete(Host).where(Host.seen < now() - _MAX_SILENCE_SECONDS))
    rows = session.scalars(select(Host).order_by(Host.name))
    return {
        row.name: HostState(row.workers, row.busy, row.restarts, row.trouble or None)
        for row in rows
    }


def trouble_of(states: Mapping[str, HostState]) -> Problem | None:
    """Return why no other host paints, if so.

    Args:
        states: states of the other hosts, by name.
    """
    if not states:
        hint = "start one there: limner studio-worker"
        return Problem(code="no-worker", message="no worker on another host is running", hint=hint)
    troubles = {name: state.trouble for name, state in states.items() if state.trouble}
    if len(troubles) < len(states):
        return None
    name, trouble = next(iter(troubles.items()))
    return Problem(**trouble | {"message": f"{trouble['message']} (on {name})"})


def store_reports(session: Session, reports: Mapping[str, Mapping[str, Any]]) -> None:
    """Store reports on jobs, by their ids, for the studio."""
    delete_reports(session, reports)
    session.add_all(JobReport(job=id, document=dict(document)) for id, document in reports.items())


def delete_reports(session: Session, ids: Collection[str]) -> None:
    """Delete the reports on jobs."""
    session.execute(delete(JobReport).where(JobReport.job.in_(ids)))


def read_reports(session: Session, ids: Collection[str]) -> list[tuple[Job, dict[str, Any]]]:
    """Return the jobs with the given ids, and the report on each."""
    query = (
        select(Job, JobReport.document)
        .outerjoin(JobReport, JobReport.job == Job.id)
        .where(Job.id.in_(ids))
    )
    return [(job, document or {}) for job, document in session.execute(query)]
