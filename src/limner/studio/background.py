"""What goes on beside the requests: tasks of the event loop, and calls in threads."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")
log = logging.getLogger("limner.studio")

# Few threads: all want the interpreter, which the event loop must have again after every packet.
_CLERKS = ThreadPoolExecutor(3, "limner-clerk")
_PORTERS = ThreadPoolExecutor(2, "limner-porter")


async def aside(function: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """Call what waits for the database in a thread."""
    call = partial(function, *arguments, **named)
    return await asyncio.get_running_loop().run_in_executor(_CLERKS, call)


async def far_aside(function: Callable[..., T], *arguments: Any) -> T:
    """Call what may take long, with files or pictures, so that the database need not wait."""
    return await asyncio.get_running_loop().run_in_executor(_PORTERS, function, *arguments)


class Tasks:
    """Tasks of the event loop that nobody waits for; an error in one is logged."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin one."""

        async def run() -> None:
            try:
                await work
            except Exception:  # it has no caller that could be told
                log.exception("a task of the studio failed")

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def stop(self) -> None:
        """End all."""
        for each in [*self._tasks]:
            each.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
