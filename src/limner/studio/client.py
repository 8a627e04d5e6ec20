"""Python client of the studio: request pictures, watch them form, get them as PNG files.

    from limner.studio.client import Client

    pictures = Client().paint("a red apple", n=4)
    open("apple.png", "wb").write(pictures[0])

It loads neither torch nor the server.
"""

import base64
import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from limner.contract.errors import LimnerError
from limner.studio.settings import PORT

_TEMPORARY_STATUSES = (429, 502, 503, 504)  # status codes of errors that pass with time
_PAUSE, _LONGEST_PAUSE = 0.1, 2.0  # seconds between two tries to connect to a stream of events


class ReceivedEvent(NamedTuple):
    """An event of a job.

    Args:
        name: queued, started, progress, frame, trouble, paused, done, failed or cancelled.
        data: details of the event.
        image: for a frame, a WebP file with the forming pictures side by side.
    """

    name: str
    data: dict[str, Any]
    image: bytes = b""


class Client:
    """A client of a studio, on this machine or another.

    Args:
        url: address of the studio.
        token: token of the studio, if it requires one.
        timeout: time to wait for an answer, in seconds; also for a studio that is starting or busy,
            and, in `watch`, for one that is started again.

    Raises:
        LimnerError: the address has no http:// or https://.
    """

    def __init__(
        self, url: str = f"http://127.0.0.1:{PORT}", token: str = "", timeout: float = 60
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise LimnerError(
                f"'{url}' is not an address; give it as in http://studio.example:8420"
            )
        self.url = url.rstrip("/")
        self.token = token
        self.timeout = timeout

    def paint(
        self,
        prompt: str = "",
        *,
        model: str = "emoji",
        task: str = "paint",
        inputs: Mapping[str, bytes | str] | None = None,
        **params: Any,
    ) -> list[bytes]:
        """Paint pictures, and return them as PNG files that contain their settings.

        Args:
            prompt: text that describes the pictures.
            model: name of the model.
            task: name of the task, see `models`.
            inputs: source pictures by name, each as the content of a file or as an id.
            params: n, seed, label, negative, vary, size; sampler={...}, options={...}.

        Raises:
            LimnerError: the pictures cannot be painted; the message says why.
        """
        id, last = self.submit(prompt, model=model, task=task, inputs=inputs, **params), ""
        for event in self.watch(id):
            last = event.name
        if last == "cancelled":
            raise LimnerError("the job was cancelled; paint it again")
        return self.pictures(id)

    def submit(
        self,
        prompt: str = "",
        *,
        model: str = "emoji",
        task: str = "paint",
        inputs: Mapping[str, bytes | str] | None = None,
        **params: Any,
    ) -> str:
        """Submit a job, and return its id immediately; arguments as for `paint`."""
        sources = {
            name: content if isinstance(content, str) else self.send(content)
            for name, content in (inputs or {}).items()
        }
        fields = {"prompt": prompt} | params if prompt else params
        job = {"model": model, "task": task, "params": fields, "inputs": sources}
        key = uuid.uuid4().hex  # so that a request repeated after a lost answer counts once
        answer = self._ask("POST", "/api/v1/jobs", json.dumps(job).encode(), key)
        return json.loads(answer)["id"]

    def watch(self, id: str) -> Iterator[ReceivedEvent]:
        """Yield the events of a job until it is over; a broken stream is resumed.

        Raises:
            LimnerError: the job failed, or the studio no longer answers.
        """
        last_id, pause, end = "", _PAUSE, time.monotonic() + self.timeout
        while time.monotonic() < end:
            headers, is_alive = {"Last-Event-ID": last_id} if last_id else {}, False
            try:
                for event in self._stream(f"/api/v1/jobs/{quote(id)}/events", headers):
                    is_alive = True
                    if event is None:
                        continue
                    last_id, name, data = event
                    image = base64.b64decode(data.pop("webp", ""))
                    yield ReceivedEvent(name, data, image)
                    if name == "failed":
                        raise _error_of_problem(data)
                    if name in ("done", "cancelled"):
                        return
            except (OSError, HTTPException):  # it was stopped, and may be started again
                pass
            if is_alive:
                pause, end = _PAUSE, time.monotonic() + self.timeout
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        raise LimnerError(f"the studio at {self.url} no longer answers")

    def pictures(self, id: str) -> list[bytes]:
        """Return the pictures of a job, as PNG files."""
        job = json.loads(self._ask("GET", f"/api/v1/jobs/{quote(id)}", restarts=True))
        return [self._ask("GET", output["url"], restarts=True) for output in job["outputs"]]

    def job(self, id: str) -> dict[str, Any]:
        """Return the state of a job."""
        return json.loads(self._ask("GET", f"/api/v1/jobs/{quote(id)}"))

    def cancel(self, id: str) -> None:
        """Cancel a job that waits or runs."""
        self._ask("DELETE", f"/api/v1/jobs/{quote(id)}")

    def send(self, content: bytes) -> str:
        """Send a picture, and return its id."""
        return json.loads(self._ask("POST", "/api/v1/assets", content))["id"]

    def models(self) -> list[dict[str, Any]]:
        """Return descriptions of the models: families, tasks, schemas of their options."""
        return json.loads(self._ask("GET", "/api/v1/models"))["models"]

    def history(self, search: str = "", **filters: Any) -> list[dict[str, Any]]:
        """Return painted pictures: `favourite=True`, `model=NAME`, `before=NUMBER`, `limit=N`."""
        query = urlencode({"search": search} | filters)
        return json.loads(self._ask("GET", f"/api/v1/history?{query}"))["pictures"]

    def _request(self, method: str, path: str, body: bytes | None = None) -> urllib.request.Request:
        request = urllib.request.Request(self.url + path, body, method=method)
        if body is not None and body[:1] == b"{":
            request.add_header("Content-Type", "application/json")
        if self.token:
            request.add_header("Authorization", f"Bearer {quote(self.token)}")
        return request

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        key: str = "",
        restarts: bool = False,
    ) -> bytes:
        """Send a request, and return the answer; with `restarts`, wait for a studio that is started
        again.
        """
        request = self._request(method, path, body)
        if key:
            request.add_header("Idempotency-Key", key)
        end = time.monotonic() + self.timeout
        while True:
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    return response.read()
            except urllib.error.HTTPError as error:
                with error:
                    wait = float(error.headers.get("Retry-After", 1))
                    if error.code not in _TEMPORARY_STATUSES or time.monotonic() + wait > end:
                        raise _error_of_response(error) from None
                    time.sleep(wait)
            except (OSError, HTTPException) as error:
                if not restarts:
                    raise LimnerError(f"there is no studio at {self.url} ({error})") from None
                if time.monotonic() + _PAUSE > end:
                    raise LimnerError(
                        f"the studio at {self.url} no longer answers; the pictures are in its "
                        "gallery"
                    ) from None
                time.sleep(_PAUSE)

    def _stream(self, path: str, headers: dict[str, str]) -> Iterator[tuple[str, str, Any] | None]:
        """Yield id, name and data of each event, and None for each comment, a sign of life.

        Raises:
            OSError: the stream breaks, or the studio is starting or busy.
            LimnerError: the studio refuses the request.
        """
        request = self._request("GET", path)
        for name, value in headers.items():
            request.add_header(name, value)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                fields: dict[str, str] = {}
                for line in response:
                    key, _, value = line.decode().rstrip("\n").partition(": ")
                    if key:
                        fields[key] = value
                    elif value:
                        yield None
                    elif "event" in fields:
                        yield fields["id"], fields["event"], json.loads(fields["data"])
                        fields = {}
        except urllib.error.HTTPError as error:
            with error:
                if error.code in _TEMPORARY_STATUSES:
                    raise
                raise _error_of_response(error) from None


def _error_of_response(error: urllib.error.HTTPError) -> LimnerError:
    try:
        return _error_of_problem(json.loads(error.read()))
    except (ValueError, LookupError):
        return LimnerError(f"the studio answered with status {error.code}")


def _error_of_problem(problem: Mapping[str, Any]) -> LimnerError:
    hint = problem.get("hint")
    return LimnerError(problem["message"] + (f"; {hint}" if hint else ""))
