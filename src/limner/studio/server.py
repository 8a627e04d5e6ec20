"""The studio's web server: the page, and the API that the page is made of.

POST   /api/v1/jobs              a job -> 202 | 422 | 429 Retry-After | 503
GET    /api/v1/jobs/{id}         how it is
GET    /api/v1/jobs/{id}/events  what happens, as server-sent events; Last-Event-ID resumes
DELETE /api/v1/jobs/{id}         cancel
POST   /api/v1/assets            a picture -> its id
GET    /api/v1/assets/{id}       its pixels, ?w= of another width
GET    /api/v1/models            families, tasks, schemas of options, limits
GET    /api/v1/history           what was painted: search, favourites, edits
GET    /healthz /readyz /metrics
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, PlainTextResponse, StreamingResponse
from fastapi.sse import format_sse_event
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

import limner
from limner.contract.errors import LimnerError
from limner.contract.wildcards import own_lists_folder
from limner.studio import api_types, assets, edits, gallery
from limner.studio.background import aside, far_aside, log
from limner.studio.lifecycle import Studio
from limner.studio.middleware import Guard, Turnstile
from limner.studio.order import ranked
from limner.studio.pages import add_page, add_reports
from limner.studio.problems import (
    Problem,
    RefusedError,
    errors,
    explained,
    problem,
    refusal,
)
from limner.studio.queue_api import add_queue
from limner.studio.settings import (
    MAX_PICTURES,
    MAX_PROMPT,
    MAX_UPLOAD_BYTES,
    MAX_UPLOAD_PIXELS,
    Settings,
)
from limner.studio.tables import WAITING, FullError, Job, Picture
from limner.studio.training_api import add_training
from limner.studio.words import add_words

Id = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,40}$")]
_FOREVER = "private, max-age=31536000, immutable"


def build(settings: Settings) -> FastAPI:
    """The application."""
    studio = Studio(settings)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        await studio.open()
        yield
        await studio.close()

    app = FastAPI(
        title="limner studio",
        version=limner.__version__,
        lifespan=life,
        docs_url=None,  # it would load its scripts from another host
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
    )
    app.state.studio = studio
    _explain_errors(app)
    _add_jobs(app, studio)
    _add_pictures(app, studio)
    _add_state(app, studio)
    add_queue(app, studio)
    add_reports(app, studio)
    add_training(app, studio)
    add_words(app, studio)
    add_page(app, settings)
    app.add_middleware(Turnstile)
    app.add_middleware(Guard, settings=settings)
    return app


def _explain_errors(app: FastAPI) -> None:
    """Every error is a `Problem`."""

    @app.exception_handler(RefusedError)
    async def refused(_: Any, error: RefusedError) -> Response:
        return refusal(error)

    @app.exception_handler(SQLAlchemyError)
    @app.exception_handler(OSError)
    async def failed(_: Any, error: Exception) -> Response:
        log.error("a request failed: %s", error)
        return refusal(explained(error))

    @app.exception_handler(LimnerError)
    async def wrong(_: Any, error: LimnerError) -> Response:
        message, _, hint = str(error).partition("; ")
        return problem(422, "invalid", message, hint)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Any, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")[:200]
        said = str(first["msg"]).removeprefix("Value error, ")
        return problem(422, "invalid", f"{where}: {said}" if where else said, "see openapi.json")

    @app.exception_handler(HTTPException)
    async def http(_: Any, error: HTTPException) -> Response:
        hint = "see /api/v1/openapi.json for what there is"
        response = problem(error.status_code, "http", str(error.detail), hint)
        response.headers.update(error.headers or {})
        return response


async def _job(id: Id, request: Request) -> Job:
    job = await aside(request.app.state.studio.store.job, id)
    if job is None:
        raise RefusedError(404, "unknown", "there is no such job", "it may have been deleted")
    return job


async def _picture(id: Id, request: Request) -> Picture:
    picture = await aside(request.app.state.studio.store.picture, id)
    if picture is None:
        raise RefusedError(404, "unknown", "there is no such picture", "it may have been deleted")
    return picture


KnownJob = Annotated[Job, Depends(_job)]
KnownPicture = Annotated[Picture, Depends(_picture)]


def _add_jobs(app: FastAPI, studio: Studio) -> None:
    async def answer(job: Job) -> api_types.JobAnswer:
        pictures = (await aside(studio.store.pictures_of, [job]))[job.number]
        ahead = await aside(studio.store.ahead, job)
        return api_types.job_answer(job, pictures, ahead.jobs, studio.queue.eta(job, ahead))

    @app.post(
        "/api/v1/jobs",
        status_code=202,
        responses=errors(413, 429, 503),
        response_model=api_types.Accepted,
    )
    async def submit(
        request: api_types.Request,
        idempotency_key: Annotated[str | None, Header(pattern=r"^[A-Za-z0-9_-]{8,80}$")] = None,
    ) -> Any:
        """Ask for pictures. With an Idempotency-Key, asking again is asking once."""
        if studio.draining:
            raise RefusedError(
                503, "draining", "the studio is being stopped", "ask again later", 10
            )
        models = studio.models
        if not models.known and not studio.ready:
            if why := studio.trouble:
                raise RefusedError(503, why.code, why.message, why.hint, 10)
            raise RefusedError(503, "starting", "the models are not loaded yet", "ask again", 1)
        if request.model not in models.known:
            await models.look()
        own_lists = own_lists_folder(studio.settings.root)
        request.params = await far_aside(api_types.spelled, request.params, own_lists)
        api_types.check(request, models.known)
        for name, id in request.inputs.items():
            if await aside(studio.store.picture, id) is None:
                raise LimnerError(f"there is no picture for inputs.{name}; send it to assets first")
        asked = Job(
            key=idempotency_key,
            model=request.model,
            task=request.task,
            params=request.params.model_dump(),
            inputs=request.inputs,
            alike=api_types.alike(request, models.stamps.get(request.model, "")),
            weights=models.weights_for(request.model, request.params.controls),
            board=request.board,
            cell=request.cell.model_dump() if request.cell else {},
        )
        try:
            job, ahead = await studio.queue.submit(asked)
        except FullError:
            said = f"{studio.settings.queue} jobs wait already"
            raise RefusedError(429, "full", said, "ask again when some are done", 5) from None
        eta = studio.queue.eta(job, ahead)
        told = {"state": job.state, "position": ahead.jobs, "eta": eta}
        return api_types.Accepted(id=job.id, params=request.params, **told)

    @app.get("/api/v1/jobs", responses=errors(), response_model=api_types.Jobs)
    async def jobs(board: Annotated[str | None, Query(max_length=40)] = None) -> Any:
        """The jobs that wait or run; or all of a grid."""
        found = await aside(studio.store.jobs, board=board, unfinished=board is None)
        pictures = await aside(studio.store.pictures_of, found)
        answered: list[api_types.JobAnswer] = []
        for job, ahead in ranked(found):
            eta = studio.queue.eta(job, ahead) if job.state == WAITING and board is None else None
            answered.append(api_types.job_answer(job, pictures[job.number], ahead.jobs, eta))
        return api_types.Jobs(jobs=answered, paused=studio.queue.paused)

    @app.get("/api/v1/jobs/{id}", responses=errors(404), response_model=api_types.JobAnswer)
    async def job_state(job: KnownJob) -> Any:
        """How a job is."""
        return await answer(job)

    @app.delete("/api/v1/jobs/{id}", responses=errors(404), response_model=api_types.JobAnswer)
    async def cancel(job: KnownJob) -> Any:
        """Cancel a job that waits or runs; one that is over stays as it is."""
        await studio.cancel(job)
        again = await aside(studio.store.job, job.id)
        return await answer(again or job)

    @app.get(
        "/api/v1/jobs/{id}/events",
        responses=errors(404) | {200: {"content": {"text/event-stream": {}}}},
        response_class=StreamingResponse,
    )
    async def events(
        job: KnownJob, last_event_id: Annotated[str | None, Header(max_length=40)] = None
    ) -> Response:
        """What happens to a job: queued, started, progress, frame, then done, failed or
        cancelled.
        """
        after = int(last_event_id) if last_event_id and last_event_id.isdecimal() else 0
        channel = await studio.queue.channel(job)
        if channel.over:  # how it ended is told to everybody, whatever they have heard
            after = 0

        async def stream() -> AsyncIterator[bytes]:
            yield format_sse_event(comment="limner", retry=1000)
            async for event in channel.listen(after):
                if event is None:
                    yield format_sse_event(comment="alive")
                else:
                    data = json.dumps(event.data)
                    yield format_sse_event(data_str=data, event=event.name, id=str(event.id))

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(stream(), media_type="text/event-stream", headers=headers)


def _add_pictures(app: FastAPI, studio: Studio) -> None:
    @app.post(
        "/api/v1/assets",
        status_code=201,
        responses=errors(413, 415),
        response_model=api_types.Uploaded,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
            }
        },
    )
    async def upload(request: Request) -> Any:
        """Send a picture, as the request's body; it is decoded and encoded anew."""
        content = await request.body()
        try:
            taken = await far_aside(assets.take, content, studio.store.files)
            await far_aside(studio.store.common.publish, taken.sha256)
        except LimnerError as error:
            message, _, hint = str(error).partition("; ")
            raise RefusedError(415, "no-picture", message, hint) from None
        picture = await aside(studio.store.upload, taken)
        return api_types.uploaded(picture)

    @app.get("/api/v1/assets", responses=errors(404), response_model=api_types.Uploaded)
    async def find(sha256: Annotated[str, Query(pattern=r"^[0-9a-f]{64}$")]) -> Any:
        """The picture whose pixels have a hash, as settings name what a picture was made from."""
        picture = await aside(studio.store.picture_of_file, sha256)
        if picture is None:
            said = "the picture that it was made from is not here any more"
            raise RefusedError(404, "unknown", said, "choose it again")
        return api_types.uploaded(picture)

    @app.get(
        "/api/v1/assets/{id}",
        responses=errors(404) | {200: {"content": {"image/png": {}}}},
        response_class=Response,
    )
    async def pixels(
        picture: KnownPicture,
        w: Annotated[int | None, Query(ge=16, le=2048, description="width in pixels")] = None,
        download: Annotated[bool, Query(description="as a file to be kept")] = False,
    ) -> Response:
        """A picture as a PNG file, or at another width: larger, pixel by pixel."""
        path = await far_aside(studio.store.common.fetch, picture.sha256)
        headers = {"Cache-Control": _FOREVER}
        if download:
            headers["Content-Disposition"] = f'attachment; filename="limner-{picture.number}.png"'
        if w is not None:
            content = await far_aside(assets.resized, path, w)
            return Response(content, media_type="image/png", headers=headers)
        if not path.is_file():
            raise RefusedError(404, "unknown", "this picture's file is gone")
        return FileResponse(path, media_type="image/png", headers=headers)

    @app.get(
        "/api/v1/archive",
        responses=errors(404) | {200: {"content": {"application/zip": {}}}},
        response_class=Response,
    )
    async def archive(
        id: Annotated[list[api_types.Id], Query(min_length=1, max_length=200)],
    ) -> Response:
        """Several pictures, with their settings, as one zip archive."""
        found = await aside(studio.store.pictures_with, id)
        if not found:
            raise RefusedError(404, "unknown", "there are no such pictures")
        fetch = studio.store.common.fetch
        files = [(each.number, await far_aside(fetch, each.sha256)) for each in found]
        content = await far_aside(gallery.archive, files)
        headers = {"Content-Disposition": 'attachment; filename="limner-pictures.zip"'}
        return Response(content, media_type="application/zip", headers=headers)

    @app.get("/api/v1/history", responses=errors(), response_model=api_types.History)
    async def history(
        search: Annotated[str, Query(max_length=200)] = "",
        model: Annotated[str, Query(max_length=400)] = "",
        favourite: bool = False,
        since: Annotated[float | None, Query(ge=0, le=1e12, description="seconds of 1970")] = None,
        oldest: Annotated[bool, Query(description="the oldest first")] = False,
        before: Annotated[int | None, Query(ge=0, le=2**31 - 1)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 60,
    ) -> Any:
        """What was painted, the newest first."""
        found, total = await aside(
            studio.store.history,
            search=search.replace("\0", ""),
            model=model.replace("\0", ""),
            favourite=favourite,
            since=since,
            oldest=oldest,
            before=before,
            limit=limit,
        )
        jobs = await aside(studio.store.job_ids, found)
        pictures = [api_types.picture_answer(each, jobs.get(each.job or 0)) for each in found]
        return api_types.History(pictures=pictures, total=total)

    @app.get("/api/v1/history/{id}", responses=errors(404), response_model=api_types.PicturePage)
    async def one(picture: KnownPicture) -> Any:
        """A picture, and the job that painted it."""
        job = await aside(studio.store.job_of, picture)
        if job is None:
            return api_types.PicturePage(picture=api_types.picture_answer(picture, None), job=None)
        pictures = (await aside(studio.store.pictures_of, [job]))[job.number]
        return api_types.PicturePage(
            picture=api_types.picture_answer(picture, job.id),
            job=api_types.job_answer(job, pictures),
        )

    @app.get("/api/v1/history/{id}/edits", responses=errors(404), response_model=api_types.Edits)
    async def edits_of(picture: KnownPicture) -> Any:
        """The picture with which a chain of edits began, and all that was made from it."""
        return api_types.Edits(pictures=await aside(edits.tree, studio.store, picture))

    @app.patch(
        "/api/v1/history/{id}", responses=errors(404), response_model=api_types.PictureAnswer
    )
    async def favour(picture: KnownPicture, wish: api_types.Favour) -> Any:
        """Make a picture a favourite, or not; favourites are kept for good."""
        changed = await aside(studio.store.favour, picture.id, wish.favourite)
        return api_types.picture_answer(changed or picture, None)

    @app.delete("/api/v1/history/{id}", status_code=204, responses=errors(404))
    async def forget(picture: KnownPicture) -> None:
        """Delete a picture; for an hour it can be restored."""
        await aside(studio.store.delete, picture.id)

    @app.post(
        "/api/v1/history/{id}/restore",
        responses=errors(404),
        response_model=api_types.PictureAnswer,
    )
    async def restore(id: Id) -> Any:
        """Take back that a picture was deleted."""
        picture = await aside(studio.store.restore, id)
        if picture is None:
            raise RefusedError(404, "unknown", "this picture is gone", "it was deleted long ago")
        return api_types.picture_answer(picture, None)


def _add_state(app: FastAPI, studio: Studio) -> None:
    @app.get("/api/v1/models", responses=errors(), response_model=api_types.Models)
    async def models(
        response: Response, if_none_match: Annotated[str | None, Header(max_length=200)] = None
    ) -> Any:
        """Every model: its family, its tasks, and the JSON schemas of its options."""
        studio.look_soon()
        trouble = studio.trouble.code if studio.trouble else ""
        tag = f'"{studio.models.version} {studio.ready} {trouble}"'
        headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
        if if_none_match == tag:  # pages ask again and again
            return Response(status_code=304, headers=headers)
        response.headers.update(headers)
        limits = {
            "pictures": MAX_PICTURES,
            "prompt": MAX_PROMPT,
            "upload_bytes": MAX_UPLOAD_BYTES,
            "upload_pixels": MAX_UPLOAD_PIXELS,
            "queue": studio.settings.queue,
        }
        return api_types.Models(
            models=[*studio.models.known.values()],
            broken=dict(studio.models.broken),
            ready=studio.ready,
            trouble=studio.trouble,
            limits=limits,
        )

    @app.get("/healthz")
    async def alive() -> dict[str, str]:
        """Say that the server runs; whether it can paint, `/readyz` says."""
        return {"status": "ok"}

    @app.get("/readyz", responses={503: {"model": Problem}})
    async def ready() -> dict[str, str]:
        """Jobs are painted as they come: a worker answers, and so does the database."""
        if why := studio.trouble:
            raise RefusedError(503, why.code, why.message, why.hint, 5)
        if not studio.ready:
            raise RefusedError(503, "not-ready", "no worker has answered yet", "ask again", 1)
        return {"status": "ready"}

    @app.get("/metrics", response_class=PlainTextResponse, responses=errors())
    async def metrics() -> str:
        """Numbers in Prometheus' format."""
        lines = [
            f'limner_jobs{{state="{state}"}} {count}'
            for state, count in sorted((await aside(studio.store.counts)).items())
        ]
        numbers: dict[str, float] = {
            "limner_jobs_at_work": studio.workers.busy,
            "limner_queue_limit": studio.settings.queue,
            "limner_models": len(studio.models.known),
            "limner_workers": len(studio.workers),
            "limner_worker_restarts_total": studio.workers.restarts,
            "limner_pictures_painted_total": studio.queue.painted,
            "limner_time_seconds": round(time.time(), 3),
        }
        return "\n".join([*lines, *(f"{name} {value}" for name, value in numbers.items())]) + "\n"


async def until_drained(studio: Studio, then: Callable[[], None]) -> None:
    """Let what runs end, and stop."""
    await studio.drain()
    await asyncio.sleep(0.05)
    then()
