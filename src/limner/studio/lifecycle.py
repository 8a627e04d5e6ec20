"""The parts of a studio, and its start and end: store, models, queue and workers."""

import asyncio
import time

from limner.contract.errors import LimnerError
from limner.studio import leases
from limner.studio.background import Tasks, in_store_thread, in_thread, log
from limner.studio.common_files import common_files
from limner.studio.data_sets import DataSets
from limner.studio.models import Models
from limner.studio.problems import Problem, log_failure
from limner.studio.queue import Queue
from limner.studio.settings import Settings
from limner.studio.store import Store
from limner.studio.tables import Job, new_id
from limner.studio.trainings import Trainings
from limner.studio.workers import Workers

_SEARCH_SECONDS = 0.3  # seconds at the start, as there may be very many folders below the root
_TIDY_SECONDS = 600.0
_FOLLOW_SECONDS = 0.3
_HOSTS_SECONDS = 3.0  # between two looks at the states of other hosts
FILES_DOCUMENT = "files"
_UPLOAD_SECONDS = 7 * 86_400.0
_SHUTDOWN_SECONDS = 3.0  # seconds for running jobs to end when the server stops
_SAVING_SECONDS = 45.0  # for a training to finish its step and save


class Studio:
    """The state of the server between requests.

    Args:
        settings: settings of the studio.

    Raises:
        LimnerError: the database cannot be opened, or the common files cannot be written.

    Attributes:
        draining: whether new jobs are refused.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        settings.folder.mkdir(parents=True, exist_ok=True)
        self._tasks = Tasks()
        files = common_files(settings.folder, settings.files)
        self.store = Store(settings.url, files, settings.queue)
        self.queue = Queue(self.store, settings.paints)
        self.models = Models(settings.root, self.store, self.queue.wake.set, settings.shared)
        self.workers = Workers(settings, self.store, self.models, self.queue, self._tasks)
        self.data_sets = DataSets(settings)
        self.trainings = Trainings(settings)
        self.draining = False
        self._remote_trouble: Problem | None = None  # only if no worker here paints
        if settings.shared or settings.files is not None:
            self._mark_files()

    @property
    def trouble(self) -> Problem | None:
        """Why nothing is painted, if so."""
        return self.queue.trouble or self.workers.trouble or self._remote_trouble

    @property
    def ready(self) -> bool:
        """Whether jobs can be painted."""
        return self.workers.ready and self.trouble is None and not self.draining

    async def open(self) -> None:
        """Queue interrupted jobs again, and start the workers."""
        await in_thread(self.store.recover)
        await self.queue.recall()
        task = self._tasks.start(self.models.recall())
        await asyncio.wait([task], timeout=_SEARCH_SECONDS)
        self.workers.start(self.settings.device)
        self._tasks.start(self._tidy())
        if self.settings.shared:
            self._tasks.start(self._follow())

    async def drain(self) -> None:
        """Refuse new jobs, give running jobs a moment to end, and give a training time to save. In
        a container, everything that still runs when the studio ends is killed.
        """
        self.draining = self.queue.closed = True
        self.trainings.close()
        start = time.monotonic()
        while self.workers.busy and time.monotonic() < start + _SHUTDOWN_SECONDS:
            await asyncio.sleep(0.05)
        self.queue.close()
        if self.trainings.running_id:
            log.warning("the training finishes its step and is saved; interrupt again to stop now")
        while self.trainings.running_id and time.monotonic() < start + _SAVING_SECONDS:
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        """Stop; running jobs are queued again at the next start."""
        self.draining = True
        self.trainings.close()
        self.data_sets.close()
        await self._tasks.stop()
        await in_thread(self.store.close)

    def refresh_models(self) -> None:
        """Update the list of models in the background."""
        self._tasks.start(self.models.refresh())

    async def cancel(self, job: Job) -> None:
        """Cancel a job that waits or runs."""
        if await self.queue.cancel(job):
            await self.workers.cancel(job.id)

    def _mark_files(self) -> None:
        """Mark the files with the studio's id, so that a worker can check that it uses the same.

        Raises:
            LimnerError: the files cannot be written.
        """
        id = self.store.document(FILES_DOCUMENT).get("id") or new_id()
        try:
            self.store.common.mark(id)
        except OSError as error:
            self.store.close()
            location = self.settings.files or self.settings.folder
            message = f"cannot keep files in {location}: {error.strerror or error}"
            raise LimnerError(
                f"{message}; check that it exists and can be written, or give another --files"
            ) from None
        self.store.keep(FILES_DOCUMENT, {"id": id})

    async def _follow(self) -> None:
        """Read the reports of workers on other hosts, and their states, regularly."""
        last_look = 0.0
        while True:
            try:
                await self.queue.follow()
                if not self.settings.paints and time.monotonic() - last_look > _HOSTS_SECONDS:
                    last_look = time.monotonic()
                    self._remote_trouble = leases.trouble_of(await in_thread(self.store.hosts))
            except Exception as error:  # the next try may succeed
                log_failure("the reports of workers on other hosts could not be read", error)
            await asyncio.sleep(_FOLLOW_SECONDS)

    async def _tidy(self) -> None:
        while True:
            try:
                old = time.time() - _UPLOAD_SECONDS
                await in_store_thread(self.store.forget_old, self.settings.keep, old)
                await in_store_thread(self.store.common.tidy)
            except Exception as error:  # the next try may succeed
                log_failure("old pictures could not be deleted", error)
            await asyncio.sleep(_TIDY_SECONDS)
