"""The queue: jobs from the request to the end, and the events that are sent to listeners."""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, TypeVar

from limner.studio.background import in_store_thread, in_thread, log
from limner.studio.events import Channel
from limner.studio.order import WorkAhead, with_jobs_ahead
from limner.studio.problems import Problem, as_refusal, is_temporary
from limner.studio.settings import MAX_ATTEMPTS, MAX_PICTURES
from limner.studio.store import Store
from limner.studio.tables import CANCELLED, DONE, FAILED, FINAL_STATES, RUNNING, Job, Painted

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0  # seconds until the database is tried again
_DOCUMENT_NAME = "queue"
T = TypeVar("T")


class Queue:
    """The jobs that wait or run.

    Args:
        store: store of the jobs.
        begins: whether jobs are started here, and not only by workers on other hosts.

    Attributes:
        trouble: why no job can be started or finished at present, if so.
        wake: set when there is something to do.
        picture_count: number of pictures since the start.
        closed: whether no more jobs are started.
        paused: whether no job is started until the queue is resumed; this survives a restart.
    """

    def __init__(self, store: Store, begins: bool = True) -> None:
        self._store, self._begins = store, begins
        self._channels: dict[str, Channel] = {}
        self._pace: dict[str, float] = {}
        self._remote_reports: dict[str, tuple[str | None, dict[str, Any]]] = {}
        self.trouble: Problem | None = None
        self.wake = asyncio.Event()
        self.picture_count = 0
        self.closed = self.paused = False
        self._start_lock = asyncio.Lock()

    # Requests -----------------------------------------------------------------------------------

    async def submit(self, job: Job) -> tuple[Job, WorkAhead]:
        """Put a job in the queue. Returns it, or the one that is there, and what is ahead of it."""
        job = await in_thread(self._store.submit, job)
        self.wake.set()
        return job, await in_thread(self._store.jobs_ahead, job)

    async def cancel(self, job: Job) -> bool:
        """Cancel a job that waits or runs. Returns whether it had not ended yet."""
        cancelled = await in_thread(self._store.cancel, job.id)
        if cancelled:
            self._end(job.id, CANCELLED)
            await self._tell_positions()
        return cancelled

    async def move_to_front(self, job: Job) -> bool:
        """Move a job before all others that wait. Returns whether it is waiting."""
        is_waiting = await in_thread(self._store.move_to_front, job.id)
        if is_waiting:
            await self._tell_positions()
        return is_waiting

    async def clear(self, ids: Collection[str] | None) -> int:
        """Cancel all waiting jobs, or those with the given ids. Returns their number."""
        cleared = await in_thread(self._store.clear, ids)
        for id in cleared:
            self._end(id, CANCELLED)
        await self._tell_positions()
        return len(cleared)

    async def recall(self) -> None:
        """Pause the queue if it was paused when the server was stopped."""
        self.paused = bool((await in_thread(self._store.document, _DOCUMENT_NAME)).get("paused"))

    async def pause(self, paused: bool) -> None:
        """Pause or resume the queue; running jobs are finished."""
        await in_thread(self._store.keep, _DOCUMENT_NAME, {"paused": paused})
        self.paused = paused
        self.wake.set()
        for channel in self._channels.values():
            channel.tell("paused", paused=paused)
        await self._tell_positions()

    def eta(self, job: Job, ahead: WorkAhead) -> float | None:
        """Estimate the seconds until a waiting job is done, from the pace of earlier pictures. None
        if its model has not painted yet, or while the queue is paused.
        """
        pace = self._pace.get(job.model)
        if pace is None or self.paused:
            return None
        counts = ahead.with_job(job).pictures.items()
        return round(sum(n * self._pace.get(model, pace) for model, n in counts), 1)

    # Progress -----------------------------------------------------------------------------------

    async def begin(self) -> list[Job]:
        """Start the next batch of jobs, and return it."""
        if self.closed or self.paused or not self._begins:
            return []
        async with self._start_lock:
            return await self._retry(self._store.begin, MAX_PICTURES)

    async def announce(self, jobs: Sequence[Job]) -> None:
        """Send the events that jobs have started."""
        self.wake.set()  # there may be more, for other workers
        for job in jobs:
            (await self.channel(job)).tell("started", model=job.model)
        await self._tell_positions()

    async def finish(
        self, id: str, painted: Sequence[Painted], notes: dict[str, Any], kept: bool
    ) -> bool:
        """Store the pictures of a job. Returns whether the job was not cancelled meanwhile."""
        for picture in painted:
            await self._retry(self._store.common.publish, picture.sha256, by=in_store_thread)
        is_stored = await self._retry(self._store.finish, id, painted, notes, kept)
        if is_stored:
            self.picture_count += len(painted) * kept
            self._end(id, DONE, **notes)
        return is_stored

    async def fail(self, id: str, problem: Problem) -> None:
        """End a job with an error."""
        if await self._retry(self._store.fail, id, problem.model_dump()):
            self._end(id, FAILED, **problem.model_dump())

    async def give_back(self, jobs: Sequence[Job], problem: Problem) -> None:
        """Queue unfinished jobs again; a job that may have killed its worker twice fails."""
        for job in jobs:
            if job.attempts >= MAX_ATTEMPTS:
                await self.fail(job.id, problem)
            elif await self._retry(self._store.requeue, job.id):
                (await self.channel(job)).tell("queued", position=0, eta=None)
        self.wake.set()

    async def recover(self, at_work: Callable[[], list[str]]) -> None:
        """Queue all jobs again that are marked as running, but that no worker has.

        Args:
            at_work: function that returns the ids of jobs that a worker has; it is called while no
                job is being started.
        """
        async with self._start_lock:
            await self._retry(self._store.recover, at_work())

    def update_pace(self, model: str, seconds: float) -> None:
        """Update the estimate of how long a picture of a model takes, in seconds."""
        self._pace[model] = 0.5 * self._pace.get(model, seconds) + 0.5 * seconds

    async def follow(self) -> None:
        """Read the progress of jobs on other hosts, and send it to their listeners."""
        for job, report in await self._retry(self._store.jobs_with_reports, [*self._channels]):
            worker, previous = self._remote_reports.pop(job.id, (None, {}))
            if worker not in (None, job.worker):  # the worker has lost the job
                self.tell(job.id, "queued", position=0, eta=None)
                self.wake.set()
            if job.worker is not None:
                if worker != job.worker:
                    self.tell(job.id, "started", model=job.model)
                if report != previous:
                    for name, data in report.items():
                        self.tell(job.id, name, **data)
                self._remote_reports[job.id] = job.worker, report
            if job.state in FINAL_STATES:
                self._end(job.id, job.state, **(job.error or job.notes or {}))
        self._remote_reports = {
            id: self._remote_reports[id] for id in self._remote_reports if id in self._channels
        }

    async def _retry(
        self,
        function: Callable[..., T],
        *arguments: Any,
        by: Callable[..., Coroutine[Any, Any, T]] = in_thread,
    ) -> T:
        """Call a function that needs the database, and retry while the database is locked or the
        disk is full, so that no painted picture is lost.
        """
        pause = _FIRST_PAUSE
        while True:
            try:
                result = await by(function, *arguments)
                break
            except Exception as error:
                if not is_temporary(error):
                    raise
                problem = as_refusal(error).as_problem()
                if self.trouble is None or self.trouble.message != problem.message:
                    log.warning("%s; %s; the queue waits", problem.message, problem.hint)
                self._set_trouble(problem)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        if self.trouble is not None:
            log.warning("the queue continues")
            self._set_trouble(None)
        return result

    # Events -------------------------------------------------------------------------------------

    async def channel(self, job: Job) -> Channel:
        """Return the channel of a job's events; for a job that is over, it has the last event."""
        channel = self._channels.get(job.id)
        if channel is None:
            ahead = await in_thread(self._store.jobs_ahead, job)
            channel = self._channels.get(job.id)  # another request may have opened it
            if channel is None:
                channel = self._open(job, ahead)
                current = await in_thread(self._store.job, job.id)  # it may have ended meanwhile
                if current is None:
                    self._end(job.id, CANCELLED)
                job = current or job
        if job.state in FINAL_STATES:
            self._end(job.id, job.state, **(job.error or job.notes or {}))
        return channel

    def _open(self, job: Job, ahead: WorkAhead) -> Channel:
        """Open the channel of a job, with the events of its present state."""
        channel = self._channels[job.id] = Channel()
        channel.tell("queued", position=ahead.jobs, eta=self.eta(job, ahead))
        if self.paused:
            channel.tell("paused", paused=True)
        if job.state == RUNNING:
            channel.tell("started")
        if self.trouble is not None:
            channel.tell("trouble", **self.trouble.model_dump())
        return channel

    def tell(self, id: str, name: str, **data: Any) -> None:
        """Send an event to the listeners of a job."""
        if id in self._channels:
            self._channels[id].tell(name, **data)

    def close(self) -> None:
        """End all streams, because the server stops."""
        for channel in self._channels.values():
            channel.close()

    def _set_trouble(self, trouble: Problem | None) -> None:
        if trouble != self.trouble:
            self.trouble = trouble
            problem = trouble or Problem(code="", message="")
            for channel in self._channels.values():
                channel.tell("trouble", **problem.model_dump())

    def _end(self, id: str, state: str, **data: Any) -> None:
        channel = self._channels.pop(id, None)
        if channel is not None:
            channel.tell(state, **data)

    async def _tell_positions(self) -> None:
        """Send the listeners of waiting jobs their new positions."""
        if not any(channel.listener_count for channel in self._channels.values()):
            return
        for job, ahead in with_jobs_ahead(await in_thread(self._store.jobs, unfinished=True)):
            channel = self._channels.get(job.id)
            if channel is None or job.state == RUNNING or channel.is_running:  # it may just begin
                continue
            channel.tell("queued", position=ahead.jobs, eta=self.eta(job, ahead))
