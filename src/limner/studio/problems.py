"""Errors in the format of the API: a code, a message, and a hint on what to do instead."""

from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from limner.contract.errors import DISK_FULL
from limner.studio.background import log

_FULL_WORDS = ("disk is full", "no space left", "disk full", "quota exceeded")
_UNREACHABLE_CODES = ("08", "40", "53", "57")
"""Classes of PostgreSQL's temporary errors: connections, deadlocks, resources, shutdowns."""
_BUSY_SECONDS = 5  # after which a client should try again
_LARGER, _SMALLER = "give a larger number", "give a smaller number"
_WHOLE, _NUMBER = ("must be a whole number", "such as 7"), ("must be a number", "such as 0.5")
_NESTED = ("is nested too deeply", "give plain values, or lists of these")
_JSON_HINT = "put it in braces, and send it as Content-Type: application/json"
_UNREADABLE = {
    UnicodeDecodeError: ("is not UTF-8", "encode it as UTF-8"),
    RecursionError: _NESTED,
    ValueError: ("has a number with too many digits", "give one with fewer"),
}
"""Message and hint for a body that is not read as JSON, by the type of the error."""
_BOOLEAN_ADVICE = ("must be true or false", "give one of these")
_MALFORMED = {
    "extra_forbidden": ("is not known", "leave it out"),
    "missing": ("is missing", "add it"),
    "string_too_long": ("must have at most {max_length} characters", "make it shorter"),
    "string_too_short": ("must have at least {min_length} characters", "make it longer"),
    "too_long": ("must have at most {max_length} entries", "leave some out"),
    "too_short": ("must have at least {min_length} entries", "add some"),
    "greater_than_equal": ("must be at least {ge}", _LARGER),
    "greater_than": ("must be more than {gt}", _LARGER),
    "less_than_equal": ("must be at most {le}", _SMALLER),
    "less_than": ("must be less than {lt}", _SMALLER),
    "int_parsing_size": ("has too many digits", "give a number with fewer"),
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_from_float": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": _NUMBER,
    "string_type": ("must be text", "put it in quotes"),
    "string_unicode": ("is not valid Unicode", "leave out halves of surrogate pairs"),
    "string_pattern_mismatch": ("is not of the form {pattern}", "correct it"),
    "literal_error": ("must be {expected}", "give one of these"),
    "bool_type": _BOOLEAN_ADVICE,
    "bool_parsing": _BOOLEAN_ADVICE,
    "list_type": ("must be a list", "put it in square brackets"),
    "dict_type": ("must be a JSON object", "put it in braces"),
    "model_attributes_type": ("must be a JSON object", _JSON_HINT),
    "json_invalid": ("is not valid JSON ({error})", "correct it"),
    "recursion_loop": _NESTED,
    "recursion_depth_exceeded": _NESTED,
}
"""Message and hint for a field that Pydantic refuses, by the type of its error."""
_SCHEMA_HINT = "see /api/v1/openapi.json for the fields of each request"


class Problem(BaseModel):
    """What went wrong, in one line, and what to do instead."""

    code: str
    message: str
    hint: str = ""


