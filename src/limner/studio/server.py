"""The studio's web server: the page, and the API that the page uses.

POST   /api/v1/jobs              submit a job -> 202 | 422 | 429 Retry-After | 503
GET    /api/v1/jobs/{id}         its state
GET    /api/v1/jobs/{id}/events  its events, as server-sent events; Last-Event-ID resumes
DELETE /api/v1/jobs/{id}         cancel
GET    /api/v1/models            families, tasks, schemas of options, limits
GET    /healthz /readyz /metrics
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, StreamingResponse
from fastapi.sse import format_sse_event
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

import limner
from limner.contract.errors import LimnerError
from limner.contract.wildcards import own_lists_folder
from limner.studio import api_types
from limner.studio.background import in_slow_thread, in_thread, log
from limner.studio.lifecycle import Studio
from limner.studio.middleware import Guard, RequestLimit
from limner.studio.order import with_jobs_ahead
from limner.studio.pages import add_page, add_reports, page_answer, wants_page
from limner.studio.pictures_api import add_pictures
from limner.studio.problems import (
    Problem,
    RefusedError,
    as_refusal,
    cause,
    errors,
    malformed_response,
    problem,
    refusal,
    unreadable_response,
)
from limner.studio.queue_api import KnownJob, add_queue
from limner.studio.settings import (
    MAX_PICTURES,
    MAX_PROMPT,
    MAX_UPLOAD_BYTES,
    MAX_UPLOAD_PIXELS,
    Settings,
)
from limner.studio.tables import WAITING, FullError, Job
from limner.studio.training_api import add_training
from limner.studio.words import add_words


def build(settings: Settings) -> FastAPI:
    """Build the web application of a studio."""
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
        docs_url=None,  # that page would load scripts from another host
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
    )
    app.state.studio = studio
    _explain_errors(app)
    _add_jobs(app, studio)
    add_pictures(app, studio)
    _add_state(app, studio)
    add_queue(app, studio)
    add_reports(app, studio)
    add_training(app, studio)
    add_words(app, studio)
    add_page(app, settings)
    app.add_middleware(RequestLimit)
    app.add_middleware(Guard, settings=settings)
    return app


def _explain_errors(app: FastAPI) -> None:
    """Answer every error with a `Problem`."""

    @app.exception_handler(RefusedError)
    async def answer_refusal(_: Any, error: RefusedError) -> Response:
        return refusal(error)

    @app.exception_handler(SQLAlchemyError)
    @app.exception_handler(OSError)
    async def answer_failure(_: Any, error: Exception) -> Response:
        log.error("a request failed: %s", cause(error))
        return refusal(as_refusal(error))

    @app.exception_handler(LimnerError)
    async def answer_wrong_request(_: Any, error: LimnerError) -> Response:
        message, _, hint = str(error).partition("; ")
        return problem(422, "invalid", message, hint)

    @app.exception_handler(RequestValidationError)
    async def answer_malformed_request(_: Any, error: RequestValidationError) -> Response:
        return malformed_response(error.errors()[0])

    @app.exception_handler(HTTPException)
    async def answer_http_error(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404 and wants_page(request):
            return page_answer(404)  # whose view says that there is no such page
        if error.__cause__ and (unreadable := unreadable_response(error.__cause__)):
            return unreadable
        hint = "see /api/v1/openapi.json for the requests that exist"
        response = problem(error.status_code, "http", str(error.detail), hint)
        response.headers.update(error.headers or {})
        return response


def _add_jobs(app: FastAPI, studio: Studio) -> None:
    async def answer(job: Job) -> api_types.JobAnswer:
        pictures = (await in_thread(studio.store.pictures_of, [job]))[job.number]
        ahead = await in_thread(studio.store.jobs_ahead, job)
        return api_types.job_answer(job, pictures, ahead.jobs, studio.queue.eta(job, ahead))

    @app.post(
        "/api/v1/jobs",
        status_code=202,
        responses=errors(413, 429, 503),
        response_model=api_types.Accepted,
    )
    async def submit(
        request: api_types.JobRequest,
        idempotency_key: Annotated[str | None, Header(pattern=r"^[A-Za-z0-9_-]{8,80}$")] = None,
    ) -> Any:
        """Submit a job. With an Idempotency-Key, a repeated request counts once."""
        if studio.draining:
            raise RefusedError(
                503, "draining", "the studio is being stopped", "try again later", 10
            )
        models = studio.models
        if not models.descriptions and not studio.ready:
            if trouble := studio.trouble:
                raise RefusedError(503, trouble.code, trouble.message, trouble.hint, 10)
            raise RefusedError(503, "starting", "the models are not loaded yet", "try again", 1)
        if request.model not in models.descriptions:
            await models.refresh()
        folder = own_lists_folder(studio.settings.root)
        request.params = await in_slow_thread(api_types.with_chosen_words, request.params, folder)
        api_types.check(request, models.descriptions)
        for name, id in request.inputs.items():
            if await in_thread(studio.store.picture, id) is None:
                raise LimnerError(f"there is no picture for inputs.{name}; send it to assets first")
        new_job = Job(
            key=idempotency_key,
            model=request.model,
            task=request.task,
            params=request.params.model_dump(),
            inputs=request.inputs,
            alike=api_types.batch_key(request, models.stamps.get(request.model, "")),
            weights=models.weights_for(request.model, request.params.controls),
            board=request.board,
            cell=request.cell.model_dump() if request.cell else {},
        )
        try:
            job, ahead = await studio.queue.submit(new_job)
        except FullError:
            message = f"{studio.settings.queue} jobs wait already"
            raise RefusedError(429, "full", message, "try again when some are done", 5) from None
        eta = studio.queue.eta(job, ahead)
        state = {"state": job.state, "position": ahead.jobs, "eta": eta}
        params = api_types.Params.model_validate(job.params)  # of the first request, if repeated
        return api_types.Accepted(id=job.id, params=params, **state)

    @app.get("/api/v1/jobs", responses=errors(), response_model=api_types.Jobs)
    async def jobs(board: Annotated[str | None, Query(max_length=40)] = None) -> Any:
        """List the jobs that wait or run, or all jobs of a grid."""
        rows = await in_thread(studio.store.jobs, board=board, unfinished=board is None)
        pictures = await in_thread(studio.store.pictures_of, rows)
        answers: list[api_types.JobAnswer] = []
        for job, ahead in with_jobs_ahead(rows):
            eta = studio.queue.eta(job, ahead) if job.state == WAITING and board is None else None
            answers.append(api_types.job_answer(job, pictures[job.number], ahead.jobs, eta))
        return api_types.Jobs(jobs=answers, paused=studio.queue.paused)

    @app.get("/api/v1/jobs/{id}", responses=errors(404), response_model=api_types.JobAnswer)
    async def job_state(job: KnownJob) -> Any:
        """Return the state of a job."""
        return await answer(job)

    @app.delete("/api/v1/jobs/{id}", responses=errors(404), response_model=api_types.JobAnswer)
    async def cancel(job: KnownJob) -> Any:
        """Cancel a job that waits or runs; one that is over stays as it is."""
        await studio.cancel(job)
        current = await in_thread(studio.store.job, job.id)
        return await answer(current or job)

    @app.get(
        "/api/v1/jobs/{id}/events",
        responses=errors(404) | {200: {"content": {"text/event-stream": {}}}},
        response_class=StreamingResponse,
    )
    async def events(
        job: KnownJob, last_event_id: Annotated[str | None, Header(max_length=40)] = None
    ) -> Response:
        """Stream the events of a job: queued, started, progress, frame, then done, failed or
        cancelled.
        """
        last_id = int(last_event_id) if last_event_id and last_event_id.isdecimal() else 0
        channel = await studio.queue.channel(job)
        if channel.is_over:  # every listener gets the last event, whatever it has received before
            last_id = 0

        async def stream() -> AsyncIterator[bytes]:
            yield format_sse_event(comment="limner", retry=1000)
            async for event in channel.listen(last_id):
                if event is None:
                    yield format_sse_event(comment="alive")
                else:
                    data = json.dumps(event.data)
                    yield format_sse_event(data_str=data, event=event.name, id=str(event.id))

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(stream(), media_type="text/event-stream", headers=headers)


def _add_state(app: FastAPI, studio: Studio) -> None:
    @app.get("/api/v1/models", responses=errors(), response_model=api_types.ModelsAnswer)
    async def models(
        response: Response, if_none_match: Annotated[str | None, Header(max_length=200)] = None
    ) -> Any:
        """List all models: family, tasks, and JSON schemas of the options of each."""
        studio.refresh_models()
        code = studio.trouble.code if studio.trouble else ""
        etag = f'"{studio.models.version} {studio.ready} {code}"'
        headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
        if if_none_match == etag:  # pages repeat this request often
            return Response(status_code=304, headers=headers)
        response.headers.update(headers)
        limits = {
            "pictures": MAX_PICTURES,
            "prompt": MAX_PROMPT,
            "upload_bytes": MAX_UPLOAD_BYTES,
            "upload_pixels": MAX_UPLOAD_PIXELS,
            "queue": studio.settings.queue,
            "token": bool(studio.settings.token),
        }
        return api_types.ModelsAnswer(
            models=[*studio.models.descriptions.values()],
            broken=dict(studio.models.broken),
            ready=studio.ready,
            trouble=studio.trouble,
            limits=limits,
        )

    @app.get("/healthz")
    async def alive() -> dict[str, str]:
        """Report that the server runs; `/readyz` reports whether it can paint."""
        return {"status": "ok"}

    @app.get("/readyz", responses={503: {"model": Problem}})
    async def ready() -> dict[str, str]:
        """Report whether jobs can be painted: whether a worker and the database answer."""
        if trouble := studio.trouble:
            raise RefusedError(503, trouble.code, trouble.message, trouble.hint, 5)
        if not studio.ready:
            raise RefusedError(503, "not-ready", "no worker has answered yet", "try again", 1)
        return {"status": "ready"}

    @app.get("/metrics", response_class=PlainTextResponse, responses=errors())
    async def metrics() -> str:
        """Return metrics in the format of Prometheus."""
        lines = [
            f'limner_jobs{{state="{state}"}} {count}'
            for state, count in sorted((await in_thread(studio.store.counts)).items())
        ]
        numbers: dict[str, float] = {
            "limner_jobs_at_work": studio.workers.busy,
            "limner_queue_limit": studio.settings.queue,
            "limner_models": len(studio.models.descriptions),
            "limner_workers": len(studio.workers),
            "limner_worker_restarts_total": studio.workers.restarts,
            "limner_pictures_painted_total": studio.queue.picture_count,
            "limner_time_seconds": round(time.time(), 3),
        }
        hosts = await in_thread(studio.store.hosts) if studio.settings.shared else {}
        for name, field in {
            "limner_far_workers": "workers",
            "limner_far_jobs_at_work": "busy",
            "limner_far_worker_restarts_total": "restarts",
        }.items():
            for worker, state in hosts.items():
                numbers[f'{name}{{worker="{worker}"}}'] = getattr(state, field)
        for worker, state in hosts.items():
            numbers[f'limner_far_trouble{{worker="{worker}"}}'] = int(state.trouble is not None)
        return "\n".join([*lines, *(f"{name} {value}" for name, value in numbers.items())]) + "\n"


async def drain_and_stop(studio: Studio, then: Callable[[], None]) -> None:
    """Let running jobs end, and then call a function that stops the server."""
    await studio.drain()
    await asyncio.sleep(0.05)
    then()
