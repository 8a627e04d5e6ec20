"""Turn a function that reports values with a callback into an iterator over these values.

Other libraries call back where limner yields. The function runs in a separate thread, but never at
the same time as the iterating thread: it continues when the next value is requested, like a
generator.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch


class _IterationEnded(BaseException):
    """Raised in the function's thread when the iteration has ended."""


def iterate_callback(
    run: Callable[[Callable[[Any], None]], Any], device: torch.device
) -> Iterator[Any]:
    """Yield the values that a function reports.

    Args:
        run: function that gets a callback for its values; the callback returns when the next value
            is requested. Its errors are raised in the iterating thread.
        device: device of the autocast state, which is taken from the first caller; gradients are
            off.
    """
    events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    request = threading.Semaphore(0)
    stopped = threading.Event()
    kind = device.type
    precision = torch.autocast(
        kind, torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind)
    )

    def wait() -> None:
        request.acquire()
        if stopped.is_set():
            raise _IterationEnded

    def report(value: Any) -> None:
        events.put(("value", value))
        wait()

    def body() -> None:
        try:
            wait()
            with torch.no_grad(), precision:
                run(report)
        except _IterationEnded:
            pass
        except BaseException as error:
            events.put(("error", error))
        events.put(("end", None))

    thread = threading.Thread(target=body, name="iterate_callback", daemon=True)
    thread.start()
    try:
        while True:
            request.release()
            event, value = events.get()
            if event == "error":
                raise value
            if event == "end":
                return
            yield value
    finally:
        stopped.set()
        request.release()
        thread.join()