class RefusedError(Exception):
    """Raised to answer a request with an error."""

    def __init__(
        self, status: int, code: str, message: str, hint: str = "", wait: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.wait = status, code, wait
        self.message, self.hint = message, hint

    def as_problem(self) -> Problem:
        """Return the error as a `Problem`."""
        return Problem(code=self.code, message=self.message, hint=self.hint)


def problem(status: int, code: str, message: str, hint: str = "") -> JSONResponse:
    """Return an answer that says what went wrong."""
    return JSONResponse({"code": code, "message": message, "hint": hint}, status)


def refusal(error: RefusedError) -> JSONResponse:
    """Return the answer to a refused request."""
    response = problem(error.status, error.code, error.message, error.hint)
    if error.wait is not None:
        response.headers["Retry-After"] = str(error.wait)
    return response


def malformed_response(error: Mapping[str, Any]) -> JSONResponse:
    """Return the answer to a request with a field that is not as the API's document says.

    Args:
        error: the first error that Pydantic found.
    """
    place = error["loc"][1:]  # without the part of the request, such as "body"
    if place[:1] == ("params",) and len(place) > 1:
        place = place[1:]
    if place[:1] in (("sampler",), ("options",)):
        place = place[:2]  # without the types that Pydantic tried
    names = [part for part in place if isinstance(part, str)]
    field = ".".join(names)
    field += "".join(f", entry {part + 1}," for part in place if isinstance(part, int))
    field, kind = field[:200], error["type"]
    if kind == "model_attributes_type" and names:  # a part of the body
        kind = "dict_type"
    if template := _MALFORMED.get(kind):
        message, hint = template[0].format_map(error.get("ctx", {})), template[1]
    else:
        message, _, hint = str(error["msg"]).removeprefix("Value error, ").partition("; ")
    if not names:
        field = "the request's body" if template else ""
    return problem(422, "invalid", f"{field} {message}".strip(), hint or _SCHEMA_HINT)


def unreadable_response(error: BaseException) -> JSONResponse | None:
    """Return the answer to a request whose body is not read as JSON; None for other errors.

    Args:
        error: what the parser raised.
    """
    for kind, (message, hint) in _UNREADABLE.items():
        if isinstance(error, kind):
            return problem(400, "invalid", f"the request's body {message}", hint)
    return None


def check_is_file(request: Request) -> None:
    """Check that the body of an upload is the file itself.

    Raises:
        RefusedError: it is a form.
    """
    if request.headers.get("content-type", "").lower().startswith("multipart/"):
        message = "the request's body is a form, and must be the file itself"
        raise RefusedError(415, "form", message, "send it as curl --data-binary @FILE does")


def is_temporary(error: BaseException) -> bool:
    """Whether an error is temporary, such as a database that is locked or away, or a full disk."""
    if isinstance(error, OperationalError | InterfaceError | PoolTimeoutError | OSError):
        return True
    return _of_postgresql(error).get("C", "").startswith(_UNREACHABLE_CODES)


def _of_postgresql(error: BaseException) -> Mapping[str, str]:
    """Return the fields of PostgreSQL's answer, such as code C and message M; {} for other errors.

    https://www.postgresql.org/docs/current/protocol-error-fields.html
    """
    arguments = getattr(getattr(error, "orig", None), "args", None)
    return arguments[0] if arguments and isinstance(arguments[0], dict) else {}


def cause(error: BaseException) -> str:
    """Return the message of an error, of the database's if it is one, in one line."""
    original = getattr(error, "orig", None) or error
    reason = getattr(original.__cause__, "strerror", None)  # why a driver cannot connect
    message = _of_postgresql(error).get("M") or reason or original
    return (str(message).strip() or type(error).__name__).splitlines()[0][:200]


def log_failure(what: str, error: Exception) -> None:
    """Log an error: in one line if it is temporary, with its traceback otherwise."""
    log.error("%s: %s", what, cause(error), exc_info=None if is_temporary(error) else error)


def as_refusal(error: BaseException) -> RefusedError:
    """Return the answer for an unexpected error."""
    line = cause(error).lower()
    if getattr(error, "errno", None) in DISK_FULL or any(word in line for word in _FULL_WORDS):
        return RefusedError(507, "full-disk", "the disk is full", "make room on it")
    if isinstance(error, OperationalError) and "locked" in line:
        hint = "another program has locked it, such as a backup; try again when that is done"
        return RefusedError(503, "busy", "the database is locked", hint, _BUSY_SECONDS)
    if isinstance(error, SQLAlchemyError):
        hint = "see what the server printed; try again when it is fixed"
        return RefusedError(503, "database", f"the database fails: {line}", hint, _BUSY_SECONDS)
    if isinstance(error, ConnectionError):
        reason = (error.strerror or line).lower()
        message = f"the connection to the database or the files broke: {reason}"
        return RefusedError(503, "connection", message, "try again in a moment", _BUSY_SECONDS)
    if isinstance(error, OSError):
        reason = error.strerror or cause(error)
        reason = reason[:1].lower() + reason[1:]
        hint = "check that their place can be read and written"
        return RefusedError(500, "storage", f"the studio's files fail: {reason}", hint)
    if isinstance(error, MemoryError):
        return RefusedError(503, "memory", "this machine is out of memory", "try again later", 5)
    hint = "see what the server printed, and report it"
    return RefusedError(500, "error", f"the studio made a mistake: {type(error).__name__}", hint)


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the description of errors, for the OpenAPI document."""
    return {status: {"model": Problem} for status in (400, 401, 403, 421, 422, *statuses)}
