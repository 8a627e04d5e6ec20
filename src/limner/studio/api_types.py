"""The types of the API: requests, with checks against the model, and answers.

A request is checked against the JSON schemas of the model and the task, which are made from the
same signatures that the command line reads; the server needs no torch for that.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from limner.contract.emoji_names import spell_emoji
from limner.contract.emphasis import read_emphasis
from limner.contract.errors import LimnerError, unknown
from limner.contract.options import Share
from limner.contract.wildcards import LISTS, choose_words, word_lists
from limner.studio.problems import Problem
from limner.studio.settings import MAX_PICTURES, MAX_PROMPT, hint_inputs
from limner.studio.tables import WAITING, Job, Picture

_MAX_OPTIONS = 64
_MAX_CHANGES = 64
_MAX_CONTROLS = 4
_KINDS = {
    "array": "a list of values",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
}


def _clean(text: str) -> str:
    """Return the text, which must be one that every database takes."""
    if "\0" in text:
        raise ValueError("has a NUL character; leave it out")
    return text


def _whole(value: Any) -> Any:
    """Return a whole number that is written with a point, as in 3.0, as an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]
Words = Annotated[str, Field(max_length=MAX_PROMPT), AfterValidator(_clean)]
Name = Annotated[str, Field(min_length=1, max_length=400), AfterValidator(_clean)]
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{8,40}$")]
PathId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")]
"""An id in an address, which may be any word: an unknown one is answered with 404."""
Options = Annotated[dict[Name, JsonValue], Field(max_length=_MAX_OPTIONS)]
Values = dict[str, Any]


class Strict(BaseModel):
    """Base class of requests, in which unknown fields and values of a wrong type are errors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)


class Params(Strict):
    """Parameters of a job."""

    prompt: Words = ""
    negative: Words = ""
    label: Words = ""
    n: Annotated[Whole, Field(ge=1, le=MAX_PICTURES)] = 1
    seed: Annotated[Whole, Field(ge=-(2**62), le=2**62)] = 0
    vary: Share = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    size: Annotated[str, Field(pattern="^([0-9]{1,5}x[0-9]{1,5})?$")] = Field(
        default="", description="HEIGHTxWIDTH, one of the model's sizes; its own size if empty"
    )
    sampler: Options = Field(default_factory=dict, description="the model's own options")
    options: Options = Field(default_factory=dict, description="the task's own options")
    changes: Annotated[list[Words], Field(max_length=_MAX_CHANGES)] = Field(
        default_factory=list[str],
        description="changes of the prompt's words, in order: replace:dog=cat, "
        "refine:with a hat, weight:red=2, cross_steps:0.2, self_steps:0.1, local:0.3",
    )
    controls: Annotated[list[Name], Field(max_length=_MAX_CONTROLS)] = Field(
        default_factory=list[str],
        description="models that were trained as controls, to apply on top of this one; each "
        "follows its own hint (inputs hint, hint_2, ...), weighted by sampler.control_weights",
    )


class Cell(Strict):
    """The position of a job in a grid."""

    x: Annotated[Whole, Field(ge=0, le=999)] = 0
    y: Annotated[Whole, Field(ge=0, le=999)] = 0
    z: Annotated[Whole, Field(ge=0, le=999)] = 0
    names: Annotated[list[Words], Field(max_length=3)] = Field(default_factory=list)


class JobRequest(Strict):
    """A request for a job."""

    model: Name = "emoji"
    task: Name = "paint"
    params: Params = Field(default_factory=Params)
    inputs: Annotated[dict[Name, Id], Field(max_length=8)] = Field(default_factory=dict)
    board: Id | None = Field(default=None, description="the grid that the job belongs to")
    cell: Cell | None = None


def with_chosen_words(params: Params, folder: Path) -> Params:
    """Return the parameters with words chosen by the seed, and emoji replaced by their names.

    Args:
        params: parameters of a job.
        folder: folder of the user's lists of words.

    Raises:
        LimnerError: a prompt names a list of words that does not exist, or becomes too long.
    """
    texts = {"prompt": params.prompt, "negative": params.negative}
    lists = word_lists(folder) if any("__" in text for text in texts.values()) else LISTS
    for key, text in texts.items():
        texts[key] = spell_emoji(choose_words(text, params.seed, lists))
        if len(texts[key]) > MAX_PROMPT:
            raise LimnerError(
                f"{key} must have at most {MAX_PROMPT} characters, and has {len(texts[key])} with "
                "its words chosen and its emoji as names; make it shorter"
            )
    return params.model_copy(update=texts)


def check(request: JobRequest, models: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that a model can do what is requested.

    Raises:
        LimnerError: it cannot; the message says what to request instead.
    """
    if request.model not in models:
        raise unknown("model", request.model, models)
    model, params = models[request.model], request.params
    if request.task not in model["tasks"]:
        raise unknown(f"task of model {request.model},", request.task, model["tasks"])
    task = model["tasks"][request.task]
    if params.controls:
        model = _with_controls(request, model, models)
    if (params.prompt or params.negative) and not model["text"]:
        raise LimnerError("this model was trained without text; leave the prompt out")
    for text in (params.prompt, params.negative):
        read_emphasis(text)
    if params.label and not _is_label(params.label, model["labels"]):
        if not model["labels"]:
            raise LimnerError("this model has no classes; leave the label out")
        raise unknown("class", params.label, model["labels"])
    if params.changes and (
        "reword" not in model["tasks"] or request.task not in _TASKS_WITH_CHANGES
    ):
        raise LimnerError("this model or task cannot change words; leave the changes out")
    if params.size:
        _check_size(request, model, task)
    if "guide" in params.sampler:
        raise LimnerError("sampler.guide names a model's files; give it on the command line")
    check_values("sampler option", params.sampler, model["schema"])
    check_values("option", params.options, task["schema"])
    _check_inputs(request, model, task)


