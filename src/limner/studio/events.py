"""What happens to a job, as it happens: for streams that may come late, or come back.

What a job went through is kept; of its pictures as they form only the latest. So a listener that is
slow, or was away, misses frames and nothing else, and nothing piles up for it.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

_ALIVE_SECONDS = 15.0


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Args:
        id: greater than that of any event before; also after the server was started anew.
        name: queued, started, progress, frame, trouble, paused, done, failed or cancelled.
        data: more about it.
    """

    id: int
    name: str
    data: dict[str, Any]


OVER = ("done", "failed", "cancelled")
_LATEST = ("progress", "frame", "queued", "trouble", "paused")


class Channel:
    """The events of one job."""

    def __init__(self) -> None:
        self._events: dict[str, Event] = {}
        self._last = 0
        self._changed = asyncio.Event()
        self.listeners = 0
        self.closed = False

    def tell(self, name: str, **data: Any) -> None:
        """Something happened; an earlier event of its name is of no interest any more, and nothing
        is that comes after the end.
        """
        if self.over:
            return
        self._last = max(self._last + 1, time.time_ns() // 1_000_000)
        self._events.pop(name, None)
        self._events[name] = Event(self._last, name, data)
        if name in OVER:
            for past in _LATEST:
                self._events.pop(past, None)
        self._wake()

    def close(self) -> None:
        """End all streams: the server stops."""
        self.closed = True
        self._wake()

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return any(name in self._events for name in OVER)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def listen(self, after: int = 0) -> AsyncIterator[Event | None]:
        """What happened after an event, and what happens; None now and then, to see whether
        somebody is there. An event yet to come, as of a clock that was put back, is as none.
        """
        after = after if after <= self._last else 0
        self.listeners += 1
        try:
            while True:
                changed = self._changed
                new = [event for event in self._events.values() if event.id > after]
                for event in sorted(new, key=lambda event: event.id):
                    after = event.id
                    yield event
                if self.closed or self.over:
                    return
                if changed.is_set():
                    continue
                try:
                    await asyncio.wait_for(changed.wait(), _ALIVE_SECONDS)
                except TimeoutError:
                    yield None
        finally:
            self.listeners -= 1
