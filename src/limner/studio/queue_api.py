"""The queue as a whole, through the API.

GET    /api/v1/queue             whether it is paused, how many jobs and pictures wait
PATCH  /api/v1/queue             pause, or go on
POST   /api/v1/queue/clear       cancel what waits, or some of it
POST   /api/v1/jobs/{id}/front   have a job painted before all others that wait
"""

from typing import Annotated, Any

from fastapi import FastAPI, Path
from pydantic import BaseModel, Field

from limner.studio.api_types import Id, Strict
from limner.studio.background import aside
from limner.studio.lifecycle import Studio
from limner.studio.order import pictures_of
from limner.studio.problems import RefusedError, errors
from limner.studio.tables import WAITING

_MOST = 1000


class QueueAnswer(BaseModel):
    """The queue: jobs that wait, and their pictures."""

    paused: bool
    jobs: int
    pictures: int


class Pause(Strict):
    """Whether no job is begun."""

    paused: bool


class Clear(Strict):
    """What to cancel: all that waits, or the jobs that have one of some ids."""

    jobs: Annotated[list[Id], Field(max_length=_MOST)] | None = None


class Cleared(BaseModel):
    """How many jobs were cancelled."""

    cancelled: int


def add_queue(app: FastAPI, studio: Studio) -> None:
    """The queue as a whole, and a job's place in it."""

    async def answer() -> QueueAnswer:
        found = await aside(studio.store.jobs, unfinished=True)
        waiting = [job for job in found if job.state == WAITING]
        pictures = sum(map(pictures_of, waiting))
        return QueueAnswer(paused=studio.queue.paused, jobs=len(waiting), pictures=pictures)

    @app.get("/api/v1/queue", responses=errors(), response_model=QueueAnswer)
    async def queue() -> Any:
        """Whether the queue is paused, and what waits in it."""
        return await answer()

    @app.patch("/api/v1/queue", responses=errors(), response_model=QueueAnswer)
    async def pause(wish: Pause) -> Any:
        """Begin no more jobs, or go on. What runs is finished; a restart changes nothing."""
        await studio.queue.pause(wish.paused)
        return await answer()

    @app.post("/api/v1/queue/clear", responses=errors(), response_model=Cleared)
    async def clear(wish: Clear) -> Any:
        """Cancel the jobs that wait, or some of them; what runs goes on."""
        return Cleared(cancelled=await studio.queue.clear(wish.jobs))

    @app.post("/api/v1/jobs/{id}/front", status_code=204, responses=errors(404, 409))
    async def front(id: Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,40}$")]) -> None:
        """Have a job painted before all others that wait."""
        job = await aside(studio.store.job, id)
        if job is None:
            raise RefusedError(404, "unknown", "there is no such job", "it may have been deleted")
        if not await studio.queue.move_to_front(job):
            raise RefusedError(409, "begun", "this job does not wait any more", "leave it")
