"""What the studio answers: jobs, pictures, models and errors as documents."""

from collections.abc import Sequence
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

from limner.studio.tables import WAITING, Job, Picture

Values = dict[str, Any]


class Problem(BaseModel):
    """What went wrong, in one line, and what to do instead."""

    code: str
    message: str
    hint: str = ""


class PictureAnswer(BaseModel):
    """A picture; its pixels are at `url`, a PNG file that says how it was made."""

    id: str
    number: int
    url: str
    job: str | None
    place: int
    width: int
    height: int
    model: str
    words: str
    settings: Values | None
    favourite: bool
    created: float


class JobAnswer(BaseModel):
    """A job: what was asked for, how far it is, what came of it."""

    id: str
    state: str
    model: str
    task: str
    params: Values
    inputs: Values
    board: str | None
    cell: Values
    position: int | None
    eta: float | None
    created: float
    started: float | None
    finished: float | None
    outputs: list[PictureAnswer]
    error: Problem | None
    notes: Values | None


class Accepted(BaseModel):
    """A job that was taken."""

    id: str
    state: str
    position: int
    eta: float | None


class Jobs(BaseModel):
    """Several jobs, in their order."""

    jobs: list[JobAnswer]


class History(BaseModel):
    """Pictures, the newest first, and how many there are of them in all."""

    pictures: list[PictureAnswer]
    total: int


class PicturePage(BaseModel):
    """A picture and the job that painted it."""

    picture: PictureAnswer
    job: JobAnswer | None


class Uploaded(BaseModel):
    """A picture that was sent; `settings` if it was painted by limner."""

    id: str
    url: str
    width: int
    height: int
    settings: Values | None


class Models(BaseModel):
    """What the models that paint are, and why others cannot be used."""

    model_config = ConfigDict(protected_namespaces=())
    models: list[Values]
    broken: Values
    ready: bool
    limits: Values


class Reports(BaseModel):
    """What models were found to be worth, and how they compare, the newest first."""

    reports: list[Values]
    comparisons: list[Values]


class Favour(BaseModel):
    """Whether a picture is a favourite."""

    model_config = ConfigDict(extra="forbid")
    favourite: bool


def url(picture: Picture) -> str:
    """Where the pixels are."""
    return f"/api/v1/assets/{picture.id}"


def picture_answer(picture: Picture, job: str | None) -> PictureAnswer:
    """A picture as a document."""
    own = ("id", "number", "place", "width", "height", "model", "words", "settings", "favourite")
    named: Values = {name: getattr(picture, name) for name in own}
    return PictureAnswer(**named, created=picture.created, url=url(picture), job=job)


def job_answer(
    job: Job, pictures: Sequence[Picture], position: int | None = None, eta: float | None = None
) -> JobAnswer:
    """A job as a document."""
    own = ("id", "state", "model", "task", "params", "inputs", "board", "cell", "notes")
    times = ("created", "started", "finished")
    named: Values = {name: getattr(job, name) for name in (*own, *times)}
    return JobAnswer(
        **named,
        position=position if job.state == WAITING else None,
        eta=eta,
        outputs=[picture_answer(each, job.id) for each in pictures],
        error=Problem(**job.error) if job.error else None,
    )


class RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(
        self, status: int, code: str, message: str, hint: str = "", wait: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.wait = status, code, wait
        self.message, self.hint = message, hint


def problem(status: int, code: str, message: str, hint: str = "") -> JSONResponse:
    """An answer that says what went wrong."""
    return JSONResponse({"code": code, "message": message, "hint": hint}, status)


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How errors look, for the OpenAPI document."""
    return {status: {"model": Problem} for status in (400, 401, 403, 421, 422, *statuses)}