_TASKS_WITH_CHANGES = ("paint", "reword")


def _with_controls(
    request: JobRequest, model: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]]
) -> Mapping[str, Any]:
    """Return the description of a model with the controls of a request on top of it.

    Raises:
        LimnerError: a named model is not a control, or the task takes no controls.
    """
    if request.task != "paint":
        raise LimnerError(f"task {request.task} takes no controls; leave the controls out")
    for name in request.params.controls:
        if name not in models:
            raise unknown("model", name, models)
        if not models[name].get("over"):
            raise LimnerError(f"'{name}' is not a control; limner train controlnet makes one")
    control = model if model.get("over") else models[request.params.controls[0]]
    return {**model, **{key: control[key] for key in ("schema", "hint")}, "condition": "required"}


def _check_size(request: JobRequest, model: Mapping[str, Any], task: Mapping[str, Any]) -> None:
    if not model["sizes"] or not task["sized"] or request.params.controls:
        raise LimnerError("this model or task has one size; leave the size out")
    if request.params.size not in model["sizes"]:
        raise unknown("size", request.params.size, model["sizes"])


def _is_label(label: str, labels: list[str]) -> bool:
    return label in labels or (label.isdecimal() and label.isascii() and int(label) < len(labels))


def _check_inputs(request: JobRequest, model: Mapping[str, Any], task: Mapping[str, Any]) -> None:
    inputs = dict(task["inputs"])
    if model["hint"] and request.task == "paint":
        count = bool(model.get("over")) + len(request.params.controls)
        required = {"required": model["condition"] == "required"}
        inputs |= dict.fromkeys(hint_inputs(count), required)
    if request.params.changes:  # the picture whose words are changed
        inputs["parent"] = {"required": False}
    for name in request.inputs:
        if name not in inputs:
            if not inputs:
                raise LimnerError(f"task {request.task} takes no picture; leave inputs out")
            raise unknown("input", name, inputs)
    for name, entry in inputs.items():
        if entry["required"] and name not in request.inputs:
            raise LimnerError(f"task {request.task} needs a picture; give inputs.{name}")


