"""The order of jobs: oldest first, except those that were moved to the front."""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.orm import Session

from limner.studio.leases import Owner, now, weights_condition
from limner.studio.tables import CANCELLED, RUNNING, WAITING, Job

QUEUE_ORDER = (func.coalesce(Job.rank, 0), Job.number)
"""The sort key of jobs: the lowest rank first, then the oldest."""


@dataclass(frozen=True)
class WorkAhead:
    """The jobs that are painted before a job.

    Args:
        jobs: number of jobs.
        pictures: number of pictures, by model.
    """

    jobs: int
    pictures: Mapping[str, int]

    def with_job(self, job: Job) -> "WorkAhead":
        """Return these counts with a further job added."""
        pictures = self.pictures.get(job.model, 0) + pictures_of(job)
        return WorkAhead(self.jobs + 1, {**self.pictures, job.model: pictures})


def pictures_of(job: Job) -> int:
    """Return the number of pictures that a job requests."""
    return job.params.get("n", 1)


def with_jobs_ahead(jobs: Iterable[Job]) -> Iterator[tuple[Job, WorkAhead]]:
    """Yield jobs in the given order, each with the counts of the jobs ahead of it."""
    before = WorkAhead(0, {})
    for job in jobs:
        yield job, before
        if job.state in (WAITING, RUNNING):
            before = before.with_job(job)


def jobs_ahead(session: Session, job: Job) -> WorkAhead:
    """Count the jobs that are painted before a waiting job."""
    rank = job.rank or 0
    sooner = or_(QUEUE_ORDER[0] < rank, and_(QUEUE_ORDER[0] == rank, Job.number < job.number))
    before = or_(Job.state == RUNNING, and_(Job.state == WAITING, sooner))
    count: ColumnElement[int] = func.coalesce(Job.params["n"].as_integer(), 1)
    query = select(Job.model, func.count(), func.sum(count)).group_by(Job.model)
    rows = session.execute(query.where(before, Job.number != job.number)).all()
    return WorkAhead(sum(row[1] for row in rows), {row[0]: int(row[2]) for row in rows})


def next_batch(
    session: Session,
    pictures: int,
    owner: Owner | None = None,
    weights: Collection[str] | None = None,
) -> list[Job]:
    """Mark the next job as running, with later jobs that fit into its batch, and return them. A job
    that is tried a second time is alone in its batch.

    Args:
        session: database session, in a transaction.
        pictures: largest number of pictures in a batch, unless a single job has more.
        owner: worker on another host that takes the jobs; None for the studio's own.
        weights: hashes of the models that can be used; None for all.
    """
    queue = (
        select(Job).where(Job.state == WAITING, weights_condition(weights)).order_by(*QUEUE_ORDER)
    )
    queue = queue.with_for_update(skip_locked=True)  # hosts take jobs at the same time
    first = session.scalar(queue.limit(1))
    if first is None:
        return []
    batch, room = [first], pictures - pictures_of(first)
    if first.alike and not first.attempts:  # a job that lost its worker may have killed it
        similar = queue.where(Job.alike == first.alike, Job.attempts == 0)
        for job in session.scalars(similar.limit(pictures)):
            if job is not first and pictures_of(job) <= room:
                batch.append(job)
                room -= pictures_of(job)
    for job in batch:
        job.state, job.started, job.attempts = RUNNING, time.time(), job.attempts + 1
        if owner is not None:
            job.worker, job.lease = owner.name, now() + owner.seconds  # pyright: ignore
    return batch


def move_to_front(session: Session, id: str) -> bool:
    """Move a job before all others that wait. Returns whether it is waiting."""
    job = session.scalar(select(Job).where(Job.id == id, Job.state == WAITING))
    if job is not None:
        first = session.scalar(select(func.min(QUEUE_ORDER[0])).where(Job.state == WAITING)) or 0
        job.rank = min(first, 0) - 1
    return job is not None


def clear(session: Session, ids: Collection[str] | None) -> list[str]:
    """Cancel all waiting jobs, or those with the given ids. Returns the ids of the cancelled."""
    query = select(Job).where(Job.state == WAITING)
    if ids is not None:
        query = query.where(Job.id.in_(ids))
    jobs = list(session.scalars(query))
    for job in jobs:
        job.state, job.finished = CANCELLED, time.time()
    return [job.id for job in jobs]
