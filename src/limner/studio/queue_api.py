"""The queue as a whole, through the API.

GET    /api/v1/queue             whether it is paused, how many jobs and pictures wait
PATCH  /api/v1/queue             pause or resume it
POST   /api/v1/queue/clear       cancel all waiting jobs, or some of them
POST   /api/v1/jobs/{id}/front   move a job before all others that wait
"""

from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from pydantic import BaseModel, Field

from limner.studio.api_types import Id, PathId, Strict
from limner.studio.background import in_thread
from limner.studio.lifecycle import Studio
from limner.studio.order import pictures_of
from limner.studio.problems import RefusedError, errors
from limner.studio.tables import WAITING, Job

_MAX_JOBS = 1000


class QueueAnswer(BaseModel):
    """The state of the queue: whether it is paused, waiting jobs, and their pictures."""

    paused: bool
    jobs: int
    pictures: int


class Pause(Strict):
    """A request to pause or resume the queue."""

    paused: bool


class Clear(Strict):
    """A request to cancel all waiting jobs, or those with the given ids."""

    jobs: Annotated[list[Id], Field(max_length=_MAX_JOBS)] | None = None


class Cleared(BaseModel):
    """The number of cancelled jobs."""

    cancelled: int


async def _job(id: PathId, request: Request) -> Job:
    job = await in_thread(request.app.state.studio.store.job, id)
    if job is None:
        raise RefusedError(404, "unknown", "there is no such job", "it may have been deleted")
    return job


KnownJob = Annotated[Job, Depends(_job)]


def add_queue(app: FastAPI, studio: Studio) -> None:
    """Add the routes for the queue as a whole, and for a job's place in it."""

    async def answer() -> QueueAnswer:
        rows = await in_thread(studio.store.jobs, unfinished=True)
        waiting = [job for job in rows if job.state == WAITING]
        pictures = sum(map(pictures_of, waiting))
        return QueueAnswer(paused=studio.queue.paused, jobs=len(waiting), pictures=pictures)

    @app.get("/api/v1/queue", responses=errors(), response_model=QueueAnswer)
    async def queue() -> Any:
        """Return whether the queue is paused, and how much waits in it."""
        return await answer()

    @app.patch("/api/v1/queue", responses=errors(), response_model=QueueAnswer)
    async def pause(body: Pause) -> Any:
        """Pause or resume the queue. Running jobs are finished; a restart changes nothing."""
        await studio.queue.pause(body.paused)
        return await answer()

    @app.post("/api/v1/queue/clear", responses=errors(), response_model=Cleared)
    async def clear(body: Clear) -> Any:
        """Cancel all waiting jobs, or some of them; running jobs continue."""
        return Cleared(cancelled=await studio.queue.clear(body.jobs))

    @app.post("/api/v1/jobs/{id}/front", status_code=204, responses=errors(404, 409))
    async def front(job: KnownJob) -> None:
        """Move a job before all others that wait."""
        if not await studio.queue.move_to_front(job):
            raise RefusedError(409, "begun", "this job is no longer waiting", "leave it")
