"""`limner studio worker`: on another host, take jobs from the studio's database and paint them.

It has a folder of its own, the database and the files in common with the studio, and nothing else:
no port, and no way to the studio's host. It takes the jobs of the models that it has, whatever
their names there.
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

import limner
from limner.contract.errors import LimnerError
from limner.runtime.folder_lock import locked
from limner.studio.background import Tasks, aside, far_aside, log
from limner.studio.common_files import common_files
from limner.studio.events import Channel
from limner.studio.leases import Owner, Standing
from limner.studio.lifecycle import FILES_OF
from limner.studio.models import Models
from limner.studio.problems import explained
from limner.studio.queue import Queue
from limner.studio.settings import MAX_PICTURES, Settings
from limner.studio.store import Store
from limner.studio.tables import Job
from limner.studio.workers import Workers

_TELL_SECONDS = 0.3
_TIDY_SECONDS = 600.0
_PATIENCE = 30.0  # for what runs when it is to stop


class FarQueue(Queue):
    """The studio's queue as a worker on another host sees it.

    Args:
        store: the studio's, with an owner.

    Attributes:
        told: what happened to each job since the studio was told.
        models: which decide what can be begun.
    """

    models: Models

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.told: dict[str, dict[str, Any]] = {}

    async def begin(self) -> list[Job]:
        """The next batch of jobs that this host has the model of, unless the studio is paused."""
        self.paused = bool((await self._insist(self._store.kept, "queue")).get("paused"))
        if self.closed or self.paused:
            return []
        async with self._beginning:
            return await self._insist(self._store.begin, MAX_PICTURES, self.models.weights)

    async def channel(self, job: Job) -> Channel:
        """Nobody listens here."""
        return Channel()

    def tell(self, id: str, name: str, **data: Any) -> None:
        """Note it for the studio."""
        self.told.setdefault(id, {})[name] = data


class FarWorker:
    """All that a worker on another host is made of.

    Args:
        settings: of the database, the files, the folder, the device and the lease.

    Raises:
        LimnerError: there is no studio that it could work for.
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
        self.queue = FarQueue(self.store)
        self.models = Models(settings.root, self.store, self.queue.wake.set, shared=True)
        self.queue.models = self.models
        self.workers = Workers(settings, self.store, self.models, self.queue, self._tasks)

    async def run(self, stopped: asyncio.Event) -> None:
        """Take jobs until told to stop; what runs then may end, or is queued again."""
        await self.models.recall()
        self.workers.start(self.settings.device)
        self._tasks.start(self._keep_leases())
        await stopped.wait()
        self.queue.closed = True
        until = time.monotonic() + _PATIENCE
        while self.workers.busy and time.monotonic() < until:
            await asyncio.sleep(0.05)
        await self._tasks.stop()
        await aside(self.store.recover)
        await aside(self.store.leave)
        self.store.close()

    async def _keep_leases(self) -> None:
        """Renew what this host has, tell how far it is, and stop what is wanted no longer."""
        tidied, said = 0.0, ""
        while True:
            try:
                told, self.queue.told = self.queue.told, {}
                had = self.workers.at_work
                workers = self.workers
                standing = Standing(len(workers), workers.busy, workers.restarts)
                own = await aside(self.store.renew, had, told, standing)
                for id in had:
                    if id not in own:
                        await self.workers.cancel(id)
                await self.models.look()
                if time.monotonic() - tidied > _TIDY_SECONDS:
                    tidied = time.monotonic()
                    await far_aside(self.store.common.forget_copies)
                said = ""
            except Exception as error:  # the database may be back before the lease has expired
                why = explained(error).message
                if why != said:
                    log.warning("the studio cannot be told how far this is: %s", why)
                said = why
            await asyncio.sleep(min(_TELL_SECONDS, self.settings.lease / 4))


def check_studio(store: Store) -> None:
    """See that a studio of the same version uses the database, and the files.

    Raises:
        LimnerError: it does not.
    """
    id, version = store.kept(FILES_OF).get("id"), store.kept("catalogue").get("version")
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
        found = store.common.mark()
    except OSError as error:
        raise LimnerError(f"the files cannot be read: {error.strerror or error}") from None
    if found != id:
        raise LimnerError(
            "these files are not the studio's; give --files the place that limner studio --files "
            "was given"
        )


def work(settings: Settings, say: Callable[[str], None] = print) -> None:
    """Work for a studio until SIGINT or SIGTERM.

    Args:
        settings: see `FarWorker`.
        say: told the worker's name, once it has found the studio.

    Raises:
        LimnerError: another worker has the folder, or there is no studio that it could work for.
    """
    in_use = f"another worker uses the folder {settings.folder}; give another --data"
    with locked(settings.folder, in_use):
        worker = FarWorker(settings)
        say(worker.name)
        asyncio.run(_until_told(worker))


async def _until_told(worker: FarWorker) -> None:
    stopped, loop = asyncio.Event(), asyncio.get_running_loop()
    if sys.platform != "win32":
        for sign in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sign, stopped.set)
    await worker.run(stopped)
