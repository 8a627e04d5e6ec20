"""Training through the API: upload pictures, check them, train a model, watch it learn.

GET    /api/v1/data                     data sets, with the report of `limner data check` on each
POST   /api/v1/data?name=               upload a zip archive of pictures
POST   /api/v1/data/{name}/check        check it, if that was not done
GET    /api/v1/data/{name}/sheet        its contact sheet
DELETE /api/v1/data/{name}              delete an uploaded archive
GET    /api/v1/trainings                every run, and the models that can be trained
POST   /api/v1/trainings                train -> 202
GET    /api/v1/trainings/{id}           its progress, curves and sheets
GET    /api/v1/trainings/{id}/samples/{step}
POST   /api/v1/trainings/{id}/resume    resume it
DELETE /api/v1/trainings/{id}           stop: finish the step, save, and end
DELETE /api/v1/trainings/{id}/run       delete one that was started here, with its model
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Path, Query, Request, Response
from pydantic import AfterValidator, BaseModel, Field

from limner.contract.errors import LimnerError, unknown
from limner.studio import runs
from limner.studio.api_types import PathId, Strict
from limner.studio.background import in_slow_thread
from limner.studio.data_sets import DataSet, file_name
from limner.studio.lifecycle import Studio
from limner.studio.problems import Problem, RefusedError, check_is_file, errors

_OPTION_PATTERN = re.compile(r"(model|data|train|sampler)(\.[a-z_0-9]+)+=[^/\\\x00-\x1f]+")
_FILE_OPTIONS = ("data.source", "train.init", "sampler.guide")
"""Options that name files, which only the command line may give."""


def checked_option(option: str) -> str:
    """Return an option of the command line, after checking it.

    Raises:
        ValueError: the text is not an option, or the option names a file.
    """
    name = option_name(option)
    if name in _FILE_OPTIONS:
        raise ValueError(f"{name} names a file; give it on the command line")
    if not _OPTION_PATTERN.fullmatch(option):
        raise ValueError(f"{option!r} is not an option; write for example train.lr=1e-4")
    return option


def option_name(option: str) -> str:
    """Return the section and the name of an option, as in `train.lr`."""
    return ".".join(option.partition("=")[0].split(".")[:2])


def check_option_names(
    options: Sequence[str],
    known: Mapping[str, Mapping[str, Sequence[str]]],
    model: str = "",
    source: str = "",
) -> None:
    """Check the names of the options of a training, with the messages of the command line.

    Args:
        options: options as typed on the command line.
        known: names of all options, see `catalogue.training_options`.
        model: model to train; options of an unknown one are not checked.
        source: source of the data; options of an unknown one are not checked.

    Raises:
        LimnerError: there is no such option.
    """
    kind = source.partition(":")[0]
    owners = {"model": model, "data": kind, "train": "", "sampler": model}
    hints = {"data": f"limner options {kind}", "train": "limner options train"}
    for option in options:
        section, _, name = option_name(option).partition(".")
        names = known.get(section, {}).get(owners[section])
        if names is None or name in names:
            continue
        prefix = "" if section == "sampler" else f"{section}."  # as the command line
        choices = [prefix + choice for choice in names]
        raise unknown(f"{section} option", prefix + name, choices, hints.get(section, ""))


Option = Annotated[str, Field(max_length=200), AfterValidator(checked_option)]
DataName = Annotated[str, Path(pattern=r"^[\w-]{1,60}$")]


class NewTraining(Strict):
    """A request for a training."""

    model: str = Field(max_length=80)
    data: str = Field(max_length=60)
    minutes: float | None = Field(default=30, ge=0.01, le=100_000)
    """A budget from which size and steps are chosen; None if the options give the steps."""
    options: list[Option] = Field(default=[], max_length=64)
    name: str = Field(
        default="",
        max_length=200,
        description="name of the model; made from model and data if empty",
    )


class Further(Strict):
    """A request to resume a training."""

    options: list[Option] = Field(default=[], max_length=64)


class Data(BaseModel):
    """A data set."""

    name: str
    source: str
    own: bool
    check: dict[str, Any] | None
    checking: bool


class AllData(BaseModel):
    """All data sets."""

    data: list[Data]


class Training(BaseModel):
    """A training: its run and its progress."""

    id: str
    name: str
    state: str
    elsewhere: bool
    stopping: bool
    model: str
    source: str
    step: int
    steps: int
    changed: float
    said: str
    remarks: list[str]
    error: Problem | None
    command: str
    own: bool
    curves: dict[str, list[list[float]]] = {}
    samples: list[int] = []


class TrainingsAnswer(BaseModel):
    """All trainings, and the models that can be trained."""

    trainings: list[Training]
    models: list[dict[str, Any]]


async def _data_set(name: DataName, request: Request) -> DataSet:
    data_set = await in_slow_thread(request.app.state.studio.data_sets.get, name)
    if data_set is None:
        raise RefusedError(404, "unknown", "there is no such data", "see /api/v1/data")
    return data_set


KnownData = Annotated[DataSet, Depends(_data_set)]


def add_training(app: FastAPI, studio: Studio) -> None:
    """Add the routes for data sets and trainings."""
    _add_data(app, studio)
    _add_trainings(app, studio)


def _add_data(app: FastAPI, studio: Studio) -> None:
    sets = studio.data_sets

    @app.get("/api/v1/data", responses=errors(), response_model=AllData)
    async def all_data() -> Any:
        """List the data sets: uploaded archives, and bundled sources."""
        return AllData(data=[Data(**vars(each)) for each in await in_slow_thread(sets.all)])

    @app.post(
        "/api/v1/data",
        status_code=201,
        dependencies=[Depends(check_is_file)],
        responses=errors(413, 415, 507),
        response_model=Data,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
                },
            }
        },
    )
    async def send(
        request: Request, name: Annotated[str, Query(min_length=1, max_length=200)]
    ) -> Any:
        """Upload a zip archive of pictures, which is the request's body; its check starts."""
        try:
            stored_name = await sets.store_archive(name, request.stream())
        except LimnerError as error:
            message, _, hint = str(error).partition("; ")
            raise RefusedError(415, "no-archive", message, hint) from None
        data_set = await in_slow_thread(sets.get, stored_name)
        assert data_set is not None
        return Data(**vars(data_set))

    @app.post(
        "/api/v1/data/{name}/check", status_code=202, responses=errors(404), response_model=Data
    )
    async def look(data: KnownData, again: bool = False) -> Any:
        """Check a data set as `limner data check` does; `GET /data` returns the report."""
        await in_slow_thread(sets.start_check, data.name, again)
        return Data(**vars(await in_slow_thread(sets.get, data.name) or data))

    @app.get(
        "/api/v1/data/{name}/sheet",
        responses=errors(404) | {200: {"content": {"image/png": {}}}},
        response_class=Response,
    )
    async def sheet(data: KnownData) -> Response:
        """Return up to 100 of the pictures, as one."""
        return await _picture(sets.sheet(data.name))

    @app.delete("/api/v1/data/{name}", status_code=204, responses=errors(404, 409))
    async def delete(data: KnownData) -> None:
        """Delete an uploaded archive."""
        if not data.own:
            raise RefusedError(409, "bundled", f"{data.name} comes with limner", "leave it")
        running_id = studio.trainings.running_id
        training = running_id and await in_slow_thread(studio.trainings.get, running_id)
        if training and training["source"] == data.source:
            raise RefusedError(409, "training", "a training reads these pictures", "stop it first")
        await in_slow_thread(sets.delete, data.name)


