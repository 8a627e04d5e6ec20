"""The server's side of the workers: starting them, giving them jobs, restarting them."""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Any

from limner.studio import assets
from limner.studio.background import Tasks, in_slow_thread, in_store_thread, in_thread, log
from limner.studio.catalogue import stamp
from limner.studio.models import Models
from limner.studio.order import pictures_of
from limner.studio.problems import Problem, as_refusal, log_failure
from limner.studio.queue import Queue
from limner.studio.settings import Settings
from limner.studio.store import Store
from limner.studio.tables import CANCELLED, Job, Painted

Document = dict[str, Any]
_MAX_LINE_BYTES = 32 * 2**20
_MAX_TRIES = 3
"""Starts that fail in a row before the trouble is reported; later tries are quiet, and rarer."""
_MAX_PAUSE_SECONDS = 30.0  # seconds between two starts
_WORKER_DIED = Problem(
    code="worker-died",
    message="the process that painted this job died twice",
    hint="ask for less: fewer pictures, fewer steps, a smaller model",
)


class WorkerDiedError(Exception):
    """Raised if a worker ended before it had done its jobs; the message is the reason, if known."""


class Process:
    """The process of a worker.

    Args:
        command: command that starts it, without the device; this Python's own worker if empty.
        device: device to paint on.
    """

    def __init__(self, command: Sequence[str], device: str) -> None:
        self._command = [*(command or (sys.executable, "-m", "limner.studio.worker")), device]
        self._process: asyncio.subprocess.Process | None = None
        self.device = device

    @property
    def pid(self) -> int | None:
        """The id of the process, while it runs; None otherwise."""
        is_alive = self._process is not None and self._process.returncode is None
        return self._process.pid if is_alive and self._process else None

    async def start(self, quiet: bool = False) -> Document:
        """Start the process, and wait for its first document.

        Args:
            quiet: whether to discard its standard error.

        Raises:
            WorkerDiedError: it ended, or reported that it cannot work.
        """
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL if quiet else None,
            limit=_MAX_LINE_BYTES,
            start_new_session=True,  # Ctrl-C is for the server, which then ends its workers
        )
        hello = await self._read()
        if hello["is"] != "hello":
            raise WorkerDiedError(hello["message"])
        self.device = hello["device"]
        return hello

    async def tell(self, document: Mapping[str, Any]) -> None:
        """Send a command to the process.

        Raises:
            WorkerDiedError: the process no longer reads.
        """
        if self._process is None or self._process.stdin is None:
            raise WorkerDiedError
        try:
            self._process.stdin.write(json.dumps(document).encode() + b"\n")
            await self._process.stdin.drain()
        except (ConnectionError, RuntimeError):
            raise WorkerDiedError from None

    async def _read(self) -> Document:
        if self._process is None or self._process.stdout is None:
            raise WorkerDiedError
        line = await self._process.stdout.readline()
        if not line:
            raise WorkerDiedError
        try:
            return json.loads(line)
        except ValueError:
            raise WorkerDiedError("its output is not that of a worker") from None

    async def ask(self, document: Mapping[str, Any]) -> Document:
        """Send a command that has one answer, and return the answer."""
        await self.tell(document)
        return await self._read()

    async def read_until_idle(self) -> AsyncIterator[Document]:
        """Yield the documents that the process sends until it is idle."""
        while (report := await self._read())["is"] != "idle":
            yield report

    async def end(self, patience: float = 1.0) -> None:
        """End the process: close its input, and kill it if it has not stopped after a time."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), patience)
        except TimeoutError:
            process.kill()
            await process.wait()


class Workers:
    """The processes that paint, one for each device, and the jobs of each.

    Args:
        settings: settings of the studio.
        store: store of the pictures.
        models: models that the workers describe and paint with.
        queue: queue from which they take jobs.
        tasks: background tasks, one of which keeps each worker running.

    Attributes:
        trouble: why no worker can start, if so.
        restarts: number of restarts of workers.
    """

    def __init__(
        self, settings: Settings, store: Store, models: Models, queue: Queue, tasks: Tasks
    ) -> None:
        self._settings, self._store = settings, store
        self._models, self._queue, self._tasks = models, queue, tasks
        self._at_work: dict[Process, list[Job]] = {}
        self._ready_processes: set[Process] = set()
        self.trouble: Problem | None = None
        self.restarts = 0

    @property
    def ready(self) -> bool:
        """Whether a worker has started, and takes jobs."""
        return bool(self._ready_processes)

    @property
    def busy(self) -> int:
        """The number of jobs that are being painted."""
        return sum(map(len, self._at_work.values()))

    def __len__(self) -> int:
        return len(self._at_work)

    def start(self, device: str) -> None:
        """Keep a worker running on a device, and one on each further device that it reports."""
        process = Process(self._settings.worker, device)
        self._at_work[process] = []
        self._tasks.start(self._serve(process))

    @property
    def at_work(self) -> list[str]:
        """The ids of the jobs that are being painted."""
        return [job.id for jobs in self._at_work.values() for job in jobs]

    async def cancel(self, id: str) -> None:
        """Tell the worker that paints a job to stop."""
        for process, jobs in self._at_work.items():
            if any(job.id == id for job in jobs):
                with contextlib.suppress(WorkerDiedError):
                    await process.tell({"do": "cancel", "id": id})

    async def _serve(self, process: Process) -> None:
        """Keep a worker running and busy, whatever happens."""
        failures = 0
        try:
            while True:
                problem = _WORKER_DIED
                try:
                    await self._begin(process, quiet=failures >= _MAX_TRIES)
                    while True:
                        await self._turn(process)
                        failures = 0
                except WorkerDiedError as error:
                    if process not in self._ready_processes and failures + 1 >= _MAX_TRIES:
                        self._set_trouble(str(error))
                except Exception as error:  # the next turn may succeed
                    log.exception("a turn of the queue failed")
                    problem = as_refusal(error).as_problem()
                self._ready_processes.discard(process)
                self.restarts += 1
                await process.end()
                await self._give_back(process, problem)
                await asyncio.sleep(min(0.1 * 2**failures, _MAX_PAUSE_SECONDS))
                failures += 1
        finally:
            await process.end(0.3)

    async def _begin(self, process: Process, quiet: bool) -> None:
        """Start a worker, and have it describe the models and load the first one."""
        hello = await process.start(quiet)
        for device in hello["others"]:
            if all(device != other.device for other in self._at_work):
                self.start(device)
        await self._models.recall_event.wait()
        await self._models.describe(process.ask)
        self._ready_processes.add(process)
        self.trouble = None
        if self._models.descriptions:  # most users start with the first one
            folder = str(self._models.folders[next(iter(self._models.descriptions))])
            await process.tell({"do": "load", "folder": folder})

    async def _turn(self, process: Process) -> None:
        """Give a worker the next batch, or wait until there is one."""
        self._queue.wake.clear()
        if process.pid is None:
            raise WorkerDiedError
        await self._models.describe(process.ask)
        jobs = await self._queue.begin()
        if not jobs:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._queue.wake.wait(), 1.0)
            return
        self._at_work[process] = jobs
        await self._queue.announce(jobs)
        orders = [order for job in jobs if (order := await self._order(job))]
        if orders:
            await self._work(process, jobs, orders)
        self._at_work[process] = []

    async def _work(
        self, process: Process, jobs: Sequence[Job], orders: Sequence[Document]
    ) -> None:
        """Have a worker paint a batch, and measure how long a picture takes."""
        started = time.monotonic()
        document = {"do": "work", "jobs": orders, "folder": str(self._store.files)}
        await process.tell(document)
        done, unwanted = set[str](), set[str]()
        async for report in process.read_until_idle():
            if report["is"] == "done":
                done.add(report["id"])
                unwanted |= await self._finish(report)
            else:
                await self._handle(report)
        if unwanted:  # only at the end, as another job may have painted the same
            try:
                await in_store_thread(self._store.forget_files, unwanted)
            except OSError as error:  # the studio tries again
                log_failure("pictures of a cancelled job could not be deleted", error)
        pictures = sum(pictures_of(job) for job in jobs if job.id in done)
        if pictures:
            self._queue.update_pace(jobs[0].model, (time.monotonic() - started) / pictures)

    async def _order(self, job: Job) -> Document | None:
        """Return a job in the form that a worker reads; None if it was cancelled while it was being
        started, or something that it needs is gone.
        """
        current = await in_thread(self._store.job, job.id)
        if current is None or current.state == CANCELLED:
            return None
        names, inputs = job.params.get("controls", []), dict[str, str]()
        folders = {name: self._models.folders.get(name) for name in names}
        folders[job.model] = folder = self._models.folder(job)
        missing = [name for name, path in folders.items() if path is None or not stamp(path)]
        if missing:
            message, hint = f"there is no model '{missing[0]}' any more", "choose another model"
            await self._queue.fail(job.id, Problem(code="gone", message=message, hint=hint))
            return None
        controls = [(name, str(folders[name])) for name in names]
        for name, id in job.inputs.items():
            picture = await in_thread(self._store.picture, id)
            file = picture and await in_store_thread(self._store.common.fetch, picture.sha256)
            if file is None or not await in_slow_thread(assets.is_sound, file):
                message, hint = f"the picture for '{name}' is gone", "upload it again"
                await self._queue.fail(job.id, Problem(code="gone", message=message, hint=hint))
                return None
            inputs[name] = str(file)
        fields = {key: getattr(job, key) for key in ("id", "model", "task", "params")}
        return fields | {"folder": str(folder), "controls": controls, "inputs": inputs}

    async def _handle(self, report: Document) -> None:
        """Handle a report of a worker about a job."""
        id, kind = report.pop("id"), report.pop("is")
        if kind == "loading":
            self._queue.tell(id, "progress", step=0, steps=0, eta=None)
        elif kind == "progress":
            frame, pictures = report.pop("frame"), report.pop("pictures")
            self._queue.tell(id, "progress", **report)
            self._queue.tell(id, "frame", step=report["step"], pictures=pictures, webp=frame)
        elif kind == "failed":
            await self._queue.fail(id, Problem(**report))

    async def _finish(self, report: Document) -> set[str]:
        """Store a job's pictures. Returns the hashes of files to delete, if it was cancelled."""
        painted = [Painted(**picture) for picture in report["pictures"]]
        if await self._queue.finish(report["id"], painted, report["notes"], report["kept"]):
            return set()
        job = await in_thread(self._store.job, report["id"])
        cancelled = job is None or job.state == CANCELLED  # and not taken over by another worker
        return {picture.sha256 for picture in painted} if cancelled else set()

    async def _give_back(self, process: Process, problem: Problem) -> None:
        """Queue the jobs again that a worker was painting."""
        jobs, self._at_work[process] = self._at_work[process], []
        for save in (
            partial(self._queue.give_back, jobs, problem),
            partial(self._queue.recover, lambda: self.at_work),  # also if the first call has failed
        ):
            try:
                await save()
            except Exception:  # they are found the next time that a worker fails
                log.exception("jobs could not be queued again")

    def _set_trouble(self, reason: str) -> None:
        message, _, hint = reason.partition("; ")
        self.trouble = Problem(
            code="worker",
            message=f"no worker can start: {message}" if message else "no worker can start",
            hint=hint or "see what the server printed, and start it again",
        )
