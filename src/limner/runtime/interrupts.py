"""Ctrl-C and SIGTERM during a training step."""

import signal
import threading
from types import FrameType
from typing import Any

from limner.runtime.progress import say


class Interrupts:
    """Ctrl-C and SIGTERM, noted until the step is done; the second one stops immediately."""

    def __init__(self) -> None:
        self.is_interrupted = False
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():  # signals are caught only there
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous_handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.is_interrupted:
            raise KeyboardInterrupt
        self.is_interrupted = True
        say("finishing this step, then saving; interrupt again to stop immediately")
