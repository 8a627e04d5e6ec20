"""Ctrl-C and SIGTERM during a training step."""

import signal
import threading
from types import FrameType
from typing import Any

from limner.runtime.progress import say


class Interrupts:
    """Ctrl-C and SIGTERM, noted until the step is done; the second one stops immediately."""

    def __init__(self) -> None:
        self.seen = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():  # signals are caught only there
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.seen:
            raise KeyboardInterrupt
        self.seen = True
        say("finishing this step, then saving; interrupt again to stop immediately")
