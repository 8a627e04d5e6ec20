"""The studio's store: jobs, pictures and their files, and descriptions of models.

It is SQLite in the studio's folder, or any database that SQLAlchemy supports. One server writes,
and a lock serialises its threads; workers on other hosts update the jobs they lease (`leases`).
"""

import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Unpack

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.orm import Session

from limner.studio import leases, order, retention
from limner.studio.common_files import CommonFiles
from limner.studio.database import open_database
from limner.studio.gallery import Filter, painted_pictures
from limner.studio.leases import Owner
from limner.studio.tables import (
    CANCELLED,
    DONE,
    FAILED,
    RUNNING,
    WAITING,
    FullError,
    Job,
    Kept,
    Painted,
    Picture,
    new_id,
)

_NOT_DELETED = Picture.deleted.is_(None)
_WAITING_VALUES = {Job.state: WAITING, Job.worker: None, Job.lease: None}


class Store:
    """The database, and the files of the pictures.

    Args:
        url: URL of the database.
        files: files of the pictures, each named by its hash: a folder, or a `CommonFiles`.
        limit: largest number of waiting jobs.
        owner: worker on another host that uses this store; None for the studio.

    Raises:
        LimnerError: the database cannot be opened.
    """

    def __init__(
        self, url: str, files: Path | CommonFiles, limit: int = 200, owner: Owner | None = None
    ) -> None:
        self.common = CommonFiles(files) if isinstance(files, Path) else files
        self.files, self.limit, self.owner = self.common.folder, limit, owner
        self._lock = threading.Lock()
        self._engine = open_database(url)

    def close(self) -> None:
        """Close the connections to the database."""
        self._engine.dispose()

    @contextmanager
    def _reading(self) -> Iterator[Session]:
        with Session(self._engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        with self._lock, Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    # Jobs ---------------------------------------------------------------------------------------

    def submit(self, job: Job) -> Job:
        """Put a job in the queue. Returns it, or the one that is there if the request is repeated.

        Raises:
            FullError: too many jobs wait.
        """
        with self._writing() as session:
            if job.key:
                existing = session.scalar(select(Job).where(Job.key == job.key))
                if existing is not None:
                    return existing
            waiting = session.scalar(select(func.count()).where(Job.state == WAITING)) or 0
            if waiting >= self.limit:
                raise FullError
            job.id, job.state, job.created = new_id(), WAITING, time.time()
            session.add(job)
            return job

    def job(self, id: str) -> Job | None:
        """Return a job by its id; None if there is none."""
        with self._reading() as session:
            return session.scalar(select(Job).where(Job.id == id))

    def jobs_ahead(self, job: Job) -> order.WorkAhead:
        """Count the jobs that are painted before a waiting job."""
        with self._reading() as session:
            return order.jobs_ahead(session, job)

    def counts(self) -> dict[str, int]:
        """Return the number of jobs in each state."""
        with self._reading() as session:
            rows = session.execute(select(Job.state, func.count()).group_by(Job.state))
            return {state: count for state, count in rows}  # noqa: C416, a row is not a tuple

    def jobs(
        self, *, board: str | None = None, unfinished: bool = False, of: Collection[str] = ()
    ) -> list[Job]:
        """Return jobs in their order: those of a grid, those that wait or run, or those whose
        source is a picture with one of the ids in `of`.
        """
        with self._reading() as session:
            query = select(Job).limit(1000)
            query = query.order_by(*(order.QUEUE_ORDER if unfinished else (Job.number,)))
            if of:
                parent, image = (Job.inputs[name].as_string() for name in ("parent", "image"))
                query = query.where(parent.in_(of) | image.in_(of))
            if board is not None:
                query = query.where(Job.board == board)
            if unfinished:
                query = query.where(Job.state.in_((WAITING, RUNNING)))
            rows = list(session.scalars(query))
        return sorted(rows, key=lambda job: job.state != RUNNING) if unfinished else rows

    def begin(self, pictures: int, weights: Collection[str] | None = None) -> list[Job]:
        """Mark the next job as running, with later jobs that fit into its batch, and return them.

        Args:
            pictures: largest number of pictures in a batch, unless a single job has more.
            weights: hashes of the models that can be used; None for all.
        """
        with self._writing() as session:
            if self.owner is not None:
                leases.reclaim(session)
            return order.next_batch(session, pictures, self.owner, weights)

    def move_to_front(self, id: str) -> bool:
        """Move a job before all others that wait. Returns whether it is waiting."""
        with self._writing() as session:
            return order.move_to_front(session, id)

    def clear(self, ids: Collection[str] | None = None) -> list[str]:
        """Cancel all waiting jobs, or those with the given ids. Returns the ids of these jobs."""
        with self._writing() as session:
            return order.clear(session, ids)

    def finish(
        self, id: str, painted: Sequence[Painted], notes: Mapping[str, Any], kept: bool = True
    ) -> bool:
        """Store the pictures of a job. Returns whether the job was not cancelled meanwhile.

        Args:
            id: id of the job.
            painted: pictures of the job.
            notes: notes on the job, such as its time in seconds.
            kept: whether the pictures are in the history; else they are deleted like uploads.
        """
        with self._writing() as session:
            conditions = (Job.id == id, Job.state == RUNNING, leases.is_own(self.owner))
            job = session.scalar(select(Job).where(*conditions).with_for_update())
            if job is None:
                return False
            job.state, job.finished, job.notes, job.lease = DONE, time.time(), dict(notes), None
            leases.delete_reports(session, [id])
            for place, picture in enumerate(painted):
                session.add(
                    Picture(
                        id=new_id(),
                        job=job.number,
                        painted=kept,
                        place=place,
                        sha256=picture.sha256,
                        width=picture.width,
                        height=picture.height,
                        model=job.model,
                        words=_words(session, job),
                        settings=dict(picture.settings),
                        created=job.finished,
                    )
                )
            return True

    def fail(self, id: str, error: Mapping[str, Any]) -> bool:
        """End a job with an error. Returns whether it had not ended yet."""
        return self._end(id, FAILED, dict(error), leases.is_own(self.owner))

    def cancel(self, id: str) -> bool:
        """Cancel a job. Returns whether it had not ended yet."""
        return self._end(id, CANCELLED, None)

    def _end(
        self, id: str, state: str, error: dict[str, Any] | None, *conditions: ColumnElement[bool]
    ) -> bool:
        with self._writing() as session:
            result = session.execute(
                update(Job)
                .where(Job.id == id, Job.state.in_((RUNNING, WAITING)), *conditions)
                .values(state=state, finished=time.time(), error=error, lease=None)
            )
            leases.delete_reports(session, [id])
            return bool(result.rowcount)  # pyright: ignore[reportAttributeAccessIssue]

    def requeue(self, id: str) -> bool:
        """Put a running job back in its place in the queue. Returns whether it was running."""
        conditions = (Job.id == id, Job.state == RUNNING, leases.is_own(self.owner))
        with self._writing() as session:
            result = session.execute(update(Job).where(*conditions).values(_WAITING_VALUES))
            leases.delete_reports(session, [id])
            return bool(result.rowcount)  # pyright: ignore[reportAttributeAccessIssue]

    def recover(self, running: Collection[str] = ()) -> int:
        """Queue the jobs again that ran when the server was stopped, without counting the attempt.

        Args:
            running: ids of jobs that still run.
        """
        conditions = (Job.state == RUNNING, Job.id.not_in(running), leases.is_own(self.owner))
        with self._writing() as session:
            result = session.execute(
                update(Job)
                .where(*conditions)
                .values(_WAITING_VALUES | {Job.attempts: Job.attempts - 1})
            )
            return result.rowcount  # pyright: ignore[reportAttributeAccessIssue]

    def renew(
        self,
        ids: Collection[str],
        reports: Mapping[str, Mapping[str, Any]],
        host_state: leases.HostState | None = None,
    ) -> set[str]:
        """Renew this host's leases of jobs. Returns the ids of the jobs that it still has.

        Args:
            ids: ids of the jobs.
            reports: reports on jobs for the studio, by id.
            host_state: state of the host's workers, if it is to be stored.
        """
        with self._writing() as session:
            assert self.owner is not None
            if host_state is not None:
                leases.store_host(session, self.owner, host_state)
            renewed = leases.renew(session, self.owner, ids)
            leases.store_reports(session, {id: reports[id] for id in reports if id in renewed})
            return renewed

    def leave(self) -> None:
        """Remove this host from the list of hosts, because it takes no more jobs."""
        with self._writing() as session:
            assert self.owner is not None
            leases.remove_host(session, self.owner)

    def hosts(self) -> dict[str, leases.HostState]:
        """Return the state of the other hosts whose workers take jobs, by name."""
        with self._writing() as session:
            return leases.hosts(session)

    def jobs_with_reports(self, ids: Collection[str]) -> list[tuple[Job, dict[str, Any]]]:
        """Return the jobs with the given ids, and the reports of workers on other hosts on them.
        Jobs with an expired lease are queued again first.
        """
        with self._writing() as session:
            leases.reclaim(session)
            return leases.read_reports(session, ids)

    # Pictures -----------------------------------------------------------------------------------

    def upload(self, painted: Painted) -> Picture:
        """Record an uploaded file."""
        with self._writing() as session:
            picture = Picture(
                id=new_id(),
                job=None,
                painted=False,
                sha256=painted.sha256,
                width=painted.width,
                height=painted.height,
                settings=dict(painted.settings) or None,
                created=time.time(),
            )
            session.add(picture)
            return picture

    def picture(self, id: str) -> Picture | None:
        """Return a picture by its id; None if there is none."""
        with self._reading() as session:
            return session.scalar(select(Picture).where(Picture.id == id, _NOT_DELETED))

    def pictures_with(self, ids: Collection[str]) -> list[Picture]:
        """Return the pictures with the given ids, the newest first."""
        with self._reading() as session:
            query = select(Picture).where(Picture.id.in_(ids), _NOT_DELETED)
            return list(session.scalars(query.order_by(Picture.number.desc())))

    def picture_of_file(self, sha256: str) -> Picture | None:
        """Return the newest picture of a file, given by its hash; None if there is none."""
        with self._reading() as session:
            query = select(Picture).where(Picture.sha256 == sha256, _NOT_DELETED)
            return session.scalar(query.order_by(Picture.number.desc()).limit(1))

    def pictures_of(self, jobs: Sequence[Job]) -> dict[int, list[Picture]]:
        """Return the pictures of jobs, by the jobs' numbers."""
        pictures: dict[int, list[Picture]] = {job.number: [] for job in jobs}
        with self._reading() as session:
            query = (
                select(Picture)
                .where(Picture.job.in_(pictures), _NOT_DELETED)
                .order_by(Picture.place)
            )
            for picture in session.scalars(query):
                assert picture.job is not None
                pictures[picture.job].append(picture)
        return pictures

    def job_ids(self, pictures: Sequence[Picture]) -> dict[int, str]:
        """Return the ids of the jobs that painted pictures, by the jobs' numbers."""
        numbers = {picture.job for picture in pictures}
        with self._reading() as session:
            rows = session.execute(select(Job.number, Job.id).where(Job.number.in_(numbers)))
            return {number: id for number, id in rows}  # noqa: C416, a row is not a tuple

    def job_of(self, picture: Picture) -> Job | None:
        """Return the job that painted a picture; None if there is none."""
        with self._reading() as session:
            return session.get(Job, picture.job) if picture.job is not None else None

    def history(
        self,
        *,
        before: int | None = None,
        limit: int = 60,
        oldest: bool = False,
        **filters: Unpack[Filter],
    ) -> tuple[list[Picture], int]:
        """Return painted pictures, the newest first, and their total number.

        Args:
            before: number of a picture; only pictures that follow it in this order are returned.
            limit: largest number of pictures to return.
            oldest: whether to return the oldest first.
            filters: filters of the pictures.
        """
        query, number = painted_pictures(filters), Picture.number
        with self._reading() as session:
            total = session.scalar(select(func.count()).select_from(query.subquery())) or 0
            if before is not None:
                query = query.where(number > before if oldest else number < before)
            query = query.order_by(number if oldest else number.desc()).limit(limit)
            return list(session.scalars(query)), total

    def set_favourite(self, id: str, favourite: bool) -> Picture | None:
        """Make a picture a favourite, or no longer. Returns it; None if it is gone."""
        with self._writing() as session:
            picture = session.scalar(select(Picture).where(Picture.id == id))
            if picture is not None:
                picture.favourite = favourite
            return picture

    def delete(self, id: str) -> None:
        """Mark a picture as deleted; it can be restored for an hour."""
        self._set_deletion_time(id, time.time())

    def restore(self, id: str) -> Picture | None:
        """Restore a deleted picture. Returns it; None if it is gone."""
        return self._set_deletion_time(id, None)

    def _set_deletion_time(self, id: str, when: float | None) -> Picture | None:
        with self._writing() as session:
            picture = session.scalar(select(Picture).where(Picture.id == id))
            if picture is not None:
                picture.deleted = when
            return picture

    def forget_files(self, names: Collection[str] = ()) -> None:
        """Delete files that no picture uses, and earlier ones that could not be deleted.

        Args:
            names: hashes of the files.

        Raises:
            OSError: the files cannot be deleted now; a later call deletes them.
        """
        with self._writing() as session:
            unused = retention.add_unused_files(session, names)
        for name in unused:
            with self._reading() as session:
                in_use = retention.is_in_use(session, name)
            if not in_use:
                self.common.remove(name)
            with self._writing() as session:
                retention.remove_unused_file(session, name)

    def forget_old(self, keep: int, uploads_before: float) -> None:
        """Delete old pictures, jobs and files, see `retention.delete_old`.

        Raises:
            OSError: the files cannot be deleted now; a later call deletes them.
        """
        with self._writing() as session:
            names = retention.delete_old(session, keep, uploads_before)
            retention.add_unused_files(session, names)
        self.forget_files()

    # Documents ----------------------------------------------------------------------------------

    def keep(self, name: str, document: dict[str, Any]) -> None:
        """Store a document under a name, in place of an earlier one."""
        with self._writing() as session:
            session.execute(delete(Kept).where(Kept.name == name))
            session.add(Kept(name=name, document=document))

    def document(self, name: str) -> dict[str, Any]:
        """Return a document by name; empty if there is none."""
        with self._reading() as session:
            row = session.get(Kept, name)
            return row.document if row else {}


def _words(session: Session, job: Job) -> str:
    """Return the text with which a job's pictures are found: its own, or that of their source."""
    words = " ".join(str(job.params.get(name) or "") for name in ("prompt", "label")).strip()
    source = select(Picture.words).where(Picture.id == job.inputs.get("image"))
    return words or session.scalar(source) or ""