def _add_trainings(app: FastAPI, studio: Studio) -> None:
    trainings = studio.trainings

    async def answer(id: str) -> Training:
        description = await in_slow_thread(trainings.get, id)
        if description is None:
            raise RefusedError(404, "unknown", "there is no such training", "see /api/v1/trainings")
        return Training(**description)

    @app.get("/api/v1/trainings", responses=errors(), response_model=TrainingsAnswer)
    async def all_trainings() -> Any:
        """List every run below the studio's root, and the models that can be trained."""
        answers = [Training(**each) for each in await in_slow_thread(trainings.all)]
        return TrainingsAnswer(trainings=answers, models=studio.models.trainable_models)

    @app.post(
        "/api/v1/trainings",
        status_code=202,
        responses=errors(404, 409, 503),
        response_model=Training,
    )
    async def begin(body: NewTraining) -> Any:
        """Train a model, as `limner train MODEL SOURCE --budget` does; one at a time."""
        names = [model["name"] for model in studio.models.trainable_models]
        if body.model not in names:
            raise unknown("model", body.model, names, "see GET /api/v1/trainings")
        data = await in_slow_thread(studio.data_sets.get, body.data)
        if data is None:
            raise RefusedError(404, "unknown", "there is no such data", "see /api/v1/data")
        check_option_names(body.options, studio.models.training_options, body.model, data.source)
        has_data_options = any(option.startswith("data.") for option in body.options)
        if data.check and data.check["refused"] and not has_data_options:
            raise LimnerError("these pictures cannot be trained on; see what the check says")
        budget = ["--budget", f"{body.minutes:g}m"] if body.minutes else []
        arguments = [body.model, data.source, *body.options, *budget]
        name = file_name(body.name) or f"{body.model}-{data.name}"
        return await answer(await in_slow_thread(trainings.begin, name, arguments))

    @app.get("/api/v1/trainings/{id}", responses=errors(404), response_model=Training)
    async def one(id: PathId) -> Any:
        """Return a training, with its curves and the steps of its sheets."""
        return await answer(id)

    @app.get(
        "/api/v1/trainings/{id}/samples/{step}",
        responses=errors(404) | {200: {"content": {"image/png": {}}}},
        response_class=Response,
    )
    async def samples(id: PathId, step: Annotated[int, Path(ge=0, le=10**12)]) -> Response:
        """Return the samples that the model painted after a step."""
        run = await in_slow_thread(trainings.run, id)
        if run is None:
            raise RefusedError(404, "unknown", "there is no such training", "see /api/v1/trainings")
        return await _picture(runs.sheet(run, step))

    @app.post(
        "/api/v1/trainings/{id}/resume",
        status_code=202,
        responses=errors(404, 409, 503),
        response_model=Training,
    )
    async def resume(id: PathId, further: Further) -> Any:
        """Resume a training, as `limner resume` does; `train.steps=MORE` goes beyond the plan."""
        check_option_names(further.options, studio.models.training_options)
        await in_slow_thread(trainings.resume, id, further.options)
        return await answer(id)

    @app.delete("/api/v1/trainings/{id}", responses=errors(404), response_model=Training)
    async def stop(id: PathId) -> Any:
        """Stop a training: it finishes its step, saves, and ends; its run stays."""
        await in_slow_thread(trainings.stop, id)
        return await answer(id)

    @app.delete("/api/v1/trainings/{id}/run", status_code=204, responses=errors(404, 409))
    async def delete(id: PathId) -> None:
        """Delete a training that was started here, with its model."""
        await in_slow_thread(trainings.delete, id)
        studio.refresh_models()


async def _picture(path: Any) -> Response:
    try:
        content = await in_slow_thread(path.read_bytes)
    except OSError:  # it does not exist yet, or no longer
        raise RefusedError(404, "unknown", "there is no such picture", "try again later") from None
    return Response(content, media_type="image/png", headers={"Cache-Control": "no-cache"})