def check_values(kind: str, given: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """Check that values fit a JSON schema.

    Raises:
        LimnerError: a value does not fit; the message names it and the bound, or the nearest name.
    """
    for name in given:
        if name not in schema.get("properties", {}):
            raise unknown(kind, name, schema.get("properties", {}))
    try:
        json.dumps(given, allow_nan=False)
    except (ValueError, RecursionError):
        raise LimnerError(f"{kind}s must be finite numbers, words, or lists of these") from None
    error = next(iter(Draft202012Validator(schema).iter_errors(given)), None)
    if error is None:
        return
    while error.context:  # of the alternatives, report the one that is not null
        error = max(error.context, key=lambda nested: nested.validator_value != "null")
    assert isinstance(error, ValidationError)
    name = ".".join(map(str, error.absolute_path)) or "value"
    value = repr(error.instance)
    message = error.message.removeprefix(value).strip()
    if len(message) > 200:
        message = f"is not {error.validator_value}"
    if error.validator == "type":
        message = f"is not {_KINDS.get(str(error.validator_value), error.validator_value)}"
    raise LimnerError(f"{kind} {name}={value[:60]} {message}")


def batch_key(request: JobRequest, stamp: str) -> str:
    """Return a key that is equal for jobs that may share a batch; empty for a job that is alone."""
    params = request.params
    if request.task != "paint" or request.inputs or params.vary or params.changes:
        return ""
    parts = [bool(params.prompt or params.negative), bool(params.negative), bool(params.label)]
    key = [request.model, stamp, params.dtype, params.size, params.sampler, parts]
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


class PictureAnswer(BaseModel):
    """A picture; `url` leads to its PNG file, which contains its settings."""

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
    """A job: its request, its progress, its result."""

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
    """A job that was accepted."""

    id: str
    state: str
    position: int
    eta: float | None
    params: Params
    """The parameters as painted: with words chosen by the seed, and emoji replaced by names."""


class Jobs(BaseModel):
    """Several jobs, in their order, and whether the queue is paused."""

    jobs: list[JobAnswer]
    paused: bool = False


class History(BaseModel):
    """Pictures, the newest first, and their total number."""

    pictures: list[PictureAnswer]
    total: int


class PicturePage(BaseModel):
    """A picture and the job that painted it."""

    picture: PictureAnswer
    job: JobAnswer | None


class EditAnswer(PictureAnswer):
    """A picture, and the picture from which it was made: its parent."""

    parent: str | None
    changes: list[str]
    task: str


class EditTree(BaseModel):
    """A picture without a parent, and all pictures made from it, the oldest first."""

    pictures: list[EditAnswer]


class Uploaded(BaseModel):
    """An uploaded picture; it has `settings` if limner painted it."""

    id: str
    url: str
    width: int
    height: int
    settings: Values | None


class ModelsAnswer(BaseModel):
    """The models that paint, why others cannot be used, and why nothing is painted, if so."""

    model_config = ConfigDict(protected_namespaces=())
    models: list[Values]
    broken: Values
    ready: bool
    trouble: Problem | None
    limits: Values


class Reports(BaseModel):
    """Evaluations of models, and comparisons, the newest first."""

    reports: list[Values]
    comparisons: list[Values]


class Favour(Strict):
    """Whether a picture is a favourite."""

    favourite: bool


def url(picture: Picture) -> str:
    """Return the address of a picture's pixels."""
    return f"/api/v1/assets/{picture.id}"


def picture_answer(picture: Picture, job: str | None) -> PictureAnswer:
    """Return the answer that describes a picture."""
    names = ("id", "number", "place", "width", "height", "model", "words", "settings", "favourite")
    fields: Values = {name: getattr(picture, name) for name in names}
    return PictureAnswer(**fields, created=picture.created, url=url(picture), job=job)


def upload_answer(picture: Picture) -> Uploaded:
    """Return the answer that describes an uploaded picture."""
    size = {"width": picture.width, "height": picture.height}
    return Uploaded(id=picture.id, url=url(picture), settings=picture.settings, **size)


def job_answer(
    job: Job, pictures: Sequence[Picture], position: int | None = None, eta: float | None = None
) -> JobAnswer:
    """Return the answer that describes a job."""
    names = ("id", "state", "model", "task", "params", "inputs", "board", "cell", "notes")
    times = ("created", "started", "finished")
    fields: Values = {name: getattr(job, name) for name in (*names, *times)}
    return JobAnswer(
        **fields,
        position=position if job.state == WAITING else None,
        eta=eta,
        outputs=[picture_answer(picture, job.id) for picture in pictures],
        error=Problem(**job.error) if job.error else None,
    )
