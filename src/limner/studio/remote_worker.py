"""`limner studio worker`: on another host, take jobs from the studio's database and paint them.

It has a folder of its own, and shares only the database and the files with the studio: it opens no
port, and needs no connection to the studio's host. It takes the jobs of the models that it has,
whatever their names are there.
"""

import asyncio
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

import limner
from limner.contract.errors import LimnerError
from limner.runtime.folder_lock import lock_folder
from limner.studio.background import Tasks, in_store_thread, in_thread, log
from limner.studio.common_files import common_files
from limner.studio.events import Channel
from limner.studio.leases import HostState, Owner
from limner.studio.lifecycle import FILES_DOCUMENT
from limner.studio.models import Models
from limner.studio.problems import as_refusal
from limner.studio.queue import Queue
from limner.studio.settings import MAX_PICTURES, Settings
from limner.studio.store import Store
from limner.studio.tables import Job
from limner.studio.workers import Workers

_REPORT_SECONDS = 0.3
_TIDY_SECONDS = 600.0
_SHUTDOWN_SECONDS = 30.0  # seconds for running jobs to end when the worker stops


class RemoteQueue(Queue):
    """The studio's queue as a worker on another host sees it.

    Args:
        store: the studio's store, with an owner.

    Attributes:
        reports: events of each job that are not yet reported to the studio.
        models: models of this host, which decide which jobs it can take.
    """

    models: Models

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.reports: dict[str, dict[str, Any]] = {}

    async def begin(self) -> list[Job]:
        """Start the next batch of jobs whose model this host has, unless the studio is paused."""
        self.paused = bool((await self._retry(self._store.document, "queue")).get("paused"))
        if self.closed or self.paused:
            return []
        async with self._start_lock:
            return await self._retry(self._store.begin, MAX_PICTURES, self.models.weights)

    async def channel(self, job: Job) -> Channel:
        """Return a channel without listeners, because this host has none."""
        return Channel()

    def tell(self, id: str, name: str, **data: Any) -> None:
        """Note an event of a job for the next report to the studio."""
        self.reports.setdefault(id, {})[name] = data


class RemoteWorker:
    """A worker on another host.

    Args:
        settings: settings of the database, the files, the folder, the device and the lease.

    Raises:
        LimnerError: there is no studio to work for.
    """

    def __init__(self, settings: Settings) -> None:
        if not settings.shared:
            raise LimnerError(
                "workers on other hosts need a database that all can reach; give --db "
                "postgresql://..., to the studio as well"
            )
        self.settings = settings
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._tasks = Tasks()
        self.store = Store(
            settings.url,
            common_files(settings.folder, settings.files),
            owner=Owner(self.name, settings.lease),
        )
        check_studio(self.store)
        self.queue = RemoteQueue(self.store)
        self.models = Models(settings.root, self.store, self.queue.wake.set, shared=True)
        self.queue.models = self.models
        self.workers = Workers(settings, self.store, self.models, self.queue, self._tasks)

    async def run(self, stopped: asyncio.Event) -> None:
        """Take jobs until stopped; running jobs then get some time to end, or are queued again."""
        await self.models.recall()
        self.workers.start(self.settings.device)
        self._tasks.start(self._keep_leases())
        await stopped.wait()
        self.queue.closed = True
        deadline = time.monotonic() + _SHUTDOWN_SECONDS
        while self.workers.busy and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        await self._tasks.stop()
        await leave_studio(self.store)
        self.store.close()

    async def _keep_leases(self) -> None:
        """Renew the leases of this host's jobs, report progress, and stop cancelled jobs."""
        last_tidy, last_message = 0.0, ""
        while True:
            try:
                reports, self.queue.reports = self.queue.reports, {}
                ids = self.workers.at_work
                workers = self.workers
                trouble = self.queue.trouble or workers.trouble
                document = trouble.model_dump() if trouble else None
                state = HostState(len(workers), workers.busy, workers.restarts, document)
                renewed = await in_thread(self.store.renew, ids, reports, state)
                for id in ids:
                    if id not in renewed:
                        await self.workers.cancel(id)
                await self.models.refresh()
                if time.monotonic() - last_tidy > _TIDY_SECONDS:
                    last_tidy = time.monotonic()
                    await in_store_thread(self.store.common.tidy)
                last_message = ""
            except Exception as error:  # the database may be back before the lease has expired
                message = as_refusal(error).message
                if message != last_message:
                    log.warning("progress cannot be reported to the studio: %s", message)
                last_message = message
            await asyncio.sleep(min(_REPORT_SECONDS, self.settings.lease / 4))


async def leave_studio(store: Store) -> None:
    """Return the jobs of a worker that stops. If the database is away, their leases expire."""
    try:
        await in_thread(store.recover)
        await in_thread(store.leave)
    except SQLAlchemyError as error:
        message = as_refusal(error).message
        log.warning("%s; jobs of this worker are queued again when their leases expire", message)


def check_studio(store: Store) -> None:
    """Check that a studio of the same version uses the database and the files.

    Raises:
        LimnerError: no studio uses them, or one of another version.
    """
    id, version = (
        store.document(FILES_DOCUMENT).get("id"),
        store.document("catalogue").get("version"),
    )
    if id is None:
        raise LimnerError(
            "no studio uses this database; start it first: limner studio --db URL --files PLACE"
        )
    if version not in (None, limner.__version__):
        raise LimnerError(
            f"the studio runs limner {version} and this host {limner.__version__}; install the "
            "same on both"
        )
    try:
        mark = store.common.mark()
    except OSError as error:
        raise LimnerError(f"the files cannot be read: {error.strerror or error}") from None
    if mark != id:
        raise LimnerError(
            "these files are not the studio's; give --files the same place as for limner studio "
            "--files"
        )


def work(settings: Settings, say: Callable[[str], None] = print) -> None:
    """Work for a studio until SIGINT or SIGTERM.

    Args:
        settings: settings of the worker, see `RemoteWorker`.
        say: function that is called with the worker's name, once it has found the studio.

    Raises:
        LimnerError: another worker has the folder, or there is no studio to work for.
    """
    message = f"another worker uses the folder {settings.folder}; give another --data"
    with lock_folder(settings.folder, message):
        worker = RemoteWorker(settings)
        say(worker.name)
        asyncio.run(_run_until_signal(worker))


async def _run_until_signal(worker: RemoteWorker) -> None:
    stopped, loop = asyncio.Event(), asyncio.get_running_loop()
    if sys.platform != "win32":
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, stopped.set)
    await worker.run(stopped)
