"""A function that tells what it does as it goes, as an iterator over what it tells.

Other libraries call back where limner yields. The function runs in a thread of its own, but never
beside the iterating thread: it continues when the next value is wanted, as a generator does.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch


class _Unwanted(BaseException):
    """Nobody iterates any more."""


def relayed(run: Callable[[Callable[[Any], None]], Any], device: torch.device) -> Iterator[Any]:
    """What a function tells.

    Args:
        run: is given a function to tell with, which returns when the next value is wanted; what it
            raises is raised in the iterating thread.
        device: device of the autocast state, which is that of the first caller; gradients are off.
    """
    told: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    wanted = threading.Semaphore(0)
    ended = threading.Event()
    kind = device.type
    precision = torch.autocast(
        kind, torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind)
    )

    def wait() -> None:
        wanted.acquire()
        if ended.is_set():
            raise _Unwanted

    def tell(value: Any) -> None:
        told.put(("value", value))
        wait()

    def body() -> None:
        try:
            wait()
            with torch.no_grad(), precision:
                run(tell)
        except _Unwanted:
            pass
        except BaseException as error:
            told.put(("error", error))
        told.put(("end", None))

    thread = threading.Thread(target=body, name="relayed", daemon=True)
    thread.start()
    try:
        while True:
            wanted.release()
            what, value = told.get()
            if what == "error":
                raise value
            if what == "end":
                return
            yield value
    finally:
        ended.set()
        wanted.release()
        thread.join()
