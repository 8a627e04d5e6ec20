"""What the studio remembers: jobs, pictures and their files, and what models there were.

SQLite in the studio's folder, or any database that SQLAlchemy speaks to. One server writes, and a
lock keeps its threads in line; workers on other hosts write of the jobs that they have (`leases`).
"""

import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Unpack

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.orm import Session

from limner.studio import leases, order
from limner.studio.common_files import CommonFiles
from limner.studio.database import open_database
from limner.studio.gallery import Filter, painted
from limner.studio.leases import Owner
from limner.studio.tables import (
    CANCELLED,
    DONE,
    FAILED,
    OVER,
    RUNNING,
    WAITING,
    FullError,
    Job,
    Kept,
    Painted,
    Picture,
    new_id,
)

_RESTORE_SECONDS = 3600.0
_THERE = Picture.deleted.is_(None)
_WAITS = {Job.state: WAITING, Job.worker: None, Job.lease: None}


class Store:
    """The database, and the pictures' files.

    Args:
        url: where the database is.
        files: where the pictures are, each named by its hash; a folder, or what has copies of a
            common store there.
        limit: how many jobs may wait.
        owner: the worker on another host whose jobs these are; None for the studio.

    Raises:
        LimnerError: it cannot be opened.
    """

    def __init__(
        self, url: str, files: Path | CommonFiles, limit: int = 200, owner: Owner | None = None
    ) -> None:
        self.common = CommonFiles(files) if isinstance(files, Path) else files
        self.files, self.limit, self.owner = self.common.folder, limit, owner
        self._lock = threading.Lock()
        self._engine = open_database(url)

    def close(self) -> None:
        """Let go of the database."""
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
        """Put a job in the queue; the one that is there already if the client asks again.

        Raises:
            FullError: too many wait.
        """
        with self._writing() as session:
            if job.key:
                known = session.scalar(select(Job).where(Job.key == job.key))
                if known is not None:
                    return known
            waiting = session.scalar(select(func.count()).where(Job.state == WAITING)) or 0
            if waiting >= self.limit:
                raise FullError
            job.id, job.state, job.created = new_id(), WAITING, time.time()
            session.add(job)
            return job

    def job(self, id: str) -> Job | None:
        """A job by its id."""
        with self._reading() as session:
            return session.scalar(select(Job).where(Job.id == id))

    def waiting(self) -> int:
        """How many jobs wait."""
        with self._reading() as session:
            return session.scalar(select(func.count()).where(Job.state == WAITING)) or 0

    def ahead(self, job: Job) -> order.Ahead:
        """What is painted before a job that waits."""
        with self._reading() as session:
            return order.ahead(session, job)

    def counts(self) -> dict[str, int]:
        """How many jobs are in each state."""
        with self._reading() as session:
            rows = session.execute(select(Job.state, func.count()).group_by(Job.state))
            return {state: count for state, count in rows}  # noqa: C416, a row is no tuple

    def jobs(
        self, *, board: str | None = None, unfinished: bool = False, of: Collection[str] = ()
    ) -> list[Job]:
        """The jobs of a grid, all that wait or run, or those that were given one of some pictures
        by their ids; in their order.
        """
        with self._reading() as session:
            query = select(Job).limit(1000)
            query = query.order_by(*(order.PLACE if unfinished else (Job.number,)))
            if of:
                parent, image = (Job.inputs[name].as_string() for name in ("parent", "image"))
                query = query.where(parent.in_(of) | image.in_(of))
            if board is not None:
                query = query.where(Job.board == board)
            if unfinished:
                query = query.where(Job.state.in_((WAITING, RUNNING)))
            found = list(session.scalars(query))
        return sorted(found, key=lambda job: job.state != RUNNING) if unfinished else found

    def begin(self, pictures: int, weights: Collection[str] | None = None) -> list[Job]:
        """The next job, with those behind it that fit into a batch; they run.

        Args:
            pictures: how many a batch has at most, unless a single job has more.
            weights: hashes of the models that can be used; None for all.
        """
        with self._writing() as session:
            if self.owner is not None:
                leases.reclaim(session)
            return order.next_batch(session, pictures, self.owner, weights)

    def move_to_front(self, id: str) -> bool:
        """Have a job painted before all others that wait; whether it waits."""
        with self._writing() as session:
            return order.move_to_front(session, id)

    def clear(self, ids: Collection[str] | None = None) -> list[str]:
        """Cancel the jobs that wait, or those of some ids; the ids of all that were cancelled."""
        with self._writing() as session:
            return order.clear(session, ids)

    def finish(
        self, id: str, painted: Sequence[Painted], notes: Mapping[str, Any], kept: bool = True
    ) -> bool:
        """Keep what a job painted; whether it was still wanted.

        Args:
            id: of the job.
            painted: its pictures.
            notes: how it went.
            kept: whether they are in the history; else they go after a while, as uploads do.
        """
        with self._writing() as session:
            own = (Job.id == id, Job.state == RUNNING, leases.is_own(self.owner))
            job = session.scalar(select(Job).where(*own).with_for_update())
            if job is None:
                return False
            job.state, job.finished, job.notes, job.lease = DONE, time.time(), dict(notes), None
            leases.forget(session, [id])
            for place, each in enumerate(painted):
                session.add(
                    Picture(
                        id=new_id(),
                        job=job.number,
                        painted=kept,
                        place=place,
                        sha256=each.sha256,
                        width=each.width,
                        height=each.height,
                        model=job.model,
                        words=_words(session, job),
                        settings=dict(each.settings),
                        created=job.finished,
                    )
                )
            return True

    def fail(self, id: str, error: Mapping[str, Any]) -> bool:
        """A job that ends with an error."""
        return self._end(id, FAILED, dict(error), leases.is_own(self.owner))

    def cancel(self, id: str) -> bool:
        """A job that is wanted no longer; whether it had not ended yet."""
        return self._end(id, CANCELLED, None)

    def _end(
        self, id: str, state: str, error: dict[str, Any] | None, *of: ColumnElement[bool]
    ) -> bool:
        with self._writing() as session:
            ended = session.execute(
                update(Job)
                .where(Job.id == id, Job.state.in_((RUNNING, WAITING)), *of)
                .values(state=state, finished=time.time(), error=error, lease=None)
            )
            leases.forget(session, [id])
            return bool(ended.rowcount)  # pyright: ignore[reportAttributeAccessIssue]

    def again(self, id: str) -> bool:
        """Put a job that runs back to where it was in the queue."""
        own = (Job.id == id, Job.state == RUNNING, leases.is_own(self.owner))
        with self._writing() as session:
            put = session.execute(update(Job).where(*own).values(_WAITS))
            leases.forget(session, [id])
            return bool(put.rowcount)  # pyright: ignore[reportAttributeAccessIssue]

    def recover(self, running: Collection[str] = ()) -> int:
        """Queue again what ran when the server was stopped; it is not the jobs' fault.

        Args:
            running: ids of jobs that do run.
        """
        own = (Job.state == RUNNING, Job.id.not_in(running), leases.is_own(self.owner))
        with self._writing() as session:
            found = session.execute(
                update(Job).where(*own).values(_WAITS | {Job.attempts: Job.attempts - 1})
            )
            return found.rowcount  # pyright: ignore[reportAttributeAccessIssue]

    def renew(
        self,
        ids: Collection[str],
        told: Mapping[str, Mapping[str, Any]],
        standing: leases.Standing | None = None,
    ) -> set[str]:
        """Go on having jobs that a worker on another host paints; the ids of those that it has.

        Args:
            ids: of the jobs.
            told: what the studio is to hear of jobs.
            standing: how the host's workers are, if that is to be known.
        """
        with self._writing() as session:
            assert self.owner is not None
            if standing is not None:
                leases.stand(session, self.owner, standing)
            own = leases.renew(session, self.owner, ids)
            leases.tell(session, {id: told[id] for id in told if id in own})
            return own

    def leave(self) -> None:
        """This host takes no more jobs."""
        with self._writing() as session:
            assert self.owner is not None
            leases.leave(session, self.owner)

    def hosts(self) -> dict[str, leases.Standing]:
        """The other hosts whose workers take jobs, by their names."""
        with self._writing() as session:
            return leases.hosts(session)

    def elsewhere(self, ids: Collection[str]) -> list[tuple[Job, dict[str, Any]]]:
        """How jobs are, by their ids, and what workers on other hosts told of them; what such a
        worker has no more is queued again before.
        """
        with self._writing() as session:
            leases.reclaim(session)
            return leases.heard(session, ids)

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
        """A picture by its id."""
        with self._reading() as session:
            return session.scalar(select(Picture).where(Picture.id == id, _THERE))

    def pictures_with(self, ids: Collection[str]) -> list[Picture]:
        """The pictures that have one of some ids, the newest first."""
        with self._reading() as session:
            query = select(Picture).where(Picture.id.in_(ids), _THERE)
            return list(session.scalars(query.order_by(Picture.number.desc())))

    def picture_of_file(self, sha256: str) -> Picture | None:
        """The newest picture whose pixels are a file's, by its hash."""
        with self._reading() as session:
            query = select(Picture).where(Picture.sha256 == sha256, _THERE)
            return session.scalar(query.order_by(Picture.number.desc()).limit(1))

    def pictures_of(self, jobs: Sequence[Job]) -> dict[int, list[Picture]]:
        """What jobs painted, by their numbers."""
        found: dict[int, list[Picture]] = {job.number: [] for job in jobs}
        with self._reading() as session:
            query = select(Picture).where(Picture.job.in_(found), _THERE).order_by(Picture.place)
            for picture in session.scalars(query):
                assert picture.job is not None
                found[picture.job].append(picture)
        return found

    def job_ids(self, pictures: Sequence[Picture]) -> dict[int, str]:
        """The ids of the jobs that painted pictures, by the jobs' numbers."""
        numbers = {picture.job for picture in pictures}
        with self._reading() as session:
            rows = session.execute(select(Job.number, Job.id).where(Job.number.in_(numbers)))
            return {number: id for number, id in rows}  # noqa: C416, a row is no tuple

    def job_of(self, picture: Picture) -> Job | None:
        """The job that painted a picture."""
        with self._reading() as session:
            return session.get(Job, picture.job) if picture.job is not None else None

    def history(
        self,
        *,
        before: int | None = None,
        limit: int = 60,
        oldest: bool = False,
        **of: Unpack[Filter],
    ) -> tuple[list[Picture], int]:
        """The newest pictures that were painted, and how many there are in all.

        Args:
            before: only what comes after the picture of this number in that order.
            limit: at most so many.
            oldest: the oldest first.
            of: which.
        """
        query, number = painted(of), Picture.number
        with self._reading() as session:
            total = session.scalar(select(func.count()).select_from(query.subquery())) or 0
            if before is not None:
                query = query.where(number > before if oldest else number < before)
            query = query.order_by(number if oldest else number.desc()).limit(limit)
            return list(session.scalars(query)), total

    def favour(self, id: str, favourite: bool) -> Picture | None:
        """Mark a picture, or take the mark away."""
        with self._writing() as session:
            picture = session.scalar(select(Picture).where(Picture.id == id))
            if picture is not None:
                picture.favourite = favourite
            return picture

    def file(self, sha256: str) -> Path:
        """Where a picture's pixels are."""
        return self.common.path(sha256)

    def delete(self, id: str) -> None:
        """Delete a picture; for an hour it can be restored."""
        self._set_deleted(id, time.time())

    def restore(self, id: str) -> Picture | None:
        """Take back that a picture was deleted; None if it is gone."""
        return self._set_deleted(id, None)

    def _set_deleted(self, id: str, when: float | None) -> Picture | None:
        with self._writing() as session:
            picture = session.scalar(select(Picture).where(Picture.id == id))
            if picture is not None:
                picture.deleted = when
            return picture

    def forget_file(self, sha256: str) -> None:
        """Delete a file, unless a picture has it."""
        with self._reading() as session:
            if self._unused(session, sha256):
                self.common.remove(sha256)

    def forget_old(self, keep: int, uploads_before: float) -> None:
        """Forget the oldest pictures beyond so many, favourites aside; as many uploads, and old
        ones; what was deleted an hour ago; and old jobs of which nothing is left. What a picture
        was painted from stays with it.
        """
        with self._writing() as session:
            plain = select(Picture).where(Picture.painted, ~Picture.favourite)
            beyond = plain.order_by(Picture.number.desc()).offset(keep)
            sent = select(Picture).where(~Picture.painted)
            many = sent.order_by(Picture.number.desc()).offset(keep)
            sent = sent.where(Picture.created < uploads_before)
            painted = select(Picture.job).where(Picture.painted)
            using = select(Job.inputs).where(
                Job.state.in_((WAITING, RUNNING)) | Job.number.in_(painted)
            )
            needed = {id for inputs in session.scalars(using) for id in inputs.values()}
            found = [each for query in (beyond, many, sent) for each in session.scalars(query)]
            old = {each.id: each for each in found if each.id not in needed}
            gone = select(Picture).where(Picture.deleted < time.time() - _RESTORE_SECONDS)
            old = (old | {each.id: each for each in session.scalars(gone)}).values()
            for picture in old:
                session.delete(picture)
            session.flush()
            left = select(Picture.job).where(Picture.job.is_not(None))
            ended = Job.state.in_(OVER), Job.finished < uploads_before, Job.number.not_in(left)
            session.execute(delete(Job).where(*ended))
        for sha256 in {picture.sha256 for picture in old}:
            self.forget_file(sha256)

    def _unused(self, session: Session, sha256: str) -> bool:
        return session.scalar(select(Picture.id).where(Picture.sha256 == sha256).limit(1)) is None

    # Documents ----------------------------------------------------------------------------------

    def keep(self, name: str, document: dict[str, Any]) -> None:
        """Store a document under a name, in place of an earlier one."""
        with self._writing() as session:
            session.execute(delete(Kept).where(Kept.name == name))
            session.add(Kept(name=name, document=document))

    def kept(self, name: str) -> dict[str, Any]:
        """A document by name; empty if there is none."""
        with self._reading() as session:
            found = session.get(Kept, name)
            return found.document if found else {}


def _words(session: Session, job: Job) -> str:
    """The text by which a job's pictures are found: its own, or that of their source."""
    own = " ".join(str(job.params.get(name) or "") for name in ("prompt", "label")).strip()
    source = select(Picture.words).where(Picture.id == job.inputs.get("image"))
    return own or session.scalar(source) or ""
