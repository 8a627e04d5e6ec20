"""The events of a job, for streams that may start late or reconnect.

A channel keeps the events of a job, but only the latest frame. So a listener that is slow, or was
disconnected, misses only frames, and no backlog builds up for it.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

_HEARTBEAT_SECONDS = 15.0


@dataclass(frozen=True)
class Event:
    """An event of a job.

    Args:
        id: number greater than that of any earlier event, also after a restart of the server.
        name: queued, started, progress, frame, trouble, paused, done, failed or cancelled.
        data: details of the event.
    """

    id: int
    name: str
    data: dict[str, Any]


FINAL_EVENTS = ("done", "failed", "cancelled")
_REPLACED_KINDS = ("progress", "frame", "queued", "trouble", "paused")


class Channel:
    """The events of one job."""

    def __init__(self) -> None:
        self._events: dict[str, Event] = {}
        self._last_id = 0
        self._change_event = asyncio.Event()
        self.listener_count = 0
        self.closed = False

    def tell(self, name: str, **data: Any) -> None:
        """Add an event, in place of an earlier one of its name; after the end, it is ignored."""
        if self.is_over:
            return
        self._last_id = max(self._last_id + 1, time.time_ns() // 1_000_000)
        self._events.pop(name, None)
        self._events[name] = Event(self._last_id, name, data)
        if name in FINAL_EVENTS:
            for latest in _REPLACED_KINDS:
                self._events.pop(latest, None)
        self._wake()

    def close(self) -> None:
        """End all streams, because the server stops."""
        self.closed = True
        self._wake()

    @property
    def is_over(self) -> bool:
        """Whether the job is over, so that no more events come."""
        return any(name in self._events for name in FINAL_EVENTS)

    @property
    def is_running(self) -> bool:
        """Whether the job has started, and has not been queued again since."""
        started, queued = (self._events.get(name) for name in ("started", "queued"))
        return started is not None and (queued is None or queued.id < started.id)

    def _wake(self) -> None:
        self._change_event.set()
        self._change_event = asyncio.Event()

    async def listen(self, after: int = 0) -> AsyncIterator[Event | None]:
        """Yield the events after a given one, past and future. Yields None now and then, so that
        the caller can notice a closed connection. An id from the future, which a clock that was put
        back can cause, counts as 0.
        """
        after = after if after <= self._last_id else 0
        self.listener_count += 1
        try:
            while True:
                changed = self._change_event
                new = [event for event in self._events.values() if event.id > after]
                for event in sorted(new, key=lambda event: event.id):
                    after = event.id
                    yield event
                if self.closed or self.is_over:
                    return
                if changed.is_set():
                    continue
                try:
                    await asyncio.wait_for(changed.wait(), _HEARTBEAT_SECONDS)
                except TimeoutError:
                    yield None
        finally:
            self.listener_count -= 1
