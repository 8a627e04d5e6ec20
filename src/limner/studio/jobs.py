"""The studio's heart: from the queue to the workers, and from the workers to whoever listens."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import limner
from limner.studio import catalogue
from limner.studio.crew import Document, Process, WorkerDiedError
from limner.studio.events import Channel
from limner.studio.settings import MAX_ATTEMPTS, MAX_PICTURES, Settings
from limner.studio.store import Store
from limner.studio.tables import CANCELLED, DONE, FAILED, RUNNING, Job, Painted, Picture

_CATALOGUE = "catalogue"
_LOOK_SECONDS = 3.0  # between two looks for new runs
_LOOK_PATIENCE = 0.3  # at the start; below some roots there are very many folders
_TIDY_SECONDS = 600.0
_UPLOAD_SECONDS = 7 * 86_400.0
_PATIENCE = 3.0  # for what runs when the server is to stop
T = TypeVar("T")


# Few threads: all want the interpreter, which whoever answers must have again after every packet.
_CLERKS = ThreadPoolExecutor(3, "limner-clerk")
_PORTERS = ThreadPoolExecutor(2, "limner-porter")


async def aside(function: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """Call what waits for the database in a thread."""
    call = partial(function, *arguments, **named)
    return await asyncio.get_running_loop().run_in_executor(_CLERKS, call)


async def far_aside(function: Callable[..., T], *arguments: Any) -> T:
    """Call what may take long, with files or pictures, so that the database need not wait."""
    return await asyncio.get_running_loop().run_in_executor(_PORTERS, function, *arguments)


class Studio:
    """All that the server holds between two requests.

    Args:
        settings: how it is set up.

    Attributes:
        models: descriptions of the models that paint, by name.
        broken: what is wrong with the others.
        ready: whether a worker has answered.
        draining: whether no more jobs are taken.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        settings.folder.mkdir(parents=True, exist_ok=True)
        self.files = settings.folder / "pictures"
        self.store = Store(settings.url, settings.queue)
        self.models: dict[str, Document] = {}
        self.broken: dict[str, str] = {}
        self.folders: dict[str, Path] = {}
        self.stamps: dict[str, str] = {}
        self.ready = False
        self.draining = False
        self.restarts = 0
        self.painted = 0
        self._described: dict[str, str] = {}
        self._channels: dict[str, Channel] = {}
        self._at_work: dict[Process, list[Job]] = {}
        self._pace: dict[str, float] = {}
        self._looked = 0.0
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    # Life ---------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Go on with what was queued, and start the workers."""
        await aside(self.store.recover)
        self._first_look = asyncio.create_task(self._recall())
        await asyncio.wait([self._first_look], timeout=_LOOK_PATIENCE)
        self._spawn(self._serve(Process(self.settings.worker, self.settings.device)))
        self._spawn(self._tidy())

    async def _recall(self) -> None:
        """See which models there are, and what was known of them when the server last ran."""
        kept = await aside(self.store.kept, _CATALOGUE)
        await self._look()
        if kept.get("version") == limner.__version__:
            self._learn(kept["models"], kept["stamps"])
        self._described.clear()  # a worker describes all anew: the code may have changed

    async def drain(self) -> None:
        """Take no more jobs, and give those that run a moment to end."""
        self.draining = True
        until = time.monotonic() + _PATIENCE
        while any(self._at_work.values()) and time.monotonic() < until:
            await asyncio.sleep(0.05)
        for channel in self._channels.values():
            channel.close()

    async def close(self) -> None:
        """Stop; what runs is queued for the next start."""
        self.draining = True
        for each in [*self._tasks]:
            each.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await aside(self.store.close)

    def _spawn(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            await work

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tidy(self) -> None:
        while True:
            old = time.time() - _UPLOAD_SECONDS
            for sha256 in await aside(self.store.forget_old, self.settings.keep, old):
                await far_aside(self.file(sha256).unlink, True)
            await asyncio.sleep(_TIDY_SECONDS)

    def file(self, sha256: str) -> Path:
        """Where a picture's pixels are."""
        return self.files / sha256[:2] / f"{sha256}.png"

    # Models -------------------------------------------------------------------------------------

    async def look(self) -> None:
        """See which models there are, if that was not done just now."""
        if time.monotonic() - self._looked > _LOOK_SECONDS and self._first_look.done():
            self._looked = time.monotonic()
            await self._look()

    def look_soon(self) -> None:
        """The same, while the caller goes on."""
        self._spawn(self.look())

    async def _look(self) -> None:
        self.folders = await far_aside(catalogue.found, self.settings.root)
        stamps = {name: catalogue.stamp(folder) for name, folder in self.folders.items()}
        for name in [name for name in self.stamps if name not in stamps]:
            self._unlearn(name)
        self.stamps, self._looked = stamps, time.monotonic()
        if self._unknown():
            self._wake.set()

    def _unknown(self) -> dict[str, str]:
        return {
            name: str(folder)
            for name, folder in self.folders.items()
            if self._described.get(name) != self.stamps[name]
        }

    def _unlearn(self, name: str) -> None:
        self.models.pop(name, None)
        self.broken.pop(name, None)

    def _learn(self, models: Sequence[Document], stamps: dict[str, str]) -> None:
        for model in models:
            name = model["name"]
            if stamps.get(name) != self.stamps.get(name):
                continue
            self._described[name] = stamps[name]
            self._unlearn(name)
            if "broken" not in model:
                self.models[name] = model
            elif model["broken"]:
                self.broken[name] = model["broken"]
        order = {name: i for i, name in enumerate(self.folders)}
        self.models = dict(sorted(self.models.items(), key=lambda item: order[item[0]]))

    async def _describe(self, process: Process) -> None:
        """Have a worker describe the models that are new."""
        unknown, stamps = self._unknown(), dict(self.stamps)
        if not unknown:
            return
        answer = await process.ask({"do": "describe", "models": unknown})
        self._learn(answer["models"], stamps)
        for name in unknown:  # one that vanished meanwhile is not asked for again and again
            self._described.setdefault(name, stamps[name])
        models = [*self.models.values()]
        models += [{"name": name, "broken": why} for name, why in self.broken.items()]
        kept = {"version": limner.__version__, "models": models, "stamps": stamps}
        await aside(self.store.keep, _CATALOGUE, kept)

    # Jobs ---------------------------------------------------------------------------------------

    async def channel(self, job: Job) -> Channel:
        """The events of a job; of one that is over, how it ended."""
        if job.id in self._channels:
            return self._channels[job.id]
        channel = Channel()
        position = await aside(self.store.position, job)
        if job.id in self._channels:  # somebody was quicker
            return self._channels[job.id]
        if job.state in (DONE, FAILED, CANCELLED):
            channel.tell(job.state, **(job.error or {}))
        else:
            channel.tell("queued", position=position, eta=self.eta(job, position))
            if job.state == RUNNING:
                channel.tell("started")
            self._channels[job.id] = channel
        return channel

    def eta(self, job: Job, position: int) -> float | None:
        """Seconds until a job that waits is done, if its model has painted before."""
        pace = self._pace.get(job.model)
        return None if pace is None else round((position + 1) * pace, 1)

    def arrived(self) -> None:
        """There is a new job."""
        self._wake.set()

    async def cancel(self, job: Job) -> bool:
        """End a job that waits or runs; whether it had not ended yet."""
        cancelled = await aside(self.store.cancel, job.id)
        if cancelled:
            for process, jobs in self._at_work.items():
                if any(each.id == job.id for each in jobs):
                    with contextlib.suppress(WorkerDiedError):
                        await process.tell({"do": "cancel", "id": job.id})
            self._end(job.id, CANCELLED)
            await self._tell_positions()
        return cancelled

    def _tell(self, id: str, name: str, **data: Any) -> None:
        if id in self._channels:
            self._channels[id].tell(name, **data)

    def _end(self, id: str, state: str, **data: Any) -> None:
        channel = self._channels.pop(id, None)
        if channel is not None:
            channel.tell(state, **data)

    async def _tell_positions(self) -> None:
        """Tell those who wait how many are before them."""
        if not any(channel.listeners for channel in self._channels.values()):
            return
        for position, job in enumerate(await aside(self.store.jobs, unfinished=True)):
            if job.state != RUNNING:
                self._tell(job.id, "queued", position=position, eta=self.eta(job, position))

    # Workers ------------------------------------------------------------------------------------

    async def _serve(self, process: Process) -> None:
        """Keep a worker alive and busy."""
        self._at_work[process] = []
        failures = 0
        try:
            while True:
                try:
                    hello = await process.start()
                    for device in hello["others"]:
                        if all(device != each.device for each in self._at_work):
                            self._spawn(self._serve(Process(self.settings.worker, device)))
                    await self._first_look
                    await self._describe(process)
                    self.ready, failures = True, 0
                    if self.models:  # the first is what most will ask for
                        folder = str(self.folders[next(iter(self.models))])
                        await process.tell({"do": "load", "folder": folder})
                    while True:
                        await self._turn(process)
                except WorkerDiedError:
                    self.restarts += 1
                    await self._lost(process)
                    await process.end()
                    await asyncio.sleep(min(0.1 * 2**failures, 10))
                    failures += 1
        finally:
            await process.end(0.3)

    async def _turn(self, process: Process) -> None:
        """Give a worker the next batch, or wait until there is one."""
        self._wake.clear()
        if process.pid is None:
            raise WorkerDiedError
        await self._describe(process)
        jobs = [] if self.draining else await aside(self.store.begin, MAX_PICTURES)
        if not jobs:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), 1.0)
            return
        self._wake.set()  # there may be more, for other workers
        self._at_work[process] = jobs
        for job in jobs:
            (await self.channel(job)).tell("started", model=job.model)
        await self._tell_positions()
        orders = [order for job in jobs if (order := await self._order(job))]
        if orders:
            started = time.monotonic()
            document = {"do": "work", "jobs": orders, "folder": str(self.files)}
            await process.tell(document)
            async for said in process.hear_until_idle():
                await self._heard(said)
            self._paced(jobs[0].model, (time.monotonic() - started) / len(jobs))
        self._at_work[process] = []

    def _paced(self, model: str, seconds: float) -> None:
        self._pace[model] = 0.5 * self._pace.get(model, seconds) + 0.5 * seconds

    async def _order(self, job: Job) -> Document | None:
        """A job as a worker hears it; None if what it needs is gone."""
        folder, inputs = self.folders.get(job.model), dict[str, str]()
        if folder is None:
            await self._fail(job.id, "gone", f"there is no model '{job.model}' any more", "")
            return None
        for name, id in job.inputs.items():
            picture = await aside(self.store.picture, id)
            if picture is None:
                await self._fail(job.id, "gone", f"the picture for '{name}' was deleted", "")
                return None
            inputs[name] = str(self.file(picture.sha256))
        named = {key: getattr(job, key) for key in ("id", "model", "task", "params")}
        return named | {"folder": str(folder), "inputs": inputs}

    async def _heard(self, said: Document) -> None:
        """A worker's word about a job."""
        id, what = said.pop("id"), said.pop("is")
        if what == "loading":
            self._tell(id, "progress", step=0, steps=0, eta=None)
        elif what == "progress":
            frame, pictures = said.pop("frame"), said.pop("pictures")
            self._tell(id, "progress", **said)
            self._tell(id, "frame", step=said["step"], pictures=pictures, webp=frame)
        elif what == "failed":
            await self._fail(id, said["code"], said["message"], said["hint"])
        elif what == "done":
            painted = [Painted(**each) for each in said["pictures"]]
            if await aside(self.store.finish, id, painted, said["notes"], said["kept"]):
                self.painted += len(painted) * said["kept"]
                self._end(id, DONE, **said["notes"])
            else:  # cancelled at the last moment
                for each in painted:
                    await self.forget_file(each.sha256)

    async def _fail(self, id: str, code: str, message: str, hint: str) -> None:
        error = {"code": code, "message": message, "hint": hint}
        if await aside(self.store.fail, id, error):
            self._end(id, FAILED, **error)

    async def _lost(self, process: Process) -> None:
        """A worker died: its jobs are queued again, but for one that may have killed it twice."""
        jobs, self._at_work[process] = self._at_work[process], []
        for job in jobs:
            if job.attempts >= MAX_ATTEMPTS:
                await self._fail(
                    job.id,
                    "worker-died",
                    "the process that painted this job died twice",
                    "ask for less: fewer pictures, fewer steps, a smaller model",
                )
            elif await aside(self.store.again, job.id):
                channel = await self.channel(job)
                channel.tell("queued", position=0, eta=None)
        self._wake.set()

    # Pictures -----------------------------------------------------------------------------------

    async def forget(self, picture: Picture) -> None:
        """Delete a picture, and its file unless another picture is the same."""
        if await aside(self.store.forget, picture.id):
            await far_aside(self.file(picture.sha256).unlink, True)

    async def forget_file(self, sha256: str) -> None:
        """Delete a file that no picture has."""
        if await aside(self.store.unused, sha256):
            await far_aside(self.file(sha256).unlink, True)

    def workers(self) -> list[dict[str, Any]]:
        """Which workers there are, and how many jobs each is at."""
        return [
            {"device": process.device, "pid": process.pid, "jobs": len(jobs)}
            for process, jobs in self._at_work.items()
        ]

    def busy(self) -> int:
        """How many jobs are being painted."""
        return sum(map(len, self._at_work.values()))
