"""Work in the background of requests: tasks of the event loop, and calls in threads."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")
log = logging.getLogger("limner.studio")

# Few threads, because all compete with the event loop for the interpreter lock.
_THREADS = ThreadPoolExecutor(3, "limner-thread")
_SLOW_THREADS = ThreadPoolExecutor(2, "limner-slow")
_STORE_THREADS = ThreadPoolExecutor(4, "limner-store")


async def in_thread(function: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
    """Call a function that waits for the database, in a thread."""
    call = partial(function, *arguments, **keywords)
    return await asyncio.get_running_loop().run_in_executor(_THREADS, call)


async def in_slow_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function that may be slow, with files or pictures, in a thread that the database's
    calls do not wait for.
    """
    return await asyncio.get_running_loop().run_in_executor(_SLOW_THREADS, function, *arguments)


async def in_store_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function that waits for the store of the files, which may be on another host, in a
    thread that no other calls wait for.
    """
    return await asyncio.get_running_loop().run_in_executor(_STORE_THREADS, function, *arguments)


class Tasks:
    """Tasks of the event loop that no caller awaits; an error in a task is logged."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task."""

        async def run() -> None:
            try:
                await work
            except Exception:  # there is no caller to raise it to
                log.exception("a task of the studio failed")

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def stop(self) -> None:
        """Cancel all tasks."""
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
